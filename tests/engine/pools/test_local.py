"""The order of batches in a pool on one machine, without Ray: workers are objects, and answers come in random order."""

import random
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovss_ray.engine.cluster.nodes import even
from ovss_ray.engine.cluster.placement import Placed
from ovss_ray.engine.pools import local
from ovss_ray.engine.pools.local import LocalPool


class Worker:
    """A worker that answers with the ids of its batch, or with a receipt if it writes them itself."""

    def __init__(self, pool: Placed) -> None:
        self.compute = self
        self.finish = self.forget = SimpleNamespace(remote=lambda: Call(self, pa.table({})))

    def remote(self, setup: list[Any], batch: dict[str, Any]) -> "Call":
        arguments, ids = setup[0], list(batch["image_id"])
        table = pa.table({"image_id": ids})
        return Call(self, arguments["write"](table) if arguments["write"] else table)


class Call:
    """A call of a worker."""

    def __init__(self, worker: Worker, answer: pa.Table) -> None:
        self.worker, self.answer = worker, answer


class Ray:
    """Ray without processes: of each worker's calls the first is answered first, and workers answer in any order."""

    def __init__(self, seed: int) -> None:
        self.random, self.most = random.Random(seed), 0
        self.killed: list[Worker] = []

    def remote(self, **options: Any) -> Any:
        return lambda _: type("Actor", (), {"remote": Worker})

    def put(self, value: object) -> object:
        return value

    def get(self, call: Call | list[Call]) -> Any:
        return [one.answer for one in call] if isinstance(call, list) else call.answer

    def kill(self, worker: Worker) -> None:
        self.killed.append(worker)

    def wait(self, calls: list[Call], num_returns: int) -> tuple[list[Call], list[Call]]:
        waiting = Counter(id(call.worker) for call in calls)
        self.most = max(self.most, *waiting.values())
        ready = self.random.choice(calls)
        ready = next(call for call in calls if call.worker is ready.worker)
        return [ready], [call for call in calls if call is not ready]


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 5), st.integers(1, 9), st.integers(0, 99))
def test_every_image_is_written_once_in_files_of_the_wanted_size(
    images: int, workers: int, batch: int, size: int, seed: int
) -> None:
    ray, written = Ray(seed), cast(list[list[str]], [])

    def write(table: pa.Table) -> pa.Table:
        written.append(table["image_id"].to_pylist())
        return pa.table({"images": [len(table)]})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "ray", ray)
        pool = LocalPool(Placed((), 1, workers, 1.0, 0.0, batch), even(1, workers), images)
        ids = [f"i{k}" for k in range(images)]
        receipts = list(pool.receipts(pa.table({"image_id": ids}), {}, write, size))
    assert len(pool.workers) == min(workers, -(-images // batch))
    assert Counter(image for part in written for image in part) == Counter(ids)
    assert sum(receipt["images"] for receipt in receipts) == images
    assert all(len(part) >= size for part in written[:-1]) or size <= batch
    assert ray.most <= 2


def test_the_workers_of_a_run_wait_for_the_next_run_if_it_needs_the_same_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    ray, images = Ray(0), pa.table({"image_id": list("abcdef")})
    monkeypatch.setattr(local, "ray", ray)

    def workers(cpus: float, most: int) -> list[Any]:
        placed = Placed((), 1, most, cpus, 0.0, 1)
        pool = LocalPool(placed, even(1, 4), len(images))
        receipts = list(pool.receipts(images, {"ledger": Worker(placed)}, lambda table: table, 1))
        assert sorted(receipt["image_id"] for receipt in receipts) == list("abcdef")
        return pool.workers

    assert not set(workers(1.0, 2)) & set(workers(1.0, 2)), "runs of two commands"
    assert ray.killed == []
    with local.reused():
        first = workers(1.0, 3)
        assert workers(1.0, 2) == first[:2]
        assert ray.killed == first[2:]
        third = workers(1.0, 3)
        assert third[:2] == first[:2]
        assert not set(workers(2.0, 2)) & set(first + third)
        assert ray.killed == [first[2], *third]
        local.release()
        assert len(ray.killed) == 6, "the next run uses Ray Data"
