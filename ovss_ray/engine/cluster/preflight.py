"""Checks before the workers start: files that every node must access, free disk space, enough CPUs and GPUs."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ovss_ray.engine.cluster import connection, estimate, placement, waiting
from ovss_ray.engine.cluster.placement import Placed
from ovss_ray.errors import OvssError
from ovss_ray.io import digests, files, inline
from ovss_ray.pipeline import weights
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.runs.plan import KEPT, RunPlan

RECORD = 10_000
"""Approximate size in bytes of the record of one image on disk"""
LABEL_MAP = 60_000
"""Approximate size in bytes of the predicted label map of one image on disk"""


def run(plan: RunPlan) -> None:
    """Raise OvssError if a node cannot access the run's files, or has other weights than this machine.

    For each benchmark, only the first photograph and the first label file are checked.
    """
    first = [str(table[name][0]) for table in plan.manifests.values() for name in ("image_uri", "truth_uri")]
    # of a stage that reads label maps, the first file only
    listed = [stage_files[0] for stage_files in plan.sources if len(stage_files) > placement.NETWORK_FILES]
    see_everywhere([plan.folder.file("identity.json"), *first, *map(str, listed)], "--out, --data-root and predictions")
    expected, stages = weights_of(plan), plan.config.stages()
    if expected and len(nodes := _alive()) > 1:
        computing = [node for node in nodes if node["Resources"].get("CPU") or node["Resources"].get("GPU")]
        if differing := [text for _, text in _on_nodes(computing, _other_weights, stages, expected) if text]:
            raise OvssError(differing[0])


def weights_of(plan: RunPlan) -> dict[str, str]:
    """Return name of a stage → SHA-256 of the stage's weights on this machine.

    A stage with more than placement.NETWORK_FILES files is left out, since these files are assumed to be label maps.
    """
    networks = zip(plan.config.stages(), plan.sources, strict=True)
    digest_of = {
        stage.use: digests.sha256_of(stage_files)
        for stage, stage_files in networks
        if len(stage_files) <= placement.NETWORK_FILES
    }
    return {use: digest for use, digest in digest_of.items() if digest}


def see_everywhere(uris: Sequence[str], options: str) -> None:
    """Raise OvssError if a node cannot access one of the files and folders `uris`.

    `options`: names of the options that the error advises to correct. If the cluster has only one node and all files
    are local, nothing is checked.
    """
    nodes = _alive()
    remote = any(not files.is_local(uri) and not uri.startswith(("scenes://", inline.SCHEME)) for uri in uris)
    checked = nodes if len(nodes) > 1 or remote else []  # for remote files, every node needs credentials
    for node, unseen in _on_nodes(checked, _unseen, uris):
        if unseen:
            raise OvssError(
                f"node {node} cannot access {', '.join(unseen)}. Pass {options} as paths or URIs that every node of "
                "the cluster can access"
            )


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _on_nodes(nodes: Sequence[Mapping[str, Any]], check: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
    """Call a function on all nodes at the same time. Yield (address of the node, result). Dead nodes are skipped."""
    task = ray.remote(num_cpus=0)(check)
    places = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    results = [task.options(scheduling_strategy=place).remote(*arguments) for place in places]
    for node, result in zip(nodes, results, strict=True):
        try:
            yield node["NodeManagerAddress"], ray.get(result)
        except RayTaskError:
            raise
        except RayError:  # Ray lists a dead node as alive for half a minute
            continue


def room(plan: RunPlan) -> None:
    """Raise OvssError if the run's folder is on a local disk with too little space for records and label maps.

    The space is estimated from RECORD and LABEL_MAP.
    """
    if "://" in plan.folder.uri:
        return
    images = sum(len(table) for table in plan.manifests.values())
    label_maps = 0 if plan.config.keep_predictions == "none" else images
    if plan.config.keep_predictions == "auto":
        label_maps = min(label_maps, KEPT)
    needed, free = images * RECORD + label_maps * LABEL_MAP, shutil.disk_usage(plan.folder.uri).free
    if free < needed:
        raise OvssError(
            f"{plan.folder.uri}: disk too small, only {free / 1e9:.2f} GB free; records and label maps of {images:,} "
            f"images need about {needed / 1e9:.2f} GB. Free some space, choose another --out, or pass --set "
            "keep_predictions=none"
        )


def _other_weights(stages: Sequence[StageConfig], expected: Mapping[str, str]) -> str:
    """Return the error message of weights.check on this node; "" if this node has the expected weights."""
    try:
        weights.check(stages, expected, ray.util.get_node_ip_address())
    except OvssError as failure:
        return str(failure)
    return ""


def _unseen(uris: Sequence[str]) -> list[str]:
    """Return a text for each file that this process cannot access: its address, and the reason if one is known."""
    texts = []
    for uri in uris:
        try:
            if not files.exists(uri):
                texts.append(files.shown(uri))
        except OvssError as failure:  # no permission, or no credentials on this node
            texts.append(str(failure))
    return texts


def place(plan: RunPlan, patience: float, say: Callable[[str], None]) -> list[Placed]:
    """Return the pools of a run with their numbers of workers, CPUs and GPUs on the cluster.

    If the cluster is too small, wait for nodes. Without an autoscaler, wait up to `patience` seconds. With an
    autoscaler, wait up to `patience` or `plan.config.patience` seconds, whichever is longer. Raises OvssError if the
    cluster is still too small. `say` prints messages.
    """
    weights_bytes, before = placement.weights_of(plan.sources), len(connection.size().nodes)
    pools, size = waiting.for_pools(plan.pools, weights_bytes, patience, plan.config.patience, say)
    if len(size.nodes) > before:
        # the new nodes have not been checked yet
        run(plan)
    for warning in estimate.warnings(plan.pools, pools, size, weights_bytes):
        say(warning)
    return pools
