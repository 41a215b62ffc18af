"""All folds of a few-shot data set in one command, and folds of the user's own."""

import json
from pathlib import Path

import pytest

from ovss_ray.benchmarks import catalog
from ovss_ray.config import loading as configs
from ovss_ray.errors import OvssError
from ovss_ray.models import fake
from ovss_ray.reports.schema import Report
from ovss_ray.runs.plan import RunPlan, plan_run
from tests.commands import ovss


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint of fusioner_tiny with made-up values."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    fake.write("fusioner_tiny", path)
    return path


def plan(weights: Path, root: Path, out: Path, *benchmarks: str, **keys: object) -> RunPlan:
    options = {"variant": "fusioner_tiny", "weights": str(weights)}
    raw = {"pools": [{"stages": [{"use": "fusioner", "options": options}]}], "benchmarks": benchmarks, **keys}
    return plan_run(configs.validate({"data_root": str(root), **raw}, "test"), str(out))


def test_the_name_of_a_data_set_stands_for_its_folds() -> None:
    pascal = tuple(f"pascal5i:{fold}" for fold in range(4))
    assert catalog.expanded(["pascal5i", "camvid"]) == (*pascal, "camvid")
    assert catalog.expanded(["coco20i"]) == tuple(f"coco20i:{fold}" for fold in range(4))
    assert catalog.expanded(["pascal5i:1", "voc:21", "voc"]) == ("pascal5i:1", "voc:21", "voc")


@pytest.mark.slow
def test_all_folds_are_evaluated_by_one_command(in_process: None, folds: Path, weights: Path, tmp_path: Path) -> None:
    options = {"fusioner.variant": "fusioner_tiny", "fusioner.weights": weights}
    command = [
        *("evaluate", "fusioner_vit_l_14", "--benchmark", "pascal5i"),
        *("--data-root", str(folds), "--limit", "1000", "--out", str(tmp_path / "run")),
        *(part for key, value in options.items() for part in ("--set", f"{key}={value}")),
    ]
    done = ovss(*command)
    assert done.returncode == 0, done.stderr
    report = Report.load(tmp_path / "run")
    assert list(report.benchmarks) == [f"pascal5i:{fold}" for fold in range(4)]
    every = [benchmark.metrics["fold_miou"] for benchmark in report.benchmarks.values()]
    assert report.folds["pascal5i"]["fold_miou"] == pytest.approx(sum(map(float, filter(None, every))) / 4)
    assert "pascal5i: its folds, and their mean" in done.stdout
    for benchmark in report.benchmarks.values():
        assert benchmark.counts == {
            "episodes": 2,
            "without_foreground": 0,
            "classes_seen": 2,
            "classes_of_fold": 5,
        }
        assert benchmark.notes[0].startswith("fusioner: normalise clip; resolution original")
    again = ovss(*command)
    assert again.returncode == 0, again.stderr
    assert Report.load(tmp_path / "run").benchmarks == report.benchmarks


def test_a_list_of_ids_is_a_fold_of_the_user_s_own(folds: Path, weights: Path, tmp_path: Path) -> None:
    root, ids = tmp_path / "data", tmp_path / "mine.txt"
    (root / "VOCdevkit").mkdir(parents=True)
    (root / "VOCdevkit/VOC2012").symlink_to(folds / "VOCdevkit/VOC2012")  # without HSNet's lists
    ids.write_text("2007_000001__06\n2007_000001__08\n")
    made = plan(weights, root, tmp_path / "run", "pascal5i:1", ids=str(ids))
    table = made.manifests["pascal5i:1"]
    assert table["image_id"].to_pylist() == ["2007_000001__06", "2007_000001__08"]
    assert table["part"].to_pylist() == ["bus", "cat"]
    assert made.card("pascal5i:1")["selection"]["ids"]["count"] == 2
    with pytest.raises(OvssError, match=r"ids: invalid episode '2007_000001__06': .* one of the classes 1 to 5\."):
        plan(weights, root, tmp_path / "other", "pascal5i:0", ids=str(ids))
    ids.write_text("2007_000099__06\n")
    with pytest.raises(OvssError, match="1 of 1 image ids"):
        plan(weights, root, tmp_path / "other", "pascal5i:1", ids=str(ids))


def test_the_question_is_part_of_a_run_s_identity_and_the_plan_has_no_other_words(
    folds: Path, weights: Path, tmp_path: Path
) -> None:
    made = plan(weights, folds, tmp_path / "run", "pascal5i:1", limit=2)
    names = {words.names for words in made.vocabularies.values()}
    assert ("background", "bus") in names
    assert len(names) == 6
    assert all(set(words) <= {"background", *made.benchmarks["pascal5i:1"].labels} for words in names)
    asked = made.identity()["benchmarks"]["pascal5i:1"]["asked"]
    assert json.dumps(asked["bus"][1]) == "[5, 0]"
    assert made.card("pascal5i:1")["asks"] == "each episode asks for its class alone; the rest is background"
