"""Computation of a worker of the service: requests are joined into a batch, on which the stages run.

This module does not import Ray.
"""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from ovss_ray.config.run import RunConfig
from ovss_ray.errors import OvssError
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import Stage, StageConfig
from ovss_ray.serve.pace import Pace
from ovss_ray.serve.row import FORGOTTEN, PROMPT_COLUMNS, REQUEST_COLUMNS, SPECIMEN, Kind, Row, outside, pointed
from ovss_ray.structures.columns import COLUMNS, TRUE, column
from ovss_ray.structures.masks import regions
from ovss_ray.structures.vocabulary import Vocabulary
from ovss_ray.structures.words import WORDS

ALWAYS = {"image_id", "vocabulary", "error"}
"""Columns that every pool needs"""
REGIONS = {"boxes", "bits", "predicted_iou"}
"""Columns that describe the masks of regions: bounding boxes, pixels and predicted IoUs, but no class scores"""
NAMED = {"scores", "top_classes", "top_scores"}
"""Columns with the classes of regions"""
PROMPTERS = {"sam": "sam_prompt", "ovsam_everything": "ovsam_prompt"}
"""Stage that proposes regions → stage that replaces it if a request has a prompt (points or a box)"""

LARGER = 8
"""Factor by which the larger test image in `pace` is higher and wider than the smaller test image.

The smaller image is SPECIMEN. The larger image is a grid of 8 × 8 copies of SPECIMEN, and has 0.8 megapixels."""
COLD = 15.0
"""Seconds. If the test run in `warm` takes longer, `pace` is not called, because its test runs would take too long"""
SLOW = 3.0
"""Seconds. If the small test image in `pace` takes longer, the larger image is skipped"""

POINTED = "ovsam_everything, ovsam_everything_tiny or sam_alpha_clip_tiny"
"""Shipped configs that answer prompts"""


@dataclass(frozen=True)
class Part:
    """The stages and output columns of one pool for one kind of answer."""

    stages: tuple[str, ...]
    """names of the stages, in order; if there are none, the request skips the pool"""
    keep: frozenset[str]
    """columns that the pool passes to the next pool"""


Parts = Mapping[Kind, Part]
"""Kind of answer → stages and output columns of one pool. Kinds that the model cannot answer are left out."""


def plan(config: RunConfig) -> list[Parts]:
    """Return, for each pool of a config, the stages and output columns that each kind of answer needs.

    Every config can answer `segment`. Answers of the kind `words` need a stage that finds words in an image. The kinds
    `regions`, `prompt` and `masks` need a stage that is a key of PROMPTERS. These three kinds also need a stage that
    writes the column `scores`.

    Raises OvssError if the stages cannot answer requests, for example because a stage needs ground truth.
    """
    stages = config.stages()
    _check(stages)
    groups = [pool.stages for pool in config.pools]
    scored = any("scores" in stage.writes() for stage in stages)
    outputs = {"prediction", "scores", "boxes", "bits"} if scored else {"prediction"}
    worded = [tuple(stage for stage in group if not stage.gives_words()) for group in groups]
    parts_by_kind: dict[Kind, list[Part]] = {
        "segment": _parts(worded, REQUEST_COLUMNS, outputs, all_of_them=worded == groups)
    }
    if worded != groups:
        parts_by_kind["words"] = _parts(groups, REQUEST_COLUMNS, {WORDS})
    if scored and any(stage.use in PROMPTERS for stage in stages):
        pointing = [tuple(map(_pointing, group)) for group in worded]
        scorer = [stage for stage in stages if "scores" in stage.writes()][-1]
        named = NAMED.intersection(scorer.writes())  # best names of an earlier stage would not fit its scores
        parts_by_kind["regions"] = _parts(worded, REQUEST_COLUMNS, {*REGIONS, *named, "size"})
        parts_by_kind["prompt"] = _parts(pointing, PROMPT_COLUMNS, {*REGIONS, *named, "size", "cached"})
        parts_by_kind["masks"] = _parts(pointing, PROMPT_COLUMNS, {*REGIONS, "size", "cached"})
    return [{kind: parts[number] for kind, parts in parts_by_kind.items()} for number in range(len(groups))]


