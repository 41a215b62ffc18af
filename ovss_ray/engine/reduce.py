"""Tree reduction on Ray: sum the partial results of many files. Each task adds a limited number of results."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, TypeVar

import pyarrow as pa
import ray

from ovss_ray.runs import records
from ovss_ray.runs.records import Settled

P = TypeVar("P")
# A run writes about 256 files. Reading a file takes milliseconds, but starting the process of a task takes a second.
FEW = 4096
"""Maximum number of record files to read without Ray tasks. If a folder has more files, Ray tasks read the files."""


def fold(
    folder: str, among: pa.Table | None, of: Callable[[pa.Table], P], fan_in: int = 16, few: int = FEW
) -> tuple[Settled, P | None]:
    """Return the result of `records.settle` for a folder, and a sum over the valid records.

    To compute the sum, the valid records are divided into tables. The function `of` is called with each table, and the
    results of these calls are added. The sum must not depend on the order of addition. If no record is valid, the sum
    is None. `among` is the manifest. Records of images outside the manifest are not valid. If `among` is None, no image
    is excluded.

    If the folder has more than `few` files, Ray tasks compute the sum. Each task computes the sum of at most
    `fan_in` files, or adds the sums of at most `fan_in` other tasks.
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
