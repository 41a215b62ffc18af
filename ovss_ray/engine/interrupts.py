"""Delay of an interrupt (Ctrl-C) until the end of a block."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held() -> Iterator[None]:
    """Delay an interrupt (Ctrl-C) until the end of the block. A second interrupt is not delayed.

    Use this for blocks of a few seconds in which an interrupt would be lost or do harm. For example, Python ignores an
    exception inside a callback of an import ("Exception ignored in"). An interrupted ray.init may leave a lock of
    `logging` locked. Nothing is delayed outside the main thread, or if the program has its own handler for SIGINT.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    came = False

    def note(number: int, frame: object) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt
