"""Truth is part of a run: a file that has changed since it was scored makes its image due again."""

import http.server
import json
import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from rich.console import Console

from ovss_ray.api import compaction
from ovss_ray.cli import app
from ovss_ray.config import loading as configs
from ovss_ray.engine import evaluate
from ovss_ray.engine.display import Display
from ovss_ray.io import digests, files
from ovss_ray.io.arrays import mapped_tables
from ovss_ray.reports import report
from ovss_ray.runs import changes, records
from ovss_ray.runs import manifest as manifests
from ovss_ray.runs.folder import RunFolder
from ovss_ray.runs.plan import plan_run

IDS = ("a", "b", "c")


@pytest.fixture(autouse=True)
def long_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifests and records of three images are handled as those of very long runs: in files, in several blocks."""
    monkeypatch.setattr(mapped_tables, "FEW", 0)
    monkeypatch.setattr(mapped_tables, "BLOCK", 2)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three photographs that are bright, whose labels say that they are dark."""
    for folder in ("photos", "labels"):
        (tmp_path / folder).mkdir()
    for image in IDS:
        Image.new("RGB", (32, 24), (200, 200, 200)).save(tmp_path / f"photos/{image}.png")
        mend(tmp_path, image, 0)
    (tmp_path / "toy.yaml").write_text("images: photos/*.png\nlabels: labels/*.png\nclasses: [dark, bright]\n")
    return tmp_path


def mend(data: Path, image: str, label: int) -> None:
    Image.fromarray(np.full((24, 32), label, np.uint8)).save(
        data / f"labels/{image}.png", compress_level=0
    )  # of one size


def run(data: Path, *, out: str = "run", use: str = "tests.toys", **options: Any) -> tuple[dict[str, Any], list[str]]:
    """Evaluate; the benchmark's part of the report, and which images were done anew."""
    witness = data / "witness.txt"
    witness.write_text("")
    options = {"witness": str(witness)} if use == "tests.toys" else options
    raw = {
        "benchmarks": [f"folder:{data}/toy.yaml"],
        "data_root": str(data),
        "pools": [{"cpus": 0.5, "stages": [{"use": use, "options": options}]}],
    }
    made = evaluate.run(
        plan_run(configs.validate(raw, "test"), str(data / out)), Display(Console(quiet=True))
    ).model_dump(mode="json")
    (benchmark,) = made["benchmarks"].values()
    return benchmark, sorted(line.partition("@")[0] for line in witness.read_text().splitlines())


@pytest.mark.slow
def test_mended_labels_are_scored_anew_and_the_report_says_how_many(in_process: None, data: Path) -> None:
    first, done = run(data)
    assert (first["metrics"]["pacc"], first["files"]["changed"], done) == (0.0, 0, list(IDS))
    for image in "ab":
        mend(data, image, 1)
    second, done = run(data)
    assert done == ["a", "b"]
    assert second["metrics"]["pacc"] == pytest.approx(200 / 3)
    assert (second["images"], second["final"]) == ({"expected": 3, "scored": 3, "failed": 0}, True)
    assert second["files"]["changed"] == 2
    assert report.build(RunFolder(str(data / "run"))).model_dump(mode="json")["benchmarks"] == {
        f"folder:{data}/toy.yaml": second
    }
    assert run(data) == (second, []), "nothing is done a third time"


@pytest.mark.slow
def test_the_files_that_were_scored_first_count_again_when_they_are_back(in_process: None, data: Path) -> None:
    before = (data / "labels/a.png").read_bytes()
    first, _ = run(data)
    mend(data, "a", 1)
    run(data)
    (data / "labels/a.png").write_bytes(before)
    again, done = run(data)
    assert done == [], "a record of these very files is there"
    assert again["metrics"] == first["metrics"]


