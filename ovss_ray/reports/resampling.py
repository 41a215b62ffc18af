"""Bootstrap resamples of a benchmark's images: exact sums of the cells of confusion matrices, equal on every machine.

Photographs are drawn with replacement. Images that share a photograph, such as few-shot episodes, are drawn together
(cluster bootstrap). Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 6 and 13.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ovss_ray.metrics import confusion
from ovss_ray.structures.class_sums import UNITS, ClassSums
from ovss_ray.structures.columns import NONE

if TYPE_CHECKING:
    from scipy.sparse import csr_array

RESAMPLES = 1000
"""Number of resamples."""
SEED = 0
"""Seed of the bit generator."""
BITS = "PCG64"
"""Name of the bit generator, as in numpy.random."""
_BLOCK = 125
"""Number of resamples in each array that `draws` yields. The arrays are small enough for the CPU cache."""


@dataclass(frozen=True, eq=False)
class Cells:
    """The nonzero cells of the confusion matrices of a benchmark's scored images. Dimensions: m cells, n images."""

    ids: tuple[str, ...]
    """n image ids, sorted"""
    clusters: np.ndarray
    """(n,) int64: index of the photograph of each image; images of the same photograph have the same index"""
    image: np.ndarray
    """(m,) int64: index of the image of each cell"""
    truth: np.ndarray
    """(m,) int64: true label of each cell"""
    prediction: np.ndarray
    """(m,) int64: predicted label of each cell; L, the number of labels, if no class was predicted"""
    pixels: np.ndarray
    """(m,) int64: number of pixels of each cell"""
    image_miou: np.ndarray
    """(n,) float64 percent: mIoU of each image; NaN if all pixels are ignored

    The values are rounded to multiples of 1 / 2³². So `matrix` can sum the values exactly, as integers.
    """
    labels: int
    """number of labels, L"""

    @classmethod
    def of(cls, tables: Sequence[pa.Table], listed: pa.Table, labels: int) -> "Cells":
        """Return the confusion cells of the images in `tables`.

        Each table has the columns image_id and confusion. Images without a confusion matrix are left out. `listed` is
        the manifest.
        """
        empty = pa.table({"image_id": pa.array([], pa.string()), "confusion": pa.array([], confusion.schema)})
        table = pa.concat_tables([empty, *(part.select(empty.column_names) for part in tables)])
        # sorted, so that the order of the records has no influence
        table = table.filter(table["confusion"].is_valid()).sort_by("image_id").combine_chunks()
        column = pa.chunked_array(table["confusion"].chunks, confusion.schema).combine_chunks()
        records = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
        image, cells = confusion.flat_cells(records)
        truth, prediction, pixels = (cells[name].astype(np.int64) for name in confusion.schema.names)
        return cls(
            ids=tuple(table["image_id"].to_pylist()),
            clusters=_clusters(table["image_id"], listed),
            image=image,
            truth=truth,
            prediction=np.where(prediction == NONE, labels, prediction),
            pixels=pixels,
            image_miou=confusion.per_image(records)["miou"],
            labels=labels,
        )

    @property
    def photographs(self) -> int:
        """Number of photographs, which are the units of the bootstrap."""
        return int(self.clusters.max(initial=-1)) + 1

    @cached_property
    def matrix(self) -> "csr_array":
        """(3 L + 2, U) sparse int64 for L labels and U photographs. Several images may come from one photograph.

        A column has the sums over the images of one photograph.

        The rows are the fields of ClassSums, in this order: L rows `hits`, L rows `truth`, L rows `prediction`, a row
        `image_sum`, a row `images`.
        """
        from scipy.sparse import csr_array  # takes 0.1 s

        n = self.labels
        unit = self.clusters[self.image]
        hit, called = self.truth == self.prediction, self.prediction < n
        counted = np.flatnonzero(~np.isnan(self.image_miou))
        mious = np.rint(self.image_miou[counted] * UNITS).astype(np.int64)
        rows = [self.truth[hit], n + self.truth, 2 * n + self.prediction[called]]
        rows += [np.full(len(counted), 3 * n), np.full(len(counted), 3 * n + 1)]
        columns = [unit[hit], unit, unit[called], self.clusters[counted], self.clusters[counted]]
        values = [self.pixels[hit], self.pixels, self.pixels[called], mious, np.ones(len(counted), np.int64)]
        places = np.concatenate(rows), np.concatenate(columns)
        return csr_array((np.concatenate(values), places), shape=(3 * n + 2, self.photographs))  # adds repeated places

    def whole(self) -> ClassSums:
        """Return the sums over all images, as a ClassSums with a single row."""
        return self._sums(self.matrix.sum(axis=1)[None])

    def resampled(self, resamples: int = RESAMPLES, seed: int = SEED) -> ClassSums:
        """Return the sums over the images of each resample, as a ClassSums with a row per resample.

        Raises ValueError if there is no image.
        """
        blocks = (self.matrix @ counts for counts in draws(self.photographs, resamples, seed))
        return self._sums(np.concatenate(list(blocks), axis=1).T)

    def photographs_with(self) -> np.ndarray:
        """Return for each label the number of photographs with the label in the ground truth, (L,) int64."""
        return np.diff(self.matrix[self.labels : 2 * self.labels].indptr).astype(np.int64)

    @cached_property
    def effective(self) -> np.ndarray:
        """Effective number of photographs with each label, (L,) float64; 0 for a label without pixels.

        The number is (Σ a)² / Σ a², where `a` is the label's area in each photograph. Source: Kish, "Survey
        Sampling", 1965.
        """
        areas = self.matrix[self.labels : 2 * self.labels].tocoo()
        pixels = areas.data.astype(np.float64)
        sums, squares = (np.bincount(areas.row, of, self.labels) for of in (pixels, pixels * pixels))
        return np.divide(sums * sums, squares, out=np.zeros(self.labels), where=squares > 0)

    def _sums(self, rows: np.ndarray) -> ClassSums:
        hits, truth, prediction = (rows[:, i * self.labels : (i + 1) * self.labels] for i in range(3))
        return ClassSums(hits, truth, prediction, rows[:, -2], rows[:, -1], self.effective, self.photographs)


