"""A stage for tests that needs no network: the class of a pixel is how bright it is."""

import os

import numpy as np

from ovss_ray import stage
from ovss_ray.columns import Batch, column
from ovss_ray.errors import OvssError
from ovss_ray.vocabulary import Vocabularies


class Stage(stage.Stage):
    """image → prediction: the brightness of each pixel, cut into as many equal classes as the vocabulary has."""

    reads = ("image", "vocabulary")
    writes = ("prediction",)

    class Config(stage.Config):
        refuse: str = ""
        """the worker cannot be built, and says this"""
        die_on: str = ""
        """the image that ends its worker's process"""

    def __init__(self, config: Config, prepared: stage.Prepared | None = None) -> None:
        super().__init__(config, prepared)
        if config.refuse:
            raise OvssError(config.refuse)

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        if self.config.die_on in list(batch["image_id"]):
            os._exit(1)
        classes = [len(vocabularies[digest]) for digest in batch["vocabulary"]]
        return {"prediction": column(bright(image, k) for image, k in zip(batch["image"], classes, strict=True))}


def bright(image: np.ndarray, classes: int) -> np.ndarray:
    """(H, W, 3) uint8 → (H, W) uint16."""
    return (image.mean(-1) * classes / 256).astype(np.uint16)
