"""Options of all stages with a network, and a mixin for stages whose classifiers are prepared once per run.

No torch is imported here: configs are validated without it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from ovss_ray.errors import UnknownName
from ovss_ray.io import digests, files
from ovss_ray.models import zoo
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor


class NetworkConfig(Settings):
    """Base class of stage configs: the options of a stage's network, such as checkpoint, device and precision."""

    family: ClassVar[str]
    """the package of the family, such as "ovss_ray.models.san" """
    variant: str
    """name of a network of the family, as in `ovss list weights`"""
    weights: str | None = None
    """path or URI of the checkpoint; default: the shipped one, or the one that `ovss weights fetch` downloads"""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """auto (a GPU if there is one), cpu, cuda or cuda:N"""
    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    """fp32, bf16 (faster on a GPU) or int8 (faster on a CPU)

    bf16 and int8 may change the predicted class where the two best classes have almost equal scores.
    """
    exact: bool = False
    """True: one image per batch, one thread, deterministic kernels, for bit-identical results on the same hardware"""

    @field_validator("weights")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        return path and files.absolute(path)

    @field_validator("variant")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in zoo.variants(cls.family):
            raise ValueError(str(UnknownName("variant", name, zoo.variants(cls.family))))
        return name

    def files(self) -> tuple[Path, ...]:
        """Return the paths of the checkpoints. Raises OvssError if one is missing and cannot be downloaded."""
        shipped = self.family.startswith(f"{zoo.PACKAGE}.")
        return zoo.files(self.variant if shipped else f"{self.family}:{self.variant}", self.paths())

    def paths(self) -> tuple[str | None, ...]:
        """Return each checkpoint's path or URI, as set in this config; None for the default checkpoint."""
        return (self.weights,)

    def network_key(self) -> str:
        """Return a key of the loaded network. Stages in the same worker may share a network if their keys are equal."""
        paths = [str(path) for path in self.files()]
        return repr((self.family, self.variant, paths, self.resolved_device(), self.precision, self.exact))

    def resolved_device(self) -> str:
        """Return the device of the network: "cpu", "cuda" or "cuda:N"."""
        from ovss_ray.models import runtime

        return runtime.device(self.device)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Set threads, kernels and precision of the whole process in a `with` block, then restore them.

        `exact` sets one thread and deterministic kernels. TensorFloat-32 is off for every precision.
        """
        import torch

        from ovss_ray.models import runtime

        with runtime.computing(exact=self.exact), runtime.full_precision(torch.device(self.resolved_device())):
            yield


class WithClassifiers:
    """Mixin for a stage with a classifier for each vocabulary. A run prepares each classifier once.

    A classifier is a matrix (rows, D) of text embeddings. Each network defines the meaning of the rows. The
    stage's network `model` must have a method `classifier(vocabulary)`, a cache `classifiers`, and `device`.
    """

    config: Any
    prepared: Mapping[str, np.ndarray]
    model: Any

    @classmethod
    def files(cls, config: NetworkConfig) -> tuple[Path, ...]:
        """Return the paths of the checkpoints. Raises OvssError if a file is missing and cannot be downloaded."""
        return config.files()

    @classmethod
    def key(cls, config: NetworkConfig, vocabulary: Vocabulary) -> str:
        """Return the cache key of a vocabulary's classifier, from checkpoints, vocabulary and option `exact`."""
        # Exact runs have separate entries, since the last bits of a classifier depend on the number of threads.
        return _key(str(digests.sha256_of(cls.files(config))), config, vocabulary)

    @cached_property
    def checkpoint(self) -> str:
        """Digest of the checkpoint files, computed once per worker."""
        return str(digests.sha256_of(self.files(self.config)))

    def kept(self) -> Mapping[str, int]:
        """Return {"text": n}, where n is the number of bytes of all cached text embeddings."""
        from ovss_ray.models import text

        return {"text": self.model.classifiers.held + text.WORDS.held}

    def classifier(self, vocabulary: Vocabulary) -> "Tensor":
        """Return the classifier (rows, D) of a vocabulary, on the network's device.

        If the run has not prepared this classifier, the network computes the classifier, or finds it in a cache.
        """
        import torch

        rows = self.prepared.get(_key(self.checkpoint, self.config, vocabulary)) if self.prepared else None
        if rows is None:
            return self.model.classifier(vocabulary)
        return self.model.classifiers.get(vocabulary.digest, lambda: torch.tensor(rows, device=self.model.device))


def _key(checkpoint: str, config: NetworkConfig, vocabulary: Vocabulary) -> str:
    family = config.family.rpartition(".")[2]
    return f"{family}-{checkpoint[:24]}-{vocabulary.digest}-{'exact' if config.exact else 'fp32'}"
