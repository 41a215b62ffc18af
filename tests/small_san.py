"""A SAN that takes a blink, as a stage for tests of whole runs: the real stage with a thousandth of the network."""

from ovss_ray.actors import san
from ovss_ray.models.san.variants import VARIANTS
from tests.checkpoints import SMALL
from tests.toys import Witnessed

VARIANTS["san_small"] = SMALL


class Stage(Witnessed, san.Stage):
    """`san` of the variant san_small, witnessed."""

    where = (*san.Stage.where, *Witnessed.Config.model_fields)

    class Config(Witnessed.Config, san.Stage.Config):
        variant: str = "san_small"
