"""The side of Ray Serve that can be looked at without a cluster: a replica's health, and what trouble is answered."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fastapi import HTTPException
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError

from ovss_ray.engine.cluster.placement import Placed
from ovss_ray.errors import in_parts
from ovss_ray.pipeline.execution import Contract
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.serve.deployments import batch
from ovss_ray.serve.deployments import replica as pool
from ovss_ray.serve.deployments.batch import Part, Parts
from ovss_ray.serve.deployments.pools import through as through_pools
from ovss_ray.serve.deployments.replica import Replica
from ovss_ray.serve.deployments.routing import ByImage, weight
from ovss_ray.serve.row import NO_IMAGE, Delayed, Kind, Row, TooSlow, pointed, row
from ovss_ray.structures.vocabulary import Vocabulary
from tests.counted import noted
from tests.serve.bright import WORDS, picture


def again(witness: Path, most: int) -> Replica:
    pool = Placed((StageConfig(use="tests.serve.again", options={"witness": str(witness)}),), 1, 1, 1.0, 0.0, most)
    part = Part(("tests.serve.again",), frozenset({"image", "vocabulary"}))
    return Replica(pool, {"segment": part, "regions": part, "masks": part}, [WORDS], deadline=5.0)


def test_a_replica_computes_with_the_threads_of_its_pool(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    stages = (StageConfig(use="tests.counted", options={"witness": str(tmp_path / "seen")}),)
    part = Part(("tests.counted",), frozenset({"prediction"}))
    replica = Replica(Placed(stages, 1, 1, before + 0.5, 0.0, 1), {"segment": part}, [WORDS], deadline=5.0)
    asyncio.run(replica(row(picture(8), WORDS), WORDS, "segment"))
    assert noted(str(tmp_path / "seen")) == {f"built with {before + 1}", f"called with {before + 1}"}
    assert replica.thread.submit(torch.get_num_threads).result() == before


def test_stages_that_start_slowly_are_not_measured_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "COLD", 0.0)
    assert again(tmp_path / "witness", 1).paces["segment"].each == 0
    assert len((tmp_path / "witness").read_text().splitlines()) == 1


def test_what_comes_while_a_batch_is_computed_is_the_next_batch_whatever_its_vocabularies(tmp_path: Path) -> None:
    replica, other = again(tmp_path / "witness", 4), Vocabulary.of(["a", "b", "c"])
    asked = [(row(picture(8 + k), words), words) for k, words in enumerate([WORDS, other] * 3)]

    async def ask() -> list[Row]:
        first = asyncio.create_task(replica(*asked[0], "segment"))
        await asyncio.sleep(0)  # the first is begun, alone
        await asyncio.sleep(0)
        gone = asyncio.create_task(replica(*asked[1], "segment"))
        rest = asyncio.gather(*[replica(*one, "segment") for one in asked[1:]])
        await asyncio.sleep(0)
        gone.cancel()
        return [await first, *await rest]

    done = asyncio.run(ask())
    for answer, (given, words) in zip(done, asked, strict=True):
        assert answer["vocabulary"] == words.digest
        np.testing.assert_array_equal(answer["image"], given["image"])
    _warm, _small, _larger, *batches = [line.split() for line in (tmp_path / "witness").read_text().splitlines()]
    assert [len(one) for one in batches] == [1, 4, 1]
    assert set(batches[1]) == {WORDS.digest, other.digest}


def test_a_batch_is_of_one_kind_and_clicks_go_before_others_but_not_always(tmp_path: Path) -> None:
    replica, order = again(tmp_path / "witness", 2), list[str]()

    async def ask(kind: Kind) -> None:
        await replica(row(picture(), WORDS), WORDS, kind)
        order.append(kind)

    async def all_at_once() -> None:
        await asyncio.gather(*map(ask, ["segment", "segment", "regions", "segment", "masks", "masks", "masks"]))

    asyncio.run(all_at_once())
    assert order == ["masks", "masks", "segment", "segment", "masks", "regions", "segment"]
    assert replica.figures().batches == {1: 3, 2: 2}


def test_without_a_gpu_images_are_not_gathered_where_clicks_would_wait_for_all_of_them() -> None:
    stages = (StageConfig(use="sam", options={"variant": "sam_tiny", "points_per_side": 1}),)
    parts: Parts = {
        "segment": Part(("sam",), frozenset({"boxes"})),
        "masks": Part(("sam_prompt",), frozenset({"cached"})),
    }
    replica = Replica(Placed(stages, 1, 1, 1.0, 0.0, 4), parts, [WORDS], deadline=60.0, remembered=1 << 20)
    click = {"points": [[3, 4]], "labels": [1], "image": "mine"}

    async def ask() -> list[Row]:
        maps = [replica(row(picture(), WORDS), WORDS, "segment") for _ in range(3)]
        return await asyncio.gather(
            *maps, *[replica(pointed(picture(), WORDS, click), WORDS, "masks") for _ in range(3)]
        )

    first, *_ = asyncio.run(ask())[3:]
    assert first["cached"] is False
    (again,) = replica._run([(pointed(NO_IMAGE, WORDS, click), WORDS)], "masks")
    assert again["cached"] is True
    assert replica.figures().batches == {3: 1, 1: 3}, "all clicks at once, and then one image after the other"
    assert replica.figures().caches["images"] > picture().nbytes


def test_memory_is_given_back_once_there_is_nothing_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replica, given = again(tmp_path / "witness", 4), list[str]()
    monkeypatch.setattr(pool, "REST", 0.2)
    monkeypatch.setattr(pool, "give_back", lambda: given.append("back"))

    async def ask() -> None:
        for _ in range(3):
            await replica(row(picture(), WORDS), WORDS, "segment")
            assert not given
        await asyncio.sleep(1)

    asyncio.run(ask())
    assert given == ["back"]


def test_freed_memory_leaves_the_process() -> None:
    script = """
