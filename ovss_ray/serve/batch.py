"""What a worker of the service does, without Ray: requests become a batch of the pipeline, and its rows answers."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ovss_ray import pipeline, regions
from ovss_ray.actors.sam import Network
from ovss_ray.columns import COLUMNS, column
from ovss_ray.config import RunConfig
from ovss_ray.errors import OvssError
from ovss_ray.serve.row import FORGOTTEN, GIVEN, POINTED, SPECIMEN, Kind, Row, pointed
from ovss_ray.stage import Stage, StageConfig
from ovss_ray.vocabulary import Vocabulary

ALWAYS = {"image_id", "vocabulary", "error"}
"""Columns that every pool needs."""
REGIONS = {"boxes", "bits", "predicted_iou"}
"""Columns of regions without names."""
PROMPT = "sam_prompt"
"""The stage that stands in the place of `sam` when somebody points at something."""


@dataclass(frozen=True)
class Part:
    """What one pool does for one kind of answer."""

    stages: tuple[str, ...]
    """by their names, in order; none: the pool is passed by"""
    keep: frozenset[str]
    """the columns that it hands on"""


Parts = Mapping[Kind, Part]
"""What one pool does, for each kind of answer that its model has"""


def plan(config: RunConfig) -> list[Parts]:
    """What each pool of a config does. Nothing is measured or saved, as there is no truth.

    Every config can segment. One that proposes regions with SAM and scores them can also tell these, and answer
    prompts. Raises OvssError if the stages do not make a prediction of an image alone.
    """
    stages = config.stages()
    if not any("image" in stage.kind().reads for stage in stages):
        raise OvssError(
            f"{', '.join(stage.use for stage in stages)}: no stage looks at an image, so it cannot be served"
        )
    groups = [pool.stages for pool in config.pools]
    scored = any("scores" in stage.kind().writes for stage in stages)
    told = {"prediction", "scores", "boxes", "bits"} if scored else {"prediction"}
    made: dict[Kind, list[Part]] = {"segment": _parts(groups, GIVEN, told, all_of_them=True)}
    if scored and any(stage.use == "sam" for stage in stages):
        pointing = [tuple(map(_pointing, group)) for group in groups]
        made["regions"] = _parts(groups, GIVEN, {*REGIONS, "scores", "size"})
        made["prompt"] = _parts(pointing, POINTED, {*REGIONS, "scores", "size", "cached"})
        made["masks"] = _parts(pointing, POINTED, {*REGIONS, "size", "cached"})
    return [{kind: parts[number] for kind, parts in made.items()} for number in range(len(groups))]


def _parts(
    groups: Sequence[Sequence[StageConfig]], given: Iterable[str], wanted: set[str], all_of_them: bool = False
) -> list[Part]:
    """For each pool the stages that columns need which are wanted at the end, and what it hands on."""
    chosen: list[list[StageConfig]] = []
    live = set(wanted)
    for group in reversed(groups):
        chosen.insert(0, [])
        for stage in reversed(group):
            if all_of_them or live & set(stage.kind().writes):
                chosen[0].insert(0, stage)
                live = (live - set(stage.kind().writes)) | set(stage.kind().reads)
    keeps = pipeline.plan([stage for group in chosen for stage in group], given, {*ALWAYS, *wanted})
    ends = np.cumsum([len(group) for group in chosen])
    return [
        Part(tuple(stage.use for stage in group), frozenset(keeps[end - 1] | {"seconds"}) if group else frozenset())
        for group, end in zip(chosen, ends.tolist(), strict=True)
    ]


def _pointing(stage: StageConfig) -> StageConfig:
    """`sam_prompt` with the same network in the place of `sam`."""
    if stage.use != "sam":
        return stage
    return StageConfig(use=PROMPT, options=stage.settings().model_dump(include=set(Network.model_fields)))


def run(stages: Mapping[str, Stage], requests: Sequence[tuple[Row, Vocabulary]], keep: Collection[str]) -> list[Row]:
    """Send requests through stages as one batch, whatever their vocabularies; a failed one has its `error` set."""
    names = requests[0][0]
    batch = {name: column(given[name] for given, _ in requests) for name in names}
    done = pipeline.run(stages, batch, {words.digest: words for _, words in requests})
    kept = {name: values for name, values in done.items() if name in keep}
    return [{name: values[i] for name, values in kept.items()} for i in range(len(requests))]


class Memory(Protocol):
    """What remembers images: actors.sam_prompt.Stage."""

    def image(self, name: str) -> np.ndarray | None:
        """The image (H, W, 3) uint8 that is remembered by a name."""


def recall(memory: Memory, asked: Row) -> Row:
    """A row that points at something with the image that it names, or with the error that says why that cannot be."""
    held = memory.image(asked["prompts"]["image"])
    image = asked["image"] if held is None else held
    size = np.array(image.shape[:2], np.int32)
    error = asked["error"] or (_outside(asked["prompts"], image) if image.size else FORGOTTEN)
    return {**asked, "image": image, "size": size, "cached": held is not None, "error": error}


def _outside(question: Mapping[str, Any], image: np.ndarray) -> str:
    """What is wrong if somebody points beside an image (H, W, 3)."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = question.get("box") or (0, 0, 0, 0)
    for x, y in [*question.get("points", ()), (x0, y0), (x1, y1)]:
        if not (0 <= x <= width and 0 <= y <= height):
            return f"{x:g}, {y:g} lies beside it: it has {width} × {height} pixels, as it is shown"
    return ""


def warm(stages: Mapping[str, Stage], vocabularies: Sequence[Vocabulary]) -> None:
    """Run stages once for each vocabulary, so that the first request need not wait for what is made only once.

    Raises OvssError if they fail.
    """
    needed, written = set(ALWAYS), set[str]()
    for stage in stages.values():
        needed |= set(stage.reads) - written
        written |= set(stage.writes)
    for words in vocabularies:
        (done,) = run(stages, [(_specimen(needed, words), words)], {"error"})
        if done["error"]:
            raise OvssError(f"a first image fails, asked for {', '.join(words.names[:3])}, …: {done['error']}")


def _specimen(needed: Collection[str], words: Vocabulary) -> Row:
    """What the stages before would hand on of a small image: one region, all of it, that could be any class."""
    boxes, bits = regions.pack([np.ones(SPECIMEN.shape[:2], bool)])
    scores = np.zeros((1, len(words)), np.float32)
    question = {"points": [[64, 48]], "labels": [1], "image": "specimen"}
    made = {"boxes": boxes, "bits": bits, "predicted_iou": np.ones(1, np.float32), "scores": scores}
    made = {**pointed(SPECIMEN, words, question), **made}
    return {name: made[name] if name in made else COLUMNS[name].empty() for name in needed}
