"""What becomes of a run when an image ends its worker, or when workers die for no fault of an image."""

import inspect
import json
import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from PIL import Image
from ray.data import Dataset
from ray.data._internal.execution.operators.actor_pool_map_operator import ActorPoolMapOperator
from rich.console import Console

from ovss_ray.config import loading as configs
from ovss_ray.engine import evaluate, watch
from ovss_ray.engine.cluster import lean_start
from ovss_ray.engine.display import Display
from ovss_ray.engine.pools import local, ray_data
from ovss_ray.engine.pools.blocks import Blocks
from ovss_ray.errors import OvssError
from ovss_ray.runs import records
from ovss_ray.runs.plan import plan_run
from tests import drawn_masks, in_process
from tests.toys import Fault

pytestmark = pytest.mark.ray

IMAGES = 64
DEADLINE = 20.0


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with lean_start.lean():
        ray.init(
            "local",
            num_cpus=3,
            object_store_memory=80_000_000,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
        )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for kind in ("photos", "labels"):
        (folder / kind).mkdir()
    for k in range(IMAGES):
        Image.fromarray(generator.integers(0, 256, (16, 20, 3), np.uint8)).save(folder / f"photos/i{k:02}.png")
        Image.fromarray(generator.integers(0, 2, (16, 20), np.uint8)).save(folder / f"labels/i{k:02}.png")
    (folder / "mine.yaml").write_text("images: photos/*.png\nlabels: labels/*.png\nclasses: [dark, bright]\n")
    return folder


def run(data: Path, out: Path, batch: int = 4, workers: int = 1, **options: Any) -> dict[str, Any]:
    config = {key: options.pop(key) for key in ("max_deaths", "deadline") if key in options}
    raw = {
        "benchmarks": [f"folder:{data}/mine.yaml"],
        "data_root": str(data),
        "pools": [
            {"cpus": 1, "workers": workers, "batch": batch, "stages": [{"use": "tests.toys", "options": options}]}
        ],
        "keep_predictions": "none",
        **{"deadline": DEADLINE, **config},
    }
    made = evaluate.run(plan_run(configs.validate(raw, "test"), str(out)), Display(Console(quiet=True))).model_dump(
        mode="json"
    )
    (one,) = made["benchmarks"].values()
    return one


POOL = "decode, tests.toys, truth, measure"
"""What one worker does on a cluster without GPUs."""
NAMED: dict[Fault, str] = {
    "exit": f"{POOL}: killed its worker 3 times: its process was killed",
    "kill": f"{POOL}: killed its worker 3 times: its process was killed",
    "segfault": rf"{POOL}: killed its worker 2 times: Segmentation fault \(__init__.py, line \d+\)",
    "loop": rf"{POOL}: killed its worker 2 times: it took longer than the deadline of 0:00:20 \(toys.py, line \d+\)",
    "loop in C": r"killed its worker 2 times: it took longer than the deadline of 0:00:20 \(toys.py, line \d+\)",
    "cuda": f"{POOL}: killed its worker 2 times: RuntimeError: CUDA error: an illegal memory access",
    "sys.exit": "tests.toys: SystemExit: 3",
    "memory": "tests.toys: .*MemoryError: Unable to allocate",
}


def records_of(out: Path) -> dict[str, Any]:
    """The records, but for how long they took, which differs."""
    return {
        row["image_id"]: row["confusion"]
        for part in records.read(str(out / "folder-mine/records"))
        for row in part.to_pylist()
        if not row["error"]
    }


