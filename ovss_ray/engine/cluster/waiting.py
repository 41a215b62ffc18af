"""Wait for the nodes that a run needs: those that an autoscaler starts on request, or that join by themselves."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from ray.autoscaler.sdk import request_resources
from ray.util import placement_group, remove_placement_group

from ovss_ray.config.run import Pool, WaitFor
from ovss_ray.engine.cluster import autoscaler, connection, placement
from ovss_ray.engine.cluster.nodes import Need, Node, Size
from ovss_ray.engine.cluster.placement import Placed
from ovss_ray.errors import OvssError

PAUSE = 1.0
"""Seconds between two checks of the cluster"""
REPEAT = 30.0
"""Seconds between two equal requests for nodes, and between two equal messages about the wait"""
SHARE = 0.01
"""CPUs that the placement group of `_spread` reserves on each node"""
CPU_NODE, GPU_NODE = Node(cpus=64), Node(cpus=64, gpus=1)
"""Imaginary nodes: CPU_NODE without a GPU, GPU_NODE with one GPU (see `_goal`)."""


def until_reached(wanted: WaitFor, patience: float, say: Callable[[str], None]) -> None:
    """Wait up to `patience` seconds until the cluster has the `wanted` numbers of nodes, CPUs and GPUs.

    Missing nodes are requested from the autoscaler, if there is one. Raises OvssError if the cluster stays too small.
    If no node can join, the error is raised at once.
    """
    size = connection.size()
    if _reached(wanted, size):
        return
    if not size.grows:
        raise OvssError(
            f"--wait-for: {_state(wanted, size)}. This command has started the cluster on this machine, so no nodes "
            "can join it. Lower --wait-for, or run `export RAY_ADDRESS=HOST:6379` to use another cluster"
        )
    bundles = [Need(0.0, 1.0)] * wanted.gpus + [Need(1.0)] * wanted.cpus
    with _requested(bundles) as repeat, _spread(wanted.nodes):
        for late in _looks(patience, lambda: _state(wanted, connection.size()), say, repeat):
            size = connection.size()
            if _reached(wanted, size):
                return
            if late:
                raise OvssError(
                    f"the cluster is still too small after {patience:g} s: {_state(wanted, size)}. `ray status` names "
                    "the nodes that did not start. Lower --wait-for, or wait longer with --set patience=3600"
                )


def for_pools(
    pools: Sequence[Pool], weights: float, least: float, patience: float, say: Callable[[str], None]
) -> tuple[list[Placed], Size]:
    """Return the pools as placed on the cluster, and the cluster's size. If the cluster is too small, wait for nodes.

    Without an autoscaler, wait up to `least` seconds. With an autoscaler, request nodes, and wait up to `least` or
    `patience` seconds, whichever is longer. With an autoscaler, the cluster is also too small if it lacks a GPU for a
    stage with large weights. Raises OvssError if the cluster is still too small after the wait. `weights`: bytes of one
    worker's weights.
    """
    size = connection.size()
    placed, shortage = _placed(pools, size, weights)
    slow = _slow(pools, placed, size, weights)
    scaled = size.grows and bool(shortage or slow) and autoscaler.autoscaled()
    # A large network without a GPU is worth a wait only if an autoscaler may add a GPU.
    if not shortage and not (scaled and slow):
        return placed, size
    goal = _goal(pools, size, weights, slow)
    seconds = max(least, patience if scaled else 0.0)
    text = "waiting for nodes that an autoscaler should start" if scaled else "waiting for nodes"
    with _requested([pool.need for pool in goal for _ in range(pool.least)] if scaled else []) as repeat:
        for late in _looks(seconds, lambda: f"{text}. {_present(connection.size())}", say, repeat):
            size = connection.size()
            placed, shortage = _placed(pools, size, weights)
            if not shortage and not (scaled and _slow(pools, placed, size, weights)):
                return placed, size
            if late:
                wanted = placement.unmet(goal, size) if scaled else ""
                raise OvssError(_end(wanted or shortage, seconds, scaled, any(pool.gpus for pool in goal)))
    raise AssertionError("the wait ended without a result or an error")


def _end(shortage: str, seconds: float, scaled: bool, on_gpus: bool) -> str:
    if not scaled:
        return f"{shortage}. If nodes are still to join the cluster, pass --wait-for gpus=N or nodes=N"
    return (
        f"{shortage}. Nodes were requested {seconds:g} s ago; `ray status` says why they have not come. "
        f"Wait longer with --set patience=3600{', or compute on CPUs with gpus: 0' if on_gpus else ''}"
    )


def _placed(pools: Sequence[Pool], size: Size, weights: float) -> tuple[list[Placed], str]:
    """Return the pools as placed on the cluster, and an error message if the cluster is too small, else ""."""
    placed = placement.place(placement.fused(pools, size), size, weights)
    return placed, placement.unmet(placed, size)


def _slow(pools: Sequence[Pool], placed: Sequence[Placed], size: Size, weights: float) -> bool:
    """Return True if a stage with large weights could use a GPU, but the cluster has no GPU yet."""
    if size.gpus or not placement.on_cpus(placed, size, weights):
        return False
    return any(placement.uses_gpu(pool, Size((GPU_NODE,))) for pool in pools)  # False: the config has `gpus: 0`


def _goal(pools: Sequence[Pool], size: Size, weights: float, slow: bool) -> list[Placed]:
    """Return the pools with the workers that the run wants. The caller requests nodes for these workers.

    If the cluster has a GPU, the workers are placed on the cluster. If the cluster has no GPU, the workers are placed
    on the cluster and one imaginary node. If a pool requires a GPU, or if `slow` is True (see `_slow`), the imaginary
    node is GPU_NODE. Otherwise the imaginary node is CPU_NODE.
    """
    if size.gpus or slow or any(placement.uses_gpu(pool, size) for pool in pools):
        imagined = size if size.gpus else replace(size, nodes=(*size.nodes, GPU_NODE))
    else:
        imagined = replace(size, nodes=(*size.nodes, CPU_NODE))
        pools = [pool if placement.is_light(pool) else _of_one_cpu(pool) for pool in pools]
    return placement.place(placement.fused(pools, imagined), imagined, weights)


def _of_one_cpu(pool: Pool) -> Pool:
    return pool.model_copy(update={"cpus": 1.0}) if pool.cpus == "auto" else pool


def _looks(
    seconds: float, state: Callable[[], str], say: Callable[[str], None], repeat: Callable[[], None]
) -> Iterator[bool]:
    """Yield whether `seconds` have passed. The first yield is immediate. Further yields follow every PAUSE seconds.

    Between two yields, call `state`. If the returned text is new, print the text. If the text is unchanged, print the
    text every REPEAT seconds. Every REPEAT seconds, also call `repeat`.
    """
    begun, said, repeated, before = time.monotonic(), -REPEAT, 0.0, ""
    yield seconds <= 0
    while seconds > 0:
        waited = time.monotonic() - begun
        if (now := state()) != before or waited - said > REPEAT:
            say(f"{now} (waited {waited:.0f} of at most {seconds:g} s)")
            said, before = waited, now
        if waited - repeated > REPEAT:
            repeat()
            repeated = waited
        time.sleep(min(PAUSE, seconds))
        yield time.monotonic() - begun >= seconds


@contextmanager
def _requested(needs: Sequence[Need]) -> Iterator[Callable[[], None]]:
    """Request nodes from the autoscaler during the block. Yield a function that repeats the request."""
    if not needs:
        yield lambda: None
        return
    bundles = [{"CPU": n.cpus, "GPU": n.gpus, **n.resources} for n in needs]
    bundles = [{name: amount for name, amount in bundle.items() if amount} for bundle in bundles]
    selectors = [dict(n.labels) for n in needs]
    extra: dict[str, Any] = {"bundle_label_selectors": selectors} if any(selectors) else {}
    request = partial(request_resources, bundles=bundles, **extra)
    # Ray keeps only the latest request, which may be that of another command. The caller therefore repeats this one.
    request()
    try:
        yield request
    finally:
        with suppress(Exception):  # the cluster may have ended
            request_resources(bundles=[])  # else the autoscaler would keep these nodes for ever


@contextmanager
def _spread(nodes: int) -> Iterator[None]:
    """Request from the autoscaler that the cluster has at least `nodes` nodes, until the `with` block ends."""
    if not nodes:
        yield
        return
    # Ray's request_resources has no number of nodes: a single large node could satisfy the whole request.
    group = placement_group([{"CPU": SHARE}] * nodes, strategy="STRICT_SPREAD")
    try:
        yield
    finally:
        with suppress(Exception):  # the cluster may have ended
            remove_placement_group(group)


def _amounts(wanted: WaitFor, size: Size) -> dict[str, tuple[float, int]]:
    """Return kind of resource → (present number, wanted number), without kinds whose wanted number is 0."""
    nodes = sum(bool(node.cpus or node.gpus) for node in size.nodes)  # a head without CPUs is not counted
    amounts = {"nodes": (nodes, wanted.nodes), "cpus": (size.cpus, wanted.cpus), "gpus": (size.gpus, wanted.gpus)}
    return {kind: pair for kind, pair in amounts.items() if pair[1]}


def _reached(wanted: WaitFor, size: Size) -> bool:
    return all(have >= number for have, number in _amounts(wanted, size).values())


def _state(wanted: WaitFor, size: Size) -> str:
    counts = [f"{have:g} of {number} {kind}" for kind, (have, number) in _amounts(wanted, size).items()]
    return f"waiting for the cluster: {', '.join(counts)}"


def _present(size: Size) -> str:
    return f"The cluster has {len(size.nodes)} nodes, {size.cpus:g} CPUs and {size.gpus:g} GPUs"
