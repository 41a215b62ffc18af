"""Faults of a YAML file that does not fit its model: each place, the value found, and what is expected."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

from pydantic import ValidationError

TYPES = {
    "a valid string": "text",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "a valid tuple": "a list",
    "a valid list": "a list",
    "a valid dictionary": "a table `key: value`",
}
BOUNDS = {
    "Tuple should have at least": "a list of at least",
    "greater than or equal to": "a number from",
    "greater than": "a number above",
    "less than or equal to": "a number up to",
    "less than": "a number below",
}
"""pydantic's words → plain ones; the limit follows those of a bound."""

Place = tuple[int | str, ...]


def faults(failure: ValidationError, raw: Any, offer: Callable[[Place], str], prefix: str = "") -> Iterator[str]:
    """Say each fault in a sentence: its place in dots, what is expected and what was found.

    `raw` is what was validated. `offer` gives what to say of an unknown key at a place. pydantic reports a fault once
    for each type that a value may have, with names of types in its place: they are brought together here.
    """
    known = [
        (_place(error["loc"], raw, error["type"] == "missing"), error)
        for error in failure.errors()
        if not (error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"])  # of faulty entries
    ]
    for _, of_one_value in groupby(known, lambda pair: _root(pair[1]["loc"], raw)):
        group = list(of_one_value)
        deepest = max(len(place) for place, _ in group)
        kept = [pair for pair in group if len(pair[0]) == deepest]
        for place in dict.fromkeys(place for place, _ in kept):
            errors = [error for at, error in kept if at == place]
            yield _sentence((prefix + ".".join(map(str, place))).rstrip("."), errors, offer(place) if place else "")


def _sentence(where: str, errors: Sequence[Any], offered: str) -> str:
    first = errors[0]
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown.{offered}"
    if first["type"] == "missing":
        return f"{where}: {first['msg']}"
    if first["type"] in ("value_error", "assertion_error"):
        message = first["msg"].partition(", ")[2]
        return f"{where}: {message}, and found {_short(first['input'])}" if where else message
    expected = dict.fromkeys(_plain(error["msg"]) for error in errors)
    return f"{where or 'all'}: {' or '.join(expected)} is expected, and found {_short(first['input'])}"


def _plain(message: str) -> str:
    """pydantic's message as a noun: "Input should be a valid integer, unable to …" → "a whole number"."""
    text = message.removeprefix("Input should be ")
    for start, plain in TYPES.items():
        if text.startswith(start):
            return plain
    for start, plain in BOUNDS.items():
        if text.startswith(start):
            return plain + text.removeprefix(start).partition(" after")[0]
    return text


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _place(loc: Sequence[int | str], raw: Any, missing: bool = False) -> Place:
    """The steps of a place that stand in the YAML, without the names of types; a key that is missing is the last."""
    steps: list[int | str] = []
    for step in loc:
        if _has(raw, step):
            raw = raw[step]
            steps.append(step)
    return (*steps, loc[-1]) if missing else tuple(steps)


def _root(loc: Sequence[int | str], raw: Any) -> Place:
    """The place before the first name of a type: faults that share it are of one value."""
    steps: list[int | str] = []
    for step in loc:
        if not _has(raw, step):
            break
        raw = raw[step]
        steps.append(step)
    return tuple(steps) or tuple(loc)


def _has(raw: Any, step: int | str) -> bool:
    if isinstance(raw, dict):
        return step in raw
    return isinstance(raw, list | tuple) and isinstance(step, int) and step < len(raw)
