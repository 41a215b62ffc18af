"""Pickles of plain lists: read by hand, and never run."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from ovss_ray.errors import OvssError
from ovss_ray.io import plain_pickle

LISTS = {
    **{number: [] for number in range(80)},
    3: ["val2014/a.jpg", "val2014/b.jpg"],
    70: [f"val2014/{number}.jpg" for number in range(1500)],
    300: ["ümläut"] * 2,
    -70000: [2**40, [], {}, {"x": 1}],
}


class Bomb:
    """What runs a command when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_lists_by_number_are_read_from_every_protocol(protocol: int) -> None:
    assert plain_pickle.read(pickle.dumps(LISTS, protocol), "x.pkl") == LISTS


def test_strings_of_python_2_are_read() -> None:
    assert plain_pickle.read(b"(dp0\nI3\n(lp1\nS'a.jpg'\np2\nas.", "x.pkl") == {3: ["a.jpg"]}
    assert plain_pickle.read(b"\x80\x02}q\x00K\x03]q\x01U\x05a.jpgq\x02as.", "x.pkl") == {3: ["a.jpg"]}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_bomb_does_not_go_off(tmp_path: Path, protocol: int) -> None:
    bomb = pickle.dumps({3: [Bomb(tmp_path / "boom")]}, protocol)
    with pytest.raises(OvssError, match=r"x\.pkl: .*unsafe instruction \w*GLOBAL, .*run code"):
        plain_pickle.read(bomb, "x.pkl")
    assert not (tmp_path / "boom").exists()
    pickle.loads(bomb)
    assert (tmp_path / "boom").exists(), "it is a bomb indeed"


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x02\x82\x01.",
        b"Psomething\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"(I1\nI2\nt.",
        b"I1\n2.",
    ],
    ids=["GLOBAL", "INST", "EXT1", "PERSID", "STACK_GLOBAL", "TUPLE", "DUP"],
)
def test_every_other_instruction_ends_the_reading(program: bytes, request: pytest.FixtureRequest) -> None:
    with pytest.raises(OvssError, match=rf"unsafe instruction {request.node.callspec.id}, "):
        plain_pickle.read(program, "x.pkl")


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"not a pickle",
        pickle.dumps(LISTS)[:-5],
        b"]",
        b".",
        b"(.",
        b"I1\nI2\n.",
        b"a.",
        b"I1\nI2\na.",
        b"](I1\nI2\nu.",
        b"}(I1\nu.",
        b"}]I1\ns.",
        b"e.",
        b"g7\n.",
        b"X\xff\xff\xff\x7fabc.",
    ],
)
def test_what_is_damaged_is_an_error_that_names_the_file(damaged: bytes) -> None:
    with pytest.raises(OvssError, match=r"fold0\.pkl: .*Download it again"):
        plain_pickle.read(damaged, "fold0.pkl")


def test_a_list_may_hold_itself() -> None:
    turning: list[Any] = []
    turning.append(turning)
    made = plain_pickle.read(pickle.dumps(turning), "x.pkl")
    assert made[0] is made
