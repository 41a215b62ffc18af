"""Tables of reports for programs, issues and papers; predictions as detectron2's JSON; leaderboards."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ovss_ray import evaluate
from ovss_ray.actors import predictions
from ovss_ray.cli.app import app
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.io.images import decode_labels
from ovss_ray.reports.documents import values
from ovss_ray.reports.documents.exports import coco_rle, leaderboard, tables
from ovss_ray.reports.documents.pictures import saved_maps
from ovss_ray.reports.schema import Report
from ovss_ray.runs.folder import RunFolder
from ovss_ray.structures.words import NOTE
from tests import in_process
from tests.paths import ROOT
from tests.reports.documents.conftest import HOSTILE, NAMES, evaluated

OLD = ROOT / "tests/data/old_runs"


def ovss(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.output


def test_the_csv_has_every_number_of_the_report(run: RunFolder, tmp_path: Path) -> None:
    ovss("report", run.uri, "--csv", str(tmp_path / "all.csv"))
    report = Report.load(run.uri)
    (benchmark,) = report.benchmarks.values()
    rows = list(csv.DictReader((tmp_path / "all.csv").open(newline="")))
    whole = {row["value"]: row for row in rows if row["of"] == "all"}
    assert {key: float(row["number"]) for key, row in whole.items()} == dict(benchmark.metrics)
    assert benchmark.bootstrap
    ends = float(whole["miou"]["interval_low"]), float(whole["miou"]["interval_high"])
    assert ends == benchmark.bootstrap.metrics["miou"]
    for key in ("iou", "acc"):
        of_classes = [row for row in rows if (row["of"], row["value"]) == ("class", key)]
        content = [score.model_dump() for score in benchmark.classes]
        assert {row["name"]: float(row["number"]) for row in of_classes} == {of["name"]: of[key] for of in content}
        bounds = [(float(row["interval_low"]), float(row["interval_high"])) for row in of_classes]
        assert bounds == list(benchmark.bootstrap.classes[key])
    assert {row["expected"] for row in rows} == {"8"}


def test_no_text_of_the_csv_is_a_formula(run: RunFolder) -> None:
    report = Report.load(run.uri)
    ((_, benchmark),) = report.benchmarks.items()
    (first, *rest) = benchmark.classes
    classes = (first.model_copy(update={"name": '=HYPERLINK("x")', "iou": -1.5}), *rest)
    changed = report.model_copy(update={"benchmarks": {"@x": benchmark.model_copy(update={"classes": classes})}})
    rows = list(csv.DictReader(tables.csv(changed).splitlines()))
    assert {row["benchmark"] for row in rows} == {"'@x"}
    named = [row for row in rows if row["name"] == '\'=HYPERLINK("x")']
    assert [row["number"] for row in named if row["value"] == "iou"] == ["-1.5"]


def test_markdown_and_latex_escape_names_and_keep_the_papers_order(run: RunFolder, tmp_path: Path) -> None:
    assert tables.markdown_table(["class"], [[HOSTILE], [NAMES[2]]]).splitlines()[2:] == [
        '| cat &lt;script>alert("1")&lt;/script> |',
        r"| a\|b &amp; $c\_d$ |",
    ]
    assert tables.latex_text("50 % of a_b & {c}") == r"50 \% of a\_b \& \{c\}"
    assert tables.in_paper_order(["voc:20", "camvid", "ade20k:150", "ade20k:847"]) == [
        *("ade20k:847", "ade20k:150", "voc:20", "camvid")
    ]
    ovss("report", run.uri, "--markdown", str(tmp_path / "a.md"), "--latex", str(tmp_path / "a.tex"))
    (benchmark,) = Report.load(run.uri).benchmarks.values()
    miou = f"{benchmark.metrics['miou']:.2f}"
    assert f"| 8/8 | {miou} (" in (tmp_path / "a.md").read_text()
    assert rf"coarse & {miou} {{\scriptsize [" in (tmp_path / "a.tex").read_text()


def test_pixel_counts_are_those_of_the_report_and_of_each_image(root: Path, run: RunFolder, tmp_path: Path) -> None:
    failed = evaluated(tmp_path / "run", root, options={"refuse": "1<b>"})
    shown = ovss("report", failed.uri, "--no-intervals", "--pixels", str(tmp_path / "counts"))
    assert "counts/confusions.csv" in shown.replace("\n", "")
    (benchmark,) = Report.load(failed.uri).benchmarks.values()
    images, confusions = (
        list(csv.DictReader((tmp_path / "counts" / name).open(newline=""))) for name in ("images.csv", "confusions.csv")
    )
    assert [row["error"] for row in images if row["image_id"] == "1<b>"] == [benchmark.errors[0].error]
    scored = [row for row in images if not row["error"]]
    assert len({row["image_id"] for row in scored}) == 7
    for place, score in enumerate(benchmark.classes):
        of_class = [row for row in scored if row["class_index"] == str(place)]
        assert {row["class"] for row in of_class} == {score.name}
        assert sum(int(row["truth_pixels"]) for row in of_class) == score.truth_pixels
        assert sum(int(row["predicted_pixels"]) for row in of_class) == score.prediction_pixels
        row = next(of for of in confusions if of["truth_index"] == of["prediction_index"] == str(place))
        assert sum(int(of["correct_pixels"]) for of in of_class) == int(row["pixels"])
    mious = {row["image_id"]: float(row["image_miou"]) for row in scored}
    for image_id, miou in mious.items():
        assert miou == pytest.approx(np.mean([float(of["iou"]) for of in scored if of["image_id"] == image_id]))
    assert np.mean(list(mious.values())) == pytest.approx(benchmark.metrics["image_miou"])
    assert sum(int(of["pixels"]) for of in confusions) == sum(score.truth_pixels for score in benchmark.classes)


def test_label_maps_of_a_finished_run_are_measured_by_further_metrics(
    root: Path, run: RunFolder, tmp_path: Path
) -> None:
    (name,) = run.config().benchmarks
    overrides = {"predictions.path": run.predictions(name), "metrics": ["region_sizes"]}
    with in_process.pools():
        again = evaluate("predictions", [name], data_root=root, out=tmp_path / "again", overrides=overrides)
    measured, before = again.benchmarks[name], Report.load(run.uri).benchmarks[name]
    assert measured.classes == before.classes
    assert (measured.metrics["region_acc_large"], measured.counts["regions_large"]) == (None, 0)
    assert measured.counts["regions_small"] + measured.counts["regions_medium"] > 8
    assert 0 < (measured.metrics["region_acc_small"] or 0) < 100


def test_predictions_that_were_exported_are_read_again_pixel_for_pixel(run: RunFolder, tmp_path: Path) -> None:
    assert "label maps of 8 of 8 images" in ovss("report", run.uri, "--coco-rle", str(tmp_path / "p.json"))
    (name,) = run.config().benchmarks
    stage = predictions.Stage(predictions.Stage.Config(path=str(tmp_path / "p.json")))
    saved = saved_maps(run, name)
    for image_id, uri in saved.items():
        _, painted = stage._source.read(image_id)
        written = decode_labels(files.read(uri), uri).astype(np.int64)
        assert np.array_equal(np.where(painted < 0, 65534, painted), written)
    assert len(saved) == len({entry["file_name"] for entry in json.loads((tmp_path / "p.json").read_text())})


def test_a_run_without_label_maps_of_classes_has_none_to_export_and_says_what_to_type(
    run: RunFolder, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(uri: str) -> str:
        done = CliRunner().invoke(app, ["report", uri, "--coco-rle", str(tmp_path / "p.json")])
        assert isinstance(done.exception, OvssError)
        return str(done.exception)

    assert "2 benchmarks" in refused(str(shutil.copytree(OLD / "san_tiny-finished", tmp_path / "old")))
    without = evaluated(tmp_path / "none", root, only=1, keep_predictions="none")
    assert "--set keep_predictions=all" in refused(without.uri)
    monkeypatch.setattr(coco_rle, "gives_words", lambda config: True)
    assert "indices into the words of each image" in refused(run.uri)
    assert not (tmp_path / "p.json").exists()


def test_a_leaderboard_has_own_runs_among_published_figures_by_their_conventions(tmp_path: Path) -> None:
    old = shutil.copytree(OLD / "san_tiny-finished", tmp_path / "old")
    report = Report.load(old)
    name, source = "pascal_context:459", report.benchmarks["scenes:seen"]
    moved = report.model_copy(update={"benchmarks": {name: source}})
    rows = leaderboard.rows(name, {"mine": moved})
    assert [row.miou for row in rows] == sorted((row.miou for row in rows), reverse=True)
    mine = {row.convention: row for row in rows if row.own_run}
    assert mine["miou"].miou == source.metrics["miou"]
    assert mine["miou_classic"].miou == source.metrics["miou_classic"]
    assert "first 4 only" in mine["miou"].source
    assert {"miou", "miou_classic", "unknown"} <= {row.convention for row in rows if not row.own_run}
    table = leaderboard.latex({"my_run": moved}, [name])
    assert (
        table.index("LSeg+, ALIGN RN101 & 5.2")
        < table.index(r"\midrule", table.index("LSeg"))
        < table.index("my\\_run")
    )
    printed = ovss("leaderboard", str(old), "--benchmark", "pascal5i:1", "--html", str(tmp_path / "board.html"))
    assert "fold_miou" in printed
    assert "scenes:seen" not in printed
    assert "own run" in (tmp_path / "board.html").read_text()


def test_a_leaderboard_has_values_of_instances_and_marks_own_words(worded: RunFolder, run: RunFolder) -> None:
    report = Report.load(run.uri)
    (benchmark,) = report.benchmarks.values()
    name = "coco:instances_48_17"
    of_instances = benchmark.model_copy(update={"metrics": {"instance_iou": 70.0, "instance_accuracy": 60.0}})
    moved = report.model_copy(update={"benchmarks": {name: of_instances}})
    mine = {row.convention: row.miou for row in leaderboard.rows(name, {"mine": moved}) if row.own_run}
    assert mine == {"instance_iou": 70.0, "instance_accuracy": 60.0}
    measured = of_instances.model_copy(update={"measured": {"instance_iou": 8}})
    assert not values.class_headings(measured), "a run without label maps has no IoU of classes"
    assert "iou" in values.class_headings(benchmark)
    table = leaderboard.latex({"mine": moved}, [name])
    assert all(tables.heading(name, key) in table for key in mine)
    assert "67.91 & 76.7359" in table
    assert "70.00 & 60.00" in table
    only_iou = of_instances.model_copy(update={"metrics": {"instance_iou": 70.0}})
    table = leaderboard.latex({"mine": report.model_copy(update={"benchmarks": {name: only_iou}})}, [name])
    assert "76.7" not in table, "the accuracy of instances is no IoU"
    (own,) = leaderboard.rows(*worded.config().benchmarks, {"mine": Report.load(worded.uri)})
    assert own.source == "all, 8/8 images; own words"
    free = benchmark.model_copy(update={"notes": (f"tags: {NOTE}",)})
    (row,) = leaderboard.rows("x", {"mine": report.model_copy(update={"benchmarks": {"x": free}})})
    assert "words found in each image" in row.source


@pytest.mark.parametrize("runs", [["a/x", "b/x"], ["a/x", "a/y"]])
def test_short_names_of_runs_are_unique(runs: list[str]) -> None:
    assert len({leaderboard.short(run, runs) for run in runs}) == 2
