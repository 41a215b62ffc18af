"""Tree reduction on Ray: partials of part files are added with a bounded fan-in; a few files are read on the spot."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import ray

from ovss_ray import records

P = TypeVar("P")
Part = tuple[str, np.ndarray]
"""The address of a part file, and the rows of it that count."""
FEW = 64
"""Part files that are read and added here: some milliseconds each, where a process started for it takes a second."""


def fold(parts: Sequence[Part], of: Callable[[pa.Table], P], fan_in: int = 16, few: int = FEW) -> P | None:
    """Add the partials of all parts, by tasks, `fan_in` at a time, if they are more than `few`. None if there is none.

    Addition is associative and commutative and exact, so that the tree's shape cannot be seen in the result.
    """
    if len(parts) <= few:
        return _leaf(parts, of) if parts else None
    leaf: Any = ray.remote(num_cpus=0.1)(_leaf)
    node: Any = ray.remote(num_cpus=0.1)(_node)
    level = [leaf.remote(some, of) for some in _batched(parts, fan_in)]
    while len(level) > 1:
        level = [node.remote(*some) for some in _batched(level, fan_in)]
    return ray.get(level[0])


def _leaf(parts: Sequence[Part], of: Callable[[pa.Table], P]) -> P:
    return _node(*(of(records.read_part(uri).take(rows)) for uri, rows in parts))


def _node(first: Any, *others: Any) -> Any:
    for other in others:
        first = first + other
    return first


def _batched(values: Sequence[Any], size: int) -> list[list[Any]]:
    stream = iter(values)
    return list(iter(lambda: list(islice(stream, size)), []))
