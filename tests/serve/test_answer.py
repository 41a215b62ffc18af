"""What is answered of a label map: areas, scores, masks, pictures."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pycocotools import mask as coco

from ovss_ray import regions
from ovss_ray.columns import NONE
from ovss_ray.serve import answer, rle
from ovss_ray.vocabulary import Vocabulary

WORDS = Vocabulary.of(["sky", ["path", "footpath"], "car"])


@given(arrays.arrays(np.uint16, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.integers(0, 3)))
def test_masks_are_what_pycocotools_writes(labels: np.ndarray) -> None:
    for index, counts in enumerate(rle.encode(labels, [0, 1, 2, 3])):
        assert counts.encode() == coco.encode(np.asfortranarray(labels == index, np.uint8))["counts"]


def test_long_runs_take_several_digits() -> None:
    labels = np.zeros((3000, 2000), np.uint16)
    labels[1500:, 700:] = 1
    labels[7, 1999] = 1
    (counts,) = rle.encode(labels, [1])
    assert counts.encode() == coco.encode(np.asfortranarray(labels, np.uint8))["counts"]


def test_areas_are_of_the_classes_found_and_what_has_none_is_told_apart() -> None:
    labels = np.array([[0, 0, 2], [NONE, NONE, NONE]], np.uint16)
    found = answer.build({"prediction": labels, "seconds": {"san": 0.5}}, WORDS, "png")
    assert [(one.index, one.name, one.pixels, one.score) for one in found.classes] == [
        (0, "sky", 2, None),
        (2, "car", 1, None),
    ]
    assert found.classes[0].area == pytest.approx(1 / 3)
    assert (found.unnamed, found.none, found.height, found.width) == (3, 255, 2, 3)


def test_a_class_scores_as_its_regions_do_by_the_pixels_that_are_left_to_them() -> None:
    masks = np.zeros((3, 2, 4), bool)
    masks[0, :, :2], masks[1, :, 1:], masks[2, 0, 3] = True, True, True
    boxes, bits = regions.pack(masks)
    scores = np.log(np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]], np.float32))
    labels = np.array([[0, 0, 0, 2], [0, NONE, 0, 0]], np.uint16)
    row = {"prediction": labels, "seconds": {}, "boxes": boxes, "bits": bits, "scores": scores}
    sky, car = answer.build(row, WORDS, "png").classes
    # The first region has 3 pixels of the sky in it, the second 4 (one of them shared, one is a car's).
    assert sky.score == pytest.approx((3 * 0.8 + 4 * 0.6) / 7)
    assert car.score == pytest.approx(0.8)


def test_an_indexed_picture_holds_indices_and_pixels_without_a_class_are_black() -> None:
    labels = np.array([[0, 2, NONE]], np.uint16)
    made = answer.indexed(labels, WORDS)
    assert np.asarray(made).tolist() == [[0, 2, 255]]
    shown = np.asarray(made.convert("RGB"))[0]
    np.testing.assert_array_equal(shown[:2], answer.colours(3)[[0, 2]].astype(np.uint8))
    assert shown[2].tolist() == [0, 0, 0]


def test_an_overlay_is_half_image_half_colour_and_the_image_alone_where_nothing_is_named() -> None:
    image = np.full((300, 2, 3), 100, np.uint8)
    labels = np.full((300, 2), NONE, np.uint16)
    labels[:, 1] = 2
    png = answer.picture({"prediction": labels}, WORDS, image, "overlay")
    shown = np.asarray(Image.open(io.BytesIO(png)))
    assert (shown[:, 0] == 100).all()
    expected = (0.5 * 100 + 0.5 * answer.colours(3)[2]).astype(np.uint8)
    assert (shown[:, 1] == expected).all()


def test_colours_of_classes_differ_and_do_not_depend_on_how_many_there_are() -> None:
    assert len({tuple(one) for one in answer.colours(64).astype(int)}) == 64
    np.testing.assert_array_equal(answer.colours(64)[:10], answer.colours(10))
