"""Columns of a batch. One row is one image.

Every column is declared here, except those of metrics (see ovss_ray.metrics).
Dimensions: H W pixels, R regions, K classes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

Batch = dict[str, np.ndarray]
"""Column name → one value per row. Columns of arrays, strings or dicts have dtype object."""

IGNORE = 65535
"""Value in the column `truth` for a pixel that is not evaluated."""
NONE = 65534
"""Value in the column `prediction` for a pixel without a class. The pixel is a false negative, not a false positive."""


@dataclass(frozen=True)
class Column:
    """Declaration of a column. `shape` has one word per axis, such as "H W 3". The shape of a scalar is ""."""

    dtype: str
    shape: str
    meaning: str

    def empty(self) -> Any:
        """Return the value for an image that failed before this column was written."""
        if self.dtype in ("str", "dict"):
            return "" if self.dtype == "str" else {}
        axes = [int(axis) if axis.isdigit() else 0 for axis in self.shape.split()]
        return np.zeros(axes, self.dtype)


COLUMNS = {
    "image_id": Column("str", "", "unique within a benchmark; the key of the record"),
    "benchmark": Column("str", "", "name of the benchmark that the image belongs to"),
    "vocabulary": Column("str", "", "digest of the vocabulary to segment this image with"),
    "image_uri": Column("str", "", "address of the photograph"),
    "truth_uri": Column("str", "", "address of its label file"),
    "part": Column("str", "", "part of a larger image, or category, to segment; empty for the whole image"),
    "error": Column("str", "", "error message of a failed image, else empty"),
    "seconds": Column("dict", "", "stage → wall seconds of this image, an equal share of its batch's time"),
    "size": Column("int32", "2", "H, W of the photograph"),
    "image": Column("uint8", "H W 3", "RGB"),
    "truth": Column("uint16", "H W", "label index, or IGNORE"),
    "captions": Column("dict", "", "`texts`: sentences about the image, best first; `scores`: one number per text"),
    "image_digest": Column("str", "", "digest of the photograph's bytes as the worker read them (see digests.py)"),
    "truth_digest": Column("str", "", "digest of the label file's bytes, likewise"),
    "image_stamp": Column("str", "", "size and times of the photograph when it was listed (see files.stamp)"),
    "truth_stamp": Column("str", "", "size and times of the label file, likewise"),
    "prompts": Column("dict", "", "prompt of a user: points and labels, box, mask, multimask (see models/sam)"),
    "image_number": Column("int64", "", "id of the image in the file of its annotations (see structures/instances.py)"),
    "true_boxes": Column("int32", "R 4", "boxes of the true instances, as `boxes`; R instances"),
    "true_bits": Column("uint8", "n", "their masks, as `bits`"),
    "true_labels": Column("uint16", "R", "label index of each true instance"),
    "true_frames": Column("float32", "R 4", "x0 y0 x1 y1 of the annotated box of each true instance, in pixels"),
    "true_areas": Column("float64", "R", "annotated area of each true instance, in pixels"),
    "true_status": Column("uint8", "R", "COUNTED, CROWD or INVALID (see structures/instances.py)"),
    "true_absent": Column("uint16", "n", "labels that were searched for in the image, and are absent (LVIS)"),
    "true_partial": Column("uint16", "n", "labels of which the image may have unmarked instances (LVIS)"),
    "prompt_points": Column("float64", "N P 2", "x y in pixels of the P points of each of N prompts; P may be 0"),
    "prompt_boxes": Column("float64", "N B 4", "x0 y0 x1 y1 in pixels of the box of each prompt; B is 0 or 1"),
    "prompt_instances": Column("int64", "N", "index of the true instance that each prompt is for"),
    "detector_scores": Column("float64", "N", "a detector's score of each prompt"),
    "words": Column("dict", "", "vocabulary of the image itself, found or given (see structures/words.py)"),
    "boxes": Column("int32", "R 4", "x0 y0 x1 y1 of each region, half open; a region is a mask without a class"),
    "bits": Column("uint8", "n", "masks of all regions, one bit per pixel of their boxes (see regions.py)"),
    "predicted_iou": Column(
        "float32", "R", "IoU of each region's mask with an object, predicted by its network: 0 to 1"
    ),
    "scores": Column(
        "float32", "R K", "logits of each region for each class: cosine · logit scale (released CLIPs: 100)"
    ),
    "top_classes": Column("int64", "R T", "indices of the T best classes of each region, best first"),
    "top_scores": Column("float32", "R T 3", "their probabilities: fused, by the head, by CLIP (see models/ovsam)"),
    "prediction": Column(
        "uint16", "H W", "class index in the row's vocabulary (its `words`, if there are any), or NONE"
    ),
}
TRUE = (
    *("true_boxes", "true_bits", "true_labels", "true_frames", "true_areas", "true_status"),
    *("true_absent", "true_partial"),
)
"""Columns of the true instances, which only benchmarks with annotated instances have."""
MEASURED = Column("dict", "", "one image's measurement by a metric, with the fields of its schema")
MANIFEST = (
    *("image_id", "benchmark", "vocabulary", "image_uri", "truth_uri", "part", "error"),
    *("image_stamp", "truth_stamp"),
)
"""Columns that every row has before the first stage."""


def column(values: Iterable[Any]) -> np.ndarray:
    """Return a column (n,) of dtype object, with one value per image. Arrays may differ in shape."""
    listed = list(values)
    values_column = np.empty(len(listed), object)
    for i, value in enumerate(listed):
        values_column[i] = value
    return values_column


def empty(name: str, n: int) -> np.ndarray:
    """Return a column of n empty values. A column that COLUMNS does not declare gets empty dicts."""
    declared = COLUMNS.get(name, MEASURED)
    return column(declared.empty() for _ in range(n))
