"""Errors that a user can fix. A message says what was requested, what was found and what to type.

The exception `Abandoned` ends a computation whose result is no longer needed.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")


class OvssError(Exception):
    """Error that the user can fix. The command line prints its message without a traceback."""


class UnknownName(OvssError, LookupError):
    """Error for an unknown name. The message suggests the most similar known name and lists all known names."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.known = sorted(known)
        listed = ", ".join(self.known) or "none"
        super().__init__(f"unknown {kind} {name!r}.{nearest(name, self.known)} Known: {listed}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" if a known name is similar, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


class Abandoned(BaseException):
    """Signal that ends a computation for which no client waits any more.

    This class does not inherit from Exception, so that `except Exception` in a stage does not catch the signal.
    """


_CHECK: ContextVar[Callable[[], None] | None] = ContextVar("_CHECK", default=None)
"""Function that `in_parts` calls before each part of a computation in the current thread; None outside `checked`"""


@contextmanager
def checked(check: Callable[[], None]) -> Iterator[None]:
    """Make `in_parts(items)` call `check` before each item, such as a tile, until the end of the `with` block.

    `check` may raise Abandoned to end the computation.
    """
    token = _CHECK.set(check)
    try:
        yield
    finally:
        _CHECK.reset(token)


def in_parts(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the parts of a long computation, such as the tiles of an image.

    In a block `with checked(check)`, `check` is called before each part.
    """
    for item in items:
        if check := _CHECK.get():
            check()
        yield item
