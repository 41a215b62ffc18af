"""The actors that Ray Data runs: they hold stages, note what they start, and end themselves if it takes too long."""

import atexit
import faulthandler
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import ray

from ovss_ray import pipeline, records
from ovss_ray.columns import Batch, column
from ovss_ray.errors import OvssError
from ovss_ray.placement import Placed
from ovss_ray.vocabulary import Vocabularies

DAY = 86_400
"""Seconds after which the note of a dead worker is thrown away if nobody has read it."""


class Worker:
    """Holds the stages of one pool and is called with many batches.

    A batch in which the process dies comes again, after Ray has started the process anew; then its images are run one
    by one, and those that have killed it often enough get a record that says so (see ledger).
    """

    def __init__(
        self, pool: Placed, number: int, keep: set[str], vocabularies: Vocabularies, prepared: Mapping[str, Any],
        ledger: Any, deadline: float,
    ) -> None:  # fmt: skip
        atexit.register(_leave)
        os.environ["OMP_NUM_THREADS"] = str(pool.threads)
        context = ray.get_runtime_context()
        self.name, self.ledger, self.deadline = str(context.get_actor_id()), ledger, deadline
        evidence, self.traces = _traces(self.name)
        faulthandler.enable(self.traces)
        self._heed(
            ray.get(ledger.start.remote(self.name, number, context.get_node_id(), evidence, context.current_actor))
        )
        shared = {key: ray.get(array) for key, array in prepared.items()}  # zero-copy: one mapped copy per node
        self.stages = {stage.use: stage.build(shared) for stage in pool.stages}
        self.keep, self.vocabularies = keep, vocabularies
        ray.get(ledger.ready.remote(self.name))

    def __call__(self, batch: Batch) -> Batch:
        """Run the pool's stages over a batch, and hand on the columns that are still needed."""
        names = pipeline.names(batch)
        suspects = self._begin(names)
        if suspects:
            done = _joined([self._alone(_row(batch, i), name, suspects.get(name)) for i, name in enumerate(names)])
        else:
            done = self._run(batch)
        self.ledger.end.remote(self.name, any(error == "" for error in done["error"]))
        return {name: values for name, values in done.items() if name in self.keep}

    def _alone(self, one: Batch, name: str, verdict: str | None) -> Batch:
        """Run a single image of a batch in which a worker has died, unless it is given up."""
        if verdict and not one["error"][0]:
            one = {**one, "error": column([f"{', '.join(self.stages)}: {verdict}"])}
        else:
            self._begin([name], alone=True)
        return self._run(one)

    def _begin(self, names: list[str], alone: bool = False) -> dict[str, str]:
        stop, suspects = ray.get(self.ledger.begin.remote(self.name, names, alone))
        self._heed(stop)
        return suspects

    def _run(self, batch: Batch) -> Batch:
        with self._deadline():
            try:
                return pipeline.run(self.stages, batch, self.vocabularies)
            except pipeline.Poisoned as failure:
                print(f"{failure}\n", file=self.traces, flush=True)
                os._exit(1)  # this process can compute no more; it is started anew, and the batch comes again

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        """End the process if what is inside takes too long, be it in a loop of Python or of C."""
        faulthandler.dump_traceback_later(self.deadline, exit=True, file=self.traces)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _heed(self, stop: str) -> None:
        if stop:
            raise OvssError(stop)


class Recorder(Worker):
    """The worker of the last pool, whose batches become records; `write`, if given, makes receipts of these."""

    def __init__(self, write: Callable[[pa.Table], pa.Table] | None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.write = write

    def __call__(self, batch: Batch) -> pa.Table:
        """Run the last stages over a batch, and keep the records alone, or the receipts of having written them."""
        table = records.table(super().__call__(batch))
        return self.write(table) if self.write else table


def _leave() -> None:
    """End the process without C++'s last clean-up: in Ray 2.60 that now and then waits for ever on a lock already gone.

    What stays behind would hold its memory, a GPU's too.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


def _traces(worker: str) -> tuple[str, TextIO]:
    """What the last process of this worker has left behind on this machine, and a fresh file for this one's."""
    folder = Path(tempfile.gettempdir()) / f"ovss_ray-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        if old.stat().st_mtime < time.time() - DAY:
            old.unlink(missing_ok=True)
    file = folder / f"{worker}.txt"
    before = file.read_text(errors="replace") if file.exists() else ""
    return before, file.open("w")


def _row(batch: Batch, row: int) -> Batch:
    return {name: values[row : row + 1] for name, values in batch.items()}


def _joined(rows: list[Batch]) -> Batch:
    return {name: column([value for row in rows for value in row[name]]) for name in rows[0]}
