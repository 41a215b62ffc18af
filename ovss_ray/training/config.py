"""The config of a training: typed and frozen values, read from YAML (with `extends`) and changed by `--set`.

A recipe is a package with two files. `config.py` has the class Config, a subclass of Training, and does not import
torch. `task.py` has the class Task (training.loop.Task).
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from ovss_ray import registry
from ovss_ray.config.loading import read
from ovss_ray.errors import OvssError, UnknownName, nearest
from ovss_ray.io import strict_yaml
from ovss_ray.structures.settings import Settings

RECIPES = "ovss_ray.training.recipes"


class Training(Settings):
    """Settings that all trainings share."""

    task: str
    """name of the recipe: a folder of ovss_ray/training/recipes, or a package of the user"""
    variant: str
    """name of the network's variant, such as san_tiny; it sets the sizes of the layers"""
    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    """drawn scenes or photographs per step"""
    rate: float = Field(gt=0)
    """learning rate of AdamW, after the warm-up"""
    beta2: float = Field(default=0.98, gt=0, lt=1)
    """decay of AdamW's running mean of squared gradients"""
    weight_decay: float = Field(default=0.05, ge=0)
    """weight decay of the parameters. Some kinds of parameters have no weight decay (see `undecayed`)"""
    undecayed: Literal["vectors", "norms", "norm_layers", "nothing"] = "vectors"
    """kinds of parameters without weight decay

    vectors: parameters of at most one dimension, and embeddings such as `pos_embed`, but not weights of nn.Embedding.
    norms: parameters of normalisation layers, tables of position biases, and weights of nn.Embedding, as in detectron2.
    norm_layers: parameters of normalisation layers, as in mmengine. nothing: all parameters have weight decay.
    """
    clip_norm: float | None = Field(default=1.0, gt=0)
    """largest norm of the gradient of all parameters; larger gradients are scaled down; None: no limit"""
    warmup: int = Field(default=100, ge=0)
    """number of steps at the start in which the learning rate rises linearly to `rate`"""
    first: float | None = Field(default=None, ge=0, le=1)
    """learning rate of the first step as a fraction of `rate`, for `decay: cosine`; None: 1 / `warmup`"""
    decay: Literal["line", "poly", "cosine", "falls"] = "line"
    """schedule of the learning rate after the warm-up

    line: constant until the linear `cooldown`. poly: (1 − step / steps)^0.9, as in SAN and SCAN. cosine: half a period
    of the cosine down to `final`, as in open_clip. falls: divided by 10 at each fraction in `falls`.
    """
    final: float = Field(default=0.0, ge=0, le=1)
    """learning rate at the end as a fraction of `rate`, for `decay: cosine`"""
    falls: tuple[float, ...] = ()
    """fractions of `steps` at which the learning rate is divided by 10, for `decay: falls`"""
    cooldown: float = Field(default=0.25, ge=0, le=1)
    """fraction of the steps, at the end, in which the learning rate falls linearly to zero; only for `decay: line`"""
    start: str | None = None
    """checkpoint.pt of the same recipe and variant, with initial weights; None: the recipe initialises the network"""
    seed: int = 0
    device: str = "auto"
    precision: Literal["fp32", "bf16"] = "bf16"
    workers: int = Field(default=0, ge=0)
    """processes that prepare batches; 0: prepare batches in the training process"""
    save_every: int = Field(default=200, ge=1)
    """steps between checkpoints"""
    measure_every: int = Field(default=1000, ge=1)
    """steps between measurements on validation scenes"""
    measured: int = Field(default=32, ge=0)
    """number of validation scenes of each benchmark in a measurement; 0: no measurements"""


class MaskTraining(Training):
    """Settings of trainings that match predicted masks with ground-truth masks (SAN, SCAN)."""

    data: str = "scenes"
    """training images: scenes (drawn in memory), or a labelled benchmark such as folder:coco_stuff.yaml"""
    data_root: str | None = None
    split: str | None = None
    """split of the benchmark; default: train"""
    short_sides: tuple[int, ...] = tuple(range(320, 961, 64))
    """possible shorter sides of a resized photograph in pixels; one is drawn at random per image"""
    things: tuple[int, int] = (3, 7)
    """range of the number of things in a drawn scene, end exclusive"""
    crop: int | None = None
    """side of square random crops, in pixels

    If `crop` is None, photographs are cropped to squares whose side is the shorter side of the resized photograph. If
    `crop` is None, images of the synthetic data set `scenes` are not cropped.
    """
    whole: float = Field(default=0.25, ge=0, le=1)
    """length of the final part of the training, which uses whole drawn scenes, as a fraction of the steps

    Each step of the final part has `batch` / 4 whole scenes. Each earlier step has `batch` crops. `whole` has no effect
    on photographs, and no effect if `crop` is None.
    """
    points: int = Field(default=12544, ge=1)
    """points per mask at which the mask losses are computed"""
    no_object: float = 0.1
    """weight of the class "no object" in the class loss"""


def one_of(names: Iterable[str]) -> Any:
    """Return the pydantic field of a string setting whose valid values are `names`."""
    return Field(pattern="^(" + "|".join(names) + ")$")


def part(task: str, module: str, attribute: str) -> Any:
    """Return a class of a recipe: part("san", "config", "Config") is recipes.san.config.Config.

    `task` may also be a user's package. Raises UnknownName for an unknown recipe, and OvssError for a missing class.
    """
    if "." not in task and task not in registry.known(RECIPES):
        raise UnknownName("training", task, registry.known(RECIPES))
    package = task if "." in task else f"{RECIPES}.{task}"
    return registry.find(RECIPES, f"{package}.{module}", attribute)


def load(file: str | Path, overrides: Sequence[str] = ()) -> Training:
    """Read the config in a file, and apply the overrides KEY=VALUE. Raises OvssError that lists every error."""
    raw = read(Path(file))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise OvssError(f"invalid --set {override}: expected KEY=VALUE, such as steps=1000")
        raw[key] = strict_yaml.load(value, f"--set {override}")
    if not isinstance(raw.get("task"), str):
        recipes = ", ".join(registry.known(RECIPES))
        raise OvssError(
            f"{file}: task: expected the name of a training, got {raw.get('task')!r}. Known trainings: {recipes}"
        )
    schema: type[Training] = part(raw["task"], "config", "Config")
    try:
        return schema.model_validate(raw)
    except ValidationError as failure:
        raise OvssError(f"{file}: {'; '.join(_explain(error, schema) for error in failure.errors())}") from failure


def _explain(error: Any, schema: type[Training]) -> str:
    if not error["loc"]:  # from a validator of the whole config, whose message names the settings
        return str(error["msg"]).removeprefix("Value error, ")
    where = str(error["loc"][-1])
    if error["type"] == "extra_forbidden":
        return f"unknown key {where!r}.{nearest(where, schema.model_fields)}"
    return f"{where}: {error['msg']}, got {error['input']!r}"


def dump(config: Training) -> str:
    """Return a config as YAML that `load` reads back to the same value."""
    return yaml.safe_dump(json.loads(config.model_dump_json()), sort_keys=False)
