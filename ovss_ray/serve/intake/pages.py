"""Cache of regions. If a client requests the regions of an image page by page, models run only for the first page."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from ovss_ray.serve.row import Row

MOST = 8
"""Maximum number of images whose regions are kept"""
SECONDS = 120.0
"""Seconds for which the regions of an image are kept"""
Key = tuple[str, str, str]
"""SHA-256 of the image, name of the model, digest of the classes"""


class Kept:
    """Cache of rows. A row has the regions that a model has found in an image (see serve.row).

    If the cache is full, the least recently used row is removed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._rows: OrderedDict[Key, tuple[float, Row]] = OrderedDict()

    async def row(self, key: Key, compute: Callable[[], Awaitable[Row]]) -> Row:
        """Return the row with the key `key`. If the row is not in the cache, call `compute` and store the row."""
        now = self.clock()
        self._rows = OrderedDict((known, kept) for known, kept in self._rows.items() if now - kept[0] < SECONDS)
        if key not in self._rows:
            self._rows[key] = (now, await compute())
        self._rows.move_to_end(key)
        while len(self._rows) > MOST:
            self._rows.popitem(last=False)
        return self._rows[key][1]
