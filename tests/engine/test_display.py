"""What a run shows of itself."""

import io
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from ovss_ray.engine.display import EVERY, Display
from ovss_ray.engine.ledger import Status
from ovss_ray.engine.provisional import GROUPS, GroupSums
from ovss_ray.runs import records
from ovss_ray.structures.columns import column
from tests.metrics.dice import SOURCE


@pytest.fixture
def display() -> Display:
    shown = Display(Console(file=io.StringIO(), width=100))
    shown.total, shown.done, shown.failed = 8, 3, 1
    shown.running.seconds.update({"decode": 0.3, "san": 6.0})
    return shown


def test_images_speed_failures_stages_and_miou_are_all_there(display: Display) -> None:
    display.console.print(display)
    shown = display.console.file.getvalue()  # type: ignore[attr-defined]
    for words in ("━", "3/8 images", "1 failed", "provisional mIoU: –", "decode", "2.000"):
        assert words in shown


def test_before_the_first_image_it_says_what_is_waited_for() -> None:
    display = Display(Console(file=io.StringIO(), width=100))
    display.console.print(display)
    assert "workers are starting" in display.console.file.getvalue()  # type: ignore[attr-defined]


def test_names_are_counted_before_the_first_image(display: Display) -> None:
    status = Status(idle=0.0, deaths=0, redone=0, busy={}, nodes={}, named=320, names=847)
    display.shown, display.done = -EVERY, 0
    for _ in range(3):
        display.pulse(status)
    assert display.console.file.getvalue() == "preparing names: 320/847\n"  # type: ignore[attr-defined]
    display.console.print(display)
    assert "(preparing names: 320/847)" in display.console.file.getvalue()  # type: ignore[attr-defined]
    display.pulse(replace(status, named=0, names=0))
    assert not display.preparing


def test_metrics_that_want_it_are_shown_while_the_run_goes_on(
    display: Display, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "live").mkdir()
    (tmp_path / "live/dice.py").write_text(f'{SOURCE}\nlive = {{"dice": "Dice"}}\n')
    monkeypatch.syspath_prepend(tmp_path)
    display.running.labels = {"camvid": 2}
    cells = {"truth": [0, 1], "prediction": [0, 0], "pixels": [3, 1]}
    row = {"image_id": "a", "error": "", "benchmark": "camvid", "seconds": {}, "confusion": cells}
    row["live.dice"] = {"common": [3, 0], "areas": [7, 1]}
    for _ in range(2):
        display.running.count("camvid", records.table({name: column([value]) for name, value in row.items()}))
    assert display._line().endswith("provisional mIoU: camvid 37.50; provisional Dice: camvid 42.86")


def test_the_interval_is_two_jackknife_errors_over_groups_of_photographs() -> None:
    generator, labels, each = np.random.default_rng(0), 3, 2
    crcs = [zlib.crc32(str(number).encode()) % GROUPS for number in range(4000)]
    chosen = [[number for number, crc in enumerate(crcs) if crc == group][:each] for group in range(GROUPS)]
    matrices = generator.integers(1, 50, (GROUPS, each, labels, labels))
    rows = []
    for group, numbers in enumerate(chosen):
        for number, matrix in zip(numbers, matrices[group], strict=True):
            truth, prediction = np.indices(matrix.shape).reshape(2, -1).tolist()
            cells = {"truth": truth, "prediction": prediction, "pixels": matrix.reshape(-1).tolist()}
            rows.append({"image_id": str(number), "error": "", "benchmark": "b", "seconds": {}, "confusion": cells})
    part = records.table({name: column([row[name] for row in rows]) for name in rows[0]})

    def miou(total: np.ndarray) -> float:
        hits = total.diagonal()
        return float(100 * (hits / (total.sum(0) + total.sum(1) - hits)).mean())

    sums = matrices.sum(1)
    left = [miou(sums.sum(0) - group) for group in sums]
    error = np.sqrt((GROUPS - 1) / GROUPS * np.square(left - np.mean(left)).sum())
    half = (GroupSums.of(part.slice(0, 50), labels) + GroupSums.of(part.slice(50), labels)).half_interval("miou")
    assert half == pytest.approx(2 * error, rel=1e-6)
    assert GroupSums.of(part.slice(0, 2 * 9), labels).half_interval("miou") is None, "nine groups are too few"
