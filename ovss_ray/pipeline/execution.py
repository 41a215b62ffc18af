"""Execution of a list of stages over a batch of images, without Ray."""

import errno
import time
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ovss_ray.errors import OvssError, in_parts
from ovss_ray.pipeline import row_words
from ovss_ray.pipeline.stage import Stage, StageConfig
from ovss_ray.structures import words
from ovss_ray.structures.columns import MANIFEST, NONE, Batch, column, empty
from ovss_ray.structures.vocabulary import Vocabularies
from ovss_ray.structures.words import WORDS

OF_WORDS = {WORDS, "size"}
"""Columns that `run` needs to skip images without words; `size` is the shape of the prediction of a skipped image"""


class Contract(Exception):
    """Error for a stage that does not write the columns in `Stage.writes`. The run stops."""


class Poisoned(Exception):
    """Error for a process that can no longer compute, for example after a CUDA error. Its worker must end."""


def plan(stages: Sequence[StageConfig], initial: Iterable[str], wanted: Iterable[str]) -> list[set[str]]:
    """Return the columns to keep after each stage: columns that a later stage reads, and `wanted` columns.

    A stage can read the columns in `initial`, and the columns that earlier stages write. Raises OvssError if a stage
    reads another column. Also raises OvssError if a wanted column is neither in `initial` nor written by a stage.
    """
    available, needed = set(initial), _needed(stages)
    for position, stage in enumerate(stages):
        if missing := needed[position] - available:
            raise OvssError(
                f"stage {position} ({stage.use!r}) needs column {', '.join(map(repr, sorted(missing)))}, which no "
                f"earlier stage writes; available: {sorted(available)}. Before this stage, add a stage that writes it"
            )
        available |= set(stage.writes())
    if missing := set(wanted) - available:
        raise OvssError(
            f"no stage writes column {', '.join(map(repr, sorted(missing)))}; stages: "
            f"{[stage.use for stage in stages]}. Add a stage that writes it"
        )
    keeps: list[set[str]] = []
    live = set(wanted)
    for stage, reads in zip(reversed(stages), reversed(needed), strict=True):
        keeps.insert(0, set(live))
        live = (live - set(stage.writes())) | reads
    return keeps


def _needed(stages: Sequence[StageConfig]) -> list[set[str]]:
    """Return the columns that each stage reads.

    If an earlier stage gives each image its own words, OF_WORDS are added for a stage that reads `vocabulary`.
    """
    needed, worded = [], False
    for stage in stages:
        reads = set(stage.reads())
        needed.append(reads | OF_WORDS if worded and "vocabulary" in reads else reads)
        worded = worded or stage.gives_words()
    return needed


def run(stages: Mapping[str, Stage], batch: Batch, vocabularies: Vocabularies) -> Batch:
    """Run the stages in order over a batch with the columns in columns.MANIFEST.

    If an image fails, only this image gets a text in the column `error`, and later stages skip the image. The column
    `seconds` gets the times of each stage and of the stage's parts (see Stage.parts). If the batch has the column
    `words`, or a stage writes it, an image's words replace the image's vocabulary. Stages that read `vocabulary` then
    skip images without words. The `prediction` of such a stage is NONE at every pixel of an image without words.

    Raises Contract if a stage does not write its declared columns, and Poisoned if the process can no longer compute.
    Raises OvssError if a disk is full or read-only.
    """
    batch = words.unpacked(batch)
    if WORDS in batch:
        batch, vocabularies = row_words.with_words(batch, vocabularies, "")
    for name, stage in in_parts(stages.items()):
        begun = time.perf_counter()
        good = np.array([error == "" for error in batch["error"]], bool)
        silent = good & row_words.wordless(stage, batch)
        good &= ~silent
        done = _settle(stage, {k: v[good] for k, v in batch.items()}, vocabularies) if good.any() else {}
        batch = _merge(batch, done, good, stage.writes)
        for row in np.flatnonzero(silent) if "prediction" in stage.writes else ():
            batch["prediction"][row] = np.full(batch["size"][row], NONE, np.uint16)
        if WORDS in stage.writes and not stage.measures:
            batch, vocabularies = row_words.with_words(batch, vocabularies, name)
        seconds = {name: time.perf_counter() - begun, **stage.parts()}
        batch["seconds"] = _timed(batch, seconds, good / max(1, int(good.sum())))
    return batch


