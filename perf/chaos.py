"""Faults of `ovss serve` under clients of the shipped `Client`: no request is lost, and no answer is another one.

A seed draws rounds of one or two faults: a process that is killed as the kernel does when memory has run out, or a
restart by SIGTERM. The clients send requests all the time, with a random rest after each answer. Their answers are
compared with those of the service before its first fault, with `exact=true`: bit for bit.

A fault is recovered when another process has taken the place of the killed one, and a request sent after the fault is
answered. The time until then contains the start of processes, so it depends on the machine and its load.
"""

import io
import logging
import os
import random
import signal
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from rich.console import Console

from ovss_ray.client import Client
from ovss_ray.errors import OvssError
from ovss_ray.io import files, images
from perf.serve import PATIENCE, SCENES, Service, named, serving
from perf.timing import machine, titled

MODEL = "san_tiny"
RESTART = "restart"
KILLED = {
    "replica": f"ServeReplica:ovss:{MODEL}",
    "ingress": "ServeReplica:ovss:http",
    "proxy": "ProxyActor",
    "controller": "ServeController",
}
"""Kind of fault → title of the processes of which one is killed."""
KINDS = (*KILLED, RESTART)
ALONE = 2 / 3
"""Probability that a round has a single fault; else it has two."""
BETWEEN, REST = 4.0, 4.0
"""Most seconds between the two faults of a round, and between two rounds."""
LOOK = 0.3
"""Seconds between two looks at the processes."""
SIDE = (96, 128)
"""Height and width of the pictures: small, so that the machine has room for processes that start."""
BENCHMARK = "scenes:seen"
ARGUMENTS = (MODEL, "--set", "exact=true", "--set", "pools.0.workers=1")
"""A single worker, so that there is none while another one starts."""

Picture = tuple[bytes, np.ndarray]
"""A PNG, and its label map (H, W) uint16 as the service gave it before the first fault."""
Fault = tuple[float, str]
"""Seconds since the fault before, and the kind."""


@dataclass
class Outcome:
    """What came of a seed."""

    faults: list[list[Fault]]
    requests: int = 0
    lost: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    longest: float = 0.0
    """seconds of the slowest request"""
    recovered: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """kind → seconds of each fault of this kind"""


def faults(seed: int, rounds: int) -> list[list[Fault]]:
    """The rounds of a seed. A restart is the last one of its round."""
    drawn = random.Random(seed)
    made = []
    for _ in range(rounds):
        kinds = sorted(drawn.sample(KINDS, 1 if drawn.random() < ALONE else 2), key=lambda kind: kind == RESTART)
        made.append([(drawn.uniform(0, BETWEEN if number else REST), kind) for number, kind in enumerate(kinds)])
    return made


def pictures(address: str) -> list[Picture]:
    """Pictures, and the answers of a service that nothing disturbs."""
    cut = [images.decode(files.read(uri), uri)[: SIDE[0], : SIDE[1]] for uri in SCENES]
    encoded = [_png(pixels) for pixels in cut]
    client = Client(address)
    return [(data, client.segment(data, benchmark=BENCHMARK).labels) for data in encoded]


def _png(pixels: np.ndarray) -> bytes:
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


@contextmanager
def crowd(address: str, shown: Sequence[Picture], clients: int, rest: float, outcome: Outcome) -> Iterator[None]:
    """Have clients send requests until the block ends, and then wait for their last answers."""
    client, ended, lock = Client(address), threading.Event(), threading.Lock()

    def send(number: int) -> None:
        drawn = random.Random(number)
        while not ended.wait(drawn.uniform(0, rest)):
            data, expected = drawn.choice(shown)
            begun = time.monotonic()
            try:
                same = np.array_equal(client.segment(data, benchmark=BENCHMARK).labels, expected)
                failure = ""
            except OvssError as error:
                same, failure = True, str(error)
            spent = time.monotonic() - begun
            with lock:
                outcome.requests += 1
                outcome.longest = max(outcome.longest, spent)
                outcome.lost += [f"after {spent:.1f} s: {failure}"] if failure else []
                outcome.different += [] if same else [f"client {number}: another label map"]

    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(send, number) for number in range(clients)]
        try:
            yield
        finally:
            ended.set()
    for one in running:
        one.result()