def draws(units: int, resamples: int, seed: int = SEED) -> Iterator[np.ndarray]:
    """Yield blocks (units, B) int64: the number of times that each unit is drawn in each of B resamples.

    A unit is a photograph, together with all images that are made from it. Raises ValueError if there is no unit.
    """
    if units < 1:
        raise ValueError("a resample needs at least one photograph, but the number of photographs is below 1")
    stream = getattr(np.random, BITS)(seed)
    for first in range(0, resamples, _BLOCK):
        block = min(_BLOCK, resamples - first)
        # random_raw never changes between versions of NumPy, unlike Generator.integers (NEP 19)
        bits = stream.random_raw(block * units) >> np.uint64(32)
        # floor(bits · units / 2³²)
        drawn = (bits * np.uint64(units) >> np.uint64(32)).astype(np.int64).reshape(block, units)
        places = drawn * block + np.arange(block)[:, None]
        yield np.bincount(places.reshape(-1), minlength=units * block).reshape(units, block)


def _clusters(ids: pa.ChunkedArray, listed: pa.Table) -> np.ndarray:
    """Return a number for each image, (n,) int64. Images that are made from the same photograph have the same number.

    These images have the same non-empty `image_uri` in the manifest `listed`. The numbers are counted from 0, in the
    order of the images.
    """
    addresses = listed["image_uri"].take(pc.index_in(ids, listed["image_id"])).to_pylist()
    keys = [("uri", uri) if uri else ("id", name) for uri, name in zip(addresses, ids.to_pylist(), strict=True)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], np.int64)
