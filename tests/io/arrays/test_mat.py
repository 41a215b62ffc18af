"""Label maps in MATLAB's files."""

import io
import random
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from ovss_ray.errors import OvssError
from ovss_ray.io.arrays import mat


def saved(compressed: bool = False, **variables: object) -> bytes:
    sink = io.BytesIO()
    savemat(sink, variables, do_compression=compressed)
    return sink.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int16, np.int32, np.uint32])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 7), (64, 33)])
def test_what_scipy_writes_is_read(compressed: bool, kind: type, shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).integers(0, 127, shape).astype(kind)
    data = saved(compressed, other="words", Map=values, more=np.eye(3))
    found = mat.label_map(data, "Map", "x.mat")
    assert found.dtype == kind
    assert np.array_equal(found, values)


def test_what_matlab_wrote_is_read_as_scipy_reads_it(shared: Path) -> None:
    files = sorted((shared / "data/real/cocostuff_examples/cocostuff10k_things").glob("*.mat"))
    assert len(files) == 2
    for file in files:
        expected = loadmat(file)["labelMapThings"]
        found = mat.label_map(file.read_bytes(), "labelMapThings", file.name)
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("other", [np.eye(3), "words", {"a": 1}, np.zeros((2, 2, 2), np.uint8)])
def test_a_variable_that_is_no_label_map_is_told(other: object) -> None:
    with pytest.raises(OvssError, match=r"^x\.mat: "):
        mat.label_map(saved(Map=other), "Map", "x.mat")


def test_a_file_without_the_variable_is_told_from_a_damaged_one() -> None:
    data = saved(Other=np.ones((2, 2), np.uint8))
    with pytest.raises(OvssError, match=r"x\.mat: no variable 'Map'"):
        mat.label_map(data, "Map", "x.mat")
    for damaged in (b"", data[:100], b"MATLAB 7.3" + data[10:124] + b"\x00\x02IM" + data[128:], data[:-9]):
        with pytest.raises(OvssError, match=r"x\.mat: cannot be read as a \.mat file"):
            mat.label_map(damaged, "Other", "x.mat")


@pytest.mark.parametrize("compressed", [False, True])
def test_damage_of_any_kind_is_an_error_or_changes_values_alone(compressed: bool) -> None:
    whole, chance, refused = saved(compressed, Map=np.arange(600, dtype=np.uint16).reshape(20, 30)), random.Random(7), 0
    for _ in range(1000):
        bent = bytearray(whole[: chance.choice([len(whole), chance.randrange(len(whole))])])
        for _ in range(chance.choice([0, 1, 4])):
            if bent:
                bent[chance.randrange(min(len(bent), 400))] = chance.randrange(256)
        try:
            assert mat.label_map(bytes(bent), "Map", "x.mat").ndim == 2
        except OvssError as failure:
            refused += str(failure).startswith("x.mat: ")
    assert refused > 500
