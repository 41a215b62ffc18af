"""Classes of the benchmarks that a request may name. The classes of ovss_ray's own benchmarks are cached."""

from collections.abc import Sequence
from functools import cache, lru_cache

from fastapi import HTTPException

from ovss_ray.benchmarks import catalog
from ovss_ray.config.limits import Limits
from ovss_ray.errors import OvssError
from ovss_ray.structures.vocabulary import Vocabulary


def vocabulary(name: str, configured: Sequence[str], limits: Limits) -> Vocabulary:
    """Return the classes of the benchmark `name`, which is one of ovss_ray's own benchmarks or in `configured`.

    Raises HTTPException 422 for any other name, and if the benchmark cannot be loaded.
    """
    # other names could be those of files or modules on this machine
    base = name if name in configured else name.partition("@")[0]
    if len(name) > limits.letters or (base.startswith("folder:") and name not in configured):
        raise HTTPException(422, f"unknown benchmark {name[:40]!r}")
    if base not in (offered := [*_known(), *configured]):
        raise HTTPException(422, f"unknown benchmark {name!r}; available: {', '.join(offered)}")
    try:
        return _shipped(name) if base in _known() else catalog.load(name).vocabulary
    except OvssError as failure:
        raise HTTPException(422, str(failure)) from failure


@cache
def _known() -> Sequence[str]:
    """Return the names of ovss_ray's own benchmarks. The result is cached, since `catalog.known` reads a folder."""
    return tuple(catalog.known())


@lru_cache(maxsize=64)
def _shipped(name: str) -> Vocabulary:
    """Return the classes of one of ovss_ray's own benchmarks. The result is cached."""
    return catalog.load(name).vocabulary
