"""Published figures, and the means that logs print beside their per-class values."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovss_ray.benchmarks import catalog
from ovss_ray.metrics.confusion import Partial
from ovss_ray.reports import published

NAMES = {
    "ade20k_full_sem_seg_val": "ade20k:847",
    "ade20k_panoptic_val": "ade20k:150",
    "ade20k_sem_seg_val": "ade20k:150",
    "coco_2017_test_stuff_sem_seg": "coco:stuff",
    "coco_2017_val_panoptic_with_sem_seg": "coco:panoptic",
    "pascal20_sem_seg_val": "voc:20",
    "pascal21_sem_seg_val": "voc:21",
    "pascal_ctx459_sem_seg_val": "pascal_context:459",
    "pascal_ctx59_sem_seg_val": "pascal_context:59",
    "pcontext_full_sem_seg_val": "pascal_context:459",
    "pcontext_sem_seg_val": "pascal_context:59",
    "voc_sem_seg_val": "voc:20",
}
"""What detectron2 calls the benchmarks in the logs"""


@pytest.fixture(scope="module")
def logs(shared: Path) -> dict[str, dict[str, Any]]:
    return json.loads((shared / "benchmarks/published_per_class_logs.json").read_text())


def counted(iou: list[float | None]) -> Partial:
    """Counts whose IoU is that of a log: a class has 10¹² pixels, or none, and then was predicted somewhere."""
    n, size = len(iou), 10**12
    counts = np.zeros((n, n + 1), np.int64)
    for i, value in enumerate(iou):
        if value is not None:
            counts[i, i] = round(value * size / 100)
            counts[i, n] = size - counts[i, i]
    donor = int(np.argmax(counts[:, n]))  # what it missed is called the absent classes, which changes no IoU of its own
    for i, value in enumerate(iou):
        if value is None:
            counts[donor, i] += 1
            counts[donor, n] -= 1
    return Partial(counts)


def test_the_means_of_all_logged_evaluations_come_out_of_their_per_class_values(logs: dict[str, Any]) -> None:
    assert len(logs) == 19
    for name, log in logs.items():
        assert counted(list(log["per_class_IoU"].values())).miou == pytest.approx(log["mIoU"], abs=1e-7), name


@pytest.mark.parametrize(
    ("method", "since_2022", "before"),
    [("san_vit_b_16", 16.71, 12.56), ("san_vit_large_14", 20.83, 15.66), ("fcclip_pc-459", 18.24, 13.71)],
)
def test_on_pascal_context_459_the_two_conventions_are_those_of_log_and_paper(
    logs: dict[str, Any], method: str, since_2022: float, before: float
) -> None:
    (log,) = (log for name, log in logs.items() if name.startswith(method) and len(log["per_class_IoU"]) == 459)
    total = counted(list(log["per_class_IoU"].values()))
    assert (total.truth_pixels > 0).sum() == 345
    assert (round(total.miou, 2), round(total.miou_classic, 2)) == (since_2022, before)


def test_the_logs_list_the_classes_of_our_benchmarks_in_our_order(logs: dict[str, Any]) -> None:
    for name, log in logs.items():
        ours = catalog.load(NAMES[name.partition("|")[2].removeprefix("openvocab_")])
        logged = list(log["per_class_IoU"])
        assert len(logged) == len(ours.labels)
        if name.startswith("san_"):
            assert logged == list(ours.labels), name


def test_the_figures_of_the_logs_are_the_logged_ones(logs: dict[str, Any]) -> None:
    logged = {
        (NAMES[name.partition("|")[2].removeprefix("openvocab_")], round(log["mIoU"], 4)) for name, log in logs.items()
    }
    ours = {(figure.benchmark, figure.miou) for figure in published.figures() if figure.kind == "log"}
    assert logged <= ours
    assert {name for name, _ in ours - logged} == {"cityscapes:19", "coco:instances_48_17"}  # no per-class values


def test_every_figure_is_of_a_known_benchmark_and_of_a_known_convention() -> None:
    known = set(catalog.known())
    for figure in published.figures():
        assert figure.benchmark in known
        assert 0 < figure.miou < 100
        assert all([figure.method, figure.backbone, figure.where])
        assert figure.kind in ("log", "README", "figure", "aggregator", "second-hand")
        assert (figure.kind == "second-hand") == (figure.convention == "sg_miou_classic")
        told = figure.convention in ("miou", "miou_classic", "sg_miou_classic", "unknown")
        assert figure.convention.startswith("fold_") == figure.benchmark.startswith(("pascal5i", "coco20i"))
        assert figure.convention.startswith("instance_") == (":instances" in figure.benchmark)
        if not figure.convention.startswith(("sg_", "fold_", "instance_")):
            assert told if figure.benchmark == "pascal_context:459" else figure.convention == "either"


def test_none_of_the_collected_figures_is_lost_or_changed(shared: Path) -> None:
    rows = json.loads((shared / "benchmarks/published.json").read_text())["rows"]
    asked = sorted(
        (row["method"], row["backbone"], row["miou"], row["source"]) for row in rows if row["dataset"] != "mapillary65"
    )
    ours = sorted(
        (one.method, one.backbone, one.miou, one.where)
        for one in published.figures()
        if one.kind != "second-hand" and not one.convention.startswith(("fold_", "instance_"))
    )
    assert ours == asked
    assert len(ours) == 513


def test_san_s_figures_for_pascal_context_459_are_told_apart_by_their_convention() -> None:
    told = {(one.miou, one.convention) for one in published.of("pascal_context:459") if one.method == "SAN"}
    assert told == {(16.7053, "miou"), (20.8311, "miou"), (12.6, "miou_classic"), (15.7, "miou_classic")}


def test_scan_s_figures_are_listed_with_the_marks_of_their_sources() -> None:
    scan = [figure for figure in published.figures() if figure.method == "SCAN"]
    names = ("ade20k:150", "ade20k:847", "pascal_context:59", "pascal_context:459", "voc:20")
    listed = {
        backbone: [figure.miou for figure in scan if figure.kind == "figure" and figure.backbone == backbone]
        for backbone in ("CLIP ViT-B/16", "CLIP ViT-L/14")
    }
    assert [figure.benchmark for figure in scan if figure.kind == "figure"] == [*names, *names]
    assert listed == {
        "CLIP ViT-B/16": [30.8, 10.8, 58.4, 13.2, 97.0],
        "CLIP ViT-L/14": [33.5, 14.0, 59.3, 16.7, 97.2],
    }
    assert all("read by eye" in figure.quoted for figure in scan if figure.kind == "figure")
    sg = {figure.benchmark: figure for figure in scan if figure.kind == "second-hand"}
    assert {name: figure.miou for name, figure in sg.items()} == {
        "ade20k:150": 34.2,
        "ade20k:847": 14.6,
        "pascal_context:459": 17.2,
    }
    assert all("presumably ViT-L/14; verify" in figure.quoted for figure in sg.values())
    assert published.of("ade20k:847")[-1].convention == "sg_miou_classic", "no mIoU among mIoUs"


def test_the_log_of_open_vocabulary_sam_is_listed_for_its_split() -> None:
    found = {figure.convention: figure for figure in published.of("coco:instances_48_17@ovsam")}
    assert {name: figure.miou for name, figure in found.items()} == {
        "instance_iou": 67.91,
        "instance_accuracy": 76.7359,
    }
    assert all("issue 37" in figure.where and "not scaled" in figure.quoted for figure in found.values())


def test_figures_of_free_words_stand_apart_each_with_its_setting(shared: Path) -> None:
    rows = json.loads((shared / "benchmarks/published_vocabulary_free.json").read_text())["rows"]
    quoted = sorted((row[0], row[3], row[4], row[5], row[6], row[7]) for row in rows)
    free = published.vocabulary_free()
    assert sorted((one.method, one.metric, one.value, one.mapping, one.kind, one.where) for one in free) == quoted
    assert all(one.setting for one in free)
    assert not {one.where for one in free} & {one.where for one in published.figures()}
    of_voc = published.vocabulary_free("voc:20@catseg")
    assert {one.benchmark for one in of_voc} == {"voc:20"}
    autoseg = [one.value for one in of_voc if one.method.startswith("AutoSeg (") and one.metric == "mIoU"]
    assert autoseg == [87.1, 88.2], "judged by LAVE, then by a person"
    assert published.vocabulary_free("camvid") == ()


def test_the_best_come_first_and_other_words_for_the_classes_have_the_same_figures() -> None:
    found = published.of("ade20k:150")
    mious = [one.miou for one in found if one.convention == "either"]
    assert mious == sorted(mious, reverse=True)
    assert len(mious) == 82
    assert len(found) == 83
    assert published.of("ade20k:150@catseg") == found
    assert published.of("camvid") == ()
