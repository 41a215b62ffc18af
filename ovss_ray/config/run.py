"""Settings of a run."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from ovss_ray.config import word_list
from ovss_ray.config.limits import Limits
from ovss_ray.config.word_list import WordList
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.structures.settings import Settings

Auto = Literal["auto"]


class Pool(Settings):
    """Stages that run one after another in the same workers, and the resources of these workers.

    "auto" means a number that suits the cluster (see engine/cluster/placement.py). A run may be resumed with other
    resources, but not with other stages.
    """

    stages: tuple[StageConfig, ...] = Field(min_length=1)
    workers: int | tuple[int, int] | Auto = "auto"
    """number of workers, or [minimum, maximum]; Ray starts more than the minimum under load"""
    cpus: float | Auto = "auto"
    """CPUs per worker; a worker's number of threads is this value, rounded up"""
    gpus: float | Auto = "auto"
    """GPUs per worker, such as 0.25 for four workers per GPU

    "auto" divides a GPU equally among all pools that have "auto" and can use a GPU. For example, each worker of two
    such pools gets 0.5 GPUs.

    If a pool would get no worker with these parts, only the rest of the GPU is divided. The rest is 1 GPU minus the
    `gpus` of all pools with a number below 1. For example, the cluster has one GPU, two pools have "auto", and a third
    pool has 0.4. Each worker of the two pools gets (1 - 0.4) / 2 = 0.3 GPUs.

    If a pool with "auto" cannot use a GPU, its workers get 0 GPUs.
    """
    resources: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """custom Ray resources of each worker, such as {fast_disk: 1}; workers run only on nodes with these resources"""
    accelerator: str | None = None
    """Ray's name of the GPU type, such as A100 or H100; None: any type"""
    labels: dict[str, str] = Field(default_factory=dict)
    """labels that a worker's node must have, such as {ray.io/market-type: spot}

    A value may also be a label selector of Ray: !a, in(a,b) or !in(a,b).
    """
    batch: Annotated[int, Field(ge=1)] | Auto = "auto"
    """images per batch; if a worker dies, its batch is computed again"""

    @field_validator("cpus", "gpus")
    @classmethod
    def _divisible(cls, value: float | Auto, info: ValidationInfo) -> float | Auto:
        if value != "auto" and (not 0 <= value < 1e6 or (info.field_name == "gpus" and value > 1 and value % 1)):
            raise ValueError(
                f"invalid number of {info.field_name}: {value}. Use auto, or a number from 0 to 999,999. A "
                "number of GPUs above 1 must be an integer"
            )
        return value

    @model_validator(mode="after")
    def _some_workers(self) -> "Pool":
        least, greatest = self.workers if isinstance(self.workers, tuple) else (1, self.workers)
        if least < 1 or (isinstance(greatest, int) and greatest < least):
            raise ValueError(
                f"invalid number of workers: {self.workers}. Use auto, an integer from 1, or [min, max] with "
                "1 <= min <= max"
            )
        return self


class WaitFor(Settings):
    """Size that a cluster must have before a run starts. A text such as "gpus=8,nodes=2" is also valid."""

    nodes: int = Field(default=0, ge=0)
    """number of nodes with CPUs or GPUs"""
    cpus: int = Field(default=0, ge=0)
    """CPUs of all nodes together"""
    gpus: int = Field(default=0, ge=0)
    """GPUs of all nodes together"""

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.replace(" ", "").split(",")]
        keys = [key for key, _, _ in pairs]
        if len(set(keys)) < len(keys) or not all(key in cls.model_fields and n.isdecimal() for key, _, n in pairs):
            raise ValueError(
                f"{value!r}: expected one or more of nodes=N, cpus=N and gpus=N, each at most once, such as "
                "gpus=8,nodes=2"
            )
        return {key: int(number) for key, _, number in pairs}


class RunConfig(Settings):
    """Settings of a run: benchmarks, images, stages and limits."""

    benchmarks: tuple[str, ...] = ()
    """names of benchmarks, such as camvid, ade20k:847 or folder:my.yaml"""
    data_root: str | None = None
    """folder of one data set or of all data sets; default: $OVSS_DATA"""
    split: str | None = None
    """name of the split to evaluate; default: the benchmark's default split"""
    ids: str | None = None
    """path of a text file with one image id per line; only these images are evaluated"""
    limit: int | None = Field(default=None, ge=1)
    """number of images to evaluate per benchmark, from the first id in sorted order; None: all images"""
    vocabulary: dict[str, str | WordList] = Field(default_factory=dict)
    """benchmark → the user's vocabulary: classes to segment, their labels and prompt templates (see WordList)

    The key "*" stands for all benchmarks without a separate key. A vocabulary is a file path, a list of class names,
    or a mapping with the keys of WordList.
    """
    pools: tuple[Pool, ...] = Field(min_length=1)
    metrics: tuple[str, ...] = ()
    """names of additional metrics: a built-in metric such as boundary_iou, or a module such as my_package.my_metric"""
    keep_predictions: Literal["auto", "all", "none"] = "auto"
    """predicted label maps to write to the run folder

    "auto" writes all label maps if the run has at most 10,000 images. For more images, "auto" writes a sample of
    about 5,000 to 10,000 label maps. The ids of the images determine which label maps are in the sample.
    """
    relations: str | None = None
    """path of a file with relations between labels (see runs.relations); only the metric SG-IoU uses it"""
    exact: bool = False
    """True: records are bit-identical in every run; models process images one by one in one thread, which is slower"""
    check: bool = True
    """True: check a few label files before the run (see dataprep.check.ahead); certain faults stop the run"""
    max_errors: int = Field(default=100, ge=0)
    """largest number of failed images; a run with more failures stops, since they probably have a common cause"""
    max_deaths: int = Field(default=10, ge=0)
    """largest number of worker deaths in a row, with no image finished in between; after more deaths, the run stops"""
    deadline: float = Field(default=600.0, gt=0)
    """seconds: time limit of a batch in one pool; a slower worker is stopped, its images are retried one by one"""
    wait_for: WaitFor = WaitFor()
    """cluster size to wait for, such as gpus=8,nodes=2; missing nodes are requested from an autoscaler"""
    patience: float = Field(default=900.0, ge=0)
    """seconds: longest wait until the cluster has the size in `wait_for`

    A second wait, for nodes that an autoscaler starts for the pools, has the same limit.
    """
    limits: Limits = Limits()
    """limits of the online service that `ovss serve` starts; batch runs ignore these limits"""

    @field_validator("vocabulary", mode="before")
    @classmethod
    def _by_benchmark(cls, value: Any) -> Any:
        return word_list.listed(value)

    def stages(self) -> list[StageConfig]:
        """Return the stages of all pools, in order."""
        return [stage for pool in self.pools for stage in pool.stages]