def names(batch: Batch) -> list[str]:
    """Return the full names BENCHMARK/ID of a batch's images. An id alone is unique only within a benchmark."""
    return [f"{benchmark}/{image}" for benchmark, image in zip(batch["benchmark"], batch["image_id"], strict=True)]


def start(n: int, **columns: Sequence[object]) -> Batch:
    """Return a batch of n rows for tests and services. Missing manifest columns are filled with empty values."""
    filled = {name: column(values) for name, values in columns.items()}
    return {**{name: empty(name, n) for name in MANIFEST}, **filled}


def _settle(stage: Stage, batch: Batch, vocabularies: Vocabularies) -> Batch:
    """Run a stage over a batch, and return the columns that the stage writes, and the column `error`.

    If the stage raises an exception, the batch is split into two halves, and the stage runs over each half. If the
    stage raises an exception for a batch of one image, this image gets a text in `error`.
    """
    n = len(batch["image_id"])
    try:
        written = stage({name: batch[name] for name in ("image_id", *stage.reads)}, vocabularies)
    except Contract:
        raise
    except (Exception, SystemExit) as failure:  # the only place where an image is isolated
        if _poisonous(failure):
            raise Poisoned(f"{type(failure).__name__}: {failure}") from failure
        if _full(failure):  # every later image would fail as well
            raise OvssError(describe(stage, failure)) from failure
        if n == 1:
            return {**{name: empty(name, 1) for name in stage.writes}, "error": column([describe(stage, failure)])}
        written = None
    if written is None:  # outside `except`, where the traceback and the arrays that it refers to are freed
        halves = [slice(None, n // 2), slice(n // 2, None)]
        first, second = (_settle(stage, {k: v[half] for k, v in batch.items()}, vocabularies) for half in halves)
        return {name: column([*first[name], *second[name]]) for name in first}
    _check(stage, written, n)
    return {**{name: written[name] for name in stage.writes}, "error": empty("error", n)}


def describe(stage: Stage, failure: BaseException) -> str:
    """Return a failure in one line, as the record stores it: stage, kind of error, message."""
    name = type(stage).__module__.removeprefix("ovss_ray.actors.")
    kind = "" if isinstance(failure, OvssError) else f"{type(failure).__name__}: "
    return f"{name}: {kind}{failure}"


def _check(stage: Stage, written: Batch, n: int) -> None:
    for name in stage.writes:
        if name not in written or len(written[name]) != n:
            actual = f"{len(written[name])} rows" if name in written else f"only {sorted(written)}"
            raise Contract(f"stage {type(stage).__module__} must write {n} rows of column {name!r}, but wrote {actual}")


def _poisonous(failure: BaseException) -> bool:
    """Return whether an error makes the process unusable: a CUDA error other than "out of memory"."""
    return "CUDA error" in str(failure) and "out of memory" not in str(failure)


def _full(failure: BaseException | None) -> bool:
    """Return whether an exception, or one of its causes, is the error of a full or read-only disk."""
    if isinstance(failure, OSError) and failure.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return True
    return failure is not None and _full(failure.__cause__)


def _merge(batch: Batch, done: Batch, good: np.ndarray, writes: Sequence[str]) -> Batch:
    merged = {**batch, **{name: empty(name, len(good)) for name in writes}}
    for name, values in done.items():
        merged[name] = column(merged[name])
        merged[name][good] = column(values)
    return merged


def _timed(batch: Batch, seconds: Mapping[str, float], shares: np.ndarray) -> np.ndarray:
    """Return the batch's column of times per image, with the times of a stage added.

    `seconds`: name of a time → seconds that the stage needed for the whole batch. `shares[i]` is the fraction of these
    seconds that is added to row i.
    """
    before = batch.get("seconds", column({} for _ in shares))
    return column(
        {**(old or {}), **{name: (old or {}).get(name, 0.0) + float(s * share) for name, s in seconds.items()}}
        for old, share in zip(before, shares, strict=True)
    )
