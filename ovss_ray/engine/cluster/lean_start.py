"""Start of a local Ray cluster without the processes that no run needs.

This module uses Ray's private API, as listed in ray_internals.py.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from operator import attrgetter
from typing import Any

from ovss_ray.engine.cluster import ray_internals

IDLE = ("start_log_monitor", "start_api_server", "start_monitor")
"""Names of the methods of Ray's Node that start processes that no run needs: log monitor, dashboard and autoscaler.

Their start takes 3 CPU seconds, and ray.init waits for the dashboard."""
LEAN = {("ray._private.node", "Node"): IDLE, ("ray._private", "utils"): ("get_dashboard_dependency_error",)}
"""Functions that `lean` disables: (module, object in it) → names of the object's functions."""


@contextmanager
def lean() -> Iterator[None]:
    """Make ray.init start local clusters without the processes of IDLE during the block.

    The agent of the node, without which the raylet ends, runs in Ray's minimal form: without a web server.
    """
    with ExitStack() as stack:
        for (module, owner), names in LEAN.items():
            try:
                holder: Any = attrgetter(owner)(import_module(module))
            except (ImportError, AttributeError):
                holder = None
            for name in names:
                try:
                    stack.callback(setattr, holder, name, getattr(holder, name))
                    setattr(holder, name, lambda *_, **__: ImportError("not wanted"))
                except AttributeError:
                    ray_internals.report_missing(f"{owner}.{name}", "A process that is not needed runs idle")
        yield
