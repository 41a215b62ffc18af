"""The report: numbers with their coverage, the same from any order of the records and any shape of the tree."""

import io
import json
from collections import Counter as Counts
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from ovss_ray.engine import reduce
from ovss_ray.io import files
from ovss_ray.metrics.confusion import Counter
from ovss_ray.reports import report, terminal, totals
from ovss_ray.reports.schema import ImageError, Images, LeftOut, Report
from ovss_ray.runs import manifest as manifests
from ovss_ray.runs import records
from ovss_ray.runs.folder import RunFolder
from ovss_ray.structures.columns import IGNORE

pytestmark = pytest.mark.ray

LABELS = ["sky", "road", "car"]


def cells(seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 3, (20, 30)).astype(np.uint16)
    guess = np.where(generator.random((20, 30)) < 0.6, truth, generator.integers(0, 3, (20, 30))).astype(np.uint16)
    return Counter(3)(truth, guess)


def make(
    folder: Path,
    parts: list[list[int]],
    failed: tuple[int, ...] = (),
    expected: int = 12,
    name: str = "camvid",
    use: str = "oracle",
) -> RunFolder:
    """A run's folder as evaluate leaves it; an image is a number."""
    run = RunFolder(str(folder))
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"benchmarks: ['{name}']\npools:\n- stages:\n  - use: {use}\n")
    selection = {"split": "val", "ids": None, "limit": None}
    run.save_json(run.card(name), {"title": name, "labels": LABELS, "selection": selection})
    run.save_json("environment.json", {"weights": [{"file": "x.pth", "sha256": "0", "fake": True}]})
    run.save_json("identity.json", {"stages": []})
    listed = pa.Table.from_pylist([{"image_id": f"i{k:02}"} for k in range(expected)])
    empty = pa.array([None] * expected, pa.string())
    for column in manifests.SCHEMA.names[1:7]:
        listed = listed.append_column(column, empty)
    sizes = pa.array([20] * expected, pa.int32())
    manifests.save(listed.append_column("height", sizes).append_column("width", sizes), run.manifest(name))
    for part in parts:
        records.append(run.records(name), records.table(batch(part, failed)))
    return run


def batch(numbers: list[int], failed: tuple[int, ...]) -> dict[str, np.ndarray]:
    rows: dict[str, list[Any]] = {
        "image_id": [f"i{k:02}" for k in numbers],
        "error": ["san: too dark" if k in failed else "" for k in numbers],
        "benchmark": ["camvid"] * len(numbers),
        "seconds": [{"san": 0.25}] * len(numbers),
        "confusion": [{} if k in failed else cells(k) for k in numbers],
    }
    return {name: np.array([*values, None], object)[:-1] for name, values in rows.items()}


def test_the_numbers_are_the_same_for_every_cut_order_and_repetition(tmp_path: Path) -> None:
    whole = report.build(make(tmp_path / "whole", [list(range(12))]))
    cuts = [[[k] for k in reversed(range(12))], [[0, 1, 2, 3], [3, 4, 5, 0], list(range(4, 12))]]
    for number, parts in enumerate(cuts):
        assert report.build(make(tmp_path / str(number), parts)).benchmarks == whole.benchmarks


@pytest.mark.parametrize("fan_in", [2, 3, 16])
def test_the_tree_on_ray_gives_what_a_plain_loop_gives(cluster: None, tmp_path: Path, fan_in: int) -> None:
    run = make(tmp_path / "run", [[k] for k in range(12)])

    def tree(folder: str, among: pa.Table, of: Any) -> Any:
        return reduce.fold(folder, among, of, fan_in, few=3)

    assert report.build(run, tree).benchmarks == report.build(run).benchmarks
    assert report.build(run, reduce.fold).benchmarks == report.build(run).benchmarks


def test_the_tree_on_ray_leaves_one_read_of_each_record_file_here(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path / "run", [[k] for k in range(12)])
    counted = Counts[str]()

    def count(read: Callable[[str], Any], uri: str) -> Any:
        counted[str(uri)] += 1
        return read(uri)

    for module, name in ((files, "read"), (manifests, "load")):
        monkeypatch.setattr(module, name, partial(count, getattr(module, name)))
    report.build(run, lambda folder, among, of: reduce.fold(folder, among, of, few=3))
    assert [number for uri, number in counted.items() if "/records/" in uri] == [1] * 12
    assert [number for uri, number in counted.items() if uri.endswith("manifest.parquet")] == [1]


