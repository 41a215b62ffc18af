"""A stage without a network: the class of a pixel is how bright it is, after a while, or never."""

import time
from pathlib import Path

from ovss_ray.errors import in_parts
from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies
from tests.toys import bright, commit


class Stage(stage.Stage):
    """image → prediction."""

    reads = ("image", "vocabulary")
    writes = ("prediction",)

    class Config(Settings):
        seconds: float = 0.0
        """that a batch takes"""
        parts: int = 1
        """that this time is divided into, between each two of which the batch may be ended"""
        gate: str = ""
        """a file: while it is there, a batch waits"""
        hang: str = ""
        """a file: once it is there, it is taken away and the batch never ends; if called C, Python stands still too"""

    steps = 0

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        for _ in in_parts(range(self.config.parts)):
            time.sleep(self.config.seconds / self.config.parts)
            self.steps += 1
        while self.config.gate and Path(self.config.gate).exists():
            time.sleep(0.02)
        if self.config.hang and Path(self.config.hang).exists():
            Path(self.config.hang).unlink()
            commit("loop in C") if Path(self.config.hang).name == "C" else time.sleep(3600)
        classes = [len(vocabularies[digest]) for digest in batch["vocabulary"]]
        return {"prediction": column(map(bright, batch["image"], classes))}
