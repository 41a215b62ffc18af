"""Size of the blocks in which images travel between pools. This module does not import Ray.

The driver process handles every block between two pools, which takes it about 10 ms of CPU. With few workers, a block
is one batch. With many workers, a block has several batches, or the driver process could not keep them busy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ovss_ray.engine.cluster.placement import Placed

FEW = 4
"""Number of workers, counted once per pool, for which the driver process handles every batch in time"""
MOST = 64
"""Maximum number of images in a block of several batches: 67 MB of photographs of 512 × 683 pixels.

Ray Data's own limit of a block is 128 MB. Images of 2048 × 1024 pixels need 400 MB."""
SHARE = 32
"""Minimum number of blocks per worker, if a block has several batches.

The last blocks end at different times, so a worker idles for half a block at the end. A dead worker's block is computed
again."""
LIMIT = 10_000
"""Maximum number of blocks of a run, since the driver process holds all of them"""


@dataclass(frozen=True)
class Blocks:
    """Numbers of images that travel together."""

    images: int
    """number of images of a block; 0: one batch of each pool"""
    rows: int
    """number of manifest rows of a block before the first pool, a multiple of its batch"""

    def call(self, pool: Placed) -> int:
        """Return the number of images with which a worker of a pool is called: one or more batches."""
        return pool.batch * max(1, self.images // pool.batch)


def sized(pools: Sequence[Placed], images: int) -> Blocks:
    """Return the size of the blocks for a run of `images` images through these pools."""
    batch, workers = max(pool.batch for pool in pools), max(pool.first for pool in pools)
    useful = -(-workers * len(pools) // FEW)
    several = min(useful, MOST // batch, images // (workers * batch * SHARE))
    together = several * batch if several > 1 else 0
    call = Blocks(together, 0).call(pools[0])
    return Blocks(together, call * -(-images // (call * LIMIT)))
