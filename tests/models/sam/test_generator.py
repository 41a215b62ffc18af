"""Our automatic generator against the released one, whole and part by part, for every parameter it has."""

import itertools
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam as OfficialSam
from segment_anything.utils import amg
from torch import nn
from torch.nn import functional as F

from ovss_ray.datasets import scenes
from ovss_ray.errors import OvssError
from ovss_ray.models import zoo as checkpoints
from ovss_ray.models.sam import network as sam
from ovss_ray.models.sam.generator import Generator, Proposals, fast_decoder
from ovss_ray.models.sam.network import Sam
from ovss_ray.models.sam.variants import VARIANTS, Variant, resized_size
from ovss_ray.models.sam_layers import generator as sam_generator
from ovss_ray.models.sam_layers import masks as sam_masks
from ovss_ray.models.sam_layers.frame import Frame
from ovss_ray.models.sam_layers.nms import clean, nms
from ovss_ray.models.sam_layers.points import Settings, crops, cut_off
from ovss_ray.models.sam_layers.prompts import Prompts
from ovss_ray.structures.masks import regions
from tests import official_sam
from tests.official_sam import SMALL

NEAR = 1e-5
"""Of a threshold: where two ways of adding float32 numbers may decide otherwise."""
Pair = tuple[Sam, OfficialSam]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def both(variant: Variant, values: dict[str, torch.Tensor]) -> Pair:
    """Our network and the released one with the same values."""
    ours, theirs = Sam(variant), official_sam.build(variant)
    ours.load_state_dict(values)
    theirs.load_state_dict(values)
    return ours.eval().requires_grad_(False), theirs.requires_grad_(False)


@pytest.fixture(scope="module")
def small() -> Pair:
    return both(SMALL, official_sam.speckled(SMALL, 0.1, seed=1))


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def differences(pair: Pair, images: list[np.ndarray], options: dict[str, Any], batch: int = 1) -> Counter[str]:
    """Run both generators; what differs must lie near a threshold, and is counted."""
    ours, theirs = pair
    counts: Counter[str] = Counter()
    found = Generator(ours, Settings(**options), batch).generate(images)
    official = SamAutomaticMaskGenerator(theirs, **options)
    for image, proposals in zip(images, found, strict=True):
        expected = released(official, image)
        partner = matched(proposals, expected)
        counts["masks"] += len(expected)
        counts["masks near a threshold"] += unmatched(proposals, expected, partner, official)
        shared = [(i, j) for i, j in enumerate(partner) if j is not None]
        for (i, one), (k, other) in itertools.pairwise(shared):
            assert one < other or abs(proposals.predicted_iou[i] - proposals.predicted_iou[k]) <= NEAR, "another order"
        masks = regions.masks(proposals.boxes, joined(proposals), image.shape[:2])
        for i, j in shared:
            differing = masks[i] != expected[j]["segmentation"]
            counts["pixels near the threshold"] += differing.sum()
            if not options.get("min_mask_region_area"):  # after which an area is not what the stability was measured on
                apart = abs(proposals.stability[i] - expected[j]["stability_score"])
                assert not apart > 3 / max(1, expected[j]["area"]), "more than a few pixels lie near ± the offset"
            assert not differing.any() or near_zero(theirs, image, expected[j], differing)
    return counts


def released(official: SamAutomaticMaskGenerator, image: np.ndarray) -> list[dict[str, Any]]:
    """The released generator's masks; where it finds none in any of several crops it fails, and ours has none."""
    try:
        return official.generate(image)
    except IndexError:
        assert official.crop_n_layers > 0
        return []


def joined(proposals: Proposals) -> np.ndarray:
    return np.concatenate([np.empty(0, np.uint8), *proposals.bits])


def matched(proposals: Proposals, expected: list[dict[str, Any]]) -> list[int | None]:
    """For each of our regions the released mask of the same click, crop and predicted IoU."""
    left = list(range(len(expected)))
    found: list[int | None] = []
    for point, crop, fit in zip(proposals.points, proposals.crops, proposals.predicted_iou, strict=True):
        x0, y0, x1, y1 = crop.tolist()
        alike = [
            j for j in left
            if np.allclose(expected[j]["point_coords"], point, rtol=0, atol=1e-9)
            and expected[j]["crop_box"] == [x0, y0, x1 - x0, y1 - y0]
            and abs(expected[j]["predicted_iou"] - fit) <= NEAR
        ]  # fmt: skip
        found.append(alike[0] if alike else None)
        left = [j for j in left if j != found[-1]]
    return found


