"""Whole runs from which workers, nodes and the driver are shot away: the report has to be the undisturbed one.

One seed by default; OVSS_CHAOS=30 makes thirty. A worker, a node and the driver die; a seed decides when and in which
order, and whether a fourth one dies.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from ray.cluster_utils import Cluster

from tests.checkpoints import small_checkpoint
from tests.paths import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow]

IMAGES = 24
SEEDS = int(os.environ.get("OVSS_CHAOS", "1"))
IN_FLIGHT = 8
"""Images that a kill may cost: what two workers have in hand or on the way to a part file, of one image here."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chaos")
    generator = np.random.default_rng(0)
    for kind in ("photos", "labels"):
        (folder / kind).mkdir()
    for k in range(IMAGES):
        blocks = generator.integers(0, 256, (6, 8, 3), np.uint8).repeat(10, 0).repeat(10, 1)
        Image.fromarray(blocks).save(folder / f"photos/i{k:02}.png")
        Image.fromarray(generator.integers(0, 4, (60, 80), np.uint8)).save(folder / f"labels/i{k:02}.png")
    (folder / "mine.yaml").write_text("images: photos/*.png\nlabels: labels/*.png\nclasses: [road, car, sky, dog]\n")
    small_checkpoint(folder / "small.pth")
    san = {"use": "tests.small_san", "options": {"weights": str(folder / "small.pth"), "seconds": 0.4}}
    config = {"exact": True, "deadline": 60, "pools": [{"cpus": 1, "workers": [1, 2], "stages": [san]}]}
    (folder / "config.yaml").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A head for the driver, and two nodes that can hold all workers each."""
    os.environ["PYTHONPATH"] = str(ROOT)
    patient = {"health_check_failure_threshold": 10}  # half a minute: a machine that is busy elsewhere is no lost node
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": 100_000_000, "_system_config": patient},
    )
    for _ in range(2):
        made.add_node(num_cpus=2, object_store_memory=100_000_000)
    yield made
    made.shutdown()
    del os.environ["PYTHONPATH"]


def command(
    data: Path, out: Path, witness: Path, address: str, *overrides: str, program: Sequence[str] = ("-m", "ovss_ray")
) -> subprocess.Popen[str]:
    arguments = ["--benchmark", f"folder:{data}/mine.yaml", "--data-root", str(data), "--out", str(out)]
    given = [word for one in (f"tests.small_san.witness={witness}", *overrides) for word in ("--set", one)]
    return subprocess.Popen(
        [sys.executable, *program, "evaluate", str(data / "config.yaml"), *arguments, *given],
        env={**os.environ, "RAY_ADDRESS": address},
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out
    return out


def benchmarks(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text())["benchmarks"]


def staying(witness: Path) -> set[int]:
    """The workers of a run that have not gone half a minute after it, with all the memory that they hold."""
    left = {int(line.partition("@")[2]) for line in witness.read_text().split()}
    until = time.monotonic() + 30
    while (left := {pid for pid in left if psutil.pid_exists(pid)}) and time.monotonic() < until:
        time.sleep(0.5)
    return left


@pytest.fixture(scope="module")
def undisturbed(data: Path, nodes: Cluster) -> dict[str, Any]:
    finish(command(data, data / "whole", data / "whole.txt", nodes.address))
    assert len((data / "whole.txt").read_text().split()) == IMAGES
    return benchmarks(data / "whole")


class Chaos:
    """Shoots at a run."""

    def __init__(self, seed: int, data: Path, nodes: Cluster) -> None:
        self.random, self.nodes = random.Random(seed), nodes
        self.out, self.witness = data / f"run{seed}", data / f"witness{seed}.txt"
        self.start = lambda: command(data, self.out, self.witness, nodes.address)
        self.driver = self.start()
        self.killed: list[str] = []

    def lines(self) -> int:
        return len(self.witness.read_text().split()) if self.witness.exists() else 0

    def wait_for_work(self, lines: int) -> bool:
        """Wait until so many images have been begun; False if the run is over before."""
        until = time.monotonic() + 120
        while self.lines() < lines and self.driver.poll() is None:
            assert time.monotonic() < until, "nothing goes on"
            time.sleep(0.05)
        return self.driver.poll() is None

    def shoot(self, kind: str) -> None:
        getattr(self, kind)()
        self.killed.append(kind)

    def worker(self) -> None:
        """Any process that works for us: stages, writing, the ledger, what Ray Data keeps; not Ray's own agents.

        A node goes down with its agent, and with the head's the whole cluster.
        """
        raylets = {node.all_processes["raylet"][0].process.pid for node in self.nodes.list_all_nodes()}
        working = [
            process
            for process in psutil.process_iter(["cmdline"])
            if (title := " ".join(process.info["cmdline"] or [])).startswith("ray::")
            and not title.startswith("ray::IDLE")
            and "Agent" not in title
            and raylets & {parent.pid for parent in process.parents()}
        ]
        if working:
            self.random.choice(sorted(working, key=lambda process: process.pid)).send_signal(signal.SIGKILL)

    def raylet(self) -> None:
        self.nodes.remove_node(self.random.choice(sorted(self.nodes.worker_nodes, key=str)), allow_graceful=False)
        self.nodes.add_node(num_cpus=2, object_store_memory=100_000_000)

    def driver_(self) -> None:
        self.driver.kill()
        self.driver.communicate()
        self.driver = self.start()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_is_shot_away_cannot_be_seen_in_the_report(
    seed: int, data: Path, nodes: Cluster, undisturbed: dict[str, Any]
) -> None:
    chaos = Chaos(seed, data, nodes)
    kinds = ["worker", "raylet", "driver_"] + ["worker"] * chaos.random.randint(0, 1)
    for kind in chaos.random.sample(kinds, len(kinds)):
        if not chaos.wait_for_work(chaos.lines() + chaos.random.randint(1, 5)):
            break
        chaos.shoot(kind)
    said = finish(chaos.driver)
    assert benchmarks(chaos.out) == undisturbed
    redone = chaos.lines() - IMAGES
    assert not staying(chaos.witness)
    print(f"seed {seed}: killed {chaos.killed}, {redone} images begun again\n{said}")
    assert len(chaos.killed) >= 2
    assert redone <= IN_FLIGHT * len(chaos.killed)
