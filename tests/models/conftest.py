"""The golden checkpoints of SAN, written once per session."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.checkpoints import golden_checkpoint, small_checkpoint


@pytest.fixture(scope="session")
def golden(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Short name of a variant (vit_b_16, vit_large_14) → a checkpoint with the weights of its goldens."""
    folder = tmp_path_factory.mktemp("golden")

    @cache
    def written(short: str) -> Path:
        return golden_checkpoint(shared, f"san_{short}", f"{short}_seed0_overrides.npz", folder / f"{short}.pth")

    return written


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the small variant."""
    return small_checkpoint(tmp_path_factory.mktemp("small") / "small.pth")
