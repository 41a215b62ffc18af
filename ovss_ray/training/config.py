"""The config of a training: typed, frozen, from YAML with `extends` and `--set`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from ovss_ray import strict_yaml
from ovss_ray.config import read
from ovss_ray.errors import OvssError, nearest
from ovss_ray.models import sam_variants
from ovss_ray.models.alpha_clip_variants import Look
from ovss_ray.models.san_variants import VARIANTS
from ovss_ray.stage import Config

Variant = Annotated[str, Field(pattern="^(" + "|".join(VARIANTS) + ")$")]


class Training(Config):
    """What all trainings share."""

    variant: Variant = "san_tiny"
    """whose sizes the network has"""
    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    """scenes per step"""
    rate: float = Field(gt=0)
    """learning rate of AdamW, after the warm-up"""
    beta2: float = Field(default=0.98, gt=0, lt=1)
    """how long AdamW remembers squared gradients"""
    weight_decay: float = Field(default=0.05, ge=0)
    """of matrices; vectors and embeddings of positions and queries have none"""
    clip_norm: float = Field(default=1.0, gt=0)
    """gradients of a greater norm are scaled down to this"""
    warmup: int = Field(default=100, ge=0)
    """steps in which the rate rises from zero"""
    cooldown: float = Field(default=0.25, ge=0, le=1)
    """part of the steps, at the end, in which the rate falls to zero along a line; before, it stays"""
    seed: int = 0
    device: str = "auto"
    precision: Literal["fp32", "bf16"] = "bf16"
    workers: int = Field(default=0, ge=0)
    """processes that draw scenes; 0: the training's own"""
    save_every: int = Field(default=200, ge=1)
    """steps between checkpoints"""
    measure_every: int = Field(default=1000, ge=1)
    """steps between measurements on validation scenes"""
    measured: int = Field(default=32, ge=0)
    """validation scenes of each kind in a measurement"""


class ClipTraining(Training):
    """CLIP on whole scenes: regions are SLS tokens, captions their names (training/clip.py)."""

    task: Literal["clip"]
    negatives: int = Field(default=64, ge=0)
    """names beside those of the batch that every region is compared with"""
    unnamed: float = Field(default=0.2, ge=0, le=1)
    """part of the things that have a colour without a name; as many have such a pattern"""
    things: tuple[int, int] = (4, 8)
    """how many things a scene has, the upper end left out"""
    crops: int = Field(default=8, ge=0)
    """things that are also cut out and recognised by the class token alone, per step"""
    attributes: tuple[float, float, float] = (0.5, 0.5, 1.0)
    """weights of the losses that ask for pattern, colour and shape alone"""
    heads: float = 1.0
    """weight of the same losses of the heads that read early maps"""
    attribute_steps: int = Field(default=0, ge=0)
    """steps at the beginning in which the stem alone learns the attributes, from the first head"""
    start: str | None = None
    """a checkpoint to start from"""


class SanTraining(Training):
    """SAN's side network beside a frozen CLIP (training/san.py)."""

    task: Literal["san"]
    clip: str
    """the checkpoint of the CLIP: made by a training of it, or an official SAN's"""
    data: str = "scenes"
    """scenes (drawn), or a labelled benchmark such as folder:coco_stuff.yaml"""
    data_root: str | None = None
    split: str | None = None
    """of the benchmark; train if it is not given"""
    short_sides: tuple[int, ...] = tuple(range(320, 961, 64))
    """a photograph is resized so that its shorter side is one of these"""
    things: tuple[int, int] = (3, 7)
    """how many things a drawn scene has, the upper end left out"""
    crop: int | None = None
    """side in pixels of the squares that are cut out of the images; None: drawn scenes stay whole"""
    whole: float = Field(default=0.25, ge=0, le=1)
    """part of the steps, at the end, that sees whole drawn scenes, a quarter as many at a time"""
    points: int = Field(default=12544, ge=1)
    """where masks are compared, per mask"""
    no_object: float = 0.1
    """weight of "no object" in the class loss"""
    positions: bool = True
    """whether CLIP's position embedding is trained too, as the official recipe does"""
    decay: Literal["line", "poly"] = "line"
    """poly: the rate falls as (1 − step / steps)^0.9 from the start, as in the official recipe"""
    start: str | None = None
    """a checkpoint of the whole network to start from"""


