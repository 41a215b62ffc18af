"""Read checkpoints without running code in them, and compare them with the network before loading."""

import os
import pickle
import struct
import uuid
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ovss_ray.errors import OvssError
from ovss_ray.io import file_kinds
from ovss_ray.models.checkpoint import torchscript

State = dict[str, Tensor]
Shapes = Mapping[str, torch.Size]
Module = TypeVar("Module", bound=nn.Module)

VISUAL = "visual."
"""Prefix of the image tower in a CLIP checkpoint"""
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
"""Entries of OpenAI's archives that are not weights"""
EXTRACTOR, HEAD, WORDS = "clip_visual_extractor", "clip_rec_head", "ov_classifier"
"""Prefixes in a SAN's checkpoint: CLIP's first blocks, CLIP's last blocks, and CLIP's text tower"""
_BROKEN = (
    *(OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(struct.error, zipfile.BadZipFile, safetensors.SafetensorError),
)
"""Exceptions that torch and safetensors raise for damaged files"""


def read(path: Path, ignore: Collection[str] = ()) -> State:
    """Return the state dict of a checkpoint, float32 on the CPU, without the entries named in `ignore`.

    Raises OvssError as `stored` does.
    """
    return {name: value.float() for name, value in stored(path).items() if name not in ignore}


def stored(path: Path) -> State:
    """Return the state dict of a checkpoint as it is stored, on the CPU.

    Accepted files: .safetensors; a pickled state dict; a pickled dict with the state dict under "model" or
    "state_dict". Raises OvssError if the file is unreadable, would run code when loaded, or has no state dict.
    """
    content = _open(path)
    state = content
    for key in ("model", "state_dict"):
        state = state.get(key, state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise OvssError(
            f"{path} contains no state dict: {_summary(content)}. Pass a file that contains a dict of tensors by name, "
            "at the top level or under the key 'model' or 'state_dict'"
        )
    return dict(state)


def write(content: Mapping[str, Any], path: Path) -> None:
    """Write the content of a checkpoint with torch.save. The file has a temporary name until it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        torch.save(content, aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def read_any(path: Path) -> State:
    """Return a state dict as `read` does. OpenAI's TorchScript archives are accepted, too."""
    state = torchscript.read(path) if torchscript.is_archive(path) else read(path)
    return {name: value for name, value in state.items() if name not in NOT_WEIGHTS}


def read_clip(path: Path) -> tuple[State, State]:
    """Return the state dicts of a CLIP's text tower and image tower, with our parameter names.

    `path` is a checkpoint of CLIP or of SAN. Raises OvssError as `read` does.
    """
    state = read_any(path)
    if any(name.startswith(EXTRACTOR) for name in state):
        state = _of_san(state)
    words = {name: value for name, value in state.items() if not name.startswith(VISUAL)}
    return words, image_tower({name.removeprefix(VISUAL): value for name, value in state.items() if name not in words})


def _of_san(state: State) -> State:
    """Return the state dict of the CLIP inside a SAN, with CLIP's parameter names.

    In a SAN, the first blocks of CLIP's image tower have the prefix EXTRACTOR. The last blocks have the prefix HEAD.
    Both parts number their blocks from 0. If EXTRACTOR has 9 blocks, block 0 of HEAD becomes block 9 of CLIP.
    """
    shallow = len({name.split(".")[2] for name in state if name.startswith(EXTRACTOR + ".resblocks.")})
    clip = {}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        if part == HEAD and rest.startswith("resblocks."):
            _, number, inner = rest.split(".", 2)
            rest = f"resblocks.{shallow + int(number)}.{inner}"
        if part in (EXTRACTOR, HEAD):
            clip[VISUAL + rest] = value
        elif part == WORDS and rest not in ("bg_embed", "attn_mask"):
            clip[rest] = value
    return clip


def image_tower(state: State) -> State:
    """Rename the entries of an official image tower to our names.

    AlphaCLIP stores `in_proj` as a linear layer. The layer's entries `in_proj.weight` and `in_proj.bias` become
    `in_proj_weight` and `in_proj_bias`.
    """
    return {
        name.removeprefix("transformer.").replace("attn.in_proj.", "attn.in_proj_"): value
        for name, value in state.items()
    }


def _open(path: Path) -> Any:
    if not path.is_file():
        raise OvssError(f"checkpoint not found: {path}. Pass the path of an existing file")
    with path.open("rb") as file:
        placeholder = file_kinds.placeholder(file.read(64))
    if placeholder:
        raise OvssError(f"{path} is not a checkpoint: {placeholder}. Was the download complete? Download it again")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        # Files of torch ≥ 1.6 are zip files. Memory-mapped, only the tensors in use are read from disk.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as failure:
        lines = str(failure).splitlines() or [type(failure).__name__]
        reason = next((line for line in lines if "nsupported" in line), lines[0])
        raise OvssError(
            f"{path} is not a checkpoint that can be read safely. No code in the file was run. "
            f"Was the download complete? Download the official file again. The error of torch is: {reason}"
        ) from failure
    except _BROKEN as failure:
        reason = str(failure).partition("\n")[0] or type(failure).__name__
        raise OvssError(
            f"{path} cannot be read as a checkpoint: {reason}. Was the download complete? Download it again"
        ) from failure


def _summary(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"its entries are {_few([str(key) for key in content])}" if content else "it is empty"
    return f"it is a {type(content).__name__}"


def shapes(module: nn.Module) -> Shapes:
    """Return the shape of each entry in the state dict of a module."""
    return {name: value.shape for name, value in module.state_dict().items()}


def fill(module: Module, state: State, path: Path, name: str, others: Mapping[str, Shapes]) -> Module:
    """Load a state dict into a module on the meta device, and return the module ready for inference.

    `path` is the file of the state dict, and `name` is the name of the network. The error message contains both.
    `others` is the parameter `others` of `compare`. Raises OvssError as `compare` does.
    """
    compare(shapes(module), state, f"{path} is not a checkpoint of {name}", others)
    module.load_state_dict(state, assign=True)
    return module.eval().requires_grad_(False)


def load_into(module: nn.Module, state: State, fault: str) -> None:
    """Copy a state dict into a module. Raises OvssError as `compare` does, with a message that begins with `fault`."""
    compare(shapes(module), state, fault, {})
    module.load_state_dict(state)


def compare(expected: Shapes, state: State, fault: str, others: Mapping[str, Shapes]) -> None:
    """Raise OvssError if names or shapes of a state dict differ from the expected names and shapes.

    The message begins with `fault`, such as "x.pt is not a checkpoint of san". `others` are the shapes of other
    networks, by name. If the state dict has the shapes of another network, the message names that network.
    """
    actual = {key: value.shape for key, value in state.items()}
    if expected != actual:
        raise OvssError(f"{fault}. {_faults(expected, actual)}{_advice(actual, others)}")


def _faults(expected: Shapes, actual: Shapes) -> str:
    both = [key for key in expected if key in actual and expected[key] != actual[key]]
    faults = {
        "Missing": [key for key in expected if key not in actual],
        "Unexpected": [key for key in actual if key not in expected],
        "Different shape": [f"{key} {tuple(actual[key])} instead of {tuple(expected[key])}" for key in both],
    }
    return " ".join(f"{fault}: {_few(keys)}." for fault, keys in faults.items() if keys)


def _advice(actual: Shapes, others: Mapping[str, Shapes]) -> str:
    fitting = [name for name, shapes in others.items() if shapes == actual]
    return f" It is a checkpoint of {fitting[0]}: write that name, or pass another checkpoint" if fitting else ""


def _few(keys: Iterable[str], most: int = 4) -> str:
    listed = list(keys)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
