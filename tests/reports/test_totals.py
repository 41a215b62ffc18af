"""One pass over the records: how often a file is read, and what is said where a metric has not measured every image."""

import io
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from ovss_ray.io import files
from ovss_ray.metrics import confusion
from ovss_ray.reports import report, terminal, totals
from ovss_ray.reports.schema import Images
from ovss_ray.reports.totals import Total
from ovss_ray.runs import manifest, records
from ovss_ray.runs.folder import RunFolder
from tests.metrics.dice import SOURCE
from tests.reports.test_report import batch, cells, make

pytestmark = pytest.mark.ray
PARTS = [[0, 1, 2], [3, 4], [2, 5, 6, 7], [8, 9, 10, 11]]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], set[int]]:
    """How often each file whose address has some words in it was read, as a set of numbers."""
    counted: Counter[str] = Counter()

    def count(read: Callable[..., Any], uri: str | Path, *columns: Any) -> Any:
        counted[str(uri)] += 1
        return read(uri, *columns)

    monkeypatch.setattr(files, "read", partial(count, files.read))
    monkeypatch.setattr(manifest, "load", partial(count, manifest.load))  # which reads row by row, without files.read
    return lambda words: {number for uri, number in counted.items() if words in uri}


def test_a_report_reads_each_record_file_and_the_manifest_once(
    tmp_path: Path, reads: Callable[[str], set[int]]
) -> None:
    run = make(tmp_path / "run", PARTS, failed=(4,))
    built = report.assemble(run, totals.read(run, images=True))
    assert built.benchmarks["camvid"].images == Images(expected=12, scored=11, failed=1)
    assert reads("/records/") == {1}
    assert reads("manifest.parquet") == {1}


def test_records_that_do_not_fit_into_memory_are_read_twice(tmp_path: Path, reads: Callable[[str], set[int]]) -> None:
    run = make(tmp_path / "run", PARTS)
    whole = report.build(run)

    def tight(folder: str, among: pa.Table, of: Callable[[pa.Table], Total]) -> tuple[records.Settled, Total | None]:
        return records.fold(folder, among, of, room=0)

    assert report.build(run, tight) == whole
    assert reads("/records/") == {3}, "once, and then twice"


@pytest.mark.parametrize("parts", [[[4, 5], [0, 1, 2], [3, 6, 7]], [[7, 6, 5, 4, 3, 2, 1, 0]], [[k] for k in range(8)]])
def test_all_that_a_report_says_is_the_same_for_any_cut_of_the_records(tmp_path: Path, parts: list[list[int]]) -> None:
    first = report.build(make(tmp_path / "first", [list(range(8))], failed=(1, 4, 6)))
    other = report.build(make(tmp_path / "other", parts, failed=(1, 4, 6)))
    assert other == first
    assert [error.image_id for error in other.benchmarks["camvid"].errors] == ["i01", "i04", "i06"]


def test_seconds_are_means_over_the_scored_images_to_the_last_digit(tmp_path: Path) -> None:
    run = make(tmp_path / "run", [])
    spent = np.random.default_rng(0).uniform(1e-6, 3.0, 9).astype(np.float32)
    for numbers in ([0, 1, 2, 3], [4, 5, 6, 7, 8]):
        rows = batch(numbers, failed=(3,))
        rows["seconds"] = np.array([{"san": spent[k], "decode": spent[-k]} for k in numbers], object)
        records.append(run.records("camvid"), records.table(rows))
    scored = [k for k in range(9) if k != 3]
    assert report.build(run).run.seconds["camvid"] == {
        "san": sum(float(spent[k]) for k in scored) / 8,
        "decode": sum(float(spent[-k]) for k in scored) / 8,
    }


def test_each_image_has_the_miou_of_its_own_matrix(tmp_path: Path) -> None:
    run = make(tmp_path / "run", PARTS, failed=(7,))
    found = {row["image_id"]: row["miou"] for row in totals.read(run, images=True)["camvid"].images()}
    expected = {
        f"i{k:02}": confusion.Partial.of(pa.array([cells(k)], confusion.schema), 3).image_miou for k in range(12)
    }
    assert found == {**expected, "i07": None}


def with_dice(folder: Path, measured: list[int], others: list[int], monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run of which some images have a metric of the user's own, and others, in another part file, have not."""
    name = f"own_{folder.name.replace('-', '_')}"
    (folder / f"{name}").mkdir()
    (folder / name / "dice.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(folder)
    run = make(folder / "run", [others], expected=len(measured) + len(others))
    text = Path(run.file("config.yaml")).read_text()
    Path(run.file("config.yaml")).write_text(f"{text}metrics: [{name}.dice]\n")
    dice = {"common": [5, 4, 3], "areas": [10, 16, 12]}
    column = np.array([*([dice] * len(measured)), None], object)[:-1]
    records.append(run.records("camvid"), records.table({**batch(measured, ()), f"{name}.dice": column}))
    return run


def test_a_metric_that_has_not_measured_every_image_says_on_how_many_it_rests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = with_dice(tmp_path, [0, 1], [2, 3, 4], monkeypatch)
    built = report.build(run)
    (own,) = run.config().metrics
    found = built.benchmarks["camvid"]
    assert found.final, "every image is scored"
    assert found.measured == {"confusion": 5, own: 2}
    assert found.metrics["dice"] == pytest.approx((100 + 50 + 50) / 3)
    assert [row["dice"] for row in found.model_dump()["classes"]] == [100.0, 50.0, 50.0]
    console = Console(record=True, width=160, file=io.StringIO())
    terminal.show(built, console)
    shown = console.export_text()
    assert "5/5 │" in shown
    assert "2/5 not final │     66.67 │" in shown


def test_a_metric_that_has_measured_nothing_has_no_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = with_dice(tmp_path, [], [0, 1], monkeypatch)
    found = report.build(run).benchmarks["camvid"]
    assert found.measured == {"confusion": 2, run.config().metrics[0]: 0}
    assert found.metrics["dice"] is None
