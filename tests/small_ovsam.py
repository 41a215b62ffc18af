"""A small Open-Vocabulary SAM, for tests that need no large network."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ovss_ray.models.ovsam.fake import state_dict
from ovss_ray.models.ovsam.network import Ovsam
from ovss_ray.models.ovsam.parts import OWN, WORDS
from ovss_ray.models.ovsam.variants import Variant

SMALL = Variant(
    roi=4, resnet_width=8, resnet_layers=(1, 1, 1, 1), resnet_heads=4, clip_grid=4, features=16, text_width=16,
    text_heads=2, text_layers=1, text_vocabulary=65, context=24, words="scenes", pixels=256, width=32, heads=2,
    windows=(6, 0), embed=16, mask_width=4, decoder_heads=2, decoder_mlp=32,
)  # fmt: skip


def network(state: Mapping[str, Tensor]) -> Ovsam:
    """The small network with the entries of a fake checkpoint."""
    with torch.device("meta"):
        model = Ovsam(SMALL)
    entries = {name if name.startswith(OWN) else WORDS + name: value for name, value in state.items()}
    model.load_state_dict(entries, assign=True)
    return model.eval().requires_grad_(False)


def parts(state: Mapping[str, Tensor], folder: Path) -> dict[str, Path]:
    """Files of all layouts, with the names and prefixes of the official ones: CLIP, neck, SAM, heads, demo."""
    stem = {"stem.0": "conv1", "stem.1": "bn1", "stem.3": "conv2", "stem.4": "bn2", "stem.6": "conv3", "stem.7": "bn3"}

    def of_clip(name: str) -> str:
        for ours, theirs in {**stem, "head": "attnpool"}.items():
            if name.startswith(ours + "."):
                return "visual." + theirs + name.removeprefix(ours)
        return "visual." + name

    def renamed(ours: str, theirs: str) -> dict[str, Tensor]:
        return {theirs + key.removeprefix(ours): value for key, value in state.items() if key.startswith(ours)}

    text = {key: value for key, value in state.items() if not key.startswith(OWN)}
    roi = "mask_decoder.roi_conv."
    own = {key: value for key, value in state.items() if key.startswith(OWN)}
    contents = {
        "clip": text | {of_clip(key): value for key, value in renamed("backbone.", "").items()},
        "neck": {"state_dict": renamed("neck.", "neck_student.") | {"backbone.unused": torch.zeros(2)}},
        "sam": renamed("pe.", "prompt_encoder.") | {"mask_decoder.iou_token.weight": torch.zeros(1, 16)},
        "heads": {"state_dict": renamed("fpn_neck.", "fpn_neck.") | renamed("mask_decoder.", "mask_decoder.")},
        "demo": renamed("mask_decoder.", "mask_decoder.") | {key: 0 * state[key] for key in state if roi in key},
        "demo_fpn": renamed("fpn_neck.", "fpn_neck.") | renamed(roi, "roi_conv."),
        "whole": own,
        "everything": dict(state),
    }
    files = {name: folder / f"{name}.pth" for name in contents}
    for name, content in contents.items():
        torch.save(content, files[name])
    return files


__all__ = ["SMALL", "network", "parts", "state_dict"]
