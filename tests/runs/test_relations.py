"""The file of `--relations`, the relations in the folder of a run, and SG-IoU of runs of an earlier version."""

import json
import re
import shutil
from pathlib import Path

import pytest

import ovss_ray
from ovss_ray.api import comparison
from ovss_ray.benchmarks import catalog
from ovss_ray.engine.progress import Counts
from ovss_ray.errors import OvssError
from ovss_ray.reports import report as reports
from ovss_ray.runs import relations
from ovss_ray.runs.folder import RunFolder
from ovss_ray.structures.relations import Relations
from tests.paths import ROOT

OLD = ROOT / "tests/data/old_runs"
ADE = {"ade20k:150": catalog.load("ade20k:150").labels}
BALL = "scenes:seen:\n  plain purple ball: [checked purple triangle, sky]\n  striped yellow ball: striped red moon\n"


def written(folder: Path, text: str, name: str = "relations.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_sections_are_read_by_benchmark_with_names_lists_and_indices(tmp_path: Path) -> None:
    file = written(tmp_path, "ade20k:150:\n  grass: plant\n  19: [armchair, 'seat']\ncamvid: {Tree: Sky}\n")
    assert relations.read(file, ADE) == {"ade20k:150": Relations(((9, 17), (19, 30), (19, 31)), str(file))}


def test_the_file_of_the_documentation_is_one(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/sg_iou.md").read_text("utf-8"), re.DOTALL)
    pairs = ((9, 17), (11, 6), (19, 30), (19, 31), (25, 1), (30, 19), (30, 31))
    assert relations.read(written(tmp_path, example), ADE)["ade20k:150"].pairs == pairs


def test_json_is_read_as_yaml_is(tmp_path: Path) -> None:
    file = written(tmp_path, json.dumps({"ade20k:150": {"9": 17, "19": [30, 31]}}), "relations.json")
    assert relations.read(file, ADE)["ade20k:150"].pairs == ((9, 17), (19, 30), (19, 31))


def test_class_names_that_yaml_takes_for_other_values_are_names(tmp_path: Path) -> None:
    file = written(tmp_path, "folder:mine.yaml:\n  no: yes\n  1e3: null\n")
    name = catalog.absolute("folder:mine.yaml")
    assert relations.read(file, {name: ["yes", "no", "null", "1e3"]})[name].pairs == ((1, 0), (3, 2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"expected relations of classes, found None\. Write a section for each benchmark, such as `ade20k:150"),
        ("[a, b]", "expected relations of classes, found "),
        ("grass: plant", r"section grass: expected pairs `child: father`, found 'plant'\. Write a section for each"),
        ("ade20k:150: {}", r"ade20k:150: expected pairs `child: father`, found \{\}"),
        ("ade20k:150: {grass: {plant: tree}}", "ade20k:150: grass: expected a father class or a list"),
        ("ade20k:150:\n  grass:\n", "ade20k:150: the class 'grass' has no father"),
        ("ade20k:150:\n  gras: plant\n", r"ade20k:150: unknown class 'gras'\. Did you mean 'grass'\?"),
        ("ade20k:150:\n  grass: 376\n", "ade20k:150: unknown class 376: the benchmark has 150 classes, 0 to 149"),
        ("ade20k:150:\n  grass: plant\n  grass: tree\n", "duplicate key 'grass'"),
        ("ade20k:15: {1: 2}", r"unknown benchmark 'ade20k:15'\. Did you mean 'ade20k:150'"),
        ("ade20k:847: {1: 2}", "of ade20k:847, but the run evaluates ade20k:150.* write a section 'ade20k:150'"),
        ("ade20k:150@catseg: {1: 2}", "relations of ade20k:150@catseg, but the run evaluates ade20k:150"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_its_name(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(OvssError, match=f"relations.yaml: .*{message}"):
        relations.read(written(tmp_path, text), ADE)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OvssError, match=r"none\.yaml: cannot be read"):
        relations.read(tmp_path / "none.yaml", ADE)


@pytest.mark.parametrize("method", ["san_tiny-finished", "sam_alpha_clip_tiny-interrupted"])
def test_a_run_of_an_earlier_version_has_an_sg_iou_and_keeps_all_other_values(method: str, tmp_path: Path) -> None:
    run = RunFolder(str(shutil.copytree(OLD / method, tmp_path / "run")))
    plain = reports.build(run)
    assert "sg_miou" not in plain.benchmarks["scenes:seen"].metrics
    file = written(tmp_path, BALL)
    report, _ = comparison.rebuild(run, Counts(), relations=file)
    seen, other = report.benchmarks["scenes:seen"], report.benchmarks["pascal5i:1"]
    before = plain.benchmarks["scenes:seen"].metrics
    assert {key: seen.metrics[key] for key in before} == before
    assert set(seen.metrics) - set(before) == {f"sg_{key}" for key in ("miou", "miou_classic", "fwiou", "macc", "pacc")}
    assert other.relations is None
    assert "sg_miou" not in other.metrics
    assert seen.relations is not None
    assert (seen.relations.file, seen.relations.children, seen.relations.pairs) == (str(file), 2, 3)
    file.unlink()
    assert ovss_ray.Report.load(run.uri) == report == reports.build(run), "the folder keeps the relations"


def test_credited_pixels_raise_the_class_and_the_mean(tmp_path: Path) -> None:
    run = RunFolder(str(shutil.copytree(OLD / "san_tiny-finished", tmp_path / "run")))
    report, _ = comparison.rebuild(run, Counts(), relations=written(tmp_path, BALL))
    seen = report.benchmarks["scenes:seen"]
    scores = {score.name: score.model_dump() for score in seen.classes}
    assert scores["plain purple ball"]["iou"] == 0
    assert 0 < scores["plain purple ball"]["sg_iou"] < 100
    unrelated = [score for name, score in scores.items() if name not in ("plain purple ball", "striped yellow ball")]
    assert all(score["sg_iou"] == score["iou"] for score in unrelated)
    miou, sg_miou = seen.metrics["miou"], seen.metrics["sg_miou"]
    assert miou is not None
    assert sg_miou is not None
    assert sg_miou > miou


def test_other_relations_replace_the_earlier_ones(tmp_path: Path) -> None:
    run = RunFolder(str(shutil.copytree(OLD / "san_tiny-finished", tmp_path / "run")))
    comparison.rebuild(run, Counts(), relations=written(tmp_path, BALL))
    report, _ = comparison.rebuild(run, Counts(), relations=written(tmp_path, "scenes:seen: {grass: forest}"))
    assert report.benchmarks["scenes:seen"].relations.pairs == 1  # type: ignore[union-attr]


def test_relations_apply_to_every_run_that_is_compared(tmp_path: Path) -> None:
    runs = [shutil.copytree(OLD / f"{name}-finished", tmp_path / name) for name in ("san_tiny", "sam_alpha_clip_tiny")]
    compared = ovss_ray.compare(*runs, relations=written(tmp_path, BALL))
    assert [report.benchmarks["scenes:seen"].metrics["sg_miou"] is not None for report in compared.values()] == [
        True
    ] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"file": "a.yaml"}', "relations.json: damaged: KeyError"),
        ('{"file": "a.yaml", "pairs": [[1]]}', "relations.json: damaged: ValueError"),
        ('{"file": "a.yaml", "pairs": [[1, 42]]}', "classes that are not among the 42 labels of scenes:seen"),
        ("{", "relations.json: damaged, invalid JSON"),
    ],
)
def test_damaged_relations_in_a_folder_are_an_error_that_says_what_to_do(
    text: str, message: str, tmp_path: Path
) -> None:
    run = shutil.copytree(OLD / "san_tiny-finished", tmp_path / "run")
    written(run / "scenes-seen", text, "relations.json")
    with pytest.raises(OvssError, match=message):
        reports.build(RunFolder(str(run)))


def test_relations_of_another_benchmark_leave_the_folder_unchanged(tmp_path: Path) -> None:
    run = shutil.copytree(OLD / "san_tiny-finished", tmp_path / "run")
    with pytest.raises(OvssError, match="relations of ade20k:150, but the run evaluates scenes:seen, pascal5i:1"):
        comparison.rebuild(RunFolder(str(run)), Counts(), relations=written(tmp_path, "ade20k:150: {1: 2}"))
    assert not [*run.rglob("relations.json")]


def test_a_run_that_was_interrupted_before_a_benchmark_began_is_refused(tmp_path: Path) -> None:
    run = shutil.copytree(OLD / "san_tiny-interrupted", tmp_path / "run")
    (run / "scenes-seen/benchmark.json").unlink()
    with pytest.raises(OvssError, match="this run was interrupted before scenes:seen started"):
        comparison.rebuild(RunFolder(str(run)), Counts(), relations=written(tmp_path, BALL))


def test_relations_are_checked_with_the_config_and_are_no_part_of_a_run_s_identity(tmp_path: Path) -> None:
    from ovss_ray.runs.sources import plan_runs

    settings = {"benchmarks": "scenes:seen", "limit": 1}
    (plain,) = plan_runs("oracle", tmp_path / "run", (), settings).values()
    file = written(tmp_path, BALL)
    (plan,) = plan_runs("oracle", tmp_path / "run", (), {**settings, "relations": file}).values()
    assert plan.relations["scenes:seen"].pairs
    assert plan.identity() == plain.identity()
    with pytest.raises(OvssError, match="unknown class 'gras'"):
        plan_runs("oracle", None, (), {**settings, "relations": written(tmp_path, "scenes:seen: {gras: snow}")})