def endure(
    service: Service, shown: Sequence[Picture], seed: int, rounds: int, clients: int = 16, rest: float = 2.0
) -> Outcome:
    """Disturb a service by the faults of a seed, under clients, and wait after each round until it has recovered.

    Raises RuntimeError if it does not recover, or does not stop at a SIGTERM.
    """
    outcome = Outcome(faults(seed, rounds))
    with crowd(service.address, shown, clients, rest, outcome):
        for several in outcome.faults:
            struck = []
            for pause, kind in several:
                time.sleep(pause)
                struck.append((kind, time.monotonic(), _strike(service, kind)))
            for kind, begun, before in struck:
                _recovered(service, shown[0][0], kind, before)
                outcome.recovered[kind].append(time.monotonic() - begun)
    return outcome


def running(service: Service, kind: str) -> list[psutil.Process]:
    """The processes of a kind that run."""
    with suppress(psutil.NoSuchProcess):
        return [one for one in service.processes() if KILLED[kind] in named(one)]
    return []


def _strike(service: Service, kind: str) -> set[int]:
    """Make a fault happen: the processes of its kind until then."""
    if kind == RESTART:
        service.restart()
        return set()
    until = time.monotonic() + PATIENCE
    while not (there := running(service, kind)):  # the fault before may have ended it too
        _still(service, until, f"there is no {kind}")
    os.kill(there[0].pid, signal.SIGKILL)
    return {one.pid for one in there}


def _recovered(service: Service, picture: bytes, kind: str, before: set[int]) -> None:
    """Wait until others have taken the place of processes, and a request is answered."""
    until = time.monotonic() + PATIENCE
    while kind != RESTART and {one.pid for one in running(service, kind)} <= before:
        _still(service, until, f"the {kind} is not replaced")
    Client(service.address).segment(picture, benchmark=BENCHMARK)


def _still(service: Service, until: float, trouble: str) -> None:
    """Wait a moment; raise RuntimeError if it was the last one, or the service has ended."""
    if time.monotonic() > until or service.process.poll() is not None:
        raise RuntimeError(f"{trouble}. The service said: {service.said()}")
    time.sleep(LOOK)


def measure(first: int, seeds: int, rounds: int, clients: int, rest: float) -> bool:
    """Print the table of each seed, and of each kind of fault; whether nothing was lost and nothing differs."""
    logging.getLogger("ovss_ray.client").setLevel(logging.ERROR)  # which warns that there is no service for a while
    outcomes = {}
    console = Console(width=None if os.isatty(1) else 160)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), *ARGUMENTS) as service:
        shown = pictures(service.address)
        for seed in range(first, first + seeds):
            outcomes[seed] = endure(service, shown, seed, rounds, clients, rest)
            console.print(_line(seed, outcomes[seed]), highlight=False, markup=False)
    console.print(machine(), highlight=False, markup=False)
    table = titled(
        f"{MODEL}, {clients} clients, {rounds} rounds of faults for each seed",
        *("seed", "faults", "requests", "lost", "different", "longest wait, s", "recovered after, s"),
    )
    for seed, outcome in outcomes.items():
        table.add_row(f"{seed}", *_cells(outcome))
    console.print(table, highlight=False)
    kinds = titled("Recovery, s", "fault", "times", "median", "longest")
    for kind in KINDS:
        if seconds := [each for outcome in outcomes.values() for each in outcome.recovered[kind]]:
            kinds.add_row(kind, f"{len(seconds)}", f"{np.median(seconds):.0f}", f"{max(seconds):.0f}")
    wrong = [text for outcome in outcomes.values() for text in (*outcome.lost, *outcome.different)]
    console.print(kinds, *wrong, highlight=False)
    return not wrong


def _cells(outcome: Outcome) -> tuple[str, ...]:
    struck = "; ".join(" + ".join(kind for _, kind in several) for several in outcome.faults)
    seconds = ", ".join(
        f"{kind} {'/'.join(f'{each:.0f}' for each in took)}" for kind, took in outcome.recovered.items()
    )
    counts = (outcome.requests, len(outcome.lost), len(outcome.different))
    return (struck, *map(str, counts), f"{outcome.longest:.0f}", seconds)


def _line(seed: int, outcome: Outcome) -> str:
    """A seed's line, printed as soon as it is over."""
    struck, requests, lost, different, longest, seconds = _cells(outcome)
    return (
        f"seed {seed}: {struck}: {requests} requests, {lost} lost, {different} different, longest wait {longest} s; "
        f"recovered: {seconds}"
    )
