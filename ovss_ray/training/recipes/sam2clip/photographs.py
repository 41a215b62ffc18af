"""Photographs of a benchmark, shuffled in each epoch, without augmentation, and SAM's stored features."""

from functools import lru_cache

import numpy as np

from ovss_ray.benchmarks import catalog
from ovss_ray.benchmarks.listing import logged
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.io.arrays.shards import Shards
from ovss_ray.models.ovsam.variants import VARIANTS, teacher
from ovss_ray.models.sam.config import SamConfig
from ovss_ray.training.recipes.sam2clip.config import Config


class Photographs:
    """Photographs of a benchmark, with SAM's stored features if Config.targets is set.

    Config.targets is a folder of features. Photographs without features in this folder are left out. If Config.targets
    is None, all photographs of the benchmark are used, without stored features.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.benchmark = catalog.load(config.data)
        self.stored = Shards(config.targets) if config.targets else None
        items = logged(self.benchmark.items(files.absolute(config.data_root or ""), config.split or "train"))
        self.items = [item for item in items if self.stored is None or item.image_id in self.stored]
        if not self.items:
            raise OvssError(
                f"targets={config.targets} contains no features of images of {config.data}. {_advice(config)}"
            )
        self._check()
        self.order = lru_cache(2)(
            lambda epoch: np.random.default_rng([config.seed, epoch]).permutation(len(self.items))
        )

    def _check(self) -> None:
        """Raise OvssError if the stored features have another shape than the neck's output.

        Also raise OvssError if a checkpoint other than the teacher computed any of the stored features.
        """
        if self.stored is None:
            return
        variant, sam = VARIANTS[self.config.variant], teacher(self.config.variant)
        expected = variant.embed, variant.grid, variant.grid
        if (shape := self.stored.get(self.items[0].image_id).shape) != expected:
            raise OvssError(
                f"targets={self.config.targets} has features of shape {shape}, but the neck of {self.config.variant} "
                f"needs {expected}. {_advice(self.config)}"
            )
        needed, sources = SamConfig(variant=sam, weights=self.config.teacher).identity(), self.stored.sources
        if sources.keys() != {needed}:
            listed = "; ".join(f"{source or 'an unknown network'} ({file.name})" for source, file in sources.items())
            raise OvssError(
                f"targets={self.config.targets} has features computed by {listed}, but the teacher is {needed}. If "
                "these features are from one checkpoint, set `teacher` to that checkpoint. If these features are from "
                f"several checkpoints, compute the features again. {_advice(self.config)}"
            )

    def batch(self, step: int) -> tuple[list[np.ndarray], np.ndarray | None]:
        """Return the B photographs of a step, (H, W, 3) uint8 each, and SAM's stored features of the photographs.

        The features are (B, D, g, g), with D channels and g × g cells. If Config.targets is None, the features are
        None.
        """
        count = self.config.batch
        places = (divmod(number, len(self.items)) for number in range(step * count, (step + 1) * count))
        items = [self.items[self.order(epoch)[place]] for epoch, place in places]
        images = [self.benchmark.image(item, files.read(item.image)) for item in items]
        return images, np.stack([self.stored.get(item.image_id) for item in items]) if self.stored else None


def _advice(config: Config) -> str:
    """Return advice for an error message: how to write the features of the teacher."""
    return (
        "Write the teacher's features into an empty FOLDER, and set `targets` to the benchmark's subfolder of FOLDER. "
        f"Run `ovss evaluate sam_features --benchmark {config.data} --split {config.split or 'train'} "
        f"--set sam_features.variant={teacher(config.variant)} "
        f"--set sam_features.weights={config.teacher or 'null'} --set sam_features.folder=FOLDER`"
    )
