"""Errors that a user can fix: the message says what was requested, what was found and what to type."""

import difflib
from collections.abc import Iterable


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
