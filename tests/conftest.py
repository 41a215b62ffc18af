"""What tests share: where the reference material lies, and a Ray cluster for the tests of a module."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.paths import SHARED, absent

os.environ["RAY_ADDRESS"] = "local"  # a cluster that somebody has started on this machine is not ours to use
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # else `uv run pytest` sends the checkout to every worker
os.environ.setdefault("RAY_worker_niceness", "0")  # else Ray's workers wait for the tests of the other process
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one processor for each process: else their threads wait in turn
settings.register_profile("patient", settings(), deadline=None)  # its 200 ms are a matter of the machine
settings.load_profile("patient")
REFERENCE = f"""the reference data are not at {SHARED}: parity/ (tensors and label maps that the official code of SAN,
AlphaCLIP, Fusioner and detectron2 computed with made-up weights), data/real/ (labelled photographs in the layouts of
the data sets), benchmarks/ (official class lists and prepared label files) and cases/ (inputs that once failed). To
write goldens from a checkout of official code: python -m tests.write_goldens --help"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses the cluster."""
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker("ray")


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """The environment variables that the tests of a module set are set back before those of the next."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of goldens and photographs beside the project, which is never committed to it."""
    if not SHARED.is_dir():
        absent(REFERENCE.replace("\n", " "))
    return SHARED


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray cluster of two processors, with the settings of those that commands start, for all tests of a module."""
    import ray  # takes seconds, which most test files need not spend

    from ovss_ray.engine.cluster import lean_start, ray_internals

    with pytest.MonkeyPatch.context() as patch:
        for name, value in ray_internals.SETTINGS.items():
            patch.setenv(name, os.environ.get(name, value))
        with lean_start.lean():
            ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL)
        yield
        ray.shutdown()


@pytest.fixture
def in_process() -> Iterator[None]:
    """Runs of this test compute in its process, without Ray."""
    from tests.in_process import pools

    with pools():
        yield
