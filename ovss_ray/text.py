"""Names become embeddings: templates, tokens, a text tower, and a cache on disk.

A text tower is the expensive part of a large vocabulary (847 classes times 14 templates are 11,858 prompts) and knows
nothing of images, so a run embeds each vocabulary once. Letters: K classes, T templates, D features, L tokens of a prompt.
"""

import hashlib
import json
import os
import time
import uuid
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovss_ray.weights import cache_folder

TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "vild": (
        "a photo of a {}.",
        "This is a photo of a {}",
        "There is a {} in the scene",
        "There is the {} in the scene",
        "a photo of a {} in the scene",
        "a photo of a small {}.",
        "a photo of a medium {}.",
        "a photo of a large {}.",
        "This is a photo of a small {}.",
        "This is a photo of a medium {}.",
        "This is a photo of a large {}.",
        "There is a small {} in the scene.",
        "There is a medium {} in the scene.",
        "There is a large {} in the scene.",
    ),
}
"""Sets of templates by name. "vild" is the set of ViLD (Gu et al., ICLR 2022) as SAN uses it, missing full stops included."""

BATCH_TOKENS = 4096
"""Tokens that the text tower is given at once: bounds its memory whatever the vocabulary."""


class Tower(Protocol):
    """A text tower: models.clip.TextTower, or anything that behaves like it."""

    context: int

    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L) int64, all prompts of one length with the end token last → (B, D) float32 of unit norm."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """Its weights."""


def embed(tower: Tower, names: Sequence[str], templates: Sequence[str], kept: "EmbeddingCache | None" = None) -> Tensor:
    """Embed K names with every template → (K, D) float32 of unit norm, on the tower's device.

    Per prompt unit norm, then the mean over the templates, then unit norm again. With a cache, what it has is not
    computed.
    """
    weights = next(iter(tower.state_dict().values()))
    if kept is None:
        return _embed(tower, names, templates)
    made = kept.get(_key(tower, names, templates), lambda: _embed(tower, names, templates).cpu().numpy())
    return torch.tensor(made, device=weights.device)


@torch.inference_mode()
def _embed(tower: Tower, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    unique = {name: row for row, name in enumerate(dict.fromkeys(names))}
    prompts = [template.format(name) for name in unique for template in templates]
    per_name = embed_prompts(tower, prompts).unflatten(0, (len(unique), len(templates)))
    return F.normalize(per_name.mean(1), dim=-1)[[unique[name] for name in names]]


def embed_prompts(tower: Tower, prompts: Sequence[str]) -> Tensor:
    """Embed P prompts → (P, D) of unit norm, those of one length together.

    So none is padded to the context of 77 tokens, where most have about ten. This changes nothing: the tower's mask is
    causal, and a prompt's embedding is read at its end token.
    """
    tokens, lengths = tokenise(prompts, tower.context)
    device = next(iter(tower.state_dict().values())).device
    embeddings: list[Tensor] = []
    order = torch.argsort(lengths, stable=True)
    for length in lengths.unique().tolist():
        rows = tokens[lengths == length, :length]
        embeddings += [tower(some.to(device)) for some in rows.split(max(1, BATCH_TOKENS // length))]
    return torch.cat(embeddings)[torch.argsort(order).to(device)]


def tokenise(prompts: Sequence[str], context: int = 77) -> tuple[Tensor, Tensor]:
    """CLIP's byte pair encoding in lower case: tokens (P, context) int64 and lengths (P,), start and end token included.

    A prompt that is too long loses its tail, but keeps the end token.
    """
    tokens = _tokeniser()(list(prompts), context)
    return tokens, tokens.argmax(1) + 1  # the end token has the highest number of all


@cache
def _tokeniser() -> Any:
    from open_clip.tokenizer import SimpleTokenizer  # takes seconds to import, and is not needed if all is cached

    return SimpleTokenizer()


def _key(tower: Tower, names: Sequence[str], templates: Sequence[str]) -> str:
    asked = json.dumps([list(names), list(templates), digest(tower)])
    return hashlib.sha256(asked.encode()).hexdigest()[:32]


def digest(tower: Tower) -> str:
    """The sha256 of a tower's weights, in hex."""
    total = hashlib.sha256()
    for name, value in sorted(tower.state_dict().items()):
        total.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        total.update(value.cpu().contiguous().numpy().data)
    return total.hexdigest()


class EmbeddingCache:
    """Embeddings on disk, shared by processes and runs: arrays (K, D) float32, mapped into memory when read.

    A file is named by what was asked and by the sha256 of its bytes, so one that was damaged is made again, not
    trusted. Files are written aside and renamed. When there are more bytes than `limit_bytes`, those unused for longest go.
    """

    def __init__(self, folder: Path | None = None, limit_bytes: int = 1 << 30) -> None:
        self.folder = folder or cache_folder() / "embeddings"
        self.limit_bytes = limit_bytes

    def get(self, key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return what is kept under the key, or else make and keep it. A folder that cannot be written only warns."""
        found = self._find(key)
        if found is not None:
            return found
        made = make()
        try:
            self._keep(key, made)
            self._forget()
        except OSError as failure:
            warnings.warn(
                f"{self.folder}: embeddings are not kept: {failure}. Set OVSS_CACHE to a folder", stacklevel=2
            )
        return made

    def _find(self, key: str) -> np.ndarray | None:
        for file in self.folder.glob(f"{key}.*.npy"):
            try:
                if file.name.split(".")[1] == _checksum(file):
                    os.utime(file)
                    return np.load(file, mmap_mode="r")
                file.unlink()
            except OSError:  # another process has just removed it, or may not be disturbed
                continue
        return None

    def _keep(self, key: str, made: np.ndarray) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.folder / f"{uuid.uuid4().hex}.part"
        try:
            with aside.open("wb") as file:
                np.save(file, made)
            aside.rename(self.folder / f"{key}.{_checksum(aside)}.npy")
        finally:
            aside.unlink(missing_ok=True)

    def _forget(self) -> None:
        """Remove the files unused for longest, and what a process that died has left behind."""
        files = sorted(((file.stat(), file) for file in self.folder.iterdir()), key=lambda one: one[0].st_mtime_ns)
        excess = sum(stat.st_size for stat, _ in files) - self.limit_bytes
        for stat, file in files:
            dead = file.suffix == ".part" and stat.st_mtime < time.time() - 3600
            if dead or (excess > 0 and file.suffix == ".npy"):
                file.unlink(missing_ok=True)
                excess -= stat.st_size


def _checksum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:32]


Value = TypeVar("Value")


class Recent(Generic[Value]):
    """A memo of bounded size: it keeps the values that were asked for last."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[str, Value] = OrderedDict()

    def get(self, key: str, make: Callable[[], Value]) -> Value:
        """Return the value of a key, made if it is not kept."""
        value = self._values.pop(key, None)
        if value is None:
            value = make()
        self._values[key] = value
        while len(self._values) > self._limit:
            self._values.popitem(last=False)
        return value
