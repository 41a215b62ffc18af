"""A stage for tests that needs no network: the class of a pixel is how bright it is."""

import ctypes
import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from ovss_ray.errors import OvssError
from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies

Fault = Literal["exit", "sys.exit", "segfault", "kill", "memory", "loop", "loop in C", "cuda", "disk full"]


class Stage(stage.Stage):
    """image → prediction: the brightness of each pixel, cut into as many equal classes as the vocabulary has."""

    reads = ("image", "vocabulary")
    writes = ("prediction",)
    where = ("witness", "die_starting", "faults", "seconds", "short")

    class Config(Settings):
        refuse: str = ""
        """the worker cannot be built, and says this"""
        die_starting: bool = False
        """the worker's process ends while it is built"""
        faults: dict[str, Fault] = {}
        """image → what it does to its worker"""
        witness: str = ""
        """a file that every image is written into, one line each, when it is begun"""
        short: bool = False
        """a bug: one row too few is written"""
        seconds: float = 0.0
        """that an image takes"""

    def __init__(self, config: Config, prepared: stage.Prepared | None = None) -> None:
        super().__init__(config, prepared)
        if config.refuse:
            raise OvssError(config.refuse)
        if config.die_starting:
            os._exit(1)

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        for image_id in batch["image_id"]:
            witness(self.config.witness, image_id)
            if image_id in self.config.faults:
                commit(self.config.faults[image_id])
            time.sleep(self.config.seconds)
        classes = [len(vocabularies[digest]) for digest in batch["vocabulary"]]
        made = column(bright(image, k) for image, k in zip(batch["image"], classes, strict=True))
        return {"prediction": made[self.config.short :]}


class Witnessed(stage.Stage):
    """A stage before a real one: it notes every image that it is given, and can be slowed down."""

    class Config(Settings):
        witness: str = ""
        """a file that every image is written into, one line each, when it is begun"""
        seconds: float = 0.0
        """that an image takes"""

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        for image_id in batch["image_id"]:
            witness(self.config.witness, image_id)
        time.sleep(self.config.seconds * len(batch["image_id"]))
        return super().__call__(batch, vocabularies)


def witness(file: str, image_id: str) -> None:
    """Add a line IMAGE@PROCESS to a file, in one piece, whatever becomes of this process."""
    if file:
        with Path(file).open("a") as lines:
            lines.write(f"{image_id}@{os.getpid()}\n")


def commit(fault: Fault) -> None:
    """Do to this process what bad code and bad luck do."""
    FAULTS[fault]()


def forever() -> None:
    while True:
        pass


def refuse(failure: Exception) -> None:
    raise failure


FAULTS: dict[Fault, Callable[[], object]] = {
    "exit": lambda: os._exit(1),
    "sys.exit": lambda: sys.exit(3),
    "segfault": lambda: ctypes.string_at(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),  # as the kernel does when memory has run out
    "memory": lambda: np.ones(1 << 60, np.uint8),
    "loop": forever,
    "loop in C": lambda: ctypes.PyDLL(None).sleep(1000),  # which never lets go of Python's lock
    "cuda": lambda: refuse(RuntimeError("CUDA error: an illegal memory access was encountered")),
    "disk full": lambda: refuse(OSError(errno.ENOSPC, "No space left on device")),
}


def bright(image: np.ndarray, classes: int) -> np.ndarray:
    """(H, W, 3) uint8 → (H, W) uint16."""
    return (image.mean(-1) * classes / 256).astype(np.uint16)
