"""Stages on Ray: what one image, one worker and one config can and cannot do to a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ovss_ray.config import loading as configs
from ovss_ray.engine import evaluate
from ovss_ray.engine.display import Display
from ovss_ray.engine.pools import local
from ovss_ray.errors import OvssError
from ovss_ray.runs.plan import plan_run
from tests.counted import noted
from tests.toys import bright

SIZES = [(24, 32), (32, 24), (20, 20)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two benchmarks over the same nine photographs: two and three classes, each with some wrong labels."""
    generator = np.random.default_rng(0)
    for kind in ("photos", "two", "three"):
        (tmp_path / kind).mkdir()
    for k in range(9):
        photo = generator.integers(0, 256, (*SIZES[k % 3], 3), np.uint8)
        Image.fromarray(photo).save(tmp_path / f"photos/i{k}.png")
        for kind, classes in (("two", 2), ("three", 3)):
            truth = bright(photo, classes).astype(np.uint8)
            truth[: k + 1] = 0
            Image.fromarray(truth).save(tmp_path / kind / f"i{k}.png")
    for kind, names in (("two", "[dark, bright]"), ("three", "[dark, grey, bright]")):
        text = f"images: photos/*.png\nlabels: {kind}/*.png\nclasses: {names}\n"
        (tmp_path / f"{kind}.yaml").write_text(text)
    return tmp_path


def run(data: Path, *overrides: str, out: str = "run", kinds: tuple[str, ...] = ("two",)) -> dict[str, Any]:
    raw = {
        "benchmarks": [f"folder:{data / kind}.yaml" for kind in kinds],
        "data_root": str(data),
        "pools": [{"cpus": 0.5, "batch": 2, "stages": [{"use": "tests.toys"}]}],
    }
    for override in overrides:
        raw = configs._override(raw, override)
    request = plan_run(configs.validate(raw, "test"), str(data / out))
    return evaluate.run(request, Display(Console(quiet=True))).model_dump(mode="json")


def expected(data: Path, kind: str, classes: int) -> float:
    hits, union = np.zeros(classes), np.zeros(classes)
    for k in range(9):
        mine = bright(np.asarray(Image.open(data / f"photos/i{k}.png")), classes)
        truth = np.asarray(Image.open(data / kind / f"i{k}.png"))
        for c in range(classes):
            hits[c] += ((mine == c) & (truth == c)).sum()
            union[c] += ((mine == c) | (truth == c)).sum()
    return float(100 * (hits / union).mean())


@pytest.mark.slow
def test_a_worker_computes_with_the_threads_of_its_pool(cluster: None, data: Path) -> None:
    stage = f"{{use: tests.counted, options: {{witness: {data / 'seen'}}}}}"
    made = run(data, f"pools=[{{cpus: 1.5, batch: 2, workers: 1, stages: [{stage}]}}]")["benchmarks"]
    assert made[f"folder:{data / 'two'}.yaml"]["images"]["scored"] == 9
    assert noted(f"{data / 'seen'}") == {"built with 2", "called with 2"}


def test_two_benchmarks_with_unlike_vocabularies_share_the_same_workers(cluster: None, data: Path) -> None:
    made = run(data, kinds=("two", "three"))["benchmarks"]
    for (name, one), kind, classes in zip(made.items(), ("two", "three"), (2, 3), strict=True):
        assert kind in name
        assert one["images"] == {"expected": 9, "scored": 9, "failed": 0}
        assert one["metrics"]["miou"] == pytest.approx(expected(data, kind, classes), abs=1e-9)
    assert len(list((data / "run/folder-two/predictions").glob("*.png"))) == 9


@pytest.mark.slow
def test_a_broken_photograph_costs_itself_alone_and_can_be_mended(in_process: None, data: Path) -> None:
    whole = run(data, out="whole")["benchmarks"]
    good = (data / "photos/i4.png").read_bytes()
    (data / "photos/i4.png").write_bytes(good[:-40])
    (one,) = run(data)["benchmarks"].values()
    assert one["images"] == {"expected": 9, "scored": 8, "failed": 1}
    assert not one["final"]
    assert [error["image_id"] for error in one["errors"]] == ["i4"]
    assert "photos/i4.png" in one["errors"][0]["error"]
    (data / "photos/i4.png").write_bytes(good)
    parts = {file.name for file in (data / "run").rglob("*.parquet")}
    assert run(data)["benchmarks"] == whole
    assert parts <= {file.name for file in (data / "run").rglob("*.parquet")}


