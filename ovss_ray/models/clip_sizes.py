"""Sizes of CLIP's two towers, for all families that contain a CLIP. No torch is imported here.

Sources: https://github.com/openai/CLIP (MIT) and https://github.com/mlfoundations/open_clip (MIT).
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class ClipSizes:
    """Sizes of a CLIP with a vision transformer."""

    width: int
    """channels of the image tower"""
    heads: int
    layers: int
    patch: int
    """side of a patch in pixels"""
    grid: int
    """side of the position embedding's patch grid"""
    embed: int
    """D: channels of the embeddings of images and texts"""
    text_width: int
    text_heads: int
    text_layers: int
    quick: bool = True
    """activation function. If True, the activation is QuickGELU, as in OpenAI's weights. If False, the activation is
    exact GELU, as in most weights of open_clip"""
    text_vocabulary: int = 49408
    context: int = 77
    stem: int = 0
    """number of residual blocks in a convolutional stem (models.clip.Stem). If 0, CLIP's patch projection replaces the
    stem"""
    words: str = ""
    """name of the tokeniser's word table (text.tokenise). If empty, the tokens are CLIP's byte pairs"""

    @property
    def pixels(self) -> int:
        """Side of the image tower's square input, in pixels."""
        return self.patch * self.grid


VIT_B_16 = ClipSizes(
    width=768, heads=12, layers=12, patch=16, grid=14, embed=512, text_width=512, text_heads=8, text_layers=12
)
VIT_L_14 = ClipSizes(
    width=1024, heads=16, layers=24, patch=14, grid=16, embed=768, text_width=768, text_heads=12, text_layers=12
)
VIT_L_14_336 = replace(VIT_L_14, grid=24)
TINY = ClipSizes(
    width=128, heads=4, layers=6, patch=8, grid=16, embed=128, text_width=128, text_heads=4, text_layers=2,
    text_vocabulary=65, context=24, stem=3, words="scenes",
)  # fmt: skip
"""Sizes of clip_tiny, which this project trains on drawn scenes (configs/train_clip_tiny.yaml)"""
