"""Workers of a run: Ray actors that hold stages. The function `prepare` computes the arrays that all workers share."""

import atexit
import faulthandler
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import ray

from ovss_ray.benchmarks import catalog
from ovss_ray.benchmarks.own_words import OwnWords
from ovss_ray.engine.cluster.placement import Placed
from ovss_ray.engine.ledger import Names
from ovss_ray.errors import OvssError
from ovss_ray.pipeline import execution, preparation, weights
from ovss_ray.pipeline.stage import StageConfig, build_all
from ovss_ray.runs import records
from ovss_ray.structures import words
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.vocabulary import Vocabularies, Vocabulary

RETRIES = 2
"""Number of further attempts to compute the arrays of a stage, if the process that computes them dies"""
AGE = 1.0
"""Minimum seconds between two registrations of a block's images in the ledger.

A worker may register all images of a block with one message (see Worker._begin_together). Before each batch of this
block, the worker registers the unfinished images again if AGE seconds have passed."""
DAY = 86_400
"""Age in seconds after which the trace files of dead workers are deleted"""


class Worker:
    """Ray actor that holds the stages of one pool, and is called with many batches.

    If the actor's process dies, Ray restarts the actor, and sends the batch again (see engine/ledger.py).
    """

    def __init__(
        self, pool: Placed, number: int, keep: set[str], vocabularies: Vocabularies, prepared: Mapping[str, Any],
        ledger: Any, deadline: float, words: Mapping[str, OwnWords], digests: Mapping[str, str],
    ) -> None:  # fmt: skip
        atexit.register(_leave)
        context = ray.get_runtime_context()
        self.name, self.ledger, self.deadline = str(context.get_actor_id()), ledger, deadline
        evidence_left, self.traces = evidence(self.name), _traces(self.name)
        faulthandler.enable(self.traces)
        handle = pickle.dumps(context.current_actor)  # as bytes, or the ledger would import the modules of the actor
        self._obey(ray.get(ledger.start.remote(self.name, number, context.get_node_id(), evidence_left, handle)))
        shared = {key: ray.get(array) for key, array in prepared.items()}  # zero-copy: one mapped copy per node
        self.pool = pool
        weights.check(pool.stages, digests, ray.util.get_node_ip_address())  # preflight has not seen late nodes
        benchmarks = catalog.Benchmarks(words)  # loaded here by name, since not all of their functions can be pickled
        with pool.computing():
            self.stages = build_all(pool.stages, shared, benchmarks)
        self.keep, self.vocabularies = keep, vocabularies
        ray.get(ledger.ready.remote(self.name))

    def __call__(self, images: Batch) -> Batch:
        """Run the pool's stages on one or more batches, and return the columns that later stages need."""
        return words.packed(self._computed(images))

    def _computed(self, images: Batch) -> Batch:
        """Divide `images` into batches, and run the stages on each. Return the columns in `self.keep` of all images."""
        done: list[Batch] = []
        good = False
        names = execution.names(images)
        together = self._begin_together(names)
        registered = time.monotonic()
        for begin in range(0, len(names), self.pool.batch):
            batch = {name: values[begin : begin + self.pool.batch] for name, values in images.items()}
            if together and time.monotonic() - registered > AGE:  # a sign of progress, and fewer images to suspect
                self._begin(names[begin:], again=True, good=good)
                registered = time.monotonic()
            columns = self._run(batch) if together else self._settled(batch, good, again=together is not None)
            good = any(error == "" for error in columns["error"])
            done.append({name: values for name, values in columns.items() if name in self.keep})
        self.ledger.end.remote(self.name, good)
        return _joined(done) if len(done) > 1 else done[0]

    def _begin_together(self, names: list[str]) -> bool | None:
        """Register all images of a block in the ledger with one message. `names`: names of the images.

        The result has three values:

        - None: nothing was registered. The block is a single batch, or a stage of the pool can use a GPU.
        - False: the images were registered. An earlier worker died while processing one of the images.
        - True: the images were registered. No worker died while processing one of the images.
        """
        if len(names) <= self.pool.batch or not self.pool.light:
            return None
        return not self._begin(names)

    def _settled(self, batch: Batch, good: bool, again: bool = False) -> Batch:
        """Run the stages on a batch, and return the resulting columns.

        `good`: True if at least one image of the previous batch has no error. `again`: True if `_begin_together` has
        already registered the images of this batch in the ledger.
        """
        names = execution.names(batch)
        suspects = self._begin(names, again=again, good=good)
        if not suspects:
            return self._run(batch)
        # a worker has died while processing one of these images
        return _joined([self._alone(_row(batch, i), name, suspects.get(name)) for i, name in enumerate(names)])

    def _alone(self, row: Batch, name: str, verdict: str | None) -> Batch:
        """Process one image separately, and return its row.

        `verdict`: reason to skip the image; None or "" if the image is not skipped. If the image is skipped, the column
        `error` of the row has this reason.
        """
        if verdict and not row["error"][0]:
            row = {**row, "error": column([f"{', '.join(self.stages)}: {verdict}"])}
        else:
            self._begin([name], again=True)
        return self._run(row)

    def _begin(self, names: list[str], again: bool = False, good: bool = False) -> dict[str, str]:
        stop, suspects = ray.get(self.ledger.begin.remote(self.name, names, again, good))
        self._obey(stop)
        return suspects

    def _run(self, batch: Batch) -> Batch:
        with self._deadline(), self.pool.computing():
            try:
                return execution.run(self.stages, batch, self.vocabularies)
            except execution.Poisoned as failure:
                print(f"{failure}\n", file=self.traces, flush=True)
                os._exit(1)  # this process cannot compute any more; Ray restarts it and sends the batch again

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        """Exit the process if the `with` block takes longer than `self.deadline` seconds, even while C code runs."""
        faulthandler.dump_traceback_later(self.deadline, exit=True, file=self.traces)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _obey(self, stop: str) -> None:
        if stop:
            raise OvssError(stop)


