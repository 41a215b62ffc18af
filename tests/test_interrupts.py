"""Interrupts that wait."""

import signal
import threading
from collections.abc import Iterator

import pytest

from ovss_ray.interrupts import held


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """Have interrupts heeded, which a shell's background jobs ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def in_block(times: int, done: list[str]) -> None:
    with held():
        for _ in range(times):
            interrupt()
        done.append("the rest")


@pytest.mark.parametrize(("times", "left"), [(1, ["the rest"]), (2, [])])
def test_one_waits_for_the_end_of_the_block_and_a_second_is_heeded_at_once(times: int, left: list[str]) -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        in_block(times, done)
    assert done == left
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def fails() -> None:
    with held():
        interrupt()
        raise ValueError("of the block")


def test_an_error_of_the_block_comes_first() -> None:
    with pytest.raises(ValueError, match="of the block"):
        fails()


def test_what_a_program_has_decided_about_interrupts_stays() -> None:
    heard = []
    signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    with held():
        interrupt()
        assert heard == [signal.SIGINT]


def test_other_threads_have_nothing_to_hold() -> None:
    done = []

    def work() -> None:
        with held():
            done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [signal.getsignal(signal.SIGINT)]
