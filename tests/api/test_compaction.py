"""A compact run: its sums are those of its records, nothing is counted twice, and what is lost is refused by name."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ovss_ray import metrics
from ovss_ray.api import compaction, comparison
from ovss_ray.api.remapping import remap
from ovss_ray.cli import reports as commands
from ovss_ray.engine.display import Display
from ovss_ray.engine.provisional import Running
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.metrics import instance_iou
from ovss_ray.reports import report, totals
from ovss_ray.reports.documents import run_page
from ovss_ray.reports.schema import Report
from ovss_ray.runs import compact, lease, records
from ovss_ray.runs import manifest as manifests
from ovss_ray.runs.folder import RunFolder
from tests.reports.test_algebra import IMAGES, rows

NAMES = ("camvid", "voc:20")
FOLDABLE = [metric.name for metric in metrics.built_in() if metric.sums]
RANKED = rows(True)
"""A good record of each image, with a measurement by every metric"""
GOOD = RANKED
for at, of_metric in enumerate(RANKED.schema):
    if of_metric.name in metrics.columns([of_metric.name]) and of_metric.name not in FOLDABLE:
        GOOD = GOOD.set_column(at, of_metric.name, pa.nulls(IMAGES, of_metric.type))
"""A good record of each image, with a measurement by every metric whose sum can be stored"""
GROUPS = {"foreground": [0, 1], "background": [2]}


class Killed(BaseException):
    """The end of a process between two steps."""


def make(folder: Path, *cuts: list[list[int]]) -> RunFolder:
    """A run on a benchmark for each of `cuts`, whose numbers are rows of GOOD: those of each file of records."""
    run, names = RunFolder(str(folder)), NAMES[: len(cuts)]
    listed = ", ".join(f"'{name}'" for name in names)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"benchmarks: [{listed}]\npools:\n- stages:\n  - use: oracle\n")
    run.save_json("identity.json", {"stages": [], "benchmarks": {name: {} for name in names}})
    run.save_json("environment.json", {"weights": []})
    for name, cut in zip(names, cuts, strict=True):
        selection = {"split": "val", "ids": None, "limit": None}
        card = {"title": name, "labels": list("abc"), "groups": GROUPS, "selection": selection}
        run.save_json(run.card(name), card)
        columns = {of.name: pa.nulls(IMAGES, of.type) for of in manifests.SCHEMA} | {"image_id": GOOD["image_id"]}
        manifests.save(pa.table(columns, manifests.SCHEMA), run.manifest(name))
        for part in cut:
            records.append(run.records(name), GOOD.take(part))
    return run


def numbers(of: Report) -> dict[str, Any]:
    """All that a report says, except for what compact runs lose."""
    lost = {"bootstrap": None}
    kept = {name: part.model_copy(update=lost).model_dump() for name, part in of.benchmarks.items()}
    for part in kept.values():
        del part["files"]["compact"]
    return {"benchmarks": kept, "folds": of.folds, "run": of.run.model_dump()}


def without_intervals(run: RunFolder) -> dict[str, Any]:
    return numbers(report.assemble(run, totals.read(run), bounds=False))


def said(run: RunFolder) -> list[str]:
    """Make a run compact in files of at least three images; the lines that are printed."""
    lines: list[str] = []
    with mock.patch.object(compaction, "IMAGES", 3):
        compaction.run(run, lines.append)
    return lines


def content(run: RunFolder) -> dict[str, bytes]:
    return {uri: files.read(uri) for name in NAMES for uri in records.parts(run.records(name))}


cuts = st.lists(st.integers(1, IMAGES - 1), max_size=6).map(sorted)


@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(range(IMAGES)), cuts, cuts)
def test_the_numbers_of_a_compact_run_are_those_of_its_records(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], first: list[int], second: list[int]
) -> None:
    def parts(ends: list[int]) -> list[list[int]]:
        places = sorted({0, *ends, IMAGES})
        return [order[a:b] for a, b in pairwise(places)]

    run = make(tmp_path_factory.mktemp("runs") / "run", parts(first), parts(second))
    before = without_intervals(run)
    assert set(before["benchmarks"]["camvid"]["measured"]) == set(FOLDABLE)
    said(run)
    after = Report.load(run.uri)
    assert numbers(after) == without_intervals(run) == before
    for name in NAMES:
        tables = [records.read_part(uri) for uri in records.parts(run.records(name))]
        assert all(map(compact.is_compact, tables))
        assert sum(len(of["image_id"][0]) for of in tables) == IMAGES
        assert after.benchmarks[name].files.compact == IMAGES
        assert after.benchmarks[name].bootstrap is None
    once = content(run)
    assert said(run) == []
    assert content(run) == once, "the second time there is nothing to do"


def test_a_run_that_is_cut_off_at_any_step_keeps_its_numbers_and_is_completed(tmp_path: Path) -> None:
    write, delete = records.write, files.delete

    def dying(step: Callable[..., Any], number: list[int]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            if "/records" in str(arguments[0]):
                number[0] -= 1
                if number[0] < 0:
                    raise Killed
            return step(*arguments)

        return wrapped

    parts = [[*range(5)], [*range(5, IMAGES)]]
    expected = without_intervals(make(tmp_path / "whole", parts))
    for steps in (1, 2, 3):  # two files are written, then two are deleted
        run = make(tmp_path / str(steps), parts)
        left = [steps]
        with (
            mock.patch.object(records, "write", dying(write, left)),
            mock.patch.object(files, "delete", dying(delete, left)),
            pytest.raises(Killed),
        ):
            said(run)
        assert without_intervals(run) == expected
        assert not len(records.missing(manifests.load(run.manifest("camvid")), run.records("camvid")))
        said(run)
        assert without_intervals(run) == expected
        assert all(compact.is_compact(records.read_part(uri)) for uri in content(run))


def test_sums_that_differ_from_the_records_keep_the_records(tmp_path: Path) -> None:
    run = make(tmp_path / "run", [[*range(IMAGES)]])
    before = content(run)
    unfolded = compact._unfolded

    def wrong(metric: metrics.Metric, row: Any) -> Any:
        partial = unfolded(metric, row)
        return partial + partial if metric.name == "trimap" else partial

    with mock.patch.object(compact, "_unfolded", wrong), pytest.raises(OvssError, match="No record was deleted"):
        said(run)
    assert content(run) == before


def test_only_finished_runs_become_compact_and_the_reason_is_named(tmp_path: Path) -> None:
    def refused(run: RunFolder, reason: str) -> None:
        before = content(run)
        with pytest.raises(OvssError, match=reason):
            said(run)
        assert content(run) == before

    refused(make(tmp_path / "part", [[0, 1]]), "camvid .* is not final: 2 of 12 images scored, 0 failed")
    failed = make(tmp_path / "failed", [[*range(1, IMAGES)]])
    records.append(failed.records("camvid"), rows(False).take([0]))
    refused(failed, "not final: 11 of 12 images scored, 1 failed. Repeat the command of this run")
    ranked = make(tmp_path / "ranked", [])
    records.append(ranked.records("camvid"), RANKED)
    refused(ranked, "camvid has metrics that cannot be computed from sums: instance_ap, instance_ap_lvis")
    unpaired = make(tmp_path / "unpaired", [[*range(IMAGES)]])
    left_out = [{"what": "label files without a photograph", "number": 2, "example": "a.png"}]
    unpaired.save_json(unpaired.card("camvid"), {**unpaired.json(unpaired.card("camvid")), "left_out": left_out})
    refused(unpaired, "0 failed, 2 files without a partner")
    whole = make(tmp_path / "whole", [[*range(IMAGES)]])
    with lease.held(whole, print):
        refused(whole, "another command works in this run folder")
    with mock.patch("ovss_ray.runs.changes.doubts", return_value=["camvid: 1 image has changed"]):
        refused(whole, "--compact needs an up-to-date run. camvid: 1 image has changed")
    with pytest.raises(OvssError, match="not the folder of a run"):
        compaction.run(RunFolder(str(tmp_path)), print)
    assert not (tmp_path / lease.FILE).exists()


def test_options_that_need_single_images_are_refused_or_explained(tmp_path: Path) -> None:
    run, other = (make(tmp_path / name, [[*range(IMAGES)]]) for name in ("run", "other"))
    said(run)
    lost = "`ovss report --compact` has replaced the records of single images by sums"
    for options in ({"images": True}, {"needed": ["camvid"]}):
        with pytest.raises(OvssError, match=f"not possible: .*{lost}.*new --out|not possible: {lost}"):
            comparison.rebuild(run, Display(), **options)
    with pytest.raises(OvssError, match=f"--mapping is not possible: camvid: {lost}"):
        remap(run.uri, "exact")
    assert lost in comparison.differences(run.uri, other.uri)[other.uri, "camvid"].refused
    built, readings = comparison.rebuild(run, Display())
    assert f"No values of single images: {lost}" in run_page.render(run, built, readings)
    assert not totals.read(run, images=True)["camvid"].images()


def test_the_command_says_what_is_lost_and_asks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path / "run", [[*range(IMAGES)]], [[*range(IMAGES)]])
    before = content(run)
    with pytest.raises(OvssError, match="Add --yes"):
        commands.report(run.uri, compact=True)
    shown = capsys.readouterr().out
    assert "95 % interval" in shown, "the report with all of its content comes first"
    assert "replaces the records of 24 images by sums. This cannot be undone. It deletes:\n  values of single" in shown
    with mock.patch("sys.stdin.isatty", return_value=True), mock.patch("typer.confirm", return_value=False):
        commands.report(run.uri, compact=True)
    assert "Nothing was changed" in capsys.readouterr().out
    assert content(run) == before
    commands.report(run.uri, compact=True, yes=True)
    assert "voc:20: compact: 1 files with the sums of 12 images replace 1 files of records" in capsys.readouterr().out
    assert json.loads((tmp_path / "run/report.json").read_text())["benchmarks"]["camvid"]["bootstrap"] is None
    commands.report(run.uri, compact=True)
    shown = capsys.readouterr().out
    assert "camvid: `ovss report --compact` has replaced the records of 12 images by sums: no intervals" in shown
    assert "compact: nothing to do" in shown


def test_a_changed_file_makes_all_images_of_its_compact_file_due(tmp_path: Path) -> None:
    """Their sum still has the earlier measurement, so it does not count; those of other files do."""
    digests = {name: pa.array([f"{name}{k}" for k in range(IMAGES)]) for name in records.DIGESTS}
    scored = GOOD
    for name, values in digests.items():
        scored = scored.set_column(scored.schema.get_field_index(name), name, values)
    run = make(tmp_path / "run", [])
    folder = run.records("camvid")
    for part in ([0, 1, 2], [3, 4, 5], [*range(6, IMAGES)]):
        records.append(folder, scored.take(part))
    said(run)

    def changed(**changes: str) -> pa.Table:
        now = [changes.get(image, "") for image in GOOD["image_id"].to_pylist()]
        return pa.table({"image_id": GOOD["image_id"], "image_digest": [""] * IMAGES, "truth_digest": now})

    assert not len(records.missing(changed(i04="truth_digest4"), folder)), "a copy of the same content"
    now = changed(i04="another")
    due = ["i03", "i04", "i05"]
    assert records.missing(now, folder)["image_id"].to_pylist() == due
    settled = records.settle(folder, now)
    assert (settled.changed, settled.due, settled.together, len(settled.compact)) == (1, 3, 2, 2)
    again = scored.take([3, 4, 5])
    again = again.set_column(
        again.schema.get_field_index("truth_digest"),
        "truth_digest",
        pa.array(["truth_digest3", "another", "truth_digest5"]),
    )
    records.append(folder, again)
    assert not len(records.missing(now, folder))
    settled, total = records.fold(folder, now, lambda part: totals.Total.of(part, 3))
    assert total is not None
    assert (total.scored, total.compact, settled.due, settled.changed) == (IMAGES, IMAGES - 3, 0, 1)
    assert total.partials["confusion"].result() == totals.read(run)["camvid"].total.partials["confusion"].result()


def test_sums_beyond_int64_are_stored_exactly_and_those_of_other_labels_are_refused() -> None:
    huge = instance_iou.Partial(np.array([2**80, 5, 0], object), np.array([3, 1, 0]))
    table = compact.table(GOOD[:2], 3, {"san": 2**70}, {"instance_iou": 2}, {"instance_iou": huge})
    (row,) = compact.sums(table, 3)
    assert row["partials"]["instance_iou"].iou_sum.tolist() == [2**80, 5, 0]
    assert (row["images"], row["spent"]) == (2, {"san": 2**70})
    with pytest.raises(OvssError, match="has sums over 3 labels, but the benchmark has 4"):
        list(compact.sums(table, 4))
    with (
        mock.patch.object(metrics, "load", return_value=mock.Mock(sums=pa.struct([("hits", pa.int64())]))),
        pytest.raises(OvssError, match=r"have the fields \['instances', 'iou_sum'\]"),
    ):
        list(compact.sums(table, 3))


def test_provisional_values_begin_with_the_sums(tmp_path: Path) -> None:
    run = make(tmp_path / "run", [[*range(IMAGES)]])
    expected = report.build(run).benchmarks["camvid"].metrics["miou"]
    said(run)
    plan = mock.Mock(
        folder=run,
        benchmarks={"camvid": mock.Mock(labels=list("abc"))},
        manifests={"camvid": manifests.load(run.manifest("camvid"))},
    )
    running = Running()
    running.begin(plan)
    values = {(value.benchmark, value.key): value for value in running.values()}
    assert values["camvid", "miou"].percent == expected
    assert values["camvid", "miou"].half is None
