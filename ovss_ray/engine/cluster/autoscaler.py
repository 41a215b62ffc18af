"""Status of Ray's autoscaler. This module uses Ray's private API, as listed in ray_internals.py."""

import json
import re
from importlib import import_module

import ray

from ovss_ray.engine.cluster import ray_internals


def autoscaled() -> bool:
    """Return whether an autoscaler can add nodes to the connected cluster."""
    try:
        keys = import_module("ray._private.ray_constants")
        kv = import_module("ray.experimental.internal_kv")
        status = json.loads(kv._internal_kv_get(keys.DEBUG_AUTOSCALING_STATUS) or "{}")
        if "autoscaler_report" in status:
            kinds = set(status["autoscaler_report"]["active_nodes"])
        else:  # the second version of the autoscaler, or one that has just started
            sdk, address = import_module("ray.autoscaler.v2.sdk"), ray.get_runtime_context().gcs_address
            cluster = sdk.get_cluster_status(address)
            kinds = {node.ray_node_type_name for node in (*cluster.active_nodes, *cluster.idle_nodes)}
    except Exception:  # noqa: BLE001 - private, and a run does without it
        ray_internals.report_missing("the status of the autoscaler", "Runs wait for nodes only with --wait-for")
        return False
    # Without an autoscaler, Ray also reports a type for each node: "node_" and a hexadecimal number.
    return any(kind and not re.fullmatch("node_[0-9a-f]{20,}", kind) for kind in kinds)