def unmatched(proposals: Proposals, expected: list[dict[str, Any]], partner: list[int | None], official: Any) -> int:
    """How many masks only one side has; each must be near a threshold."""
    ours = [
        (f, s, tuple(b)) for f, s, b in zip(proposals.predicted_iou, proposals.stability, proposals.boxes, strict=True)
    ]
    theirs = [(e["predicted_iou"], e["stability_score"], corners(e["bbox"])) for e in expected]
    alone = [one for one, j in zip(ours, partner, strict=True) if j is None]
    alone += [one for j, one in enumerate(theirs) if j not in partner]
    for fit, stability, box in alone:
        overlaps = [overlap(box, other) for _, _, other in ours + theirs]
        near = [abs(fit - official.pred_iou_thresh), abs(stability - official.stability_score_thresh)]
        near += [abs(x - t) for x in overlaps for t in (official.box_nms_thresh, official.crop_nms_thresh)]
        assert min(near) <= NEAR, f"a mask of predicted IoU {fit} and stability {stability} is not on both sides"
    return len(alone)


def corners(xywh: list[float]) -> tuple[float, ...]:
    x, y, w, h = xywh
    return x, y, x + w + 1, y + h + 1


def overlap(one: Any, other: Any) -> float:
    """The IoU of two boxes, half open, as the released code has it: of boxes that end a pixel earlier."""
    wide, high = (min(one[2 + i], other[2 + i]) - 1 - max(one[i], other[i]) for i in (0, 1))
    areas = [(x1 - x0 - 1) * (y1 - y0 - 1) for x0, y0, x1, y1 in (one, other)]
    inner = max(wide, 0) * max(high, 0)
    return inner / max(sum(areas) - inner, 1e-9)


def near_zero(theirs: OfficialSam, image: np.ndarray, expected: dict[str, Any], differing: np.ndarray) -> bool:
    """Whether the released network's logits are near 0 where masks differ."""
    x, y, w, h = (int(value) for value in expected["crop_box"])
    predictor = SamAutomaticMaskGenerator(theirs).predictor
    predictor.set_image(image[y : y + h, x : x + w])
    point = np.array(expected["point_coords"]) - (x, y)
    logits, fit, _ = predictor.predict(point, np.ones(1), return_logits=True)
    best = int(np.argmin(np.abs(fit - expected["predicted_iou"])))
    return bool((np.abs(logits[best][differing[y : y + h, x : x + w]]) <= NEAR).all())


