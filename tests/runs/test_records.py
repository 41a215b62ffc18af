"""The set of records: writing twice, reading once, and subtracting."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.runs import records


def table(*rows: tuple[str, str]) -> pa.Table:
    """Records of images given as (image_id, error)."""
    cells = {"truth": np.array([1], np.uint16), "prediction": np.array([2], np.uint16), "pixels": np.array([3])}
    return records.table(
        {
            "image_id": np.array([image_id for image_id, _ in rows], object),
            "error": np.array([error for _, error in rows], object),
            "benchmark": np.array(["camvid"] * len(rows), object),
            "seconds": np.array([{"san": 0.5}] * len(rows), object),
            "confusion": np.array([{} if error else cells for _, error in rows], object),
        }
    )


def read(folder: Path, among: list[str] | None = None) -> dict[str, str]:
    rows = [
        row for part in records.read(str(folder), among and pa.table({"image_id": among})) for row in part.to_pylist()
    ]
    assert len({row["image_id"] for row in rows}) == len(rows)
    return {row["image_id"]: row["error"] for row in rows}


def test_writing_the_same_records_twice_changes_nothing(tmp_path: Path) -> None:
    names = {records.append(str(tmp_path), table(("a", ""), ("b", ""))) for _ in range(2)}
    assert len(names) == 1
    assert read(tmp_path) == {"a": "", "b": ""}


def test_a_good_record_wins_over_a_failed_one_whatever_the_order_of_the_files(tmp_path: Path) -> None:
    for k in range(4):
        folder = tmp_path / str(k)
        records.append(str(folder), table(("a", f"broken {k}"), ("b", "")))
        records.append(str(folder), table(("a", ""), ("c", "broken")))
        assert read(folder) == {"a": "", "b": "", "c": "broken"}


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["", "x", "y"])), min_size=1), min_size=1)
)
def test_the_set_holds_every_image_once_for_any_history(
    tmp_path_factory: pytest.TempPathFactory, history: list
) -> None:
    folder = tmp_path_factory.mktemp("records")
    for written in history:
        records.append(str(folder), table(*written))
    everything = [row for written in history for row in written]
    found = read(folder)
    assert set(found) == {image_id for image_id, _ in everything}
    for image_id, error in found.items():
        assert (error == "") == ((image_id, "") in everything)


def test_what_failed_after_it_was_measured_is_not_scored() -> None:
    cells = {"truth": np.array([1], np.uint16), "prediction": np.array([2], np.uint16), "pixels": np.array([3])}
    row = {"image_id": "a", "error": "save: disk full", "benchmark": "camvid", "seconds": {}, "confusion": cells}
    made = records.table({name: np.array([value, None], object)[:1] for name, value in row.items()})
    assert made["confusion"].to_pylist() == [None]


def test_missing_is_what_has_no_good_record(tmp_path: Path) -> None:
    manifest = pa.table({"image_id": ["a", "b", "c", "d"]})
    assert len(records.missing(manifest, str(tmp_path))) == 4
    records.append(str(tmp_path), table(("a", ""), ("b", "broken")))
    assert records.missing(manifest, str(tmp_path))["image_id"].to_pylist() == ["b", "c", "d"]


def test_records_of_images_that_are_not_in_the_manifest_do_not_count(tmp_path: Path) -> None:
    records.append(str(tmp_path), table(("a", ""), ("stranger", "")))
    assert read(tmp_path, ["a", "b"]) == {"a": ""}


def test_a_part_that_was_not_renamed_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(OvssError, match="cannot be written: no space left on device"):
            records.append(str(tmp_path), table(("a", "")))
    assert list(tmp_path.iterdir()) == []
    assert records.parts(str(tmp_path)) == []


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    name = records.append(str(tmp_path), table(("a", "")))
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:100])
    with pytest.raises(OvssError, match=f"{name}: damaged file of records"):
        read(tmp_path)


def test_a_part_whose_name_is_not_the_hash_of_its_content_is_refused(tmp_path: Path) -> None:
    name, other = (records.append(str(tmp_path), table((one, ""))) for one in "ab")
    (tmp_path / name).write_bytes((tmp_path / other).read_bytes())
    with pytest.raises(OvssError, match=f"{name}: .* Delete the file and run the same command again"):
        read(tmp_path)


def test_records_of_another_version_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = records.append(str(tmp_path), table(("a", "")))
    monkeypatch.setattr(records, "VERSION", "2")
    with pytest.raises(OvssError, match=f"{name}: records of version 1; this program reads version 2"):
        read(tmp_path)


def test_records_can_lie_behind_a_uri() -> None:
    folder = "memory://run/camvid/records"
    name = records.append(folder, table(("a", "")))
    assert records.parts(folder) == [files.join(folder, name)]
    assert [row["image_id"] for part in records.read(folder) for row in part.to_pylist()] == ["a"]
