"""A stage for tests that finds words in captions: all of their words, by count, then by first occurrence."""

from collections import Counter

from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.vocabulary import Vocabularies


class Stage(stage.Stage):
    """captions → words."""

    reads = ("captions",)
    writes = ("words",)

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        counts = [Counter(" ".join(captions["texts"]).split()) for captions in batch["captions"]]
        values = [[[word] for word, _ in one.most_common() if word != "nothing"] for one in counts]
        return {"words": column({"classes": value, "source": "every word", "scores": None} for value in values)}
