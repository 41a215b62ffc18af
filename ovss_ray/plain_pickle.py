"""Lists and dictionaries in Python's pickle files, and nothing else that those may hold. Nothing in them is run.

A pickle is a program for a small machine with a stack, most of whose instructions do no harm; some import and call
whatever they name. Here the harmless ones are done by hand and any other ends the reading. Source: the descriptions
of the instructions in Python's own module pickletools, which decodes them and does not carry them out.
"""

import pickletools
from typing import Any

from ovss_ray.errors import OvssError

VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "STRING", "SHORT_BINSTRING", "BINSTRING"),
}
"""Instructions that put a whole number or a string on the stack; those of STRING are Python 2's"""
KEEP, FETCH = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}
NOTHING = {"PROTO", "FRAME", "STOP"}


def read(data: bytes, name: str) -> Any:
    """Read a pickle of dicts, lists, strings and whole numbers. Raises OvssError, naming the file, for any other.

    A list may hold itself, or one list stand in many places: who goes on to look inside has to expect that.
    """
    stack: list[Any] = []
    marks: list[int] = []
    kept: dict[int, Any] = {}
    try:
        for instruction, argument, _ in pickletools.genops(data):
            _do(instruction.name, argument, stack, marks, kept)
        (made,) = stack
    except (ValueError, TypeError, IndexError, KeyError) as failure:
        raise OvssError(f"{name}: cannot be read as a pickle of plain lists: {failure}. Download it again") from failure
    return made


def _do(name: str, argument: Any, stack: list[Any], marks: list[int], kept: dict[int, Any]) -> None:
    """Do one instruction; `marks` are heights of the stack, and `kept` is what was put aside, by its number.

    Raises ValueError, TypeError, IndexError or KeyError if it cannot or must not be done.
    """
    if name in VALUES:
        stack.append(argument)
    elif name in FETCH:
        stack.append(kept[int(argument)])
    elif name in KEEP or name == "MEMOIZE":
        kept[len(kept) if name == "MEMOIZE" else int(argument)] = stack[-1]
    elif name == "MARK":
        marks.append(len(stack))
    elif name in ("EMPTY_LIST", "LIST"):
        stack.append(_above(stack, marks.pop()) if name == "LIST" else [])
    elif name in ("EMPTY_DICT", "DICT"):
        stack.append(_pairs(_above(stack, marks.pop())) if name == "DICT" else {})
    elif name in ("APPEND", "APPENDS"):
        values = _above(stack, marks.pop()) if name == "APPENDS" else [stack.pop()]
        list.extend(stack[-1], values)
    elif name in ("SETITEM", "SETITEMS"):
        values = _above(stack, marks.pop()) if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
        dict.update(stack[-1], _pairs(values))
    elif name not in NOTHING:
        raise ValueError(f"it holds more than that (instruction {name}), which could be a program")


def _above(stack: list[Any], height: int) -> list[Any]:
    """Take off the stack what lies above a height."""
    values = stack[height:]
    del stack[height:]
    return values


def _pairs(values: list[Any]) -> dict[Any, Any]:
    return dict(zip(values[::2], values[1::2], strict=True))
