"""Mask AP: that of pycocotools on made-up sets, with crowds, ties and images without anything."""

import contextlib
import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ovss_ray.errors import OvssError
from ovss_ray.metrics import instance_ap
from ovss_ray.structures.instances import COUNTED, CROWD, INVALID
from ovss_ray.structures.masks import regions
from ovss_ray.structures.question import Question
from ovss_ray.structures.vocabulary import Vocabulary

LABELS, SIZE = 4, (130, 160)
QUESTION = Question(tuple("abcd"), Vocabulary.of([*"abcd"]), tuple(range(LABELS)))


def blob(generator: np.random.Generator) -> np.ndarray:
    """A rectangle or an ellipse, from a few pixels to most of the image."""
    height, width = (
        int(generator.integers(side // 4, side)) for side in generator.choice([(8, 9), (60, 70), (125, 150)])
    )
    y, x = int(generator.integers(0, SIZE[0] - height + 1)), int(generator.integers(0, SIZE[1] - width + 1))
    v, u = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    mask = np.zeros(SIZE, bool)
    mask[y : y + height, x : x + width] = (u * u + v * v <= 1) | (generator.random() < 0.5)
    return mask


def image(seed: int) -> dict[str, Any]:
    """True instances and results of one image. Results are true masks with noise, duplicates, and other masks."""
    generator = np.random.default_rng(seed)
    n = int(generator.integers(0, 7)) if seed % 7 else 0
    true = [blob(generator) for _ in range(n)]
    labels = generator.integers(0, LABELS - 1, n)  # the last class never occurs
    crowd = generator.random(n) < 0.2
    areas = np.array([mask.sum() * generator.uniform(0.9, 1.1) for mask in true])
    moved = [np.roll(mask, generator.integers(-3, 4, 2), (0, 1)) for mask in true for _ in range(2)]
    masks = [*moved, *(blob(generator) for _ in range(3))] if seed % 5 else []
    predicted = [*np.repeat(labels, 2), *generator.integers(0, LABELS, 3)] if seed % 5 else []
    wrong = generator.random(len(masks)) < 0.2
    predicted = np.where(wrong, generator.integers(0, LABELS, len(masks)), np.array(predicted, int))
    scores = generator.choice([0.1, 0.25, 0.5, 0.7, 0.9, 0.99], len(masks))  # many ties
    return {
        "number": seed, "true": true, "labels": labels, "crowd": crowd, "areas": areas, "masks": masks,
        "predicted": predicted, "scores": scores,
    }  # fmt: skip


def record(content: dict[str, Any]) -> dict[str, Any]:
    logits = np.zeros((len(content["masks"]), LABELS), np.float32)
    logits[np.arange(len(logits)), content["predicted"]] = 9
    other = np.where(np.arange(len(content["crowd"])) % 2, COUNTED, INVALID)  # to pycocotools, both are the same
    status = np.where(content["crowd"], CROWD, other).astype(np.uint8)
    labels, number = content["labels"].astype(np.uint16), np.array(content["number"])
    true, masks = regions.pack(content["true"]), regions.pack(content["masks"])
    scores = content["scores"].astype(np.float64)
    return dict(instance_ap.measure(QUESTION, number, *true, labels, content["areas"], status, *masks, logits, scores))


def total(contents: list[dict[str, Any]]) -> instance_ap.Partial:
    return instance_ap.Partial.of(pa.array([*map(record, contents), None], instance_ap.schema), LABELS)


def encoded(mask: np.ndarray) -> dict[str, Any]:
    return coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))


def reference(contents: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """pycocotools' six APs, and its precisions [threshold, recall, label, area, most]."""
    truths, results = [], []
    for content in contents:
        for mask, label, crowd, area in zip(*(content[k] for k in ("true", "labels", "crowd", "areas")), strict=True):
            truths.append(
                {"id": len(truths) + 1, "image_id": content["number"], "category_id": int(label) + 1,
                 "iscrowd": int(crowd), "area": area, "segmentation": encoded(mask), "bbox": [0, 0, 1, 1]}
            )  # fmt: skip
        for mask, label, score in zip(*(content[k] for k in ("masks", "predicted", "scores")), strict=True):
            results.append(
                {"image_id": content["number"], "category_id": int(label) + 1, "score": float(score),
                 "segmentation": encoded(mask)}
            )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        official = COCO()
        official.dataset = {
            "info": {},
            "images": [{"id": content["number"], "height": SIZE[0], "width": SIZE[1]} for content in contents],
            "annotations": truths,
            "categories": [{"id": label + 1, "name": "abcd"[label]} for label in range(LABELS)],
        }
        official.createIndex()
        evaluation = COCOeval(official, official.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = np.where(evaluation.stats[:6] < 0, np.nan, evaluation.stats[:6])
    return 100 * stats, evaluation.eval["precision"]


@pytest.mark.parametrize("start", [1, 1000, 2000])
def test_the_six_aps_are_those_of_pycocotools(start: int) -> None:
    contents = [image(seed) for seed in range(start, start + 24)]
    expected, precisions = reference(contents)
    found = total(contents)
    assert list(found.result().values()) == pytest.approx(expected.tolist(), abs=1e-9, nan_ok=True)
    assert 5 < found.result()["instance_ap"] < 95
    per_label = [precisions[:, :, label, 0, 2].mean() for label in range(LABELS - 1)]
    assert found.per_label()["instance_ap"][:-1] == pytest.approx(100 * np.array(per_label), abs=1e-9)
    assert np.isnan(found.per_label()["instance_ap"][-1])
    assert found.of_group((0, 1))["instance_ap"] == pytest.approx(100 * np.mean(per_label[:2]), abs=1e-9)


def test_the_result_is_the_same_bit_by_bit_in_any_order_and_division() -> None:
    contents = [image(seed) for seed in range(30, 50)]
    whole = str(total(contents).result())  # as text, since NaN is not equal to NaN
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(contents))
        parts = [total([contents[i] for i in part]) for part in np.array_split(order, 4)]
        assert str((parts[0] + (parts[1] + parts[2]) + parts[3]).result()) == whole


def test_more_than_a_hundred_masks_of_a_class_in_an_image_do_not_count() -> None:
    content = image(3)
    content |= {
        "masks": [content["masks"][0]] * 120,
        "predicted": np.zeros(120, int),
        "scores": np.linspace(0.99, 0.1, 120),
    }
    content["masks"][119] = content["true"][0]
    found = list(total([content]).result().values())
    assert found == pytest.approx(reference([content])[0].tolist(), abs=1e-9, nan_ok=True)
    assert record(content)["score"].min() > content["scores"][100] - 1e-9


def test_without_instances_there_is_no_number() -> None:
    assert np.isnan(list(total([image(7)]).result().values())).all()


def test_without_any_mask_there_is_no_number() -> None:
    contents = [image(5), image(10)]
    assert all(len(content["true"]) and not len(content["masks"]) for content in contents)
    assert np.isnan(list(total(contents).result().values())).all()
    assert not np.isnan(total([*contents, image(3)]).result()["instance_ap"])


def test_scores_of_another_number_than_the_boxes_are_refused() -> None:
    content = image(3)
    content["scores"] = content["scores"][1:]
    with pytest.raises(OvssError, match="Use stages that return one mask per prompt"):
        record(content)
