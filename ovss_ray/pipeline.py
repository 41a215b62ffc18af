"""A pipeline is a list of stages. Nothing here knows about Ray."""

import errno
import time
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ovss_ray.columns import MANIFEST, Batch, column, empty
from ovss_ray.errors import OvssError
from ovss_ray.stage import Stage, StageConfig
from ovss_ray.vocabulary import Vocabularies


class Contract(Exception):
    """A stage broke its word: a bug in the stage, not a fault of an image. It stops the run."""


class Poisoned(Exception):
    """The process can compute no more, such as after a CUDA error: the worker has to die, the image is suspect."""


def plan(stages: Sequence[StageConfig], given: Iterable[str], wanted: Iterable[str]) -> list[set[str]]:
    """Decide which columns to keep after each stage: those that a later stage reads, or that are wanted at the end.

    Raises OvssError if a stage reads a column that nobody has written before it, or if nobody writes a wanted one.
    """
    have = set(given)
    for position, stage in enumerate(stages):
        if missing := set(stage.kind().reads) - have:
            raise OvssError(
                f"stage {position} ({stage.use!r}) reads {sorted(missing)}, but at that point there is only "
                f"{sorted(have)}. Put a stage that writes it before"
            )
        have |= set(stage.kind().writes)
    if missing := set(wanted) - have:
        raise OvssError(f"no stage of {[stage.use for stage in stages]} writes {sorted(missing)}")
    keeps: list[set[str]] = []
    live = set(wanted)
    for stage in reversed(stages):
        keeps.insert(0, set(live))
        live = (live - set(stage.kind().writes)) | set(stage.kind().reads)
    return keeps


def run(stages: Mapping[str, Stage], batch: Batch, vocabularies: Vocabularies) -> Batch:
    """Run the stages one after the other over a batch whose rows have the columns of the manifest.

    An image that fails is marked in `error` and passed by from then on; its neighbours are not touched. `seconds`
    gets one entry per stage, and one for each part of its work that a stage times by itself.

    Raises Contract if a stage breaks its word, Poisoned if the process can compute no more, and OvssError if a disk is
    full.
    """
    for name, stage in stages.items():
        begun = time.perf_counter()
        good = np.array([error == "" for error in batch["error"]], bool)
        done = _settle(stage, {k: v[good] for k, v in batch.items()}, vocabularies) if good.any() else {}
        batch = _merge(batch, done, good, stage.writes)
        spent = {name: time.perf_counter() - begun, **stage.parts()}
        batch["seconds"] = _timed(batch, spent, good / max(1, int(good.sum())))
    return batch


def names(batch: Batch) -> list[str]:
    """Name the images of a batch in full: an id is unique within its benchmark only."""
    return [f"{benchmark}/{image}" for benchmark, image in zip(batch["benchmark"], batch["image_id"], strict=True)]


def start(n: int, **columns: Sequence[object]) -> Batch:
    """Make a batch of n rows by hand, as tests and services do; manifest columns that are not given are empty."""
    given = {name: column(values) for name, values in columns.items()}
    return {**{name: empty(name, n) for name in MANIFEST}, **given}


def _settle(stage: Stage, batch: Batch, vocabularies: Vocabularies) -> Batch:
    """Call the stage; if that fails, halve the batch until the image at fault stands alone."""
    n = len(batch["image_id"])
    try:
        written = stage({name: batch[name] for name in ("image_id", *stage.reads)}, vocabularies)
    except Contract:
        raise
    except (Exception, SystemExit) as failure:  # the one place where an image is isolated
        if _poisonous(failure):
            raise Poisoned(f"{type(failure).__name__}: {failure}") from failure
        if _full(failure):
            raise OvssError(describe(stage, failure)) from failure
        if n == 1:
            return {**{name: empty(name, 1) for name in stage.writes}, "error": column([describe(stage, failure)])}
        written = None
    if written is None:  # only here are the traceback and all the arrays that it holds gone
        halves = [slice(None, n // 2), slice(n // 2, None)]
        first, second = (_settle(stage, {k: v[half] for k, v in batch.items()}, vocabularies) for half in halves)
        return {name: column([*first[name], *second[name]]) for name in first}
    _check(stage, written, n)
    return {**{name: written[name] for name in stage.writes}, "error": empty("error", n)}


def describe(stage: Stage, failure: BaseException) -> str:
    """Put a failure into the one line that stands in the record: the stage, the kind of error, the message."""
    name = type(stage).__module__.removeprefix("ovss_ray.actors.")
    kind = "" if isinstance(failure, OvssError) else f"{type(failure).__name__}: "
    return f"{name}: {kind}{failure}"


def _check(stage: Stage, written: Batch, n: int) -> None:
    for name in stage.writes:
        if name not in written or len(written[name]) != n:
            found = f"{len(written[name])} rows" if name in written else f"only {sorted(written)}"
            raise Contract(f"{type(stage).__module__} must write {n} rows of {name!r}, and wrote {found}")


def _poisonous(failure: BaseException) -> bool:
    """A CUDA error other than a lack of memory leaves the context unusable for every later image."""
    return "CUDA error" in str(failure) and "out of memory" not in str(failure)


def _full(failure: BaseException | None) -> bool:
    """Whether a disk has no room or takes nothing: no later image would fare better."""
    if isinstance(failure, OSError) and failure.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return True
    return failure is not None and _full(failure.__cause__)


def _merge(batch: Batch, done: Batch, good: np.ndarray, writes: Sequence[str]) -> Batch:
    merged = {**batch, **{name: empty(name, len(good)) for name in writes}}
    for name, values in done.items():
        merged[name] = column(merged[name])
        merged[name][good] = column(values)
    return merged


def _timed(batch: Batch, spent: Mapping[str, float], shares: np.ndarray) -> np.ndarray:
    """Add seconds by name to those of each row, which has its share of them, (n,) float64."""
    before = batch.get("seconds", column({} for _ in shares))
    return column(
        {**(old or {}), **{name: (old or {}).get(name, 0.0) + float(s * share) for name, s in spent.items()}}
        for old, share in zip(before, shares, strict=True)
    )
