"""Metrics, one module each. A metric measures each image, sums the measurements, and computes results from the sum.

A metric is a module of this package, or a user's module that a config lists under `metrics:`. The module defines each
field of the classes Table and Metric as a global name, such as `headings`. Fields with a default are optional. Only the
field `name` is not defined: the metric has the name of the module.

A metric of this package may instead be derived from the sum of another metric. The module of a derived metric defines
the fields of the classes Table and Derived.

Values are percent; NaN stands for a value that cannot be computed. A module whose name begins with an underscore is
not a metric. A metric's module imports neither other metrics nor Ray. Dimensions: L labels, R resamples.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from ovss_ray import registry
from ovss_ray.errors import OvssError
from ovss_ray.structures.class_sums import ClassSums

PACKAGE = "ovss_ray.metrics"
MAIN = "confusion"
"""Metric of every run with label maps. Such a run is refused if no stage writes the columns that the metric reads."""

FOLD = "fold"
"""Value of `Derived.needs` for a metric that also needs the number of measured episodes of a few-shot fold."""

_OF_CLASS, _OF_GROUP, _COUNT = " of each class", " of groups", " among its counts"
_RESERVED = {(_OF_CLASS, "name"): "the report", (_OF_GROUP, "labels"): "the report", (_OF_GROUP, "pooled_iou"): MAIN}
"""Values that no user's metric may define: (part of the report, key of the value) → owner of the value."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Attributes that measured and derived metrics have in common.

    The classes `Metric.Partial` and `Derived.Result` compute a metric's values. They have the method `result()` → {key:
    value}. Optional methods are `per_label()` → {key: (L,) array} for L labels, `counted()` → {key: integer}, and
    `of_group(labels)` → {key: value} for a group of labels.
    """

    name: str
    headings: Mapping[str, str]
    """key of `result()` → heading in the metric's table, in the order of the columns"""
    title: str = ""
    """title of the metric's table; if `title` is empty, the table has the metric's name"""
    order: int = 100
    """sort key of the table in the report; the main metric has 0"""
    class_headings: Mapping[str, str] = field(default_factory=dict)
    """key of `per_label()` → heading in the table of classes"""
    counts: Mapping[str, str] = field(default_factory=dict)
    """key of `counted()` → description"""
    group_headings: Mapping[str, str] = field(default_factory=dict)
    """key of a value from the method `of_group()` → name of the value in reports (example: "miou" → "mIoU")"""
    group_counts: Mapping[str, str] = field(default_factory=dict)
    """key of an integer in the result of `of_group()` → unit of this integer in reports, such as "classes\""""
    Resampled: Callable[[ClassSums, ClassSums], Any] | None = None
    """class `Resampled(sums, of_all)` for bootstrap intervals; only for "confusion", and for metrics derived from it

    `sums` has the sums of R resamples, and `of_all` those of all images. Methods: `result()` → {key: (R,) array};
    optional are `of_group(labels)` → {key: (R,) array} and `per_label()` → {key: (R, L) array}."""
    on_request: bool = False
    """True: the metric is computed only on request

    A config requests a measured metric under `metrics:`. `ovss report RUN --metrics NAME` requests a derived metric."""

    @property
    def place(self) -> tuple[int, str]:
        """Sort key of the table in a report: (order, name)."""
        return self.order, self.name

    @property
    def measured_as(self) -> str:
        """Name of the metric from whose records the values are computed."""
        return self.name


@dataclass(frozen=True, kw_only=True)
class Derived(Table):
    """Metric that is computed from the sum of another metric, also for finished runs.

    Each derived metric sets either `needs` or `on_request`.
    """

    derives: str
    """name of the metric from whose sum this metric is computed"""
    Result: Callable[..., Any]
    """class that computes the values; arguments: the other metric's sum, and a further input if `needs` is not empty"""
    needs: str = ""
    """name of a further input: "relations" or the constant FOLD; "" if there is no further input"""

    @property
    def option(self) -> str:
        """Option of `ovss report` that requests this metric, such as "--metrics dice"; empty if `needs` is FOLD."""
        return _option(self.name, self.needs)

    @property
    def measured_as(self) -> str:
        """Name of the metric from whose records the values are computed."""
        return self.derives


