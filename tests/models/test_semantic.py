"""The tiled semantic inference is the plain one, without its memory."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ovss_ray.errors import Abandoned, OvssError, checked
from ovss_ray.models.semantic import Geometry, label_map
from ovss_ray.models.semantic import probabilities as probabilities_of
from ovss_ray.models.semantic.classes import All, Pruned
from ovss_ray.models.semantic.tiles import Block, tiles

Size = Literal["original", "resized"]
SIZES: tuple[Size, ...] = ("original", "resized")
"""Sizes at which the sigmoid may be computed."""

SMALL = Geometry((64, 96), (64, 85), (48, 64))
GEOMETRIES = [
    SMALL,
    Geometry((64, 96), (61, 90), (200, 310)),
    Geometry((96, 64), (90, 64), (17, 9)),
    Geometry((32, 256), (26, 256), (1, 50)),
]


def given(geometry: Geometry, classes: int, queries: int = 13) -> tuple[Tensor, Tensor]:
    torch.manual_seed(classes)
    masks = 8 * torch.randn(queries, geometry.padded[0] // 16, geometry.padded[1] // 16)
    return masks, (3 * torch.randn(queries, classes + 1)).softmax(-1)[:, :-1]


def plain_scores(masks: Tensor, probabilities: Tensor, geometry: Geometry, sigmoid: str) -> Tensor:
    """Semantic inference as the official code of SAN ("original") or SCAN does it, (K, H, W), in float64."""
    padded = F.interpolate(masks[None].double(), geometry.padded, mode="bilinear", align_corners=False)
    cropped = padded[..., : geometry.resized[0], : geometry.resized[1]]
    cropped = cropped.sigmoid() if sigmoid == "resized" else cropped
    laid = F.interpolate(cropped, geometry.original, mode="bilinear", align_corners=False)[0]
    laid = laid.sigmoid() if sigmoid == "original" else laid
    return torch.einsum("qc,qhw->chw", probabilities.double(), laid)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("classes", [1, 2, 20, 300])
@pytest.mark.parametrize("block_bytes", [1, 10_000, None])
@pytest.mark.parametrize("sigmoid", SIZES)
def test_labels_are_those_of_all_scores_at_once(
    geometry: Geometry, classes: int, block_bytes: int | None, sigmoid: Size
) -> None:
    masks, probabilities = given(geometry, classes)
    scores = plain_scores(masks, probabilities, geometry, sigmoid)
    labels = label_map(masks, probabilities, geometry, block_bytes, sigmoid)
    assert labels.shape == geometry.original
    assert labels.dtype == np.uint16
    chosen = scores.gather(0, torch.from_numpy(labels.astype(np.int64))[None])[0]
    assert (scores.amax(0) - chosen).max() < 1e-4
    assert (labels == scores.argmax(0).numpy()).mean() > 0.99


@pytest.mark.parametrize("block_bytes", [1, 4096, None])
def test_the_lowest_index_wins_a_tie(block_bytes: int | None) -> None:
    masks, probabilities = given(SMALL, 5, queries=1)  # scores of one product each: equal columns tie to the last bit
    doubled = probabilities[:, [0, 1, 2, 3, 4, 4, 3, 2, 1, 0]].contiguous()
    labels = label_map(masks, doubled, SMALL, block_bytes)
    assert (labels == probabilities[0].argmax().item()).all()


@pytest.mark.parametrize("prune", [True, False])
def test_the_lowest_index_wins_a_tie_of_many_classes(prune: bool) -> None:
    masks, probabilities = given(SMALL, 150, queries=1)
    doubled = torch.cat([probabilities.flip(1), probabilities], 1)
    labels = label_map(masks, doubled, SMALL, prune=prune)
    assert (labels == doubled[0].argmax().item()).all()


def smooth(classes: int) -> tuple[Tensor, Tensor]:
    """Masks of soft blobs, most of which are empty, as networks predict them."""
    masks, probabilities = given(SMALL, classes)
    blobs = F.interpolate(masks[None, :, :2, :3], masks.shape[1:], mode="bicubic")[0]
    return 2 * blobs - 6, probabilities


def saturated(classes: int) -> tuple[Tensor, Tensor]:
    masks, probabilities = given(SMALL, classes)
    return masks.sign() * 1e30, probabilities


def equal(classes: int) -> tuple[Tensor, Tensor]:
    masks, probabilities = smooth(classes)
    return torch.zeros_like(masks), torch.full_like(probabilities, 0.5)


def large_scores(classes: int) -> tuple[Tensor, Tensor]:
    masks, probabilities = smooth(classes)
    return masks, 1000 * probabilities


def negative(classes: int) -> tuple[Tensor, Tensor]:
    masks, probabilities = smooth(classes)
    return masks, probabilities - 0.5


ONE_TILE = Geometry((32, 32), (31, 30), (15, 16))


@pytest.mark.parametrize("geometry", [*GEOMETRIES, ONE_TILE])
@pytest.mark.parametrize("made", [smooth, saturated, equal, large_scores, negative])
@pytest.mark.parametrize("classes", [1, 300])
def test_pruning_changes_no_pixel(
    geometry: Geometry, made: Callable[[int], tuple[Tensor, Tensor]], classes: int
) -> None:
    masks, probabilities = made(classes)
    for sigmoid in SIZES:
        dense = label_map(masks, probabilities, geometry, sigmoid=sigmoid, prune=False)
        for block_bytes in (None, 1 << 28):  # the latter as on a GPU: all tiles in a block
            pruned = label_map(masks, probabilities, geometry, block_bytes, sigmoid, prune=True)
            if not np.array_equal(pruned, dense):  # only by rounding, where products of another width round differently
                scores = plain_scores(masks, probabilities, geometry, sigmoid)
                gap = scores.amax(0) - scores.gather(0, torch.from_numpy(pruned.astype(np.int64))[None])[0]
                assert gap[torch.from_numpy(dense != pruned)].max() <= 1e-6 * scores.abs().amax()


def test_few_classes_remain_in_a_tile_of_smooth_masks() -> None:
    masks, probabilities = smooth(300)
    photograph = tiles(masks, GEOMETRIES[1], "original")
    columns, rows = photograph.shape
    kept = Pruned(probabilities, BUDGET).kept(photograph.bounds(Block(0, columns, 0, rows)).flatten(1, 2))
    assert kept.any(1).all()
    assert kept.float().mean() < 0.2


@pytest.mark.parametrize("sigmoid", SIZES)
def test_the_bounds_of_a_tile_hold_its_mask_probabilities(sigmoid: Size) -> None:
    for geometry in GEOMETRIES:
        masks, _ = given(geometry, 1)
        photograph = tiles(masks, geometry, sigmoid)
        columns, rows = photograph.shape
        low, high = photograph.bounds(Block(0, columns, 0, rows))
        pixels = photograph.masks(0, rows, torch.arange(columns))
        assert (low[:, :, None] - 1e-6 <= pixels).all()
        assert (pixels <= high[:, :, None] + 1e-6).all()


BUDGET = 20_000


class OneDevice(TorchDispatchMode):
    """Fails if an operation other than a copy has arrays of two devices, as on a GPU. An index may be on the CPU."""

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        devices = {one.device.type for one in arguments if isinstance(one, Tensor) and one.ndim}
        assert len(devices) < 2 or "copy" in str(function), f"{function}: {devices}"
        return function(*arguments, **(named or {}))


@pytest.mark.parametrize("sigmoid", SIZES)
def test_all_operands_are_on_the_device_of_the_masks(sigmoid: Size) -> None:
    masks, probabilities = (values.to("meta") for values in given(SMALL, 300))  # "meta" instead of a GPU
    block = Block(0, 4, 1, 3)
    with OneDevice():
        photograph = tiles(masks, SMALL, sigmoid)
        pruned = Pruned(probabilities, BUDGET)
        assert photograph.shape == (4, 3)
        assert All.best(pruned, photograph, block).shape == (4, 2, 256)
        assert pruned.kept(photograph.bounds(block).flatten(1, 2)).shape == (8, 300)
        pixels = photograph.masks(1, 3, torch.arange(4)).flatten(0, 1)
        assert pruned.of_tiles(pixels, torch.zeros(8, 20, dtype=torch.int64, device="meta")).shape == (8, 256)


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that any operation has made, beside views of what was given."""

    def __init__(self, *given: Tensor) -> None:
        super().__init__()
        self.bytes = 0
        self.given = {one.untyped_storage().data_ptr() for one in given}

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        made = function(*arguments, **(named or {}))
        for one in made if isinstance(made, tuple | list) else [made]:
            if isinstance(one, Tensor) and one.untyped_storage().data_ptr() not in self.given:
                self.bytes = max(self.bytes, one.untyped_storage().nbytes())
        return made


