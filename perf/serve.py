"""A service under load: many clients that ask without pause, against `ovss serve` on this machine.

Only 200, 429 and 503 are answers; whoever is told to come again does so after the time it is told. Memory is that of
all processes of the service: what each holds for itself, and its part of what they share. Files that they map, such as
torch's libraries, are left out: their part depends on who else on this machine has them open.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import urllib3
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from ovss_ray.client import Client
from ovss_ray.io import files
from perf.run import _title
from perf.timing import machine, titled

ROOT = Path(__file__).parents[1]
PATIENCE = 240.0
"""Seconds for a start, or an end, on a busy machine."""
SETTLED = 30.0
"""Seconds in which the memory has to be back."""
SCENES = [f"scenes://seen/validation/{number:04d}.png" for number in range(8)]
ASKED = "benchmark=scenes:seen"
AGAIN = (429, 503, 504)
"""Answers of a service that is busy: when to come again, or that the request has waited for too long."""


@dataclass
class Service:
    """A service that runs."""

    address: str
    command: list[str]
    output: Path
    process: subprocess.Popen[bytes]

    def said(self) -> str:
        """What it has written so far."""
        return self.output.read_text(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """All that have begun for it and still run."""
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    def restart(self) -> None:
        """Stop it as a supervisor does, by SIGTERM, and run the same command again.

        Raises RuntimeError if it does not stop with status 0.
        """
        self.process.send_signal(signal.SIGTERM)
        try:
            status: int | None = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            status = None
        if status != 0:
            raise RuntimeError(f"the service did not stop with status 0, but {status}. It said: {self.said()}")
        self.process = _begun(self.command, self.output)


def _begun(command: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
    """Run a command of the service, and append what it writes to a file."""
    with output.open("ab") as file:
        heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a shell has background jobs ignore
        environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"}
        return subprocess.Popen(
            command, stdout=file, stderr=file, cwd=ROOT, env=environment, preexec_fn=heed, process_group=0
        )


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Service]:
    """Run `ovss serve` with arguments and, once it is ready, the block; then stop it.

    Raises RuntimeError if it does not start, or if processes of it are left.
    """
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "ovss_ray", "serve", *arguments, "--port", str(port)]
    output = folder / "output"
    service = Service(f"http://127.0.0.1:{port}", command, output, _begun(command, output))
    begun: list[psutil.Process] = []
    try:
        _wait(service)
        yield service
    finally:
        with suppress(psutil.NoSuchProcess):
            begun = service.processes()
        service.process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            service.process.wait(PATIENCE)
        _, left = psutil.wait_procs(begun, 20)
        for one in left:
            one.kill()
    if left:
        raise RuntimeError(f"left of the service: {left}. It said: {service.said()}")


def _wait(service: Service) -> None:
    asking, until = Client(service.address), time.monotonic() + PATIENCE
    while not asking.ready():
        if service.process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"the service has not started. It said: {service.said()}")
        time.sleep(0.5)


def replicas(processes: Sequence[psutil.Process], deployment: str) -> list[psutil.Process]:
    """Those that are replicas of a deployment, by what its name begins with."""
    return [one for one in processes if f"ServeReplica:ovss:{deployment}" in named(one)]


def named(process: psutil.Process) -> str:
    """The title of a process, "" if it has ended."""
    with suppress(psutil.NoSuchProcess):
        return _title(process.cmdline())
    return ""


@dataclass
class Load:
    """What clients were answered."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    """of each 200"""
    lost: list[str] = field(default_factory=list)
    """what came in the place of an answer, or was none of those that are promised"""

    def ask(self, address: str, image: bytes, until: float) -> None:
        """Be one client for a while."""
        http = urllib3.PoolManager(retries=False, timeout=120)
        while (begun := time.monotonic()) < until:
            try:
                answer = http.request("POST", f"{address}/v1/segment?{ASKED}", body=image)
            except urllib3.exceptions.HTTPError as failure:
                self.lost.append(repr(failure))
                continue
            self.statuses[answer.status] += 1
            if answer.status in AGAIN:
                time.sleep(float(answer.headers.get("retry-after", 0)))
            elif answer.status == 200 and sum(one["pixels"] for one in json.loads(answer.data)["classes"]):
                self.seconds.append(time.monotonic() - begun)
            else:
                self.lost.append(f"{answer.status}: {answer.data[:200]!r}")


def load(address: str, clients: int, seconds: float) -> Load:
    """Have so many clients ask for so long, and let those that wait then be answered."""
    images, each = [files.read(uri) for uri in SCENES], [Load() for _ in range(clients)]
    until = time.monotonic() + seconds
    with ThreadPoolExecutor(clients) as crowd:
        asking = [crowd.submit(one.ask, address, images[i % len(images)], until) for i, one in enumerate(each)]
    for one in asking:
        one.result()
    statuses = sum((one.statuses for one in each), Counter[int]())
    return Load(statuses, [s for one in each for s in one.seconds], [text for one in each for text in one.lost])


def batches(address: str) -> tuple[float, float]:
    """Requests that the replicas have computed, and in how many batches."""
    text = urllib3.request("GET", f"{address}/metrics", timeout=30).data.decode()
    found = [one for family in text_string_to_metric_families(text) for one in family.samples]
    total = {
        name: sum(one.value for one in found if one.name == f"ovss_batch_size_{name}") for name in ("sum", "count")
    }
    return total["sum"], total["count"]


def memory(service: Service) -> dict[str, float]:
    """MB by the title of the process."""
    held: Counter[str] = Counter()
    for one in service.processes():
        with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            lines = Path(f"/proc/{one.pid}/smaps_rollup").read_text().splitlines()  # proc(5)
            own = sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
            held[named(one)] += own / 1e3
    return dict(held)


def settled(service: Service, before: dict[str, float]) -> dict[str, float]:
    """The memory once it is back, or after a while."""
    until = time.monotonic() + SETTLED
    while sum((now := memory(service)).values()) > sum(before.values()) and time.monotonic() < until:
        time.sleep(1)
    return now


def measure(config: str, clients: int, seconds: float, warm: float) -> None:
    """Print the tables."""
    from perf import overhead  # which imports this module

    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), config) as service:
        overhead.measure(service, config)
        if not clients:
            return
        load(service.address, clients, warm)
        before, (requests, count) = settled(service, {}), batches(service.address)
        found = load(service.address, clients, seconds)
        after, (more, now) = settled(service, before), batches(service.address)
    console = Console(width=None if os.isatty(1) else 140)
    console.print(machine(), highlight=False, markup=False)
    table = titled(f"{config}, {clients} clients for {seconds:g} s", "what", "")
    told = ", ".join(f"{many:,} × {status}" for status, many in sorted(found.statuses.items()))
    p50, p99 = np.quantile(found.seconds, [0.5, 0.99])
    for name, value in {
        "answers": told,
        "lost": f"{len(found.lost)}",
        "200 a second": f"{found.statuses[200] / seconds:.1f}",
        "p50, p99 of a 200": f"{p50:.2f} s, {p99:.2f} s",
        "requests in a batch": f"{(more - requests) / (now - count):.2f}",
        "memory before, after": f"{sum(before.values()):,.0f} MB, {sum(after.values()):,.0f} MB "
        f"({sum(after.values()) / sum(before.values()) - 1:+.1%})",
    }.items():
        table.add_row(name, value)
    console.print(table, highlight=False)
    where = titled("Memory, MB", "process", "before", "after")
    for name in sorted(before | after, key=lambda name: -after.get(name, 0)):
        where.add_row(name, f"{before.get(name, 0):,.0f}", f"{after.get(name, 0):,.0f}")
    console.print(where, *found.lost[:5], highlight=False)
