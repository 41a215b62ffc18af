"""Errors that a user can act on: what was asked, what was found, what to type."""

import difflib
from collections.abc import Iterable


class OvssError(Exception):
    """Something that the user can mend. The command line prints its message alone, without a traceback."""


class UnknownName(OvssError, LookupError):
    """A name that nothing answers to; the message offers the nearest known ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.known = sorted(known)
        listed = ", ".join(self.known) or "none"
        super().__init__(f"there is no {kind} {name!r}.{nearest(name, self.known)} Known: {listed}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" if some known name is close, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
