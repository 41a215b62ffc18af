"""The options of `ovss evaluate` for scripts such as jobs/eval_ade847.py, and their exit statuses."""

import runpy
import sys
from collections.abc import Callable
from typing import Any

import pytest

from ovss_ray.cli import evaluation
from ovss_ray.errors import OvssError
from ovss_ray.reports.schema import Report
from tests.paths import ROOT

FINISHED = Report.load(ROOT / "tests/data/old_runs/san_tiny-finished")


def lacking() -> Report:
    """Return a report of a run with an image that failed."""
    raw = FINISHED.model_dump()
    raw["benchmarks"]["scenes:seen"] |= {"final": False, "images": {"expected": 4, "scored": 3, "failed": 1}}
    return Report.model_validate(raw)


def ended(action: Callable[..., Report], *arguments: str) -> object:
    """Return the exit status of a script."""
    with pytest.raises(SystemExit) as done:
        evaluation.script(action, arguments)
    return done.value.code


def test_options_are_parsed_as_those_of_the_command() -> None:
    taken: dict[str, Any] = {}

    def evaluate(**options: Any) -> Report:
        taken.update(options)
        return FINISHED

    arguments = [
        "san_vit_b_16",
        "--benchmark",
        "ade20k:847",
        "--limit",
        "20",
        "--set",
        "san.variant=san_tiny",
        "--exact",
    ]
    assert ended(evaluate, *arguments) == 0
    given = {"config": "san_vit_b_16", "benchmarks": ["ade20k:847"], "limit": 20, "exact": True}
    rest = dict.fromkeys(("data_root", "out", "split", "ids", "relations", "vocabulary", "wait_for"))
    assert taken == {**given, **rest, "overrides": ["san.variant=san_tiny"], "track": ()}
    assert ended(evaluate) == 0
    assert (taken["config"], taken["overrides"]) == ("default", ())


def test_a_report_is_shown_and_images_without_a_result_are_status_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(lambda **options: FINISHED) == 0
    shown = capsys.readouterr()
    assert "4/4" in shown.out
    assert shown.err == ""
    assert ended(lambda **options: lacking()) == 1
    shown = capsys.readouterr()
    assert "3/4 not final" in shown.out
    assert "ovss: 1 of 6 images have no result; see the report. Give the same command again" in shown.err


def test_an_error_is_status_two_and_an_interrupt_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    def failing(**options: Any) -> Report:
        raise OvssError("the disk is full")

    def interrupted(**options: Any) -> Report:
        raise KeyboardInterrupt

    assert ended(failing) == 2
    assert capsys.readouterr().err == "ovss: the disk is full\n"
    assert ended(interrupted) == 130
    assert (
        "ovss: interrupted. Finished images are kept; run the same command again to resume" in capsys.readouterr().err
    )
    assert ended(failing, "--limt", "3") == 2
    assert "No such option: --limt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--help"], 0, "--set"),
        (
            ["--set", "san.variant=san_tiny", "--data-root", "/nowhere", "--limit", "2"],
            2,
            "ovss: data set not found below",
        ),
        (["--set", "san.varient=x", "--data-root", "/nowhere"], 2, "Did you mean 'variant'?"),
    ],
)
def test_the_job_says_what_is_wrong_before_anything_is_started(
    arguments: list[str], status: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["jobs/eval_ade847.py", *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "jobs/eval_ade847.py"), run_name="__main__")
    assert end.value.code == status
    assert words in "".join(capsys.readouterr())