from ovss_ray.serve.deployments.replica import give_back
def rss():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
before, kept = rss(), [bytearray(50_000) for _ in range(4000)]
last = bytearray(50_000)  # which keeps the heap's end where it is
full = rss()
del kept
give_back()
print(before, full, rss())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, full, after = map(int, done.stdout.split())
    assert full - before > 150_000
    assert after - before < 50_000


def test_when_the_time_of_a_request_is_over_it_is_told_whether_it_was_being_computed(tmp_path: Path) -> None:
    stages = (StageConfig(use="tests.serve.slow", options={"seconds": 0.5}),)
    part = Part(("tests.serve.slow",), frozenset({"prediction"}))
    replica = Replica(Placed(stages, 1, 1, 1.0, 0.0, 1), {"segment": part}, [WORDS], deadline=5.0)

    async def ask() -> list[Any]:
        asked = [replica(row(picture(), WORDS), WORDS, "segment", seconds) for seconds in (0.1, 0.1, None, 60)]
        return await asyncio.gather(*asked, return_exceptions=True)

    computed, waiting, *answered = asyncio.run(ask())
    assert (type(computed), type(waiting)) == (TooSlow, Delayed)
    assert all("prediction" in answer for answer in answered)


def test_a_request_that_has_waited_for_most_of_its_time_may_be_sent_again(tmp_path: Path) -> None:
    stages = (StageConfig(use="tests.serve.slow", options={"seconds": 1.0}),)
    part = Part(("tests.serve.slow",), frozenset({"prediction"}))
    replica = Replica(Placed(stages, 1, 1, 1.0, 0.0, 1), {"segment": part}, [WORDS], deadline=5.0)

    async def ask() -> list[Any]:
        asked = [replica(row(picture(), WORDS), WORDS, "segment", seconds) for seconds in (None, 1.2)]
        return await asyncio.gather(*asked, return_exceptions=True)

    _, delayed = asyncio.run(ask())
    assert type(delayed) is Delayed


def test_a_bug_in_a_stage_is_told_to_everybody_in_the_batch_and_the_next_one_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica, words = again(tmp_path / "witness", 2), WORDS

    def fail(*given: object) -> list[Row]:
        monkeypatch.undo()
        raise Contract("a row too few")

    monkeypatch.setattr(batch, "run", fail)

    async def ask() -> list[Any]:
        asked = [replica(row(picture(), words), words, "segment") for _ in range(3)]
        return await asyncio.gather(*asked, return_exceptions=True)

    first, second, third = asyncio.run(ask())
    assert isinstance(first, Contract)
    assert isinstance(second, Contract)
    assert third["vocabulary"] == words.digest


def test_a_replica_is_unhealthy_when_it_makes_no_progress_and_not_when_it_is_busy() -> None:
    pool = Placed((StageConfig(use="tests.toys"),), 1, 1, 1.0, 0.0, 8)
    part = Part(("tests.toys",), frozenset({"prediction"}))
    replica = Replica(pool, {"segment": part}, [WORDS], deadline=5.0)
    replica.check_health()
    replica.moved = time.monotonic() - 4
    replica.check_health()
    replica.moved = time.monotonic() - 6
    with pytest.raises(RuntimeError, match="a batch has made no progress for 6 s; the deadline is 5 s"):
        replica.check_health()


def test_a_batch_ends_between_two_tiles_when_nobody_waits_for_it_any_more() -> None:
    stages = (StageConfig(use="tests.serve.slow", options={"seconds": 0.0, "parts": 1000}),)
    part = Part(("tests.serve.slow",), frozenset({"prediction"}))
    replica = Replica(Placed(stages, 1, 1, 1.0, 0.0, 1), {"segment": part}, [WORDS], deadline=5.0)
    stage: Any = replica.stages["tests.serve.slow"]
    stage.config, before = stage.config.model_copy(update={"seconds": 20.0}), stage.steps

    async def ask() -> tuple[Any, Row]:
        gone = asyncio.create_task(replica(row(picture(), WORDS), WORDS, "segment"))
        while stage.steps == before:
            await asyncio.sleep(0.01)
        gone.cancel()
        while replica.computed:
            await asyncio.sleep(0.01)
        stage.config = stage.config.model_copy(update={"seconds": 0.0})
        steps = stage.steps - before
        return steps, await replica(row(picture(), WORDS), WORDS, "segment")

    steps, answer = asyncio.run(ask())
    assert 0 < steps < 1000
    assert answer["prediction"].shape == picture().shape[:2]