class SamTraining(Training):
    """SAM's whole network on drawn scenes (training/sam.py)."""

    task: Literal["sam"]
    variant: Annotated[str, Field(pattern="^(" + "|".join(sam_variants.VARIANTS) + ")$")] = "sam_tiny"
    things: tuple[int, int] = (4, 9)
    """how many things a scene has, the upper end left out"""
    unnamed: float = Field(default=0.3, ge=0, le=1)
    """part of the things that have a colour without a name; as many have such a pattern"""
    prompts: int = Field(default=8, ge=1)
    """regions of each scene that are asked for"""
    boxes: float = Field(default=0.5, ge=0, le=1)
    """part of the prompts that begin with a box; the others begin with a click"""
    answers: int = Field(default=3, ge=1)
    """at most: each but the first is to a prompt with a further click where the one before was wrong"""
    start: str | None = None
    """a checkpoint to start from, such as an official one"""


class AlphaClipTraining(Training):
    """AlphaCLIP's fourth channel, and the last blocks of the CLIP that it is added to (training/alpha_clip.py)."""

    task: Literal["alpha_clip"]
    variant: Literal["alpha_clip_tiny"] = "alpha_clip_tiny"
    base: str | None = None
    """the checkpoint of the CLIP, which may be a SAN's; None: the one that comes with the project"""
    look: Look = Look()
    """how regions are shown, in the training and in its measurements"""
    blocks: int = Field(default=4, ge=1)
    """the last so many of the image tower are trained"""
    things: tuple[int, int] = (4, 8)
    """how many things a scene has, the upper end left out"""
    unnamed: float = Field(default=0.2, ge=0, le=1)
    """part of the things that have a colour without a name; as many have such a pattern"""
    imperfect: float = Field(default=0.5, ge=0, le=1)
    """part of the regions whose masks do not fit quite, as those of a proposer"""
    ones: float = Field(default=0.1, ge=0, le=1)
    """part of the regions that are shown without their mask: the fourth channel is one everywhere"""
    negatives: int = Field(default=64, ge=0)
    """names beside those of the batch that every region is compared with"""
    attributes: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """weights of the losses that ask for pattern, colour and shape alone"""
    start: str | None = None
    """a checkpoint.pt of this training to start from"""


TASKS: dict[str, type[Training]] = {
    "clip": ClipTraining,
    "san": SanTraining,
    "sam": SamTraining,
    "alpha_clip": AlphaClipTraining,
}
AnyTraining = Annotated[ClipTraining | SanTraining | SamTraining | AlphaClipTraining, Field(discriminator="task")]
_ADAPTER: TypeAdapter[AnyTraining] = TypeAdapter(AnyTraining)


def load(file: str | Path, overrides: Sequence[str] = ()) -> AnyTraining:
    """Read a config and apply overrides KEY=VALUE. Raises OvssError that names every fault found."""
    raw = read(Path(file))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise OvssError(f"--set {override}: write it as KEY=VALUE, such as steps=1000")
        raw[key] = strict_yaml.load(value, f"--set {override}")
    try:
        return _ADAPTER.validate_python(raw)
    except ValidationError as failure:
        raise OvssError(f"{file}: {'; '.join(_explain(error, raw) for error in failure.errors())}") from failure


def _explain(error: Any, raw: dict[str, Any]) -> str:
    where = str(error["loc"][-1]) if error["loc"] else "task"
    if error["type"] == "extra_forbidden":
        known = TASKS[raw["task"]].model_fields
        return f"{where}: unknown.{nearest(where, known)}"
    return f"{where}: {error['msg']}, and found {error['input']!r}"


def dump(config: Training) -> str:
    """Write a config as YAML that `load` reads back to the same value."""
    return yaml.safe_dump(json.loads(config.model_dump_json()), sort_keys=False)
