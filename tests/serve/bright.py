"""A service without networks: the class of a pixel is how bright it is, and its regions are those of the classes."""

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
from fastapi import FastAPI

from ovss_ray.config.limits import Limits
from ovss_ray.pipeline.stage import Stage
from ovss_ray.serve.deployments import batch
from ovss_ray.serve.http import api
from ovss_ray.serve.http.admission import Model
from ovss_ray.serve.row import Kind, Row
from ovss_ray.structures.masks import regions
from ovss_ray.structures.vocabulary import Vocabulary
from tests import toys

MODEL = {"name": "bright", "stages": [], "benchmarks": ["folder:mine.yaml"], "answers": ["segment"]}
OUTLINER = {**MODEL, "name": "outliner", "answers": ["segment", "regions", "prompt"]}
WORDS = Vocabulary.of(["dark", "bright"])


class Toy:
    """Answers for both models after so many seconds, or with an error; remembers images."""

    def __init__(self, delay: float = 0.0, error: str = "") -> None:
        self.delay, self.error = delay, error
        self.stages: Mapping[str, Stage] = {"toys": toys.Stage(toys.Stage.Config())}
        self.held: dict[str, np.ndarray] = {}
        self.asked: list[tuple[Row, Kind]] = []

    def image(self, name: str) -> np.ndarray | None:
        return self.held.get(name)

    async def send(self, row: Row, words: Vocabulary, kind: Kind) -> Row:
        await asyncio.sleep(self.delay)
        self.asked.append((row, kind))
        if kind in ("prompt", "masks"):
            row = batch.recall(self, row)
            self.held |= {} if row["error"] else {row["prompts"]["image"]: row["image"]}
        (done,) = batch.run(self.stages, [(row, words)], {"prediction", "error", "seconds", "size", "cached"})
        if not done["error"] and kind != "segment":
            done |= outlined(done["prediction"], len(words), kind)
        return {**done, "error": done["error"] or self.error}


def outlined(labels: np.ndarray, classes: int, kind: Kind) -> Row:
    """A region for each class, named so."""
    boxes, bits = regions.pack([labels == k for k in range(classes)])
    made = {"boxes": boxes, "bits": bits, "predicted_iou": np.linspace(0.5, 0.9, classes, dtype=np.float32)}
    return made if kind == "masks" else {**made, "scores": 5 * np.eye(classes, dtype=np.float32)}


def service(key: bytes | None = None, delay: float = 0.0, error: str = "", **limits: Any) -> FastAPI:
    """Both models behind HTTP, `bright` first."""
    toy = Toy(delay, error)
    return api.build([Model(told, toy.send, WORDS) for told in (MODEL, OUTLINER)], Limits(**limits), key)


def picture(height: int = 24, width: int = 32) -> np.ndarray:
    """(H, W, 3) uint8, from dark on the left to bright on the right."""
    return np.repeat(np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))[..., None], 3, 2)
