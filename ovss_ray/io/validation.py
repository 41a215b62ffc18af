"""Messages for YAML that fails pydantic's validation: path, expected value and actual value of each fault."""

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
"""pydantic's description of a type → plain words."""
BOUNDS = {
    "Tuple should have at least": "a list of at least",
    "greater than or equal to": "a number from",
    "greater than": "a number above",
    "less than or equal to": "a number up to",
    "less than": "a number below",
}
"""pydantic's description of a bound → plain words before the bound, as in "a number from 0"."""

Place = tuple[int | str, ...]
"""Path of a value in YAML: keys of mappings and indices of lists, outermost first."""


def faults(failure: ValidationError, raw: Any, offer: Callable[[Place], str], prefix: str = "") -> Iterator[str]:
    """Yield a sentence for each fault, with the path of the value, the expected value and the actual value.

    `raw` is the data that failed validation. `offer(path)` returns a hint for an unknown key. `prefix` precedes each
    path.
    """
    known = [
        (_place(error["loc"], raw, error["type"] == "missing"), error)
        for error in failure.errors()
        if not (error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"])  # faulty, not short
    ]
    # If a value may have several types, pydantic reports a fault per type, and the type is a step of the fault's path.
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
        return f"{where}: {message}, found {_short(first['input'])}" if where else message
    expected = dict.fromkeys(_plain(error["msg"]) for error in errors)
    return f"{where or 'all'}: expected {' or '.join(expected)}, found {_short(first['input'])}"


def _plain(message: str) -> str:
    """Return pydantic's message as a noun: "Input should be a valid integer, unable to …" → "a whole number"."""
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
    """Return pydantic's path `loc` without steps that do not exist in the data `raw`, such as names of types.

    If `missing` is True, the last step of `loc` is a missing key. The returned path then ends with this key.
    """
    steps: list[int | str] = []
    for step in loc:
        if _has(raw, step):
            raw = raw[step]
            steps.append(step)
    return (*steps, loc[-1]) if missing else tuple(steps)


def _root(loc: Sequence[int | str], raw: Any) -> Place:
    """Return the steps of pydantic's path `loc` before the first step that does not exist in the data `raw`.

    If the very first step does not exist, return the whole path `loc`.
    """
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
