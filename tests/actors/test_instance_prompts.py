"""Prompts of instances: those of the recorded evaluation, kinds, boxes of a detector, and SAM's masks for them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_masks

from ovss_ray.actors import coco_results, detector_prompts, instances, sam_prompt, truth_prompts
from ovss_ray.benchmarks import catalog
from ovss_ray.errors import OvssError
from ovss_ray.pipeline import execution
from ovss_ray.structures.columns import Batch
from ovss_ray.structures.instances import COUNTED, CROWD
from ovss_ray.structures.masks import regions
from tests import small_sam

SIZE = (30, 40)


def rows(*masks: np.ndarray, status: list[int] | None = None, image_id: str = "a") -> Batch:
    """An image with true instances."""
    boxes, bits = regions.pack(masks)
    return execution.start(
        1,
        image_id=[image_id],
        size=[np.array(SIZE, np.int32)],
        true_boxes=[boxes],
        true_bits=[bits],
        true_frames=[boxes.astype(np.float32)],
        true_status=[np.array(status or [COUNTED] * len(masks), np.uint8)],
    )


def square(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def prompts(batch: Batch, **options: Any) -> Batch:
    return truth_prompts.Stage(truth_prompts.Stage.Config(**options))(batch, {})


def test_centre_points_and_boxes_are_those_of_the_recorded_evaluation(shared: Path) -> None:
    golden = json.loads((shared / "parity/ovsam/golden_eval.json").read_text())
    benchmark = catalog.load("coco:instances_48_17")
    items = list(benchmark.items(str(shared / "parity/ovsam/tiny_coco"), "val"))
    stage = instances.Stage(instances.Stage.Config())
    stage.benchmarks = {"coco": benchmark}
    batch = execution.start(
        len(items),
        image_id=[item.image_id for item in items],
        benchmark=["coco"] * len(items),
        truth_uri=[item.truth for item in items],
    )
    by_name = {Path(row["img"]).stem: row for row in golden["rows"]}
    listed = [by_name[item.image_id] for item in items]
    batch["size"] = execution.column(np.array(row["ori_shape"], np.int32) for row in listed)
    batch |= stage(batch, {})
    points, boxes = prompts(batch), prompts(batch, kind="box")
    for i, row in enumerate(listed):
        scaled = points["prompt_points"][i][:, 0] * row["scale_factor"]
        assert np.allclose(scaled, row["points_xy_1024"], atol=1e-9)
        assert boxes["prompt_boxes"][i][:, 0].tolist() == row["boxes"]
        assert batch["true_labels"][i][points["prompt_instances"][i]].tolist() == row["labels"]


def test_photographs_of_another_size_than_annotated_are_refused(shared: Path) -> None:
    benchmark = catalog.load("coco:instances")
    (item, *_) = benchmark.items(str(shared / "parity/ovsam/tiny_coco"), "val")
    stage = instances.Stage(instances.Stage.Config())
    stage.benchmarks = {"coco": benchmark}
    columns = {"image_id": [item.image_id], "benchmark": ["coco"], "image_uri": [item.image], "truth_uri": [item.truth]}
    height, width = benchmark.size(item.image)
    for size in ((height // 2, width // 2), (width, height)):
        with pytest.raises(OvssError, match=rf"{size[0]} × {size[1]} .* annotations are for {height} × {width}\. Use"):
            stage(execution.start(1, **columns, size=[np.array(size, np.int32)]), {})


def test_the_centre_of_a_very_long_mask_is_in_it() -> None:
    x, y = truth_prompts.centre(np.ones((1, 5000), np.uint8), 1024)
    assert 0 <= x < 5000
    assert y == 0


def test_crowds_and_invalid_annotations_get_no_prompt() -> None:
    found = prompts(rows(square(0, 0, 9, 9), square(5, 5, 30, 20), status=[CROWD, COUNTED]), side=None)
    assert found["prompt_instances"][0].tolist() == [1]
    assert found["prompt_points"][0].tolist() == [
        [[13, 12]]
    ]  # the first pixel of the middle row with no end of the row next to it
    assert found["prompt_boxes"][0].shape == (1, 0, 4)


def test_random_points_are_in_the_mask_and_depend_on_seed_and_image_only() -> None:
    masks = square(3, 4, 20, 9), square(30, 20, 31, 21)
    first = prompts(rows(*masks), kind="random_point")["prompt_points"][0]
    assert all(mask[int(y), int(x)] for mask, ((x, y),) in zip(masks, first, strict=True))
    assert np.array_equal(first, prompts(rows(*masks), kind="random_point")["prompt_points"][0])
    others = [
        prompts(rows(*masks), kind="random_point", seed=1),
        prompts(rows(*masks, image_id="b"), kind="random_point"),
    ]
    assert all(not np.array_equal(first, other["prompt_points"][0]) for other in others)


def test_noise_is_capped_for_large_boxes_and_leaves_a_pixel_of_small_ones() -> None:
    corners, random = np.array([[100.0, 100, 600, 500], [7, 7, 8, 8]]), np.random.default_rng(0)
    moved = np.array([truth_prompts._noisy(corners, (800, 700), random) for _ in range(200)])
    large = np.abs(moved[:, 0] - corners[0])
    assert large.max() == 20
    assert 0.5 < (large == 20).mean() < 0.8, "with a deviation of 50 and 40 pixels, 69 and 62 % would be moved further"
    assert (moved[:, 1, 2:] - moved[:, 1, :2] >= 1).all()
    assert not np.array_equal(moved[:, 1], np.tile(corners[1], (200, 1)))


def test_noisy_boxes_are_near_the_boxes_and_inside_the_image() -> None:
    exact = np.array([[0, 0, 40, 30], [10, 10, 20, 20]])
    batch = rows(square(0, 0, 40, 30), square(10, 10, 20, 20))
    moved = np.array([prompts(batch, kind="noisy_box", seed=seed)["prompt_boxes"][0][:, 0] for seed in range(300)])
    assert moved.min() >= 0
    assert (moved <= np.array([40, 30, 40, 30])).all()
    spread = (moved - exact)[:, 1].std(0)
    assert np.allclose(spread, 1.0, atol=0.15)  # 10 % of 10 pixels


def detected(path: Path, **options: Any) -> detector_prompts.Stage:
    return detector_prompts.Stage(detector_prompts.Stage.Config(path=str(path), **options))


def test_boxes_of_a_detector_are_the_best_of_each_image(tmp_path: Path) -> None:
    entries = [
        {"image_id": image, "category_id": 1, "bbox": [x, 2, 3, 4], "score": score}
        for image, x, score in [(7, 0, 0.2), (3, 1, 0.5), (7, 2, 0.9), (7, 3, 0.2), (7, 4, 0.05)]
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(entries))
    stage = detected(tmp_path / "boxes.json", threshold=0.1, limit=2)
    found = stage(execution.start(2, image_number=[np.array(7), np.array(5)]), {})
    assert found["prompt_boxes"][0].tolist() == [[[2, 2, 5, 6]], [[0, 2, 3, 6]]]
    assert found["detector_scores"][0].tolist() == [0.9, 0.2]
    assert [len(found[name][1]) for name in stage.writes] == [0, 0, 0]


def test_a_damaged_or_missing_file_of_boxes_is_named(tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text('[{"image_id": 7, "bbox": [1, 2, 3]}]')
    with pytest.raises(OvssError, match=r"boxes\.json: entry 0 is invalid: .*Expected a JSON list of results"):
        detected(tmp_path / "boxes.json")
    (tmp_path / "boxes.json").write_text(
        json.dumps([{"image_id": 7, "bbox": [1, 2, 3, 4], "score": 0.1}, {"image_id": 7, "bbox": [1, 2, 3, 4]}])
    )
    with pytest.raises(OvssError, match=r"boxes\.json: entry 1 is invalid"):
        detected(tmp_path / "boxes.json", threshold=0.5)
    with pytest.raises(OvssError, match=r"none\.json: no such file"):
        detector_prompts.Stage.files(detector_prompts.Stage.Config(path=str(tmp_path / "none.json")))


@pytest.mark.parametrize("content", ["[]", '{"results": []}', '{"images": [], "annotations": [{"image_id": 7}]}'])
def test_a_file_without_a_list_of_boxes_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "boxes.json").write_text(content)
    with pytest.raises(OvssError, match=r"boxes\.json: no result in it: .*Expected a JSON list of results"):
        detected(tmp_path / "boxes.json")


def test_each_prompt_of_an_image_gets_the_best_mask_of_sam(tmp_path: Path) -> None:
    weights = small_sam.save(tmp_path / "small.pth")
    options = {"variant": "sam_small", "weights": str(weights), "device": "cpu"}
    stage = sam_prompt.Stage(sam_prompt.Stage.Config(**options, per="instance"))
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    points, none = np.array([[[40.0, 20.0]], [[8.0, 50.0]]]), np.empty((2, 0, 4))
    boxes = np.array([[[10.0, 10.0, 70.0, 50.0]]])
    batch = execution.start(
        2, image=[image, image], prompt_points=[points, np.empty((1, 0, 2))], prompt_boxes=[none, boxes]
    )
    found = stage(batch, {})
    expected = [stage.answer(image, {"points": point, "labels": [1]}) for point in points]
    best = [answer.masks[np.argmax(answer.predicted_iou)] for answer in expected]
    assert np.array_equal(regions.masks(found["boxes"][0], found["bits"][0], (60, 90)), best)
    assert found["predicted_iou"][0].tolist() == [answer.predicted_iou.max() for answer in expected]
    alone = stage.answer(image, {"box": boxes[0, 0], "multimask": False})
    assert np.array_equal(regions.masks(found["boxes"][1], found["bits"][1], (60, 90)), alone.masks)


def test_results_in_cocos_format_are_read_by_pycocotools(tmp_path: Path) -> None:
    masks = [square(3, 4, 20, 9), square(0, 0, 40, 30), np.zeros(SIZE, bool)]
    boxes, bits = regions.pack(masks)
    scores = np.zeros((3, 80), np.float32)
    scores[np.arange(3), [0, 79, 9]] = 4  # 9 is neither base nor novel, so the first candidate wins
    batch = execution.start(
        1, image_id=["000000000139"], benchmark=["coco:instances_48_17"], image_number=[np.array(139)],
        size=[np.array(SIZE)], boxes=[boxes], bits=[bits], scores=[scores],
        detector_scores=[np.array([0.5, 0.25, 0.125])],
    )  # fmt: skip
    stage = coco_results.Stage(coco_results.Stage.Config(folder=str(tmp_path)))
    stage.benchmarks = catalog.Benchmarks()
    assert stage(batch, {}) == {}
    results = json.loads((tmp_path / "coco-instances_48_17/000000000139.json").read_text())
    assert [entry["category_id"] for entry in results] == [1, 90, 1]
    assert [entry["score"] for entry in results] == [0.5, 0.25, 0.125]
    assert {entry["image_id"] for entry in results} == {139}
    decoded = coco_masks.decode([entry["segmentation"] for entry in results])
    assert np.array_equal(decoded.transpose(2, 0, 1) > 0, masks)
