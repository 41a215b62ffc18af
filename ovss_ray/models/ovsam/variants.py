"""Sizes and checkpoints of Open-Vocabulary SAM. No torch is imported here.

Source of the sizes: https://github.com/HarborYuan/ovsam (NTU S-Lab License 1.0).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ovss_ray.models import zoo
from ovss_ray.models.clip_sizes import TINY, ClipSizes
from ovss_ray.models.zoo import Weights, by_hand, shipped


@dataclass(frozen=True)
class Variant:
    """Sizes of an Open-Vocabulary SAM: CLIP's image and text tower, the neck, and SAM's decoder."""

    roi: int = 12
    """side of the grid to which a region's features are pooled for the head; mode "demo" uses 7"""
    resnet_width: int = 96
    """channels of the stem; the last stage has 32 times as many"""
    resnet_layers: tuple[int, int, int, int] = (6, 8, 18, 8)
    """blocks of each stage"""
    resnet_heads: int = 48
    """heads of CLIP's attention pool"""
    clip_grid: int = 12
    """side of the grid to which a region's features are pooled for CLIP's branch"""
    tower: ClipSizes | None = None
    """sizes of CLIP's vision transformer; None: CLIP's image tower is the ResNet with the sizes `resnet_…`"""
    ratio: float = 1.0
    """sides of the transformer's input, as a fraction of the sides of the network's input"""
    shallow: int = 0
    """number of transformer blocks that compute the image tower's fourth map; the stem computes the first three maps"""
    features: int = 768
    """D: channels of the embeddings of regions and texts"""
    text_width: int = 768
    text_heads: int = 12
    text_layers: int = 12
    text_vocabulary: int = 49408
    context: int = 77
    words: str = ""
    """name of the tokeniser's word table (text.tokenise); empty: CLIP's byte pairs"""
    pixels: int = 1024
    """side of the network's square input, in pixels; the longer side of an image is resized to this length"""
    patch: int = 16
    """pixels of the network's input per cell of the image embedding"""
    width: int = 1280
    """channels of the neck"""
    heads: int = 16
    """attention heads of the neck"""
    windows: tuple[int, ...] = (14, 14, 14, 14, 0)
    """for each block of the neck, the side of its windows in cells; 0: attention over all cells"""
    embed: int = 256
    """channels of the image embedding, the decoder and the feature pyramid"""
    mask_width: int = 16
    """hidden channels of the encoder of mask prompts"""
    decoder_layers: int = 2
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    """hidden channels of the MLPs in the decoder's blocks"""

    @property
    def grid(self) -> int:
        """Side g of the image embedding; predicted masks have the side 4 g."""
        return self.pixels // self.patch

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of each of the four maps of CLIP's image tower."""
        if self.tower:
            width = self.tower.width
            return width // 4, width // 2, width, width
        first, second, third, last = (4 * self.resnet_width << stage for stage in range(4))
        return first, second, third, last

    @property
    def strides(self) -> tuple[int, int, int, int]:
        """Pixels of the network's input per cell, for each of the four maps of CLIP's image tower."""
        if self.tower:
            last = round(self.tower.patch / self.ratio)
            return last // 4, last // 2, last, last
        return 4, 8, 16, 32

    @property
    def clip_stride(self) -> int:
        """Pixels of the network's input per cell of the map that CLIP's branch reads."""
        return self.strides[2 if self.tower else 3]


VARIANTS = {
    "ovsam_rn50x16": Variant(),
    "ovsam_rn50x16_lvis": Variant(roi=7),
    "ovsam_rn50x16_demo": Variant(roi=7),
    # CLIP is clip_tiny. The neck learns to imitate sam_tiny's image encoder, so both have the same sizes
    "ovsam_tiny": Variant(
        roi=8, clip_grid=8, tower=TINY, ratio=0.5, shallow=4, features=TINY.embed, text_width=TINY.text_width,
        text_heads=TINY.text_heads, text_layers=TINY.text_layers, text_vocabulary=TINY.text_vocabulary,
        context=TINY.context, words=TINY.words, pixels=256, patch=8, width=96, heads=3, windows=(8, 8, 0, 8, 8, 0),
        embed=64, decoder_heads=4, decoder_mlp=256,
    ),
}  # fmt: skip
"""Network name → sizes. The networks differ in training data:

- ovsam_rn50x16: COCO's base classes
- ovsam_rn50x16_lvis: LVIS's base classes
- ovsam_rn50x16_demo: LVIS and V3Det
- ovsam_tiny: drawn scenes, see configs/train_ovsam_tiny.yaml
"""