@pytest.mark.slow
def test_a_compact_run_has_nothing_to_do_until_a_file_changes(in_process: None, data: Path) -> None:
    """Then all images of its compact file are scored again: the sum has the earlier measurement of the changed one."""
    first, _ = run(data)
    folder = RunFolder(str(data / "run"))
    compaction.run(folder, print)
    again, done = run(data)
    assert (done, again["metrics"]) == ([], first["metrics"])
    assert again["files"] == {**first["files"], "compact": 3}
    mend(data, "a", 1)
    second, done = run(data)
    assert done == list(IDS)
    assert second["metrics"]["pacc"] == pytest.approx(100 / 3)
    assert (second["files"]["changed"], second["files"]["compact"]) == (1, 0)
    compaction.run(folder, print)
    third, done = run(data)
    assert (done, third["metrics"], third["files"]["compact"]) == ([], second["metrics"], 3)


@pytest.mark.slow
def test_a_changed_photograph_is_segmented_anew(in_process: None, data: Path) -> None:
    run(data)
    Image.new("RGB", (32, 24), (20, 20, 20)).save(data / "photos/c.png")
    mended, done = run(data)
    assert done == ["c"]
    assert mended["metrics"]["pacc"] == pytest.approx(100 / 3)


@pytest.mark.slow
def test_the_label_map_of_another_photograph_is_not_kept(in_process: None, data: Path) -> None:
    """The photograph changes, then it is the first one again: its record counts, and the map is of the second."""
    photo, label_map = data / "photos/c.png", data / "run/folder-toy/predictions/c.png"
    before = photo.read_bytes()
    run(data)
    Image.new("RGB", (32, 24), (20, 20, 20)).save(photo)
    run(data)
    assert np.asarray(Image.open(label_map)).max() == 0
    photo.write_bytes(before)
    assert run(data)[0]["metrics"]["pacc"] == 0.0
    assert not label_map.exists()
    assert (data / "run/folder-toy/predictions/a.png").exists()


