"""What a worker of the service does, without Ray: requests become a batch of the pipeline, and its rows answers."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from ovss_ray import pipeline, regions
from ovss_ray.columns import COLUMNS, column
from ovss_ray.config import RunConfig
from ovss_ray.errors import OvssError
from ovss_ray.serve.api import GIVEN, SPECIMEN, Row, row
from ovss_ray.stage import Stage
from ovss_ray.vocabulary import Vocabulary

ALWAYS = {"image_id", "vocabulary", "error"}
"""Columns that every pool needs."""


def plan(config: RunConfig) -> list[set[str]]:
    """For each pool of the config the columns that it hands on. Nothing is measured or saved, as there is no truth.

    Raises OvssError if the stages do not make a prediction of an image alone.
    """
    stages = config.stages()
    if not any("image" in stage.kind().reads for stage in stages):
        raise OvssError(
            f"{', '.join(stage.use for stage in stages)}: no stage looks at an image, so it cannot be served"
        )
    scored = {"scores", "boxes", "bits"} if any("scores" in stage.kind().writes for stage in stages) else set()
    keeps = pipeline.plan(stages, GIVEN, {*ALWAYS, "prediction", *scored})
    ends = np.cumsum([len(pool.stages) for pool in config.pools]) - 1
    return [keeps[end] | {"seconds"} for end in ends]


def run(stages: Mapping[str, Stage], requests: Sequence[tuple[Row, Vocabulary]], keep: Collection[str]) -> list[Row]:
    """Send requests through stages as one batch, whatever their vocabularies; a failed one has its `error` set."""
    names = requests[0][0]
    batch = {name: column(given[name] for given, _ in requests) for name in names}
    done = pipeline.run(stages, batch, {words.digest: words for _, words in requests})
    kept = {name: values for name, values in done.items() if name in keep}
    return [{name: values[i] for name, values in kept.items()} for i in range(len(requests))]


def warm(stages: Mapping[str, Stage], vocabularies: Sequence[Vocabulary]) -> None:
    """Run stages once for each vocabulary, so that the first request need not wait for what is made only once.

    Raises OvssError if they fail.
    """
    needed, written = set(ALWAYS), set[str]()
    for stage in stages.values():
        needed |= set(stage.reads) - written
        written |= set(stage.writes)
    for words in vocabularies:
        (done,) = run(stages, [(_specimen(needed, words), words)], {"error"})
        if done["error"]:
            raise OvssError(f"a first image fails, asked for {', '.join(words.names[:3])}, …: {done['error']}")


def _specimen(needed: Collection[str], words: Vocabulary) -> Row:
    """What the stages before would hand on of a small image: one region, all of it, that could be any class."""
    boxes, bits = regions.pack([np.ones(SPECIMEN.shape[:2], bool)])
    scores = np.zeros((1, len(words)), np.float32)
    made = {"boxes": boxes, "bits": bits, "predicted_iou": np.ones(1, np.float32), "scores": scores}
    made = {**row(SPECIMEN, words), **made}
    return {name: made[name] if name in made else COLUMNS[name].empty() for name in needed}
