"""SAN: masks from a small side network, names from a frozen CLIP, in one pass over the image.

Xu et al., "Side Adapter Network for Open-Vocabulary Semantic Segmentation", CVPR 2023, arXiv 2302.12242.

CLIP's image tower looks at the photograph at a lower resolution and is cut in two. A ViT of 240 channels, the side
network, runs beside the first part at full resolution and is fed from it; it turns 100 learned queries into 100 masks,
and into 100 biases for CLIP's attention. In the second part of CLIP, 100 copies of the class token (SLS tokens), each
biased towards its own mask, become 100 embeddings. Their products with the embeddings of the class names, and of a
learned "no object", say what each mask shows; a pixel is given to the class whose masks claim it most. The vocabulary
enters in that product alone, so rows with unlike vocabularies share everything before it.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from ovss_ray import files, stage, weights
from ovss_ray.columns import Batch, column
from ovss_ray.errors import UnknownName
from ovss_ray.models.san_variants import VARIANTS
from ovss_ray.stage import Prepared
from ovss_ray.vocabulary import Vocabularies, Vocabulary

if TYPE_CHECKING:  # torch takes seconds to import, which checking a config should not cost
    from torch import Tensor

    from ovss_ray.models.san import Features


class Stage(stage.Stage):
    """image (H, W, 3) uint8 RGB and vocabulary → prediction (H, W) uint16."""

    reads = ("image", "vocabulary")
    writes = ("prediction",)
    gpu: ClassVar[bool] = True
    where: ClassVar[tuple[str, ...]] = ("weights", "device", "batch")

    class Config(stage.Config):
        """Which SAN, and how it is computed."""

        variant: str = "san_vit_b_16"
        """san_tiny, san_vit_b_16 or san_vit_large_14"""
        weights: str | None = None
        """the checkpoint; without it the one that `ovss weights fetch` has got or gets"""
        device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
        """auto (a GPU if there is one), cpu, cuda or cuda:N"""
        precision: Literal["fp32", "bf16"] = "fp32"
        """bf16 is faster on a GPU and changes near-ties"""
        exact: bool = False
        """bit-identical answers on one kind of hardware: one image per forward, one thread, deterministic kernels"""
        batch: int = Field(default=8, ge=1)
        """images of one padded size in one forward, at most"""

        @field_validator("weights")
        @classmethod
        def _absolute(cls, path: str | None) -> str | None:
            return path and files.absolute(path)

        @field_validator("variant")
        @classmethod
        def _known(cls, name: str) -> str:
            if name not in VARIANTS:
                raise ValueError(str(UnknownName("variant", name, VARIANTS)))
            return name

    @classmethod
    def files(cls, config: Config) -> tuple[Path, ...]:
        """The checkpoint. Raises OvssError if it is not here and cannot be downloaded."""
        return (weights.find(config.variant, config.weights),)

    @classmethod
    def key(cls, config: Config, vocabulary: Vocabulary) -> str:
        """Name a vocabulary's classifier: the checkpoint has the text tower and "no object", the rest is fixed.

        What several threads made is not for exact runs, whose last bits must not depend on their number.
        """
        mode = "exact" if config.exact else "fp32"
        return f"san-{weights.sha256(*cls.files(config))[:24]}-{vocabulary.digest}-{mode}"

    @classmethod
    def prepare(cls, config: Config, vocabularies: Sequence[Vocabulary]) -> list[np.ndarray]:
        """Embed vocabularies with the text tower alone: each a classifier (K + 1, D) float32."""
        from ovss_ray.models import san

        with computing(config):
            tower = san.load_text(config.variant, cls.files(config)[0], device(config))
            return [san.classifier(tower, one).cpu().numpy() for one in vocabularies]

    def __init__(self, config: Config, prepared: Prepared | None = None) -> None:
        super().__init__(config, prepared)
        from ovss_ray.models import san

        self.model = san.load(config.variant, self.files(config)[0], device(config), config.precision)

    def kept(self) -> Mapping[str, int]:
        """Classifiers of vocabularies."""
        return {"text": self.model.classifiers.held}

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Segment the images of a batch; those of one padded size share forward passes, whatever their vocabularies."""
        import torch

        images, asked = list(batch["image"]), [vocabularies[digest] for digest in batch["vocabulary"]]
        predictions: list[np.ndarray | None] = [None] * len(images)
        with computing(self.config), torch.inference_mode():
            for rows in self._alike(images):
                made = self._segment([images[i] for i in rows], [asked[i] for i in rows])
                for row, prediction in zip(rows, made, strict=True):
                    predictions[row] = prediction
        return {"prediction": column(predictions)}

    def _alike(self, images: Sequence[np.ndarray]) -> Iterator[list[int]]:
        """Rows whose images have one padded size, in groups of as many as may share a forward pass."""
        most = 1 if self.config.exact else self.config.batch
        groups: dict[tuple[int, int], list[int]] = {}
        for row, image in enumerate(images):
            groups.setdefault(self.model.geometry(image).padded, []).append(row)
        for rows in groups.values():
            yield from (rows[begin : begin + most] for begin in range(0, len(rows), most))

    def _segment(self, images: Sequence[np.ndarray], vocabularies: Sequence[Vocabulary]) -> Iterator[np.ndarray]:
        """Label maps (H, W) uint16 of images of one padded size."""
        import torch

        inputs = torch.stack([self.model.preprocess(image)[0] for image in images])
        features = self.model(inputs.to(self.model.device))
        logits = self._class_logits(features, vocabularies)
        for i, image in enumerate(images):
            yield self.model.labels(features.mask_logits[i], logits[i], image, vocabularies[i])

    def _class_logits(self, features: "Features", vocabularies: Sequence[Vocabulary]) -> "dict[int, Tensor]":
        """Row → class logits (Q, K + 1); rows that ask for the same vocabulary are multiplied together."""
        logits: dict[int, Tensor] = {}
        for vocabulary in dict.fromkeys(vocabularies):
            rows = [i for i, other in enumerate(vocabularies) if other == vocabulary]
            product = features.mask_embeddings[rows] @ self._classifier(vocabulary).T
            logits |= dict(zip(rows, product, strict=True))
        return logits

    def _classifier(self, vocabulary: Vocabulary) -> "Tensor":
        """(K + 1, D): what was prepared, or for a vocabulary that came later made now; kept for those used last."""
        import torch

        made = self.prepared.get(self.key(self.config, vocabulary)) if self.prepared else None
        if made is None:
            return self.model.classifier(vocabulary)
        return self.model.classifiers.get(vocabulary.digest, lambda: torch.tensor(made, device=self.model.device))


def device(config: Any) -> str:
    """The device that "auto" means here."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device


@contextmanager
def computing(config: Any) -> Iterator[None]:
    """Compute with the threads that OMP_NUM_THREADS grants, or exactly: one thread, deterministic kernels, no TF32.

    These are settings of the whole process, and other stages live in it: what was set before is set again.
    """
    import torch

    # The debug mode is the same switch as use_deterministic_algorithms, which would import the whole of torch.compile.
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if config.exact:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it, before its first use
    try:
        torch.set_num_threads(1 if config.exact else int(threads) if threads.isdigit() else before[0])
        torch.set_deterministic_debug_mode("error" if config.exact else before[1])
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_deterministic_debug_mode(before[1])
