"""Types that the parts of report.json share: percentages, intervals, and the method of the intervals."""

import math
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict


def _measured(value: object) -> object:
    return None if isinstance(value, float) and math.isnan(value) else value


Percent = Annotated[float | None, BeforeValidator(_measured)]
"""A value in percent, or None if it could not be measured."""

Ends = tuple[float, float]
"""Lower and upper end of an interval, in percent; multiples of 1 / 2³²."""


class Part(BaseModel):
    """A part of a report."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())


class Bootstrap(Part):
    """95 % intervals: percentile bootstrap, with the averaged classes fixed (see docs/statistics.md)."""

    method: str = "centred percentiles"
    """name of the method; the default is that of reports without a name, by earlier versions"""
    unit: str
    """drawn with replacement: "image", or "photograph" if images share photographs"""
    units: int
    """number of images or photographs, and of draws in a resample"""
    resamples: int
    seed: int
    bit_generator: str
    """name in numpy.random"""
    rare_classes: int
    """number of classes in fewer than ten photographs, which make the intervals of means too narrow"""
    metrics: Mapping[str, Ends]
    """metric → its interval, such as metrics["miou"]"""
    groups: Mapping[str, Mapping[str, Ends]] = {}
    """group → key of its values → interval, such as groups["things"]["miou"]"""
    classes: Mapping[str, tuple[Ends | None, ...]] = {}
    """"iou" and "acc" → interval of each class, in their order; None for a class in fewer than five photographs"""
    photographs: tuple[int, ...] = ()
    """number of photographs in whose truth each class occurs"""

    def of_class(self, label: int) -> Ends | None:
        """Return the interval of the IoU of a class; None without one."""
        return self.classes["iou"][label] if "iou" in self.classes else None
