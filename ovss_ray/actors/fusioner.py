"""Fusioner: segment one class at a time, by attention between patch tokens of a frozen CLIP and the class name.

Ma et al., "Open-vocabulary Semantic Segmentation with Frozen Vision-Language Models", BMVC 2022, arXiv 2210.15138.

In few-shot episodes, only the class of the episode is segmented, as in the paper. For other benchmarks, unlike in the
paper, all classes are segmented. A pixel gets the class with the largest logit. If no logit is above 0, the pixel gets
the class "background". If the vocabulary has no class "background", such a pixel is NONE.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field, field_validator

from ovss_ray.io import files
from ovss_ray.models import zoo
from ovss_ray.models.fusioner.variants import DataSet, Resolution
from ovss_ray.models.network_config import NetworkConfig, WithClassifiers
from ovss_ray.pipeline import stage
from ovss_ray.pipeline.stage import Prepared
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.recent import Recent
from ovss_ray.structures.vocabulary import Vocabularies, Vocabulary

if TYPE_CHECKING:  # torch takes seconds to import, which checking a config should not cost
    from torch import Tensor

    from ovss_ray.models.fusioner.windows import Layout

COCO = "coco20i"
"""Few-shot data set on COCO. By default, its photographs get the normalisation `coco`"""
FOLDED = ("pascal5i", COCO)
"""Few-shot data sets. Each data set has four benchmarks, one for each fold of its classes"""
FOLD_NOTE = "valid only for a fold that the checkpoint was trained without"
"""Note in the report of a few-shot benchmark. A checkpoint was trained on the classes of three folds, so only the
results for the fourth fold are valid"""
KEPT = 1 << 26
"""Maximum bytes of a worker's cache of encoded windows. The encoding of a window does not depend on the
vocabulary. So the windows of an image are cached once for all vocabularies"""
Row = tuple[np.ndarray, DataSet, Vocabulary]
"""Image (H, W, 3) uint8 RGB, its normalisation, and its vocabulary"""


class Stage(WithClassifiers, stage.Stage):
    """Segment an image (H, W, 3) uint8 RGB into the classes of its vocabulary: prediction (H, W) uint16."""

    reads = ("image", "vocabulary", "benchmark")
    writes = ("prediction",)
    gpu: ClassVar[bool] = True
    binary: ClassVar[bool] = True
    where: ClassVar[tuple[str, ...]] = ("base", "weights", "device", "batch")

    class Config(NetworkConfig):
        """The Fusioner network, and the options of its computation."""

        family: ClassVar[str] = "ovss_ray.models.fusioner"
        variant: str = "fusioner_vit_l_14"
        """fusioner_tiny or fusioner_vit_l_14"""
        base: str | None = None
        """path of CLIP's checkpoint. By default, CLIP is read from Fusioner's checkpoint. If Fusioner's checkpoint does
        not contain CLIP, the default is CLIP's shipped or downloaded checkpoint"""
        normalise: DataSet | None = None
        """data set whose colour mean and standard deviation normalise the photographs: pascal or coco

        The default for photographs of coco20i is coco. The default for all other photographs is pascal. The variant
        fusioner_tiny ignores this option, since it uses CLIP's mean and standard deviation.
        """
        resolution: Resolution = "original"
        """original: the network segments windows of the photograph. square_224: the photograph and its labels are
        resized to the size of one window, and metrics are computed at this size"""
        batch: int = Field(default=4, ge=1)
        """maximum number of windows in one forward pass"""

        @field_validator("base")
        @classmethod
        def _absolute_base(cls, path: str | None) -> str | None:
            return path and files.absolute(path)

        def paths(self) -> tuple[str | None, ...]:
            """Return the paths of Fusioner's and CLIP's checkpoints. None stands for the default checkpoint."""
            return (self.weights, self.base)

        def data_set(self, benchmark: str) -> DataSet:
            """Return the data set whose colour mean and standard deviation normalise a benchmark's photographs.

            If the option `normalise` is set, return its value. Otherwise, return "coco" for the benchmarks of coco20i,
            and "pascal" for any other benchmark. For requests to the service, `benchmark` is "". The variant
            fusioner_tiny ignores the result.
            """
            return self.normalise or ("coco" if benchmark.partition(":")[0] == COCO else "pascal")

    @classmethod
    def prepare(cls, config: Config, vocabularies: Sequence[Vocabulary]) -> list[np.ndarray]:
        """Return the text embeddings of each vocabulary's classes. Only the text tower is loaded.

        The embeddings of k classes are an array (k, D) float32. D is the number of CLIP's features. The class
        "background" has no embedding.
        """
        from ovss_ray.models.fusioner import network

        with config.computing():
            tower = network.load_text(config.variant, cls.files(config), config.resolved_device())
            sizes = zoo.variants(config.family)[config.variant]
            return [rows.cpu().numpy() for rows in network.embed(tower, vocabularies, sizes)]

    @classmethod
    def side(cls, config: Config) -> int | None:
        """Return the side in pixels to which photographs and labels are resized, or None for `resolution: original`."""
        return None if config.resolution == "original" else zoo.variants(config.family)[config.variant].side

    @classmethod
    def notes(cls, config: Config, benchmark: str) -> tuple[str, ...]:
        """Return a note on normalisation and resolution for the report. For pascal5i and coco20i, add FOLD_NOTE."""
        sizes = zoo.variants(config.family)[config.variant]
        colours = sizes.colours or config.data_set(benchmark)
        if config.resolution == "original":
            resized = f" of photographs resized to a short side of {sizes.short_side}" if sizes.short_side else ""
            scored = f"scored at original resolution, windows of {sizes.side} pixels every {sizes.stride}{resized}"
        else:
            scored = f"photographs and labels resized to {sizes.side} × {sizes.side} pixels, and scored at this size"
        computed = f"normalise {colours}; resolution {config.resolution}: {scored}"
        return (computed, FOLD_NOTE) if benchmark.partition(":")[0] in FOLDED else (computed,)

    def __init__(self, config: Config, prepared: Prepared | None = None) -> None:
        super().__init__(config, prepared)
        from ovss_ray.models.fusioner import network

        self.model = network.load(config.variant, self.files(config), config.resolved_device(), config.precision)
        self._encoded = Recent["Tensor"](KEPT, lambda tokens: tokens.nbytes)

    def kept(self) -> Mapping[str, int]:
        """Return the sizes in bytes of the caches of text embeddings and of encoded windows."""
        return {**super().kept(), "image": self._encoded.held}

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Segment every image. Raises OvssError if the logits of an image need too much memory (see Layout.check)."""
        import torch

        from ovss_ray.models.fusioner import network

        data_sets = map(self.config.data_set, batch["benchmark"])
        words = (vocabularies[digest] for digest in batch["vocabulary"])
        rows: list[Row] = list(zip(batch["image"], data_sets, words, strict=True))
        for image, _, vocabulary in rows:
            self.model.layout(image, self.config.resolution).check(len(network.requested(vocabulary)))
        predictions: dict[int, np.ndarray] = {}
        with self.config.computing(), torch.inference_mode():
            texts = [self.classifier(vocabulary) for *_, vocabulary in rows]
            encoded = self._encode(rows)
            # windows of images with equal numbers of classes share forward passes
            for size in dict.fromkeys(map(len, texts)):
                alike = [i for i, text in enumerate(texts) if len(text) == size]
                maps = self._decode([rows[i] for i in alike], [encoded[i] for i in alike], [texts[i] for i in alike])
                predictions |= zip(alike, maps, strict=True)
        return {"prediction": column(predictions[i] for i in range(len(rows)))}

    @property
    def _batch(self) -> int:
        return 1 if self.config.exact else self.config.batch

    def _encode(self, rows: Sequence[Row]) -> "list[Tensor]":
        """Return the patch tokens (V, N, C) of each row's image: V windows, N tokens per window, C channels."""
        import torch

        # rows with the same image and normalisation have equal keys, and are encoded once
        keys = [_key(image, data_set) for image, data_set, _ in rows]
        cached = {key: self._encoded.kept(key) for key in keys}
        tokens = {key: value for key, value in cached.items() if value is not None}
        new = {key: row for key, row in zip(keys, rows, strict=True) if key not in tokens}
        if new:
            inputs = [self.model.preprocess(*row[:2], self.config.resolution).windows for row in new.values()]
            together = self.model.visual(torch.cat(inputs), self._batch)
            tokens |= zip(new, together.split([len(windows) for windows in inputs]), strict=True)
        return [self._encoded.get(key, partial(tokens.__getitem__, key)) for key in keys]

    def _decode(
        self, rows: Sequence[Row], encoded: "Sequence[Tensor]", texts: "Sequence[Tensor]"
    ) -> Iterator[np.ndarray]:
        """Yield the label map (H, W) uint16 of each row. All rows must have the same number of classes."""
        import torch

        from ovss_ray.models.fusioner import network

        every = [text.expand(len(tokens), -1, -1) for text, tokens in zip(texts, encoded, strict=True)]
        windows = self.model.logits(torch.cat(list(encoded)), torch.cat(every), self._batch)
        for image, _, vocabulary in rows:
            layout: Layout = self.model.layout(image, self.config.resolution)
            yield network.label_map(layout.mean(islice(windows, len(layout))), vocabulary)


def _key(image: np.ndarray, data_set: DataSet) -> str:
    """Return the cache key of an image's encoded windows."""
    digest = hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest()
    return f"{digest}-{image.shape}-{data_set}"
