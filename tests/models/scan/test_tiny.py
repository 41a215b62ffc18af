"""The SCAN that comes with the project: its answers, its size, and what it takes from clip_tiny."""

import numpy as np
import pytest
import torch

from ovss_ray import models
from ovss_ray.datasets import scenes
from ovss_ray.models import checkpoint, zoo
from ovss_ray.models.scan.network import Scan
from ovss_ray.structures.vocabulary import Vocabulary
from ovss_ray.training import config
from ovss_ray.training.scenes import miou
from tests.paths import ROOT

SETTINGS = config.load(ROOT / "configs/train_scan_tiny.yaml").model_dump()
OPTIONS = {name: SETTINGS[name] for name in ("mask_threshold", "ensemble_weight", "replace_ratio")}
FEW = {"seen": 77.06, "held-out": 82.78}
"""mIoU in percent over the first 12 scenes, float32 on a CPU"""


@pytest.fixture(scope="module")
def model() -> Scan:
    return models.load("scan_tiny")


def test_scenes_are_segmented_with_the_pinned_miou(model: Scan) -> None:
    figures = miou(lambda image, vocabulary: model.segment(image, vocabulary, **OPTIONS), 12)
    assert {key: figures[key] for key in FEW} == pytest.approx(FEW, abs=0.1)


def test_words_in_another_order_bring_it_to_chance(model: Scan) -> None:
    """The masks stay as good as they were; but if words meant nothing, this would not matter."""
    vocabulary = scenes.BENCHMARKS["held-out"].vocabulary
    shuffled = Vocabulary.of(np.random.default_rng(0).permutation(vocabulary.names).tolist())
    right: dict[Vocabulary, list[float]] = {vocabulary: [], shuffled: []}
    for number in range(3):
        scene, _ = scenes.of_address(f"held-out/validation/{number}")
        truth = scenes.label_map(scene, vocabulary)
        for words, equal in right.items():
            equal.append((model.segment(scene.image, words, **OPTIONS) == truth).mean())
    assert np.mean(right[vocabulary]) > 0.8
    assert np.mean(right[shuffled]) < 0.05


def test_both_branches_name_things_and_together_they_name_them_best(model: Scan) -> None:
    """Crops are not needed for masks and most names; proposals are needed to tell which masks are none."""
    vocabulary = scenes.BENCHMARKS["seen"].vocabulary
    right: dict[float, list[float]] = {weight: [] for weight in (0.01, OPTIONS["ensemble_weight"], 1.0)}
    for number in range(4):
        scene, _ = scenes.of_address(f"seen/validation/{number}")
        truth = scenes.label_map(scene, vocabulary)
        for weight, equal in right.items():
            labels = model.segment(scene.image, vocabulary, **{**OPTIONS, "ensemble_weight": weight})
            equal.append((labels == truth).mean())
    proposals, both, crops = (np.mean(values) for values in right.values())
    assert min(proposals, crops) > 0.5
    assert both > max(proposals, crops)


def test_it_is_small_and_takes_from_clip_tiny_all_that_its_trainings_left(model: Scan) -> None:
    file = zoo.find("scan_tiny")
    assert file.stat().st_size < 5e6
    stored = checkpoint.read(file)
    words, visual = checkpoint.read_clip(zoo.find("clip_tiny"))
    frozen = model.clip_adapter.original_clip.state_dict()
    tower = model.clip_adapter.clip_model.state_dict()
    for name, value in visual.items():
        if name != "positional_embedding":
            assert torch.equal(frozen[name], value)
            fine_tuned = name.startswith(("resblocks.3.", "resblocks.4.", "resblocks.5.", "ln_post.", "proj"))
            assert torch.equal(tower[f"visual.{name}"], value) != fine_tuned, name
    assert all(torch.equal(tower[name], value) for name, value in words.items())
    assert not any(torch.isnan(value).any() for value in stored.values())