def test_a_label_that_cannot_be_costs_its_image_and_names_file_and_value(in_process: None, data: Path) -> None:
    truth = np.asarray(Image.open(data / "two/i2.png")).copy()
    truth[0, 0] = 7
    Image.fromarray(truth).save(data / "two/i2.png")
    (one,) = run(data)["benchmarks"].values()
    assert one["images"]["failed"] == 1
    assert "two/i2.png" in one["errors"][0]["error"]
    assert "7" in one["errors"][0]["error"]


@pytest.mark.slow
def test_trouble_that_is_not_in_the_images_stops_the_run(in_process: None, data: Path) -> None:
    for k in range(9):
        Image.fromarray(np.full((5, 5), 0, np.uint8)).save(data / f"two/i{k}.png")
    with pytest.raises(OvssError, match=r"images failed, more than max_errors \(3\).*must have the same size"):
        run(data, "max_errors=3")


def test_a_worker_that_cannot_be_built_says_why_in_one_message(cluster: None, data: Path) -> None:
    with pytest.raises(OvssError, match=r"^the weights are of another model$"):
        run(data, "pools.0.stages.0.options.refuse=the weights are of another model")


def test_a_bug_in_a_stage_is_shown_as_one_and_not_as_a_lost_worker(cluster: None, data: Path) -> None:
    with pytest.raises(
        Exception, match=r"Contract: stage tests\.toys must write 2 rows of column 'prediction', but wrote 1"
    ) as raised:
        run(data, "limit=2", "pools.0.stages.0.options.short=true")  # of more, a batch of one may be the first to fail
    assert not isinstance(raised.value, OvssError)


def test_the_folder_says_what_was_asked_and_reads_it_back(in_process: None, data: Path) -> None:
    run(data, "limit=3")
    stored = configs.load(data / "run/config.yaml")
    assert stored.limit == 3
    assert stored.pools[0].stages[0].use == "tests.toys"
    identity = json.loads((data / "run/identity.json").read_text())
    assert identity["stages"] == [{"use": "tests.toys", "options": {"refuse": ""}}]
    with pytest.raises(OvssError, match=r"different run.*limit: 3 there, None now"):
        run(data)


@pytest.mark.slow
def test_a_start_that_came_to_nothing_does_not_hold_the_folder(in_process: None, data: Path) -> None:
    with pytest.raises(OvssError, match="weights are of another model"):
        run(data, "pools.0.stages.0.options.refuse=the weights are of another model")
    assert run(data)["benchmarks"]


@pytest.mark.slow
def test_a_benchmark_that_is_read_by_another_rule_is_another_run(in_process: None, data: Path) -> None:
    run(data, "limit=2")
    (data / "two.yaml").write_text((data / "two.yaml").read_text() + "ignore: 9\n")
    with pytest.raises(OvssError, match=r"different run.*rules"):
        run(data, "limit=2")


def test_two_benchmarks_that_would_share_a_folder_are_refused(data: Path) -> None:
    (data / "other").mkdir()
    (data / "other/two.yaml").write_text("images: ../photos/*.png\nlabels: ../two/*.png\nclasses: [a, b]\n")
    with pytest.raises(OvssError, match="would share a folder of the run"):
        run(data, kinds=("two", "other/two"))


def test_a_config_that_no_run_has_written_is_not_overwritten(data: Path) -> None:
    (data / "run").mkdir()
    (data / "run/config.yaml").write_text("mine: true\n")
    with pytest.raises(OvssError, match=r"not the config\.yaml of a run"):
        run(data)
    assert (data / "run/config.yaml").read_text() == "mine: true\n"


@pytest.mark.slow
def test_records_are_the_same_whatever_the_pools(cluster: None, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = run(data, out="one")["benchmarks"]
    monkeypatch.setattr(local, "suits", lambda *_: False)  # Ray Data
    whole = [{"use": name} for name in ("decode", "tests.toys", "truth", "measure")]
    assert run(data, "pools=" + json.dumps([{"batch": 5, "stages": whole}]), out="two")["benchmarks"] == one
