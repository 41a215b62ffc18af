"""Sizes and checkpoints of SCAN. No torch is imported here.

Source of the released sizes: the configurations of https://github.com/yongliu20/SCAN (CC BY-NC 4.0).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.models.clip_sizes import TINY, VIT_B_16, VIT_L_14, ClipSizes
from ovss_ray.models.zoo import Weights, by_hand, shipped


@dataclass(frozen=True)
class Variant:
    """Sizes of a SCAN: of CLIP, the backbone, the mask network, and the calibration of proposals (calibration.py)."""

    clip: ClipSizes
    levels: tuple[int, int, int]
    """numbers of the CLIP blocks whose patch tokens calibrate the proposals; the first block has the number 1"""
    replaced: tuple[int, ...]
    """numbers of the CLIP blocks after which the contextual shift replaces tokens; the first block has the number 1"""
    sigmas: tuple[int, int, int] = (9, 7, 3)
    """for each of `levels`, standard deviation of the Gaussian in LowPassFusion, in bins of the 2-D spectrum"""
    backbone_width: int = 128
    """channels of Swin's first stage; each further stage has twice as many"""
    backbone_depths: tuple[int, int, int, int] = (2, 2, 18, 2)
    backbone_heads: tuple[int, int, int, int] = (4, 8, 16, 32)
    window: int = 12
    """side of Swin's attention window, in tokens"""
    hidden: int = 256
    """channels of pixel decoder, masked decoder and mask embeddings"""
    heads: int = 8
    """number of attention heads in the pixel decoder, the masked decoder, and the calibration"""
    encoder_layers: int = 6
    """layers of deformable attention in the pixel decoder"""
    encoder_inner: int = 1024
    """hidden channels of the pixel decoder's feed-forward networks"""
    decoder_layers: int = 10
    decoder_inner: int = 2048
    """hidden channels of the feed-forward networks of masked decoder and query transformer"""
    embed_hidden: int = 1024
    """hidden channels of the MLP from a query to its proposal embedding"""
    queries: int = 100
    calibration_layers: int = 5
    """number of layers of FusionDecoder; QueryTransformer has the same number"""
    short_side: int = 640
    long_side: int = 2560
    multiple: int = 32


@dataclass(frozen=True)
class Options:
    """Parameters of inference. The defaults are those of the official configurations."""

    mask_threshold: float = 0.4
    """probability above which a pixel belongs to a query's binary mask; only crops depend on binary masks"""
    ensemble_weight: float | None = 0.7
    """weight w of the crops in the class scores, from 0 to 1, or None

    A query has a class probability p from the proposal's embedding, and a class probability c from the crop. The class
    score is p^(1 − w) · c^w, with two exceptions. If w is 0, the class score is c alone, as in the official code. If w
    is None, no crops are made, and the class score is p.
    """
    replace_ratio: float = 0.15
    """fraction, from 0 to 1, of a crop's background tokens that the contextual shift replaces

    The shift replaces this fraction after each block in Variant.replaced.
    """
    fusion: Literal["product", "log"] = "product"
    """normalisation of a query's class scores, if `ensemble_weight` is above 0

    If `fusion` is product, the scores are not normalised. If `fusion` is log, the scores are normalised to the sum
    1 − P("void"). The official code uses log for ADE20K-847 and PASCAL-Context-459.
    """
    seed: int = 0
    """seed of the contextual shift's random draws, which also depend on the pixels of the image"""

    def __post_init__(self) -> None:
        for name in ("mask_threshold", "ensemble_weight", "replace_ratio"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise OvssError(f"{name}={value}: expected a number from 0 to 1")
        if self.fusion not in ("product", "log"):
            raise OvssError(f"unknown fusion {self.fusion!r}; write product or log")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Options":
        """Return Options from a mapping of option names to values, such as {"seed": 1}.

        Raises OvssError for an unknown name or a wrong value.
        """
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in options if name not in known]:
            raise UnknownName("option", unknown[0], known)
        return cls(**options)


_B = Variant(clip=replace(VIT_B_16, quick=False), levels=(6, 9, 12), replaced=(1, 3, 5))
VARIANTS = {
    "scan_vitB": _B,
    "scan_vitL": Variant(clip=replace(VIT_L_14, quick=False), levels=(12, 18, 24), replaced=(1, 3, 5, 7, 9)),
    "scan_tiny": Variant(
        clip=replace(TINY, grid=10), levels=(2, 4, 6), replaced=(1, 3), backbone_width=24,
        backbone_depths=(2, 2, 2, 1), backbone_heads=(1, 2, 4, 8), window=5, hidden=64, heads=4, encoder_layers=2,
        encoder_inner=128, decoder_layers=6, decoder_inner=128, embed_hidden=128, queries=32, calibration_layers=2,
        short_side=256, long_side=1024,
    ),
}  # fmt: skip
"""Network name → sizes. scan_tiny is trained by this project on drawn scenes (configs/train_scan_tiny.yaml)."""


def checkpoints(name: str) -> tuple[str, ...]:
    """Return the names of a network's checkpoints.

    scan_tiny has two checkpoints: its own file omits entries of CLIP, which clip_tiny provides.
    """
    return (name, "clip_tiny") if name == "scan_tiny" else (name,)


_PAGE = "https://github.com/yongliu20/SCAN"
_LICENCE = "CC BY-NC 4.0 (of the code); the page says what holds for the weights"
WEIGHTS: Mapping[str, Weights] = {
    "scan_tiny": shipped("scan_tiny.safetensors"),
    "scan_vitL": by_hand("SCAN.pth", _LICENCE, _PAGE),
    "scan_vitB": by_hand("", _LICENCE, _PAGE),
}
"""Checkpoint name → file and source. The authors published no file for scan_vitB."""