class Recorder(Worker):
    """Worker of the last pool. This worker makes a record of each image.

    `write`: None, or a function that writes a table of records. The function returns the receipts of the written files.
    If `write` is None, the worker returns the records. Otherwise, the worker calls `write`, and returns the receipts.
    """

    def __init__(self, write: Callable[[pa.Table], pa.Table] | None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.write = write

    def __call__(self, images: Batch) -> pa.Table:
        """Run the last stages on one or more batches. Return the records, or the receipts if `write` is not None."""
        table = records.table(self._computed(images))
        return self.write(table) if self.write else table


def _leave() -> None:
    """Exit the process without the C++ clean-up, which may hang (see ray_internals.HANGS_AT_EXIT)."""
    # A hanging process would keep its memory, on the GPU too.
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


def evidence(worker: str) -> str:
    """Return the trace that faulthandler wrote on this machine at a worker's latest death; "" if there is no trace."""
    file = _trace_file(worker)
    return file.read_text(errors="replace") if file.exists() else ""


def _trace_file(worker: str) -> Path:
    return Path(tempfile.gettempdir()) / f"ovss_ray-{os.getuid()}" / f"{worker}.txt"


def _traces(worker: str) -> TextIO:
    """Return an empty trace file of this worker, open for writing. Trace files older than DAY are deleted."""
    file = _trace_file(worker)
    file.parent.mkdir(exist_ok=True)
    for old in file.parent.iterdir():
        with suppress(FileNotFoundError):  # another worker has just deleted it
            if old.stat().st_mtime < time.time() - DAY:
                old.unlink()
    return file.open("w")


def _row(batch: Batch, row: int) -> Batch:
    return {name: values[row : row + 1] for name, values in batch.items()}


def _joined(rows: list[Batch]) -> Batch:
    return {name: column([value for row in rows for value in row[name]]) for name in rows[0]}


Compute = Callable[[StageConfig, Sequence[Vocabulary], Names], list[np.ndarray]]
"""Function that computes the arrays of a stage for vocabularies (see Stage.prepare) in another process."""


def prepare(
    pools: Sequence[Placed], vocabularies: Vocabularies, ledger: Any, compute: Compute | None = None
) -> dict[str, Any]:
    """Return the arrays that all workers share, such as text embeddings, as cache key → Ray object reference.

    `ledger`: actor that receives the progress of the text embeddings. `compute`: function that computes the arrays that
    are not cached; by default, one Ray task per stage computes them.
    """

    def computed(pool: Placed, stage: StageConfig, missing: Sequence[Vocabulary]) -> list[np.ndarray]:
        names = sum(len(vocabulary.classes) for vocabulary in missing)
        ledger.start_names.remote(names)
        try:
            return (compute or partial(_in_task, pool))(stage, missing, Names(ledger, names))
        finally:
            ledger.end_names.remote()

    stages = [(pool, stage) for pool in pools for stage in pool.stages]
    return {key: ray.put(array) for key, array in preparation.arrays(stages, vocabularies, computed)}


def _in_task(pool: Placed, stage: StageConfig, vocabularies: Sequence[Vocabulary], listener: Names) -> list[np.ndarray]:
    task: Any = ray.remote(max_retries=RETRIES, **pool.options())(prepared)
    arrays: list[np.ndarray] = ray.get(task.remote(stage, pool.threads, vocabularies, listener))
    return arrays


def prepared(stage: StageConfig, threads: int, vocabularies: Sequence[Vocabulary], listener: Names) -> list[np.ndarray]:
    """Return the arrays of a stage for these vocabularies, computed in this process."""
    from ovss_ray.models import runtime, text  # imports torch, which the driver does without

    with runtime.computing(threads), text.reported(listener):
        return stage.kind().prepare(stage.settings(), vocabularies)
