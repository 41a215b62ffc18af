"""Reduction of Ray's overhead: a local cluster runs fewer processes, and Ray Data counts used resources less often.

This module uses Ray's private API, as listed in ray_internals.py.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from operator import attrgetter
from typing import Any

from ovss_ray.engine.cluster import ray_internals

IDLE = ("start_log_monitor", "start_api_server", "start_monitor")
"""Names of methods of Ray's class Node. Each of these methods starts a process that no run needs.

The processes are the log monitor, the dashboard and the autoscaler. Their start takes 3 CPU seconds, and ray.init waits
for the dashboard."""
LEAN = {("ray._private.node", "Node"): IDLE, ("ray._private", "utils"): ("get_dashboard_dependency_error",)}
"""(module, object) → names of the object's functions. `lean` replaces each of these functions during its block.

The replacements start no process. The replacement of get_dashboard_dependency_error returns an ImportError, as if the
dashboard were not installed."""
PERIOD = 0.1
"""Seconds: minimum time between two sums of resource use in one step of Ray Data's loop (see Seldom)"""


@contextmanager
def lean() -> Iterator[None]:
    """Return a context manager. In its `with` block, ray.init starts local clusters without the processes of IDLE.

    Ray's agent process is still started, since the raylet exits without it. The agent has no web server.
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


class Seldom:
    """Callback of Ray Data that makes it sum up the use of CPUs and memory less often.

    Ray Data has a loop, and one step of the loop may handle many blocks. Without the callback, Ray Data sums up for
    every block. With the callback, Ray Data sums up at the start of a step, and then at most once per PERIOD.

    Each step needs a new sum, since Ray Data may have started workers at the end of the previous step. An old sum would
    count the CPUs of these workers as free.
    """

    due = 0.0
    """time of the next sum, in seconds of the monotonic clock"""

    def before_execution_starts(self, executor: Any) -> None:
        """Replace Ray Data's method `update_usages`, which sums up the use of CPUs and memory.

        The new method calls the old method only if a sum is due. If this Ray release lacks the method, log a warning.
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
        """Make the next step of the loop begin with a new sum."""
        self.due = 0.0

    after_execution_succeeds = after_execution_fails = on_execution_step
