"""Processes of `ovss serve` are killed and it is restarted while clients ask; and how it bears a crowd."""

import time
from collections.abc import Iterator

import pytest

from perf import chaos
from perf.serve import AGAIN, PATIENCE, Service, batches, load, serving

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SEEDS = (295, 14, 8)
"""Of two rounds each: in all, every kind of fault, the proxy by itself, and proxy and controller together."""

SAID = {295: "san_tiny-0: replica", 8: "http: replica"}
"""Seed → beginning of a line about a process that is killed in it."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("served"), *chaos.ARGUMENTS) as begun:
        yield begun


def computed(service: Service) -> tuple[float, float]:
    """Requests and batches so far, as soon as the replica says them: a busy one may be late."""
    until = time.monotonic() + PATIENCE
    while not (found := batches(service.address))[1]:
        assert time.monotonic() < until
        time.sleep(0.5)
    return found


def test_sixty_four_clients_get_answers_or_are_told_when_to_come_again_and_share_batches(service: Service) -> None:
    before = computed(service)
    found = load(service.address, 64, 8)
    requests, count = (now - then for now, then in zip(computed(service), before, strict=True))
    assert not found.lost
    assert set(found.statuses) <= {200, *AGAIN}
    assert found.statuses[200] >= 8  # a busy machine answers fewer, and none is lost
    assert requests / count > 1.5  # of a single worker, whose batches fill while it computes


@pytest.fixture(scope="module")
def shown(service: Service) -> list[chaos.Picture]:
    return chaos.pictures(service.address)


@pytest.mark.parametrize("seed", SEEDS)
def test_in_faults_drawn_by_a_seed_no_request_is_lost_and_no_answer_is_another_one(
    service: Service, shown: list[chaos.Picture], seed: int
) -> None:
    outcome = chaos.endure(service, shown, seed, rounds=2)
    print(f"seed {seed}: {outcome}")
    assert (outcome.lost, outcome.different) == ([], [])
    assert outcome.requests > 16
    until = time.monotonic() + PATIENCE
    while SAID.get(seed, "") not in service.said():  # which the command looks for every few seconds
        assert time.monotonic() < until, service.said()
        time.sleep(0.5)


def test_the_seeds_have_all_kinds_of_faults() -> None:
    drawn = [[kind for _, kind in several] for seed in SEEDS for several in chaos.faults(seed, 2)]
    assert set().union(*drawn) == set(chaos.KINDS)
    assert ["proxy"] in drawn
    assert ["proxy", "controller"] in drawn
