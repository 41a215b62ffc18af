"""Segment the object of a prompt with SAM.

A prompt has points, a box, the logits of a mask from an earlier answer, or several of these. With `per: instance`,
prompts come from actors/truth_prompts.py, and each prompt gets the mask with the highest predicted IoU.

Kirillov et al., "Segment Anything", ICCV 2023, arXiv 2304.02643, §3.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ovss_ray.errors import OvssError
from ovss_ray.models.sam.config import SamConfig
from ovss_ray.models.sam_layers.encoded import WithImages, hashed
from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.masks import regions
from ovss_ray.structures.vocabulary import Vocabularies

if TYPE_CHECKING:  # torch takes seconds to import, which checking a config should not cost
    from ovss_ray.models.sam.network import Answer, Sam

QUESTION = ("points", "labels", "box", "mask", "multimask")
"""Keys of a prompt. Their values are described at the arguments of models.sam.network.Sam.predict."""
NAME = "image"
"""Optional key of a prompt: the name of the image in the cache of encoded images. For every prompt without this key,
a hash of the image's pixels is computed and used as the name."""
OTHERS = (NAME, "base")
"""Further keys that a prompt may have. SAM ignores `base`, a key for Open-Vocabulary SAM"""


class Stage(WithImages, stage.Stage):
    """Segment the objects of prompts in an image (H, W, 3) uint8 RGB. The masks are written as regions.

    With `per: instance`, region i is the mask for prompt i.
    """

    reads: tuple[str, ...] = ("image", "prompts")
    writes = ("boxes", "bits", "predicted_iou")
    gpu: ClassVar[bool] = True
    where: ClassVar[tuple[str, ...]] = ("weights", "device", "memory")

    class Config(SamConfig):
        """The network, and the size of its image cache."""

        memory: int = Field(default=1 << 28, ge=1)
        """maximum bytes of the cache of images and embeddings; the newest image is always cached. The embedding of an
        image takes 4 MB, or 0.3 MB for sam_tiny"""
        per: Literal["image", "instance"] = "image"
        """image: each image has one prompt, and the stage writes all masks that SAM predicts for this prompt.
        instance: each true instance has one prompt, and the stage writes one mask per prompt"""

    @classmethod
    def files(cls, config: Config) -> tuple[Path, ...]:
        """Return the checkpoint. Raises OvssError if it is missing and cannot be downloaded."""
        return config.files()

    @classmethod
    def columns(cls, options: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the columns that the stage reads and writes.

        Prompts are read from `prompts`, or with `per: instance` from `prompt_points` and `prompt_boxes`.
        """
        per_instance = options.get("per") == "instance"
        return (("image", "prompt_points", "prompt_boxes") if per_instance else cls.reads), cls.writes

    def __init__(self, config: Config, prepared: stage.Prepared | None = None, network: "Sam | None" = None) -> None:
        super().__init__(config, prepared)
        self.reads, _ = self.columns(config.model_dump())
        self.model = network or config.load()
        config.compiled(self.model, 1)  # a shared network may not have been compiled for batch size 1
        self.cache(config.memory)

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Segment the prompt, or the prompts, of every image."""
        packed = list(map(self._one if self.config.per == "image" else self._each, *(batch[n] for n in self.reads)))
        return {name: column(row[i] for row in packed) for i, name in enumerate(self.writes)}

    def _one(self, image: np.ndarray, prompt: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
        """Return boxes (M, 4), packed masks and predicted IoU (M,) of the M masks for one prompt.

        The packed masks are one array uint8 for all M masks, as in the column `bits`.
        """
        answer = self.answer(image, prompt)
        return *regions.pack(answer.masks), answer.predicted_iou

    def _each(self, image: np.ndarray, points: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return bounding boxes (N, 4), packed masks and predicted IoU (N,) of N masks, one mask per prompt.

        `points` and `boxes` are the N prompts. If the prompts are points, `points` is (N, 1, 2) and `boxes` is
        (N, 0, 4). If the prompts are boxes, `points` is (N, 0, 2) and `boxes` is (N, 1, 4). The packed masks are one
        array uint8 for all masks, as in the column `bits`.
        """
        ious = np.empty(len(points), np.float32)

        def masks() -> Iterator[np.ndarray]:
            for i in range(len(points)):
                # A point is ambiguous: SAM predicts three masks. For a box, SAM's authors recommend one mask.
                prompt = {"image": name, "multimask": points.shape[1] == 1 and not boxes.shape[1]}
                if points.shape[1]:
                    prompt |= {"points": points[i], "labels": np.ones(points.shape[1], int)}
                if boxes.shape[1]:
                    prompt |= {"box": boxes[i, 0]}
                answer = self.answer(image, prompt)
                best = int(np.argmax(answer.predicted_iou))
                ious[i] = answer.predicted_iou[best]
                yield answer.masks[best]

        name = hashed(image)
        return *regions.pack(masks()), ious

    def answer(self, image: np.ndarray, question: Mapping[str, Any]) -> "Answer":
        """Return the masks for a prompt on an image (H, W, 3) uint8 RGB. Raises OvssError for an invalid prompt."""
        if unknown := set(question) - {*QUESTION, *OTHERS}:
            raise OvssError(f"unknown keys of a prompt: {sorted(unknown)}; allowed: {', '.join(QUESTION)}")
        with self.config.computing():
            seen = self.encoded(image, question.get(NAME), self.model.embed)
            return self.model.predict(seen, **{key: question[key] for key in QUESTION if key in question})
