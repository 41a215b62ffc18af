"""Counters and gauges of a run, which Ray exports to Prometheus.

In Prometheus, each name has the prefix `ray_`, and the name of a counter has the suffix `_total`.

The Ray actor of the ledger (engine/ledger.py) sets the metrics. The driver does not set them: if the driver runs
outside the cluster, Ray does not export the metrics of the driver.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

PREFIX = "ovss_run_"
"""Prefix of the names of all metrics of a run."""
RUN = "run"
"""Name of a label of all metrics; its value is the last part of the path of the run's folder."""


@dataclass(frozen=True)
class Kind:
    """Definition of a Prometheus metric: help text, names of labels, and whether the metric is a counter or a gauge.

    Every metric also has the label "run", which `labels` leaves out. A counter can only grow. A gauge may take any
    value.
    """

    text: str
    labels: tuple[str, ...] = ()
    counter: bool = False


KINDS = {
    "images": Kind("images of the run"),
    "images_done": Kind("images with a record, also from earlier commands"),
    "images_finished": Kind("images that this command has finished", ("outcome",), counter=True),
    "images_in_progress": Kind("images that workers are processing"),
    "workers": Kind("workers that have started and are not known to be dead"),
    "deaths": Kind("workers that have died"),
    "stage_seconds": Kind("wall seconds that workers have spent in a stage", ("stage",), counter=True),
    "provisional": Kind("value of a metric over the images so far, in percent", ("benchmark", "metric")),
    "provisional_half": Kind("half of the width of its interval, in points", ("benchmark", "metric")),
}
"""Name without PREFIX → kind of metric."""


@dataclass(frozen=True)
class Sample:
    """Current value of a metric. `labels`: one value for each label in Kind.labels, in the same order."""

    name: str
    value: float
    labels: tuple[str, ...] = ()


@dataclass
class Gauges:
    """Metrics of a run in the process that exports them."""

    run: str
    metrics: dict[str, Any] = field(default_factory=dict)
    """name → metric of Ray"""
    totals: dict[tuple[str, tuple[str, ...]], float] = field(default_factory=dict)
    """name and labels of a counter → its value"""

    def set(self, samples: Sequence[Sample]) -> None:
        """Export the values of samples. A counter stays unchanged if its new value is lower than its latest value."""
        for sample in samples:
            kind = KINDS[sample.name]
            labels = dict(zip((RUN, *kind.labels), (self.run, *sample.labels), strict=True))
            metric = self._metric(sample.name, kind)
            if not kind.counter:
                metric.set(sample.value, labels)
                continue
            key = sample.name, sample.labels
            if (more := sample.value - self.totals.get(key, 0.0)) > 0:
                self.totals[key] = sample.value
                metric.inc(more, labels)

    def _metric(self, name: str, kind: Kind) -> Any:
        from ray.util import metrics

        if name not in self.metrics:
            make = metrics.Counter if kind.counter else metrics.Gauge
            self.metrics[name] = make(PREFIX + name, kind.text, (RUN, *kind.labels))
        return self.metrics[name]
