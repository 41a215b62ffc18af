"""Use the boxes of a detector as prompts, from a file of results in COCO's format.

The file is a JSON list of {"image_id", "bbox": [x, y, w, h], "score"}. An `image_id` is the number of the image in the
benchmark's annotations. Classes in the file are ignored. As in OVSAM's detection tables (Yuan et al., ECCV 2024), AP
ranks predictions by the detector's scores.
"""

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from ovss_ray.benchmarks.coco_json import require
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.io.files.cache import local_copy
from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies

EXPECTED = (
    "Expected a JSON list of results in COCO's format: "
    '[{"image_id": 139, "category_id": 1, "bbox": [x, y, w, h], "score": 0.9}, …]'
)


class Stage(stage.Stage):
    """Create the prompts of an image: the boxes with the highest detector scores, the highest first."""

    reads = ("image_number",)
    writes = ("prompt_points", "prompt_boxes", "detector_scores")
    where = ("path",)

    class Config(Settings):
        """The file of the detector's results, and the selection of boxes."""

        path: str
        """JSON file of results in COCO's format, on a path that every node can read"""
        limit: int = Field(default=100, ge=1)
        """maximum number of boxes per image. COCO's AP counts at most 100 boxes per class and image. LVIS's AP counts
        at most 300 boxes per image"""
        threshold: float = Field(default=0.0)
        """minimum score of a box"""

        @field_validator("path")
        @classmethod
        def _absolute(cls, path: str) -> str:
            return files.absolute(path)

    @classmethod
    def files(cls, config: Any) -> tuple[Path, ...]:
        """Return the file of results. Raises OvssError if the file, or the library ijson, is missing."""
        require("ijson")
        if not files.exists(config.path) or files.is_folder(config.path):
            raise OvssError(
                f"{config.path}: no such file. Set detector_prompts.path to a JSON file of results in COCO's format"
            )
        return (local_copy(config.path),)

    @classmethod
    def notes(cls, config: Any, benchmark: str) -> tuple[str, ...]:
        """Return a note for the report: the name of the file, and the values of `limit` and `threshold`."""
        selected = f"at most {config.limit} per image with a score of at least {config.threshold:g}"
        return (f"prompts are boxes of a detector: {Path(config.path).name}, {selected}",)

    def __init__(self, config: Any, prepared: stage.Prepared | None = None) -> None:
        super().__init__(config, prepared)
        self._images, self._boxes = _read(config.path, config.threshold)

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Return the boxes of every image. An image without results in the file gets no boxes."""
        per_image = [self._of(int(number)) for number in batch["image_number"]]
        return {
            "prompt_points": column(np.empty((len(rows), 0, 2)) for rows in per_image),
            "prompt_boxes": column(rows[:, None, :4] for rows in per_image),
            "detector_scores": column(rows[:, 4] for rows in per_image),
        }

    def _of(self, number: int) -> np.ndarray:
        """Return the boxes (N, 5) float64 of the image with the id `number`, the highest score first.

        A box is x0, y0, x1, y1, score. The option `limit` is the maximum of N.
        """
        first, last = np.searchsorted(self._images, (number, number + 1))
        return self._boxes[first : min(last, first + self.config.limit)]


def _read(path: str, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the image ids (n,) int64 and the boxes (n, 5) float64 of the results in a file.

    A box is x0, y0, x1, y1, score. Boxes are sorted by image id. The boxes of an image are sorted by score, the highest
    first. A box with a score below `threshold` is left out. Raises OvssError if the file is damaged or has no entry.
    """
    import ijson  # part of an extra

    numbers: list[int] = []
    rows: list[tuple[float, ...]] = []
    count = 0
    try:
        with files.opened(path) as file:
            for entry in ijson.items(file, "item", use_float=True):
                x, y, width, height = entry["bbox"]
                if entry["score"] >= threshold:
                    numbers.append(int(entry["image_id"]))
                    rows.append((x, y, x + width, y + height, float(entry["score"])))
                count += 1
    except (ijson.JSONError, KeyError, TypeError, ValueError) as failure:
        raise OvssError(f"{path}: entry {count} is invalid: {failure!r}. {EXPECTED}") from failure
    if not count:  # ijson yields nothing for an object, such as {"results": […]} or a file of annotations
        raise OvssError(f"{path}: no result in it: the list is empty, or the file is not a list. {EXPECTED}")
    images, boxes = np.array(numbers, np.int64), np.array(rows, np.float64).reshape(-1, 5)
    order = np.lexsort((-boxes[:, 4], images))
    return images[order], boxes[order]
