"""Masks come back from their boxes and bits as they were."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as stn

from ovss_ray.errors import OvssError
from ovss_ray.structures.columns import IGNORE
from ovss_ray.structures.masks import regions

MASKS = stn.arrays(
    bool, stn.array_shapes(min_dims=3, max_dims=3, min_side=0, max_side=19).filter(lambda s: s[1] * s[2])
)


@given(MASKS)
def test_masks_of_any_shape_survive_the_round_trip(masks: np.ndarray) -> None:
    boxes, bits = regions.pack(masks)
    assert (boxes.dtype, boxes.shape, bits.dtype) == (np.int32, (len(masks), 4), np.uint8)
    assert np.array_equal(regions.masks(boxes, bits, masks.shape[1:]), masks)
    again = regions.pack(regions.masks(boxes, bits, masks.shape[1:]))
    assert all(np.array_equal(one, other) for one, other in zip((boxes, bits), again, strict=True))


@given(MASKS)
def test_boxes_are_as_tight_as_can_be(masks: np.ndarray) -> None:
    boxes, bits = regions.pack(masks)
    for mask, (x0, y0, x1, y1), inner in zip(masks, boxes, regions.Masks(boxes, bits), strict=True):
        assert inner.shape == (y1 - y0, x1 - x0)
        assert inner.sum() == mask.sum()
        if mask.any():
            assert inner[0].any()
            assert inner[-1].any()
            assert inner[:, 0].any()
            assert inner[:, -1].any()
        else:
            assert (x0, y0, x1, y1) == (0, 0, 0, 0)


def test_typical_regions_take_less_than_a_hundredth_of_their_boolean_masks() -> None:
    masks = np.zeros((100, 512, 512), bool)
    for k, mask in enumerate(masks):
        mask[4 * k : 4 * k + 100, 2 * k : 2 * k + 100] = True
    boxes, bits = regions.pack(masks)
    assert boxes.nbytes + bits.nbytes < masks.nbytes / 100


def test_no_region_is_a_column_too() -> None:
    boxes, bits = regions.pack([])
    assert (boxes.shape, bits.shape) == ((0, 4), (0,))
    assert list(regions.Masks(boxes, bits)) == []


def test_more_than_the_cap_is_refused_with_the_cap_named() -> None:
    full = np.ones((600, 800), bool)
    with pytest.raises(OvssError, match=r"17 of them take more than 1,000,000 bytes when packed\. This is the limit"):
        regions.pack((full for _ in range(3000)), cap=1_000_000)


def test_true_regions_are_connected_pixels_of_one_label() -> None:
    labels = np.array([[7, 7, 2, 7], [2, IGNORE, 2, 7], [2, 2, IGNORE, 0]], np.uint16)
    numbers, boxes = regions.components(labels)
    assert numbers.tolist() == [[3, 3, 2, 4], [2, 0, 2, 4], [2, 2, 0, 1]]
    assert boxes == [(3, 2, 4, 3), (0, 0, 3, 3), (0, 0, 2, 1), (3, 0, 4, 2)]
    nothing, none = regions.components(np.full((2, 3), IGNORE, np.uint16))
    assert not nothing.any()
    assert none == []