ANY: dict[str, Any] = {"points_per_side": 5, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
SETS: dict[str, dict[str, Any]] = {
    "any mask": ANY,
    "any mask, all kept": ANY | {"box_nms_thresh": 1.0},
    "predicted IoU": ANY | {"pred_iou_thresh": 0.3, "points_per_batch": 7},
    "stability": ANY | {"stability_score_thresh": 0.5, "stability_score_offset": 0.01, "box_nms_thresh": 0.9},
    "overlap": ANY | {"points_per_side": 8, "box_nms_thresh": 0.3},
    "crops": ANY | {"points_per_side": 4, "crop_n_layers": 1},
    "crops with few points": ANY | {"crop_n_layers": 2, "crop_n_points_downscale_factor": 2, "crop_overlap_ratio": 0.6},
    "crops that overlap": ANY | {"points_per_side": 3, "crop_n_layers": 1, "crop_nms_thresh": 0.2},
    "no specks": ANY | {"min_mask_region_area": 30},
    "no specks in crops": ANY | {"points_per_side": 4, "crop_n_layers": 1, "min_mask_region_area": 200},
    "points": ANY | {"points_per_side": None, "point_grids": [np.array([[0.1, 0.2], [0.5, 0.5], [0.93, 0.7]])]},
    "all at once": {
        "points_per_side": 6, "pred_iou_thresh": -0.5, "stability_score_thresh": 0.4, "stability_score_offset": 0.01,
        "box_nms_thresh": 0.6, "crop_n_layers": 1, "crop_n_points_downscale_factor": 2, "min_mask_region_area": 50,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_the_masks_are_those_of_the_released_generator_in_its_order(small: Pair, name: str) -> None:
    images = [picture(90, 150), picture(128, 128), picture(61, 40), picture(300, 211)]
    counts = differences(small, images, SETS[name])
    print(name, dict(counts))
    assert counts["masks"] >= 12
    assert counts["masks near a threshold"] + counts["pixels near the threshold"] <= 5


def test_images_and_crops_that_share_forwards_give_the_same_masks(small: Pair) -> None:
    images = [picture(90, 150), picture(61, 40), picture(128, 128)]
    assert differences(small, images, SETS["crops"], batch=4)["masks"] > 30


TRAINED: dict[str, dict[str, Any]] = {
    "any mask, all kept": {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0},
    "predicted IoU": {"pred_iou_thresh": 0.5, "stability_score_thresh": 0.0},
    "stability": {"pred_iou_thresh": 0.1, "stability_score_thresh": 0.5},
    "offset": {"pred_iou_thresh": 0.1, "stability_score_thresh": 0.3, "stability_score_offset": 0.3},
    "points": {
        "points_per_side": None, "point_grids": [np.array([[0.2, 0.3], [0.5, 0.5], [0.6, 0.8], [0.9, 0.1]])],
        "pred_iou_thresh": 0.2, "stability_score_thresh": 0.2, "points_per_batch": 3,
    },
    "overlap": {"pred_iou_thresh": 0.2, "stability_score_thresh": 0.2, "box_nms_thresh": 0.4},
    "crops": {"crop_n_layers": 1, "pred_iou_thresh": 0.5, "stability_score_thresh": 0.3},
    "no specks": {"pred_iou_thresh": 0.2, "stability_score_thresh": 0.1, "min_mask_region_area": 100},
    "all at once": {
        "crop_n_layers": 1, "crop_n_points_downscale_factor": 2, "pred_iou_thresh": 0.4, "stability_score_thresh": 0.4,
        "min_mask_region_area": 50, "crop_nms_thresh": 0.5,
    },
}  # fmt: skip
"""The thresholds of IoU and stability are shares of the masks, so that the sets fit however well the network does."""
LONG = ("crops", "all at once")
"""Sets that take ten times as long as others"""


class Remembered(nn.Module):
    """An image encoder that looks at each image once, whatever the parameters are."""

    def __init__(self, encoder: nn.Module, pixels: int) -> None:
        super().__init__()
        self.encoder, self.img_size, self.known = encoder, pixels, dict[bytes, torch.Tensor]()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        key = images.numpy().tobytes()
        if key not in self.known:
            self.known[key] = self.encoder(images)
        return self.known[key]


@pytest.fixture(scope="module")
def trained() -> Pair:
    """The SAM that this project has trained."""
    variant = VARIANTS["sam_tiny"]
    pair = both(variant, sam.load("sam_tiny", checkpoints.files("sam_tiny")).state_dict())
    for network in pair:
        network.image_encoder = Remembered(network.image_encoder, variant.pixels)  # type: ignore[assignment]
    return pair


@pytest.mark.parametrize("name", [pytest.param(key, marks=pytest.mark.slow) if key in LONG else key for key in TRAINED])
def test_the_trained_network_finds_what_the_released_generator_finds(trained: Pair, name: str, shared: Path) -> None:
    photos = sorted((shared / "data/real/photos/sam").glob("*.jpg"))
    assert len(photos) == 4
    images = [scenes.of_address(f"all/validation/{i}")[0].image for i in range(12)] + [*map(small_photo, photos)]
    every = {"points_per_side": 3} | TRAINED["any mask, all kept"]
    (found,) = Generator(trained[0], Settings(**every)).generate(images[:1])
    options = every | {"box_nms_thresh": 0.7} | TRAINED[name]
    for key, values in (("pred_iou_thresh", found.predicted_iou), ("stability_score_thresh", found.stability)):
        options[key] = float(np.nanquantile(values, options[key])) if options[key] else 0.0
    counts = differences(trained, images, options)
    print(name, dict(counts))
    assert counts["masks"] >= 40
    assert counts["masks near a threshold"] + counts["pixels near the threshold"] <= 20


def small_photo(file: Path) -> np.ndarray:
    with Image.open(file) as opened:
        opened.thumbnail((320, 320))
        return np.asarray(opened.convert("RGB"))


@pytest.mark.slow
def test_vit_b_proposes_what_the_released_generator_proposes_before_and_after_suppression(shared: Path) -> None:
    """Both see with our encoder, which is compared with the released one in test_goldens."""
    variant = VARIANTS["sam_vit_b"]
    pair = both(variant, official_sam.speckled(variant, 0.4))
    encoder = Remembered(pair[0].image_encoder, variant.pixels)
    for network in pair:
        network.image_encoder = encoder  # type: ignore[assignment]
    with Image.open(shared / "data/real/photos/sam/truck.jpg") as opened:
        image = np.asarray(opened.convert("RGB").resize((512, 341)))
    before = differences(pair, [image], ANY | {"box_nms_thresh": 1.0})
    after = differences(pair, [image], ANY)
    print("vit_b", dict(before), dict(after))
    assert before["masks"] == 75
    assert 0 < after["masks"] < 75
    assert before["masks near a threshold"] + after["masks near a threshold"] <= 2
    assert before["pixels near the threshold"] <= 75 * image[..., 0].size * NEAR


@pytest.mark.parametrize("variant", [SMALL, replace(SMALL, decoder_layers=3), VARIANTS["sam_tiny"]])
def test_the_fast_decoder_answers_as_the_plain_one(variant: Variant) -> None:
    model = Sam(variant)
    model.load_state_dict(official_sam.state(variant))
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(3, variant.embed, variant.grid, variant.grid, generator=generator)
    which = torch.tensor([0, 0, 1, 2, 2, 2])
    prompts = Prompts.of(variant.pixels * torch.rand(6, 2, 2, generator=generator), torch.tensor([[1, 0]] * 6))
    with torch.inference_mode():
        logits, fit = model.decode(embeddings, prompts, which)
        fast = fast_decoder(model)
        answered = fast.answer(fast.see(embeddings), prompts, which)
        masks = fast.masks(answered, torch.tensor([5, 1]))
        assert logits.std() > 0.1
        torch.testing.assert_close(answered.fit, fit[:, 1:], atol=1e-5, rtol=0)
        torch.testing.assert_close(masks, logits[[5, 1], 1:], atol=1e-4, rtol=0)
        alone = Prompts.of(prompts.points[3:, :2], prompts.labels[3:, :2])
        one = fast.answer(fast.see(embeddings[2:]), alone)
        torch.testing.assert_close(one.image, answered.image[3:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (40, 40), (128, 128), (97, 201), (683, 1024), (700, 90)])
@pytest.mark.parametrize("variant", [SMALL, VARIANTS["sam_vit_b"]])
def test_masks_are_enlarged_as_torch_enlarges_them(size: tuple[int, int], variant: Variant) -> None:
    side, resized = 4 * variant.grid, resized_size(*size, variant)
    low = 10 * torch.randn(2, side, side, generator=torch.Generator().manual_seed(0))
    frame = Frame(side, variant.pixels, resized, size, torch.device("cpu"))
    inner = F.interpolate(low[None], (variant.pixels,) * 2, mode="bilinear")[..., : resized[0], : resized[1]]
    expected = F.interpolate(inner, size, mode="bilinear")[0]
    torch.testing.assert_close(frame(low), expected, atol=2e-5, rtol=0)
    assert torch.equal(torch.cat(list(frame.blocks(low, 7)), 1), frame(low))


def test_masks_measured_together_as_on_a_gpu_are_those_measured_alone() -> None:
    size, frame = (45, 77), Frame(32, 128, (75, 128), (45, 77), torch.device("cpu"))
    low = F.interpolate(torch.randn(1, 6, 5, 5, generator=torch.Generator().manual_seed(3)), (32, 32), mode="bicubic")[
        0
    ]
    low[4] = -1  # an empty mask
    alone = sam_masks.measure(low, frame, 0.1, 0.0)
    numbers, bits = sam_masks.measure_together(low, frame, 0.1)
    assert torch.equal(alone.numbers, numbers)
    boxes, chosen = numbers[:, 2:].numpy(), np.array([5, 0, 4, 2])
    together = sam_masks.Measured(numbers, bits)
    packed = [sam_masks.packed([[one]], [boxes], [chosen])[0] for one in (alone, together)]
    for one, other in zip(*packed, strict=True):
        assert np.array_equal(one, other)
    full = (frame(low) > 0).numpy()[chosen]
    assert np.array_equal(regions.masks(boxes[chosen], np.concatenate(packed[0]), size), full)
    expected = amg.calculate_stability_score(frame(low), 0.0, 0.1).numpy()
    assert np.array_equal(sam_masks.stability(numbers.numpy()), expected, equal_nan=True)


@pytest.mark.parametrize("count", [0, 1, 30, 1500])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_suppression_is_torchvisions_also_among_equal_scores(count: int, threshold: float) -> None:
    drawn = np.random.default_rng(count)
    begin = drawn.integers(0, 60, (count, 2))
    boxes = np.concatenate([begin, begin + drawn.integers(0, 30, (count, 2))], 1)  # some have no area
    scores = drawn.integers(0, 12, count).astype(np.float32) / 7
    given = torch.from_numpy(boxes).float(), torch.from_numpy(scores), torch.zeros(count)
    expected = torchvision.ops.batched_nms(*given, threshold)
    assert np.array_equal(nms(boxes, scores, threshold), expected.numpy())


@pytest.mark.parametrize("least", [1, 6, 40, 10_000])
def test_specks_and_holes_are_those_that_the_released_code_removes(least: int) -> None:
    changes = 0
    for seed in range(12):
        noise = torch.randn(1, 1, 9, 7, generator=torch.Generator().manual_seed(seed))
        mask = (F.interpolate(noise, (50, 41), mode="bicubic")[0, 0] > 0.2 * (seed % 4)).numpy()
        filled, holes = amg.remove_small_regions(mask, least, "holes")
        expected, pieces = amg.remove_small_regions(filled, least, "islands")
        found, changed = clean(mask, least)
        assert np.array_equal(found, expected)
        assert changed == (holes or pieces)
        changes += changed
    assert (changes > 0) == (least > 1)


@pytest.mark.parametrize("size", [(90, 150), (683, 1024), (37, 20)])
@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("ratio", [0.0, 512 / 1500, 0.9])
def test_points_and_crops_are_those_of_the_released_code(size: tuple[int, int], layers: int, ratio: float) -> None:
    boxes, numbers = amg.generate_crop_boxes(size, layers, ratio)
    found = [(n, tuple(box)) for n, box in zip(numbers, boxes, strict=True)]
    assert list(crops(size, layers, ratio)) == [one for one in found if one[1][0] < one[1][2] and one[1][1] < one[1][3]]
    grids = Settings(points_per_side=17, crop_n_layers=layers, crop_n_points_downscale_factor=2).grids()
    for ours, theirs in zip(grids, amg.build_all_layer_point_grids(17, layers, 2), strict=True):
        assert np.array_equal(ours, theirs)
    drawn = np.random.default_rng(0).integers(0, min(size), (200, 4))
    crop = boxes[-1]
    expected = amg.is_box_near_crop_edge(torch.from_numpy(drawn), crop, [0, 0, size[1], size[0]]).numpy()
    found = cut_off(drawn + np.tile(crop[:2], 2), tuple(crop), size)
    assert np.array_equal(found, expected)
    assert layers == 0 or expected.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points_per_side": None}, "either points_per_side or point_grids"),
        ({"point_grids": (np.zeros((1, 2)),)}, "either points_per_side or point_grids"),
        (
            {"points_per_side": 3, "crop_n_layers": 2, "crop_n_points_downscale_factor": 2},
            r"points per layer: \[9, 1, 0\]",
        ),
        ({"points_per_side": None, "point_grids": (np.zeros((1, 2)),), "crop_n_layers": 1}, r"points per layer: \[1\]"),
    ],
)
def test_settings_without_points_are_refused(small: Pair, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OvssError, match=message):
        Generator(small[0], Settings(**options))


def test_masks_that_do_not_fit_the_memory_are_refused(small: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sam_generator, "MASKS_BYTES", 5000)
    with pytest.raises(OvssError, match=r"bytes; the limit is 5,000\. Cut the image into tiles"):
        Generator(small[0], Settings(**ANY)).generate([picture(300, 211)])


def test_attention_by_rows_and_fused_is_the_plain_one(small: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    expected = small[0].encode(images)  # with gradients on, as in training
    attention = small[0].image_encoder.blocks[1].attn
    q, k, v = torch.randn(3, 2, 2, 64, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        for weights in (100, 3000, 1 << 21):
            monkeypatch.setattr("ovss_ray.models.sam_layers.grid.WEIGHTS", weights)
            torch.testing.assert_close(small[0].encode(images), expected, atol=1e-5, rtol=0)
            by_rows = attention.by_rows(q, k, v, 8)
            torch.testing.assert_close(attention.fused(q, k, v, 8), by_rows, atol=1e-5, rtol=0)


def test_as_on_a_gpu_the_host_waits_three_times_for_a_batch_of_images(
    small: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, options = [picture(90, 150), picture(61, 40), np.zeros((50, 50, 3), np.uint8)], SETS["predicted IoU"]
    expected = Generator(small[0], Settings(**options), batch=3).generate(images)
    waits: list[int] = []

    def down(made: torch.Tensor) -> np.ndarray:
        waits.append(len(made))
        return made.numpy()

    for module in (sam_generator, sam_masks):
        monkeypatch.setattr(module, "down", down)
    monkeypatch.setattr(
        sam_generator,
        "measure",
        lambda logits, frame, offset, least: sam_masks.Measured(*sam_masks.measure_together(logits, frame, offset)),
    )
    generator = Generator(small[0], Settings(**options), batch=3)
    generator.held = 1 << 30
    found = generator.generate(images)
    assert len(waits) == 3
    assert sum(len(one.boxes) for one in expected) > 20
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.boxes, other.boxes)
        assert np.array_equal(joined(one), joined(other))
        np.testing.assert_allclose(one.predicted_iou, other.predicted_iou, atol=NEAR)
        assert np.array_equal(one.points, other.points)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
def test_on_a_gpu_the_host_waits_for_nothing_else(small: Pair) -> None:
    model = both(SMALL, small[0].state_dict())[0].cuda()
    images = [picture(90, 150), picture(61, 40), picture(128, 128)]
    generator = Generator(model, Settings(**SETS["predicted IoU"]), batch=3)
    expected = generator.generate(images)  # what is loaded at first may wait
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            found = generator.generate(images)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len([one for one in waits if "called a synchronizing" in str(one.message)]) == 3
    assert [one.boxes.tolist() for one in found] == [one.boxes.tolist() for one in expected]


def test_a_compiled_encoder_sees_only_the_sizes_that_it_was_compiled_for(
    small: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = both(SMALL, small[0].state_dict())[0]
    monkeypatch.setattr(model.image_encoder, "compile", lambda mode, dynamic: None)  # which takes a minute
    images = torch.randn(5, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    sizes: list[int] = []
    model.image_encoder.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    with torch.inference_mode():
        expected = small[0].encode(images)
        for size, seen in ((2, [2, 2, 2]), (1, [2, 2, 1])):
            assert model.compile_for(size) > 0
            assert model.compile_for(size) == 0
            sizes.clear()
            torch.testing.assert_close(model.encode(images), expected, atol=1e-5, rtol=0)
            assert sizes == seen


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="this machine has no C++ compiler")
def test_a_compiled_encoder_makes_the_same() -> None:
    variant = replace(SMALL, layers=1, globals=())
    plain, compiled = (both(variant, official_sam.state(variant))[0] for _ in range(2))
    images = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    compiled.compile_for(1)
    with torch.inference_mode():
        torch.testing.assert_close(compiled.encode(images), plain.encode(images), atol=1e-5, rtol=0)


def test_a_machine_that_cannot_compile_is_told_so(small: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    model = both(SMALL, small[0].state_dict())[0]

    def fails(images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no working C++ compiler\n")

    monkeypatch.setattr(model, "encode", fails)
    with pytest.raises(OvssError, match=r"cannot be compiled for 2 images here: no working C\+\+ compiler\. Install"):
        model.compile_for(2)


def test_half_precision_finds_about_the_same_regions(trained: Pair) -> None:
    half = sam.load("sam_tiny", checkpoints.files("sam_tiny"), precision="bf16")
    images = [scenes.of_address(f"all/validation/{i}")[0].image for i in range(4)]
    settings = Settings(points_per_side=6, pred_iou_thresh=0.6, stability_score_thresh=0.6)
    whole, halved = (Generator(network, settings).generate(images) for network in (trained[0], half))
    for one, other, image in zip(whole, halved, images, strict=True):
        masks, others = (regions.masks(found.boxes, joined(found), image.shape[:2]) for found in (one, other))
        assert len(masks) >= 3
        overlaps = np.array([max((m & o).sum() / (m | o).sum() for o in others) for m in masks])
        assert np.median(overlaps) > 0.9
