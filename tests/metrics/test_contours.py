"""Metrics of contours and regions: official boundaries, SciPy's distances and regions, detectron2's numbers."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ovss_ray import metrics
from ovss_ray.errors import OvssError
from ovss_ray.metrics import boundary_iou, boundary_iou_detectron2, region_sizes, trimap
from ovss_ray.structures.columns import IGNORE, NONE
from ovss_ray.structures.masks import contours
from ovss_ray.structures.question import Question
from ovss_ray.structures.vocabulary import Vocabulary

LABELS = 4
Maps = tuple[np.ndarray, np.ndarray]


def question(labels: int = LABELS) -> Question:
    names = tuple(f"label {k}" for k in range(labels))
    return Question(names, Vocabulary.of(names), tuple(range(labels)))


@st.composite
def maps(draw: st.DrawFn) -> Maps:
    """Truth and prediction in patches of a random size, with IGNORE and NONE among them."""
    height, width, patch = draw(st.integers(1, 90)), draw(st.integers(1, 120)), draw(st.integers(1, 60))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def patches(missing: int) -> np.ndarray:
        small = generator.choice([*range(LABELS), missing], (height // patch + 1, width // patch + 1))
        return np.kron(small, np.ones((patch, patch), int))[:height, :width].astype(np.uint16)

    return patches(IGNORE), patches(NONE)


def official(mask: np.ndarray, width: int) -> np.ndarray:
    """The boundary of a mask as its paper's code draws it: one pixel of zeros around, eroded `width` times by 3 × 3."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)
    return mask & (eroded[1:-1, 1:-1] == 0)


def measured(metric: str, pairs: list[Maps], labels: int = LABELS) -> Any:
    """The sum of a metric over images, through the records."""
    loaded = metrics.load(metric)
    column = pa.array([loaded.checked(loaded.measure(question(labels), *pair)) for pair in pairs], loaded.schema)
    return loaded.partial(column, labels)


@settings(max_examples=30)
@given(maps())
@example((np.full((3, 4), IGNORE, np.uint16), np.zeros((3, 4), np.uint16)))
@example((np.zeros((1, 200), np.uint16), np.zeros((1, 200), np.uint16)))
def test_boundary_iou_is_that_of_the_official_boundary_of_each_class(pair: Maps) -> None:
    truth, prediction = pair
    width = max(1, round(0.02 * np.hypot(*truth.shape)))
    total = measured("boundary_iou", [pair])
    for label in range(LABELS):
        true, called = truth == label, (prediction == label) & (truth != IGNORE)
        true_edge, called_edge = official(true, width), official(called, width)
        assert total.truth[label] == true_edge.sum()
        assert total.prediction[label] == called_edge.sum()
        assert total.both[label] == (true_edge & called_edge).sum()
        iou = total.per_label()["boundary_iou"][label]
        if true.any():
            assert iou == pytest.approx(100 * (true_edge & called_edge).sum() / (true_edge | called_edge).sum())
        else:
            assert np.isnan(iou)


@settings(max_examples=30)
@given(maps())
@example((np.zeros((5, 300), np.uint16), np.zeros((5, 300), np.uint16)))
def test_a_trimap_s_band_has_the_pixels_whose_distance_to_another_label_is_small(pair: Maps) -> None:
    truth, prediction = pair
    total = measured("trimap", [pair])
    distance = np.full(truth.shape, 10**6)
    for label in np.unique(truth) if len(np.unique(truth)) > 1 else ():
        inside = truth == label
        distance[inside] = ndimage.distance_transform_cdt(inside, "chessboard")[inside]
    for width, pixels, hits in zip(trimap.WIDTHS, total.pixels, total.hits, strict=True):
        band = (distance <= width) & (truth != IGNORE)
        assert pixels == band.sum()
        assert hits == (band & (truth == prediction)).sum()
        value = total.result()[f"trimap_{width}"]
        assert value == pytest.approx(100 * hits / pixels) if pixels else np.isnan(value)


