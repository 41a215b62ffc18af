"""Size of the blocks in which images travel between pools. This module does not import Ray.

Each block costs the driver process about 10 ms of CPU. So a run with many workers has blocks of several batches.
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
"""Divisor of the number of workers: a block has at most workers / FEW batches, rounded up.

Each pool counts as if it had as many initial workers as the largest pool. For example, three pools that start with 2, 4
and 8 workers count as 3 × 8 = 24 workers. So a block has at most 24 / 4 = 6 batches."""
MOST = 64
"""Maximum number of images in a block that consists of several batches.

A block that is a single batch may have more images. 64 decoded photographs of 512 × 683 pixels take 67 MB."""
# 20 photographs of 2048 × 1024 pixels have 126 MB. Ray Data splits larger blocks, and a worker has to join the parts.
BYTES = 128e6
"""Maximum bytes of the decoded photographs in a block of several batches"""
HELD = 3
"""Number of blocks per worker that must fit into the object store.

A worker processes the first block. The second block waits for the worker. The third block has the worker's results."""
STORE_SHARE = 0.5
"""Fraction of the object store that Ray Data fills with blocks by default"""
SAMPLE = 8
"""Number of photographs whose sizes are read before a run, to estimate the largest photograph of the run"""
# Larger blocks waste time: workers idle longer at the end of a run, and a dead worker's whole block is computed again.
SHARE = 32
"""Minimum number of blocks per worker that must remain when batches are joined into larger blocks.

For example, 8 workers need at least 8 × 32 = 256 blocks. So blocks of 2 batches need a run of at least 512 batches. In
a shorter run, each block is a single batch. If a run has several pools, only the workers of the largest pool count."""
LIMIT = 10_000
"""Maximum number of blocks of a run, since the driver process holds all of them"""


@dataclass(frozen=True)
class Blocks:
    """Sizes of the blocks in which images travel between pools."""

    images: int
    """number of images in a block, if each block has several batches; 0 if each block is a single batch"""
    rows: int
    """number of manifest rows in each block that the first pool receives; a multiple of the first pool's batch"""

    def call(self, pool: Placed) -> int:
        """Return the number of images that a worker of `pool` receives per call, a multiple of `pool.batch`."""
        return pool.batch * max(1, self.images // pool.batch)


def sized(pools: Sequence[Placed], images: int, photograph: float = 0.0, store: float = 0.0) -> Blocks:
    """Return the size of the blocks for a run of `images` images through these pools.

    `photograph`: bytes of a decoded photograph; 0 if unknown. `store`: bytes of the object stores of all nodes; 0 if
    unknown. If `photograph` is known, the photographs of a block have at most BYTES bytes together. If `store` is also
    known, HELD blocks per worker fit into STORE_SHARE of `store`. A block of a single batch may be larger.
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
    """Return the number of bytes that the largest photograph of a sample takes when decoded, at 3 bytes per pixel.

    `images`: manifest rows of a run. `benchmarks`: name → benchmark. The sample has at most SAMPLE rows of `images`.
    If no photograph of the sample is readable, return 0.
    """
    sample = images.take(np.unique(np.linspace(0, len(images) - 1, SAMPLE, dtype=np.int64)))
    largest = 0.0
    for name, uri in zip(sample["benchmark"].to_pylist(), sample["image_uri"].to_pylist(), strict=True):
        with suppress(OvssError):  # the image will fail in the run
            largest = max(largest, 3.0 * math.prod(benchmarks[name].size(uri)))
    return largest
