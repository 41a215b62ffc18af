"""SAN's numbers, and the sizes that follow from them. No torch here: configs and manifests are checked without it.

Source of the values of the real ones: the released configurations of https://github.com/MendelXu/SAN (MIT).
"""

from dataclasses import dataclass

Size = tuple[int, int]
"""H, W in pixels."""


@dataclass(frozen=True)
class Variant:
    """One SAN: the CLIP that it adapts, how that is cut, and the side network."""

    width: int
    """channels of CLIP's image tower"""
    heads: int
    layers: int
    patch: int
    """side of a patch of CLIP's image tower, in pixels of CLIP's input"""
    grid: int
    """side of the patch grid that CLIP's position embedding was trained on"""
    embed: int
    """D: channels of the space that images and words share"""
    text_width: int
    text_heads: int
    text_layers: int
    ratio: float
    """CLIP's input is the padded image times this"""
    shallow: int
    """CLIP blocks before the cut: they feed the side network; the blocks behind it recognise the masks"""
    fusion: tuple[int, ...]
    """CLIP output i (0: before the first block) → side block, by position"""
    text_vocabulary: int = 49408
    context: int = 77
    side_width: int = 240
    side_heads: int = 6
    side_layers: int = 8
    side_patch: int = 16
    side_grid: int = 40
    queries: int = 100
    mask_width: int = 256
    """channels of the space in which queries and pixels meet"""
    short_side: int = 640
    long_side: int = 2560
    multiple: int = 32
    stem: int = 0
    """residual blocks of a convolutional stem in CLIP's image tower; 0: the plain patch projection of the real ones"""
    words: str = ""
    """the table of words that prompts are cut into; none: CLIP's byte pairs"""


VARIANTS = {
    "san_vit_b_16": Variant(
        width=768,
        heads=12,
        layers=12,
        patch=16,
        grid=14,
        embed=512,
        text_width=512,
        text_heads=8,
        text_layers=12,
        ratio=0.5,
        shallow=9,
        fusion=(0, 3, 6, 9),
    ),
    "san_vit_large_14": Variant(
        width=1024,
        heads=16,
        layers=24,
        patch=14,
        grid=24,
        embed=768,
        text_width=768,
        text_heads=12,
        text_layers=12,
        ratio=0.7,
        shallow=18,
        fusion=(0, 6, 12, 18),
    ),
    "san_tiny": Variant(
        width=128,
        heads=4,
        layers=6,
        patch=8,
        grid=16,
        embed=128,
        text_width=128,
        text_heads=4,
        text_layers=2,
        ratio=0.5,
        shallow=4,
        fusion=(0, 2, 4),
        text_vocabulary=65,
        context=24,
        side_width=128,
        side_heads=4,
        side_layers=6,
        side_patch=8,
        side_grid=32,
        queries=32,
        mask_width=128,
        short_side=256,
        long_side=1024,
        stem=3,
        words="scenes",
    ),
}
"""san_tiny is trained by this project on drawn scenes (configs/train_*.yaml)."""


def resized_size(height: int, width: int, variant: Variant = VARIANTS["san_vit_b_16"]) -> Size:
    """The size at which a photograph is looked at: the short side 640, but the long side at most 2560 pixels.

    The order of the float operations is that of detectron2's ResizeShortestEdge, so that roundings agree.
    """
    scale = variant.short_side * 1.0 / min(height, width)
    sides = [variant.short_side * 1.0 if side == min(height, width) else scale * side for side in (height, width)]
    if max(sides) > variant.long_side:
        shrink = variant.long_side * 1.0 / max(sides)
        sides = [side * shrink for side in sides]
    rounded = [max(1, int(side + 0.5)) for side in sides]  # a strip 10,000 times as long as wide keeps one pixel
    return rounded[0], rounded[1]


def padded_size(height: int, width: int, variant: Variant = VARIANTS["san_vit_b_16"]) -> Size:
    """The size (Hp, Wp) of the network's input for a photograph; only images of one padded size may share a batch."""
    resized = resized_size(height, width, variant)
    padded = [-(-side // variant.multiple) * variant.multiple for side in resized]
    return padded[0], padded[1]
