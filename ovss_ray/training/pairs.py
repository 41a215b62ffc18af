"""Tables of masked regions with captions: the data of SCAN's region CLIP.

A table is a .csv, .jsonl or .parquet file with the text columns `image`, `mask` and `caption`. `image` and `mask` are
paths relative to the setting `data_root`. If `data_root` is None, the paths are relative to the table's folder. Nonzero
pixels of a mask are the region. A caption is a whole sentence such as "a photo of a dog.".
"""

import io
from functools import lru_cache

import numpy as np
import pyarrow as pa
from pyarrow import csv, json

from ovss_ray.errors import OvssError
from ovss_ray.io import files, images
from ovss_ray.io.images import label_files

COLUMNS = ("image", "mask", "caption")


class Pairs:
    """The rows of a table, shuffled in each epoch."""

    def __init__(self, table: str, root: str | None, seed: int) -> None:
        self.name = files.absolute(table)
        self.root = files.absolute(root) if root else self.name.rpartition("/")[0]
        self.table = read(self.name)
        self.order = lru_cache(2)(lambda epoch: np.random.default_rng([seed, epoch]).permutation(len(self.table)))

    def batch(self, step: int, count: int) -> list[tuple[np.ndarray, np.ndarray, str]]:
        """Return `count` rows for a step: image (H, W, 3) uint8, mask (H, W) bool, and caption.

        Raises OvssError if a mask is empty, or if image and mask differ in size.
        """
        return [self._row(*divmod(number, len(self.table))) for number in range(step * count, (step + 1) * count)]

    def _row(self, epoch: int, place: int) -> tuple[np.ndarray, np.ndarray, str]:
        row = {name: self.table[name][int(self.order(epoch)[place])].as_py() for name in COLUMNS}
        file = files.join(self.root, row["mask"])
        image = images.decode(files.read(files.join(self.root, row["image"])), row["image"])
        mask = label_files.decode_labels(files.read(file), file) != 0
        if mask.shape != image.shape[:2] or not mask.any():
            raise OvssError(
                f"{file}: the mask has the size {mask.shape} and {mask.sum()} nonzero pixels. It must have the size "
                f"{image.shape[:2]} of {row['image']}, and at least one nonzero pixel"
            )
        return image, mask, row["caption"]


def read(file: str) -> pa.Table:
    """Return the columns of a table. Raises OvssError for an unreadable file, missing columns, or no rows."""
    content = files.read(file)
    try:
        if file.endswith(".parquet"):
            table = files.read_parquet(content)
        elif file.endswith(".jsonl"):
            table = json.read_json(io.BytesIO(content))
        else:
            text = csv.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.string()), strings_can_be_null=False)
            table = csv.read_csv(io.BytesIO(content), convert_options=text)
    except (pa.ArrowException, ValueError, OSError) as failure:
        raise OvssError(f"{file} cannot be read as a table: {failure}. Use .csv, .jsonl or .parquet") from failure
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise OvssError(f"{file}: missing columns {missing}; found {table.column_names}. Required: {list(COLUMNS)}")
    if not len(table):
        raise OvssError(f"{file} has no rows")
    return table.select(list(COLUMNS))
