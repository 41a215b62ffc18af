"""A replica (worker process) of one pool, which runs the pool's stages on batches of requests.

A batch consists of requests that arrived while the previous batch was computed.
"""

import asyncio
import ctypes
import os
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ovss_ray.benchmarks import catalog
from ovss_ray.engine.cluster.placement import Placed
from ovss_ray.errors import Abandoned, checked
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import Stage, build_all
from ovss_ray.serve.deployments import batch
from ovss_ray.serve.deployments.batch import PROMPTERS, Memory, Parts
from ovss_ray.serve.pace import Pace
from ovss_ray.serve.row import Delayed, Kind, Row, TooSlow
from ovss_ray.structures.vocabulary import Vocabulary

T = TypeVar("T")
Pending = tuple[Row, Vocabulary, Kind, asyncio.Future[Row]]
"""A waiting request: its row, classes and kind of answer, and the future of its result"""
CLICKS = ("prompt", "masks")
"""Kinds of answers to clicks in an image. Requests for these answers are cheap, and have priority (see `_next`)."""
REST = 5.0
"""Seconds without requests after which free memory is returned to the operating system"""


@dataclass(frozen=True)
class Figures:
    """Values that a replica reports for the Prometheus metrics at /metrics."""

    replica: str
    """unique name of the replica"""
    batches: Mapping[int, int]
    """size of a batch (number of requests) → number of batches of this size"""
    waiting: int
    """number of requests that wait for the next batch"""
    caches: Mapping[str, int]
    """name of a cache → bytes in it"""
    paces: Mapping[Kind, Pace] = field(default_factory=dict)
    """kind of answer → Pace, a formula for the seconds that an image of a given size takes"""


