"""Nodes of a cluster, and the number of workers that fit on them. This module does not import Ray."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

UNIT = 10_000
"""Number of units per CPU, GPU or other resource. Fractions are counted in these units, as in Ray."""
STANDARD = ("CPU", "GPU", "memory")
"""Names of Ray's resources that have separate fields in Node. All other resources are in the field Node.resources."""
STORE = "object_store_memory"
"""Name of Ray's resource for a node's object store; its amount is in bytes"""


@dataclass(frozen=True)
class Node:
    """A node of a cluster: its CPUs, GPUs, memory, custom resources and labels."""

    cpus: float
    gpus: float = 0.0
    memory: float = math.inf
    """bytes of memory for all workers on this node together"""
    resources: Mapping[str, float] = field(default_factory=dict)
    """custom resources, such as "accelerator_type:A100" """
    labels: Mapping[str, str] = field(default_factory=dict)
    """labels of Ray, such as ray.io/node-group"""


@dataclass(frozen=True)
class Size:
    """The live nodes of a cluster."""

    nodes: tuple[Node, ...]
    grows: bool = False
    """True if nodes may join the cluster during a run. If this process has started the cluster, no node can join."""

    @property
    def cpus(self) -> float:
        """Return the CPUs of all nodes."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """Return the GPUs of all nodes."""
        return sum(node.gpus for node in self.nodes)

    @property
    def node_cpus(self) -> float:
        """Return the largest number of CPUs on a single node."""
        return max((node.cpus for node in self.nodes), default=0.0)

    @property
    def node_gpus(self) -> float:
        """Return the largest number of GPUs on a single node."""
        return max((node.gpus for node in self.nodes), default=0.0)

    @property
    def memory(self) -> float:
        """Return the bytes of memory for the workers on all nodes together."""
        return sum(node.memory for node in self.nodes)

    @property
    def store(self) -> float:
        """Return the bytes of the object stores of all nodes."""
        return sum(node.resources.get(STORE, 0.0) for node in self.nodes)


def even(number: int, cpus: float, gpus: float = 0.0, memory: float = math.inf) -> Size:
    """Return a cluster of `number` equal nodes. CPUs, GPUs and memory (bytes) are per node."""
    return Size((Node(cpus, gpus, memory),) * number)


@dataclass(frozen=True)
class Need:
    """The resources that one worker occupies, and the labels that its node must have."""

    cpus: float
    gpus: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


class Room:
    """Free resources of a node, in units of 1/UNIT. A worker's fraction of a GPU must fit on a single GPU."""

    def __init__(self, node: Node) -> None:
        self.labels, self.cpus = node.labels, _units(node.cpus)
        self.gpus = [UNIT] * int(node.gpus)
        self.resources = {name: _units(amount) for name, amount in node.resources.items()}

    def take(self, need: Need) -> bool:
        """Occupy the resources of one worker, and return True. If the worker does not fit, return False."""
        if not self._fits(need):
            return False
        self.cpus -= _units(need.cpus)
        for name, amount in need.resources.items():
            self.resources[name] -= _units(amount)
        if need.gpus >= 1:
            whole = [i for i, free in enumerate(self.gpus) if free == UNIT][: int(need.gpus)]
            self.gpus = [0 if i in whole else free for i, free in enumerate(self.gpus)]
        elif need.gpus:
            part = _units(need.gpus)
            index = next(i for i, free in enumerate(self.gpus) if free >= part)
            self.gpus[index] -= part
        return True

    def _fits(self, need: Need) -> bool:
        if self.cpus < _units(need.cpus) or not all(matches(self.labels, *label) for label in need.labels.items()):
            return False
        if any(self.resources.get(name, 0) < _units(amount) for name, amount in need.resources.items()):
            return False
        if need.gpus >= 1:
            return sum(free == UNIT for free in self.gpus) >= need.gpus
        return not need.gpus or max(self.gpus, default=0) >= _units(need.gpus)


def packed(needs: Sequence[Need], limits: Sequence[float], rooms: Sequence[Room]) -> list[list[int]]:
    """Place workers of several kinds on nodes. Return one list per kind: for each worker, the index of its node.

    The kinds take turns, and each turn places one worker. `needs`: resources of one worker of each kind. `limits`:
    maximum number of workers of each kind. `rooms`: free resources of each node. The resources of the placed workers
    are subtracted from `rooms`.

    For example, [[0, 1], [0]] means that two workers of the first kind are on the nodes rooms[0] and rooms[1]. One
    worker of the second kind is on the node rooms[0].
    """
    # As in Ray, workers without a GPU are placed on nodes without GPUs if possible.
    order = [sorted(range(len(rooms)), key=lambda i: bool(rooms[i].gpus) and not need.gpus) for need in needs]
    at, placed = [0] * len(needs), [[] for _ in needs]  # type: tuple[list[int], list[list[int]]]
    open_kinds = set(range(len(needs)))
    while open_kinds:
        for kind in sorted(open_kinds):
            while at[kind] < len(rooms) and len(placed[kind]) < limits[kind]:
                index = order[kind][at[kind]]
                if rooms[index].take(needs[kind]):
                    placed[kind].append(index)
                    break
                at[kind] += 1  # room only shrinks, so this node is never tried again
            else:
                open_kinds.remove(kind)
    return placed


def matches(labels: Mapping[str, str], name: str, selector: str) -> bool:
    """Return whether a selector permits the value of a node's label.

    `labels`: all labels of the node. `name`: name of the label. The selector `us` permits only the value "us". The
    selector `in(us, eu)` permits "us" and "eu". The selectors `!us` and `!in(us, eu)` permit all other values. If the
    node lacks the label, the result is True only for selectors with "!".
    """
    negated, text = selector.startswith("!"), selector.removeprefix("!")
    several = re.fullmatch(r"in\((.*)\)", text)
    values = [value.strip() for value in several[1].split(",")] if several else [text]
    return (labels.get(name) in values) != negated


def _units(amount: float) -> int:
    return round(amount * UNIT)
