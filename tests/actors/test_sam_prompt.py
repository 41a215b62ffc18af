"""The stage `sam_prompt`: answers of the released predictor, and images that are looked at once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from torch.utils.flop_counter import FlopCounterMode

from ovss_ray.actors import sam as sam_stage
from ovss_ray.actors.sam_prompt import Stage
from ovss_ray.errors import OvssError
from ovss_ray.models.sam import network
from ovss_ray.models.sam.variants import VARIANTS
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.structures.masks import regions
from tests import official_sam, small_sam

QUESTIONS: list[dict[str, Any]] = [
    {"points": [[40, 20.5]], "labels": [1]},
    {"points": [[40, 20], [8, 50]], "labels": [1, 0], "multimask": False},
    {"box": [10, 10, 70, 50]},
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_sam.save(tmp_path_factory.mktemp("sam") / "small.pth")


def stage(weights: Path, **options: Any) -> Stage:
    return Stage(Stage.Config(variant="sam_small", weights=str(weights), device="cpu", **options))


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def test_regions_are_the_masks_of_the_released_predictor(weights: Path) -> None:
    reference = official_sam.build(official_sam.SMALL)
    reference.load_state_dict(torch.load(weights, weights_only=True))
    predictor, image = SamPredictor(reference), picture(60, 90)
    predictor.set_image(image)
    found = stage(weights)(execution.start(3, image=[image] * 3, prompts=QUESTIONS), {})
    for i, question in enumerate(QUESTIONS):
        names = {"points": "point_coords", "labels": "point_labels", "multimask": "multimask_output"}
        given = {names.get(key, key): np.array(value) for key, value in question.items()}
        masks, fit, _ = predictor.predict(**given)
        assert np.array_equal(regions.masks(found["boxes"][i], found["bits"][i], (60, 90)), masks)
        assert found["predicted_iou"][i] == pytest.approx(fit, abs=1e-5)


def test_a_mask_of_an_answer_can_be_asked_about(weights: Path) -> None:
    made, image = stage(weights), picture(60, 90)
    first = made.answer(image, QUESTIONS[0])
    second = made.answer(image, {**QUESTIONS[0], "mask": first.logits[1]})
    assert not np.array_equal(first.logits, second.logits)


def test_an_image_is_looked_at_once_while_it_is_remembered(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = stage(weights)
    small.answer(picture(30, 40), QUESTIONS[0])
    made, looked = stage(weights, memory=2 * small.kept()["images"] + 1000), []  # two images
    monkeypatch.setattr(
        network.Sam, "embed", lambda self, image, embed=network.Sam.embed: looked.append(1) or embed(self, image)
    )
    one, two, three = picture(30, 40), picture(31, 40), picture(32, 40)
    for image in (one, two, one, two, three, three, one):
        made.answer(image, QUESTIONS[0])
    assert len(looked) == 4  # one had to make room for three
    assert made.kept()["images"] <= 2 * small.kept()["images"] + 1000


def test_an_image_may_be_remembered_by_a_name_and_is_then_not_hashed(weights: Path) -> None:
    made, image = stage(weights), picture(30, 40)
    assert made.image("mine") is None
    named = made.answer(image, {**QUESTIONS[0], "image": "mine"})
    assert np.array_equal(made.image("mine"), image)
    assert made.image("mine") is not image, "a copy: the image may lie in memory that Ray shares"
    assert np.array_equal(made.answer(np.zeros_like(image), {**QUESTIONS[0], "image": "mine"}).logits, named.logits)
    assert np.array_equal(made.answer(image, QUESTIONS[0]).logits, named.logits)


def test_with_the_network_of_the_stage_that_proposes_regions_it_loads_none(weights: Path) -> None:
    proposer = sam_stage.Stage(
        sam_stage.Stage.Config(variant="sam_small", weights=str(weights), device="cpu", exact=True)
    )
    options = {"variant": "sam_small", "weights": str(weights), "device": "cpu", "exact": True}
    made = StageConfig(use="sam_prompt", options=options).build(network=proposer.network)
    assert isinstance(made, Stage)
    assert made.model is proposer.network is proposer.generator.model
    image, alone = picture(30, 40), stage(weights, exact=True)
    assert np.array_equal(made.answer(image, QUESTIONS[0]).logits, alone.answer(image, QUESTIONS[0]).logits)
    with pytest.raises(TypeError, match="network"):
        StageConfig(use="decode").build(network=proposer.network)


def test_a_question_that_is_none_is_refused(weights: Path) -> None:
    with pytest.raises(
        OvssError, match=r"unknown keys of a prompt: \['point'\]; allowed: points, labels, box, mask, multimask"
    ):
        stage(weights).answer(picture(30, 40), {"point": [1, 2]})
    with pytest.raises(OvssError, match="empty prompt"):
        stage(weights).answer(picture(30, 40), {})


def test_a_further_click_costs_a_tenth_of_the_first_which_encodes_the_image(tmp_path: Path) -> None:
    torch.save(official_sam.state(VARIANTS["sam_tiny"]), tmp_path / "tiny.pth")
    made = Stage(Stage.Config(variant="sam_tiny", weights=str(tmp_path / "tiny.pth"), device="cpu"))
    image, counted = picture(256, 256), []
    for _ in range(2):
        with FlopCounterMode(display=False) as operations:  # which are the same on every machine
            made.answer(image, QUESTIONS[0])
        counted.append(operations.get_total_flops())
    assert 0 < counted[1] < counted[0] / 10
    assert counted[1] < 1e8
