"""Fusioner against the official code, number by number. The network of the released size is built once."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ovss_ray.models import checkpoint, fake, text
from ovss_ray.models.fusioner import network
from ovss_ray.models.fusioner.network import Fusioner, Prediction

pytestmark = pytest.mark.slow
FORWARD = [("pascal", "pascal", 1), ("coco", "coco", 1), ("multi", "pascal", 2)]
"""Golden, its normalisation, and the step between the logits that were kept"""
BOXES = ("full", "short_below_crop", "both_below_crop")


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "parity/fusioner"


@pytest.fixture(scope="module")
def model(folder: Path, fusioner_checkpoint: Path) -> Fusioner:
    manifest = json.loads((folder / "manifest_fusioner.json").read_text())["tensors"]
    state = checkpoint.read(fusioner_checkpoint)
    assert {name: [list(value.shape), "float32"] for name, value in state.items()} == manifest
    return network.load("fusioner_vit_l_14", [fusioner_checkpoint])


def photograph(shared: Path, name: str) -> np.ndarray:
    return np.array(Image.open(shared / f"parity/inputs/{name}.png").convert("RGB"))


def difference(ours: Any, golden: np.ndarray) -> float:
    ours = np.asarray(ours)
    assert ours.shape == golden.shape
    return float(np.abs(ours - golden).max())


def assert_flips_are_ties(pred: np.ndarray, logits: np.ndarray, golden: np.ndarray) -> None:
    """At most 0.05 % of the pixels differ, each within 1e-4 of the threshold (two classes: of each other)."""
    flipped = (pred != golden).any(0)
    assert flipped.mean() <= 0.0005
    with_threshold = np.sort(np.concatenate([logits, np.zeros_like(logits[:1])]), 0)
    assert ((with_threshold[-1] - with_threshold[-2])[flipped] <= 2e-4).all()


def test_the_weights_are_those_of_the_goldens(shared: Path, fusioner_checkpoint: Path) -> None:
    state = checkpoint.read(fusioner_checkpoint)
    for name in ("fusion.blocks.3.attn.qkv.weight", "text_model.logit_scale", "img_model.ln_pre.weight"):
        assert torch.equal(state[name], fake.tensor(name, tuple(state[name].shape), 0))


@pytest.mark.parametrize(("golden", "data_set", "step"), FORWARD)
def test_one_forward_pass(shared: Path, folder: Path, model: Fusioner, golden: str, data_set: Any, step: int) -> None:
    with np.load(folder / f"forward_{golden}.npz") as stored:
        expected = dict(stored)
    image, names = photograph(shared, str(expected["photo"])), [str(name) for name in expected["class_names"]]
    prompts = [template.format(name) for name in names for template in text.TEMPLATES["fusioner"]]
    assert np.array_equal(text.tokenise(prompts)[0].view(len(names), 32, 77), expected["tokens"])
    if "input_s" in expected:
        inputs = model.preprocess(image, data_set, "square_224").windows[0]
        assert np.array_equal(inputs[:, ::4, ::4], expected["input_s"])
    made = model.predict(image, names, data_set, "square_224")
    assert difference(made["text_embedding"], expected["text_embedding"]) <= 1e-7
    check_tokens(made, expected)
    assert difference(made["logits"][:, ::step, ::step], expected["logits"]) <= 1e-4
    assert_flips_are_ties(made["pred"], made["logits"].numpy(), expected["pred"])


def check_tokens(made: Prediction, expected: Mapping[str, np.ndarray]) -> None:
    assert difference(made["img_tokens"][::8, ::8], expected["img_tokens_s"]) <= 1e-5
    assert difference(made["fusion_patches"][::8, ::8], expected["fusion_patches_s"]) <= 1e-5
    assert difference(made["fusion_text"], expected["fusion_text"]) <= 1e-5
    assert difference(made["decoder"][::32, ::14, ::14], expected["decoder_s"]) <= 1e-4
    for name in ("img_tokens", "fusion_patches", "decoder"):
        values = made[name].numpy().astype(np.float64)
        sums = [values.mean(), values.std(), values.min(), values.max()]
        assert np.allclose(sums, expected[f"{name}_stats"][:4], atol=1e-4), name


@pytest.mark.parametrize("case", BOXES)
def test_windows_over_a_photograph(shared: Path, folder: Path, model: Fusioner, case: str) -> None:
    with np.load(folder / "windows_pascal.npz") as stored:
        expected = dict(stored)
    top, bottom, left, right = expected[f"{case}_box"]
    image = photograph(shared, str(expected["photo"]))[top:bottom, left:right]
    made = model.predict(image, [str(expected["class_name"])])
    assert difference(made["logits"][0, ::2, ::2], expected[f"{case}_logits_s"]) <= 1e-4
    assert_flips_are_ties(made["pred"], made["logits"].numpy(), expected[f"{case}_pred"][None])
    assert abs(int(made["pred"].sum()) - int(expected[f"{case}_foreground"])) <= 0.0005 * made["pred"].size
