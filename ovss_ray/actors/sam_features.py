"""Write the image embeddings of a SAM into shards, as targets for the training of Open-Vocabulary SAM's neck.

Photographs are resized as in Open-Vocabulary SAM (Yuan et al., ECCV 2024). For SAM ViT-H, an embedding takes 2 MB. A
shard is a file with the embeddings of several images, by image id (see io/arrays/shards.py).
"""

from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field, field_validator

from ovss_ray.io import files
from ovss_ray.io.arrays import shards
from ovss_ray.models.sam.config import SamConfig
from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import Batch
from ovss_ray.structures.vocabulary import Vocabularies


class Stage(stage.Stage):
    """Write the embedding of an image (H, W, 3) uint8 RGB to a shard in the folder `<folder>/<benchmark>`.

    An embedding (D, g, g) float16 has D channels on a grid of g × g cells.
    """

    reads = ("benchmark", "image")
    writes = ()
    gpu: ClassVar[bool] = True
    exports: ClassVar[bool] = True
    # not the folder: a run that goes on with another folder would leave it without the images that have a record
    where: ClassVar[tuple[str, ...]] = ("weights", "device", "batch")

    class Config(SamConfig):
        """The network, and the folder of the shards."""

        folder: str
        """path or URI of the folder, to which every node can write"""
        batch: int = Field(default=4, ge=1)
        """maximum number of images in a forward pass. To limit the number of images in a shard, set the key `batch` of
        this stage's pool in the config"""

        @field_validator("folder")
        @classmethod
        def _absolute_folder(cls, folder: str) -> str:
            return files.absolute(folder)

    @classmethod
    def files(cls, config: Config) -> tuple[Path, ...]:
        """Return the checkpoint. Raises OvssError if it is missing and cannot be downloaded."""
        return config.files()

    @classmethod
    def notes(cls, config: Config, benchmark: str) -> tuple[str, ...]:
        """Return a note for the report: the folder of the shards."""
        return (f"embeddings of {config.variant} are in {cls.folder(config, benchmark)}",)

    @classmethod
    def folder(cls, config: Config, benchmark: str) -> str:
        """Return the folder of a benchmark's shards."""
        return files.join(config.folder, files.plain(benchmark))

    def __init__(self, config: Config, prepared: stage.Prepared | None = None) -> None:
        super().__init__(config, prepared)
        self.network = config.load(config.batch)
        self.source = config.identity()

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Compute and write the embeddings of all images. Raises OvssError if the folder is not writable."""
        embeddings = self._embeddings(list(batch["image"]))
        for name in sorted(set(batch["benchmark"])):
            rows = [i for i, benchmark in enumerate(batch["benchmark"]) if benchmark == name]
            arrays = {str(batch["image_id"][i]): embeddings[i] for i in rows}
            shards.write(self.folder(self.config, name), arrays, self.source)
        return {}

    def _embeddings(self, images: list[np.ndarray]) -> list[np.ndarray]:
        """Return one embedding per image: (D, g, g) float16, with D channels on a grid of g × g cells."""
        import torch

        from ovss_ray.models.ovsam import inputs

        pixels, most = self.network.variant.pixels, 1 if self.config.exact else self.config.batch
        results: list[np.ndarray] = []
        with self.config.computing(), torch.inference_mode():
            for begin in range(0, len(images), most):
                part = [inputs.network_input(image, "evaluation", pixels) for image in images[begin : begin + most]]
                results += list(self.network.encode(torch.stack(part).to(self.network.device)).half().cpu().numpy())
        return results
