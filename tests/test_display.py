"""What a run shows of itself."""

import io

import pytest
from rich.console import Console

from ovss_ray.display import Display


@pytest.fixture
def display() -> Display:
    shown = Display(Console(file=io.StringIO(), width=100))
    shown.total, shown.done, shown.failed = 8, 3, 1
    shown.seconds.update({"decode": 0.3, "san": 6.0})
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
