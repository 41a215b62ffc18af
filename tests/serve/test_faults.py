"""What breaks while clients ask: with the shipped client nothing is lost, and the time to find it is kept."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from ray import serve

from ovss_ray.client import Client, DeadlinePassed
from ovss_ray.config import loading as configs
from ovss_ray.engine.cluster import connection, ray_internals
from ovss_ray.errors import OvssError
from ovss_ray.serve.deployments import app
from ovss_ray.serve.deployments.app import LATE, QUIET, application
from perf.serve import replicas
from tests.serve.bright import picture
from tests.toys import bright
from tests.web import free_port

pytestmark = pytest.mark.ray

CLIENTS = 16
PATIENCE = 120.0
"""Seconds for a start on a busy machine."""
SECONDS = 6.0
"""That a request may take where a stage hangs."""
HEALTH = {"health_check_period_s": 1.0, "health_check_timeout_s": 4.0}
"""Shorter than app.HEALTH, whose times are in docs/serving.md."""
LATER, SILENT = 5.0, 17.0
"""Seconds in which three checks fail, of a replica past its deadline, and of one that does not answer."""
BUSY = 60.0
"""What a busy machine may take longer."""


class Crowd:
    """Clients that ask without pause, and look at each answer."""

    def __init__(self, address: str) -> None:
        self.asking = Client(address)
        self.answered, self.late, self.lost = 0, 0, list[str]()
        self.ended = threading.Event()

    def ask(self, height: int) -> None:
        image = picture(height)
        while not self.ended.is_set():
            try:
                labels = self.asking.segment(image, ["a", "b", "c"]).labels
                np.testing.assert_array_equal(labels, bright(image, 3))
                self.answered += 1
            except DeadlinePassed:
                self.late += 1
            except (OvssError, AssertionError) as failure:
                self.lost.append(str(failure))

    def until(self, reached: Callable[[], Any], seconds: float = PATIENCE) -> float:
        """Wait for something: how many seconds that took."""
        begun = time.monotonic()
        while not reached():
            assert time.monotonic() - begun < seconds, self.lost
            time.sleep(0.05)
        return time.monotonic() - begun

    def goes_on(self) -> None:
        """Wait until each of the clients can have been answered again."""
        reached = self.answered + 2 * CLIENTS
        self.until(lambda: self.answered >= reached)


@contextmanager
def crowd(address: str, hung: bool = False) -> Iterator[Crowd]:
    """Sixteen clients that ask until the block ends; none of their requests is lost.

    Those that a hung stage holds are told that their time is over, and none else.
    """
    made = Crowd(address)
    with ThreadPoolExecutor(CLIENTS) as clients:
        asking = [clients.submit(made.ask, 8 + number) for number in range(CLIENTS)]
        try:
            made.goes_on()
            yield made
        finally:
            made.ended.set()
    assert not made.lost, made.lost
    assert bool(made.late) == hung
    assert all(one.result() is None for one in asking)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where Serve listens, on a cluster of this process. Its checks of replicas are frequent."""
    port = free_port()
    with pytest.MonkeyPatch.context() as patch, connection.connect(ray_internals.SERVING):
        for name, value in HEALTH.items():
            patch.setitem(app.HEALTH, name, value)
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": 35},
            logging_config=QUIET,
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            serve.shutdown()


def deploy(address: str, seconds: float = 30, **options: Any) -> None:
    """Serve the slow stage; what is deployed already is updated, replica by replica."""
    stages = [{"use": "tests.serve.slow", "options": {"seconds": 0.05, **options}}]
    raw = {"pools": [{"workers": 1, "cpus": 0.5, "stages": stages}], "limits": {"seconds": seconds}}
    serve.run(application({"slow": configs.validate(raw, "slow")}), name="ovss")
    until = time.monotonic() + PATIENCE
    while not Client(address).ready():
        assert time.monotonic() < until
        time.sleep(0.2)


def processes(name: str) -> set[int]:
    """Those of the replicas of a deployment."""
    return {one.pid for one in replicas(psutil.Process().children(recursive=True), name)}


@pytest.fixture(scope="module")
def deployed(address: str) -> str:
    """Where the slow stage is served."""
    deploy(address)
    return address


@pytest.mark.slow
def test_a_changed_config_is_taken_over_and_a_whole_restart_is_waited_for_while_clients_ask(deployed: str) -> None:
    before = processes("slow-0")
    with crowd(deployed) as asking:
        deploy(deployed, seconds=20)
        asking.until(lambda: processes("slow-0") and not processes("slow-0") & before)
        asking.goes_on()
        serve.delete("ovss")
        assert not Client(deployed).ready()
        deploy(deployed, seconds=20)
        asking.goes_on()
    assert Client(deployed).models()["limits"]["seconds"] == 20


@pytest.mark.slow
@pytest.mark.parametrize(("hung", "found"), [("sleep", LATE * SECONDS + LATER), ("C", SILENT)])
def test_a_stage_that_never_returns_is_found_and_its_replica_replaced(
    address: str, hung: str, found: float, tmp_path: Path
) -> None:
    deploy(address, SECONDS, hang=str(tmp_path / hung))
    with crowd(address, hung=hung == "sleep") as asking:  # the other one cannot even say that it computes
        before = processes("slow-0")
        (tmp_path / hung).touch()
        asking.until(lambda: not (tmp_path / hung).exists())
        taken = asking.until(lambda: not processes("slow-0") & before)
        asking.goes_on()
    print(f"{hung}: its end comes after {taken:.1f} s")
    assert taken < found + BUSY
