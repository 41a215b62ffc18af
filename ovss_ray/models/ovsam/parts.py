"""Assembly of the state dict of an Open-Vocabulary SAM. Its checkpoints may have any of the official layouts."""

from collections.abc import Sequence
from pathlib import Path

from ovss_ray.errors import OvssError
from ovss_ray.models import checkpoint, zoo
from ovss_ray.models.checkpoint import VISUAL, State
from ovss_ray.models.ovsam.variants import CLIP, CLIP_TINY, PARTS, checkpoints, remaining

OWN = ("backbone.", "neck.", "fpn_neck.", "pe.", "mask_decoder.")
"""Prefixes of all entries in the official state dict, except the entries of CLIP's text tower"""
WORDS = "words."
"""Prefix of the text tower in our network"""
NECK_FILE = "neck_student."
"""Prefix of the entries of an official checkpoint of the neck"""
IMAGE = (
    *(("conv1.", "stem.0."), ("bn1.", "stem.1."), ("conv2.", "stem.3."), ("bn2.", "stem.4.")),
    *(("conv3.", "stem.6."), ("bn3.", "stem.7."), ("attnpool.", "head.")),
)
"""Prefix in CLIP's ResNet → prefix in the backbone; the prefixes of the four stages are the same in both"""


def state_of(name: str, files: Sequence[Path]) -> State:
    """Return a network's state dict from the checkpoints `files`.

    `files` has the paths of the checkpoints that variants.checkpoints lists, in the same order. If the first checkpoint
    contains the entries of other checkpoints, all of these may be left out (see variants.remaining). Raises OvssError
    if a file lacks expected entries or cannot be read.
    """
    rest = remaining(name, files[0])
    whole = rest != checkpoints(name)[1:]
    state = _whole(checkpoint.read_any(files[0])) if whole else {}
    roles = ((name, *rest) if len(files) == 1 + len(rest) else checkpoints(name))[whole:]
    for role, file in zip(roles, files[whole:], strict=True):
        state |= _clip(role, file, whole) if role in (CLIP, CLIP_TINY) else _part(role, file)
    return state


def _whole(state: State) -> State:
    """Return a whole network's state dict, with the prefix WORDS for the entries of CLIP's text tower."""
    return {key if key.startswith((*OWN, WORDS)) else WORDS + key: value for key, value in state.items()}


def _clip(role: str, file: Path, words_only: bool) -> State:
    """Return the entries of a CLIP: the text tower, and the image tower unless `words_only`."""
    if role == CLIP_TINY:
        words, image = checkpoint.read_clip(file)
        image = {} if words_only else image
        return {WORDS + key: words[key] for key in words} | {"backbone." + key: image[key] for key in image}
    state = checkpoint.read_any(file)
    result = {WORDS + key: value for key, value in state.items() if not key.startswith(VISUAL)}
    if not words_only:
        result |= {_of_backbone(key.removeprefix(VISUAL)): state[key] for key in state if key.startswith(VISUAL)}
    return result


def towers(name: str, clip: str | None = None) -> tuple[State, State]:
    """Return the entries of a network's text tower, and of the network's image tower, from CLIP's checkpoint.

    `clip` is the path of the checkpoint. If `clip` is None, the published or shipped checkpoint is used.
    """
    role = checkpoints(name)[1]
    entries = _clip(role, zoo.find(role, clip), words_only=False)
    texts = {key.removeprefix(WORDS): value for key, value in entries.items() if key.startswith(WORDS)}
    return texts, {key.removeprefix("backbone."): value for key, value in entries.items() if not key.startswith(WORDS)}


def _of_backbone(key: str) -> str:
    for theirs, ours in IMAGE:
        if key.startswith(theirs):
            return "backbone." + ours + key.removeprefix(theirs)
    return "backbone." + key


def _part(role: str, file: Path) -> State:
    """Return the entries of the checkpoint `role`, with prefixes replaced as in PARTS[role].

    Raises OvssError if the file lacks entries for a prefix.
    """
    state: State = checkpoint.read(file)
    result: State = {}
    for theirs, ours in PARTS[role].items():
        entries = {ours + key.removeprefix(theirs): value for key, value in state.items() if key.startswith(theirs)}
        if not entries:
            raise OvssError(
                f"{file} is not a checkpoint of {role}: no entry begins with {theirs!r}. Pass the files in the order "
                "that `ovss list weights` gives. Or pass the official state dict of the whole network as the first file"
            )
        result |= entries
    return result