def test_nothing_is_final_below_a_hundred_percent(tmp_path: Path) -> None:
    made = report.build(make(tmp_path / "run", [list(range(11))], failed=(4,))).benchmarks["camvid"]
    assert made.images == Images(expected=12, scored=10, failed=1)
    assert not made.final
    assert made.errors == (ImageError(image_id="i04", error="san: too dark"),)
    assert report.build(make(tmp_path / "all", [list(range(12))])).benchmarks["camvid"].final


def test_a_run_without_any_record_has_a_report_without_numbers(tmp_path: Path) -> None:
    made = report.build(make(tmp_path / "run", [])).benchmarks["camvid"]
    assert made.images == Images(expected=12, scored=0, failed=0)
    assert made.metrics["miou"] is None
    json.loads(
        (tmp_path / "run/report.json").read_text(), parse_constant=lambda text: pytest.fail(f"{text} is not JSON")
    )


def test_where_no_pixel_is_counted_every_metric_is_null(tmp_path: Path) -> None:
    run = make(tmp_path / "run", [])
    void = Counter(3)(np.full((4, 6), IGNORE, np.uint16), np.zeros((4, 6), np.uint16))
    rows = {**batch([0], ()), "confusion": np.array([void, None], object)[:1]}
    records.append(run.records("camvid"), records.table(rows))
    made = report.build(run).benchmarks["camvid"]
    assert made.images.scored == 1
    assert set(made.metrics.values()) == {None}
    assert "100.00" not in text(report.build(run))


LEFT_OUT: dict[str, Any] = {"what": "label files without a photograph", "number": 2, "example": "/data/[2024]/a.png"}


@pytest.mark.parametrize("unpaired", ["error", "skip"])
def test_files_that_no_image_is_made_of_are_counted_and_make_a_run_incomplete(tmp_path: Path, unpaired: str) -> None:
    run = make(tmp_path / "run", [list(range(12))])
    card = run.json(run.card("camvid"))
    run.save_json(run.card("camvid"), {**card, "left_out": [LEFT_OUT], "unpaired": unpaired})
    made = report.build(run)
    benchmark = made.benchmarks["camvid"]
    assert benchmark.images == Images(expected=12, scored=12, failed=0)
    assert benchmark.files.left_out == (LeftOut(**LEFT_OUT),)
    assert benchmark.final == (unpaired == "skip")
    assert "camvid: 2 label files without a photograph, such as /data/[2024]/a.png: in no number" in text(made)
    lacking = " ".join(made.lacking)
    assert ("2 files belong to no image" in lacking) == (unpaired == "error")


def test_the_classes_add_up_to_the_means(tmp_path: Path) -> None:
    made = report.build(make(tmp_path / "run", [list(range(12))])).benchmarks["camvid"]
    assert [row.name for row in made.classes] == LABELS
    assert np.mean([row.iou for row in made.classes]) == pytest.approx(made.metrics["miou"], abs=1e-12)
    assert sum(row.truth_pixels for row in made.classes) == 12 * 20 * 30


def test_groups_of_labels_are_told_apart(tmp_path: Path) -> None:
    run = make(tmp_path / "run", [list(range(12))])
    card = run.json(run.card("camvid"))
    run.save_json(run.card("camvid"), {**card, "groups": {"stuff": [0, 1], "things": [2]}})
    made = report.build(run).benchmarks["camvid"]
    sky, road, car = (row.iou for row in made.classes)
    stuff, things = made.groups["stuff"], made.groups["things"]
    assert (things.labels, things.in_truth) == (1, 1)
    assert (things.miou, things.pooled_iou) == (pytest.approx(car), pytest.approx(car))
    assert (stuff.labels, stuff.in_truth, stuff.miou) == (2, 2, pytest.approx((sky + road) / 2))
    assert min(sky, road) < stuff.pooled_iou < max(sky, road)
    console = Console(record=True, width=160, file=io.StringIO())
    terminal.show(report.build(run), console)
    assert f"mIoU of stuff {(sky + road) / 2:.2f} (2 classes), things {car:.2f} (1 classes)\n" in console.export_text()


