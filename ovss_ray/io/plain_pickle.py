"""Safe reader of Python pickles that contain only lists, dicts, strings and integers.

A pickle is a program, and some of its instructions can call any function. This module executes only harmless
instructions. Python's module pickletools documents the instructions.
"""

import pickletools
from typing import Any

from ovss_ray.errors import OvssError

VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "STRING", "SHORT_BINSTRING", "BINSTRING"),
}
"""Instructions that push an integer or string. Python 2 writes STRING, SHORT_BINSTRING and BINSTRING."""
KEEP, FETCH = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}
"""Instructions that store the top of the stack in the memo, and instructions that push a value from the memo."""
NOTHING = {"PROTO", "FRAME", "STOP"}
"""Instructions without an effect on the stack."""


def read(data: bytes, name: str) -> Any:
    """Read a pickle of dicts, lists, strings and integers. Raises OvssError for any other pickle.

    In the result, a list or dict may contain itself, or occur several times.
    """
    stack: list[Any] = []
    marks: list[int] = []
    kept: dict[int, Any] = {}
    try:
        for instruction, argument, _ in pickletools.genops(data):
            _do(instruction.name, argument, stack, marks, kept)
        (value,) = stack
    except (ValueError, TypeError, IndexError, KeyError) as failure:
        raise OvssError(f"{name}: not a pickle of lists and dicts: {failure}. Download it again") from failure
    return value


def _do(name: str, argument: Any, stack: list[Any], marks: list[int], kept: dict[int, Any]) -> None:
    """Execute the instruction `name`. `marks` has the stack's height at each MARK instruction; `kept` is the memo.

    Raises ValueError, TypeError, IndexError or KeyError for an invalid or unsafe instruction.
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
        raise ValueError(f"unsafe instruction {name}, which could run code")


def _above(stack: list[Any], height: int) -> list[Any]:
    """Pop all values of the stack at index `height` and above. Return them in order."""
    values = stack[height:]
    del stack[height:]
    return values


def _pairs(values: list[Any]) -> dict[Any, Any]:
    return dict(zip(values[::2], values[1::2], strict=True))
