"""The replicas as the HTTP deployment sees them: it asks for their state every few seconds. It does not use Ray."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from ovss_ray.serve.deployments.replica import Figures
from ovss_ray.serve.pace import Pace, slowest
from ovss_ray.serve.row import Kind

Ask = Callable[[], Awaitable[Mapping[str, Sequence[Figures]]]]
"""Function that collects the values of all replicas: name of a pool → values of its replicas"""
PERIOD = 2.0
"""Seconds between two looks at the replicas"""


class Watch:
    """The latest known state of all replicas."""

    def __init__(self) -> None:
        self.figures: Mapping[str, Sequence[Figures]] = {}

    async def look(self, ask: Ask) -> None:
        """Look at the replicas again and again, until the task is cancelled."""
        while True:
            self.note(await ask())
            await asyncio.sleep(PERIOD)

    def note(self, figures: Mapping[str, Sequence[Figures]]) -> None:
        """Store the values of all replicas. If no replica of a pool has answered, its earlier values remain."""
        self.figures = {pool: replicas or self.figures.get(pool, ()) for pool, replicas in figures.items()}

    def pixels(self, pools: Sequence[str], kind: Kind, seconds: float, most: int) -> int:
        """Return the largest image, in pixels, that pools can answer within `seconds`, at most `most`."""
        paces = [
            slowest(figures.paces[kind] for figures in self.figures.get(pool, ()) if kind in figures.paces)
            for pool in pools
        ]
        known = [pace for pace in paces if pace]
        total = Pace(sum(pace.fixed for pace in known), sum(pace.each for pace in known))
        return total.pixels(seconds, most)
