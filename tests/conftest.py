"""What tests share: where the reference material lies."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["RAY_ADDRESS"] = "local"  # a cluster that somebody has started on this machine is not ours to use
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # else `uv run pytest` sends the checkout to every worker


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of goldens and photographs beside the project, which is never committed to it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        why = f"the reference material (goldens and photographs) is not at {folder}"
        pytest.fail(why) if os.environ.get("CI") == "true" else pytest.skip(why)
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray cluster of two processors, for all tests of a module."""
    import ray  # takes seconds, which most test files need not spend

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL)
    yield
    ray.shutdown()
