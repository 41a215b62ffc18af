"""Types that several parts of report.json use: percentages, intervals, and the method of the intervals."""

import math
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict


def _measured(value: object) -> object:
    return None if isinstance(value, float) and math.isnan(value) else value


Percent = Annotated[float | None, BeforeValidator(_measured)]
"""A value in percent, or None if it could not be measured."""

Ends = tuple[float, float]
"""Lower and upper end of an interval, in percent

Both ends are multiples of 1 / 2³², so that an interval is equal on every machine.
"""


class Part(BaseModel):
    """Base class of the parts of a report. Parts are immutable. Unknown keys, from other versions, are kept."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())


class Bootstrap(Part):
    """95 % intervals by a percentile bootstrap (docs/statistics.md).

    A class without pixels in the ground truth of a resample has no IoU in this resample. The mIoU of the resample then
    uses the IoU of the class over all images. Other means over classes are computed in the same way.
    """

    method: str = "centred percentiles"
    """name of the method; the default is for reports of earlier versions, which have no name of the method"""
    unit: str
    """unit of resampling: "image", or "photograph" if images share photographs"""
    units: int
    """number of units. A resample has the same number of draws with replacement."""
    resamples: int
    seed: int
    bit_generator: str
    """name of the bit generator in numpy.random"""
    rare_classes: int
    """number of classes that only one to nine photographs have; these classes make the intervals of means too narrow"""
    metrics: Mapping[str, Ends]
    """metric → interval, such as metrics["miou"]"""
    groups: Mapping[str, Mapping[str, Ends]] = {}
    """group → metric → interval, such as groups["things"]["miou"]"""
    classes: Mapping[str, tuple[Ends | None, ...]] = {}
    """"iou" or "acc" → interval of each class; None for a class in fewer than five photographs"""
    photographs: tuple[int, ...] = ()
    """for each class, the number of photographs with the class in the ground truth"""

    def of_class(self, label: int, key: str = "iou") -> Ends | None:
        """Return the interval of a class for the value `key`, such as "iou" or "acc"; None if there is no interval."""
        return self.classes[key][label] if key in self.classes else None
