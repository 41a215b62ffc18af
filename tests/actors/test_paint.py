"""Regions and scores become a label map: overlaps, thresholds, and what nobody claims."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ovss_ray.actors.paint import Stage, nearest
from ovss_ray.errors import OvssError
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.masks import regions
from ovss_ray.structures.masks.regions import named
from ovss_ray.structures.vocabulary import Vocabulary

ABC = Vocabulary.of(["a", "b", ["c", "sea"]])


def masks_of(*rows: str) -> np.ndarray:
    """Masks of one row of pixels each: "##.." covers the first two of four."""
    return np.array([[[letter == "#" for letter in row]] for row in rows]).reshape(len(rows), 1, -1)


def paint(masks: np.ndarray, scores: Any, fit: Any = None, **options: Any) -> np.ndarray:
    boxes, bits = regions.pack(masks)
    rows = execution.start(
        1,
        size=[np.array(masks.shape[1:], np.int32)],
        boxes=[boxes],
        bits=[bits],
        predicted_iou=[np.array(np.ones(len(masks)) if fit is None else fit, np.float32)],
        scores=[np.array(scores, np.float32).reshape(-1, 3)],
        vocabulary=[ABC.digest],
    )
    stage = Stage(StageConfig(use="paint", options=options).settings())
    made = stage(rows, {ABC.digest: ABC})["prediction"][0]
    assert made.dtype == np.uint16
    return made


A, B, C, UNSURE_B = (9, 0, 0), (0, 5, 0), (0, 0, 7), (1.0, 1.2, 1.0)


def test_a_region_gets_its_best_class_and_no_other_pixel_is_called_anything() -> None:
    assert paint(masks_of("##...", "...##"), [C, A]).tolist() == [[2, 2, NONE, 0, 0]]


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [("score", [0, 0, 0, 2, 2]), ("smallest", [0, 1, 0, 2, 2]), ("predicted_iou", [0, 2, 2, 2, 2])],
)
def test_overlaps_go_to_the_surest_the_smallest_or_the_best_fitting_region(overlap: str, expected: list[int]) -> None:
    masks = masks_of("###..", ".####", ".#...")
    assert paint(masks, [A, C, B], fit=(0.5, 0.9, 0.1), overlap=overlap).tolist() == [expected]


@pytest.mark.parametrize("overlap", ["score", "smallest", "predicted_iou"])
def test_at_a_tie_the_earlier_region_is_on_top(overlap: str) -> None:
    masks = masks_of("##.", ".##")
    assert paint(masks, [A, (0, 9, 0)], overlap=overlap).tolist() == [[0, 0, 1]]
    assert paint(masks[::-1], [A, (0, 9, 0)], overlap=overlap).tolist() == [[1, 0, 0]]


def test_regions_that_are_not_named_surely_enough_are_left_out() -> None:
    masks = masks_of("##.", ".##")
    probability = 1 / (1 + 2 * np.exp(-0.2))
    for threshold, expected in ((probability - 1e-6, [0, 0, 1]), (probability + 1e-6, [0, 0, NONE])):
        assert paint(masks, [A, UNSURE_B], threshold=threshold).tolist() == [expected]


def test_probabilities_are_the_softmax_of_the_scores_however_large() -> None:
    scores = np.array([[1000, 999, 0], [-1000, -1000, -1000]], np.float32)
    labels, sure = named(scores)
    assert labels.tolist() == [0, 0]
    assert sure == pytest.approx([1 / (1 + np.exp(-1)), 1 / 3])


def test_more_classes_than_a_label_map_can_name_are_refused() -> None:
    with pytest.raises(OvssError, match="too many classes: 65535; a label map can name at most 65534"):
        named(np.zeros((1, 65535), np.float32))


def test_uncovered_pixels_are_nothing_the_nearest_class_or_the_background() -> None:
    masks = masks_of("#.....#")
    masks[0, 0, 6] = False
    both = np.concatenate([masks, masks_of("......#")])
    assert paint(both, [A, B]).tolist() == [[0, NONE, NONE, NONE, NONE, NONE, 1]]
    filled = paint(both, [A, B], uncovered="nearest")[0].tolist()
    assert filled[:3] + filled[4:] == [0, 0, 0, 1, 1, 1]
    background = paint(both, [A, B], uncovered="background", background="sea")
    assert background.tolist() == [[0, 2, 2, 2, 2, 2, 1]]


def test_the_nearest_class_is_the_truly_nearest_one_or_one_hardly_farther() -> None:
    generator = np.random.default_rng(0)
    labels = np.where(generator.random((40, 50)) < 0.02, generator.integers(0, 9, (40, 50)), NONE).astype(np.uint16)
    covered = np.argwhere(labels != NONE)
    found = nearest(labels)
    assert np.array_equal(found[labels != NONE], labels[labels != NONE])
    for place in np.ndindex(labels.shape):
        distances = np.linalg.norm(covered - place, axis=1)
        near = covered[distances <= distances.min() * 1.03]
        assert found[place] in {labels[tuple(one)] for one in near}


def test_an_image_without_regions_is_nothing_unless_there_is_a_background() -> None:
    none = np.zeros((0, 2, 3), bool)
    for uncovered in ("none", "nearest"):
        assert (paint(none, np.zeros((0, 3)), uncovered=uncovered) == NONE).all()
    assert (paint(none, np.zeros((0, 3)), uncovered="background", background="b") == 1).all()
    assert paint(np.ones((1, 1, 1), bool), [B]).tolist() == [[1]]


def test_a_background_that_is_no_class_is_an_error_that_names_it() -> None:
    with pytest.raises(OvssError, match="'sky' is not a class of the vocabulary \\(a, b, c"):
        paint(masks_of("#"), [A], uncovered="background", background="sky")
    for options in ({"uncovered": "background"}, {"background": "sky"}):
        with pytest.raises(ValidationError, match="Set both or neither"):
            Stage.Config(**options)  # type: ignore[arg-type]


def test_parts_of_other_regions_may_be_left_out_by_their_masks_not_their_boxes() -> None:
    ring = np.ones((1, 5, 5), bool)
    ring[0, 1:4, 1:4] = False
    inside, whole, twin = np.zeros((1, 5, 5), bool), np.ones((1, 5, 5), bool), np.ones((1, 5, 5), bool)
    inside[0, 2, 2] = True
    kept = paint(np.concatenate([ring, inside]), [A, B], contained=1.0)
    assert kept[2, 2] == 1  # its box lies in the ring's box, but it does not lie in the ring
    assert (paint(np.concatenate([inside, whole]), [A, B], contained=1.0) == 1).all()
    assert (paint(np.concatenate([whole, twin]), [A, B], contained=1.0) == 0).all()  # one of two equal ones stays


def test_the_reference_project_drops_a_region_for_its_box_and_of_two_equal_ones_both(shared: Path) -> None:
    """Fault 4: it compares boxes. Ours keeps the region that lies in another's box alone, and one of two equal ones."""
    vfss = np.load(shared / "parity/alpha_clip/vfss_variants_vit_b_16_seed0.npz")
    assert vfss["filter_masks_keeps"].tolist() == [False, True, True, True]
    assert vfss["filter_masks_two_equal_boxes_kept"] == 0
    scores = np.eye(4)[:, [0, 1, 2]] * 9
    scores[3, 2] = 8
    kept = [paint(vfss["masks"], scores, contained=contained, overlap="smallest") for contained in (None, 1.0)]
    assert np.array_equal(*kept)
    assert (kept[1][vfss["masks"][0] & ~vfss["masks"][1:].any(0)] == 0).all()