@pytest.mark.slow
def test_a_killer_image_is_named_and_the_others_are_scored(data: Path, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    # A short deadline would end innocent batches on a busy machine.
    made = run(data, tmp_path / "run", faults={"i21": "kill"}, witness=str(witness), deadline=120)
    assert made["images"] == {"expected": IMAGES, "scored": IMAGES - 1, "failed": 1}
    assert [one["image_id"] for one in made["errors"]] == ["i21"]
    assert re.search(NAMED["kill"], made["errors"][0]["error"])
    begun = Counter(line.partition("@")[0] for line in witness.read_text().split())
    assert begun["i21"] <= 3
    assert max(begun.values()) <= 4
    again = {int(image[1:]) // 4 for image, times in begun.items() if times > 1}
    # Ray sends its batch again, and the batch before if a killed process has not delivered its result.
    assert len(again - {21 // 4}) <= begun["i21"]


@pytest.mark.slow
def test_killers_of_all_kinds_in_one_run_cost_themselves_alone(data: Path, tmp_path: Path) -> None:
    with in_process.pools():
        run(data, tmp_path / "whole")
    faults = {f"i{5 + 7 * k:02}": fault for k, fault in enumerate(NAMED)}
    made = run(data, tmp_path / "run", workers=2, faults=faults)  # while one waits for a deadline, the other goes on
    assert made["images"] == {"expected": IMAGES, "scored": IMAGES - len(NAMED), "failed": len(NAMED)}
    errors = {one["image_id"]: one["error"] for one in made["errors"]}
    assert errors.keys() == faults.keys()
    for image, fault in faults.items():
        assert re.search(NAMED[fault], errors[image]), (fault, errors[image])
    undisturbed = records_of(tmp_path / "whole")
    assert records_of(tmp_path / "run") == {k: v for k, v in undisturbed.items() if k not in faults}
    history = json.loads((tmp_path / "run/history.json").read_text())["commands"]
    assert history[-1]["ended"] == "done"
    assert history[-1]["deaths"] >= 2 * (len(NAMED) - 2)
    with in_process.pools():
        again = run(data, tmp_path / "run", faults={})
    assert again["images"]["scored"] == IMAGES
    assert records_of(tmp_path / "run") == undisturbed


@pytest.fixture(params=[True, False], ids=["restarts", "no restarts"])
def newer_ray(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Ray Data with named options only, as Ray 2.64 has; whether it starts workers anew that have died."""
    original, apply = Dataset.map_batches, ActorPoolMapOperator._apply_default_remote_args
    parameters = inspect.signature(original).parameters.values()
    named = {one.name for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY} - {"ray_remote_args_fn"}

    def strict(self: Dataset, fn: Any, **options: Any) -> Dataset:
        if unknown := options.keys() - named:
            raise TypeError(f"map_batches() got unexpected keyword arguments {sorted(unknown)}")
        return original(self, fn, **options)

    def never(remote_args: dict[str, Any], context: Any) -> dict[str, Any]:
        return {**apply(remote_args, context), "max_restarts": 0, "max_task_retries": 0}

    monkeypatch.setattr(local, "suits", lambda *_: False)
    monkeypatch.setattr(ray_data, "sized", lambda *_: Blocks(16, 16))  # four batches, as with many workers
    monkeypatch.setattr(Dataset, "map_batches", strict)
    if not request.param:
        monkeypatch.setattr(ActorPoolMapOperator, "_apply_default_remote_args", staticmethod(never))
    return bool(request.param)


@pytest.mark.slow
def test_without_options_for_restarts_a_killer_costs_itself_alone(
    newer_ray: bool, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds, once = [], evaluate.evaluate

    def counted(*given: Any) -> None:
        rounds.append(len(rounds))
        once(*given)

    monkeypatch.setattr(evaluate, "evaluate", counted)
    faults: dict[str, Fault] = {"i21": "kill", "i40": "segfault"}
    made = run(data, tmp_path / "run", faults=faults, deadline=120)
    assert len(rounds) == 1 if newer_ray else len(rounds) > 1
    assert made["images"] == {"expected": IMAGES, "scored": IMAGES - 2, "failed": 2}
    errors = {one["image_id"]: one["error"] for one in made["errors"]}
    assert errors.keys() == faults.keys()
    for image, fault in faults.items():
        assert re.search(NAMED[fault], errors[image])
    written = [
        row["image_id"] for part in records.read(str(tmp_path / "run/folder-mine/records")) for row in part.to_pylist()
    ]
    assert sorted(written) == [f"i{k:02}" for k in range(IMAGES)]


@pytest.mark.slow
@pytest.mark.parametrize("newer_ray", [False], indirect=True, ids=["no restarts"])
def test_without_options_for_restarts_workers_that_all_die_stop_the_run(
    newer_ray: bool, data: Path, tmp_path: Path
) -> None:
    everyone: dict[str, Fault] = {f"i{k:02}": "kill" for k in range(IMAGES)}
    with pytest.raises(OvssError, match=r"4 workers died without an image .* max_deaths \(3\).*its process was killed"):
        run(data, tmp_path / "run", faults=everyone, max_deaths=3, deadline=120)


@pytest.mark.slow
def test_workers_that_all_die_stop_the_run(data: Path, tmp_path: Path) -> None:
    everyone: dict[str, Fault] = {f"i{k:02}": "kill" for k in range(IMAGES)}
    with pytest.raises(OvssError, match=r"4 workers died without an image .* max_deaths \(3\).*its process was killed"):
        run(data, tmp_path / "run", faults=everyone, max_deaths=3)
    history = json.loads((tmp_path / "run/history.json").read_text())["commands"]
    assert history[-1]["ended"].startswith("OvssError: 4 workers died")


def test_workers_that_die_while_they_start_stop_the_run(data: Path, tmp_path: Path) -> None:
    with pytest.raises(OvssError, match=r"3 workers died .* max_deaths \(2\).*while it was starting"):
        run(data, tmp_path / "run", die_starting=True, max_deaths=2)


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_costs_no_image(data: Path, tmp_path: Path) -> None:
    with pytest.raises(OvssError, match=r"No space left on device"):
        run(data, tmp_path / "run", faults={"i40": "disk full"}, batch=1)
    with in_process.pools():
        made = run(data, tmp_path / "run", batch=1)
    assert made["images"] == {"expected": IMAGES, "scored": IMAGES, "failed": 0}


@pytest.mark.slow
def test_a_run_in_which_nothing_moves_is_ended(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "STALL", 0.2)
    monkeypatch.setattr(watch, "START", 0.0)
    with pytest.raises(OvssError, match=r"no image was started or finished .* In progress: folder:.*mine.yaml/i0"):
        run(data, tmp_path / "run", seconds=40.0, batch=1, deadline=60)


@pytest.mark.slow
def test_photographs_that_do_not_fit_into_the_object_store_together_are_all_scored(tmp_path: Path) -> None:
    for kind, shape in (("photos", (1500, 2000, 3)), ("labels", (1500, 2000))):
        (tmp_path / kind).mkdir()
        for k in range(12):  # 9 MB each once decoded, in a store of 80 MB
            Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / kind / f"i{k:02}.png")
    (tmp_path / "mine.yaml").write_text("images: photos/*.png\nlabels: labels/*.png\nclasses: [dark, bright]\n")
    made = run(tmp_path, tmp_path / "run", seconds=0.3, deadline=60)
    assert made["images"] == {"expected": 12, "scored": 12, "failed": 0}
    assert made["metrics"]["pacc"] == 100.0


@pytest.mark.slow
def test_mask_ap_of_two_workers_of_which_one_is_killed_is_that_of_pycocotools(tmp_path: Path) -> None:
    drawn_masks.write(tmp_path / "coco", 12)
    killing = {"witness": str(tmp_path / "witness"), "killer": f"{7:012}"}
    stages = [
        {"use": "detector_prompts", "options": {"path": str(tmp_path / "coco" / drawn_masks.BOXES)}},
        {"use": "tests.drawn_masks", "options": killing},
        {"use": "coco_results", "options": {"folder": str(tmp_path / "results")}},
    ]
    raw = {
        "benchmarks": ["coco:instances"], "data_root": str(tmp_path), "limit": 12, "keep_predictions": "none",
        "deadline": 120, "pools": [{"cpus": 1, "workers": 2, "batch": 1, "stages": stages}],
    }  # fmt: skip
    made = evaluate.run(plan_run(configs.validate(raw, "test"), str(tmp_path / "run")), Display(Console(quiet=True)))
    begun = [line.partition("@") for line in (tmp_path / "witness").read_text().split()]
    assert len({worker for *_, worker in begun}) >= 2
    assert [image for image, *_ in begun].count(killing["killer"]) >= 2, "it was begun again after the kill"
    (of_run,) = made.benchmarks.values()
    assert of_run.final
    assert of_run.images.model_dump() == {"expected": 12, "scored": 12, "failed": 0}
    expected = drawn_masks.reference(tmp_path / "coco", tmp_path / "results/coco-instances")
    assert of_run.metrics["instance_ap"] == pytest.approx(expected, abs=1e-9)
    assert 5 < expected < 95
