"""A replica of one pool: holds its stages, and runs them over batches of requests, beside the event loop.

Ray Serve has a decorator that makes batches, serve.batch. In Ray 2.60 it closes one when its time is over (10 ms), also
while another one is computed, and so small batches queue up. Here a batch is what has come while the last one was
computed: nobody waits for company, and the batches are large when there is much to do. A batch has one kind of answer.
"""

import asyncio
import ctypes
import os
import time
import uuid
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ovss_ray import pipeline
from ovss_ray.actors import sam_prompt
from ovss_ray.placement import Placed
from ovss_ray.serve import batch
from ovss_ray.serve.batch import PROMPT, Parts
from ovss_ray.serve.row import Kind, Row
from ovss_ray.stage import Stage
from ovss_ray.vocabulary import Vocabulary

Asked = tuple[Row, Vocabulary, Kind, asyncio.Future[Row]]
CLICKS = ("prompt", "masks")
"""Kinds of answers that cost little, and that somebody waits for with a hand on the mouse."""
REST = 5.0
"""Seconds without work after which memory is given back."""


@dataclass(frozen=True)
class Figures:
    """What a replica tells of itself, for those who watch the service (see metrics)."""

    replica: str
    """a name of its own"""
    batches: Mapping[int, int]
    """requests in a batch → batches"""
    waiting: int
    """requests for the next one"""
    caches: Mapping[str, int]
    """cache → bytes"""


class Replica:
    """The stages of a pool. It is there for requests only when a first image has gone through them."""

    def __init__(
        self, pool: Placed, parts: Parts, words: Sequence[Vocabulary], deadline: float, remembered: int = 0
    ) -> None:
        """`remembered` are the bytes of images that it keeps for further prompts."""
        os.environ["OMP_NUM_THREADS"] = str(pool.threads)
        # Stages are not made for several threads, nor CUDA graphs for another than the one they were recorded in.
        self.thread = ThreadPoolExecutor(1)
        self.stages: dict[str, Stage] = {stage.use: self.thread.submit(stage.build).result() for stage in pool.stages}
        if any(PROMPT in part.stages for part in parts.values()):
            beside = self.thread.submit(sam_prompt.Stage.beside, self.stages["sam"], remembered)
            self.stages[PROMPT] = beside.result()
        # Without a GPU SAM looks at one image at a time anyway: a batch would only keep clicks waiting.
        self.most = pool.batch if pool.gpus or PROMPT not in self.stages else 1
        self.parts, self.deadline, self.clicks = parts, deadline, pool.batch
        self.waiting: deque[Asked] = deque()
        self.working: asyncio.Task[None] | None = None
        self.resting: asyncio.TimerHandle | None = None
        self.clicked = False
        self.name, self.batches = uuid.uuid4().hex[:8], Counter[int]()
        self.begun: float | None = None
        warmed: set[str] = set()
        for kind, part in parts.items():
            if set(part.stages) - warmed:
                self.thread.submit(batch.warm, self._stages(kind), words).result()
                warmed |= set(part.stages)

    async def __call__(self, row: Row, words: Vocabulary, kind: Kind) -> Row:
        """Run the stages of a kind of answer over one row, together with others that wait."""
        answer = asyncio.get_running_loop().create_future()
        self.waiting.append((row, words, kind, answer))
        if self.working is None or self.working.done():
            self.working = asyncio.create_task(self._work())
        return await answer

    async def _work(self) -> None:
        """Answer what waits, batch by batch. Who has gone away meanwhile is passed by."""
        if self.resting:
            self.resting.cancel()
        while self.waiting:
            if asked := self._next():
                await self._answer(asked)
        self.resting = asyncio.get_running_loop().call_later(REST, self.thread.submit, give_back)

    def _next(self) -> list[Asked]:
        """The next batch: of the kind that has waited longest, but clicks first, if the last ones were none."""
        there = [one for one in self.waiting if not one[3].done()]
        clicks = [one for one in there if one[2] in CLICKS]
        first = next(iter([*([] if self.clicked else clicks), *there]), None)
        self.clicked = bool(first and first[2] in CLICKS)
        chosen = [one for one in there if first and one[2] == first[2]][: self.clicks if self.clicked else self.most]
        taken = set(map(id, chosen))
        self.waiting = deque(one for one in there if id(one) not in taken)
        return chosen

    async def _answer(self, asked: list[Asked]) -> None:
        self.batches[len(asked)] += 1
        requests = [(row, words) for row, words, *_ in asked]
        work = asyncio.get_running_loop().run_in_executor(self.thread, self._run, requests, asked[0][2])
        await asyncio.wait([work])
        failure = work.exception()
        for number, (*_, answer) in enumerate(asked):
            if answer.done():
                continue
            if failure:
                answer.set_exception(failure)
            else:
                answer.set_result(work.result()[number])

    def _run(self, requests: list[tuple[Row, Vocabulary]], kind: Kind) -> list[Row]:
        self.begun = time.monotonic()
        stages = self._stages(kind)
        try:
            memory = stages.get(PROMPT)
            if isinstance(memory, sam_prompt.Stage):
                requests = [(batch.recall(memory, row), words) for row, words in requests]
            return batch.run(stages, requests, self.parts[kind].keep)
        except pipeline.Poisoned:
            os._exit(1)  # this process can compute no more; Serve starts another one
        finally:
            self.begun = None

    def _stages(self, kind: Kind) -> Mapping[str, Stage]:
        return {name: self.stages[name] for name in self.parts[kind].stages}

    def figures(self) -> Figures:
        """What it has done and holds."""
        caches: Counter[str] = Counter()
        for stage in self.stages.values():
            caches.update(stage.kept())
        return Figures(self.name, dict(self.batches), len(self.waiting), dict(caches))

    def check_health(self) -> None:
        """Raise if a batch makes no progress, whereupon Serve puts another replica in the place of this one."""
        if self.begun is not None and (spent := time.monotonic() - self.begun) > self.deadline:
            raise RuntimeError(f"a batch has been running for {spent:.0f} s, and the deadline is {self.deadline:g} s")


def give_back() -> None:
    """Give the system what glibc has kept of freed memory: 100 MB after large batches. Others have no such call."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
