"""A stage that hands on what it is given, so that a test can have a second pool, and see the batches."""

from pathlib import Path

from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import Batch
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies


class Stage(stage.Stage):
    """image → image."""

    reads = ("image", "vocabulary")
    writes = ("image",)

    class Config(Settings):
        witness: str
        """a file that every batch is written into: a line with the vocabularies of its rows"""

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        with Path(self.config.witness).open("a") as lines:
            lines.write(" ".join(batch["vocabulary"]) + "\n")
        return {"image": batch["image"]}
