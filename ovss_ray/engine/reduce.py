"""Tree reduction on Ray: sum the partial results of many files. Each task adds a limited number of results."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, TypeVar

import pyarrow as pa
import ray

from ovss_ray.runs import records
from ovss_ray.runs.records import Settled

P = TypeVar("P")
FEW = 4096
"""Maximum number of part files (files of records) in a folder that is read without Ray tasks.

A run writes about 256 files. Reading one takes milliseconds, but starting the process of a task takes a second."""


def fold(
    folder: str, among: pa.Table | None, of: Callable[[pa.Table], P], fan_in: int = 16, few: int = FEW
) -> tuple[Settled, P | None]:
    """Return the valid records of a folder, and the sum of their partial results.

    At most one record per image is valid (see records.settle). If `among` is a manifest, only records of images in the
    manifest are valid. If `among` is None, records of any image may be valid. `of` returns the partial result of a
    table of records, such as the sums of metrics. If there are no valid records, the sum is None.

    If the folder has at most `few` part files, this process reads the files and adds the partial results. Otherwise,
    this process reads the files only to select the valid records. Ray tasks then read the files again, and each task
    adds at most `fan_in` partial results. The addition is exact, associative and commutative, so the order does not
    matter.
    """
    if len(records.parts(folder)) <= few:
        return records.fold(folder, among, of)
    settled = records.settle(folder, among)
    leaf: Any = ray.remote(num_cpus=0.1)(records.add)
    node: Any = ray.remote(num_cpus=0.1)(_node)
    level = [leaf.remote(parts, of) for parts in _batched(settled.parts, fan_in)]
    while len(level) > 1:
        level = [node.remote(*partials) for partials in _batched(level, fan_in)]
    return settled, ray.get(level[0]) if level else None


def _node(first: Any, *further: Any) -> Any:
    for partial in further:
        first = first + partial
    return first


def _batched(values: Sequence[Any], size: int) -> list[list[Any]]:
    stream = iter(values)
    return list(iter(lambda: list(islice(stream, size)), []))
