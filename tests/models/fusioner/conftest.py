"""The golden weights of Fusioner, written once for all parity tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ovss_ray.models import fake


@pytest.fixture(scope="session")
def fusioner_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An official checkpoint with the weights of the goldens, which are those of `ovss weights fake`: 1.9 GB."""
    path = tmp_path_factory.mktemp("fusioner") / "fusioner.pth"
    fake.write("fusioner_vit_l_14", path)
    yield path
    path.unlink()
