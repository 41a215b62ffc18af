"""The side of Ray Serve that can be looked at without a cluster: a replica's health, and what trouble is answered."""

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import HTTPException
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError

from ovss_ray.pipeline import Contract
from ovss_ray.placement import Placed
from ovss_ray.serve import batch
from ovss_ray.serve.api import Row, row
from ovss_ray.serve.app import _through
from ovss_ray.serve.pool import Replica
from ovss_ray.stage import StageConfig
from ovss_ray.vocabulary import Vocabulary
from tests.serve.bright import WORDS, picture


def again(witness: Path, most: int) -> Replica:
    pool = Placed((StageConfig(use="tests.serve.again", options={"witness": str(witness)}),), 1, 1, 1.0, 0.0, most)
    return Replica(pool, {"image", "vocabulary"}, [WORDS], deadline=5.0)


def test_what_comes_while_a_batch_is_computed_is_the_next_batch_whatever_its_vocabularies(tmp_path: Path) -> None:
    replica, other = again(tmp_path / "witness", 4), Vocabulary.of(["a", "b", "c"])
    asked = [(row(picture(8 + k), words), words) for k, words in enumerate([WORDS, other] * 3)]

    async def ask() -> list[Row]:
        first = asyncio.create_task(replica(*asked[0]))
        await asyncio.sleep(0)  # the first is begun, alone
        await asyncio.sleep(0)
        gone = asyncio.create_task(replica(*asked[1]))
        rest = asyncio.gather(*[replica(*one) for one in asked[1:]])
        await asyncio.sleep(0)
        gone.cancel()
        return [await first, *await rest]

    done = asyncio.run(ask())
    for answer, (given, words) in zip(done, asked, strict=True):
        assert answer["vocabulary"] == words.digest
        np.testing.assert_array_equal(answer["image"], given["image"])
    _warm, *batches = [line.split() for line in (tmp_path / "witness").read_text().splitlines()]
    assert [len(one) for one in batches] == [1, 4, 1]
    assert set(batches[1]) == {WORDS.digest, other.digest}


def test_a_bug_in_a_stage_is_told_to_everybody_in_the_batch_and_the_next_one_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica, words = again(tmp_path / "witness", 2), WORDS

    def fail(*given: object) -> list[Row]:
        monkeypatch.undo()
        raise Contract("a row too few")

    monkeypatch.setattr(batch, "run", fail)

    async def ask() -> list[Any]:
        return await asyncio.gather(*[replica(row(picture(), words), words) for _ in range(3)], return_exceptions=True)

    first, second, third = asyncio.run(ask())
    assert isinstance(first, Contract)
    assert isinstance(second, Contract)
    assert third["vocabulary"] == words.digest


def test_a_replica_is_unhealthy_when_it_makes_no_progress_and_not_when_it_is_busy() -> None:
    pool = Placed((StageConfig(use="tests.toys"),), 1, 1, 1.0, 0.0, 8)
    replica = Replica(pool, {"prediction"}, [WORDS], deadline=5.0)
    replica.check_health()
    replica.begun = time.monotonic() - 4
    replica.check_health()
    replica.begun = time.monotonic() - 6
    with pytest.raises(RuntimeError, match="a batch has been running for 6 s, and the deadline is 5 s"):
        replica.check_health()


class Handle:
    """Stands for a deployment's: answers with its own name and what it was sent, or fails."""

    def __init__(self, name: str, failure: Exception | None = None) -> None:
        self.name, self.failure = name, failure

    async def remote(self, sent: Any, words: object) -> dict[str, Any]:
        before = await sent if asyncio.iscoroutine(sent) else {"way": []}
        if self.failure:
            raise self.failure
        return {"way": [*before["way"], self.name]}


def through(*handles: Any) -> dict[str, Any]:
    return asyncio.run(_through(handles, 3, row(picture(), WORDS), WORDS))


def test_a_row_goes_through_the_pools_in_their_order() -> None:
    assert through(Handle("first"), Handle("second")) == {"way": ["first", "second"]}


def test_a_full_queue_and_a_lost_worker_are_answers_that_say_when_to_come_again() -> None:
    for failure, status in ((BackPressureError(8, 8), 429), (ActorDiedError(), 503)):
        for handles in ((Handle("first", failure), Handle("second")), (Handle("first"), Handle("second", failure))):
            with pytest.raises(HTTPException) as refusal:
                through(*handles)
            assert (refusal.value.status_code, refusal.value.headers) == (status, {"Retry-After": "3"})
