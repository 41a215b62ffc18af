"""Merged classes, classes of interest and buckets: the scores of a benchmark that had them from the start."""

import re
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from ovss_ray.cli.app import app
from ovss_ray.errors import OvssError
from ovss_ray.metrics import confusion
from ovss_ray.reports import report, subsets, totals
from ovss_ray.reports.schema import BenchmarkReport, Report
from ovss_ray.reports.totals import Reading
from ovss_ray.structures.columns import NONE
from tests.reports import test_report
from tests.reports.test_intervals import LABELS, WHOLE, maps, reading, rows


def scores(content: Reading) -> BenchmarkReport:
    return report.numbers(content)


def test_merged_classes_have_the_scores_of_a_matrix_whose_rows_and_columns_are_added() -> None:
    counts = WHOLE.total.partials["confusion"].counts
    target = np.array([0, 1, 2, 1, 3, 1, 4])  # c1 + c3 + c5; the last is NONE
    expected = np.zeros((4, 5), np.int64)
    np.add.at(expected, (target[:LABELS, None], target[None]), counts)
    merged = subsets.merged(WHOLE, {"vehicle": ["c1", "c3", "5"]})
    partial = merged.total.partials["confusion"]
    assert merged.card["labels"] == ["c0", "vehicle", "c2", "c4"]
    assert np.array_equal(partial.counts, expected)
    built = scores(merged)
    assert built.metrics["miou"] == pytest.approx(partial.miou)
    assert built.bootstrap is not None
    low, high = built.bootstrap.metrics["miou"]
    assert low < partial.miou < high
    assert built.groups == {}
    assert WHOLE.total.partials["confusion"].counts is counts, "the content itself is unchanged"


def test_merging_all_classes_leaves_the_pixels_without_a_class() -> None:
    merged = subsets.merged(WHOLE, {"all": [f"c{k}" for k in range(LABELS)]})
    matrix = WHOLE.total.partials["confusion"].counts
    assert merged.total.partials["confusion"].counts.tolist() == [[matrix[:, :-1].sum(), matrix[:, -1].sum()]]


def test_classes_of_interest_are_a_group() -> None:
    built = scores(subsets.selected(WHOLE, {}, ["c5", "c0", "1", "c0"]))
    assert built.groups[subsets.INTEREST].model_dump() == scores(WHOLE).groups["first"].model_dump()
    assert built.bootstrap is not None
    assert set(built.bootstrap.groups[subsets.INTEREST]) == {"miou", "pooled_iou"}


@pytest.mark.parametrize(
    ("word", "names"),
    [("3", ["c3"]), ("c3", ["c3"]), ("2", ["vehicle"]), ("c1", ["vehicle"]), ("vehicle", ["vehicle"]), ("5", ["c5"])],
)
def test_classes_of_interest_are_those_before_the_merge(word: str, names: list[str]) -> None:
    content = subsets.selected(WHOLE, {"vehicle": ["c1", "c2"]}, [word])
    labels = content.card["labels"]
    assert labels == ["c0", "vehicle", "c3", "c4", "c5"]
    assert [labels[c] for c in content.card["groups"][subsets.INTEREST]] == names


def test_classes_with_equal_names_stay_apart_if_they_are_not_merged() -> None:
    twins = replace(WHOLE, card={**WHOLE.card, "labels": ["c0", "bow", "bow", "c3", "c4", "c5"]})
    merged = subsets.merged(twins, {"rest": ["c3", "c4"]})
    assert merged.card["labels"] == ["c0", "bow", "bow", "rest", "c5"]
    iou = scores(merged).classes
    assert [of.iou for of in iou[1:3]] == [of.iou for of in scores(WHOLE).classes[1:3]]
    assert iou[1].iou != iou[2].iou


@pytest.mark.parametrize(
    ("merge", "message"),
    [
        ({"x": ["c9"]}, "unknown class 'c9'"),
        ({"x": ["c1"], "y": ["c1", "c2"]}, "'c1' is merged into 'x' and into 'y'"),
        ({"c4": ["c1", "c2"]}, "'c4' is the name of another class"),
    ],
)
def test_merges_that_do_not_fit_are_refused(merge: dict[str, list[str]], message: str) -> None:
    with pytest.raises(OvssError, match=message):
        subsets.merged(WHOLE, merge)


def test_a_class_may_give_its_name_to_the_merged_one() -> None:
    assert subsets.merged(WHOLE, {"c1": ["c1", "c2"]}).card["labels"] == ["c0", "c1", "c3", "c4", "c5"]


