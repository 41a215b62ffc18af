"""What is answered of a label map: areas, scores, masks, pictures."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pycocotools import mask as coco
from scipy import ndimage

from ovss_ray.serve.http import answers, mask_answers
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.masks import polygons as outlines
from ovss_ray.structures.masks import regions, rle
from ovss_ray.structures.vocabulary import Vocabulary

WORDS = Vocabulary.of(["sky", ["path", "footpath"], "car"])


@settings(deadline=None)
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


@settings(deadline=None)
@given(arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))), st.integers(0, 3), st.integers(0, 3))
def test_a_region_inside_its_box_is_written_as_pycocotools_writes_all_of_it(
    mask: np.ndarray, before: int, after: int
) -> None:
    full = np.pad(mask, ((before, after), (after, before)))
    box = (after, before, after + mask.shape[1], before + mask.shape[0])
    counts = rle.encode_region(box, mask, full.shape)
    assert counts.encode() == coco.encode(np.asfortranarray(full, np.uint8))["counts"]
    np.testing.assert_array_equal(rle.decode(counts, full.shape), full)


def test_an_empty_region_has_run_lengths_too() -> None:
    counts = rle.encode_region((0, 0, 0, 0), np.zeros((0, 0), bool), (300, 400))
    assert not rle.decode(counts, (300, 400)).any()


def test_an_image_without_regions_and_empty_regions_have_answers_too() -> None:
    row = {"size": np.array([3, 4]), "seconds": {}, "predicted_iou": np.zeros(0, np.float32)}
    row |= {"boxes": np.zeros((0, 4), np.int32), "bits": np.zeros(0, np.uint8), "scores": np.zeros((0, 3), np.float32)}
    assert mask_answers.everything(row, WORDS, "", "", 3, 10).regions == []
    row |= {"boxes": np.zeros((1, 4), np.int32), "predicted_iou": np.ones(1, np.float32), "cached": True}
    row |= {"scores": np.float32([[3, 1, 2]])}
    assert mask_answers.everything(row, WORDS, "", "", 3, 10).found == 0
    (one,) = mask_answers.prompted(row, WORDS, "", "", 9).masks
    assert (one.area, one.box, [name.name for name in one.names]) == (0, (0, 0, 0, 0), ["sky", "car", "path"])


def test_a_single_class_ranks_regions_by_logit_and_several_by_probability() -> None:
    scores = np.float32([[1, 9], [3, 1], [2, -40]])
    (single,) = mask_answers.rank(scores[:, :1], Vocabulary.of(["sky"]), 3)
    assert [(place.region, place.score) for place in single.regions] == [(1, 1.0), (2, 1.0), (0, 1.0)]
    sky, car = mask_answers.rank(scores, Vocabulary.of(["sky", "car"]), 2)
    assert [place.region for place in sky.regions] == [2, 1], "the odds count, not the logit"
    assert [place.region for place in car.regions] == [0, 1]
    assert sky.regions[1].score == pytest.approx(np.exp(3) / (np.exp(3) + np.exp(1)))


def filled(rings: list[outlines.Ring], size: tuple[int, int]) -> np.ndarray:
    """The pixels inside rings by the even-odd rule, as browsers fill them: (H, W) bool."""
    made = np.zeros(size, bool)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True):
            assert (x0 == x1) != (y0 == y1), "an edge is along the pixels, and has a length"
            if x0 == x1:
                made[min(y0, y1) : max(y0, y1), x0:] ^= True
    return made


@settings(deadline=None)
@given(arrays.arrays(np.uint16, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 3)))
def test_outlines_filled_are_the_masks_again_each_part_by_itself_with_its_own_holes(labels: np.ndarray) -> None:
    made = outlines.trace(labels, [0, 1, 3])
    assert list(made) == [0, 1, 3]
    for k, polygons in made.items():
        numbers, parts = ndimage.label(labels == k)
        assert len(polygons) == parts
        for polygon in polygons:
            inside = filled([polygon.outline, *polygon.holes], labels.shape)
            (number,) = np.unique(numbers[inside])
            np.testing.assert_array_equal(inside, numbers == number)
            whole = filled([polygon.outline], labels.shape)
            holes, count = ndimage.label(~inside & whole, np.ones((3, 3)))
            assert len(polygon.holes) == count
            for hole in polygon.holes:
                (one,) = np.unique(holes[filled([hole], labels.shape)])
                np.testing.assert_array_equal(filled([hole], labels.shape), holes == one)
    rings = [
        ring
        for some in outlines.trace(labels, [0, 1, 2, 3]).values()
        for one in some
        for ring in [one.outline, *one.holes]
    ]
    assert outlines.count(labels) == len({corner for ring in rings for corner in ring})


def test_outlines_go_with_the_clock_and_holes_against_it() -> None:
    labels = np.zeros((5, 6), np.uint16)
    labels[1:4, 1:5] = 1
    labels[2, 2:4] = 2
    (frame,) = outlines.trace(labels, [1])[1]
    assert frame.outline == [(1, 1), (5, 1), (5, 4), (1, 4)]
    assert frame.holes == [[(2, 2), (2, 3), (4, 3), (4, 2)]]


def test_areas_are_of_the_classes_found_and_what_has_none_is_told_apart() -> None:
    labels = np.array([[0, 0, 2], [NONE, NONE, NONE]], np.uint16)
    found = answers.build({"prediction": labels, "seconds": {"san": 0.5}}, WORDS, "png")
    assert [(one.index, one.name, one.pixels, one.score) for one in found.classes] == [
        (0, "sky", 2, None),
        (2, "car", 1, None),
    ]
    assert found.classes[0].area == pytest.approx(1 / 3)
    assert (found.unnamed, found.none, found.height, found.width) == (3, 255, 2, 3)


def test_a_class_scores_as_its_regions_do_by_the_pixels_that_are_left_to_them() -> None:
    drawn = np.zeros((3, 2, 4), bool)
    drawn[0, :, :2], drawn[1, :, 1:], drawn[2, 0, 3] = True, True, True
    boxes, bits = regions.pack(drawn)
    scores = np.log(np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]], np.float32))
    labels = np.array([[0, 0, 0, 2], [0, NONE, 0, 0]], np.uint16)
    row = {"prediction": labels, "seconds": {}, "boxes": boxes, "bits": bits, "scores": scores}
    sky, car = answers.build(row, WORDS, "png").classes
    # The first region has 3 pixels of the sky in it, the second 4 (one of them shared, one is a car's).
    assert sky.score == pytest.approx((3 * 0.8 + 4 * 0.6) / 7)
    assert car.score == pytest.approx(0.8)


def test_an_indexed_picture_holds_indices_and_pixels_without_a_class_are_black() -> None:
    labels = np.array([[0, 2, NONE]], np.uint16)
    made = answers.indexed(labels, WORDS)
    assert np.asarray(made).tolist() == [[0, 2, 255]]
    shown = np.asarray(made.convert("RGB"))[0]
    np.testing.assert_array_equal(shown[:2], answers.colours(3)[[0, 2]].astype(np.uint8))
    assert shown[2].tolist() == [0, 0, 0]


def test_an_overlay_is_half_image_half_colour_and_the_image_alone_where_nothing_is_named() -> None:
    image = np.full((300, 2, 3), 100, np.uint8)
    labels = np.full((300, 2), NONE, np.uint16)
    labels[:, 1] = 2
    png = answers.picture({"prediction": labels}, WORDS, image, "overlay")
    shown = np.asarray(Image.open(io.BytesIO(png)))
    assert (shown[:, 0] == 100).all()
    expected = (0.5 * 100 + 0.5 * answers.colours(3)[2]).astype(np.uint8)
    assert (shown[:, 1] == expected).all()


def test_colours_of_classes_differ_and_do_not_depend_on_how_many_there_are() -> None:
    assert len({tuple(one) for one in answers.colours(64).astype(int)}) == 64
    np.testing.assert_array_equal(answers.colours(64)[:10], answers.colours(10))
