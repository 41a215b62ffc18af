"""CaSED and DenseCaSED against the official code's results: scores, crops, boxes, maps, scores of patches."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ovss_ray.models.alpha_clip import cased, grids
from ovss_ray.models.alpha_clip.clip_config import Scoring
from ovss_ray.structures.columns import NONE


@pytest.fixture(scope="module")
def goldens(shared: Path) -> Path:
    return shared / "parity/vocabulary_free"


@pytest.mark.parametrize("name", ["default", "alpha_half", "alpha_1", "alpha_0", "tau_2", "prompts", "sigmoid"])
def test_scores_are_the_official_ones_in_all_settings(goldens: Path, name: str) -> None:
    content = json.loads((goldens / "cased.json").read_text())
    images = json.loads((goldens / "words.json").read_text())["images"]
    arrays, case = np.load(goldens / "cased.npz"), content["cases"][name]
    row = {text: i for i, text in enumerate(content["texts"])}
    texts = torch.from_numpy(arrays["texts_z"])
    scoring = Scoring(alpha=case["alpha"], temperature=case["tau"], bias=case["bias"], probability=case["norm"])
    prompts, begin = case["prompts"] or ["{}"], 0
    for image, embedding, words, expected in zip(
        content["images"], arrays["image_embeddings"], case["vocabularies"], arrays[f"{name}/scores"], strict=True
    ):
        filled = texts[torch.tensor([[row[prompt.format(word)] for prompt in prompts] for word in words])]
        unit = F.normalize(F.normalize(filled, dim=-1).mean(1), dim=-1)
        found = texts[[row[text.replace("_", " ")] for text in images[image]["captions"]]]
        scores = cased.scores(torch.from_numpy(embedding), found, unit, case["scale"], scoring)
        assert np.abs(scores.numpy() - expected[begin : begin + len(words)]).max() < 1e-6
        begin += len(words)
    assert begin == len(case["words"])


def test_crops_their_boxes_and_the_map_are_the_official_ones(goldens: Path) -> None:
    golden = np.load(goldens / "dense.npz")
    image = torch.from_numpy(golden["image"])
    found = torch.cat(list(grids.crops(image, (2, 4, 8), (16, 16)))).numpy()
    assert found.shape == (283, 3, 16, 16)
    assert np.abs(found[..., ::4, ::4] - golden["crops"]).max() < 1e-5
    assert np.abs(found[:8] - golden["crops_full_first8"]).max() < 1e-5
    boxes = grids.boxes((2, 4, 8))
    assert np.array_equal(boxes, golden["boxes"])
    made = grids.averaged(torch.from_numpy(golden["crop_embeddings"][0]), boxes)
    assert np.abs(made.numpy() - golden["map"]).max() < 1e-6
    plain = torch.cat(list(grids.crops(image, (1, 3), (16, 12), shifted=False))).numpy()
    assert np.abs(plain[..., ::4, ::4] - golden["plain_crops"]).max() < 1e-5
    assert np.array_equal(grids.boxes((1, 3), shifted=False), golden["plain_boxes"])


def test_patches_and_their_scores_are_the_official_ones(goldens: Path) -> None:
    content, golden = json.loads((goldens / "patches.json").read_text()), np.load(goldens / "patches.npz")
    patches = iter(content["patches"])
    for image, (width, height) in enumerate(content["sizes_wh"]):
        words = content["vocabularies"][image]
        listed = [next(patches) for _ in range(content["patches_per_image"][image])]
        boxes = np.array([box for *_, box in listed])
        assert grids.grid_boxes((height, width), content["grids"][image]).tolist() == sorted(
            boxes.tolist(), key=lambda box: -box[2] * box[3]
        )
        numbers, values = [words.index(word) for word, *_ in listed], np.array([value for _, value, _ in listed])
        scores = grids.patch_scores(numbers, values, boxes, (len(words), height, width))
        assert np.abs(scores.numpy() - golden[f"scores{image}"]).max() < 1e-6
    assert len(grids.grid_boxes((90, 120), (3,), smallest=1200)) == 0
    assert len(grids.grid_boxes((90, 120), (3,), smallest=1199)) == 9


@pytest.mark.parametrize("size", [(64, 48), (37, 101), (5, 3), (16, 16)])
def test_enlarged_labels_are_those_of_bilinear_maps(size: tuple[int, int]) -> None:
    cells = np.random.default_rng(3).choice([0, 1, 2, 7, NONE], (16, 16))
    labels = np.unique(cells)
    maps = torch.from_numpy((cells == labels[:, None, None]).astype(np.float64))[None]
    scores = F.interpolate(maps, size, mode="bilinear", align_corners=False)[0].numpy()
    found = grids.enlarged(cells, size)
    mine = np.take_along_axis(scores, np.searchsorted(labels, found)[None], 0)[0]
    assert np.allclose(mine, scores.max(0), atol=1e-12)
    clear = np.sort(scores, 0)[-2] < scores.max(0) - 1e-9
    assert clear.mean() > 0.5
    assert np.array_equal(found[clear], labels[scores.argmax(0)][clear])


def test_a_tie_between_words_goes_to_the_lower_index() -> None:
    assert grids.enlarged(np.array([[3, 1]]), (1, 3)).tolist() == [[3, 1, 1]]


def test_an_image_smaller_than_the_grid_has_all_crops() -> None:
    assert torch.cat(list(grids.crops(torch.rand(3, 5, 7), (2, 8), (16, 16)))).shape[0] == len(grids.boxes((2, 8)))
