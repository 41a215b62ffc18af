"""An interrupt (Ctrl-C) that waits for a better moment."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held() -> Iterator[None]:
    """Heed an interrupt at the end of the block, and a second one at once.

    It is for blocks of a few seconds that an interrupt may not reach, or would break. Python drops an exception that
    comes up where none can be passed on ("Exception ignored in"), as in the callbacks of an import; and ray.init, once
    left in the middle, can have a lock of `logging` locked for ever. Other threads than the main one, and programs with
    a handler of their own, are left alone.
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
