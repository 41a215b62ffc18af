"""AlphaCLIP for tests: with the weights of its goldens, and one that takes a blink, as a stage for whole runs."""

import json
from pathlib import Path

import torch
from torch import Tensor

from ovss_ray.actors import alpha_clip
from ovss_ray.models import checkpoint, fake
from ovss_ray.models.alpha_clip.network import AlphaClip
from ovss_ray.models.alpha_clip.variants import VARIANTS, Variant

SMALL = Variant(
    width=32,
    heads=2,
    layers=2,
    patch=8,
    grid=4,
    embed=16,
    text_width=16,
    text_heads=2,
    text_layers=2,
    base="clip_small",
)
"""An AlphaCLIP that has everything the real ones have."""
VARIANTS["alpha_clip_small"] = SMALL


class Stage(alpha_clip.Stage):
    """`alpha_clip` of the variant alpha_clip_small."""

    class Config(alpha_clip.Stage.Config):
        variant: str = "alpha_clip_small"


def golden_files(shared: Path, arch: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the two official files of goldens hold: the CLIP in OpenAI's naming, and AlphaCLIP's image tower."""
    manifest = json.loads((shared / f"parity/alpha_clip/manifest_alphaclip_{arch}.json").read_text())
    state = {name: fake.tensor(name, tuple(shape)) for name, (shape, _) in manifest["tensors"].items()}
    return divided(state, manifest["base_openai_clip_file"]["renamed"])


def divided(state: dict[str, Tensor], renamed: dict[str, str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    openai = {official: name for name, official in renamed.items()}
    base = {openai.get(name, name): value for name, value in state.items() if "conv1_alpha" not in name}
    visual = {name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")}
    return base, visual


def small_state(seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The two files of SMALL, by their official names."""
    return made_up_state(SMALL, seed)


def made_up_state(variant: Variant, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The two files of a variant, by their official names, with values that follow from these."""
    with torch.device("meta"):
        model = AlphaClip(variant)
    state = {}
    for name, shape in checkpoint.shapes(model).items():
        official = name.removeprefix("text.").replace("visual.resblocks", "visual.transformer.resblocks")
        if name.startswith("visual."):
            official = official.replace("in_proj_", "in_proj.")
        state[official] = fake.tensor(official, tuple(shape), seed)
    return divided(state, {name.replace("in_proj.", "in_proj_"): name for name in state if "in_proj." in name})


def save(files: tuple[dict[str, Tensor], dict[str, Tensor]], folder: Path) -> tuple[Path, Path]:
    """Write two files as they are published, but for the first one's TorchScript."""
    paths = folder / "base.pt", folder / "visual.pth"
    for content, path in zip(files, paths, strict=True):
        torch.save(content, path)
    return paths