def test_a_fold_has_the_numbers_of_papers_and_their_counts(tmp_path: Path) -> None:
    run = make(tmp_path / "run", [list(range(12))])
    card = run.json(run.card("camvid"))
    run.save_json(run.card("camvid"), {**card, "groups": {"foreground": [0, 1], "background": [2]}})
    console = Console(record=True, width=160, file=io.StringIO())
    made = report.build(run)
    terminal.show(made, console)
    fold = made.benchmarks["camvid"]
    sky, road, _ = (row.iou for row in fold.classes)
    assert fold.metrics["fold_miou"] == fold.metrics["fold_miou_hsnet"] == pytest.approx((sky + road) / 2)
    assert fold.counts == {"episodes": 12, "without_foreground": 0, "classes_seen": 2, "classes_of_fold": 2}
    shown = console.export_text()
    assert f"{fold.metrics['fb_iou']:.2f}" in shown
    assert "camvid: episodes counted: 12, dropped without a pixel of their class: 0, classes seen: 2" in shown


def test_all_folds_of_a_data_set_have_a_table_with_their_mean(tmp_path: Path) -> None:
    run = make(tmp_path / "run", [list(range(12))])
    card = run.json(run.card("camvid"))
    run.save_json(run.card("camvid"), {**card, "groups": {"foreground": [0, 1], "background": [2]}, "asks": "a class"})
    (fold,) = report.build(run).benchmarks.values()
    values = {f"pascal5i:{number}": {**fold.metrics, "fold_miou": 10.0 * number} for number in range(4)}
    folds = {name: fold.model_copy(update={"metrics": metrics}) for name, metrics in values.items()}
    made = report.build(run).model_copy(update={"benchmarks": folds, "folds": report._folds(folds)})
    assert made.folds["pascal5i"]["fold_miou"] == 15.0
    assert made.folds["pascal5i"]["fb_iou"] == pytest.approx(fold.metrics["fb_iou"])
    console = Console(record=True, width=160, file=io.StringIO())
    terminal.show(made, console)
    shown = console.export_text()
    row = next(line for line in shown.splitlines() if line.startswith("│ fold mIoU "))
    assert row.replace("│", "").split()[2:] == ["0.00", "10.00", "20.00", "30.00", "15.00"]
    assert "pascal5i:2: a class" in shown
    assert report._folds({name: folds[name] for name in ("pascal5i:0", "pascal5i:1")}) == {}
    unmeasured = fold.model_copy(update={"metrics": {**fold.metrics, "fold_miou": None}})
    assert report._folds({**folds, "pascal5i:3": unmeasured})["pascal5i"]["fold_miou"] is None


@pytest.mark.parametrize(
    ("values", "title"),
    [
        ({"miou": 51.25}, "mIoU in percent, side by side"),
        ({"instance_iou": 70.0, "instance_accuracy": 51.25}, "accuracy of instances in percent, side by side"),
        ({"instance_ap": 51.25, "instance_ap_50": 60.0}, "mask AP in percent, side by side"),
    ],
)
def test_the_table_of_runs_side_by_side_names_its_value(tmp_path: Path, values: dict[str, float], title: str) -> None:
    built = report.build(make(tmp_path / "run", [list(range(12))]))
    renamed = {name: card.model_copy(update={"metrics": values}) for name, card in built.benchmarks.items()}
    console = Console(width=160, file=io.StringIO())
    console.print(terminal.side_by_side({"a": built.model_copy(update={"benchmarks": renamed})}))
    text = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert text.startswith(title)
    assert "51.25 (" in text


