"""Settings of the process are those from before when a network has been computed."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ovss_ray.errors import OvssError
from ovss_ray.io import processor
from ovss_ray.models import runtime

GPU = torch.device("cuda")
"""No GPU is needed: only settings are read and written."""


class Network:
    device = GPU

    @runtime.in_full_precision
    def tf32(self, unless: bool = False) -> tuple[bool, bool]:
        if unless:
            raise ValueError("no")
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def precisions() -> list[str]:
    backends: Any = torch.backends
    return [backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision, backends.cudnn.rnn.fp32_precision]


def by_the_old_interface(matmul: bool, cudnn: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


def by_the_new_interface(matmul: str, conv: str) -> None:
    backends: Any = torch.backends
    backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision = matmul, conv


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    before = precisions()
    yield
    by_the_old_interface(before[0] == "tf32", before[1] == "tf32")
    by_the_new_interface(*before[:2])
    assert precisions() == before


@pytest.mark.parametrize(
    "set_before",
    [
        lambda: None,
        lambda: by_the_old_interface(True, True),
        lambda: by_the_old_interface(False, False),
        lambda: by_the_new_interface("tf32", "tf32"),
        lambda: by_the_new_interface("tf32", "ieee"),
        lambda: by_the_new_interface("none", "ieee"),
    ],
)
def test_tf32_is_off_inside_and_as_before_outside(set_before: Callable[[], None]) -> None:
    set_before()
    before = precisions()
    assert Network().tf32() == (False, False)
    assert precisions() == before
    with pytest.raises(ValueError, match="no"):
        Network().tf32(unless=True)
    assert precisions() == before
    with runtime.full_precision(GPU), runtime.full_precision(GPU):
        assert "tf32" not in precisions()
    assert precisions() == before


def test_after_it_torch_answers_for_its_settings_as_before() -> None:
    """It refuses to where its two interfaces to them disagree."""
    by_the_old_interface(True, True)
    Network().tf32()
    assert torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32


def test_without_a_gpu_nothing_is_changed() -> None:
    by_the_old_interface(True, True)
    with runtime.full_precision(torch.device("cpu")):
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32


def test_threads_and_deterministic_kernels_are_set_back_also_after_an_error() -> None:
    before = torch.get_num_threads()
    counts = []

    def fail() -> None:
        with runtime.computing(threads=before + 1):
            counts.append(torch.get_num_threads())
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert counts == [before + 1]
    assert torch.get_num_threads() == before
    with runtime.computing():
        assert torch.get_num_threads() == before
    with runtime.computing(threads=before + 1, exact=True):
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == before
    assert not torch.are_deterministic_algorithms_enabled()


def test_devices_and_precisions_have_names() -> None:
    assert runtime.device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert runtime.device("cuda:1") == "cuda:1"
    assert runtime.checked_precision("bf16") == "bf16"
    with pytest.raises(OvssError, match="unknown precision 'fp16'; write one of fp32, bf16, int8"):
        runtime.checked_precision("fp16")


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_ends_with_its_context(precision: str, dtype: torch.dtype) -> None:
    x = torch.ones(2, 2)
    with runtime.autocast(x.device, precision):
        assert (x @ x).dtype == dtype
    assert (x @ x).dtype == torch.float32


def test_bf16_on_a_cpu_without_its_instructions_warns_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    runtime._warn_of_bf16.cache_clear()
    for flags, lacking in (
        ("flags\t: fpu avx512_bf16", False),
        ("Features\t: fp bf16", False),
        ("flags\t: avx2", True),
    ):
        processor.CPUINFO.write_text(f"processor\t: 0\n{flags}\n")
        assert processor.lacks_bf16() == lacking
    with pytest.warns(
        RuntimeWarning, match="bf16 on a CPU without bf16 instructions .* is 3 to 5 times slower than fp32"
    ):
        runtime.autocast(torch.device("cpu"), "bf16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runtime.autocast(torch.device("cpu"), "bf16")
    processor.CPUINFO.unlink()
    assert not processor.lacks_bf16(), "unknown elsewhere"


def test_what_goes_to_a_device_comes_back() -> None:
    array = np.arange(6).reshape(2, 3)
    assert np.array_equal(runtime.down(runtime.up(array, torch.device("cpu"))), array)
