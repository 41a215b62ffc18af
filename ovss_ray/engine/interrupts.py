"""Handling of interrupts by Ctrl-C and SIGTERM. An interrupt ends the process, or is delayed until a block ends."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals that interrupt a command"""


class Terminated(KeyboardInterrupt):
    """Interrupt by SIGTERM, which `kill`, Slurm, Kubernetes and `ray job stop` send. It is handled like Ctrl-C."""


class _Process:
    """State of the process. `ends`: see ends_process. `terminated`: SIGTERM came. `connected`: see left_connected."""

    ends = False
    terminated = False
    connected = False


def _terminate(number: int, frame: object) -> NoReturn:
    _Process.terminated = True  # inside ray.get, Ray raises a plain KeyboardInterrupt in place of this exception
    raise Terminated


def _main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def ends_process() -> Iterator[None]:
    """Declare that an interrupt in the block will end this process. In the block, SIGTERM acts like Ctrl-C.

    The caller must catch the KeyboardInterrupt and pass it to `leave`. The block has no effect outside the main thread,
    or if the program has its own handler for SIGTERM.
    """
    _Process.terminated = False  # of an earlier block
    if not _main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    _Process.ends = True
    try:
        yield
    finally:
        _Process.ends = False
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def left_connected() -> bool:
    """Return True if an interrupt is ending this process. If so, the caller must leave its connection to Ray open.

    Call this function only in an `except` or `finally` block.
    """
    # Closing the connection may end the raylet of this machine. A thread that still uses Ray would then end this
    # process with status 1, the wrong status for an interrupt.
    _Process.connected |= _Process.ends and isinstance(sys.exception(), KeyboardInterrupt)
    return _Process.connected


def leave(interrupt: KeyboardInterrupt, advice: str) -> int:
    """Print `advice` after an interrupt, and return the exit status: 130 for Ctrl-C, 143 for SIGTERM.

    If the connection to Ray was left open (see `left_connected`), end the process with this status instead.
    """
    terminated = _Process.terminated or isinstance(interrupt, Terminated)
    status = 128 + (signal.SIGTERM if terminated else signal.SIGINT)
    if _Process.connected:
        for stop in SIGNALS:
            signal.signal(stop, signal.SIG_IGN)
    with suppress(OSError):  # Ctrl-C has also ended `tee` or `less`, to which the output goes
        what = "terminated by SIGTERM" if terminated else "interrupted"
        print(f"\novss: {what}. {advice}", file=sys.stderr, flush=True)
        sys.stdout.flush()
    if _Process.connected:
        # Ray ends the workers, and the cluster if this process has started it.
        os._exit(status)
    return status


@contextmanager
def held() -> Iterator[None]:
    """Delay an interrupt until the end of the block. A second interrupt by the same signal acts at once.

    Use this for blocks of a few seconds. SIGTERM is delayed only in a `with` block of `ends_process`. Signals for which
    the program has its own handler are not delayed. Outside the main thread, no signal is delayed.
    """
    ours = (signal.default_int_handler, _terminate)
    before = {number: signal.getsignal(number) for number in SIGNALS if signal.getsignal(number) in ours}
    if not before or not _main_thread():
        yield
        return
    # An interrupt at once may be lost: Python ignores an exception inside a callback of an import. It may also do harm:
    # an interrupted ray.init may leave a lock of `logging` locked.
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        came.append(number)
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield
    except SystemExit as end:  # of Ray's handler for SIGTERM, which ray.init installs
        if signal.SIGTERM not in before or end.code != signal.SIGTERM:
            raise
        came.append(signal.SIGTERM)
    finally:
        # ray.init may have replaced the handlers
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        raise Terminated if signal.SIGTERM in came else KeyboardInterrupt
