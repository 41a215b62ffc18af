"""Mask AP by LVIS's rules, against a plain form of the rules, with every case that COCO's rules do not know.

The package lvis 0.5.3 gives the same numbers to 1e-12 for these images. It does not run with numpy 2, so it is not
among the dependencies.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ovss_ray.errors import OvssError
from ovss_ray.metrics import instance_ap_lvis
from ovss_ray.structures.masks import regions
from ovss_ray.structures.question import Question
from ovss_ray.structures.vocabulary import Vocabulary
from tests.metrics import test_instance_ap as coco

LABELS = 5
QUESTION = Question(tuple("abcde"), Vocabulary.of([*"abcde"]), tuple(range(LABELS)))
AREAS = {"": (0, 1e10), "_small": (0, 32**2), "_medium": (32**2, 96**2), "_large": (96**2, 1e10)}


def image(seed: int) -> dict[str, Any]:
    """As for COCO's AP. Of the classes that are not annotated, some are absent; some classes have unmarked instances.

    In every sixth image there are more than 300 masks. Some instances have no area, and some masks are empty.
    """
    generator = np.random.default_rng([seed, 1])
    content = coco.image(seed)
    other = np.setdiff1d(np.arange(LABELS), content["labels"])
    content["absent"] = other[generator.random(len(other)) < 0.5]
    content["partial"] = np.flatnonzero(generator.random(LABELS) < 0.3)
    content["areas"] = np.where(generator.random(len(content["areas"])) < 0.1, 0, content["areas"])
    for mask in content["masks"]:
        mask &= generator.random() > 0.05
    moved = generator.random(len(content["predicted"])) < 0.1
    content["predicted"] = np.where(moved, LABELS - 1, content["predicted"])
    if seed % 6 == 0:
        for name in ("masks", "predicted", "scores"):
            content[name] = [*content[name]] * 30
    return content


def record(content: dict[str, Any]) -> dict[str, Any]:
    logits = np.zeros((len(content["masks"]), LABELS), np.float32)
    logits[np.arange(len(logits)), np.array(content["predicted"], int)] = 9
    true = (*regions.pack(content["true"]), content["labels"].astype(np.uint16), content["areas"])
    searched = (content[name].astype(np.uint16) for name in ("absent", "partial"))
    masks = (*regions.pack(content["masks"]), logits, np.array(content["scores"], np.float64))
    return dict(instance_ap_lvis.measure(QUESTION, np.array(content["number"]), *true, *searched, *masks))


def total(contents: list[dict[str, Any]]) -> instance_ap_lvis.Partial:
    return instance_ap_lvis.Partial.of(pa.array([*map(record, contents), None], instance_ap_lvis.schema), LABELS)


def overlaps(content: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """IoU of each mask with each instance, and pixels of each mask."""
    if "overlaps" not in content:
        masks, true = (
            np.reshape(content[name], (-1, np.prod(coco.SIZE))).astype(np.float32) for name in ("masks", "true")
        )
        common, sizes = masks @ true.T, masks.sum(1)
        content["overlaps"] = common / (sizes[:, None] + true.sum(1) - common), sizes
    return content["overlaps"]


def plain(contents: list[dict[str, Any]], label: int, area: str, threshold: float) -> float:
    """AP of a class, from masks of the whole image; NaN if no instance of the class has such an area."""
    low, high = AREAS[area]
    ranked: list[tuple[float, int, int, bool]] = []
    instances = 0
    for content in contents:
        true = [i for i, of in enumerate(content["labels"]) if of == label and content["areas"][i] > 0]
        inside = {i: bool(low <= content["areas"][i] <= high) for i in true}
        instances += sum(inside.values())
        if not (true or label in content["absent"]):
            continue
        best = sorted(range(len(content["masks"])), key=lambda k: (-content["scores"][k], k))[:300]
        free, (ious, sizes) = set(true), overlaps(content)
        for k in (k for k in best if content["predicted"][k] == label and sizes[k]):
            near = {i for i in free if ious[k, i] >= threshold}
            near = {i for i in near if inside[i]} or near
            partner = max(near, key=lambda i: (ious[k, i], i), default=None)
            free -= {partner}
            ignored = not low <= sizes[k] <= high or label in content["partial"]
            if inside[partner] if partner is not None else not ignored:
                ranked.append((-content["scores"][k], content["number"], k, partner is not None))
    if not instances:
        return float("nan")
    right = np.cumsum([hit for *_, hit in sorted(ranked)])
    precisions = right / np.arange(1, len(ranked) + 1)
    reached = [precisions[right / instances >= recall] for recall in np.linspace(0, 1, 101)]
    return float(np.mean([values.max(initial=0) for values in reached]))


@pytest.mark.parametrize("start", [1, 1000])
def test_the_aps_are_those_of_the_rules_written_out(start: int) -> None:
    contents = [image(seed) for seed in range(start, start + 12)]
    assert sum(len(content["masks"]) > 300 for content in contents) >= 1
    found, thresholds = total(contents), np.linspace(0.5, 0.95, 10)
    expected = {
        area: np.array([[plain(contents, label, area, t) for t in thresholds] for label in range(LABELS)])
        for area in AREAS
    }
    expected |= {"_50": expected[""][:, :1], "_75": expected[""][:, 5:6]}
    values = found.result()
    assert 5 < values["instance_ap_lvis"] < 95
    assert values == {
        f"instance_ap_lvis{name}": pytest.approx(100 * np.nanmean(of), abs=1e-9) for name, of in expected.items()
    }
    per_label = found.per_label()["instance_ap_lvis"]
    assert per_label == pytest.approx(100 * expected[""].mean(1), abs=1e-9, nan_ok=True)
    assert np.isnan(per_label[-1])
    group = found.of_group((0, 2))["instance_ap_lvis"]
    assert group == pytest.approx(100 * np.nanmean(expected[""][[0, 2]]), abs=1e-9)


def test_the_result_is_the_same_bit_by_bit_in_any_order_and_division() -> None:
    contents = [image(seed) for seed in range(31, 47)]
    whole = total(contents).result()
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(contents))
        parts = [total([contents[i] for i in part]) for part in np.array_split(order, 4)]
        assert (parts[0] + (parts[1] + parts[2]) + parts[3]).result() == whole


def single(wrong: list[int], **changes: Any) -> float:
    """AP of an image with one instance of class 0. `wrong` has the classes of better masks in a wrong place."""
    square, other = (np.zeros(coco.SIZE, bool) for _ in range(2))
    square[:50, :50] = other[60:110, :50] = True
    content = {
        **{"number": 1, "true": [square], "labels": np.array([0]), "areas": np.array([2500.0])},
        **{"absent": np.array([], int), "partial": np.array([], int)},
        **{"masks": [square, *[other] * len(wrong)], "predicted": [0, *wrong], "scores": np.linspace(0.1, 0.9, 20)},
    }
    content["scores"] = content["scores"][: len(wrong) + 1]
    return total([content | changes]).result()["instance_ap_lvis"]


def test_a_mask_without_a_match_is_ignored_if_its_class_has_unmarked_instances() -> None:
    assert single([0]) == pytest.approx(50)
    assert single([0], partial=np.array([0])) == pytest.approx(100)
    assert single([0], partial=np.array([1])) == pytest.approx(50)


def test_masks_of_classes_that_were_not_searched_for_are_no_fault_and_those_of_absent_ones_are() -> None:
    far = image(7) | {"number": 2, "masks": [np.ones(coco.SIZE, bool)], "predicted": [0], "scores": [0.99]}
    assert not len(far["true"])
    square = np.zeros(coco.SIZE, bool)
    square[:50, :50] = True
    near = far | {"number": 1, "true": [square], "labels": np.array([0]), "areas": np.array([2500.0])}
    near |= {"masks": [square], "scores": [0.5], "partial": np.array([], int)}
    far |= {"partial": np.array([], int)}
    assert total([near, far | {"absent": np.array([1])}]).result()["instance_ap_lvis"] == pytest.approx(100)
    assert total([near, far | {"absent": np.array([0])}]).result()["instance_ap_lvis"] == pytest.approx(50)


def test_masks_that_all_are_of_other_classes_give_zero_and_no_mask_gives_no_number() -> None:
    other = {"masks": [np.ones(coco.SIZE, bool)], "predicted": [3], "scores": np.array([0.9])}
    assert single([], **other) == 0
    assert np.isnan(single([], masks=[], predicted=[], scores=np.array([])))


def test_scores_of_another_number_than_the_boxes_are_refused() -> None:
    with pytest.raises(OvssError, match="Use stages that return one mask per prompt"):
        single([0], scores=np.array([0.5]))
