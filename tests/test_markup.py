"""Brackets in names that users give are printed, and not read as markup."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ovss_ray import inventory, tables
from ovss_ray.display import Display

NAME = "road [/wet]"


def printed(*shown: Any) -> str:
    console = Console(file=io.StringIO(), width=300)
    console.print(*shown)
    return console.file.getvalue()  # type: ignore[attr-defined]


def report() -> dict[str, Any]:
    metrics = dict.fromkeys(tables.reports.SHOWN, 50.0)
    counts = {"scored": 1, "expected": 1, "failed": 1}
    return {
        "benchmarks": {
            NAME: {
                "metrics": metrics,
                "images": counts,
                "final": True,
                "selection": {"split": NAME, "ids": None, "limit": None},
                "groups": {NAME: {"miou": 1.0, "in_truth": 1, "pooled_iou": 1.0}},
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
        "run": {"history": []},
    }


def test_every_name_in_a_report_is_printed_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables.reports, "fake", lambda built: [NAME])
    console = Console(file=io.StringIO(), width=300)
    tables.show(report(), console, classes=True, title=NAME)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"{NAME}: mIoU and its relatives" in shown
    assert f"{NAME} {NAME} " in shown, "benchmark and split"
    assert f"mIoU of {NAME} 1.00" in shown
    assert shown.count(NAME) >= 11
    assert NAME in printed(tables.side_by_side({NAME: report()}))


def test_paths_and_stages_with_brackets_are_printed_in_full() -> None:
    assert "/data [2024]/a.yaml" in printed(inventory.configs({"a": Path("/data [2024]/a.yaml")}))
    display = Display(Console(file=io.StringIO()))
    display.seconds.update({NAME: 1.0})
    assert NAME in printed(display)
