"""Propose and name all regions of an image with Open-Vocabulary SAM, as in SAM's everything mode.

Yuan et al., "Open-Vocabulary SAM: Segment and Recognize Twenty-thousand Classes Interactively", ECCV 2024, arXiv
2401.02955. The authors' code has no everything mode. Here, SAM's mask generator prompts the network with a grid of
points. The generator ranks masks by stability, since the network predicts no IoU.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.models.ovsam.config import OvsamConfig, WithNames
from ovss_ray.models.sam_layers.points import Options, Settings
from ovss_ray.pipeline import stage
from ovss_ray.pipeline.stage import Prepared
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.vocabulary import Vocabularies, Vocabulary

if TYPE_CHECKING:  # torch takes seconds to import, which checking a config should not cost
    from torch import Tensor

TOP = 10
"""Maximum number of classes that the column `top_classes` lists for a region: the classes with the highest scores

The field `top` of a request to the service is at most this number.
"""


class Stage(WithNames, stage.Stage):
    """Propose R regions of an image (H, W, 3) uint8 RGB, with scores (R, K) float32 for K classes.

    The network predicts no IoU. The column `predicted_iou` has the stability of each mask instead.
    """

    reads = ("image", "vocabulary", "benchmark")
    writes = ("boxes", "bits", "predicted_iou", "scores", "top_classes", "top_scores")
    gpu: ClassVar[bool] = True
    where: ClassVar[tuple[str, ...]] = ("weights", "clip", "neck", "sam", "fpn", "device", "batch")

    benchmarks: Mapping[str, Benchmark]

    class Config(Options, OvsamConfig):
        """The network, and parameters of SAM's mask generator, except those for predicted IoU and for crops."""

        base: tuple[str, ...] = ()
        """names of classes seen in training. The scores of these classes depend mostly on the trained head; the scores
        of other classes depend mostly on CLIP. Not for `path: demo`

        If the vocabulary is the benchmark's own, and the benchmark has groups base and novel, the groups replace this
        option.
        """
        batch: int = Field(default=1, ge=1)
        """maximum number of images in one forward pass of CLIP's ResNet"""

    @classmethod
    def notes(cls, config: Config, benchmark: str) -> tuple[str, ...]:
        """Return a note for the report: the meaning of predicted_iou, and whether only the head computes the scores."""
        scores = "the head alone" if config.path == "demo" else "the ensemble; CLIP's branch sees the mask's box"
        return (f"predicted_iou is the stability of a mask; scores of {scores}",)

    def __init__(self, config: Config, prepared: Prepared | None = None) -> None:
        super().__init__(config, prepared)
        from ovss_ray.models.ovsam import network
        from ovss_ray.models.ovsam.everything import Everything

        self.model = network.load(config.variant, self.files(config), config.resolved_device(), config.precision)
        self.network = self.model
        parameters = config.model_dump(include=set(Settings.__dataclass_fields__))
        self.generator = Everything(self.model, Settings(**parameters, pred_iou_thresh=0))

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Propose and name the regions of every image. Up to `batch` images share a forward pass.

        If the option `exact` is True, each image has a separate forward pass. Repeated runs on the same hardware then
        give bit-identical results.
        """
        rows = list(zip(*(batch[name] for name in self.reads), strict=True))
        most = 1 if self.config.exact else self.config.batch
        with self.config.computing():
            parts = [rows[begin : begin + most] for begin in range(0, len(rows), most)]
            answers = [answer for part in parts for answer in self._answers(part, vocabularies)]
        return {name: column(answer[i] for answer in answers) for i, name in enumerate(self.writes)}

    def _answers(
        self, rows: Sequence[tuple[np.ndarray, str, str]], vocabularies: Vocabularies
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """Yield the values of the columns in `writes` for each image. All images are encoded in one pass."""
        seen = self.model.embed([image for image, *_ in rows], self.config.path)
        for (_, digest, benchmark), encoded, regions in zip(rows, seen, self.generator.regions(seen), strict=True):
            vocabulary = vocabularies[digest]
            groups = self._groups(benchmark, vocabulary)
            names = self.generator.named(encoded, regions, self._classes(vocabulary), *groups, top=TOP)
            bits = np.concatenate([np.empty(0, np.uint8), *regions.bits])
            yield regions.boxes, bits, regions.predicted_iou, names.scores, names.classes, names.probabilities

    def _groups(self, benchmark: str, vocabulary: Vocabulary) -> "tuple[Tensor, Tensor]":
        """Return two tensors (K,) bool that mark the base classes and the novel classes.

        The benchmark's groups `base` and `novel` assign the classes. If the benchmark has no such groups, the
        option `base` names the base classes, and all other classes are novel. The option `base` is also used if
        `vocabulary` is not the benchmark's vocabulary.
        """
        from ovss_ray.models.ovsam import words

        card = self.benchmarks[benchmark] if benchmark else None
        of_benchmark = card and card.vocabulary.digest == vocabulary.digest
        if card and of_benchmark and {"base", "novel"} <= card.groups.keys():
            return words.grouping(card.groups, card.index, len(vocabulary))
        return words.trained(self.config.base, vocabulary)
