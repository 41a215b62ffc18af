"""Several batches in a block: how many, and that the ledger knows one batch of a worker at a time."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ovss_ray.engine.cluster.placement import Placed
from ovss_ray.engine.ledger import ENOUGH_UNKNOWN, Ledger
from ovss_ray.engine.pools import blocks, worker
from ovss_ray.engine.pools.blocks import sized
from ovss_ray.engine.pools.worker import Worker
from ovss_ray.io import images
from ovss_ray.pipeline import execution
from ovss_ray.structures.columns import Batch, column


def placed(workers: int, batch: int) -> Placed:
    return Placed((), 1, workers, 1.0, 0.0, batch, first=workers)


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 100)), min_size=1, max_size=4), st.integers(1, 10**8))
def test_blocks_are_few_enough_for_the_driver_and_many_enough_for_the_workers(
    shapes: list[tuple[int, int]], images: int
) -> None:
    pools = [placed(workers, batch) for workers, batch in shapes]
    travel = sized(pools, images)
    assert -(-images // travel.rows) <= blocks.LIMIT
    assert travel.rows % pools[0].batch == 0
    for pool in pools:
        assert travel.call(pool) % pool.batch == 0
        assert pool.batch <= travel.call(pool) <= max(pool.batch, blocks.MOST)
        if travel.images:
            assert pool.first * blocks.SHARE * travel.images <= images


def test_batches_travel_together_only_where_workers_and_images_are_many() -> None:
    graph = [placed(4, 8), placed(64, 8), placed(4, 8)]
    assert [sized(graph, images).images for images in (5_000, 40_000, 10**6)] == [0, 16, 64]
    assert sized(graph[:1], 10**6).images == 0, "four workers"
    assert sized([placed(64, 100)], 10**6).images == 0, "large batches"


def test_a_block_is_limited_by_the_bytes_of_its_photographs_and_by_the_object_store() -> None:
    graph = [placed(4, 8), placed(64, 8), placed(4, 8)]
    assert sized(graph, 10**6, photograph=3 * 512 * 683).images == 64, "photographs as in ADE20K"
    assert sized(graph, 10**6, photograph=3 * 2048 * 1024).images == 16, "20 of Cityscapes's are 126 MB"
    assert sized(graph, 10**6, photograph=3 * 4000 * 3000).images == 0, "one batch travels in any case"
    few = sized(graph, 10**6, photograph=3 * 512 * 683, store=20e9)
    assert few.images == 40, "three blocks of each of 72 workers fill half of the store"


def test_the_size_of_the_photographs_is_looked_up_in_their_files(tmp_path: Path) -> None:
    for name, size in (("small.png", (20, 10)), ("large.png", (40, 30))):
        Image.new("RGB", size).save(tmp_path / name)
    uris = [str(tmp_path / name) for name in ("small.png", "missing.png", *["small.png"] * 20, "large.png")]
    listed = pa.table({"benchmark": ["b"] * len(uris), "image_uri": uris})
    benchmarks: Any = {"b": SimpleNamespace(size=images.size)}
    assert blocks.photograph(listed, benchmarks) == 3 * 40 * 30
    assert blocks.photograph(listed.slice(1, 1), benchmarks) == 0, "it cannot be read"


class Died(BaseException):
    """The end of a process."""


def called(
    ledger: Ledger, ids: list[str], killer: str, monkeypatch: pytest.MonkeyPatch, light: bool = False
) -> list[str]:
    """Call a worker with batches of two images. Return the images that its stages finished; `killer` ends it."""
    finished: list[str] = []

    def run(stages: object, batch: Batch, vocabularies: object) -> Batch:
        if killer in batch["image_id"]:
            raise Died
        finished.extend(batch["image_id"])
        return {**batch, "error": column("" for _ in batch["image_id"])}

    monkeypatch.setattr(worker.ray, "get", lambda answer: answer)
    monkeypatch.setattr(execution, "run", run)
    made = Worker.__new__(Worker)
    calls = {name: SimpleNamespace(remote=getattr(ledger, name)) for name in ("begin", "end")}
    made.name, made.ledger, made.deadline = "a", SimpleNamespace(**calls), 600.0
    made.traces, made.stages, made.vocabularies = cast(Any, None), {}, cast(Any, {})
    pool = SimpleNamespace(batch=2, light=light, computing=lambda: monkeypatch.context())
    made.pool, made.keep = cast(Placed, pool), {"image_id"}
    monkeypatch.setattr(made, "_deadline", monkeypatch.context)
    images = {name: column(values) for name, values in (("image_id", ids), ("benchmark", ["b"] * len(ids)))}
    assert list(made(images)["image_id"]) == finished
    return finished


def test_a_death_in_a_block_is_blamed_on_the_batch_in_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    notes, ids = Ledger(images=7, max_deaths=1), list("1234567")
    notes.start("a", 0, "node", "")
    for busy in [("b/5", "b/6"), ("b/5",)]:  # finished batches of the block reset the deaths in succession
        with pytest.raises(Died):
            called(notes, ids, "5", monkeypatch)
        assert notes.status().busy == {"a": busy}
        assert notes.start("a", 0, "node", "") == ""
    assert notes.begin("a", [f"b/{name}" for name in ids])[1] == {"b/5": "", "b/6": ""}
    assert called(notes, ids, "none", monkeypatch) == ids
    assert notes.status().busy == {}


def test_a_light_pool_registers_a_block_at_once_until_a_worker_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    notes, ids = Ledger(images=7, max_deaths=9), list("1234567")
    counted, begin = [], notes.begin
    monkeypatch.setattr(notes, "begin", lambda *given: (counted.append(len(given[1])), begin(*given))[1])
    notes.start("a", 0, "node", "")
    assert called(notes, ids, "none", monkeypatch, light=True) == ids
    assert counted == [7], "one call for four batches"
    for busy in [tuple(f"b/{name}" for name in ids), *[("b/5",)] * (ENOUGH_UNKNOWN - 1)]:
        with pytest.raises(Died):
            called(notes, ids, "5", monkeypatch, light=True)
        assert notes.status().busy == {"a": busy}
        assert notes.start("a", 0, "node", "") == ""
    assert [name for name, verdict in begin("a", [f"b/{name}" for name in ids])[1].items() if verdict] == ["b/5"]
    monkeypatch.setattr(worker, "AGE", 0.0)
    counted.clear()
    others = [f"x{name}" for name in ids]
    assert called(notes, others, "none", monkeypatch, light=True) == others
    assert counted == [7, 7, 5, 3, 1], "slow batches: the rest is registered again"
    assert notes.status().redone == 7 * (2 + ENOUGH_UNKNOWN), "each image is counted once per call"
