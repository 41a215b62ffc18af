"""The state dict of an Open-Vocabulary SAM from its checkpoints, in any of the official layouts."""

from collections.abc import Sequence
from pathlib import Path

from ovss_ray.errors import OvssError
from ovss_ray.models import checkpoint
from ovss_ray.models.checkpoint import VISUAL, State
from ovss_ray.models.ovsam.variants import CLIP, PARTS, checkpoints, remaining

OWN = ("backbone.", "neck.", "fpn_neck.", "pe.", "mask_decoder.")
"""Prefixes of the official state dict; CLIP's text tower is not in it"""
WORDS = "words."
"""Prefix of the text tower in our network"""
IMAGE = (
    *(("conv1.", "stem.0."), ("bn1.", "stem.1."), ("conv2.", "stem.3."), ("bn2.", "stem.4.")),
    *(("conv3.", "stem.6."), ("bn3.", "stem.7."), ("attnpool.", "head.")),
)
"""Prefix in CLIP's ResNet → prefix in the backbone; the stages have equal names"""


def state_of(name: str, files: Sequence[Path]) -> State:
    """Return the network's entries from checkpoints, in the order of variants.checkpoints or without contained ones.

    The first file may be the official state dict of the whole network, or also contain CLIP's text tower. Raises
    OvssError for a file without the expected entries, and as checkpoint.read_any does.
    """
    rest = remaining(name, files[0])
    whole = rest != checkpoints(name)[1:]
    state = _whole(checkpoint.read_any(files[0])) if whole else {}
    roles = ((name, *rest) if len(files) == 1 + len(rest) else checkpoints(name))[whole:]
    for role, file in zip(roles, files[whole:], strict=True):
        state |= _clip(file, words_only=whole) if role == CLIP else _part(role, file)
    return state


def _whole(state: State) -> State:
    """Return the entries of a state dict of the whole network; entries of a text tower get our prefix."""
    return {key if key.startswith(OWN) else WORDS + key: value for key, value in state.items()}


def _clip(file: Path, words_only: bool) -> State:
    """Return the entries of OpenAI's RN50x16: the text tower, and the image tower unless `words_only`."""
    state = checkpoint.read_any(file)
    result = {WORDS + key: value for key, value in state.items() if not key.startswith(VISUAL)}
    if not words_only:
        result |= {_of_backbone(key.removeprefix(VISUAL)): state[key] for key in state if key.startswith(VISUAL)}
    return result


def _of_backbone(key: str) -> str:
    for theirs, ours in IMAGE:
        if key.startswith(theirs):
            return "backbone." + ours + key.removeprefix(theirs)
    return "backbone." + key


def _part(role: str, file: Path) -> State:
    """Return the entries of a part's checkpoint under our names. Raises OvssError if a kind of entries is missing."""
    state: State = checkpoint.read(file)
    result: State = {}
    for theirs, ours in PARTS[role].items():
        entries = {ours + key.removeprefix(theirs): value for key, value in state.items() if key.startswith(theirs)}
        if not entries:
            raise OvssError(
                f"{file} is not a checkpoint of {role}: no entry begins with {theirs!r}. Pass the files in the order "
                f"that `ovss list weights` gives, or the official state dict of the whole network first"
            )
        result |= entries
    return result
