"""Brackets in names that users give are printed, and not read as markup."""

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from ovss_ray.cli import inventory
from ovss_ray.engine.display import Display
from ovss_ray.metrics import confusion
from ovss_ray.reports import statistics_tables, terminal
from ovss_ray.reports.paired import Difference, Paired
from ovss_ray.reports.schema import Report

NAME = "road [/wet]"


def printed(*shown: Any) -> str:
    console = Console(file=io.StringIO(), width=300)
    console.print(*shown)
    return console.file.getvalue()  # type: ignore[attr-defined]


def report() -> Report:
    metrics = dict.fromkeys(confusion.headings, 50.0)
    counts = {"scored": 1, "expected": 1, "failed": 1}
    raw = {
        "benchmarks": {
            NAME: {
                "metrics": metrics,
                "images": counts,
                "final": True,
                "selection": {"split": NAME, "ids": None, "limit": None},
                "groups": {NAME: {"labels": 1, "miou": 1.0, "in_truth": 1, "pooled_iou": 1.0}},
                "published": None,
                "files": {
                    "changed": 0,
                    "undigested": 0,
                    "left_out": [{"what": "photographs without a label file", "number": 1, "example": NAME}],
                    "unpaired": "error",
                },
                "classes": [{"name": NAME, "iou": 1.0, "acc": 1.0, "truth_pixels": 1, "prediction_pixels": 1}],
                "errors": [{"image_id": NAME, "error": NAME}],
            }
        },
        "run": {"digest": "", "config": {}, "seconds": {}, "environment": {"weights": [{"file": NAME, "fake": True}]}},
    }
    return Report.model_validate(raw)


def test_every_name_in_a_report_is_printed_in_full() -> None:
    console = Console(file=io.StringIO(), width=300)
    terminal.show(report(), console, classes=True, title=NAME)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"{NAME}: mIoU and related metrics" in shown
    assert f"{NAME} {NAME} " in shown, "benchmark and split"
    assert f"mIoU of {NAME} 1.00" in shown
    assert shown.count(NAME) >= 11
    assert NAME in printed(terminal.side_by_side({NAME: report()}))


def test_names_in_the_tables_of_statistics_are_printed_in_full() -> None:
    refused = Paired(f"the ground truth of 1 images differs, such as that of {NAME}")
    assert printed(statistics_tables.differences(NAME, NAME, NAME, refused)).count(NAME) == 4
    difference = Difference(1.0, (0.5, 1.5), 0.01, 0.7, 9)
    paired = Paired("", {NAME: difference}, {0: difference}, (NAME,))
    assert printed(statistics_tables.differences(NAME, NAME, NAME, paired)).count(NAME) == 4
    assert printed(statistics_tables.class_differences(NAME, NAME, NAME, paired)).count(NAME) == 4
    (benchmark,) = report().benchmarks.values()
    assert printed(statistics_tables.worst_classes(NAME, benchmark, 1)).count(NAME) == 2
    assert NAME in printed(statistics_tables.sizes(NAME, []))


def test_paths_and_stages_with_brackets_are_printed_in_full() -> None:
    assert "/data [2024]/a.yaml" in printed(inventory.configs({"a": Path("/data [2024]/a.yaml")}))
    display = Display(Console(file=io.StringIO()))
    display.running.seconds.update({NAME: 1.0})
    assert NAME in printed(display)
