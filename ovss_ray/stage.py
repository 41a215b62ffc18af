"""What a stage is, and how a name in a config becomes one."""

import importlib
import importlib.util
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ovss_ray.columns import Batch
from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.vocabulary import Vocabularies, Vocabulary

Prepared = Mapping[str, np.ndarray]
"""Key → array: what Stage.prepare has made, shared by all workers of a node."""


class Config(BaseModel):
    """Settings: typed, frozen, and unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Stage(ABC):
    """One step of a pipeline: columns in, columns out. Built once per worker, then called with many batches.

    Row i of every column belongs to one image. A stage is given `image_id` and the columns it names in `reads`; it
    returns the columns it names in `writes`, with as many rows as it was given. The same row always gets the same
    answer. An exception costs only the image that caused it (see pipeline.run).
    """

    reads: ClassVar[tuple[str, ...]]
    writes: ClassVar[tuple[str, ...]]
    gpu: ClassVar[bool] = False
    """whether a GPU makes it faster; a stage that is not is light work beside one that is"""
    where: ClassVar[tuple[str, ...]] = ()
    """options that say where things lie or run and so do not change answers: left out of the digest of a run"""

    class Config(Config):
        """The options of this stage; a stage without options leaves it as it is."""

    def __init__(self, config: Any, prepared: Prepared | None = None) -> None:
        self.config = config
        self.prepared = prepared or {}

    @abstractmethod
    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Compute the columns of `writes` from those of `reads`."""

    def parts(self) -> Mapping[str, float]:
        """Seconds of parts of this stage's work since this was last called, which the record names as well."""
        return {}

    def kept(self) -> Mapping[str, int]:
        """Cache → the bytes it holds, for those who watch a service."""
        return {}

    @classmethod
    def files(cls, config: Any) -> tuple[Path, ...]:
        """The files that decide this stage's answers, such as weights: looked for before the run, hashed into it.

        Raises OvssError if one is missing, saying where it was looked for and what to type.
        """
        return ()

    @classmethod
    def key(cls, config: Any, vocabulary: Vocabulary) -> str | None:
        """Name what `prepare` makes for a vocabulary, by all that decides it; None if there is nothing to prepare."""
        return None

    @classmethod
    def prepare(cls, config: Any, vocabularies: Sequence[Vocabulary]) -> list[np.ndarray]:
        """Work done once per vocabulary, in one place, and cached under its key; workers are given the arrays."""
        return []


class StageConfig(Config):
    """WHAT is computed: a stage by name, and its options. Part of the digest of a run."""

    use: str
    """a file in ovss_ray/actors, or a dotted module of your own"""
    options: dict[str, Any] = Field(default_factory=dict)
    """checked by the stage's own Config"""

    def kind(self) -> type[Stage]:
        """Return the stage's class. Raises UnknownName."""
        return find("ovss_ray.actors", self.use, "Stage")

    def key(self, vocabulary: Vocabulary) -> str | None:
        """Name what the stage prepares for a vocabulary; None if there is nothing."""
        return self.kind().key(self.settings(), vocabulary)

    def settings(self) -> Config:
        """Return the options, checked. Raises pydantic.ValidationError."""
        return self.kind().Config(**self.options)

    def build(self, prepared: Prepared | None = None) -> Stage:
        """Make the stage, as a worker does."""
        return self.kind()(self.settings(), prepared)


def known(package: str) -> list[str]:
    """List the modules of a package without importing them."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    return sorted(module.name for module in pkgutil.iter_modules(folders or []))


KINDS = {"ovss_ray.actors": "stage", "ovss_ray.datasets": "data set", "ovss_ray.metrics": "metric"}
"""What the modules of a package are called in messages."""


def find(package: str, name: str, attribute: str) -> Any:
    """Look up by name: find("ovss_ray.actors", "san", "Stage") is `Stage` in ovss_ray/actors/san.py.

    A name with a dot in it is a module of the user's own. Raises UnknownName for a module or an attribute that does
    not exist; an error inside the module itself is not hidden.
    """
    path = name if "." in name else f"{package}.{name}"
    if "." not in name and name not in known(package):
        raise UnknownName(KINDS.get(package, "module"), name, known(package))
    if "." in name and not (all(part.isidentifier() for part in name.split(".")) and exists(name)):
        raise OvssError(f"there is no module {name!r} on the Python path. Is its folder in PYTHONPATH on every node?")
    module = importlib.import_module(path)
    if not hasattr(module, attribute):
        raise OvssError(f"the module {path} has no {attribute}, so it cannot be used here")
    return getattr(module, attribute)


def exists(module: str) -> bool:
    """Whether a dotted module can be found, its parents imported if need be."""
    parent = module.rpartition(".")[0]
    if parent and not exists(parent):
        return False
    return importlib.util.find_spec(module) is not None