def _check(stages: Sequence[StageConfig]) -> None:
    """Raise OvssError if the stages cannot answer requests."""
    if not any("image" in stage.reads() for stage in stages):
        raise OvssError(
            f"no stage reads column 'image', so the config cannot be served; stages: "
            f"{', '.join(stage.use for stage in stages)}. Serve a config that segments images, such as san_tiny"
        )
    if square := [stage.use for stage in stages if stage.kind().side(stage.settings())]:
        raise OvssError(
            f"the stage {square[0]} predicts label maps of a fixed square size instead of the photograph's size, "
            "so the config cannot be served. Set `resolution` of this stage to original"
        )
    if prompted := [stage.use for stage in stages if {*TRUE} & set(stage.reads())]:
        raise OvssError(
            f"the stage {prompted[0]} needs the true instances of a benchmark, which a request does not have. "
            f"To answer points and boxes, serve a config that proposes regions, such as {POINTED}"
        )
    if (painters := [stage for stage in stages if "prediction" in stage.writes()]) and all(
        stage.gives_words() for stage in painters
    ):
        raise OvssError(
            f"the stage {painters[0].use!r} segments an image into words that the stage itself finds, so a request "
            "cannot choose the classes. Serve a config that finds words and segments in separate stages, such as "
            "vocabulary_free_tiny"
        )


def _parts(
    groups: Sequence[Sequence[StageConfig]], inputs: Iterable[str], outputs: set[str], all_of_them: bool = False
) -> list[Part]:
    """Return, for each pool, the stages to run, and the columns to pass to the next pool.

    A stage is returned if a column in `outputs` depends on the stage, or if `all_of_them` is True. `groups`: stages of
    each pool. `inputs`: columns that a request has before the first stage.
    """
    kept_stages: list[list[StageConfig]] = []
    live = set(outputs)
    for group in reversed(groups):
        kept_stages.insert(0, [])
        for stage in reversed(group):
            if all_of_them or live & set(stage.writes()):
                kept_stages[0].insert(0, stage)
                live = (live - set(stage.writes())) | set(stage.reads())
    keeps = execution.plan([stage for group in kept_stages for stage in group], inputs, {*ALWAYS, *outputs})
    ends = np.cumsum([len(group) for group in kept_stages])
    return [
        Part(tuple(stage.use for stage in group), frozenset(keeps[end - 1] | {"seconds"}) if group else frozenset())
        for group, end in zip(kept_stages, ends.tolist(), strict=True)
    ]


def _pointing(stage: StageConfig) -> StageConfig:
    """Return the stage with which PROMPTERS replaces `stage`, or `stage` itself if PROMPTERS does not list it."""
    return prompter(stage) if stage.use in PROMPTERS else stage


def prompting(stages: Iterable[str]) -> str:
    """Return the name of the stage that answers prompts; an empty string if there is none."""
    return next((name for name in stages if name in PROMPTERS.values()), "")


def prompter(proposer: StageConfig, **options: int) -> StageConfig:
    """Return the prompt stage that PROMPTERS lists for `proposer`.

    The prompt stage gets every option of `proposer` that the prompt stage also has. `options` take precedence.
    """
    stage = StageConfig(use=PROMPTERS[proposer.use])
    shared = proposer.settings().model_dump(include=set(stage.kind().Config.model_fields))
    return StageConfig(use=stage.use, options={**shared, **options})


