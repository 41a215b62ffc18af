"""How long the driver waits for the ledger of a run: a slow cluster is not a lost one."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray.exceptions import ActorDiedError, GetTimeoutError

from ovss_ray.engine import watch
from ovss_ray.engine.cluster import connection
from ovss_ray.engine.watch import Lost, Watch


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Answers of the ledger to come: exceptions are raised. Each of them takes half a minute by the clock."""
    clock, coming = [0.0], cast(list[Any], [])

    def get(call: object, timeout: float) -> object:
        clock[0] += timeout
        if isinstance(answer := coming.pop(0), Exception):
            raise answer
        return answer

    monkeypatch.setattr(watch.ray, "get", get)
    monkeypatch.setattr(watch.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(connection, "answers", lambda: True)
    return coming


@pytest.fixture
def watching() -> Watch:
    """The watch of a run whose batches may take 100 s."""
    made = Watch.__new__(Watch)
    made.deadline, made.lease = 100.0, cast(Any, SimpleNamespace(check=lambda: None))
    return made


def test_a_late_answer_is_waited_for_as_long_as_the_head_node_answers(answers: list[Any], watching: Watch) -> None:
    answers += [GetTimeoutError()] * 9 + ["late"]
    assert watching._answer(None) == "late"


def test_a_ledger_that_is_silent_for_longer_than_a_run_may_be_is_lost(answers: list[Any], watching: Watch) -> None:
    answers += [GetTimeoutError()] * 99
    with pytest.raises(Lost, match="does not answer"):
        watching._answer(None)
    assert 99 - len(answers) == 300 // 30 + 1


def test_a_dead_ledger_is_lost_at_once(answers: list[Any], watching: Watch) -> None:
    answers += [ActorDiedError()]
    with pytest.raises(Lost, match="ActorDiedError"):
        watching._answer(None)


def test_without_a_head_node_nothing_is_known(
    answers: list[Any], watching: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers += [GetTimeoutError()] * 2
    monkeypatch.setattr(connection, "answers", lambda: False)
    assert watching._answer(None) is None
    assert len(answers) == 1
