"""The page of `ovss compare`: paired differences, refusals, and the images on which runs differ."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ovss_ray.api import comparison
from ovss_ray.cli.app import app
from ovss_ray.errors import OvssError
from ovss_ray.runs.folder import RunFolder
from tests.reports.documents.conftest import HOSTILE, evaluated
from tests.reports.documents.test_run_page import Page


def test_the_page_has_paired_differences_and_images_sorted_by_their_difference(
    run: RunFolder, finer: RunFolder, tmp_path: Path
) -> None:
    done = CliRunner().invoke(app, ["compare", run.uri, finer.uri, "--html", str(tmp_path / "c.html")])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "c.html").read_text("utf-8")
    made = Page(text)
    assert HOSTILE not in text
    assert made.data["runs"] == ["coarse", "finer"]
    (paired,) = comparison.differences(run.uri, finer.uri).values()
    assert paired.values
    difference = paired.values["miou"]
    low, high = difference.interval
    assert f"miou {difference.value:+.2f} {low:+.2f} to {high:+.2f}" in made.text
    shown = made.data["benchmarks"][0]["images"]
    gains = [abs(second - first) for first, second in (image["miou"] for image in shown)]
    assert gains == sorted(gains, reverse=True)
    assert all(len(image["predictions"]) == len(image["classes"]) == 2 for image in shown)


def test_unlike_runs_are_refused_unless_a_flag_says_otherwise_and_the_table_says_so(
    run: RunFolder, root: Path, tmp_path: Path
) -> None:
    part = evaluated(tmp_path / "part", root, limit=6, options={"square": 12})
    arguments = ["compare", run.uri, part.uri, "--html", str(tmp_path / "c.html")]
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, OvssError)
    assert "2 of the scored images" in str(refused.exception)
    assert "--unlike" in str(refused.exception)
    assert not (tmp_path / "c.html").exists()
    assert CliRunner().invoke(app, [*arguments, "--unlike"]).exit_code == 0
    made = Page((tmp_path / "c.html").read_text("utf-8"))
    assert "Not like with like (part): 2 of the scored images" in made.text
    assert "not tested" in made.text
    assert len(made.data["benchmarks"][0]["images"]) == 6


def test_a_page_of_runs_with_unlike_words_says_so(run: RunFolder, worded: RunFolder, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["compare", run.uri, worded.uri, "--html", str(tmp_path / "c.html")])
    assert done.exit_code == 0, done.output
    made = Page((tmp_path / "c.html").read_text("utf-8"))
    assert "different vocabularies: the first run has the classes of the benchmark, the second 4 words of" in made.text


@pytest.mark.parametrize("kind", ["classes", "benchmark"])
def test_runs_of_unlike_classes_or_benchmarks_have_no_common_gallery(
    kind: str, run: RunFolder, root: Path, tmp_path: Path
) -> None:
    other = root / "other.yaml" if kind == "benchmark" else tmp_path / "mine.yaml"
    text = (root / "mine.yaml").read_text().replace("sky", "heaven" if kind == "classes" else "sky")
    other.write_text(text.replace("photos/", f"{root}/photos/").replace("labels/", f"{root}/labels/"))
    unlike = evaluated(tmp_path / "unlike", root, benchmarks=[f"folder:{other}"])
    arguments = ["compare", run.uri, unlike.uri, "--html", str(tmp_path / "c.html"), "--unlike"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    made = Page((tmp_path / "c.html").read_text("utf-8"))
    assert "Not like with like (unlike)" in made.text
    assert "not all runs have this benchmark with the same classes" in made.text