def test_runs_stand_side_by_side_each_with_its_coverage(tmp_path: Path) -> None:
    whole = report.build(make(tmp_path / "whole", [list(range(12))]))
    part = make(tmp_path / "part", [list(range(5))])
    card = part.json(part.card("camvid"))
    part.save_json(part.card("camvid"), {**card, "selection": {**card["selection"], "limit": 12}})
    console = Console(record=True, width=160, file=io.StringIO())
    console.print(
        terminal.side_by_side({"a": whole, "b": report.build(part), "c": whole.model_copy(update={"benchmarks": {}})})
    )
    shown = console.export_text()
    for run in (whole, report.build(part)):
        assert f"{run.benchmarks['camvid'].metrics['miou']:.2f} (" in shown
    assert "(12/12 of val)" in shown
    assert "(5/12 of val (first 12 only)) not final" in shown
    console.print(terminal.side_by_side({"a": whole, "b": whole}))
    assert "camvid val" in console.export_text()


def test_the_worst_images_come_first_and_failures_before_them(tmp_path: Path) -> None:
    run = make(tmp_path / "run", [list(range(12))], failed=(7,))
    rows = totals.read(run, images=True)["camvid"].images()
    assert rows[0] == {"image_id": "i07", "miou": None, "error": "san: too dark"}
    assert [row["miou"] for row in rows[1:]] == sorted(row["miou"] for row in rows[1:])
    mean = report.build(run).benchmarks["camvid"].metrics["image_miou"]
    assert np.mean([row["miou"] for row in rows[1:]]) == pytest.approx(mean, abs=1e-8)


def test_the_table_says_what_is_missing_what_failed_and_that_weights_are_made_up(tmp_path: Path) -> None:
    made = report.build(make(tmp_path / "run", [list(range(11))], failed=(4,)))
    console = Console(record=True, width=160, file=io.StringIO())
    terminal.show(made, console, classes=True)
    shown = console.export_text()
    for words in ("10/12 not final", "i04: san: too dark", "FAKE WEIGHTS: x.pth", "sky", "miou_classic"):
        assert words in shown


def test_published_figures_stand_beside_the_measured_ones_with_difference_and_convention(tmp_path: Path) -> None:
    run = make(tmp_path / "run", [list(range(1449))], expected=1449, name="voc:20", use="san")
    shown = text(report.build(run))
    assert "voc:20: mIoU as published for SAN, CLIP ViT-B/16" in shown
    assert "not comparable: x.pth holds made-up values" in shown
    run.save_json("environment.json", {"weights": [{"file": "san_vit_b_16.pth", "sha256": "0", "fake": False}]})
    made = report.build(run)
    assert json.loads((tmp_path / "run/report.json").read_text()) == made.model_dump(mode="json")
    log = made.benchmarks["voc:20"].published.figures[1]
    assert log.measured == made.benchmarks["voc:20"].metrics["miou"]
    assert log.difference == log.measured - 93.947
    shown = text(made)
    assert "not comparable" not in shown
    assert f"93.947 │    {log.measured:.2f} │     {log.difference:+.2f} │ either     │ log: MendelXu/SAN" in shown


def test_a_run_of_a_part_is_not_compared_and_other_runs_say_nothing_of_figures(tmp_path: Path) -> None:
    part = report.build(make(tmp_path / "part", [list(range(12))], name="voc:20", use="san"))
    assert "12 of the 1449 images were requested" in text(part)
    other = report.build(make(tmp_path / "other", [list(range(12))]))
    assert other.benchmarks["camvid"].published is None
    assert "published" not in text(other)


def text(made: Report) -> str:
    console = Console(record=True, width=160, file=io.StringIO())
    terminal.show(made, console)
    return console.export_text()


def test_sentences_of_stages_are_in_the_report_of_each_benchmark(tmp_path: Path) -> None:
    built = report.build(make(tmp_path / "run", [[0, 1]], expected=2, use="scan"))
    values, seed = built.benchmarks["camvid"].notes
    assert values.startswith("scan: mask_threshold 0.4, ")
    assert "no preset of this benchmark" in values
    assert "seed 0" in seed
    shown = io.StringIO()
    terminal.show(built, Console(file=shown, width=400))
    assert f"camvid: {values}" in shown.getvalue()
    assert f"camvid: {seed}" in shown.getvalue()
    assert report.build(make(tmp_path / "other", [[0, 1]], expected=2)).benchmarks["camvid"].notes == ()
