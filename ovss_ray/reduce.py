"""Tree reduction on Ray: partials of part files are added with a bounded fan-in."""

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


def fold(parts: Sequence[Part], of: Callable[[pa.Table], P], fan_in: int = 16) -> P | None:
    """Add the partials of all parts, `fan_in` at a time. None if there is no part.

    Addition is associative and commutative and exact, so that the tree's shape cannot be seen in the result.
    """
    leaf: Any = ray.remote(num_cpus=0.1)(_leaf)
    node: Any = ray.remote(num_cpus=0.1)(_node)
    level = [leaf.remote(some, of) for some in _batched(parts, fan_in)]
    while len(level) > 1:
        level = [node.remote(*some) for some in _batched(level, fan_in)]
    return ray.get(level[0]) if level else None


def _leaf(parts: Sequence[Part], of: Callable[[pa.Table], P]) -> P:
    return _node(*(of(records.read_part(uri).take(rows)) for uri, rows in parts))


def _node(first: Any, *others: Any) -> Any:
    for other in others:
        first = first + other
    return first


def _batched(values: Sequence[Any], size: int) -> list[list[Any]]:
    stream = iter(values)
    return list(iter(lambda: list(islice(stream, size)), []))
