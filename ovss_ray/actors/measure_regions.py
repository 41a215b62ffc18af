"""Compare proposed regions with those of the truth where their pixels are; only a few numbers travel on."""

from ovss_ray import stage
from ovss_ray.columns import Batch, column
from ovss_ray.vocabulary import Vocabularies


class Stage(stage.Stage):
    """truth (H, W) uint16 and regions → proposal_recall (see metrics.proposal_recall)."""

    reads = ("truth", "boxes", "bits")
    writes = ("proposal_recall",)

    def __init__(self, config: stage.Config, prepared: stage.Prepared | None = None) -> None:
        super().__init__(config, prepared)
        self._measure = stage.find("ovss_ray.metrics", "proposal_recall", "measure")

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Measure every image."""
        return {"proposal_recall": column(map(self._measure, *(batch[name] for name in self.reads)))}