def test_the_form_of_merges() -> None:
    assert subsets.parse(["vehicle=car, truck,bus", "b=a"]) == {"vehicle": ["car", "truck", "bus"], "b": ["a"]}
    for wrong in ("vehicle", "vehicle=", "=car", "vehicle=,"):
        with pytest.raises(OvssError, match="expected NAME=CLASS"):
            subsets.parse([wrong])
    with pytest.raises(OvssError, match="listed twice"):
        subsets.parse(["a=b", "a=c"])


def test_without_cells_nothing_can_be_merged() -> None:
    plain = Reading(WHOLE.card, WHOLE.listed, WHOLE.settled, WHOLE.total.empty(LABELS, ["confusion"]))
    for fold in (lambda: subsets.merged(plain, {"x": ["c1"]}), lambda: subsets.by_size(plain)):
        with pytest.raises(OvssError, match="--ids or --limit"):
            fold()


def test_every_class_is_in_the_bucket_of_its_number_of_photographs() -> None:
    groups = subsets.by_frequency(WHOLE).card["groups"]
    seen = [sum(k in maps(image)["truth"] for image in range(40)) for k in range(LABELS)]
    rare, common, frequent = groups.values()
    assert rare == [k for k, n in enumerate(seen) if 0 < n < 10]
    assert common == [k for k, n in enumerate(seen) if 10 <= n < 100]
    assert frequent == []
    assert len(rare) > 0
    assert len(common) > 0


def test_pairs_of_image_and_class_are_sorted_by_the_share_of_the_image() -> None:
    cells = {"truth": [0, 0, 1, 2], "prediction": [0, 1, 1, 0], "pixels": [900, 40, 55, 5]}
    first = rows([0]).set_column(3, "confusion", pa.chunked_array([pa.array([cells], confusion.schema)]))
    small, middle, large = subsets.by_size(reading(first))
    assert (small.pairs, middle.pairs, large.pairs) == (1, 1, 1)
    assert (small.iou, small.acc) == (0.0, 0.0)
    assert (middle.iou, middle.acc) == pytest.approx((100 * 55 / 95, 100.0))
    assert (large.iou, large.acc) == pytest.approx((100 * 900 / 945, 100 * 900 / 940))
    assert sum(of.pairs for of in subsets.by_size(WHOLE)) == sum(len(set(maps(k)["truth"])) for k in range(40))


def test_sizes_of_void_images_and_of_many_classes_need_little_memory() -> None:
    void = {"truth": [], "prediction": [], "pixels": []}
    cells = {"truth": [64_000, 5], "prediction": [5, NONE], "pixels": [30, 10]}
    column = pa.chunked_array([pa.array([cells, void, cells], confusion.schema)])
    content = reading(rows([0, 1]))
    total = replace(content.total, cells=(rows([0, 1, 2]).set_column(3, "confusion", column),))
    listed = pa.table({"image_id": ["i000", "i001", "i002"], "image_uri": pa.nulls(3, pa.string())})
    many = replace(content, card={"labels": [str(c) for c in range(65_000)]}, total=total, listed=listed)
    tracemalloc.start()
    *_, large = subsets.by_size(many)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (large.pairs, large.iou, large.acc) == (4, 0.0, 0.0)
    assert peak < 1e6, "three arrays of 3 images times 65,001 labels have 4.7 MB"


def test_titles_state_the_coverage(tmp_path: Path) -> None:
    test_report.make(tmp_path / "run", [list(range(10))], failed=(3,))
    options = ["--merge", "ground=sky,road", "--only", "car", "--worst", "1", "--buckets"]
    shown = CliRunner().invoke(app, ["report", str(tmp_path / "run"), *options]).output
    shown = " ".join(shown.split())  # long titles are wrapped
    titles = ("with ground", "classes of interest", "these classes", "the 1 worst", "classes by frequency")
    for title in (*titles, "classes within images"):
        assert f"camvid (9/12 images, not final): {title}" in shown


def test_the_command_prints_what_was_selected(tmp_path: Path) -> None:
    run = test_report.make(tmp_path / "run", [list(range(12))])
    options = ["--merge", "ground=sky,road", "--only", "2", "--worst", "1", "--buckets"]
    shown = CliRunner().invoke(app, ["report", str(tmp_path / "run"), *options]).output
    shown = " ".join(shown.split())  # long titles are wrapped
    for words in ("with ground = sky + road", "classes of interest: mIoU", "the 1 worst of 3 classes", "by frequency"):
        assert words in shown
    car = totals.read(run)["camvid"].total.partials["confusion"].iou[2]
    assert f"classes of interest: mIoU {car:.2f} " in shown, "the index 2 is that of car, before the merge"
    plain = CliRunner().invoke(app, ["report", str(tmp_path / "run"), "--no-intervals"]).output
    assert "95 %" not in plain
    assert "95 % interval" in shown


