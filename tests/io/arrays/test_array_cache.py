"""Arrays are kept on disk, bounded in bytes, and never trusted blindly."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from ovss_ray.io.arrays.array_cache import ArrayCache


def filled(cache: ArrayCache, key: str, value: float) -> np.ndarray:
    return cache.get(key, lambda: np.full((10, 10), value, np.float32))


def test_kept_arrays_are_mapped_and_cannot_be_changed(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path)
    filled(cache, "a", 1)
    kept = filled(cache, "a", 2)
    assert isinstance(kept, np.memmap)
    assert (kept == 1).all()
    with pytest.raises(ValueError, match="read-only"):
        kept[0, 0] = 3


@pytest.mark.parametrize("damage", [lambda data: data[:-4], lambda data: data[:-1] + b"\x01", lambda data: b""])
def test_a_damaged_file_is_made_again_not_trusted(tmp_path: Path, damage: object) -> None:
    cache = ArrayCache(tmp_path)
    filled(cache, "a", 1)
    (file,) = tmp_path.iterdir()
    assert callable(damage)
    file.write_bytes(damage(file.read_bytes()))
    assert (filled(cache, "a", 2) == 2).all()
    assert (filled(cache, "a", 3) == 2).all()


def test_files_that_another_process_deletes_meanwhile_are_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: [*listed(folder), folder / "deleted.0.npy"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "cannot write the cache"
        filled(ArrayCache(tmp_path), "a", 1)


def test_the_cache_forgets_what_was_unused_for_longest(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path, limit_bytes=1200)  # two arrays of 400 bytes, and their headers
    for age, key in enumerate("ab"):
        filled(cache, key, 1)
        (file,) = tmp_path.glob(f"{key}.*")
        os.utime(file, (1000 + age, 1000 + age))
    filled(cache, "a", 1)  # used again, so now `b` is the oldest
    filled(cache, "c", 1)
    assert sorted(file.name[0] for file in tmp_path.iterdir()) == ["a", "c"]


def test_a_folder_that_cannot_be_written_costs_a_warning_only(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="OVSS_CACHE"):
        assert (filled(ArrayCache(tmp_path / "taken"), "a", 1) == 1).all()


def test_the_cache_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVSS_CACHE", str(tmp_path))
    assert ArrayCache().folder == tmp_path / "arrays"
