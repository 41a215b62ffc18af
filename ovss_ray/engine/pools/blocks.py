"""Size of the blocks in which images travel between pools. This module does not import Ray.

The driver process needs about 10 ms of CPU for each block that travels between two pools. With few workers, a block is
one batch. With many workers, a block has several batches, so that the driver process can keep all workers busy.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.engine.cluster.placement import Placed
from ovss_ray.errors import OvssError

FEW = 4
"""Maximum number of workers of a run whose blocks are always single batches.

The number of workers is counted as (initial workers of the largest pool) × (number of pools). Above the maximum, a
block may have several batches."""
MOST = 64
"""Maximum number of images in a block of several batches; 64 photographs of 512 × 683 pixels have 67 MB"""
BYTES = 128e6
"""Maximum bytes of the photographs in a block of several batches.

A block of 20 photographs of 2048 × 1024 pixels is just below this maximum. Ray Data would split larger blocks, and a
worker would have to join the parts again."""
HELD = 3
"""Blocks per worker in the object store: the block in progress, the next one, and one block of results"""
STORE_SHARE = 0.5
"""Fraction of the object store that Ray Data fills with blocks by default"""
SAMPLE = 8
"""Number of photographs whose sizes are read before a run, to estimate the largest photograph of the run"""
SHARE = 32
"""Minimum number of blocks per worker, if a block has several batches.

With fewer blocks per worker, each block would be larger. Large blocks waste time in two cases. At the end of a run, a
worker idles for about half the time of a block. If a worker dies, its whole block is computed again."""
LIMIT = 10_000
"""Maximum number of blocks of a run, since the driver process holds all of them"""


@dataclass(frozen=True)
class Blocks:
    """Sizes of the blocks in which images travel between pools."""

    images: int
    """number of images per block; 0: a block is one batch, whose size depends on the pool"""
    rows: int
    """number of manifest rows in each block that the first pool receives; a multiple of the first pool's batch"""

    def call(self, pool: Placed) -> int:
        """Return the number of images that a worker of `pool` receives per call, a multiple of `pool.batch`."""
        return pool.batch * max(1, self.images // pool.batch)


def sized(pools: Sequence[Placed], images: int, photograph: float = 0.0, store: float = 0.0) -> Blocks:
    """Return the size of the blocks for a run of `images` images through these pools.

    `photograph`: bytes of a decoded photograph; 0 if unknown. `store`: bytes of the object stores of all nodes; 0 if
    unknown.

    A block of a single batch may have any number of bytes. If `photograph` is known, a block of several batches has at
    most BYTES bytes. If `store` is known too, HELD blocks of each worker together fill at most STORE_SHARE of `store`.
    If `photograph` is unknown, the bytes of blocks are not limited.
    """
    batch, workers = max(pool.batch for pool in pools), max(pool.first for pool in pools)
    useful = -(-workers * len(pools) // FEW)
    several = min(useful, MOST // batch, images // (workers * batch * SHARE))
    if photograph:
        room = STORE_SHARE * store / (HELD * sum(pool.first for pool in pools)) if store else BYTES
        several = int(min(several, min(BYTES, room) // (batch * photograph)))
    together = several * batch if several > 1 else 0
    call = Blocks(together, 0).call(pools[0])
    return Blocks(together, call * -(-images // (call * LIMIT)))


def photograph(images: pa.Table, benchmarks: Mapping[str, Benchmark]) -> float:
    """Return the bytes of the largest decoded photograph in a sample; 0 if no photograph of the sample is readable.

    `images`: manifest rows of a run. `benchmarks`: name → benchmark. The sample has up to SAMPLE rows, at equal
    distances in `images`. Only the width and height of each photograph are read. The pixels are not decoded.
    """
    sample = images.take(np.unique(np.linspace(0, len(images) - 1, SAMPLE, dtype=np.int64)))
    largest = 0.0
    for name, uri in zip(sample["benchmark"].to_pylist(), sample["image_uri"].to_pylist(), strict=True):
        with suppress(OvssError):  # the image will fail in the run
            largest = max(largest, 3.0 * math.prod(benchmarks[name].size(uri)))
    return largest
