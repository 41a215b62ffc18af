"""A stage for tests whose workers wait for each other: no image is finished before enough workers have begun one."""

import time
from pathlib import Path

from ovss_ray.structures.columns import Batch
from ovss_ray.structures.vocabulary import Vocabularies
from tests import toys

PATIENCE = 240.0
"""Seconds after which an image fails whose worker has waited for others in vain"""


class Stage(toys.Stage):
    """The stage of tests/toys.py, whose workers meet in the file of its option `witness`."""

    where = (*toys.Stage.where, "workers")

    class Config(toys.Stage.Config):
        workers: int = 1
        """number of processes that must have begun an image"""

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        labels, until = super().__call__(batch, vocabularies), time.monotonic() + PATIENCE
        while len(processes(self.config.witness)) < self.config.workers:
            if time.monotonic() > until:
                raise RuntimeError(f"{self.config.workers} workers have not met")
            time.sleep(0.1)
        return labels


def processes(witness: str) -> set[str]:
    """Return the ids of the processes that have begun an image (see toys.witness)."""
    return {line.partition("@")[2] for line in Path(witness).read_text().split()}
