"""Arrays that stages need once per run, such as text embeddings of names, from the cache or computed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from ovss_ray.io.arrays.array_cache import ArrayCache
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.structures.vocabulary import Vocabularies, Vocabulary

Place = TypeVar("Place")


def arrays(
    stages: Iterable[tuple[Place, StageConfig]],
    vocabularies: Vocabularies,
    compute: Callable[[Place, StageConfig, Sequence[Vocabulary]], Sequence[np.ndarray]],
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (key, array) for every stage and vocabulary for which the stage prepares an array.

    `stages`: pairs of the place where a stage runs, such as a pool, and the stage, in order. `compute` is a function.
    Its arguments are a place, a stage, and the vocabularies whose arrays are not cached. It returns their arrays. A
    stage that gives images their own words gets no arrays, since its vocabularies are not known yet. The same holds for
    all later stages.
    """
    cache = ArrayCache()
    for place, stage in stages:
        if stage.gives_words():
            vocabularies = {}
        wanted = {stage.key(vocabulary): vocabulary for vocabulary in vocabularies.values()}
        missing = {key: words for key, words in wanted.items() if key and cache.find(key) is None}
        new = dict(zip(missing, compute(place, stage, list(missing.values())), strict=True)) if missing else {}
        for key in filter(None, wanted):
            yield key, cache.get(key, partial(new.__getitem__, key))
