"""The tiled semantic inference is the plain one, without its memory."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ovss_ray.errors import OvssError
from ovss_ray.models.semantic import Geometry, label_map
from ovss_ray.models.semantic import probabilities as probabilities_of

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
@pytest.mark.parametrize("tile_bytes", [1, 10_000, None])
@pytest.mark.parametrize("sigmoid", SIZES)
def test_labels_are_those_of_all_scores_at_once(
    geometry: Geometry, classes: int, tile_bytes: int | None, sigmoid: Size
) -> None:
    masks, probabilities = given(geometry, classes)
    scores = plain_scores(masks, probabilities, geometry, sigmoid)
    labels = label_map(masks, probabilities, geometry, tile_bytes, sigmoid)
    assert labels.shape == geometry.original
    assert labels.dtype == np.uint16
    chosen = scores.gather(0, torch.from_numpy(labels.astype(np.int64))[None])[0]
    assert (scores.amax(0) - chosen).max() < 1e-4
    assert (labels == scores.argmax(0).numpy()).mean() > 0.99


@pytest.mark.parametrize("tile_bytes", [1, 4096, None])
def test_the_lowest_index_wins_a_tie(tile_bytes: int | None) -> None:
    masks, probabilities = given(SMALL, 5, queries=1)  # scores of one product each: equal columns tie to the last bit
    doubled = probabilities[:, [0, 1, 2, 3, 4, 4, 3, 2, 1, 0]].contiguous()
    labels = label_map(masks, doubled, SMALL, tile_bytes)
    assert (labels == probabilities[0].argmax().item()).all()


BUDGET = 20_000


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
def test_no_tensor_grows_with_the_number_of_classes(sigmoid: Size) -> None:
    assert largest(50, 700, sigmoid) == largest(50, 7000, sigmoid) <= BUDGET


@pytest.mark.parametrize("sigmoid", SIZES)
def test_a_taller_photograph_costs_its_own_labels_alone(sigmoid: Size) -> None:
    assert largest(2000, 30, sigmoid) <= max(largest(50, 30, sigmoid), 4 * 2000 * 64)


def test_the_masks_of_a_larger_resized_photograph_never_exist_at_once() -> None:
    masks, probabilities = given(SMALL, 5)
    large = Geometry((640, 960), (640, 853), (48, 64))
    with Largest(masks, probabilities) as seen:
        label_map(masks, probabilities, large, BUDGET, "resized")
    assert seen.bytes < 4 * 13 * 640 * 853 / 20


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_mask_probabilities_are_those_of_the_resized_photograph(geometry: Geometry) -> None:
    masks, _ = given(geometry, 5)
    padded = F.interpolate(masks[None], geometry.padded, mode="bilinear", align_corners=False)[0]
    expected = padded[:, : geometry.resized[0], : geometry.resized[1]].sigmoid()
    assert torch.equal(probabilities_of(masks, geometry), expected)


def test_more_classes_than_a_label_map_can_name_are_refused() -> None:
    with pytest.raises(OvssError, match="too many classes: 65535; a label map can name at most 65534"):
        label_map(torch.zeros(1, 4, 6), torch.zeros(1, 65535), SMALL)
