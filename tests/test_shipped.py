"""The networks that come with the project do what their cards say; a break anywhere on the way turns this red."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ovss_ray import models, weights
from ovss_ray.datasets import scenes
from ovss_ray.models import checkpoint
from ovss_ray.models.san import San
from ovss_ray.models.san_variants import VARIANTS
from ovss_ray.training import clip
from ovss_ray.vocabulary import Vocabulary

EXPECTED = {"scenes:seen": 66.8, "scenes:held-out": 77.8}
"""mIoU in percent over the first twelve scenes, float32 on a CPU."""


@pytest.fixture(scope="module")
def model() -> San:
    return models.load("san_tiny")


def test_what_is_evaluated_when_nothing_is_named_has_its_miou_to_a_tenth(tmp_path: Path) -> None:
    """From any folder, without data, weights or words: drawing, decoding, text, masks, counting, report."""
    command = [sys.executable, "-m", "ovss_ray", "evaluate", "--limit", "12", "--out", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OVSS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run/report.json").read_text())["benchmarks"]
    assert {name: one["metrics"]["miou"] for name, one in report.items()} == pytest.approx(EXPECTED, abs=0.1)
    assert all(one["images"] == {"expected": 12, "scored": 12, "failed": 0} for one in report.values())
    assert str(tmp_path / "run/report.json") in done.stdout


def test_words_in_another_order_bring_it_to_chance(model: San) -> None:
    """The masks stay as good as they were; but if words meant nothing, this would not matter."""
    vocabulary = scenes.BENCHMARKS["seen"].vocabulary
    shuffled = Vocabulary.of(np.random.default_rng(0).permutation(vocabulary.names).tolist())
    right: dict[Vocabulary, list[float]] = {vocabulary: [], shuffled: []}
    for number in range(6):
        scene, _ = scenes.of_address(f"seen/validation/{number}")
        for words, found in right.items():
            found.append((model.segment(scene.image, words) == scenes.label_map(scene, vocabulary)).mean())
    assert np.mean(right[vocabulary]) > 0.8
    assert np.mean(right[shuffled]) < 0.05


def test_true_regions_are_named_among_all_combinations_held_out_ones_too(model: San) -> None:
    """Of 330 names; whoever sees colours and patterns but no shapes is right one time in eight."""
    part = clip.Clip(VARIANTS["san_tiny"])
    missing = part.load_state_dict(checkpoint.read(weights.find("san_tiny")), strict=False).missing_keys
    assert all(name.startswith("heads.") for name in missing)
    found = clip.naming(part.eval(), cell=16, count=8)
    assert found["trained"] > 60
    assert found["held_out"] > 50
    assert found["surface"] > 90


def test_together_they_are_small_and_each_has_a_card() -> None:
    files = sorted(weights.SHIPPED.glob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) < 12e6
    assert (
        {"san_tiny"} <= {file.stem for file in files} <= {name for name, one in weights.WEIGHTS.items() if not one.url}
    )
    for file in files:
        card = json.loads(file.with_suffix(".json").read_text())
        assert card["environment"]["git"]
        for training in card["trainings"]:
            assert training["command"].startswith("ovss train ")
            assert training["seconds"] > 0
            assert training["config"]["seed"] == 0
        assert not any(torch.isnan(value).any() for value in checkpoint.read(file).values())