def test_a_slow_batch_that_goes_from_tile_to_tile_is_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    part = Part(("tests.toys",), frozenset({"prediction"}))
    pool = Placed((StageConfig(use="tests.toys"),), 1, 1, 1.0, 0.0, 8)
    replica, healthy = Replica(pool, {"segment": part}, [WORDS], deadline=5.0), list[bool]()

    def tiles(*given: object) -> list[Row]:
        for _ in in_parts(range(3)):
            replica.check_health()
            healthy.append(True)
            assert replica.moved
            replica.moved -= 6  # so long does this tile take
        return [{}]

    monkeypatch.setattr(batch, "run", tiles)
    assert replica._run([({}, WORDS)], "segment") == [{}]
    assert healthy == [True] * 3
    replica.check_health()


class Handle:
    """Stands for a deployment's: answers with its own name and what it was sent, or fails."""

    def __init__(self, name: str, failure: Exception | None = None) -> None:
        self.name, self.failure = name, failure

    def options(self, multiplexed_model_id: str) -> "Handle":
        return Handle(f"{self.name} of {multiplexed_model_id}", self.failure)

    async def remote(self, sent: Any, words: object, kind: Kind, seconds: float | None) -> dict[str, Any]:
        before = await sent if asyncio.iscoroutine(sent) else {"way": []}
        if self.failure:
            raise self.failure
        return {"way": [*before["way"], self.name]}


def does(**stages: tuple[str, ...]) -> Any:
    return {kind: Part(names, frozenset()) for kind, names in stages.items()}


def through(*handles: Any) -> dict[str, Any]:
    way = [(handle, does(segment=("toys",))) for handle in handles]
    return asyncio.run(through_pools(way, 3, row(picture(), WORDS), WORDS, "segment"))


def test_a_row_goes_through_the_pools_in_their_order() -> None:
    assert through(Handle("first"), Handle("second")) == {"way": ["first", "second"]}


def test_a_prompt_goes_to_the_worker_of_its_image_and_past_pools_that_have_nothing_to_do() -> None:
    pools: list[tuple[Any, Parts]] = [
        (Handle("first"), does(prompt=("sam_prompt",), masks=("sam_prompt",))),
        (Handle("second"), does(prompt=("alpha_clip",), masks=())),
        (Handle("third"), does(prompt=(), masks=())),
    ]
    asked = pointed(picture(), WORDS, {"image": "me"})
    for kind, way in (("prompt", ["first of me", "second"]), ("masks", ["first of me"])):
        assert asyncio.run(through_pools(pools, 3, asked, WORDS, kind)) == {"way": way}


def test_images_are_shared_out_evenly_and_few_move_when_a_worker_comes() -> None:
    images, workers = [f"image {k}" for k in range(600)], ["a", "b", "c"]

    def owners(there: list[str]) -> list[str]:
        return [max(there, key=lambda one: weight(image, one)) for image in images]

    before, after = owners(workers), owners([*workers, "d"])
    assert all(120 < before.count(one) < 280 for one in workers)
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert {new for _, new in moved} == {"d"}
    assert len(moved) < 250


def test_the_router_gives_an_image_to_one_worker_and_other_requests_to_the_less_busy_of_two() -> None:
    there = [SimpleNamespace(replica_id=SimpleNamespace(unique_id=name)) for name in "abc"]
    router = object.__new__(ByImage)

    def chosen(image: str) -> list[list[Any]]:
        metadata = SimpleNamespace(multiplexed_model_id=image)
        asked: Any = SimpleNamespace(metadata=metadata, routing_context=SimpleNamespace(should_backoff=False))
        made = asyncio.run(router.choose_replicas(there, asked))
        assert asked.routing_context.should_backoff
        return made

    assert len({chosen("an image")[0][0].replica_id.unique_id for _ in range(20)}) == 1
    assert [len(some) for some in chosen("an image")] == [1]
    assert [len(some) for some in chosen("")] == [2]
    assert len({one.replica_id.unique_id for _ in range(20) for one in chosen("")[0]}) == 3


@pytest.mark.parametrize(
    ("failure", "status"),
    [(BackPressureError(8, 8), 429), (ActorDiedError(), 503), (Delayed(), 503), (TooSlow(), 504)],
)
def test_what_may_be_sent_again_says_when_and_what_is_too_slow_does_not(failure: Exception, status: int) -> None:
    for handles in ((Handle("first", failure), Handle("second")), (Handle("first"), Handle("second", failure))):
        with pytest.raises(HTTPException) as refusal:
            through(*handles)
        again = None if status == 504 else {"Retry-After": "3"}
        assert (refusal.value.status_code, refusal.value.headers) == (status, again)