CLIP, NECK, SAM, DEMO_NECK, DEMO_FPN, CLIP_TINY = (
    "clip_rn50x16", "ovsam_sam2clip", "sam_vit_h", "ovsam_demo_neck", "ovsam_demo_fpn", "clip_tiny",
)  # fmt: skip
"""Names of the checkpoints that contain parts of a network"""

PARTS: Mapping[str, Mapping[str, str]] = {
    "ovsam_rn50x16": {"fpn_neck.": "fpn_neck.", "mask_decoder.": "mask_decoder."},
    "ovsam_rn50x16_lvis": {"fpn_neck.": "fpn_neck.", "mask_decoder.": "mask_decoder."},
    "ovsam_rn50x16_demo": {"mask_decoder.": "mask_decoder."},
    "ovsam_tiny": {name: name for name in ("neck.", "fpn_neck.", "pe.", "mask_decoder.")},
    NECK: {"neck_student.": "neck."},
    SAM: {"prompt_encoder.": "pe."},
    DEMO_NECK: {"neck_student.": "neck."},
    DEMO_FPN: {"fpn_neck.": "fpn_neck.", "roi_conv.": "mask_decoder.roi_conv."},
}
"""Checkpoint name → {prefix in the checkpoint: prefix in the network}. Entries with other prefixes are not used.

If several checkpoints contain the same entry of the network, the entry of the last of these checkpoints is used. The
order of checkpoints is that of the function `checkpoints`.
"""


def checkpoints(name: str) -> tuple[str, ...]:
    """Return the names of a network's checkpoints.

    The first checkpoint contains the trained layers. The second checkpoint contains CLIP.
    """
    if name == "ovsam_tiny":
        return (name, CLIP_TINY)
    if name == "ovsam_rn50x16_demo":
        return (name, CLIP, DEMO_NECK, SAM, DEMO_FPN)
    return (name, CLIP, NECK, SAM)


def teacher(name: str) -> str:
    """Return the name of the SAM whose image encoder a network's neck learns to imitate.

    The network's prompt encoder and mask decoder are initialised with the weights of this SAM.
    """
    return "sam_tiny" if name == "ovsam_tiny" else SAM


def remaining(name: str, file: Path) -> tuple[str, ...]:
    """Return the names of the checkpoints to load in addition to `file`, the network's first checkpoint.

    - If `file` lacks CLIP's image tower: all other checkpoints.
    - If `file` lacks only CLIP's text tower, like official state dicts: the checkpoint of CLIP.
    - If `file` has the whole network, like fake checkpoints: none.
    """
    tower = name in VARIANTS and VARIANTS[name].tower
    if not zoo.has_entry(file, "backbone.conv1." if tower else "backbone.stem."):
        return checkpoints(name)[1:]
    return () if zoo.has_entry(file, "token_embedding.weight") else checkpoints(name)[1:2]


_LICENCE = "NTU S-Lab License 1.0 (not for commercial use)"


def _official(file: str, option: str = "") -> Weights:
    page = "https://huggingface.co/HarborYuan/ovsam_models"
    return Weights(file, f"{page}/resolve/main/{file}", None, None, _LICENCE, page, option)


def _demo(file: str, option: str = "") -> Weights:
    page = "https://huggingface.co/spaces/HarborYuan/ovsam"
    return replace(by_hand(file, _LICENCE, page), option=option)


_SHA256 = "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa"
WEIGHTS: Mapping[str, Weights] = {
    "ovsam_rn50x16": _official("clip2sam_coco_rn50x16.pth"),
    "ovsam_rn50x16_lvis": _official("clip2sam_lvis_rn50x16.pth"),
    "ovsam_rn50x16_demo": _demo("ovsam_R50x16_lvisnorare.pth"),
    "ovsam_tiny": shipped("ovsam_tiny.safetensors"),
    NECK: _official("sam2clip_vith_rn50x16.pth", "ovsam.neck"),
    DEMO_NECK: _demo("sam2clip_vith_rn50.pth", "ovsam.neck"),
    DEMO_FPN: _demo("R50x16_fpn_lvis_norare_v3det.pth", "ovsam.fpn"),
    CLIP: Weights(
        "RN50x16.pt", f"https://openaipublic.azureedge.net/clip/models/{_SHA256}/RN50x16.pt", _SHA256, None, "MIT",
        "https://github.com/openai/CLIP", "ovsam.clip",
    ),
}  # fmt: skip
"""Checkpoint name → file and source, except for the checkpoint SAM, which is in models.sam.variants."""
