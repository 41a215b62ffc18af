"""SCAN's goldens, and the weights that they were made with."""

import json
import runpy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ovss_ray.models import fake

BOUND = 5e-5
"""Largest difference from a golden, as a part of the tensor's largest magnitude."""
Module = TypeVar("Module", bound=nn.Module)
SAMPLES = (4096, 16384, 32768)
"""Values that were kept of a subsampled tensor, at most."""


class GoldenState(Mapping[str, Tensor]):
    """The official state dict of a golden's network. Each tensor is made when it is read, and not kept.

    Constants of the official code are no entries: position indices, means of pixels, class weights of the loss.
    """

    def __init__(self, shared: Path, variant: str) -> None:
        folder = shared / "parity" / "scan"
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(shared / "parity")  # weights.py imports deterministic.py
            weights = runpy.run_path(str(folder / "weights.py"))
        manifest: dict[str, tuple[list[int], str]] = json.loads((folder / f"manifest_{variant}.json").read_text())
        self.value: Callable[..., Tensor] = weights["scan_tensor"]
        self.shapes = {
            name: tuple(shape)
            for name, (shape, dtype) in manifest.items()
            if dtype == "float32" and name not in weights["KEEP"]
        }

    def __getitem__(self, name: str) -> Tensor:
        return self.value(name, self.shapes[name], torch.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def fill(self, module: Module, prefix: str) -> Module:
        """Fill a module that was built on the meta device with the entries of a prefix, ready for inference."""
        entries = {name.removeprefix(prefix): self[name] for name in self if name.startswith(prefix)}
        module.load_state_dict(entries, assign=True)
        return module.eval().requires_grad_(False)


@dataclass(frozen=True)
class Golden:
    """What the official code made of one photograph."""

    path: Path

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.path) as stored:
            return dict(stored)

    @cached_property
    def meta(self) -> dict[str, Any]:
        return json.loads(bytes(self.arrays["meta"]))

    def error(self, name: str, values: Tensor, part: Tensor | None = None) -> float:
        """The largest difference, as a part of the tensor's largest magnitude.

        `part` (bool, broadcast to the shape of the values) chooses the values that are compared.
        """
        assert list(values.shape) == self.meta["shapes"][name], name
        flat, chosen = (
            one.detach().cpu().expand(values.shape).reshape(-1).numpy()
            for one in (values, torch.tensor(True) if part is None else part)
        )
        if f"full/{name}" in self.arrays:
            expected = self.arrays[f"full/{name}"].reshape(-1)
        else:
            expected = self.arrays[f"sub/{name}"]
            step = stride(len(flat), len(expected))
            flat, chosen = flat[::step], chosen[::step]
        assert flat.shape == expected.shape, name
        assert chosen.any(), name
        return float(np.abs(flat - expected)[chosen].max()) / self.meta["stats"][name][2]

    def assert_close(self, values: Mapping[str, Tensor], bound: float = BOUND, part: Tensor | None = None) -> None:
        """Compare tensors by the golden's names; all errors are listed, in order, for a bisection."""
        errors = {name: self.error(name, value, part) for name, value in values.items()}
        assert all(error <= bound for error in errors.values()), errors


def filled(module: Module) -> Module:
    """The module with made-up weights, ready for inference."""
    state = {name: fake.tensor(name, tuple(value.shape)) for name, value in module.state_dict().items()}
    module.load_state_dict(state)
    return module.eval().requires_grad_(False)


def stride(size: int, kept: int) -> int:
    """The step between the values that were kept: the least prime that leaves at most one of SAMPLES."""
    for most in SAMPLES:
        step = 1 if size <= most else next(n for n in range(-(-size // most), size) if prime(n))
        if -(-size // step) == kept:
            return step
    raise AssertionError(f"{kept} of {size} values")


def prime(n: int) -> bool:
    return n > 1 and all(n % divisor for divisor in range(2, int(n**0.5) + 1))


@pytest.fixture(scope="session")
def golden_state(shared: Path) -> Callable[[str], GoldenState]:
    """Name of a variant (scan_vitB, scan_vitL) → the weights of its goldens."""
    return cache(lambda variant: GoldenState(shared, variant))


@pytest.fixture(scope="session")
def golden_case(shared: Path) -> Callable[[str], Golden]:
    """Name of a case (vitB_small_seed0, vitL_seed0) → its golden."""
    return cache(lambda case: Golden(shared / "parity" / "scan" / f"golden_{case}.npz"))
