"""SAM's numbers, and the sizes that follow from them. No torch here: configs are checked without it.

Source of the values of the real ones: https://github.com/facebookresearch/segment-anything (Apache-2.0), and of
sam_mobile's: https://github.com/ChaoningZhang/MobileSAM (Apache-2.0).
"""

from dataclasses import dataclass

Size = tuple[int, int]
"""H, W in pixels."""


@dataclass(frozen=True)
class TinyVit:
    """MobileSAM's image encoder: a value for each stage. The first, of convolutions alone, has no heads nor windows."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    windows: tuple[int, ...]


@dataclass(frozen=True)
class Variant:
    """One SAM: the image encoder, and the decoder, which is the same in all real ones."""

    width: int
    """channels of the image encoder"""
    heads: int
    layers: int
    globals: tuple[int, ...]
    """blocks (0-based) whose tokens see the whole image; those of the others see their window"""
    pixels: int = 1024
    """the side of the network's square input, to which the longer side of an image is resized"""
    patch: int = 16
    """side of a patch in pixels of the input"""
    window: int = 14
    """side of a window in patches"""
    embed: int = 256
    """D: channels of the image's embedding, and of the decoder"""
    mask_width: int = 16
    """channels inside the encoder of mask prompts"""
    decoder_layers: int = 2
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    """channels inside the MLPs of the decoder's blocks"""
    fit_width: int = 256
    """channels inside the head that predicts how well masks fit"""
    tiny_vit: TinyVit | None = None
    """MobileSAM's image encoder, instead of a ViT of `width`, `heads`, `layers`, `globals`, `patch` and `window`"""

    @property
    def grid(self) -> int:
        """g: the side of the embedding; masks are predicted on 4 g."""
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
"""sam_tiny is trained by this project on drawn scenes (configs/train_sam_tiny.yaml)."""


def resized_size(height: int, width: int, variant: Variant) -> Size:
    """The size (h, w) at which an image is looked at: its longer side fills the input.

    The order of the float operations is that of the official code, so that roundings agree.
    """
    scale = variant.pixels * 1.0 / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