@settings(max_examples=30)
@given(maps())
@example((np.zeros((120, 100), np.uint16), np.full((120, 100), NONE, np.uint16)))
@example((np.eye(5, dtype=np.uint16), np.eye(5, dtype=np.uint16)))
def test_regions_are_those_of_scipy_and_sorted_by_their_size(pair: Maps) -> None:
    truth, prediction = pair
    expected = {name: [0, 0, 0] for name in region_sizes.FIELDS}
    for label in set(truth[truth != IGNORE].tolist()):
        places, number = ndimage.label(truth == label, np.ones((3, 3)))
        for region in range(1, number + 1):
            pixels, hits = (places == region).sum(), (prediction[places == region] == label).sum()
            size = sum(pixels >= limit for limit in (32 * 32, 96 * 96))
            for name, count in zip(expected, (1, int(hits >= pixels / 2), pixels, hits), strict=True):
                expected[name][size] += count
    total = measured("region_sizes", [pair, pair])
    assert {name: (getattr(total, name) / 2).tolist() for name in expected} == expected
    for place, size in enumerate(region_sizes.SIZES):
        recall, acc = (total.result()[f"region_{kind}_{size}"] for kind in ("recall", "acc"))
        regions = expected["regions"][place]
        assert recall == pytest.approx(100 * expected["recalled"][place] / regions) if regions else np.isnan(acc)
        assert total.counted()[f"regions_{size}"] == 2 * regions


@pytest.mark.parametrize("case", ["c150", "c20_extra", "c21", "c21_absent", "c254", "c3_nothing_valid"])
def test_detectron2_s_variant_has_detectron2_s_numbers(shared: Path, case: str) -> None:
    golden = np.load(shared / f"parity/metrics/semseg_{case}.npz")
    labels, pairs = int(golden["num_classes"]), []
    for i in range(int(golden["images"])):
        truth, prediction = (golden[f"{name}_{i}"].astype(np.uint16) for name in ("gt", "pred"))
        truth[truth == int(golden["ignore_label"])] = IGNORE
        prediction[prediction >= labels] = NONE
        pairs.append((truth, prediction))
    total = measured("boundary_iou_detectron2", pairs, labels)
    np.testing.assert_allclose(total.per_label()["boundary_iou_detectron2"], golden["boundary_iou"], rtol=1e-9)


def test_detectron2_s_variant_is_not_measured_for_255_labels() -> None:
    pair = np.zeros((2, 6, 8), np.uint16)
    assert boundary_iou_detectron2.measure(question(255), *pair) is None
    assert boundary_iou_detectron2.measure(question(254), *pair) is not None


def test_two_neighbouring_classes_show_how_the_variants_differ() -> None:
    """Labels 0 | 1, and a prediction of 0 alone: a label's contour is that of its own mask only in the paper's form."""
    truth = np.repeat(np.array([[0, 1]], np.uint16), 50, axis=1)
    truth = np.repeat(truth, 100, axis=0)
    right = measured("boundary_iou", [(truth, truth)], 2).per_label()["boundary_iou"]
    assert right.tolist() == [100, 100]
    wrong = measured("boundary_iou", [(truth, np.zeros_like(truth))], 2)
    frame, middle = 3 * 100 + 2 * 3 * 47, 3 * 94  # both have three of the sides; only the truth has the middle
    assert contours.reach(truth.shape) == 3
    assert wrong.both.tolist() == [frame, 0]
    assert wrong.union.tolist() == [2 * frame + middle, frame + middle]
    assert measured("boundary_iou_detectron2", [(truth, truth)], 2).truth.sum() == truth.size  # interiors count, too


def test_counts_of_another_benchmark_are_refused() -> None:
    column = pa.array([boundary_iou.measure(question(), *np.full((2, 3, 4), 3, np.uint16))], boundary_iou.schema)
    with pytest.raises(OvssError, match="label indices up to 3, but the benchmark has 3 labels"):
        boundary_iou.Partial.of(column, 3)
