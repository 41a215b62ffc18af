"""State of all replicas. The HTTP deployment requests this state every few seconds. This module does not use Ray."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence

from ovss_ray.serve.deployments.replica import Figures
from ovss_ray.serve.pace import Pace, slowest
from ovss_ray.serve.row import Kind

Ask = Callable[[], Awaitable[Mapping[str, Sequence[Figures] | None]]]
"""Async function that returns a mapping: name of a pool → list with one Figures object per replica of the pool.

If a pool does not answer, the value for this pool is None."""
PERIOD = 2.0
"""Seconds between two requests for the replicas' state"""
LINES = 1000
"""Maximum number of lines about lost and new replicas that are kept"""


class Watch:
    """The latest known state of all replicas, and a log of lost and new replicas."""

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex[:8]
        """unique name of the HTTP process"""
        self.figures: Mapping[str, Sequence[Figures]] = {}
        self.lines: list[str] = []
        """a line for each replica that was lost or has started"""
        self.dropped = 0
        """number of earlier lines that are no longer kept"""
        self.restarts: Counter[str] = Counter()
        """name of a pool → number of replicas that have started in the place of others"""
        self._paces: dict[str, list[Mapping[Kind, Pace]]] = {}
        """name of a pool → last known paces of the replicas, by kind of answer (see Pace)"""
        self._missing: Counter[str] = Counter()
        """name of a pool → number of replicas that were lost and are not replaced yet"""

    async def look(self, ask: Ask) -> None:
        """Request the state of the replicas every PERIOD seconds, until the task is cancelled."""
        while True:
            self.note(await ask())
            await asyncio.sleep(PERIOD)

    def note(self, figures: Mapping[str, Sequence[Figures] | None]) -> None:
        """Store the latest Figures of all replicas (see Ask). For a pool with the value None, keep the old Figures."""
        for pool, replicas in figures.items():
            if replicas is not None and pool in self.figures:
                self._compare(pool, [old.replica for old in self.figures[pool]], [new.replica for new in replicas])
        known = {pool: replicas for pool, replicas in figures.items() if replicas is not None}
        self.figures = {**self.figures, **known}
        self._paces |= {pool: [replica.paces for replica in replicas] for pool, replicas in known.items() if replicas}
        self.dropped += max(0, len(self.lines) - LINES)
        del self.lines[:-LINES]

    def _compare(self, pool: str, before: Sequence[str], after: Sequence[str]) -> None:
        """Add a line for each replica that was lost or has started."""
        for name in before:
            if name not in after:
                self._missing[pool] += 1
                self.lines.append(f"{pool}: replica {name} has gone; {len(after) or 'none'} left")
        for name in after:
            if name not in before:
                replaced = self._missing[pool] > 0
                self._missing[pool] -= replaced
                self.restarts[pool] += replaced
                self.lines.append(f"{pool}: replica {name} has started{' in its place' if replaced else ''}")

    def unready(self, pools: Sequence[str]) -> list[str]:
        """Return those of the pools that have no replica at present."""
        return [pool for pool in pools if pool in self.figures and not self.figures[pool]]

    def pixels(self, pools: Sequence[str], kind: Kind, seconds: float, most: int) -> int:
        """Return the number of pixels of the largest image that pools can process within `seconds` (see Pace.pixels).

        The result is never larger than `most`.
        """
        return self._pace(pools, kind).pixels(seconds, most)

    def seconds(self, pools: Sequence[str], kind: Kind, pixels: int) -> tuple[float, int]:
        """Return (seconds, replicas) for one image. `seconds` is the estimated time in all pools together.

        `replicas` is the number of replicas of the pool that has the fewest replicas.
        """
        replicas = min((len(self._paces.get(pool, ())) for pool in pools), default=0)
        return self._pace(pools, kind).seconds(1, pixels), replicas

    def _pace(self, pools: Sequence[str], kind: Kind) -> Pace:
        """Return the pace of an image that passes through all pools. This pace is the sum of the paces of the pools.

        The pace of a pool is computed from the paces of its replicas by `slowest`. Pools without a known pace are left
        out.
        """
        paces = [slowest(replica[kind] for replica in self._paces.get(pool, ()) if kind in replica) for pool in pools]
        known = [pace for pace in paces if pace]
        return Pace(sum(pace.fixed for pace in known), sum(pace.each for pace in known))


class News:
    """Status lines that `ovss serve` has not printed yet. A line reports that a process was lost or has started.

    The lines about the processes of the pools come from `Watch.lines`. News writes the lines about the HTTP process.
    """

    def __init__(self) -> None:
        self._name, self._gone, self._cause = "", False, ""
        self._printed = 0
        """number of lines that were printed since the current HTTP process started"""

    def answered(self, name: str, dropped: int, lines: Sequence[str]) -> list[str]:
        """Return the lines that were not printed yet. Call this method each time the HTTP process answers.

        The three arguments are the answer of the HTTP process (see `Ingress.lines`). `name` is the name of the HTTP
        process. `dropped` is the number of deleted log lines. `lines` are the kept log lines.
        """
        news = []
        if name != self._name:
            if self._name:
                news = [*self.silent(""), f"http: replica {name} has started in its place"]
            self._name, self._printed = name, 0
        self._gone, self._cause = False, ""
        news += lines[max(0, self._printed - dropped) :]
        self._printed = dropped + len(lines)
        return news

    def silent(self, cause: str) -> list[str]:
        """Return the lines that were not printed yet. Call this method only if no HTTP process runs.

        `cause` is the error that prevents the start of a new HTTP process. If no error is known, `cause` is "".
        """
        news = [] if self._gone or not self._name else [f"http: replica {self._name} has gone; none left"]
        if cause and cause != self._cause:
            news.append(f"http: no replica starts: {cause}. Ray Serve tries again every few seconds")
        self._gone, self._cause = True, cause or self._cause
        return news
