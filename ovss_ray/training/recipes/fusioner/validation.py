"""Scores of a Fusioner on episodes during a training. `ovss evaluate` computes scores with the same functions."""

from collections.abc import Iterable
from itertools import groupby, islice
from operator import attrgetter

import numpy as np
import torch

from ovss_ray.actors.truth import squared
from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.benchmarks.listing import Item
from ovss_ray.io import files
from ovss_ray.metrics import confusion
from ovss_ray.metrics.episodes import Result
from ovss_ray.models.fusioner.network import Fusioner, label_map
from ovss_ray.models.fusioner.variants import DataSet, Resolution
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.question import Question


@torch.inference_mode()
def counted(
    model: Fusioner,
    benchmark: Benchmark,
    items: Iterable[Item],
    images: int,
    data_set: DataSet = "pascal",
    resolution: Resolution = "original",
) -> Result:
    """Return the metrics of all episodes of the first `images` photographs.

    Each item is an episode. Episodes of the same photograph must be adjacent in `items`.
    """
    binary = benchmark.for_binary()
    last = len(binary.labels)
    counts, episodes, measured = np.zeros((last, last + 1), np.int64), 0, 0
    for _, group in islice(groupby(items, attrgetter("image")), images):
        of_image = list(group)
        inputs = model.preprocess(binary.image(of_image[0], files.read(of_image[0].image)), data_set, resolution)
        visual = model.visual(inputs.windows)
        for item in of_image:
            vocabulary, index = binary.question(item.part)
            rows = model.classifier(vocabulary).expand(len(visual), -1, -1)
            predicted = label_map(inputs.layout.mean(model.logits(visual, rows)), vocabulary)
            truth = binary.truth(item, files.read(item.truth))
            if resolution != "original":
                truth = squared(binary, item.part, truth, inputs.layout.side)
            cells = confusion.measure(Question(binary.labels, vocabulary, index), truth, predicted)
            columns = np.where(cells["prediction"] == NONE, last, cells["prediction"])
            np.add.at(counts, (cells["truth"], columns), cells["pixels"])
            episodes, measured = episodes + bool(len(columns)), measured + 1
    return Result(confusion.Partial(counts, images=episodes), measured)


def groups(result: Result, benchmark: Benchmark) -> dict[str, float]:
    """Return the mean IoU of each class group of the benchmark, in percent. The background is left out.

    A class is left out of the mean if the class occurs neither in the truth nor in the prediction. A group without any
    remaining class is left out of the result.
    """
    classes = np.arange(len(result.union))
    listed = {name: np.isin(classes, labels) for name, labels in benchmark.groups.items()}
    seen = {name: inside & (result.union > 0) for name, inside in listed.items()}
    return {
        name: float(np.mean(100.0 * result.hits[inside] / result.union[inside]))
        for name, inside in seen.items()
        if inside.any()
    }
