"""Arrays that a stage computes once per run or finds in the cache, such as text embeddings of names."""

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
    """Yield (cache key, array) for every stage and vocabulary for which the stage prepares an array.

    `stages` has pairs (place, stage) in the order of the run. The place, such as the stage's pool, is passed to
    `compute`. `compute` returns one array per vocabulary, and gets only the vocabularies whose arrays are not in the
    cache. If a stage gives images their own words, no arrays are prepared for this stage and for all later stages.
    """
    cache = ArrayCache()
    for place, stage in stages:
        if stage.gives_words():
            vocabularies = {}  # the vocabularies of images are not known before the run
        wanted = {stage.key(vocabulary): vocabulary for vocabulary in vocabularies.values()}
        missing = {key: words for key, words in wanted.items() if key and cache.find(key) is None}
        new = dict(zip(missing, compute(place, stage, list(missing.values())), strict=True)) if missing else {}
        for key in filter(None, wanted):
            yield key, cache.get(key, partial(new.__getitem__, key))
