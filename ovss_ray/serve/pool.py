"""A replica of one pool: holds its stages, and runs them over batches of requests, beside the event loop.

Ray Serve has a decorator that makes batches, serve.batch. In Ray 2.60 it closes one when its time is over (10 ms), also
while another one is computed, and so small batches queue up. Here a batch is what has come while the last one was
computed: nobody waits for company, and the batches are large when there is much to do.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ovss_ray import pipeline
from ovss_ray.placement import Placed
from ovss_ray.serve import batch
from ovss_ray.serve.api import Row
from ovss_ray.vocabulary import Vocabulary

Asked = tuple[Row, Vocabulary, asyncio.Future[Row]]


class Replica:
    """The stages of a pool. It is there for requests only when a first image has gone through them."""

    def __init__(self, pool: Placed, keep: set[str], words: Sequence[Vocabulary], deadline: float) -> None:
        os.environ["OMP_NUM_THREADS"] = str(pool.threads)
        self.stages = {stage.use: stage.build() for stage in pool.stages}
        self.keep, self.deadline, self.most = keep, deadline, pool.batch
        self.waiting: deque[Asked] = deque()
        self.working: asyncio.Task[None] | None = None
        self.begun: float | None = None
        self.thread = ThreadPoolExecutor(1)  # stages are not made for several
        self.thread.submit(batch.warm, self.stages, words).result()

    async def __call__(self, row: Row, words: Vocabulary) -> Row:
        """Run the stages over one row, together with others that wait."""
        answer = asyncio.get_running_loop().create_future()
        self.waiting.append((row, words, answer))
        if self.working is None or self.working.done():
            self.working = asyncio.create_task(self._work())
        return await answer

    async def _work(self) -> None:
        """Answer what waits, batch by batch. Who has gone away meanwhile is passed by."""
        while self.waiting:
            asked: list[Asked] = []
            while self.waiting and len(asked) < self.most:
                one = self.waiting.popleft()
                asked += [] if one[2].done() else [one]
            if asked:
                await self._answer(asked)

    async def _answer(self, asked: list[Asked]) -> None:
        requests = [(row, words) for row, words, _ in asked]
        work = asyncio.get_running_loop().run_in_executor(self.thread, self._run, requests)
        await asyncio.wait([work])
        failure = work.exception()
        for number, (*_, answer) in enumerate(asked):
            if answer.done():
                continue
            if failure:
                answer.set_exception(failure)
            else:
                answer.set_result(work.result()[number])

    def _run(self, requests: list[tuple[Row, Vocabulary]]) -> list[Row]:
        self.begun = time.monotonic()
        try:
            return batch.run(self.stages, requests, self.keep)
        except pipeline.Poisoned:
            os._exit(1)  # this process can compute no more; Serve starts another one
        finally:
            self.begun = None

    def check_health(self) -> None:
        """Raise if a batch makes no progress, whereupon Serve puts another replica in the place of this one."""
        if self.begun is not None and (spent := time.monotonic() - self.begun) > self.deadline:
            raise RuntimeError(f"a batch has been running for {spent:.0f} s, and the deadline is {self.deadline:g} s")
