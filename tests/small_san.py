"""A SAN that takes a blink, as a stage for tests of whole runs: the real stage with a thousandth of the network."""

import time

from ovss_ray.actors import san
from ovss_ray.columns import Batch
from ovss_ray.models.san_variants import VARIANTS
from ovss_ray.stage import Prepared
from ovss_ray.vocabulary import Vocabularies
from tests.checkpoints import SMALL
from tests.toys import witness

VARIANTS["san_small"] = SMALL


class Stage(san.Stage):
    """`san` of the variant san_small; it notes every image that it is given, and can be slowed down."""

    where = (*san.Stage.where, "witness", "seconds")

    class Config(san.Stage.Config):
        variant: str = "san_small"
        witness: str = ""
        seconds: float = 0.0

    def __init__(self, config: Config, prepared: Prepared | None = None) -> None:
        super().__init__(config, prepared)
        self.slowed = config

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        for image_id in batch["image_id"]:
            witness(self.slowed.witness, image_id)
        time.sleep(self.slowed.seconds * len(batch["image_id"]))
        return super().__call__(batch, vocabularies)