@dataclass(frozen=True, kw_only=True)
class Metric(Table):
    """Metric that is measured per image."""

    reads: tuple[str, ...]
    """names of the columns that `measure` needs (see structures.columns); the metric runs if all columns exist"""
    schema: pa.StructType
    """type of a measurement; records store measurements in a column with the metric's name"""
    measure: Callable[..., Mapping[str, Any] | None]
    """function (Question, the columns in `reads`) → dict with the fields of `schema`, or None to omit the image"""
    Partial: Any
    """class of sums over images, with `of(records, labels)`, `+` and `result()`

    `records` is an array of type `schema`, which may contain nulls. `labels` is the number of labels. `+` must be
    exact, associative and commutative."""
    live: Mapping[str, str] = field(default_factory=dict)
    """key of `result()` → name in the progress display, which shows only these values"""
    per_image: Callable[[pa.StructArray], Mapping[str, np.ndarray]] | None = None
    """function (n records) → {key: (n,) float64}, a value per image for the table of `ovss report RUN --images N`"""
    federated: bool = False
    """True: each benchmark must list the classes that annotators searched for in each image, as lvis does"""
    sums: pa.StructType | None = None
    """type of the metric's sum in compact files; if None, `ovss report --compact` refuses runs with this metric

    If Partial has only integers and arrays of integers as fields, these fields are stored. Otherwise, Partial needs two
    methods: `folded()` returns a dict of the type `sums`, and `of_folded(dict)` returns the Partial."""

    @property
    def fields(self) -> set[str]:
        """Names of the fields of `schema`."""
        return {entry.name for entry in self.schema}

    def checked(self, value: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Return the measurement `value`. Raises OvssError if its fields or types differ from `schema`."""
        if value is not None and set(value) != self.fields:
            raise OvssError(
                f"`measure` of the metric {self.name} returned the fields {sorted(value)}, expected the fields of "
                f"`schema`: {sorted(self.fields)}"
            )
        try:
            pa.array([value], self.schema)
        except (pa.ArrowException, TypeError, ValueError) as failure:
            raise OvssError(
                f"`measure` of the metric {self.name} returned values that do not fit `schema`: {failure}"
            ) from failure
        return value

    def partial(self, column: pa.Array | pa.ChunkedArray, labels: int) -> Any:
        """Return the sum of a column of measurements. Raises OvssError if fields of `schema` are missing.

        `labels` is the number of labels.
        """
        if missing := self.fields - {entry.name for entry in column.type}:
            raise OvssError(
                f"these records of the metric {self.name} lack the fields {sorted(missing)}: they were written by "
                "another version of the metric. Choose a new --out"
            )
        return self.Partial.of(column, labels)


@cache
def load(name: str) -> Metric:
    """Return a measured metric by name. The name of a user's metric has a dot, such as my_package.my_metric.

    Raises UnknownName if the name has no dot and is unknown. Raises OvssError for a derived metric, for an incomplete
    module, and for a user's module that does not exist.
    """
    if "derives" in (module := registry.find(PACKAGE, name, "__dict__")):
        raise OvssError(
            f"the metric {name} is not measured: it is computed from the records of {module['derives']}. Delete it "
            f"from `metrics:`, and type: ovss report RUN {_option(name, module.get('needs', ''))}".rstrip()
        )
    return Metric(**_defined(Metric, name))


def _option(name: str, needs: str) -> str:
    """Return the option of `ovss report` that requests the derived metric `name`; empty if `needs` is FOLD."""
    if not needs:
        return f"--metrics {name}"
    return "" if needs == FOLD else f"--{needs} FILE"


@cache
def built_in() -> tuple[Metric, ...]:
    """Return the metrics of this package that are measured per image, in the order of their tables in reports."""
    return tuple(sorted(map(load, _known(derived=False)), key=lambda metric: metric.place))


@cache
def derived() -> tuple[Derived, ...]:
    """Return the derived metrics of this package, in the order of their tables in reports."""
    every = (Derived(**_defined(Derived, name)) for name in _known(derived=True))
    return tuple(sorted(every, key=lambda metric: metric.place))


@cache
def regular() -> tuple[Metric, ...]:
    """Return the metrics of `built_in` that need no entry in a config, in the same order."""
    return tuple(metric for metric in built_in() if not metric.on_request)


def requested(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names given to --metrics, without duplicates.

    Raises OvssError if a name is not that of a derived metric with `on_request`.
    """
    possible = [metric.name for metric in derived() if metric.on_request]
    inputs = {metric.name: metric.option or "a benchmark of folds" for metric in derived() if not metric.on_request}
    for name in names:
        registry.find(PACKAGE, name, "__dict__")
        if name in inputs:
            raise OvssError(f"--metrics takes only {', '.join(possible)}. For {name}, use {inputs[name]} instead")
        if name not in possible:
            raise OvssError(
                f"--metrics {name}: {name} is not computed from finished records. Choose from {', '.join(possible)}. "
                "To measure a further metric per image, list it under `metrics:` of the config, and use a new --out"
            )
    return tuple(dict.fromkeys(names))


def _known(derived: bool) -> list[str]:
    modules = registry.known(PACKAGE)
    return [name for name in modules if ("derives" in registry.find(PACKAGE, name, "__dict__")) == derived]


def _defined(kind: type[Table], name: str) -> dict[str, Any]:
    """Return the keyword arguments of Metric or Derived from a metric's module.

    Raises OvssError for a missing attribute, and for `Resampled` in a metric that must not define it.
    """
    module = registry.find(PACKAGE, name, "__dict__")
    if "Resampled" in module and module.get("derives", name) != MAIN:
        raise OvssError(
            f"the metric {name} defines `Resampled`. Only {MAIN} and metrics derived from it may define it, since "
            "resamples are sums of confusion matrices. Delete `Resampled`"
        )
    attributes = [entry for entry in fields(kind) if entry.name != "name"]
    required = [entry.name for entry in attributes if entry.default is entry.default_factory is MISSING]
    optional = [entry.name for entry in attributes if entry.name in module]
    return {"name": name, **{key: registry.find(PACKAGE, name, key) for key in (*required, *optional)}}


def columns(names: Iterable[str]) -> list[str]:
    """Return the names of metrics among the column names of records."""
    known = {metric.name for metric in built_in()}
    return [name for name in names if name in known or "." in name]


def load_own(names: tuple[str, ...]) -> tuple[Metric, ...]:
    """Return the metrics that a config lists.

    Raises OvssError for a metric that every run measures, and for two metrics with values of the same name.
    """
    added = tuple(map(load, names))
    known = [metric for metric in (*built_in(), *derived()) if metric.name not in names]
    taken = {**_RESERVED, **{key: metric.name for metric in known for key in _keys(metric)}}
    for metric in added:
        if "." not in metric.name and not metric.on_request:
            optional = ", ".join(of.name for of in built_in() if of.on_request)
            raise OvssError(
                f"the metric {metric.name} is built in: it runs in every run whose stages write {list(metric.reads)}. "
                f"Under `metrics:`, list only modules of your own, such as my_package.my_metric, or one of: {optional}"
            )
        if clashes := [key for key in _keys(metric) if key in taken]:
            kind, key = clashes[0]
            raise OvssError(
                f"the metric {metric.name} has a value named {key!r}{kind}, but {taken[kind, key]} already has a value "
                "of this name. List each metric once, and give each value a unique name"
            )
        taken |= dict.fromkeys(_keys(metric), metric.name)
    return added


def refuse_unsearched(names: Iterable[str], federated: Mapping[str, bool]) -> None:
    """Raise OvssError if a metric needs lists of the classes that annotators searched for, but a benchmark has none.

    `names` are the names of the metrics. `federated` has the name of each benchmark → whether it has such lists.
    """
    others = [name for name, searched in federated.items() if not searched]
    for name in names:
        if others and load(name).federated:
            raise OvssError(
                f"the metric {name} needs lists of the classes that annotators searched for in each image. The "
                f"benchmark {others[0]} has no such lists. Use --benchmark lvis alone, or delete {name} from `metrics:`"
            )


def _keys(metric: Table) -> list[tuple[str, str]]:
    """Return (part of the report, key) for each value of a metric. The part is "" for the metric's own table."""
    of_group = {**metric.group_headings, **metric.group_counts}
    kinds = {"": metric.headings, _OF_CLASS: metric.class_headings, _OF_GROUP: of_group, _COUNT: metric.counts}
    return [(kind, key) for kind, keys in kinds.items() for key in keys]
