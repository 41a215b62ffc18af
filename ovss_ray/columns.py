"""The columns that travel through a pipeline. One row is one image.

Every value that crosses from one stage to the next is named here and nowhere else. Letters in shapes: H W pixels, R
regions, K classes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

Batch = dict[str, np.ndarray]
"""Column name → one value per row; a column of arrays, of strings or of dicts has dtype object."""

IGNORE = 65535
"""In `truth`: this pixel is not counted."""
NONE = 65534
"""In `prediction`: no class was named here. A miss for the truth's class and nobody's false alarm."""


@dataclass(frozen=True)
class Column:
    """What one column holds: dtype, shape (a word per axis, "" for a scalar) and meaning."""

    dtype: str
    shape: str
    meaning: str

    def empty(self) -> Any:
        """The value of this column for an image that failed before the column was written."""
        if self.dtype in ("str", "dict"):
            return "" if self.dtype == "str" else {}
        axes = [int(axis) if axis.isdigit() else 0 for axis in self.shape.split()]
        return np.zeros(axes, self.dtype)


COLUMNS = {
    "image_id": Column("str", "", "unique within a benchmark; the key of the record"),
    "benchmark": Column("str", "", "name of the benchmark that the image belongs to"),
    "vocabulary": Column("str", "", "digest of the vocabulary that may be named in this image"),
    "image_uri": Column("str", "", "where the photograph lies"),
    "truth_uri": Column("str", "", "where its label file lies"),
    "part": Column("str", "", "which part of a larger image or which category is asked for, or empty"),
    "error": Column("str", "", "empty, or why this image could not be scored"),
    "seconds": Column("dict", "", "wall seconds of this image in each stage, a batch's time shared evenly"),
    "size": Column("int32", "2", "H, W of the photograph"),
    "image": Column("uint8", "H W 3", "RGB"),
    "truth": Column("uint16", "H W", "label index, or IGNORE"),
    "image_digest": Column("str", "", "digest of the photograph's bytes as the worker has read them (see digests.py)"),
    "truth_digest": Column("str", "", "the same of the label file"),
    "image_stamp": Column("str", "", "size and times of the photograph when it was listed (see files.stamp)"),
    "truth_stamp": Column("str", "", "the same of the label file"),
    "prompts": Column("dict", "", "what somebody points at: points and labels, box, mask, multimask (models/sam.py)"),
    "boxes": Column("int32", "R 4", "x0 y0 x1 y1 of each region, half open; a region is a mask without a name"),
    "bits": Column("uint8", "n", "the masks of all regions, packed bit by bit inside their boxes (see regions.py)"),
    "predicted_iou": Column("float32", "R", "how well each region's mask fits a thing, as its proposer thinks: 0 to 1"),
    "scores": Column("float32", "R K", "logits of each region for each class of the vocabulary: 100 · cosine"),
    "prediction": Column("uint16", "H W", "class index in the row's vocabulary, or NONE"),
    "confusion": Column("dict", "", "the cells of the image's confusion matrix that are not zero"),
    "proposal_recall": Column("dict", "", "how well the proposed regions fit each true region of the image"),
}
MANIFEST = (
    *("image_id", "benchmark", "vocabulary", "image_uri", "truth_uri", "part", "error"),
    *("image_stamp", "truth_stamp"),
)
"""The columns that every row has before the first stage."""


def column(values: Iterable[Any]) -> np.ndarray:
    """Make a column of per-image values, which may differ in shape: (n,) object."""
    listed = list(values)
    made = np.empty(len(listed), object)
    for i, value in enumerate(listed):
        made[i] = value
    return made


def empty(name: str, n: int) -> np.ndarray:
    """Make a column of n empty values."""
    return column(COLUMNS[name].empty() for _ in range(n))
