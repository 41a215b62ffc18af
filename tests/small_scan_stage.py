"""A SCAN that takes a blink, as a stage for tests of whole runs: the real stage with a thousandth of the network."""

from ovss_ray.actors import scan
from ovss_ray.models.scan.variants import VARIANTS
from tests.small_scan import SMALL
from tests.toys import Witnessed

VARIANTS["scan_small"] = SMALL


class Stage(Witnessed, scan.Stage):
    """`scan` of the variant scan_small, witnessed."""

    where = (*scan.Stage.where, *Witnessed.Config.model_fields)

    class Config(Witnessed.Config, scan.Stage.Config):
        variant: str = "scan_small"