def test_a_region_that_lies_inside_another_in_part_is_left_out_by_that_part() -> None:
    masks = masks_of("####...", "..###..")
    scores = [A, C]
    assert paint(masks, scores, contained=2 / 3, overlap="smallest").tolist() == [[0, 0, 0, 0, NONE, NONE, NONE]]
    assert paint(masks, scores, contained=0.7, overlap="smallest").tolist() == [[0, 0, 2, 2, 2, NONE, NONE]]


@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.sampled_from(["score", "smallest", "predicted_iou"]))
def test_every_pixel_shows_the_region_on_top_of_it(seed: int, count: int, overlap: str) -> None:
    generator = np.random.default_rng(seed)
    masks = generator.random((count, 5, 7)) < generator.random((count, 1, 1))
    scores = generator.integers(0, 4, (count, 3)).astype(np.float32)
    fit = generator.integers(0, 3, count) / 2
    labels, sure = named(scores)
    rank = {"score": sure, "smallest": -masks.sum((1, 2)), "predicted_iou": fit}[overlap]
    made = paint(masks, scores, fit, overlap=overlap)
    for place in np.ndindex(made.shape):
        there = [i for i in range(count) if masks[(i, *place)]]
        on_top = max(there, key=lambda i: (rank[i], -i), default=None)
        assert made[place] == (NONE if on_top is None else labels[on_top])


def test_3000_regions_of_a_large_image_are_painted() -> None:
    generator = np.random.default_rng(0)
    corners = generator.integers(0, 900, (3000, 2))
    boxes = np.concatenate([corners, corners + generator.integers(1, 99, (3000, 2))], 1).astype(np.int32)
    sizes = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    bits = [np.packbits(generator.integers(0, 2, size, np.uint8)) for size in sizes]
    rows = execution.start(
        1,
        size=[np.array((1000, 1000), np.int32)],
        boxes=[boxes],
        bits=[np.concatenate(bits)],
        predicted_iou=[np.ones(3000, np.float32)],
        scores=[generator.random((3000, 3), np.float32)],
        vocabulary=[ABC.digest],
    )
    made = Stage(Stage.Config(contained=0.9))(rows, {ABC.digest: ABC})["prediction"][0]
    assert set(np.unique(made)) == {0, 1, 2, NONE}