def test_the_command_is_refused_before_it_writes_a_report_if_no_cells_were_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test_report.make(tmp_path / "run", [[0, 1], [2]])
    monkeypatch.setattr(totals, "CELLS_UP_TO", 5)
    for options in (["--buckets"], ["--merge", "both=sky,road"]):
        result = CliRunner().invoke(app, ["report", str(tmp_path / "run"), *options])
        assert isinstance(result.exception, OvssError)
        assert "camvid: --merge and --buckets are not possible: the confusion cells" in str(result.exception)
        assert not (tmp_path / "run/report.json").exists()
    assert CliRunner().invoke(app, ["report", str(tmp_path / "run"), "--only", "sky"]).exit_code == 0


def test_metrics_on_request_are_in_the_report_and_its_tables(tmp_path: Path) -> None:
    test_report.make(tmp_path / "run", [[0, 1], [2]])
    command = ["report", str(tmp_path / "run"), "--no-intervals"]
    shown = CliRunner().invoke(app, [*command, "--metrics", "mmseg, dice", "--classes"]).output
    assert "As in mmsegmentation, in percent" in shown
    built = Report.load(tmp_path / "run").benchmarks["camvid"]
    assert built.metrics["mmseg_miou"] == built.metrics["miou_classic"]
    assert "class_dice" in built.classes[0].model_dump()
    assert "mean_f_1" not in built.metrics
    assert "mmseg" not in CliRunner().invoke(app, command).output
    assert "mmseg_miou" not in Report.load(tmp_path / "run").benchmarks["camvid"].metrics
    wrong = CliRunner().invoke(app, [*command, "--metrics", "trimap"]).exception
    assert "--metrics trimap: trimap is not computed from finished records" in str(wrong)


def test_no_intervals_holds_for_selected_and_bucketed_classes(tmp_path: Path) -> None:
    run = test_report.make(tmp_path / "run", [list(range(12))])
    options = ["--merge", "ground=sky,road", "--only", "car", "--buckets", "--no-intervals"]
    done = CliRunner().invoke(app, ["report", str(tmp_path / "run"), *options])
    assert done.exit_code == 0
    assert "with ground = sky + road" in " ".join(done.output.split())
    assert re.search(r"\d\.\d\d–\d", done.output) is None, "no interval is printed"
    assert Report.load(run.uri).benchmarks["camvid"].bootstrap is None


def test_benchmarks_without_the_classes_are_left_out_with_a_sentence() -> None:
    labels = {"camvid": ["sky", "road"], "suim": ["water", "fish"]}
    assert list(subsets.unfit(labels, {}, ["road"])) == ["suim"]
    assert "unknown class 'fish'" in subsets.unfit(labels, {"x": ["fish", "water"]}, [])["camvid"]
    assert subsets.unfit(labels, {}, ["1"]) == {}
    with pytest.raises(OvssError, match=r"camvid: unknown class 'bus'.*; suim: unknown class 'bus'"):
        subsets.unfit(labels, {}, ["bus"])


def test_a_run_of_two_benchmarks_is_reported_if_only_one_has_the_class(tmp_path: Path) -> None:
    run = test_report.make(tmp_path / "run", [list(range(12))])
    other = test_report.make(tmp_path / "other", [list(range(12))], name="suim")
    card = {**other.facts("suim"), "labels": ["water", "fish", "rock"]}
    shutil.copytree(tmp_path / "other" / "suim", tmp_path / "run" / "suim")
    run.save_json(run.card("suim"), card)
    (tmp_path / "run" / "config.yaml").write_text(
        "benchmarks: ['suim', 'camvid']\npools:\n- stages:\n  - use: oracle\n"
    )
    done = CliRunner().invoke(app, ["report", run.uri, "--only", "car"])
    assert done.exit_code == 0, done.output
    assert "suim: no selected or merged classes: unknown class 'car'" in done.output.replace("\n", " ")
    assert "camvid (12/12 images): classes of interest: mIoU" in done.output
    Path(run.file("report.json")).unlink()
    for only, message in (("bus", "unknown class 'bus'"), (",", "expected CLASS,CLASS")):
        refused = CliRunner().invoke(app, ["report", run.uri, "--only", only])
        assert refused.exit_code != 0
        assert message in str(refused.exception) + refused.output
        assert not Path(run.file("report.json")).exists(), "refused before the report is written"
