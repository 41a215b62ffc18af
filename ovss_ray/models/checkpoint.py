"""Checkpoints: read without running code that they may hold, and checked against the network before they fill it."""

import pickle
import struct
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ovss_ray import file_kinds
from ovss_ray.errors import OvssError

State = dict[str, Tensor]
Shapes = Mapping[str, torch.Size]
Module = TypeVar("Module", bound=nn.Module)

_BROKEN = (
    *(OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(struct.error, zipfile.BadZipFile, safetensors.SafetensorError),
)
"""What torch and safetensors raise on damaged files."""


def read(path: Path, ignore: Collection[str] = ()) -> State:
    """Read a state dict, float32 on the CPU: a .safetensors file, a bare state dict, or one under the key "model".

    The latter is what detectron2 saves beside the optimizer's state. Tensors of a zip file (torch ≥ 1.6) are mapped,
    not read: only what is used is ever loaded. Raises OvssError for a file that cannot be read, that wants to run code,
    or that holds no state dict.
    """
    content = _open(path)
    state = content.get("model", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise OvssError(
            f"{path} holds no state dict: {_summary(content)}. Give a checkpoint of the network, in the official format"
        )
    return {name: value.float() for name, value in state.items() if name not in ignore}


def _open(path: Path) -> Any:
    if not path.is_file():
        raise OvssError(f"{path}: there is no such file")
    with path.open("rb") as file:
        placeholder = file_kinds.placeholder(file.read(64))
    if placeholder:
        raise OvssError(f"{path} is not a checkpoint: {placeholder}. Was the download complete? Download it again")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as failure:
        lines = str(failure).splitlines() or [type(failure).__name__]
        reason = next((line for line in lines if "nsupported" in line), lines[0])
        raise OvssError(
            f"{path} is not a checkpoint that can be read safely: {reason} Nothing of it was run. "
            "Was the download complete, and is it the official file?"
        ) from failure
    except _BROKEN as failure:
        reason = str(failure).partition("\n")[0] or type(failure).__name__
        raise OvssError(f"{path} cannot be read as a checkpoint: {reason}. Was the download complete?") from failure


def _summary(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"its entries are {_few([str(key) for key in content])}" if content else "it is empty"
    return f"it is a {type(content).__name__}"


def shapes(module: nn.Module) -> Shapes:
    """The shapes of the entries that a module wants."""
    return {name: value.shape for name, value in module.state_dict().items()}


def fill(module: Module, state: State, path: Path, name: str, others: Mapping[str, Shapes]) -> Module:
    """Put a state dict into a module that was built on the meta device, and make it ready for inference.

    Raises OvssError unless names and shapes are exactly the module's; it lists a few of the entries at fault, and says
    so if the state dict is that of one of the `others`.
    """
    wanted, found = shapes(module), {key: value.shape for key, value in state.items()}
    if wanted != found:
        raise OvssError(f"{path} is not a checkpoint of {name}. {_faults(wanted, found)}{_advice(found, others)}")
    module.load_state_dict(state, assign=True)
    return module.eval().requires_grad_(False)


def _faults(wanted: Shapes, found: Shapes) -> str:
    both = [key for key in wanted if key in found and wanted[key] != found[key]]
    faults = {
        "Missing": [key for key in wanted if key not in found],
        "Unexpected": [key for key in found if key not in wanted],
        "Of another shape": [f"{key} {tuple(found[key])} instead of {tuple(wanted[key])}" for key in both],
    }
    return " ".join(f"{fault}: {_few(keys)}." for fault, keys in faults.items() if keys)


def _advice(found: Shapes, others: Mapping[str, Shapes]) -> str:
    fitting = [name for name, shapes in others.items() if shapes == found]
    return f" It is a checkpoint of {fitting[0]}: write that name, or give the file of this one" if fitting else ""


def _few(keys: Iterable[str], most: int = 4) -> str:
    listed = list(keys)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
