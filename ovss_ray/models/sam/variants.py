"""Sizes and checkpoints of SAM. No torch is imported here.

Source of the released sizes: https://github.com/facebookresearch/segment-anything (Apache-2.0). Source of the sizes of
sam_mobile: https://github.com/ChaoningZhang/MobileSAM (Apache-2.0).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ovss_ray.models.sam_layers.sizes import Size, fitted
from ovss_ray.models.zoo import Weights, shipped


@dataclass(frozen=True)
class TinyVit:
    """Sizes of MobileSAM's image encoder, one value per stage.

    Stage 0 has only convolutions. The values of stage 0 in `heads` and `windows` are 0, and are not used.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    windows: tuple[int, ...]


@dataclass(frozen=True)
class Variant:
    """Sizes of a SAM: image encoder and decoder. The decoder is the same in all released SAMs."""

    width: int
    """channels of the image encoder"""
    heads: int
    layers: int
    globals: tuple[int, ...]
    """indices of the blocks with attention over the whole image; the other blocks attend within windows"""
    pixels: int = 1024
    """side of the network's square input, in pixels. The longer side of a resized image has this length"""
    patch: int = 16
    """side of a patch in pixels of the input"""
    window: int = 14
    """side of a window in patches"""
    embed: int = 256
    """D: channels of the image embedding and of the decoder"""
    mask_width: int = 16
    """hidden channels of the encoder of mask prompts"""
    decoder_layers: int = 2
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    """hidden channels of the MLPs in the decoder's blocks"""
    fit_width: int = 256
    """hidden channels of the head that predicts the IoU of masks"""
    tiny_vit: TinyVit | None = None
    """sizes of MobileSAM's image encoder; None: the image encoder is a ViT with the sizes of the other fields"""

    @property
    def grid(self) -> int:
        """Side g of the image embedding; predicted masks have the side 4 g."""
        return self.pixels // self.patch


VARIANTS = {
    "sam_vit_b": Variant(width=768, heads=12, layers=12, globals=(2, 5, 8, 11)),
    "sam_vit_l": Variant(width=1024, heads=16, layers=24, globals=(5, 11, 17, 23)),
    "sam_vit_h": Variant(width=1280, heads=16, layers=32, globals=(7, 15, 23, 31)),
    "sam_mobile": Variant(
        width=320, heads=10, layers=12, globals=(),
        tiny_vit=TinyVit(widths=(64, 128, 160, 320), depths=(2, 2, 6, 2), heads=(0, 4, 5, 10), windows=(0, 7, 14, 7)),
    ),
    "sam_tiny": Variant(
        width=96, heads=3, layers=6, globals=(2, 5), pixels=256, patch=8, window=8, embed=64,
        decoder_heads=4, decoder_mlp=256, fit_width=64,
    ),
}  # fmt: skip
"""Network name → sizes. sam_tiny is this project's own network, trained by configs/train_sam_tiny.yaml."""


PROMPTED = "sam_prompt.weights"
"""Option that sets the path of SAM's checkpoint for the stage `sam_prompt`."""


def _official(file: str, *others: str) -> Weights:
    url = f"https://dl.fbaipublicfiles.com/segment_anything/{file}"
    page = "https://github.com/facebookresearch/segment-anything"
    return Weights(file, url, None, None, "Apache-2.0", page, other_options=(PROMPTED, *others))


def _mobile() -> Weights:
    page, file = "https://github.com/ChaoningZhang/MobileSAM", "mobile_sam.pt"
    url = f"{page}/raw/master/weights/{file}"
    return Weights(file, url, None, None, "Apache-2.0", page, other_options=(PROMPTED,))


WEIGHTS: Mapping[str, Weights] = {
    "sam_tiny": shipped("sam_tiny.safetensors", other_options=(PROMPTED,)),
    "sam_mobile": _mobile(),
    "sam_vit_b": _official("sam_vit_b_01ec64.pth"),
    "sam_vit_l": _official("sam_vit_l_0b3195.pth"),
    "sam_vit_h": _official("sam_vit_h_4b8939.pth", "ovsam.sam"),
}


def resized_size(height: int, width: int, variant: Variant) -> Size:
    """Return the size (h, w) to which an image is resized: its longer side becomes `variant.pixels`."""
    return fitted(height, width, variant.pixels)
