"""Rows that are asked for words of their own: from the manifest through networks to the report."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from ovss_ray.benchmarks.catalog import Benchmarks, load
from ovss_ray.config import loading as configs
from ovss_ray.engine import evaluate
from ovss_ray.engine.display import Display
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.runs.plan import RunPlan, plan_run
from ovss_ray.structures.columns import Batch
from tests import checkpoints, small_alpha_clip

pytestmark = pytest.mark.ray

FOLDS = [f"{family}:{fold}" for family in ("pascal5i", "coco20i") for fold in range(4)]


def request(root: Path, out: Path, *names: str) -> RunPlan:
    pools = [{"cpus": 0.5, "batch": 3, "stages": [{"use": "oracle"}]}]
    raw = {"benchmarks": list(names), "data_root": str(root), "limit": 2, "pools": pools}
    return plan_run(configs.validate(raw, "test"), str(out))


def test_each_row_names_its_own_vocabulary(folds: Path, tmp_path: Path) -> None:
    asked = request(folds, tmp_path / "run", "pascal5i:0", "coco20i:3")
    for name, table in asked.manifests.items():
        for row in table.to_pylist():
            vocabulary = asked.vocabularies[row["vocabulary"]]
            assert vocabulary.names[1] == row["part"] == load(name).labels[load(name).question(row["part"])[1][1]]
    assert {row.as_py() for row in asked.manifests["pascal5i:0"]["part"]} == {"aeroplane", "bottle"}
    assert len(asked.vocabularies) == 1 + 5 + 1 + 20


def test_what_is_asked_of_parts_belongs_to_the_identity_of_a_run_and_only_where_there_are_any(
    folds: Path, root: Path, tmp_path: Path
) -> None:
    told = request(folds, tmp_path / "run", "pascal5i:0").identity()["benchmarks"]["pascal5i:0"]
    bird = load("pascal5i:0").parts["bird"][0]
    assert told["asked"]["bird"] == [bird.digest, [5, 2, *[5] * 39]]
    other = request(root, tmp_path / "run", "camvid").identity()["benchmarks"]["camvid"]
    assert set(other) == {"vocabulary", "labels", "index", "rules", "split", "ids", "limit"}


@pytest.mark.slow
def test_the_truth_scores_100_in_all_folds_of_one_run(cluster: None, folds: Path, tmp_path: Path) -> None:
    made = evaluate.run(request(folds, tmp_path / "run", *FOLDS), Display(Console(quiet=True))).model_dump(mode="json")[
        "benchmarks"
    ]
    for name in FOLDS:
        assert made[name]["images"] == {"expected": 2, "scored": 2, "failed": 0}
        assert made[name]["metrics"]["miou"] == 100.0
        apart = made[name]["groups"]
        assert (apart["foreground"]["miou"], apart["foreground"]["in_truth"]) == (100.0, 2)
        assert (apart["background"]["miou"], apart["background"]["in_truth"]) == (100.0, 1)
    assert len(list((tmp_path / "run/pascal5i-0/predictions").glob("2007_000001__01.png"))) == 1
    again = evaluate.run(request(folds, tmp_path / "run", *FOLDS), Display(Console(quiet=True))).model_dump(mode="json")
    assert again["benchmarks"] == made


def chain(kind: str, folder: Path) -> dict[str, Any]:
    """Stages from files to confusion cells, with small networks that compute exactly."""
    if kind == "san":
        weights = str(checkpoints.small_checkpoint(folder / "small.pth"))
        computing = {"tests.small_san": {"weights": weights, "device": "cpu", "exact": True}}
    else:
        base, weights = map(str, small_alpha_clip.save(small_alpha_clip.small_state(), folder))
        options = {"base": base, "weights": weights, "device": "cpu", "exact": True}
        computing = {"truth_regions": {}, "tests.small_alpha_clip": options, "paint": {}}
    return {
        use: StageConfig(use=use, options=options).build(benchmarks=Benchmarks())
        for use, options in {"decode": {}, "truth": {}, **computing, "measure": {}}.items()
    }


@pytest.mark.parametrize("kind", ["san", "alpha_clip"])
def test_episodes_of_unlike_words_share_a_batch(
    kind: str, folds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVSS_CACHE", str(tmp_path / "cache"))
    asked = request(folds, tmp_path / "run", "pascal5i:0", "pascal5i:3", "coco20i:3")
    rows = [row for table in asked.manifests.values() for row in table.drop_columns(["height", "width"]).to_pylist()]
    stages = chain(kind, tmp_path)
    together = execution.run(stages, batch(rows), asked.vocabularies)
    assert set(together["error"]) == {""}
    for i, row in enumerate(rows):
        alone = execution.run(stages, batch([row]), asked.vocabularies)
        assert np.array_equal(together["prediction"][i], alone["prediction"][0])
        cells = together["confusion"][i]
        classes = set(cells["truth"].tolist()) | set(cells["prediction"].tolist())
        found = load(row["benchmark"])
        assert classes <= {found.labels.index(row["part"]), len(found.labels) - 1}
    assert len(np.unique(np.concatenate([one.reshape(-1) for one in together["prediction"]]))) > 2


def batch(rows: list[dict[str, Any]]) -> Batch:
    return execution.start(len(rows), **{name: [row[name] for row in rows] for name in rows[0]})
