"""The scripts in examples/, run as their docstrings say, and what they print."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ovss_ray
from examples import clipseg, evaluate, majority, picture, segment
from ovss_ray.datasets import scenes
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.structures.vocabulary import Vocabulary
from tests import small_clipseg
from tests.commands import ovss
from tests.paths import ROOT


def report(folder: Path) -> dict[str, Any]:
    """The benchmarks of a run's report."""
    return json.loads((folder / "report.json").read_text())["benchmarks"]


@pytest.mark.slow
def test_the_example_of_evaluate_prints_the_numbers_of_the_report(
    in_process: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = evaluate.main(str(tmp_path / "run"), limit=4)
    table = capsys.readouterr().out.splitlines()
    miou = {name: benchmark["metrics"]["miou"] for name, benchmark in report(tmp_path / "run").items()}
    assert table == [f"{name:16} 4/4 images  mIoU {miou[name]:.2f}" for name in ("scenes:seen", "scenes:held-out")]
    assert value == miou["scenes:seen"]


def test_the_example_of_segment_finds_the_classes_that_are_in_the_scene(tmp_path: Path) -> None:
    shares = segment.main(out=str(tmp_path / "labels.png"))
    assert tuple(shares) == segment.NAMES
    labels = np.asarray(Image.open(tmp_path / "labels.png"))
    drawn, _ = scenes.of_address("held-out/validation/42")
    names = np.array([scenes.name(content) for content in drawn.contents])
    assert (np.array(segment.NAMES)[labels] == names[drawn.regions]).mean() > 0.95
    assert max(shares["sky"], shares["striped red star"]) < 0.01


def test_the_example_of_segment_takes_an_image_and_names(tmp_path: Path) -> None:
    drawn, _ = scenes.of_address("held-out/validation/42")
    Image.fromarray(drawn.image).save(tmp_path / "scene.png")
    shares = segment.main([str(tmp_path / "scene.png"), "wall", "water", "grass"], str(tmp_path / "labels.png"))
    assert set(shares) == {"wall", "water", "grass"}
    assert shares["water"] < 0.1 < min(shares["wall"], shares["grass"])


def test_the_stage_of_the_example_smooths_label_maps() -> None:
    labels = np.zeros((9, 9), np.uint16)
    labels[:, 5:] = 700
    labels[4, 2] = 3
    smoothed = majority.smoothed(labels, 3)
    assert smoothed.dtype == np.uint16
    labels[4, 2] = 0
    np.testing.assert_array_equal(smoothed, labels)
    np.testing.assert_array_equal(majority.smoothed(labels, 1), labels)


@pytest.mark.slow
def test_the_config_of_the_example_runs_a_stage_of_ones_own(in_process: None, tmp_path: Path) -> None:
    options = ("--limit", "2", "--set", "examples.majority.side=31", "--out", str(tmp_path / "run"))
    done = ovss("evaluate", "examples/majority.yaml", "--benchmark", "scenes:seen", *options, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert report(tmp_path / "run")["scenes:seen"]["images"] == {"expected": 2, "scored": 2, "failed": 0}
    model, vocabulary = ovss_ray.load_model("san_tiny"), scenes.BENCHMARKS["seen"].vocabulary
    for number in range(2):
        plain = model.segment(scenes.of_address(f"seen/validation/{number}")[0].image, vocabulary)
        written = np.asarray(Image.open(tmp_path / "run/scenes-seen/predictions" / f"{number:04d}.png"))
        assert (written == majority.smoothed(plain, 31)).mean() > 0.99
        assert (written == plain).mean() < 0.99


def test_the_picture_of_the_readme_is_the_one_that_the_script_draws(tmp_path: Path) -> None:
    picture.main(str(tmp_path / "scenes.png"))
    drawn, committed = (Image.open(file).convert("RGB") for file in (tmp_path / "scenes.png", ROOT / "docs/scenes.png"))
    assert drawn.size == committed.size
    difference = np.abs(np.asarray(drawn, float) - np.asarray(committed, float)).mean()
    assert difference < 5, "draw it again: python -m examples.picture docs/scenes.png"


@pytest.mark.slow
def test_the_wrapped_model_has_the_label_maps_of_its_library(tmp_path: Path) -> None:
    import torch

    folder, words = small_clipseg.write(tmp_path / "clipseg"), Vocabulary.of(["dog", "cat", "tree", "sky", "street"])
    stage = StageConfig(use="examples.clipseg", options={"folder": str(folder), "names": 2}).build()
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    batch = execution.start(2, image=[image, image[:30]], vocabulary=[words.digest] * 2)
    done = execution.run({"examples.clipseg": stage}, batch, {words.digest: words})
    assert list(done["error"]) == ["", ""]
    assert done["prediction"][1].shape == (30, 80)
    prompts = [f"a photo of a {name}." for name in words.names]
    inputs = stage.processor(text=prompts, images=[image] * 5, return_tensors="pt")
    with torch.inference_mode():
        logits = torch.nn.functional.interpolate(stage.model(**inputs).logits[None], (60, 80), mode="bilinear")[0]
    labels = done["prediction"][0]
    assert len(np.unique(labels)) > 2
    assert labels.dtype == np.uint16
    assert (labels == logits.argmax(0).numpy()).mean() > 0.999


def test_a_model_without_weights_is_an_error_that_names_its_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ovss_ray.OvssError, match=r"no \*\.safetensors"):
        clipseg.Stage.files(clipseg.Stage.Config(folder=str(tmp_path)))


def test_the_document_on_ones_own_model_has_a_stage_that_works_and_lines_of_the_example(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    document, example = ((ROOT / name).read_text("utf-8") for name in ("docs/own_model.md", "examples/clipseg.py"))
    shortest, *shown = re.findall(r"^```python\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    lines = {line.strip() for line in example.splitlines()}
    assert len(shown) == 4
    assert not [line for block in shown for line in block.splitlines() if line.strip() not in lines]
    monkeypatch.setitem(sys.modules, "my_library", SimpleNamespace(predict=lambda image, names: image[..., 0] % 2))
    exec(compile(shortest, "docs/own_model.md", "exec"), names := {"__name__": "my_stage"})
    words = Vocabulary.of(["road", "sky"])
    batch = {"image": np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3), "vocabulary": np.array([words.digest])}
    (labels,) = names["Stage"](None)(batch, {words.digest: words})["prediction"]
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels, [[0, 1, 0, 1]] * 2)


@pytest.mark.parametrize("script", ["evaluate", "segment", "majority", "picture", "clipseg"])
def test_every_example_is_short(script: str) -> None:
    assert len((ROOT / "examples" / f"{script}.py").read_text("utf-8").splitlines()) <= 100
