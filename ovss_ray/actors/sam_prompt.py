"""SAM answers what somebody points at: points, boxes, and masks of earlier answers, on images that it has looked at.

Kirillov et al., "Segment Anything", ICCV 2023, arXiv 2304.02643, §3. An image is looked at when it is asked about for
the first time; each question then costs the small decoder alone.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from ovss_ray import regions, stage
from ovss_ray.actors import sam
from ovss_ray.actors.san import computing
from ovss_ray.columns import Batch, column
from ovss_ray.errors import OvssError
from ovss_ray.vocabulary import Vocabularies

if TYPE_CHECKING:  # torch takes seconds to import, which checking a config should not cost
    from ovss_ray.models.sam import Answer, Embedded, Sam

QUESTION = ("points", "labels", "box", "mask", "multimask")
"""What a question may hold: the arguments of models.sam.Sam.predict."""
NAME = "image"
"""What it may hold beside them: a name for the image to remember it by. Without one its pixels are hashed each time."""


@dataclass(frozen=True)
class Seen:
    """An image that has been looked at."""

    image: np.ndarray
    """(H, W, 3) uint8 RGB"""
    embedded: "Embedded"

    @property
    def nbytes(self) -> int:
        """What it takes, wherever it lies."""
        return self.image.nbytes + self.embedded.embedding.nbytes


class Stage(stage.Stage):
    """image (H, W, 3) uint8 RGB and prompts, one question → its masks as regions, in the network's order."""

    reads = ("image", "prompts")
    writes = ("boxes", "bits", "predicted_iou")
    gpu: ClassVar[bool] = True
    where: ClassVar[tuple[str, ...]] = ("weights", "device", "memory")

    class Config(sam.Network):
        """The network, and how much it remembers."""

        memory: int = Field(default=1 << 28, ge=1)
        """bytes of the images that it remembers, those asked about last, and of what the network made of them: 4 MB
        each (sam_tiny: 0.3 MB). The very last one is remembered in any case"""

    @classmethod
    def files(cls, config: Config) -> tuple[Path, ...]:
        """The checkpoint. Raises OvssError if it is not here and cannot be downloaded."""
        return (config.file(),)

    def __init__(self, config: Config, prepared: stage.Prepared | None = None, model: "Sam | None" = None) -> None:
        super().__init__(config, prepared)
        from ovss_ray.text import Recent

        self.model = model or config.load()
        config.compiled(self.model, 1)  # which a network that it shares is perhaps not
        self.seen: Recent[Seen] = Recent(config.memory, lambda one: one.nbytes)

    @classmethod
    def beside(cls, proposer: stage.Stage, memory: int) -> "Stage":
        """One that shares the network of the stage `sam`: two of the larger ones would fill a GPU."""
        if not isinstance(proposer, sam.Stage):
            raise TypeError(f"{type(proposer)} is not the stage sam")
        network = proposer.config.model_dump(include=set(sam.Network.model_fields))
        return cls(cls.Config(**network, memory=memory), model=proposer.generator.model)

    def kept(self) -> Mapping[str, int]:
        """Images, and what the network made of them."""
        return {"images": self.seen.held}

    def image(self, name: str) -> np.ndarray | None:
        """The image that is remembered by a name, (H, W, 3) uint8 RGB."""
        seen = self.seen.kept(name)
        return seen.image if seen else None

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
        if unknown := set(question) - {*QUESTION, NAME}:
            raise OvssError(f"a question has {sorted(unknown)}; it may have {', '.join(QUESTION)}")
        name = question.get(NAME) or f"{image.shape} {hashlib.sha256(image.tobytes()).hexdigest()}"
        with computing(self.config):
            # A copy is kept: the image may lie in memory that Ray shares and wants back.
            seen = self.seen.get(name, lambda: Seen(image.copy(), self.model.embed(image)))
            return self.model.predict(seen.embedded, **{key: question[key] for key in QUESTION if key in question})
