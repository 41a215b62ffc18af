"""Stages for tests that note how many threads torch has when they are built and when they are called."""

import torch

from ovss_ray.pipeline.stage import Prepared
from ovss_ray.structures.columns import Batch
from ovss_ray.structures.vocabulary import Vocabularies
from tests import toys


class Stage(toys.Stage):
    """The stage of tests/toys.py as one that can use a GPU."""

    gpu = True

    def __init__(self, config: toys.Stage.Config, prepared: Prepared | None = None) -> None:
        super().__init__(config, prepared)
        toys.witness(f"{config.witness}.threads", f"built with {torch.get_num_threads()}")

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        toys.witness(f"{self.config.witness}.threads", f"called with {torch.get_num_threads()}")
        return super().__call__(batch, vocabularies)


def noted(witness: str) -> set[str]:
    """The lines that the stages with this witness have noted, without the processes."""
    with open(f"{witness}.threads") as lines:
        return {line.partition("@")[0] for line in lines}
