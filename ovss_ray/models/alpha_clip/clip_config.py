"""Options of stages that embed whole images and texts with CLIP: retrieval of captions, and CaSED.

No torch is imported here, so that configs are validated quickly.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal
from weakref import WeakValueDictionary

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from ovss_ray.errors import OvssError
from ovss_ray.io import digests, files
from ovss_ray.io.arrays import caption_index
from ovss_ray.io.arrays.caption_index import CaptionIndex
from ovss_ray.models.alpha_clip.variants import VARIANTS
from ovss_ray.models.network_config import NetworkConfig

if TYPE_CHECKING:  # torch takes seconds to import, which checking a config should not cost
    from ovss_ray.models.alpha_clip.network import AlphaClip

PLAIN = tuple(name for name, variant in VARIANTS.items() if not variant.base)
"""Names of the plain CLIPs in VARIANTS. A plain CLIP has no alpha channel"""
_LOADED: "WeakValueDictionary[tuple[object, ...], AlphaClip]" = WeakValueDictionary()
"""Loaded networks of this process, so that stages with the same network load it once"""


class ClipConfig(NetworkConfig):
    """A plain CLIP, as the encoder of images and texts."""

    family: ClassVar[str] = "ovss_ray.models.alpha_clip"
    variant: str = "clip_vit_l_14"
    """clip_vit_b_16, clip_vit_l_14, clip_vit_l_14_336 or clip_tiny"""
    batch: int = Field(default=64, ge=1)
    """maximum number of images or crops in one forward pass"""

    @field_validator("variant")
    @classmethod
    def _plain(cls, name: str) -> str:
        if name in VARIANTS and name not in PLAIN:
            raise ValueError(f"{name!r} is an AlphaCLIP; this stage needs a plain CLIP: {', '.join(PLAIN)}")
        return name

    def load(self) -> "AlphaClip":
        """Return the loaded CLIP.

        Two stages of one process share a CLIP if their variant, checkpoint, device and precision are equal. Raises
        OvssError if the checkpoint is missing, unreadable, or not the checkpoint of this CLIP.
        """
        from ovss_ray.models.alpha_clip import network

        key = (self.variant, self.files(), self.resolved_device(), self.precision)
        model = _LOADED.get(key)
        if model is None:
            model = _LOADED[key] = network.load(self.variant, self.files(), self.resolved_device(), self.precision)
        return model

    def encoder_key(self) -> str:
        """Return the encoder's part of cache keys: "DIGEST-exact" if the option `exact` is True, else "DIGEST-fp32".

        DIGEST is the first 24 hex digits of the SHA-256 of the CLIP's checkpoint.
        """
        # "fp32" even with bf16 or int8: `precision` does not affect text embeddings.
        return f"{digests.sha256(self.files()[0])[:24]}-{'exact' if self.exact else 'fp32'}"


class Retrieval(BaseModel):
    """Options for the retrieval of captions: the base (collection) of captions, and the search in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    captions: str = ""
    """path of the captions: a text file with one caption or word per line, or a Parquet file"""
    column: str = "caption"
    """column of the captions in a Parquet file"""
    vectors: str | None = None
    """path of a .npy file with the captions' embeddings, computed by the CLIP of this stage. The array has one row per
    caption, float16 or float32. None: compute and cache the embeddings"""
    half: bool = False
    """True: cache the embeddings as float16, in half the space"""
    count: int = Field(default=10, ge=1)
    """number of captions to retrieve per image, before near duplicates are removed"""
    duplicates: float = Field(default=0.94, gt=0)
    """cosine above which two captions are near duplicates. Of near duplicates, only the caption most similar to the
    image is kept"""
    faiss: bool = False
    """True: search with faiss (extra `faiss`), which holds all embeddings in memory as float32"""

    @field_validator("captions", "vectors")
    @classmethod
    def _absolute_base(cls, path: str | None) -> str | None:
        return path and files.absolute(path)

    def base_files(self, stage: str) -> tuple[Path, ...]:
        """Return the path of `captions`. If `vectors` is not None, also return the path of `vectors`.

        Raises OvssError if `captions` is empty, or if a file does not exist. The error message contains `stage`, the
        name of the stage.
        """
        if not self.captions:
            raise OvssError(
                f"the stage {stage} has no base of captions to search. Add --set {stage}.captions=FILE, where FILE is "
                "a text file with one caption or word per line, or a Parquet file"
            )
        paths = [path for path in (self.captions, self.vectors) if path]
        for path in paths:
            if not Path(path).is_file():
                raise OvssError(f"{path}: file not found. Set {stage}.captions and {stage}.vectors to existing files")
        return tuple(map(Path, paths))


class Scoring(BaseModel):
    """Parameters of the scores of candidate words. Defaults are those of CaSED's configuration with CLIP ViT-L/14."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha: float = Field(default=0.7, ge=0, le=1)
    """weight of a word's score for the image; 1 − alpha is the weight of the word's score for the captions"""
    temperature: float = Field(default=1.0, gt=0)
    """divisor of the logits"""
    bias: float = 0.0
    """number added to the logits, for encoders that were trained with a bias"""
    probability: Literal["softmax", "sigmoid"] = "softmax"
    """function from logits to probabilities. softmax: over the candidate words of an image; sigmoid: per word"""
    templates: tuple[str, ...] = ("{}",)
    """sentences into which a word is inserted at {}; their embeddings are averaged"""

    @field_validator("templates")
    @classmethod
    def _one_gap(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [
            template for template in templates if template.replace("{}", "", 1).count("{}") or "{}" not in template
        ]
        if wrong or not templates:
            raise ValueError(
                "templates: expected at least one template, each with exactly one {} where the word is inserted. "
                f"Found {wrong or 'an empty list'}"
            )
        return templates


def spoken(name: str) -> str:
    """Return a caption or word with blanks instead of underscores, as CaSED embeds it."""
    return name.replace("_", " ")


def build_index(config: ClipConfig, base: Retrieval, model: "AlphaClip | None" = None) -> CaptionIndex:
    """Return the index of the captions in `base`. If `base.vectors` is None, embeddings are computed and cached.

    If `model` is None, CLIP's text tower is loaded to compute embeddings. Raises OvssError if a file is unreadable.
    Also raises OvssError if the embeddings in `base.vectors` do not fit the captions or the CLIP.
    """
    texts = caption_index.read_texts(base.captions, base.column)
    if base.vectors:
        vectors = caption_index.read_vectors(base.vectors)
    else:
        vectors = caption_index.cached(texts, config.encoder_key(), base.half, lambda part: _embed(config, part, model))
    index = CaptionIndex(texts, vectors, base.faiss)
    features = VARIANTS[config.variant].embed
    if vectors.shape[1] != features:
        raise OvssError(
            f"{base.vectors}: {vectors.shape[1]} features per caption, but {config.variant} has {features}. Compute "
            f"the file again with {config.variant}, or set `variant` to the CLIP that computed the file"
        )
    return index


def _embed(config: ClipConfig, texts: Sequence[str], model: "AlphaClip | None") -> np.ndarray:
    """Return the embeddings (n, D) float32 of captions."""
    from ovss_ray.models import text
    from ovss_ray.models.alpha_clip import network

    with config.computing():
        tower = model.text if model else network.load_text(config.variant, config.files(), config.resolved_device())
        return text.embed(tower, list(map(spoken, texts)), ("{}",)).cpu().numpy()