def test_a_copy_of_the_data_costs_no_second_run(
    in_process: None, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first, _ = run(data)
    for folder in ("photos", "labels"):
        for file in (data / folder).iterdir():
            copy = file.with_suffix(".copy")
            shutil.copy(file, copy)
            copy.replace(file)
            os.utime(file, (1, 1))
    again, done = run(data)
    assert (again, done) == (first, [])


@pytest.mark.slow
def test_a_link_to_other_files_is_a_change_even_with_the_same_size_and_times(in_process: None, data: Path) -> None:
    (data / "labels").rename(data / "v1")
    shutil.copytree(data / "v1", data / "v2")
    (data / "labels").symlink_to(data / "v1")
    run(data)
    for image in IDS:
        Image.fromarray(np.full((24, 32), 1, np.uint8)).save(data / f"v2/{image}.png", compress_level=0)
        assert (data / f"v2/{image}.png").stat().st_size == (data / f"v1/{image}.png").stat().st_size
        shutil.copystat(data / f"v1/{image}.png", data / f"v2/{image}.png")
    (data / "labels").unlink()
    (data / "labels").symlink_to(data / "v2")
    mended, done = run(data)
    assert done == list(IDS)
    assert mended["metrics"]["pacc"] == 100.0


@pytest.mark.slow
def test_a_file_that_cannot_be_read_any_more_has_no_result(in_process: None, data: Path) -> None:
    run(data)
    (data / "labels/b.png").write_bytes(b"")
    broken, done = run(data)
    assert broken["images"] == {"expected": 3, "scored": 2, "failed": 1}
    assert [error["image_id"] for error in broken["errors"]] == ["b"]
    mend(data, "b", 0)
    whole, done = run(data)
    assert done == [], "its first record counts again"
    assert whole["final"]


@pytest.mark.slow
def test_a_report_warns_of_files_that_look_changed(
    in_process: None, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said() -> str:
        with pytest.raises(SystemExit):
            app.main(["report", str(data / "run")])
        return capsys.readouterr().err

    run(data)
    assert "changed in size or time" not in said()
    mend(data, "a", 1)
    assert "label files of 1 images have changed in size or time" in said()
    shutil.rmtree(data / "labels")
    assert "changed in size or time" not in said(), "a report is also read where the data are not"


@pytest.mark.slow
def test_an_interrupted_second_run_does_not_make_the_old_number_good(in_process: None, data: Path) -> None:
    run(data)
    mend(data, "a", 1)
    request = plan_run(configs.load(data / "run/config.yaml"), str(data / "run"))
    evaluate._with_changes(request, request.manifests, Display(Console(quiet=True)))  # and then the power fails
    (half,) = report.build(RunFolder(str(data / "run"))).model_dump(mode="json")["benchmarks"].values()
    assert (half["images"]["scored"], half["final"]) == (2, False)
    assert run(data)[1] == ["a"]


@pytest.mark.slow
def test_predictions_are_scored_against_the_labels_of_now(in_process: None, data: Path) -> None:
    (data / "pred").mkdir()
    for image in IDS:
        Image.fromarray(np.ones((24, 32), np.uint8)).save(data / f"pred/{image}.png")
    given = {"use": "predictions", "path": str(data / "pred")}
    assert run(data, **given)[0]["metrics"]["miou"] == 0.0
    Image.new("RGB", (32, 24), (9, 9, 9)).save(data / "photos/a.png")
    assert run(data, **given)[0]["files"]["changed"] == 0, "nobody looks at the photographs"
    for image in IDS:
        mend(data, image, 1)
    mended = run(data, **given)[0]
    assert (mended["metrics"]["miou"], mended["files"]["changed"], mended["final"]) == (100.0, 3, True)


@pytest.mark.slow
def test_a_file_that_changes_while_the_run_goes_on_is_not_passed_over(
    in_process: None, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = evaluate._finish

    def change_at_the_end(*arguments: Any) -> None:
        finish(*arguments)
        mend(data, "b", 1)

    monkeypatch.setattr(evaluate, "_finish", change_at_the_end)
    first, _ = run(data)
    assert (first["images"]["scored"], first["final"]) == (2, False)
    monkeypatch.setattr(evaluate, "_finish", finish)
    assert run(data)[1] == ["b"]


def record(image: str, digest: str, error: str = "", hits: int = 1, photo: str = "photo", **stamps: str) -> pa.Table:
    cells = {"truth": np.array([0], np.uint16), "prediction": np.array([0], np.uint16), "pixels": np.array([hits])}
    row = {
        **{"image_id": image, "error": error, "benchmark": "toy", "seconds": {}, "confusion": cells},
        **{"image_digest": photo, "truth_digest": digest, **stamps},
    }
    return records.table({name: np.array([value, None], object)[:1] for name, value in row.items()})


@pytest.mark.parametrize("hits", range(1, 5))
def test_failed_and_good_records_of_one_part_are_both_had(tmp_path: Path, hits: int) -> None:
    mixed = [record("a", "x", hits=hits), record("b", "", error="broken"), record("c", "x")]
    records.append(str(tmp_path), pa.concat_tables(mixed))
    records.append(str(tmp_path), pa.concat_tables([record("d", "", error="broken"), record("e", "x", hits=hits)]))
    rows = [row for part in records.read(str(tmp_path)) for row in part.to_pylist()]
    assert {row["image_id"]: row["error"] for row in rows} == {"a": "", "b": "broken", "c": "", "d": "broken", "e": ""}


@pytest.mark.parametrize("hits", range(1, 9))
def test_of_two_good_records_the_one_of_the_files_now_counts_in_any_order(tmp_path: Path, hits: int) -> None:
    """The names of part files are hashes: other pixels change their order."""
    for digest, pixels in (("old", hits), ("new", 100 + hits)):
        records.append(str(tmp_path), record("a", digest, hits=pixels))
    for digest, pixels in (("old", hits), ("new", 100 + hits)):
        manifest = pa.table({"image_id": ["a"], "image_digest": [""], "truth_digest": [digest]})
        (part,) = records.read(str(tmp_path), manifest)
        assert part["confusion"].to_pylist()[0]["pixels"] == [pixels]
        settled = records.settle(str(tmp_path), manifest)
        assert (settled.changed, settled.due) == (1, 0)


def test_a_failed_record_of_the_files_now_comes_before_a_good_one_of_others(tmp_path: Path) -> None:
    records.append(str(tmp_path), record("a", "old"))
    records.append(str(tmp_path), record("a", "", error="truth: broken"))
    manifest = pa.table({"image_id": ["a"], "image_digest": [""], "truth_digest": ["new"]})
    (part,) = records.read(str(tmp_path), manifest)
    assert part["error"].to_pylist() == ["truth: broken"]
    assert len(records.missing(manifest, str(tmp_path))) == 1


def test_records_that_disagree_are_settled_by_a_look_at_the_file(data: Path) -> None:
    now = digests.of((data / "labels/a.png").read_bytes())
    folder = str(data / "records")
    for digest in ("other", now):
        records.append(folder, record("a", digest))
    request = plan_run(configs.validate(asked(data), "test"), str(data / "run"))
    (table,) = request.manifests.values()
    settled = changes.looked_up(table, None, folder, print)
    assert dict(zip(settled["image_id"].to_pylist(), settled["truth_digest"].to_pylist(), strict=True))["a"] == now


def asked(data: Path) -> dict[str, Any]:
    stages = [{"use": "oracle"}]
    return {"benchmarks": [f"folder:{data}/toy.yaml"], "data_root": str(data), "pools": [{"stages": stages}]}


def test_only_files_with_another_stamp_are_read(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = listed(data)
    folder = scored(data, before)
    mend(data, "b", 1)
    now = listed(data)
    read: list[str] = []
    monkeypatch.setattr(files, "read", lambda uri, read=read, of=files.read: (read.append(uri), of(uri))[1])
    settled = changes.looked_up(now, before, folder, print)
    assert [uri for uri in read if "records" not in uri] == [str(data / "labels/b.png")]
    assert sum(value != "" for value in settled["truth_digest"].to_pylist()) == 1
    assert set(settled["image_digest"].to_pylist()) == {""}


def listed(data: Path) -> pa.Table:
    """The manifest of the data as they are now."""
    (table,) = plan_run(configs.validate(asked(data), "test"), str(data / "run")).manifests.values()
    return table


def scored(data: Path, stamps: pa.Table | None = None, digested: bool = True) -> str:
    """Write a record of each image, of the files as they are now; the folder of the records."""
    folder = str(data / "records")
    for row in (stamps or listed(data)).to_pylist():
        truth, photo = (
            digests.of(Path(row[uri]).read_bytes()) if digested else "" for uri in ("truth_uri", "image_uri")
        )
        stamp = {name: row[name] for name in records.STAMPS} if stamps else {}
        records.append(folder, record(row["image_id"], truth, photo=photo, **stamp))
    return folder


def due(table: pa.Table, folder: str) -> list[str]:
    return sorted(records.missing(table, folder)["image_id"].to_pylist())


def test_records_of_another_machine_are_compared_with_the_files_here(data: Path) -> None:
    """Part files that were copied from a run on other labels: nothing here has changed, but they are of other files."""
    there = scored(data)
    for image in "ab":
        mend(data, image, 1)
    before = changes.looked_up(listed(data), None, str(data / "none"), print)
    assert due(changes.looked_up(listed(data), before, there, print), there) == ["a", "b"]


def test_labels_mended_while_the_manifest_is_gone_are_noticed(data: Path) -> None:
    """The message of a damaged manifest says: delete it."""
    folder = scored(data, listed(data))
    mend(data, "c", 1)
    assert due(changes.looked_up(listed(data), None, folder, print), folder) == ["c"]


def test_a_record_without_digests_does_not_outlive_a_change(data: Path) -> None:
    folder = scored(data, digested=False)
    first = changes.looked_up(listed(data), listed(data).select(manifests.SCHEMA.names), folder, print)
    assert due(first, folder) == [], "an earlier version listed no stamps: nobody can tell"
    mend(data, "b", 1)
    second = changes.looked_up(listed(data), first, folder, print)
    assert due(second, folder) == ["b"]
    assert records.settle(folder, second).undigested == 2
    assert due(changes.looked_up(listed(data), second, folder, print), folder) == ["b"], "nor the next command"


def test_files_of_which_nothing_is_known_are_read(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as those of a server that gives neither length nor time."""
    monkeypatch.setattr(files, "stamp", lambda uri: "")
    folder = scored(data, listed(data))
    before = changes.looked_up(listed(data), None, folder, print)
    assert due(before, folder) == []
    mend(data, "a", 1)
    assert due(changes.looked_up(listed(data), before, folder, print), folder) == ["a"]


def test_the_manifests_and_records_of_earlier_versions_are_read(data: Path) -> None:
    (table,) = plan_run(configs.validate(asked(data), "test"), str(data / "run")).manifests.values()
    old = table.select(manifests.SCHEMA.names)
    manifests.save(old, str(data / "old.parquet"))
    before = manifests.load(str(data / "old.parquet"))
    assert before.column_names == manifests.SCHEMA.names
    folder = str(data / "records")
    for image in IDS:
        records.append(folder, record(image, "", photo=""))
    settled = changes.looked_up(table, before, folder, print)
    assert len(records.missing(settled, folder)) == 0


@pytest.fixture
def web(data: Path) -> Iterator[str]:
    """The data behind a web server, which knows the length of a file, no ETag, and the time of a photograph."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def send_header(self, name: str, value: str) -> None:
            if name != "Last-Modified" or "/photos/" in self.path:
                super().send_header(name, value)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(data)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_an_address_without_a_time_is_known_by_its_length(data: Path, web: str) -> None:
    before = files.stamp(f"{web}/labels/a.png")
    assert before == f"{(data / 'labels/a.png').stat().st_size} {web}/labels/a.png"
    assert files.stamp(f"{web}/labels/b.png") != before, "another file of the same size"
    (data / "labels/a.png").write_bytes(b"another length")
    assert files.stamp(f"{web}/labels/a.png") != before
    assert files.stamp(f"{web}/labels/none.png") == "absent"


def test_the_time_that_a_web_server_gives_is_part_of_the_stamp(data: Path, web: str) -> None:
    before = files.stamp(f"{web}/photos/a.png")
    os.utime(data / "photos/a.png", (1, 1))
    assert files.stamp(f"{web}/photos/a.png") != before, "of the same length"


def test_an_address_of_this_machine_is_looked_at_again_after_the_run(data: Path) -> None:
    table = listed(data).set_column(3, "image_uri", pa.array([f"file://{data}/photos/{image}.png" for image in IDS]))
    table = changes.looked_up(table, None, str(data / "none"), print)
    os.utime(data / "photos/b.png", (1, 1))
    before, now = (some["image_stamp"].to_pylist() for some in (table, changes.restamped(table)))
    assert [old == new for old, new in zip(before, now, strict=True)] == [True, False, True]


def test_the_stamp_of_a_file_in_memory_has_its_time_or_size() -> None:
    files.write("memory://stamps/a", b"12345")
    before = files.stamp("memory://stamps/a")
    files.write("memory://stamps/a", b"1234567")
    assert files.stamp("memory://stamps/a") != before
    assert files.stamp("memory://stamps/b") == "absent"


def test_the_record_holds_the_digests_and_the_report_the_time_they_took(in_process: None, data: Path) -> None:
    run(data)
    rows = [row for part in records.read(str(data / "run/folder-toy/records")) for row in part.to_pylist()]
    for row in rows:
        assert row["truth_digest"] == digests.of((data / f"labels/{row['image_id']}.png").read_bytes())
        assert row["image_digest"] == digests.of((data / f"photos/{row['image_id']}.png").read_bytes())
        assert dict(row["seconds"])["digest"] >= 0
    made = json.loads((data / "run/report.json").read_text())
    assert "digest" in made["run"]["seconds"][f"folder:{data}/toy.yaml"]
