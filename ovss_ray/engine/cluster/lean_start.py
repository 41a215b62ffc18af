"""Reduction of Ray's overhead in local clusters and in Ray Data.

`lean` starts local clusters with fewer processes. `Seldom` makes Ray Data sum up the used CPUs and memory less often.
This module uses Ray's private API, as listed in ray_internals.py.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from operator import attrgetter
from typing import Any

from ovss_ray.engine.cluster import ray_internals

# No run needs these processes. Their start takes 3 CPU seconds, and ray.init waits for the dashboard.
IDLE = ("start_log_monitor", "start_api_server", "start_monitor")
"""Names of the methods of Ray's class Node that start the log monitor, the dashboard and the autoscaler."""
LEAN = {("ray._private.node", "Node"): IDLE, ("ray._private", "utils"): ("get_dashboard_dependency_error",)}
"""Functions of Ray that `lean` replaces. Key: module, then class or submodule. Value: names of functions."""
PERIOD = 0.1
"""Minimum seconds before Ray Data sums up the used CPUs and memory again in the same step of its loop.

PERIOD does not apply to the first sum of each step: Ray Data always makes this sum (see Seldom)."""


@contextmanager
def lean() -> Iterator[None]:
    """Make ray.init start local clusters without log monitor, dashboard and autoscaler, until the `with` block ends."""
    with ExitStack() as stack:
        for (module, owner), names in LEAN.items():
            try:
                holder: Any = attrgetter(owner)(import_module(module))
            except (ImportError, AttributeError):
                holder = None
            for name in names:
                try:
                    stack.callback(setattr, holder, name, getattr(holder, name))
                    # If get_dashboard_dependency_error returns an error, Ray's agent starts without a web server. The
                    # agent itself is needed, since the raylet exits without the agent.
                    setattr(holder, name, lambda *_, **__: ImportError("not wanted"))
                except AttributeError:
                    ray_internals.report_missing(f"{owner}.{name}", "A process that is not needed runs idle")
        yield


class Seldom:
    """Callback that makes Ray Data sum up the used CPUs and memory less often.

    Without this callback, Ray Data makes a sum for every block of data that is sent to a worker. With this callback,
    Ray Data makes a sum at the start of each step of its loop. Within a step, Ray Data makes the next sum at least
    PERIOD seconds after the previous sum.
    """

    due = 0.0
    """earliest time of the next sum of the used CPUs and memory, in seconds of time.monotonic()"""

    def before_execution_starts(self, executor: Any) -> None:
        """Make Ray Data's method `update_usages` sum up the used CPUs and memory only if a sum is due.

        If this Ray release lacks the method, log a warning.
        """
        manager = getattr(executor, "_resource_manager", None)
        if not (update := getattr(manager, "update_usages", None)):
            ray_internals.report_missing("ResourceManager.update_usages", "The driver process needs more CPU per block")
            return

        def seldom() -> None:
            if time.monotonic() >= self.due:
                update()
                self.due = time.monotonic() + PERIOD

        setattr(manager, "update_usages", seldom)  # noqa: B010 - a method of Ray, which mypy does not let us replace

    def on_execution_step(self, *_: Any) -> None:
        """Make Ray Data sum up the used CPUs and memory at the start of the next step."""
        # Workers may have been started at the end of this step. An old sum would count their CPUs as free.
        self.due = 0.0

    after_execution_succeeds = after_execution_fails = on_execution_step
