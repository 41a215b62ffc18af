"""Open-Vocabulary SAM: the mask and the name of the object at a prompt, from one frozen CLIP.

Yuan et al., "Open-Vocabulary SAM: Segment and Recognize Twenty-thousand Classes Interactively", ECCV 2024, arXiv
2401.02955.

Two branches classify a mask: a trained head, and CLIP. The head has a higher weight for base classes, on which the head
was trained. The options `clip_boxes` and `official` select the box that CLIP's branch sees.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.models.ovsam.config import OvsamConfig, WithNames
from ovss_ray.pipeline import stage
from ovss_ray.pipeline.stage import Prepared
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.masks import regions
from ovss_ray.structures.vocabulary import Vocabularies, Vocabulary

if TYPE_CHECKING:  # torch takes seconds to import, which checking a config should not cost
    from torch import Tensor

    from ovss_ray.models.ovsam.inputs import Embedded
    from ovss_ray.models.sam_layers.prompts import Prompts

PROMPTS = ("prompt_points", "prompt_boxes")
TRUTH = ("true_frames", "prompt_instances")
"""Columns with the annotated boxes of the prompted instances"""
MASKS = 32
"""Maximum number of full-size masks (H, W) in memory at the same time"""


class Stage(WithNames, stage.Stage):
    """Segment and name the objects at N prompts in an image (H, W, 3) uint8 RGB.

    The N regions have scores (N, K) float32 for K classes.
    """

    reads: tuple[str, ...] = ("image", "vocabulary", "benchmark", *PROMPTS)
    writes = ("boxes", "bits", "scores")
    gpu: ClassVar[bool] = True
    where: ClassVar[tuple[str, ...]] = ("weights", "clip", "neck", "sam", "fpn", "device", "batch")

    benchmarks: Mapping[str, Benchmark]

    class Config(OvsamConfig):
        """The network with the checkpoints of its parts, and the options of its scores."""

        clip_boxes: Literal["prompt", "truth"] = "prompt"
        """box that CLIP's branch sees. prompt: the box of the prompt or, if the prompt has no box, the box of the mask.
        truth: the annotated box of the instance. If `official` is True, `clip_boxes` has no effect"""
        official: bool = False
        """True: CLIP's branch sees the annotated box of the instance, as in the published evaluation. The box stays in
        pixels of the photograph, although the network sees a resized image. The official code does the same"""
        batch: int = Field(default=1, ge=1)
        """maximum number of images in one forward pass of CLIP's ResNet"""

        @model_validator(mode="after")
        def _effective(self) -> Self:
            """Refuse options that have no effect with `path: demo`."""
            if self.path == "demo" and self.needs_truth:
                raise ValueError(
                    "with `path: demo`, all scores come from the head, so `official` and `clip_boxes: truth` have "
                    "no effect. Remove these options, or set `path` to evaluation"
                )
            return self

        @property
        def needs_truth(self) -> bool:
            """True if one of the options gives annotated boxes to CLIP's branch."""
            return self.official or self.clip_boxes == "truth"

    @classmethod
    def columns(cls, options: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the columns that the stage reads and writes.

        The columns with annotated boxes are read only if `official` is True, or if `clip_boxes` is "truth".
        """
        needs_truth = options.get("official") or options.get("clip_boxes") == "truth"
        return ((*cls.reads, *TRUTH) if needs_truth else cls.reads), cls.writes

    @classmethod
    def notes(cls, config: Config, benchmark: str) -> tuple[str, ...]:
        """Return a note for the report: the option `path`, and the kind of the boxes that CLIP's branch sees."""
        if config.path == "demo":
            return ("path demo: scores of the head alone",)
        if config.official:
            return (
                "path evaluation, official: CLIP's branch sees the annotated box of each instance, in pixels of the "
                "photograph instead of the network's input, as in the published evaluation",
            )
        if config.needs_truth:
            return ("path evaluation: CLIP's branch sees the annotated box of each instance",)
        return ("path evaluation: CLIP's branch sees the box of the prompt, or of the mask if the prompt has none",)

    def __init__(self, config: Config, prepared: Prepared | None = None) -> None:
        super().__init__(config, prepared)
        from ovss_ray.models.ovsam import network

        self.reads, _ = self.columns(config.model_dump())
        self.model = network.load(config.variant, self.files(config), config.resolved_device(), config.precision)

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Segment and name the objects at all prompts of the images. Several images share a forward pass.

        If the option `exact` is True, each image has a separate forward pass. Repeated runs on the same hardware then
        give bit-identical results.
        """
        import torch

        rows = [{name: batch[name][i] for name in self.reads} for i in range(len(batch["image"]))]
        most = 1 if self.config.exact else self.config.batch
        answers: list[tuple[np.ndarray, ...]] = []
        with self.config.computing(), torch.inference_mode():
            for begin in range(0, len(rows), most):
                answers += self._answers(rows[begin : begin + most], vocabularies)
        return {name: column(answer[i] for answer in answers) for i, name in enumerate(self.writes)}

    def _answers(
        self, rows: Sequence[Mapping[str, Any]], vocabularies: Vocabularies
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """Yield each image's values for the columns in `writes`. All images with prompts are encoded in one pass."""
        prompted = [row for row in rows if len(row["prompt_points"])]
        seen = self.model.embed([row["image"] for row in prompted], self.config.path) if prompted else []
        logits = self.model.masks(seen, list(map(_prompts, prompted, seen)))
        results = iter(zip(seen, logits, strict=True))
        for row in rows:
            vocabulary = vocabularies[row["vocabulary"]]
            if not len(row["prompt_points"]):
                yield *regions.pack([]), np.zeros((0, len(vocabulary)), np.float32)
                continue
            encoded, of_image = next(results)
            scores = self._scores(row, encoded, of_image, vocabulary)
            yield *regions.pack(self._masks(encoded, of_image)), scores

    def _masks(self, encoded: "Embedded", logits: "Tensor") -> Iterator[np.ndarray]:
        """Yield the mask (H, W) bool of each prompt."""
        for part in logits.split(MASKS):
            yield from self.model.full_size(encoded, part)

    def _scores(
        self, row: Mapping[str, Any], encoded: "Embedded", logits: "Tensor", vocabulary: Vocabulary
    ) -> np.ndarray:
        """Return the scores (N, K) float32 of N masks for K classes.

        If `path` is evaluation, a score is a weighted mean of log-probabilities from the head and CLIP's branch. If
        `path` is demo, a score is the head's logit.
        """
        from ovss_ray.models.ovsam.naming import named

        base, novel = self._groups(row["benchmark"], vocabulary)
        boxes = self._clip_boxes(row, encoded)
        return named(self.model, encoded, logits, self._classes(vocabulary), base, novel, boxes).scores

    def _groups(self, benchmark: str, vocabulary: Vocabulary) -> "tuple[Tensor, Tensor]":
        """Return two tensors (K,) bool that mark the base classes and the novel classes.

        The benchmark's groups `base` and `novel` assign the classes. If `vocabulary` is not the benchmark's vocabulary,
        all classes are novel. If the benchmark has no groups `base` and `novel`, all classes are novel, too.
        """
        from ovss_ray.models.ovsam import words

        card = self.benchmarks[benchmark] if benchmark else None
        if card is None or card.vocabulary.digest != vocabulary.digest:
            return words.grouping({}, (), len(vocabulary))
        return words.grouping(card.groups, card.index, len(vocabulary))

    def _clip_boxes(self, row: Mapping[str, Any], encoded: "Embedded") -> "Tensor | None":
        """Return the boxes (N, 4) float32 that CLIP's branch sees, or None.

        The result is None if the prompts have no boxes, and no option requests annotated boxes. CLIP's branch then sees
        the boxes of the masks. If `official` is True, the returned boxes are in pixels of the photograph. Otherwise,
        the returned boxes are in pixels of the network's input.
        """
        from ovss_ray.models.ovsam import inputs

        if self.config.needs_truth:
            frames = row["true_frames"][row["prompt_instances"]]
            return inputs.scaled_boxes(frames, encoded.placed, not self.config.official)
        if row["prompt_boxes"].shape[1]:
            return inputs.scaled_boxes(row["prompt_boxes"][:, 0], encoded.placed)
        return None


def _prompts(row: Mapping[str, Any], encoded: "Embedded") -> "Prompts":
    """Return the prompts of an image, in pixels of the network's input."""
    from ovss_ray.models.ovsam import inputs

    points, boxes = (row[name] for name in PROMPTS)
    return inputs.prompts(
        points if points.shape[1] else None, None, boxes[:, 0] if boxes.shape[1] else None, encoded.placed
    )
