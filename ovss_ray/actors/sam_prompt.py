"""SAM answers what somebody points at: points, boxes, and masks of earlier answers, on images that it has looked at.

Kirillov et al., "Segment Anything", ICCV 2023, arXiv 2304.02643, §3. An image is looked at when it is asked about for
the first time; each question then costs the small decoder alone.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from ovss_ray import regions, stage
from ovss_ray.actors.sam import Network
from ovss_ray.actors.san import computing
from ovss_ray.columns import Batch, column
from ovss_ray.errors import OvssError
from ovss_ray.text import Recent
from ovss_ray.vocabulary import Vocabularies

if TYPE_CHECKING:  # torch takes seconds to import, which checking a config should not cost
    from ovss_ray.models.sam import Answer, Embedded

QUESTION = ("points", "labels", "box", "mask", "multimask")
"""What a question may hold: the arguments of models.sam.Sam.predict."""


class Stage(stage.Stage):
    """image (H, W, 3) uint8 RGB and prompts, one question → its masks as regions, in the network's order."""

    reads = ("image", "prompts")
    writes = ("boxes", "bits", "predicted_iou")
    gpu: ClassVar[bool] = True
    where: ClassVar[tuple[str, ...]] = ("weights", "device", "images")

    class Config(Network):
        """The network, and how much it remembers."""

        images: int = Field(default=16, ge=1)
        """images that it remembers: those asked about last, 4 MB each (sam_tiny: 0.3 MB)"""

    @classmethod
    def files(cls, config: Config) -> tuple[Path, ...]:
        """The checkpoint. Raises OvssError if it is not here and cannot be downloaded."""
        return (config.file(),)

    def __init__(self, config: Config, prepared: stage.Prepared | None = None) -> None:
        super().__init__(config, prepared)
        self.model = config.load()
        self.seen: Recent[Embedded] = Recent(config.images)

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Answer the questions of a batch."""
        answers = [self.answer(image, asked) for image, asked in zip(batch["image"], batch["prompts"], strict=True)]
        packed = [regions.pack(answer.masks) for answer in answers]
        made = ([boxes for boxes, _ in packed], [bits for _, bits in packed], [one.predicted_iou for one in answers])
        return dict(zip(self.writes, map(column, made), strict=True))

    def answer(self, image: np.ndarray, question: Mapping[str, Any]) -> "Answer":
        """Masks (M, H, W) for one question about an image (H, W, 3) uint8 RGB, also as logits to ask further with.

        Raises OvssError for a question that is none.
        """
        if unknown := set(question) - set(QUESTION):
            raise OvssError(f"a question has {sorted(unknown)}; it may have {', '.join(QUESTION)}")
        with computing(self.config):
            key = f"{image.shape} {hashlib.sha256(image.tobytes()).hexdigest()}"
            return self.model.predict(self.seen.get(key, lambda: self.model.embed(image)), **question)
