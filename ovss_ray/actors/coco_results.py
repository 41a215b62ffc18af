"""Write masks, classes and scores in COCO's results format, for evaluation by other programs.

The file of an image is a JSON list of {"image_id", "category_id", "score", "segmentation": {"size", "counts"}}. To join
all files to one COCO results file, run `jq -s add FOLDER/BENCHMARK/*.json > results.json`.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import field_validator

from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.io import files
from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import NONE, Batch
from ovss_ray.structures.masks import rle
from ovss_ray.structures.masks.regions import Masks
from ovss_ray.structures.question import Question
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies


class Stage(stage.Stage):
    """Write the masks and classes of an image to the file `<folder>/<benchmark>/<image_id>.json`.

    Each mask belongs to a box from the stage `detector_prompts`. The score of the mask is the detector's score of this
    box, from the column `detector_scores`.
    """

    reads = ("benchmark", "part", "image_number", "size", "boxes", "bits", "scores", "detector_scores")
    writes = ()
    where = ("folder",)

    benchmarks: Mapping[str, Benchmark]

    class Config(Settings):
        """The folder of the results."""

        folder: str
        """path or URI of the folder, to which every node can write"""

        @field_validator("folder")
        @classmethod
        def _absolute(cls, folder: str) -> str:
            return files.absolute(folder)

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Write the results of every image. Raises OvssError if the folder is not writable."""
        for image_id, name, *row in zip(batch["image_id"], *(batch[column] for column in self.reads), strict=True):
            content = json.dumps(self._results(self.benchmarks[name], *row))
            files.write(files.join(self.config.folder, files.plain(name), f"{image_id}.json"), content.encode())
        return {}

    def _results(
        self, benchmark: Benchmark, part: str, number: np.ndarray, size: np.ndarray, boxes: np.ndarray,
        bits: np.ndarray, scores: np.ndarray, detector_scores: np.ndarray,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Return the results of one image, in the order of the masks.

        A mask gets its most probable class. If the benchmark has no label for this class, the mask is left out. `part`
        and `number` are the image's values in the columns `part` and `image_number`.
        """
        question = Question(benchmark.labels, *benchmark.question(part), benchmark.groups, part)
        categories = benchmark.categories or tuple(range(1, len(benchmark.labels) + 1))
        height, width = size.tolist()
        rows = zip(boxes.tolist(), Masks(boxes, bits), question.named(scores)[0], detector_scores, strict=True)
        return [
            {
                "image_id": int(number),
                "category_id": categories[label],
                "score": float(score),
                "segmentation": {
                    "size": [height, width],
                    "counts": rle.encode_region(box, mask, (height, width)),
                },
            }
            for box, mask, label, score in rows
            if label != NONE
        ]
