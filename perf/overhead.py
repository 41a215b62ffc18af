"""CPU seconds of a request to `ovss serve` over the plain call of its stages, in all processes of the service.

One client sends a JPEG of 0.2 megapixels again and again. The plain call runs the same stages in this process on the
decoded pixels, so that decoding, HTTP, Ray Serve and the answer's PNG all count as overhead. What the service uses
without requests, such as for checks of its health, is measured first and left out.
"""

import io
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress

import numpy as np
import psutil
import urllib3
from PIL import Image

from ovss_ray.benchmarks import catalog
from ovss_ray.config import loading
from ovss_ray.config.shipped import find_config
from ovss_ray.engine.cluster import nodes
from ovss_ray.io import images
from ovss_ray.pipeline.stage import build_all
from ovss_ray.serve.deployments import batch, share
from ovss_ray.serve.row import row
from perf.pictures import photograph
from perf.serve import ASKED, Service, named
from perf.timing import show, spread, titled

SIZE = (400, 500)
"""Height and width of the photograph."""
BAR = 0.04
"""CPU seconds of overhead that are allowed."""
WARM, REQUESTS, ROUNDS = 10, 40, 3
IDLE = 15.0
"""Seconds without requests."""
METHOD = re.compile(r"(?<=\w)\.(?!py$)\w+$")
"""End of the title of an actor that runs a method: `ray::ProxyActor.receive_asgi_messages`."""


def used(service: Service) -> dict[psutil.Process, float]:
    """CPU seconds that each process of a service has used so far."""
    seconds = {}
    for process in service.processes():
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds[process] = times.user + times.system
    return seconds


def spent_while(service: Service, work: Callable[[], object]) -> Counter[str]:
    """CPU seconds that the processes of a service use while some work is done, by title.

    Processes are compared, not titles: Ray adds the method to an actor's title while the method runs.
    """
    before = used(service)
    work()
    spent: Counter[str] = Counter()
    for process, seconds in used(service).items():
        spent[METHOD.sub("", named(process)) or "?"] += seconds - before.get(process, 0.0)
    return spent


def _plain(config: str, file: bytes) -> Callable[[int], float]:
    """A function that calls the stages of a config, with a worker's threads: CPU seconds of that many calls."""
    loaded = loading.load(find_config(config))
    (pool,) = share.place({config: loaded}, nodes.even(1, os.cpu_count() or 1, 0, 16e9), 0)[config]
    (parts,), words = batch.plan(loaded), catalog.load(ASKED.partition("=")[2]).vocabulary
    image = images.decode(file, "photograph")
    with pool.computing():
        stages = build_all(pool.stages, None, catalog.Benchmarks())

    def call(count: int) -> float:
        begun = time.process_time()
        with pool.computing():
            for _ in range(count):
                (done,) = batch.run(stages, [(row(image, words), words)], parts["segment"].keep)
                assert not done["error"]
        return time.process_time() - begun

    call(WARM)
    return call


def measure(service: Service, config: str) -> None:
    """Print the table of a service that runs this config."""
    Image.fromarray(photograph(SIZE)).save(file := io.BytesIO(), "JPEG", quality=90)
    http = urllib3.PoolManager(retries=False, timeout=60)

    def send(count: int) -> None:
        for _ in range(count):
            answer = http.request("POST", f"{service.address}/v1/segment?{ASKED}", body=file.getvalue())
            assert answer.status == 200, answer.data

    send(WARM)
    rate = {title: seconds / IDLE for title, seconds in spent_while(service, lambda: time.sleep(IDLE)).items()}
    plain, rounds, calls = _plain(config, file.getvalue()), list[Mapping[str, float]](), list[float]()
    for _ in range(ROUNDS):
        begun = time.monotonic()
        spent = spent_while(service, lambda: send(REQUESTS))
        wall = time.monotonic() - begun
        rounds.append({title: (spent[title] - rate.get(title, 0) * wall) / REQUESTS for title in spent})
        calls.append(plain(REQUESTS) / REQUESTS)
    table = titled(f"{config}: a request for {SIZE[0] * SIZE[1] / 1e6:g} megapixels, CPU seconds", "process", "")
    for title in sorted(set().union(*rounds), key=lambda title: -rounds[0].get(title, 0)):
        each = np.array([one.get(title, 0) for one in rounds])
        if np.median(each) >= 0.0005:
            table.add_row(title, spread(each, 4))
    whole, alone = np.array([sum(one.values()) for one in rounds]), np.array(calls)
    table.add_row("all processes", spread(whole, 4))
    table.add_row("the plain call of the stages", spread(alone, 4))
    table.add_row(f"overhead (bar: at most {BAR:g})", spread(whole - alone, 4))
    show(table, f"{REQUESTS} requests in a round, one after another; idle use is left out.")
