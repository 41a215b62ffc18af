"""The goldens of Open-Vocabulary SAM, the network with their weights, and its image features: each computed once."""

import json
import runpy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ovss_ray import models
from ovss_ray.io.images import decode
from ovss_ray.models.ovsam.inputs import Embedded
from ovss_ray.models.ovsam.network import Ovsam

PARTS = ("ovsam_rn50x16", "clip_text_rn50x16")
"""The network, and CLIP's text tower, each with a list of its official entries."""
BOUND = 1e-4
"""Largest difference from a golden, as a part of the tensor's largest magnitude."""


@dataclass(frozen=True)
class Golden:
    """Results of the official code: a file of arrays."""

    path: Path

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.path) as stored:
            return dict(stored)

    @cached_property
    def meta(self) -> dict[str, Any]:
        return json.loads(str(self.arrays["meta"]))

    def error(self, name: str, values: Tensor | np.ndarray) -> float:
        """The largest difference, as a part of the tensor's largest magnitude."""
        actual = np.asarray(values)[self.index(name)]
        expected = self.arrays[name]
        assert actual.shape == expected.shape, (name, actual.shape, expected.shape)
        largest = self.arrays[f"{name}#stats"][2] if f"{name}#stats" in self.arrays else np.abs(expected).max()
        return float(np.abs(actual.astype(np.float64) - expected).max()) / float(largest)

    def index(self, name: str) -> tuple[slice, ...]:
        """The part of a tensor that was kept: "::4, 2::8" are two slices."""
        texts = self.meta["subsample"].get(name, "")
        ends = [[int(end) if end.strip() else None for end in text.split(":")] for text in texts.split(",") if text]
        return tuple(slice(*parts) for parts in ends)

    def assert_close(self, values: dict[str, Tensor | np.ndarray], bound: float = BOUND) -> None:
        """Compare tensors by their names in the golden; all errors are listed."""
        errors = {name: self.error(name, value) for name, value in values.items()}
        assert all(error <= bound for error in errors.values()), errors

    def masks(self, name: str) -> np.ndarray:
        """The masks under a name, such as "point/mask", bool."""
        kind = "s" if f"{name}s_shape" in self.arrays else ""
        shape = tuple(self.arrays[f"{name}{kind}_shape"])
        return np.unpackbits(self.arrays[f"{name}{kind}_packed"])[: np.prod(shape)].reshape(shape).astype(bool)


@pytest.fixture(scope="session")
def ovsam_golden(shared: Path) -> Callable[[str], Golden]:
    """Name (predict, demo, eval) → its golden."""
    return cache(lambda name: Golden(shared / "parity" / "ovsam" / f"golden_{name}.npz"))


@pytest.fixture(scope="session")
def golden_tensor(shared: Path) -> Callable[..., Tensor]:
    """The function (name, shape, dtype) → tensor of the goldens' weights."""
    return runpy.run_path(str(shared / "parity" / "deterministic.py"))["tensor"]


@pytest.fixture(scope="session")
def ovsam_checkpoint(
    shared: Path, golden_tensor: Callable[..., Tensor], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The weights of the goldens in one file, with the official names: 1.6 GB."""
    folder, path = shared / "parity" / "ovsam", tmp_path_factory.mktemp("ovsam") / "ovsam.pth"
    manifests = (json.loads((folder / f"manifest_{part}.json").read_text()) for part in PARTS)
    state = {
        name: golden_tensor(name, tuple(shape), getattr(torch, dtype))
        for manifest in manifests
        for name, (shape, dtype) in manifest.items()
    }
    torch.save(state, path)
    yield path
    path.unlink()


@pytest.fixture(scope="session")
def ovsam(ovsam_checkpoint: Path) -> Ovsam:
    """The network with the goldens' weights, loaded once."""
    return models.load("ovsam_rn50x16", ovsam_checkpoint)


@pytest.fixture(scope="session")
def picture(shared: Path) -> Callable[[str], np.ndarray]:
    """File name of tiny_coco → (H, W, 3) uint8 RGB."""
    folder = shared / "parity" / "ovsam" / "tiny_coco" / "val2017"
    return cache(lambda name: decode((folder / name).read_bytes(), name))


@pytest.fixture(scope="session")
def seen(ovsam: Ovsam, picture: Callable[[str], np.ndarray]) -> Callable[[str, str], Embedded]:
    """File name and path of the official code → the encoded image, computed once."""
    return cache(lambda name, path: ovsam.embed([picture(name)], path)[0])