def largest(height: int, classes: int, sigmoid: Size) -> int:
    masks, probabilities = given(SMALL, classes)
    with Largest(masks, probabilities) as seen:
        label_map(masks, probabilities, Geometry(SMALL.padded, SMALL.resized, (height, 64)), BUDGET, sigmoid)
    return seen.bytes


@pytest.mark.parametrize("sigmoid", SIZES)
def test_the_scores_of_all_classes_never_exist_at_once(sigmoid: Size) -> None:
    classes = 7000
    assert largest(50, 50, sigmoid) <= 1.25 * BUDGET  # a tile also depends on pixels around it
    copied = 4 * 13 * classes  # class probabilities, with the classes as rows
    assert largest(50, classes, sigmoid) <= copied


@pytest.mark.parametrize("sigmoid", SIZES)
def test_a_taller_photograph_costs_its_own_labels_alone(sigmoid: Size) -> None:
    assert largest(2000, 30, sigmoid) <= max(largest(50, 30, sigmoid), 4 * 2000 * 64)


def test_the_masks_of_a_larger_resized_photograph_never_exist_at_once() -> None:
    masks, probabilities = given(SMALL, 5)
    large = Geometry((640, 960), (640, 853), (48, 64))
    with Largest(masks, probabilities) as seen:
        label_map(masks, probabilities, large, BUDGET, "resized")
    assert seen.bytes < 4 * 13 * 640 * 853 / 12  # the photograph has twelve tiles


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_mask_probabilities_are_those_of_the_resized_photograph(geometry: Geometry) -> None:
    masks, _ = given(geometry, 5)
    padded = F.interpolate(masks[None], geometry.padded, mode="bilinear", align_corners=False)[0]
    expected = padded[:, : geometry.resized[0], : geometry.resized[1]].sigmoid()
    assert torch.equal(probabilities_of(masks, geometry), expected)


def test_a_label_map_for_which_nobody_waits_any_more_ends_between_two_blocks() -> None:
    done: list[int] = []

    def check() -> None:
        done.append(1)
        if len(done) == 3:
            raise Abandoned

    masks, probabilities = given(SMALL, 5)
    with checked(check), pytest.raises(Abandoned):
        label_map(masks, probabilities, SMALL, block_bytes=1)
    label_map(masks, probabilities, SMALL, block_bytes=1)
    assert len(done) == 3


def test_more_classes_than_a_label_map_can_name_are_refused() -> None:
    with pytest.raises(OvssError, match="too many classes: 65535; a label map can name at most 65534"):
        label_map(torch.zeros(1, 4, 6), torch.zeros(1, 65535), SMALL)
