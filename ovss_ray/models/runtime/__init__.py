"""Device, threads and precision of torch's computations, and the copies to and from a GPU.

`computing` and `full_precision` change settings of the whole process until the `with` block ends.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from ovss_ray.errors import OvssError
from ovss_ray.io import processor

PRECISIONS = ("fp32", "bf16", "int8")


class OnDevice(Protocol):
    """A network with a property `device`, the device of its weights."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""


Arguments = ParamSpec("Arguments")
Network = TypeVar("Network", bound=OnDevice)
Result = TypeVar("Result")


def device(name: str) -> str:
    """Return the name of a device. "auto" becomes "cuda" if there is a GPU, else "cpu"; other names stay the same."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def gpus() -> int:
    """Return the number of GPUs of this machine that torch can use."""
    return torch.cuda.device_count()


def checked_precision(precision: str) -> str:
    """Return `precision` if it is one of PRECISIONS. Raises OvssError for another value."""
    if precision not in PRECISIONS:
        raise OvssError(f"unknown precision {precision!r}; write one of {', '.join(PRECISIONS)}")
    return precision


@contextmanager
def computing(threads: int | None = None, exact: bool = False) -> Iterator[None]:
    """Set torch's number of CPU threads in a `with` block. If `threads` is None, the number stays the same.

    If `exact` is True, torch uses one thread and deterministic kernels, whatever `threads` is.
    """
    # The debug mode is the same switch as use_deterministic_algorithms, which would import the whole of torch.compile.
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    if exact:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it before its first use
    try:
        torch.set_num_threads(1 if exact else threads or before[0])
        torch.set_deterministic_debug_mode("error" if exact else before[1])
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_deterministic_debug_mode(before[1])


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Turn TensorFloat-32 off in a `with` block, for matrix products and convolutions on a GPU.

    Nothing changes if `device` is a CPU.
    """
    if device.type != "cuda":
        yield
        return
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    operations = (matmul, cudnn.conv, cudnn.rnn)
    before = [operation.fp32_precision for operation in operations]
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:  # both of torch's interfaces to this setting: one raises an error if they disagree
        matmul.allow_tf32, cudnn.allow_tf32 = before[0] == "tf32", before[1] == "tf32"
        for operation, precision in zip(operations, before, strict=True):
            operation.fp32_precision = precision


def in_full_precision(
    method: Callable[Concatenate[Network, Arguments], Result],
) -> Callable[Concatenate[Network, Arguments], Result]:
    """Decorate a method of a network, so that TensorFloat-32 is off while the method runs."""

    @wraps(method)
    def computed(network: Network, *arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        with full_precision(network.device):
            return method(network, *arguments, **options)

    return computed


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return torch's autocast to bfloat16 for "bf16", and a disabled autocast otherwise.

    The first autocast to bfloat16 on a CPU without bf16 instructions emits a RuntimeWarning.
    """
    if precision == "bf16" and device.type == "cpu":
        _warn_of_bf16()
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@cache
def _warn_of_bf16() -> None:
    if processor.lacks_bf16():
        warning = processor.slow_bf16("this network", 'Load it with precision="fp32", or on a GPU')
        warnings.warn(warning, RuntimeWarning, stacklevel=3)


def up(array: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Copy an array of any shape from the host to a device. The copy to a GPU is asynchronous, from pinned memory."""
    copied = torch.as_tensor(array)
    return copied.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else copied.to(device)


def down(array: Tensor) -> np.ndarray:
    """Copy a tensor of any shape to the host. The call waits until the device has computed the tensor."""
    return array.cpu().numpy()
