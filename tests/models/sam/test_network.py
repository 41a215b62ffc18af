"""Our SAM against the released package, part by part and as a whole, and what happens to prompts that are none."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import Sam as OfficialSam
from torch import Tensor

from ovss_ray import models
from ovss_ray.errors import OvssError
from ovss_ray.models.sam import network
from ovss_ray.models.sam.network import Sam
from ovss_ray.models.sam.variants import VARIANTS
from ovss_ray.models.sam_layers.prompts import Prompts
from tests import official_sam
from tests.official_sam import SMALL

Pair = tuple[Sam, OfficialSam]
CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def pair() -> Pair:
    """Both networks with the same values."""
    values = official_sam.state(SMALL)
    ours, theirs = Sam(SMALL), official_sam.build(SMALL)
    ours.load_state_dict(values)
    theirs.load_state_dict(values)
    return ours.eval().requires_grad_(False), theirs.requires_grad_(False)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def photo(height: int = 90, width: int = 150) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "sam_mobile"])
def test_the_entries_are_those_of_the_released_networks(name: str) -> None:
    with torch.device("meta"):
        ours = Sam(VARIANTS[name]).state_dict()
        registered = sam_model_registry.get(name.removeprefix("sam_"))
        theirs = (registered() if registered else official_sam.build(VARIANTS[name])).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


@pytest.mark.parametrize("changes", [{}, {"window": 4}, {"globals": ()}, {"patch": 8, "globals": (0, 1, 2)}])
def test_the_image_encoder_is_the_released_one(changes: dict[str, Any]) -> None:
    variant = replace(SMALL, **changes)
    values = official_sam.state(variant)
    ours, theirs = Sam(variant), official_sam.build(variant)
    ours.load_state_dict(values)
    theirs.load_state_dict(values)
    images = random(2, 3, 128, 128)
    with torch.inference_mode():
        found, expected = ours.encode(images), theirs.image_encoder(images)
    assert expected.std() > 0.5
    torch.testing.assert_close(found, expected, **CLOSE)


def clicks(prompts: int, points: int) -> dict[str, Tensor]:
    labels = torch.arange(prompts * points).reshape(prompts, points) % 3 - 1  # -1: a point that says nothing
    return {"points": 60 + 40 * random(prompts, points, 2, seed=1), "labels": labels}


def boxes(prompts: int) -> dict[str, Tensor]:
    return {"boxes": (60 + 30 * random(prompts, 4, seed=2))}


def masks(prompts: int) -> dict[str, Tensor]:
    return {"masks": 5 * random(prompts, 1, 4 * SMALL.grid, 4 * SMALL.grid, seed=3)}


PROMPTS: dict[str, Callable[[], dict[str, Tensor]]] = {
    "one click": lambda: clicks(5, 1),
    "three clicks": lambda: clicks(2, 3),
    "box": lambda: boxes(3),
    "mask": lambda: masks(2),
    "clicks and box": lambda: clicks(3, 2) | boxes(3),
    "clicks and mask": lambda: clicks(3, 2) | masks(3),
    "all": lambda: clicks(2, 2) | boxes(2) | masks(2),
}


@pytest.mark.parametrize("kind", PROMPTS)
def test_prompts_are_encoded_and_decoded_as_the_released_network_does(pair: Pair, kind: str) -> None:
    ours, theirs = pair
    given = PROMPTS[kind]()
    embedding = random(1, SMALL.embed, SMALL.grid, SMALL.grid)
    points = (given["points"], given["labels"]) if "points" in given else None
    sparse, dense = theirs.prompt_encoder(points, given.get("boxes"), given.get("masks"))
    prompts = Prompts.of(**given)
    torch.testing.assert_close(ours.prompt_encoder.tokens(prompts), sparse, **CLOSE)
    torch.testing.assert_close(ours.prompt_encoder.dense(prompts).expand_as(dense), dense, **CLOSE)
    position = theirs.prompt_encoder.get_dense_pe()
    torch.testing.assert_close(ours.prompt_encoder.positions().T.reshape(position.shape), position, **CLOSE)
    found, fit = ours.decode(embedding, prompts)
    for several, chosen in ((True, slice(1, None)), (False, slice(0, 1))):
        logits, iou = theirs.mask_decoder(embedding, position, sparse, dense, several)
        assert logits.std() > 0.1
        torch.testing.assert_close(found[:, chosen], logits, **CLOSE)
        torch.testing.assert_close(fit[:, chosen], iou, **CLOSE)


def test_prompts_of_several_images_can_be_asked_together(pair: Pair) -> None:
    ours, _ = pair
    embeddings = random(3, SMALL.embed, SMALL.grid, SMALL.grid)
    which = torch.tensor([2, 0, 0, 1])
    given = clicks(4, 2)
    together = ours.decode(embeddings, Prompts.of(**given), which)
    for i, image in enumerate(which.tolist()):
        alone = Prompts.of(given["points"][i : i + 1], given["labels"][i : i + 1])
        for found, expected in zip(together, ours.decode(embeddings[image][None], alone), strict=True):
            torch.testing.assert_close(found[i : i + 1], expected, **CLOSE)


QUESTIONS: dict[str, dict[str, Any]] = {
    "click": {"points": [[70, 40.5]], "labels": [1]},
    "clicks": {"points": [[70, 40], [10, 80]], "labels": [1, 0]},
    "box": {"box": [20, 10, 130, 77]},
    "click in a box": {"points": [[70, 40]], "labels": [0], "box": [20.0, 10, 130, 77]},
}


@pytest.mark.parametrize("shape", [(90, 150), (150, 90), (128, 128), (40, 127)])
@pytest.mark.parametrize("multimask", [True, False])
def test_answers_are_those_of_the_released_predictor(pair: Pair, shape: tuple[int, int], multimask: bool) -> None:
    ours, theirs = pair
    image, predictor = photo(*shape), SamPredictor(theirs)
    predictor.set_image(image)
    seen = ours.embed(image)
    for question in QUESTIONS.values():
        as_arrays = {key: np.array(value, float) for key, value in question.items()}
        renamed = {{"points": "point_coords", "labels": "point_labels"}.get(k, k): v for k, v in as_arrays.items()}
        for _ in range(2):  # the second time with a mask of the first answer
            expected, fit, low = predictor.predict(**renamed, multimask_output=multimask)
            found = ours.predict(seen, **question, multimask=multimask)
            np.testing.assert_allclose(found.logits, low, **CLOSE)
            np.testing.assert_allclose(found.predicted_iou, fit, **CLOSE)
            logits = predictor.model.postprocess_masks(torch.from_numpy(low)[None], *_sizes(seen))[0]
            assert found.masks.shape == expected.shape
            assert not ((found.masks != expected) & (logits.abs().numpy() > 1e-5)).any()
            assert 0.01 < expected.mean() < 0.99
            question = {**question, "mask": low[0]}
            renamed["mask_input"] = low[:1]


def _sizes(seen: network.Embedded) -> tuple[tuple[int, int], tuple[int, int]]:
    return seen.resized, seen.size


def test_an_official_checkpoint_is_loaded_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: Pair) -> None:
    monkeypatch.setitem(VARIANTS, "sam_vit_b", SMALL)
    torch.save(official_sam.state(SMALL), tmp_path / "small.pth")
    model = models.load("sam_vit_b", tmp_path / "small.pth")
    answer = model.predict(model.embed(photo()), points=[[70, 40]], labels=[1])
    expected = pair[0].predict(pair[0].embed(photo()), points=[[70, 40]], labels=[1])
    assert np.array_equal(answer.logits, expected.logits)
    with pytest.raises(OvssError, match=r"not a checkpoint of sam_tiny.*It is a checkpoint of sam_vit_b"):
        models.load("sam_tiny", tmp_path / "small.pth")
    with pytest.raises(OvssError, match="fp32, bf16, int8"):
        models.load("sam_vit_b", tmp_path / "small.pth", precision="fp8")


def test_half_precision_is_for_the_image_alone(pair: Pair) -> None:
    half = Sam(SMALL)
    half.load_state_dict(pair[0].state_dict())
    half.precision = "bf16"
    images = random(1, 3, 128, 128)
    found, expected = half.encode(images), pair[0].encode(images)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().mean() < 0.02


def test_pixels_are_told_apart_in_half_precision(pair: Pair) -> None:
    waves, places = pair[0].prompt_encoder.pe_layer, torch.rand(50, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = waves(places)
    assert torch.equal(found, waves(places))


FAULTS = {
    "empty": ({}, "empty prompt"),
    "no labels": ({"points": [[1, 2]]}, "expected both points and labels, or neither"),
    "too few labels": ({"points": [[1, 2], [3, 4]], "labels": [1]}, "2 points have the labels"),
    "another label": ({"points": [[1, 2]], "labels": [2]}, "Pass one label per point, 1 or 0"),
    "no points": ({"points": [], "labels": []}, "points: expected n × 2"),
    "flat": ({"points": [1, 2], "labels": [1]}, r"points: expected n × 2 finite numbers, got an array of shape \(2,\)"),
    "nan": ({"points": [[1, float("nan")]], "labels": [1]}, "points: expected finite numbers, found NaN or infinity"),
    "words": ({"box": ["a", 1, 2, 3]}, "box: expected numbers, found"),
    "infinite": ({"box": [0, 0, np.inf, 3]}, "box: expected finite numbers, found NaN or infinity"),
    "size of mask": ({"mask": np.zeros((256, 256))}, "mask: expected 32 × 32"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_prompts_that_are_none_are_refused_with_what_is_wanted(pair: Pair, fault: str) -> None:
    given, message = FAULTS[fault]
    with pytest.raises(OvssError, match=message):
        pair[0].predict(pair[0].embed(photo()), **given)
