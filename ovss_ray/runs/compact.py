"""Compact files: each file has the sums over about 4,096 images, in place of the records of these images.

`ovss report RUN --compact` writes the compact files of a finished run among the record files (see
api/compaction.py). A compact file is a Parquet file with one row. Columns of lists hold the ids, digests and stamps of
the images. A column per metric holds the sum of the metric as a struct. All sums are integers.

The metadata of a compact file have another version than the metadata of a record file. Earlier versions of this program
therefore refuse a run with compact files, instead of scoring the images again.

A compact file is used if all of its images are in the manifest and no image has changed files. If a compact file is
used, records of the same images are ignored. So no image counts twice, even if `--compact` was interrupted. If a
compact file is not used, its images are scored again. Images that also have a valid record are not scored again.
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
    """Return two arrays (n,) bool: entries that must not be used, and records that a compact file replaces.

    Each of the n entries is a record, or one image of a compact file. All entries of a compact file are used, or none.
    They are used under three conditions:

    - no entry of the compact file is stale
    - all images of the compact file are in the manifest
    - no earlier compact file that is used has one of these images

    A compact file that is used replaces all records of its images. A stale record must not be used.

    `whole` (n,) bool: True for an image of a compact file, False for a record. `file` (n,): number of the entry's file,
    in ascending order. `image` (n,): row of the entry's image in the manifest, or −1 if the image is not there.
    `stale` (n,) bool: True if a file of the entry's image has changed since the entry was written.
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

    `labels`: number of labels. `spent`, `measured` and `partials` are fields of reports.totals.Total. Raises OvssError
    for a metric whose sum cannot be stored.
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
    """Return the sum of a metric as an array of one struct, of the type `metric.sums`.

    Raises OvssError if the sum does not fit this type.
    """
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
    """Yield a dict per row of `part`, the content of compact files.

    The keys `spent`, `measured` and `partials` are fields of reports.totals.Total. The key `images` has the number of
    images. `labels` is the benchmark's number of labels. Raises OvssError if the sums are over another number of
    labels. Also raises OvssError if the sums of a metric have other fields than this version of the metric.
    """
    for row in range(len(part)):
        if (before := part["labels"][row].as_py()) != labels:
            raise OvssError(
                f"a compact file of this run has sums over {before} labels, but the benchmark has {labels} labels. "
                "Perhaps another version of the benchmark was scored: choose a new --out"
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
    """Return a stored sum: an integer as int, a list as (n,) array, a list of lists as (n, m) array.

    Arrays are int64, or Python integers (object) for a list of decimals.
    """
    if not isinstance(value, pa.ListScalar):
        return int(value.as_py())
    content = value.values
    if pa.types.is_decimal(content.type):
        return np.array([int(number) for number in content.to_pylist()], object)
    if pa.types.is_list(content.type):
        return content.flatten().to_numpy(zero_copy_only=False).reshape(len(content), -1)
    return content.to_numpy(zero_copy_only=False)
