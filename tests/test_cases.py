"""Inputs of real people that once gave a wrong number without a word: each gives the right one, or an error that helps.

The inputs and what is right are in the reference material, cases/turn-2, a README with each.
"""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ovss_ray.config import loading as configs
from ovss_ray.dataprep import check
from ovss_ray.engine import evaluate
from ovss_ray.engine.display import Display
from ovss_ray.errors import OvssError
from ovss_ray.runs.plan import plan_run
from tests.checked import checked as findings

Score = Callable[..., dict[str, Any]]


@pytest.fixture
def case(shared: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the case that the test is called after: test_brackets_in_path is brackets-in-path."""
    name = request.node.name.removeprefix("test_").replace("_", "-")
    return shutil.copytree(shared / "cases/turn-2" / name, tmp_path / name)


@pytest.fixture
def score(in_process: None, case: Path) -> Score:
    """Evaluate as `ovss evaluate` does: predictions where there are some, else the oracle."""

    def run(yaml: str = "benchmark.yaml") -> dict[str, Any]:
        predicted = (case / "pred").is_dir()
        stage = {"use": "predictions", "options": {"path": str(case / "pred")}} if predicted else {"use": "oracle"}
        raw = {"benchmarks": [f"folder:{case / yaml}"], "data_root": str(case), "pools": [{"stages": [stage]}]}
        request = plan_run(configs.validate(raw, "test"), str(case / "run"))
        assert not list(check.ahead(request.benchmarks, request.manifests)), "nothing is doubtful"
        (benchmark,) = (
            evaluate.run(request, Display(Console(quiet=True))).model_dump(mode="json")["benchmarks"].values()
        )
        return benchmark

    return run


def checked(case: Path) -> int:
    return findings(f"folder:{case}/benchmark.yaml", str(case), None, None, False, 1)


def right(benchmark: dict[str, Any], images: int) -> None:
    """Every image was scored, and every pixel was called what it is."""
    assert benchmark["images"] == {"expected": images, "scored": images, "failed": 0}
    assert benchmark["final"]
    assert benchmark["metrics"]["miou"] == 100.0


def test_binary_mask_0_255(case: Path, score: Score) -> None:
    with pytest.raises(OvssError, match=r"'coin' never occurs.*255 is the object.*Write `values: \[0, 255\]`"):
        score()
    assert checked(case) == 1
    with (case / "benchmark.yaml").open("a") as description:
        description.write("values: [0, 255]\n")
    assert checked(case) == 0
    assert score()["metrics"]["miou"] == pytest.approx(61.75, abs=0.005)


@pytest.mark.slow
def test_brackets_in_path(score: Score) -> None:
    right(score("data [2024]/benchmark.yaml"), images=2)


@pytest.mark.slow
def test_changed_labels(case: Path, score: Score) -> None:
    assert score()["metrics"]["miou"] == 0.0
    for file in (case / "labels-mended").iterdir():
        shutil.copy(file, case / "labels")
    mended = score()
    right(mended, images=2)
    assert mended["files"]["changed"] == 2


def test_class_list_blank_line(score: Score) -> None:
    with pytest.raises(OvssError, match=r"classes\.txt, line 2 is empty"):
        score()


def test_class_name_markup(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert checked(case) == 0
    printed = capsys.readouterr().out
    assert "road [wet]" in printed
    assert "sign [/closed]" in printed


@pytest.mark.slow
def test_dangling_links(case: Path, score: Score, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run(["sh", str(case / "make.sh")], check=True)
    assert checked(case) == 4
    assert "broken link to ../annex/image-2" in capsys.readouterr().out
    benchmark = score()
    assert benchmark["images"] == {"expected": 4, "scored": 2, "failed": 2}
    assert not benchmark["final"]


def test_exif_labels_on_stored_pixels(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert checked(case) == 2
    assert "the photograph is turned by its EXIF orientation (6), and the label file is not" in capsys.readouterr().out


def test_grey_palette_png(case: Path, score: Score) -> None:
    with pytest.raises(OvssError, match=r"index 1 as grey 3\. It is unclear whether the labels are the indices"):
        score()
    assert checked(case) == 2


@pytest.mark.slow
def test_grey_png_4_bit(score: Score) -> None:
    right(score(), images=2)


@pytest.mark.slow
def test_mixed_case_endings(case: Path, score: Score) -> None:
    assert checked(case) == 0
    right(score(), images=4)


@pytest.mark.slow
def test_same_names_in_folders(case: Path, score: Score) -> None:
    assert checked(case) == 0
    right(score(), images=4)
    maps = case / "run/folder-benchmark/predictions"
    assert {str(file.relative_to(maps)) for file in maps.rglob("*.png")} == {
        f"{sequence}/{frame}.png" for sequence in ("seq1", "seq2") for frame in ("0000", "0001")
    }


def test_tiff_pages(case: Path, score: Score) -> None:
    with pytest.raises(OvssError, match="a TIFF with 3 pages"):
        score()
    assert checked(case) == 2


def test_yaml_on_off(score: Score) -> None:
    right(score(), images=2)
