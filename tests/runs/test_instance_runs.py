"""Runs over instances: plan, records and report, with the small networks that come with the project, without Ray."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ovss_ray.benchmarks import catalog
from ovss_ray.config.run import RunConfig
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.pipeline import execution
from ovss_ray.reports import report, terminal, totals
from ovss_ray.reports.schema import Report
from ovss_ray.runs import manifest as manifests
from ovss_ray.runs import records
from ovss_ray.runs.complete import complete
from ovss_ray.runs.folder import RunFolder
from ovss_ray.runs.plan import RunPlan
from ovss_ray.runs.sources import plan_runs
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.masks import regions

CONFIG, BENCHMARK, IMAGES = "sam_alpha_clip_prompt_tiny", "scenes:instances", 4


def planned(out: Path, config: Any = CONFIG, benchmark: str = BENCHMARK) -> RunPlan:
    (plan,) = plan_runs(config, str(out), (), {"benchmarks": [benchmark], "limit": IMAGES}).values()
    return plan


def uses(plan: RunPlan) -> list[str]:
    return [stage.use for pool in plan.pools for stage in pool.stages]


def evaluated(plan: RunPlan, parts: list[list[int]]) -> RunFolder:
    """The folder of a run, whose records of each part were written by a process of its own."""
    folder, ((benchmark, manifest),) = plan.folder, plan.manifests.items()
    folder.claim(plan.config, plan.identity(), plan.weights())
    folder.save_json(folder.card(benchmark), plan.card(benchmark))
    manifests.save(manifest, folder.manifest(benchmark))
    stages = {stage.use: stage.build(benchmarks=plan.benchmarks) for pool in plan.pools for stage in pool.stages}
    for rows in parts:
        batch = execution.start(len(rows), **manifest.take(rows).to_pydict())
        records.append(folder.records(benchmark), records.table(execution.run(stages, batch, plan.vocabularies)))
    return folder


def shown(built: Report, **options: Any) -> str:
    console = Console(width=300, file=io.StringIO())
    terminal.show(built, console, **options)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run in three parts; image 1 was scored twice, as after a kill."""
    return evaluated(planned(tmp_path_factory.mktemp("run") / "out"), [[0, 1], [3, 1], [2]])