def run(stages: Mapping[str, Stage], requests: Sequence[tuple[Row, Vocabulary]], keep: Collection[str]) -> list[Row]:
    """Run stages on requests as one batch, and return one row per request, with the columns `keep`.

    If a stage fails on a request, the row's `error` has the message.
    """
    names = requests[0][0]
    batch = {name: column(row[name] for row, _ in requests) for name in names}
    columns = execution.run(stages, batch, {words.digest: words for _, words in requests})
    handed_on = {name: values for name, values in columns.items() if name in keep}
    return [{name: values[i] for name, values in handed_on.items()} for i in range(len(requests))]


@runtime_checkable
class Memory(Protocol):
    """Protocol of a stage that caches images, such as `sam_prompt`."""

    def image(self, name: str) -> np.ndarray | None:
        """Return the image (H, W, 3) uint8 that is cached under `name`, or None."""


def recall(memory: Memory, row: Row) -> Row:
    """Return the row of a prompt request, with the image from the cache `memory` or else from the request.

    If both lack the image, or if a point is outside the image, the column `error` has a message.
    """
    remembered = memory.image(row["prompts"]["image"])
    image = row["image"] if remembered is None else remembered
    size = np.array(image.shape[:2], np.int32)
    error = row["error"] or (outside(row["prompts"], image) if image.size else FORGOTTEN)
    return {**row, "image": image, "size": size, "cached": remembered is not None, "error": error}


def warm(stages: Mapping[str, Stage], vocabularies: Sequence[Vocabulary]) -> float:
    """Run the stages on a test image, once for each vocabulary, and return the seconds of the last run.

    The runs compile networks and fill caches. Raises OvssError if a stage fails.
    """
    needed, begun = _needed(stages), time.perf_counter()
    for words in vocabularies:
        begun = time.perf_counter()
        (answer,) = run(stages, [(_specimen(needed, words), words)], {"error"})
        if answer["error"]:
            raise OvssError(
                f"the warm-up image failed with classes {', '.join(words.names[:3])}, …: {answer['error']}. Fix the "
                "cause and start the service again"
            )
    return time.perf_counter() - begun


def pace(stages: Mapping[str, Stage], words: Vocabulary) -> Pace:
    """Return a formula for the seconds per image (see Pace). Measure the stages with a small and a larger test image.

    The stages must be warm. If the small image takes more than SLOW seconds, only this image is measured.
    """
    sizes, seconds = (1, LARGER), list[float]()
    for size in sizes:
        if seconds and seconds[0] > SLOW:
            return Pace(seconds[0], 0.0)
        specimen = _specimen(_needed(stages), words, np.tile(SPECIMEN, (size, size, 1)), f"pace {size}")
        begun = time.perf_counter()
        run(stages, [(specimen, words)], {"error"})
        seconds.append(time.perf_counter() - begun)
    megapixels = [size * size * SPECIMEN[..., 0].size / 1e6 for size in sizes]
    each = max(0.0, (seconds[1] - seconds[0]) / (megapixels[1] - megapixels[0]))
    return Pace(seconds[0], each)


def _needed(stages: Mapping[str, Stage]) -> set[str]:
    """Return the columns that a row must have before the first stage runs."""
    needed, written = set(ALWAYS), set[str]()
    for stage in stages.values():
        needed |= set(stage.reads) - written
        written |= set(stage.writes)
    return needed


def _specimen(needed: Collection[str], words: Vocabulary, image: np.ndarray = SPECIMEN, name: str = "specimen") -> Row:
    """Return a row of a test image with the columns `needed`, as if earlier stages had written them.

    `name`: key of the image in the caches of stages.
    """
    boxes, bits = regions.pack([np.ones(image.shape[:2], bool)])
    scores = np.zeros((1, len(words)), np.float32)
    question = {"points": [[64, 48]], "labels": [1], "image": name}
    region = {"boxes": boxes, "bits": bits, "predicted_iou": np.ones(1, np.float32), "scores": scores}
    columns = {**pointed(image, words, question), **region}
    return {name: columns[name] if name in columns else COLUMNS[name].empty() for name in needed}
