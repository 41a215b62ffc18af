"""How large an image the service takes: as measured at its start, and learned from what came."""

from types import SimpleNamespace

import pytest

from ovss_ray.serve import pace
from ovss_ray.serve.pace import LEAST, Pace, slowest


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(pace.time, "monotonic", lambda: now.seconds)
    return now


def test_the_largest_image_is_what_the_time_allows_for() -> None:
    each = Pace(fixed=1.0, each=2.0)
    assert each.pixels(10.0, 40_000_000) == 3_000_000
    assert Pace(1.0, 2.0, factor=2.0).pixels(10.0, 40_000_000) == 1_250_000
    assert each.pixels(1000.0, 40_000_000) == 40_000_000
    assert Pace(1.0, 0.0).pixels(10.0, 40_000_000) == 40_000_000, "a network with an input of one size"
    assert Pace(60.0, 1.0).pixels(10.0, 40_000_000) == LEAST, "never nothing, since a measurement may be wrong"
    assert Pace(60.0, 1.0).pixels(10.0, 1000) == 1000


def test_large_batches_tell_how_slow_the_machine_is_and_that_is_forgotten(clock: SimpleNamespace) -> None:
    calibrated = Pace(1.0, 2.0)
    assert calibrated.learned(4, 9999, 100.0) == calibrated, "small ones tell nothing"
    slow = calibrated.learned(2, 4_000_000, 30.0)
    assert slow.factor == 2.0, "half of three times as slow as the ten seconds expected"
    assert slow.learned(2, 4_000_000, 30.0).factor == 2.5
    assert (slow.now().factor, calibrated.now().factor) == (2.0, 1.0)
    clock.seconds += pace.HALF
    assert slow.now().factor == 1.5
    assert Pace(0.0, 0.0).learned(1, 4_000_000, 3.0) == Pace(0.0, 0.0)


def test_the_slowest_replica_counts() -> None:
    assert slowest([]) is None
    assert slowest([Pace(1, 5), Pace(3, 1, factor=2)]) == Pace(6, 5)