def test_what_the_config_omits_is_added_and_no_label_map_is_needed(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    assert uses(plan) == ["decode", "instances", "truth_prompts", "sam_prompt", "alpha_clip", "measure"]
    measured = plan.pools[-1].stages[-1].options["metrics"]
    assert set(measured) == {"instance_iou", "instance_accuracy"}


def test_photographs_are_decoded_before_instances_also_if_no_other_stage_reads_them() -> None:
    prompts = {"use": "detector_prompts", "options": {"path": "/boxes.json"}}
    pools = complete(RunConfig(pools=[{"stages": [prompts]}]))
    assert [stage.use for pool in pools for stage in pool.stages] == [
        "decode", "instances", "detector_prompts", "measure",
    ]  # fmt: skip


def test_a_benchmark_without_instances_is_refused_in_the_plan(tmp_path: Path) -> None:
    with pytest.raises(OvssError, match="need true instances, but scenes:seen has none"):
        planned(tmp_path, benchmark="scenes:seen")


def test_label_maps_are_scored_on_benchmarks_of_instances_as_on_others(tmp_path: Path) -> None:
    plan = planned(tmp_path, config="san_tiny")
    assert "instances" not in uses(plan)
    assert plan.pools[-1].stages[0].use == "truth"


def test_the_report_has_iou_and_accuracy_of_all_instances_and_of_groups(folder: RunFolder) -> None:
    built = report.build(folder)
    benchmark = built.benchmarks[BENCHMARK]
    assert built.final
    assert set(benchmark.metrics) == {"instance_iou", "instance_accuracy"}
    assert benchmark.measured == {"instance_iou": IMAGES, "instance_accuracy": IMAGES}
    found = catalog.load(BENCHMARK)
    items = list(found.items("", "validation"))[:IMAGES]
    counted = sum(len(found.instances(item, files.read(item.truth)).labels) for item in items)
    assert benchmark.groups["things"].instances == counted > IMAGES  # type: ignore[attr-defined]
    assert 50 < benchmark.metrics["instance_iou"] < 100
    assert benchmark.metrics["instance_accuracy"] > 70
    said = shown(built, classes=True)
    assert "Masks of prompted instances, in percent" in said
    assert f"mean IoU of things {benchmark.metrics['instance_iou']:.2f} ({counted} instances)" in said
    assert "one prompt per instance: centre_point" in said
    assert "mIoU" not in said
    assert Report.load(folder.uri) == built


def test_images_are_sorted_by_their_mean_iou_and_runs_compared_by_accuracy(folder: RunFolder) -> None:
    rows = totals.read(folder, images=True)[BENCHMARK].images()
    assert len(rows) == IMAGES
    assert [row["instance_iou"] for row in rows] == sorted(row["instance_iou"] for row in rows)
    console = Console(width=200, file=io.StringIO())
    built = report.build(folder)
    console.print(terminal.side_by_side({"a": built, "b": built}))
    cell = f"{built.benchmarks[BENCHMARK].metrics['instance_accuracy']:.2f} (4/4)"
    assert console.file.getvalue().count(cell) == 2  # type: ignore[attr-defined]


TWO_STEPS = (
    {"use": "sam_prompt", "options": {"variant": "sam_tiny", "per": "instance"}},
    {"use": "alpha_clip", "options": {"variant": "alpha_clip_tiny", "context": "crop_square", "padding": 0.4}},
)
ONE_STEP = ({"use": "ovsam", "options": {"variant": "ovsam_tiny"}},)


def with_boxes(path: Path, results: list[dict[str, Any]], methods: Sequence[Any] = TWO_STEPS) -> dict[str, Any]:
    """A config whose prompts are these results of a detector, written to a file."""
    path.write_text(json.dumps(results))
    stages = [{"use": "detector_prompts", "options": {"path": str(path)}}, *methods]
    return {"pools": [{"stages": stages}], "keep_predictions": "none", "exact": True}


@pytest.mark.parametrize("methods", [TWO_STEPS, pytest.param(ONE_STEP, marks=pytest.mark.slow)])
def test_masks_for_boxes_of_a_detector_have_an_ap_that_does_not_depend_on_the_parts(
    methods: Sequence[Any], tmp_path: Path
) -> None:
    found = catalog.load(BENCHMARK)
    results = []
    for item in list(found.items("", "validation"))[:IMAGES]:
        image = found.instances(item, files.read(item.truth))
        for x0, y0, x1, y1 in image.frames.tolist():
            box = [x0, y0, x1 - x0, y1 - y0]
            results.append({"image_id": image.number, "category_id": 1, "bbox": box, "score": 1 / (1 + len(results))})
    config = with_boxes(tmp_path / "boxes.json", results, methods)
    one, two = (planned(tmp_path / name, config) for name in ("one", "two"))
    assert uses(one)[2:-1] == ["detector_prompts", *(method["use"] for method in methods)]
    whole = report.build(evaluated(one, [[0, 1, 2, 3]])).benchmarks[BENCHMARK]
    parts = report.build(evaluated(two, [[2], [3, 0], [1, 0]])).benchmarks[BENCHMARK]
    assert whole.metrics == parts.metrics
    assert whole.measured == {"instance_ap": IMAGES}
    assert 30 < whole.metrics["instance_ap"] < whole.metrics["instance_ap_50"] <= 100
    assert np.isclose(whole.groups["things"].instance_ap, whole.metrics["instance_ap"])  # type: ignore[attr-defined]


def lvis(root: Path) -> Path:
    """A data root with two photographs of LVIS, and a square thing in each, of a rare and of a common class.

    The first image lacks the common class, the second has unmarked instances of it.
    """
    listed: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    for folder in ("val2017", "train2017"):
        (root / "lvis" / folder).mkdir(parents=True)
    for number, category, absent, partial in ((1, RARE + 1, [COMMON + 1], []), (2, COMMON + 1, [], [COMMON + 1])):
        name = f"val2017/{number:012}.jpg"
        Image.new("RGB", (80, 60)).save(root / "lvis" / name)
        searched = {"neg_category_ids": absent, "not_exhaustive_category_ids": partial}
        address = f"http://images.cocodataset.org/{name}"
        listed["images"].append({"id": number, "height": 60, "width": 80, "coco_url": address, **searched})
        shape = {"bbox": [10, 10, 20, 20], "area": 400, "segmentation": [[10, 10, 30, 10, 30, 30, 10, 30]]}
        listed["annotations"].append({"id": number, "image_id": number, "category_id": category, **shape})
    (root / "lvis/lvis_v1_val.json").write_text(json.dumps(listed))
    return root


RARE, COMMON = 12, 0
"""Labels of applesauce and of an aerosol can."""


def test_lvis_rules_read_the_lists_of_each_image_and_the_report_says_which_rules_a_number_has(tmp_path: Path) -> None:
    config = with_boxes(tmp_path / "boxes.json", []) | {"metrics": ["instance_ap_lvis"]}
    given = {"benchmarks": ["lvis"], "data_root": str(lvis(tmp_path / "data")), "limit": 2}
    (plan,) = plan_runs(config, str(tmp_path / "out"), (), given).values()
    folder, (manifest,) = plan.folder, plan.manifests.values()
    folder.claim(plan.config, plan.identity(), plan.weights())
    folder.save_json(folder.card("lvis"), plan.card("lvis"))
    manifests.save(manifest, folder.manifest("lvis"))
    build = {stage.use: stage.build for pool in plan.pools for stage in pool.stages}
    stages = {use: build[use](benchmarks=plan.benchmarks) for use in ("decode", "instances", "measure")}
    batch = execution.start(2, **manifest.to_pydict())
    batch = execution.run({use: stages[use] for use in ("decode", "instances")}, batch, {})
    batch |= masks([[(RARE, True, 0.5), (COMMON, False, 0.9)],
                    [(RARE, False, 0.9), (COMMON, False, 0.8), (COMMON, True, 0.5)]])  # fmt: skip
    records.append(folder.records("lvis"), records.table(execution.run({"measure": stages["measure"]}, batch, {})))
    built = report.build(folder)
    of_run = built.benchmarks["lvis"]
    assert of_run.measured == {"instance_ap": 2, "instance_ap_lvis": 2}
    of_group = {name: group.model_dump().get("instance_ap_lvis") for name, group in of_run.groups.items()}
    assert (of_group["rare"], of_group["common"]) == (pytest.approx(100), pytest.approx(50)), "one mask is a fault"
    assert of_run.metrics["instance_ap_lvis"] == pytest.approx(75)
    assert of_run.metrics["instance_ap"] == pytest.approx(100 * (1 / 2 + 1 / 3) / 2), "to COCO, all three are faults"
    said = shown(built)
    assert "Mask AP of a detector's boxes by COCO's rules, in percent" in said
    assert "Mask AP of a detector's boxes by LVIS's rules, in percent" in said


def masks(images: list[list[tuple[int, bool, float]]]) -> Batch:
    """Columns of masks: the label of each, whether it is the thing, and its score."""
    thing, other = np.zeros((2, 60, 80), bool)
    thing[10:30, 10:30] = other[40:, 40:] = True
    packed = [regions.pack([thing if right else other for _, right, _ in image]) for image in images]
    logits = [9 * np.eye(1203, dtype=np.float32)[[label for label, *_ in image]] for image in images]
    return {
        "boxes": column(boxes for boxes, _ in packed),
        "bits": column(bits for _, bits in packed),
        "scores": column(logits),
        "detector_scores": column(np.array([score for *_, score in image]) for image in images),
    }


def test_lvis_rules_are_refused_for_a_benchmark_that_does_not_list_what_was_searched_for(tmp_path: Path) -> None:
    config = with_boxes(tmp_path / "boxes.json", []) | {"metrics": ["instance_ap_lvis"]}
    with pytest.raises(OvssError, match=r"scenes:instances has no such lists\. Use --benchmark lvis alone"):
        planned(tmp_path / "out", config)
