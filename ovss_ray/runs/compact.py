"""Compact files: each file has the sums over many images, in place of the records of these images.

`ovss report RUN --compact` writes compact files among the record files (see api/compaction.py). A compact file is a
Parquet file with one row. Columns of lists hold ids, digests and stamps of the images. A column per metric holds the
sum of the metric, a struct of integers.

A compact file is used if all of its images are in the manifest and none has changed. Records of the same images are
then ignored, so that no image counts twice. If a compact file is not used, its images without a valid record are scored
again.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ovss_ray import metrics
from ovss_ray.errors import OvssError
from ovss_ray.io.arrays import mapped_tables
from ovss_ray.runs import versions

KEY = b"ovss_ray.records"
"""Key of the version in the metadata of record files and compact files"""
# differs from the version of record files: earlier programs refuse the run, instead of scoring the images again
VERSION = "compact 1"
"""Version of a compact file"""
LISTS = ("image_id", *versions.DIGESTS, *versions.STAMPS)
"""Columns of a compact file that hold a list with one text per image"""
_EXACT = pa.decimal128(38, 0)
"""Arrow type of sums that may exceed int64"""


def is_compact(part: pa.Table) -> bool:
    """Return whether a table, read from the folder of records, is the content of a compact file."""
    return (part.schema.metadata or {}).get(KEY) == VERSION.encode()


def per_image(part: pa.Table) -> pa.Table:
    """Return the content of a compact file as a table with a row per image. The column `error` is empty.

    If `part` is a table of records, return `part` unchanged.
    """
    if not is_compact(part):
        return part
    images = pa.table({name: pc.list_flatten(part[name]) for name in LISTS if name in part.column_names})
    return images.append_column("error", pa.repeat("", len(images)))


def resolved(
    whole: np.ndarray, file: np.ndarray, image: np.ndarray, stale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return two arrays (n,) bool for n rows: whether the row is unusable, and whether a compact file replaces it.

    A row is a record, or an image of a compact file. The arguments describe the rows:

    - `whole` (n,) bool: True for an image of a compact file, False for a record
    - `file` (n,), ascending: index of the row's file, in the list of all record files and compact files
    - `image` (n,): index of the image in the manifest, or −1
    - `stale` (n,) bool: True if the photograph or label file has changed since the row was written

    A record is unusable if it is stale. All images of a compact file are unusable if one of them is stale or not in the
    manifest. The same applies if one of them is also in an earlier usable compact file. A record is replaced if its
    image is in a usable compact file.
    """
    if not whole.any():
        return stale, whole
    uncounted, taken = stale.copy(), np.zeros(image.max() + 2, bool)  # the last entry is that of -1
    for number in np.unique(file[whole]):
        rows = slice(*np.searchsorted(file, [number, number + 1]))
        images = image[rows]
        if stale[rows].any() or (images < 0).any() or taken[images].any():
            uncounted[rows] = True
        else:
            taken[images] = True
    return uncounted, ~whole & taken[image]


def table(
    images: pa.Table, labels: int, spent: Mapping[str, int], measured: Mapping[str, int], partials: Mapping[str, Any]
) -> pa.Table:
    """Return the content of a compact file. `images` has a row per image, with the columns LISTS.

    `spent`, `measured` and `partials` are fields of Total. Raises OvssError if the sum of a metric cannot be stored.
    """
    ends = pa.array([0, len(images)], pa.int32())
    columns: dict[str, pa.Array] = {
        name: pa.ListArray.from_arrays(ends, mapped_tables.filled(images, name).combine_chunks()) for name in LISTS
    }
    columns["labels"] = pa.array([labels], pa.int32())
    columns["seconds"] = pa.array([list(spent.items())], pa.map_(pa.string(), _EXACT))
    columns["measured"] = pa.array([list(measured.items())], pa.map_(pa.string(), pa.int64()))
    columns |= {name: _folded(metrics.load(name), partial) for name, partial in partials.items()}
    return pa.table(columns).replace_schema_metadata({KEY: VERSION})


def _folded(metric: metrics.Metric, partial: Any) -> pa.Array:
    """Return the sum of a metric as an array of one struct. Raises OvssError if the sum does not fit `metric.sums`."""
    try:
        if hasattr(partial, "folded"):
            values = partial.folded()
        else:
            values = {of.name: getattr(partial, of.name) for of in metric.sums or ()}
        plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}
        return pa.array([plain], metric.sums)
    except (pa.ArrowException, AttributeError, OverflowError) as failure:
        raise OvssError(
            f"the sum of the metric {metric.name} does not fit the Arrow type `sums` in the module of this metric: "
            f"{failure}. Correct `sums` in the module, or omit --compact"
        ) from failure


def sums(part: pa.Table, labels: int) -> Iterator[dict[str, Any]]:
    """Yield a dict with the sums in each row of `part`. A row of `part` is the content of a compact file.

    The key `images` has the number of images. The keys `spent`, `measured` and `partials` are fields of Total. `labels`
    is the number of labels of the benchmark. Raises OvssError if a row has sums over another number of labels, or sums
    of another version of a metric.
    """
    for row in range(len(part)):
        if (before := part["labels"][row].as_py()) != labels:
            raise OvssError(
                f"a compact file of this run has sums over {before} labels, but the benchmark has {labels} labels. "
                "Perhaps another version of the benchmark was scored. Choose a new --out"
            )
        yield {
            "images": len(part["image_id"][row]),
            "spent": {stage: int(time) for stage, time in part["seconds"][row].as_py()},
            "measured": dict(part["measured"][row].as_py()),
            "partials": {
                name: _unfolded(metrics.load(name), part[name][row]) for name in metrics.columns(part.column_names)
            },
        }


def _unfolded(metric: metrics.Metric, row: pa.StructScalar) -> Any:
    """Return a metric's sum from a struct of a compact file. Raises OvssError if fields differ from `metric.sums`."""
    if metric.sums is None or {of.name for of in metric.sums} != set(row):
        raise OvssError(
            f"the sums of the metric {metric.name} in a compact file have the fields {sorted(row)}, but this "
            "version of the metric has other fields. Choose a new --out"
        )
    if hasattr(metric.Partial, "of_folded"):
        return metric.Partial.of_folded(row.as_py())
    return metric.Partial(**{name: _value(value) for name, value in row.items()})


def _value(value: pa.Scalar) -> Any:
    """Return a stored sum: int for an integer, array (n,) for a list, array (n, m) for a list of lists.

    The dtype is int64, or object (int) for a list of decimals.
    """
    if not isinstance(value, pa.ListScalar):
        return int(value.as_py())
    content = value.values
    if pa.types.is_decimal(content.type):
        return np.array([int(number) for number in content.to_pylist()], object)
    if pa.types.is_list(content.type):
        return content.flatten().to_numpy(zero_copy_only=False).reshape(len(content), -1)
    return content.to_numpy(zero_copy_only=False)