class Replica:
    """Worker process of the service that holds the stages of one pool.

    Ray Serve sends requests only after the constructor has run the stages on test images.
    """

    def __init__(
        self, pool: Placed, parts: Parts, words: Sequence[Vocabulary], deadline: float, remembered: int = 0
    ) -> None:
        """Build the stages, and run them on a test image for each vocabulary in `words`.

        `deadline`: maximum seconds of a batch without progress. `remembered`: maximum bytes of cached images and
        embeddings.
        """
        self.pool = pool
        # Stages are not thread-safe, and CUDA graphs must be replayed in the thread that recorded them.
        self.thread = ThreadPoolExecutor(1)
        self.stages = self._apart(build_all, pool.stages, None, catalog.Benchmarks())
        self.prompter = batch.prompting(name for part in parts.values() for name in part.stages)
        if self.prompter:
            self.stages[self.prompter] = self._apart(self._prompter, pool, remembered)
        # Without a GPU, SAM encodes one image at a time anyway: a batch would only delay clicks.
        self.most = pool.batch if pool.gpus or not self.prompter else 1
        self.parts, self.deadline, self.clicks = parts, deadline, pool.batch
        self.waiting: deque[Pending] = deque()
        self.computed: Sequence[Pending] = ()
        self.begun = 0.0
        self.working: asyncio.Task[None] | None = None
        self.resting: asyncio.TimerHandle | None = None
        self.clicked = False
        self.name, self.batches = uuid.uuid4().hex[:8], Counter[int]()
        self.moved: float | None = None
        warmed: set[str] = set()
        paces: dict[tuple[str, ...], Pace] = {(): Pace(0.0, 0.0)}
        for kind, part in parts.items():
            if set(part.stages) - warmed:
                if (spent := self._apart(batch.warm, self._stages(kind), words)) > batch.COLD:
                    paces[part.stages] = Pace(spent, 0.0)
                warmed |= set(part.stages)
            if part.stages not in paces:
                paces[part.stages] = self._apart(batch.pace, self._stages(kind), words[0])
        self.paces = {kind: paces[part.stages] for kind, part in parts.items()}

    def _apart(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run a function in the single thread that builds and runs the stages, and return the function's result."""

        def computed() -> T:
            with self.pool.computing():
                return work(*arguments)

        return self.thread.submit(computed).result()

    def _prompter(self, pool: Placed, remembered: int) -> Stage:
        """Return the prompt stage, which shares the network of the stage that proposes regions."""
        # A GPU may not have room for two networks.
        proposer = next(stage for stage in pool.stages if stage.use in PROMPTERS)
        config = batch.prompter(proposer, memory=remembered)
        return config.build(network=self.stages[proposer.use].network)

    async def __call__(self, row: Row, words: Vocabulary, kind: Kind, seconds: float | None = None) -> Row:
        """Run the stages for a `kind` of answer on a row, and return the resulting row.

        `seconds`: time limit for waiting and computation; None: no limit. After the limit, raises TooSlow if the
        computation took at least half of `seconds`, else Delayed.
        """
        answer = asyncio.get_running_loop().create_future()
        self.waiting.append((row, words, kind, answer))
        if self.working is None or self.working.done():
            self.working = asyncio.create_task(self._work())
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError:
            computed = any(future is answer for *_, future in self.computed)
            slow = computed and seconds is not None and time.monotonic() - self.begun >= seconds / 2
            raise TooSlow() if slow else Delayed() from None

    async def _work(self) -> None:
        """Process waiting requests batch by batch. Skip requests that are cancelled or have timed out."""
        # serve.batch is not used. In Ray 2.60, it closes a batch after 10 ms, even while another batch is computed.
        # Under load, many small batches would wait in a queue.
        if self.resting:
            self.resting.cancel()
        while self.waiting:
            if pending := self._next():
                await self._answer(pending)
        self.resting = asyncio.get_running_loop().call_later(REST, self.thread.submit, give_back)

    def _next(self) -> list[Pending]:
        """Return the next batch, in which all requests have the same kind of answer.

        If a click (see CLICKS) waits and the previous batch had no clicks, the batch starts with the oldest click. In
        all other cases, the batch starts with the oldest request.
        """
        open_requests = [request for request in self.waiting if not request[3].done()]
        clicks = [request for request in open_requests if request[2] in CLICKS]
        first = next(iter([*([] if self.clicked else clicks), *open_requests]), None)
        self.clicked = bool(first and first[2] in CLICKS)
        most = self.clicks if self.clicked else self.most
        next_batch = [request for request in open_requests if first and request[2] == first[2]][:most]
        batch_ids = set(map(id, next_batch))
        self.waiting = deque(request for request in open_requests if id(request) not in batch_ids)
        return next_batch

    async def _answer(self, pending: list[Pending]) -> None:
        self.batches[len(pending)] += 1
        self.computed, self.begun = pending, time.monotonic()
        requests = [(row, words) for row, words, *_ in pending]
        answers = [answer for *_, answer in pending]
        work = asyncio.get_running_loop().run_in_executor(self.thread, self._run, requests, pending[0][2], answers)
        await asyncio.wait([work])
        self.computed = ()
        failure = work.exception()
        for number, (*_, answer) in enumerate(pending):
            if answer.done():
                continue
            if failure:
                answer.set_exception(failure)
            else:
                answer.set_result(work.result()[number])

    def _run(
        self, requests: list[tuple[Row, Vocabulary]], kind: Kind, answers: Sequence[asyncio.Future[Row]] = ()
    ) -> list[Row]:
        """Run the stages for a `kind` of answer on requests, and return the computed rows.

        `answers`: the future of each request. A future is done early if the request times out or is cancelled. If all
        futures are done early, stop the computation and return an empty list. If `answers` is empty, never stop early.
        """
        begun = self.moved = time.monotonic()
        stages = self._stages(kind)

        def check() -> None:
            self.moved = time.monotonic()
            if answers and all(answer.done() for answer in answers):
                raise Abandoned

        try:
            memory = stages.get(self.prompter)
            if isinstance(memory, Memory):
                requests = [(batch.recall(memory, row), words) for row, words in requests]
            with self.pool.computing(), checked(check):
                rows = batch.run(stages, requests, self.parts[kind].keep)
            new = [row for row, _ in requests if "size" in row and not row.get("cached")]
            pixels = sum(int(row["size"].prod()) for row in new)
            self.paces[kind] = self.paces[kind].learned(len(requests), pixels, time.monotonic() - begun)
            return rows
        except Abandoned:
            return []
        except execution.Poisoned:
            os._exit(1)  # this process cannot compute any more; Serve starts a new one
        finally:
            self.moved = None

    def _stages(self, kind: Kind) -> Mapping[str, Stage]:
        return {name: self.stages[name] for name in self.parts[kind].stages}

    def figures(self) -> Figures:
        """Return the replica's current metrics: batch counts, number of waiting requests, bytes in caches, paces."""
        caches: Counter[str] = Counter()
        for stage in self.stages.values():
            caches.update(stage.kept())
        paces = {kind: pace.now() for kind, pace in self.paces.items()}
        return Figures(self.name, dict(self.batches), len(self.waiting), dict(caches), paces)

    def check_health(self) -> None:
        """Raise RuntimeError if a batch has made no progress for `deadline` seconds. Serve then replaces this replica.

        A batch makes progress at each tile of an image (see errors.in_parts).
        """
        if self.moved is not None and (spent := time.monotonic() - self.moved) > self.deadline:
            raise RuntimeError(
                f"a batch has made no progress for {spent:.0f} s; the deadline is {self.deadline:g} s. Ray Serve "
                "replaces this worker"
            )


def give_back() -> None:
    """Make glibc return free memory to the operating system. Without glibc, do nothing."""
    # After large batches, glibc holds about 100 MB of free memory.
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
