"""Read the tensors of TorchScript archives, such as OpenAI's CLIP, without running the code in an archive.

torch.jit.load could run the code. torch.load(weights_only=True) refuses TorchScript archives.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovss_ray.errors import OvssError


class _Module:
    """Placeholder for all classes that the archive's own code defines. An instance holds a module's attributes."""


def _rebuild(storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)


DTYPES = {"FloatStorage": torch.float32, "HalfStorage": torch.float16, "LongStorage": torch.int64}
"""dtype of each storage class, by the name of the class in a pickle"""
KNOWN = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch.jit._pickle", "build_intlist"): list,
    ("collections", "OrderedDict"): OrderedDict,
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
}
"""(module, name) → object, for all objects that an archive may refer to besides its own classes"""


class _Unpickler(pickle.Unpickler):
    """Unpickler that accepts modules and tensors, and refuses everything else."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive, self.folder = archive, archive.namelist()[0].partition("/")[0]
        super().__init__(io.BytesIO(archive.read(f"{self.folder}/data.pkl")))

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "__torch__":
            return _Module
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"the archive refers to {module}.{name}, which is not allowed")
        return KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Tensor:
        # data.pkl, a pickle of modules, refers to the storages data/0, data/1, …
        _, dtype, key, *_ = pid
        return torch.frombuffer(bytearray(self.archive.read(f"{self.folder}/data/{key}")), dtype=dtype)


def is_archive(path: Path) -> bool:
    """Return whether a file is a TorchScript archive: a zip file with code."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read(path: Path) -> dict[str, Tensor]:
    """Return the parameters and buffers of an archive by name, floating-point ones as float32.

    Raises OvssError for a file that is damaged or refers to objects other than modules and tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            tensors = dict(_tensors(_Unpickler(archive).load(), ""))
    except (
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        OSError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
    ) as failure:
        raise OvssError(
            f"{path} cannot be read as a TorchScript archive: {failure}. No code in it was run. "
            "Download the official file"
        ) from failure
    except (RuntimeError, AttributeError) as failure:
        raise OvssError(
            f"{path} is a damaged TorchScript archive: {failure}. Was the download complete? Download it again"
        ) from failure
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}


def _tensors(module: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.")
