"""Handle of the child process in which a tracker runs. Before the end of the run, no method waits for the child."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

GRACE = 10.0
"""Seconds that an interrupted run waits for the end of a tracker. Then the tracker is killed."""


class Process:
    """Child process in which a tracker runs. Messages to and from this process are lines of JSON.

    The child reads each message immediately, so the method `send` does not wait for a slow tracker.
    """

    def __init__(self, first: Mapping[str, Any]) -> None:
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "ovss_ray.engine.trackers"],  # -P: the modules of this process, not of ./
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # out of reach of Ctrl-C
        )
        self.where = ""
        """address or folder at which the user can view the run; "" before it is known"""
        self.fault = ""
        """reason why the tracker lacks values of the run; "" if it lacks none"""
        self._done = threading.Event()
        self._waited = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.send(first)

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message. If the child has ended, do nothing."""
        assert self._child.stdin is not None
        with suppress(OSError, ValueError):  # ValueError: the pipe was closed by `finish`
            self._child.stdin.write(json.dumps(message) + "\n")
            self._child.stdin.flush()

    def finish(self) -> None:
        """Tell the child that the report is in the run's folder, and that no more messages follow."""
        self.send({"finish": True})
        self.close()

    def wait(self, seconds: float) -> None:
        """Wait up to `seconds` until the tracker has sent all values.

        If the tracker has not sent all values by then, and `fault` is empty, set `fault`.
        """
        self._waited = True
        if not self._done.wait(seconds) and not self.fault:
            running = self._child.poll() is None
            self.fault = (
                "it did not answer in time, so values may be missing there"
                if running
                else f"its process ended with status {self._child.returncode}"
            )

    def end(self) -> None:
        """Kill the child process, and all processes that the tracker has started.

        If `wait` was not called, first wait up to GRACE seconds until the child process ends by itself.
        """
        self.close()
        if not self._done.is_set() and not self._waited:
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(GRACE)
        with suppress(OSError):  # also what the tracker's library has started
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        self._reader.join(1)

    def close(self) -> None:
        """Tell the child that no more messages follow."""
        assert self._child.stdin is not None
        with suppress(OSError):
            self._child.stdin.close()

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            answer = json.loads(line)
            self.where, self.fault = answer["where"], answer["fault"]
            if answer["done"]:
                self._done.set()
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(1)
        if not self._done.is_set() and not self.fault:
            self.fault = f"its process ended with status {self._child.poll()}"
        self._done.set()
