"""The two CLIPs of SCAN, and the reading and merging of their checkpoints.

The fine-tuned CLIP has the original text tower, and an image tower for crops. The frozen CLIP is an image tower for
whole photographs. Dimensions: K classes, D features.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.errors import OvssError
from ovss_ray.models import checkpoint, runtime, text, zoo
from ovss_ray.models.clip import TextTower, WholeImageTower, text_sizes
from ovss_ray.models.clip_sizes import ClipSizes
from ovss_ray.models.scan.swin import constants
from ovss_ray.models.scan.variants import Variant
from ovss_ray.structures.vocabulary import Vocabulary

SCALE = 100.0
"""Factor from cosine to logit. It is a constant of the official code, which does not use CLIP's temperature."""
ADAPTER = "clip_adapter."
"""Prefix of the entries of both CLIPs in a checkpoint"""
MODEL, ORIGINAL = ADAPTER + "clip_model.", ADAPTER + "original_clip."
"""Prefix of the fine-tuned CLIP's entries, and prefix of the frozen CLIP's entries"""
VISUAL, VOID = MODEL + "visual.", ADAPTER + "non_object_embedding"
"""Prefix of the entries of the fine-tuned image tower, and name of the entry with the embedding of "void" """
TUNED = ("module.clip_model.", "module.", "")
"""Possible prefixes of the entries in a checkpoint of a fine-tuned CLIP

SCAN's script writes the prefix "module.clip_model.", and open_clip on several GPUs writes the prefix "module.".
`ovss train` writes no prefix.
"""
MASK = "attn_mask"
"""Name of the text tower's causal mask, a constant that only some checkpoints contain"""
UNUSED = (MODEL + MASK, ADAPTER + "pixel_mean", ADAPTER + "pixel_std", "criterion.empty_weight")
"""Names of official entries that inference does not use: causal mask, mean and deviation of pixels, loss weight"""


class Clip(TextTower):
    """CLIP with both towers; the image tower is fine-tuned on crops, the text tower is the original one."""

    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__(**text_sizes(sizes))
        self.visual = WholeImageTower.of(sizes)


class Words(TextTower):
    """CLIP's text tower alone, and the learned embedding of "void"."""

    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__(**text_sizes(sizes))
        self.non_object_embedding = nn.Parameter(torch.empty(1, sizes.embed))

    def classifier(self, vocabulary: Vocabulary) -> Tensor:
        """Return the classifier of a vocabulary: unit-norm rows (K + 1, D), "void" last."""
        return classifier(self, self.non_object_embedding, vocabulary)


class Adapter(nn.Module):
    """Both CLIPs, and the learned embedding of "void"."""

    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__()
        self.clip_model = Clip(sizes)
        self.original_clip = WholeImageTower.of(sizes)
        self.non_object_embedding = nn.Parameter(torch.empty(1, sizes.embed))


def logits(embeddings: Tensor, rows: Tensor) -> Tensor:
    """Return logits (…, K + 1): 100 · cosine of embeddings (…, D) and a classifier's unit-norm rows (K + 1, D)."""
    return SCALE * (F.normalize(embeddings, dim=-1) @ rows.T)


@torch.inference_mode()
def classifier(tower: TextTower, void: Tensor, vocabulary: Vocabulary, embed: text.Embed | None = None) -> Tensor:
    """Return SCAN's classifier of a vocabulary: unit-norm rows (K + 1, D) float32, `void` (1, D) last.

    `embed` is the function that embeds texts. If `embed` is None, the function is text.embed.
    """
    with runtime.full_precision(void.device):
        rows = (embed or text.embed)(tower, text.whole_names(vocabulary), text.templates(vocabulary, "vild"))
        return torch.cat([rows, F.normalize(void, dim=-1)])


def state_of(files: Sequence[Path], variant: Variant) -> checkpoint.State:
    """Return the state dict of a Scan, without the entries that inference does not use.

    `files` are a checkpoint of SCAN and, optionally, a checkpoint of CLIP for entries that SCAN's checkpoint lacks.
    """
    first, *base = files
    unused = {*UNUSED, *(f"backbone.{name}" for name in constants(variant))}
    state = {ours(key): value for key, value in checkpoint.read(first, ignore=unused).items()}
    for file in base:
        words, visual = checkpoint.read_clip(file)
        towers = {prefix + key: value for prefix in (VISUAL, ORIGINAL) for key, value in visual.items()}
        state = {MODEL + key: value for key, value in words.items()} | towers | state
    return state


def merge(name: str, segmenter: Path, clip: Path, out: Path) -> None:
    """Write `out`, a checkpoint of SCAN with a fine-tuned CLIP, as SCAN's tools/replace_clip.py does.

    `segmenter` is a checkpoint of the network `name`, such as "scan_vitL". `clip` is a checkpoint of CLIP with both
    towers. The entries of `clip` replace the entries `clip_adapter.clip_model.*` of `segmenter`. Raises OvssError if a
    file is unreadable or has no CLIP. Raises OvssError if the CLIPs differ in names or shapes of entries.
    """
    state, tuned = checkpoint.stored(segmenter), _tuned(clip)
    present = {key.removeprefix(MODEL): value.shape for key, value in state.items() if key.startswith(MODEL)}
    if not present:
        raise OvssError(f"{segmenter} has no entries {MODEL}*. Pass a checkpoint of the whole {name} as --segmenter")
    present.pop(MASK, None)
    checkpoint.compare(present, tuned, f"the CLIP in {clip} does not fit that of {segmenter}", {})
    content: dict[str, Any] = {"model": state | {MODEL + key: value for key, value in tuned.items()}}
    if zoo.is_fake(segmenter) or zoo.is_fake(clip):
        content[zoo.FAKE] = {"name": name}
    checkpoint.write(content, out)


def _tuned(file: Path) -> checkpoint.State:
    """Return the state dict of a fine-tuned CLIP. The prefix of the keys, one of TUNED, is removed."""
    state = checkpoint.stored(file)
    for prefix in TUNED:
        part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if any(key.startswith(checkpoint.VISUAL) for key in part):
            return {key: value for key, value in part.items() if key != MASK}
    raise OvssError(
        f"{file} has no CLIP with an image tower: no entries {' or '.join(f'{prefix}visual.*' for prefix in TUNED)}. "
        "Pass the checkpoint of the fine-tuned CLIP as --clip"
    )


def official(key: str) -> str:
    """Return the official name of an entry."""
    return key.replace(".visual.resblocks.", ".visual.transformer.resblocks.").replace(
        ".original_clip.resblocks.", ".original_clip.transformer.resblocks."
    )


def ours(key: str) -> str:
    """Return our name of an official entry. In image towers, "transformer.resblocks." becomes "resblocks."."""
    return key.replace(".visual.transformer.", ".visual.").replace(".original_clip.transformer.", ".original_clip.")
