"""A service without networks: the class of a pixel is how bright it is."""

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
from fastapi import FastAPI

from ovss_ray.limits import Limits
from ovss_ray.serve import api, batch
from ovss_ray.serve.api import Row
from ovss_ray.stage import Stage
from ovss_ray.vocabulary import Vocabulary
from tests import toys

MODEL = {"name": "bright", "stages": [], "benchmarks": ["folder:mine.yaml"]}
WORDS = Vocabulary.of(["dark", "bright"])


def service(key: bytes | None = None, delay: float = 0.0, error: str = "", **limits: Any) -> FastAPI:
    """Answers after so many seconds, or with an error."""
    stages: Mapping[str, Stage] = {"toys": toys.Stage(toys.Stage.Config())}

    async def segment(row: Row, words: Vocabulary) -> Row:
        await asyncio.sleep(delay)
        (done,) = batch.run(stages, [(row, words)], {"prediction", "error", "seconds"})
        return {**done, "error": done["error"] or error}

    return api.build(segment, MODEL, Limits(**limits), key, WORDS)


def picture(height: int = 24, width: int = 32) -> np.ndarray:
    """(H, W, 3) uint8, from dark on the left to bright on the right."""
    return np.repeat(np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))[..., None], 3, 2)
