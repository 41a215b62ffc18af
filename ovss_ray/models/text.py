"""Text embeddings of class names. A name is inserted into templates, and a text tower embeds the resulting prompts.

Embeddings of single names are cached, because the vocabularies of different images have names in common.
Dimensions: K classes, P prompts, B prompts of a batch, L tokens, D features.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovss_ray.structures.recent import Recent
from ovss_ray.structures.vocabulary import Vocabulary

TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "single": ("a photo of a {}.",),
    "vild": (  # Gu et al., ICLR 2022, as in SAN's code, where some full stops are missing
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
    "fusioner": (
        "a bad photo of the {}.",
        "a photo of the large {}.",
        "a photo of the small {}.",
        "a cropped photo of a {}.",
        "this is a photo of a {}",
        "this is a photo of a small {}",
        "this is a photo of a medium {}",
        "this is a photo of a large {}",
        "this is a masked photo of a {}",
        "this is a masked photo of a small {}",
        "this is a masked photo of a medium {}",
        "this is a masked photo of a large {}",
        "this is a cropped photo of a {}",
        "this is a cropped photo of a small {}",
        "this is a cropped photo of a medium {}",
        "this is a cropped photo of a large {}",
        "a photo of a {} in the scene",
        "a bad photo of the {} in the scene",
        "a photo of the large {} in the scene",
        "a photo of the small {} in the scene",
        "a cropped photo of a {} in the scene",
        "a photo of a masked {} in the scene",
        "there is a {} in the scene",
        "there is the {} in the scene",
        "this is a {} in the scene",
        "this is the {} in the scene",
        "this is one {} in the scene",
        "there is a masked {} in the scene",
        "there is the masked {} in the scene",
        "this is a masked {} in the scene",
        "this is the masked {} in the scene",
        "this is one masked {} in the scene",
    ),
}
"""Name of a template set → templates: "single" of CLIP and AlphaCLIP, "vild" of ViLD, "fusioner" of Fusioner"""

BATCH_TOKENS = 4096
"""Maximum number of tokens per call of the text tower, to limit the memory for large vocabularies"""
# The prompts of a name with 14 templates take 43 KB.
NAMES = 1024
"""Maximum number of names whose prompts are in memory at a time"""
KEPT = 1 << 23
"""Maximum bytes of a network's cache of vocabulary embeddings. The cache evicts the least recently used vocabulary"""
WORDS = Recent[Tensor](1 << 26, lambda row: row.nbytes)
"""Cache of name embeddings (D,) in this process, at most 64 MB. Its keys combine tower, device, templates and name"""
_LISTENER: ContextVar[Callable[[float, int], None]] = ContextVar("_LISTENER", default=lambda done, total: None)
"""Listener of the current `reported` block"""
_DIGESTS: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
"""Text tower → result of `_digest` for this tower"""


class Tower(Protocol):
    """A text tower: models.clip.TextTower, or an object with the same methods."""

    context: int
    words: str
    """name of the tokeniser's word table (see `word_table`); empty for CLIP's byte-pair encoding"""

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return unit-norm embeddings (B, D) float32 of B prompts.

        `tokens` (B, L) int64 has a row per prompt, without padding. The last token of each row is the end token.
        """

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the weights by name."""


Embed = Callable[[Tower, Sequence[str], Sequence[str]], Tensor]
"""Function `embed` or `embed_cached`: tower, K names, templates → unit-norm embeddings (K, D)."""


@dataclass(frozen=True)
class Classifier:
    """A vocabulary's prompt embeddings by class. Dimensions: N prompts, R regions, M prompts of a class."""

    rows: Tensor
    """(N, D) float32: prompt embeddings, multiplied by the logit scale for some networks"""
    classes: Tensor
    """(K, M) int64: for each class, the indices of the class's prompts in `rows`

    If a class has fewer than M prompts, the last index is repeated up to length M.
    """

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Return logits (R, K) of unit-norm region embeddings (R, D).

        A region has one dot product with each prompt embedding of a class. The class's logit is the highest one.
        """
        return (embeddings @ self.rows.T)[:, self.classes].amax(-1)

    @classmethod
    def of(cls, rows: Tensor, counts: Sequence[int]) -> "Classifier":
        """Return the Classifier of prompt embeddings (N, D) that are sorted by class.

        `counts[k]` is the number of prompts of class k.
        """
        lengths = np.array(counts)
        ends = np.cumsum(lengths)
        at = np.minimum((ends - lengths)[:, None] + np.arange(lengths.max()), ends[:, None] - 1)
        return cls(rows, torch.tensor(at, device=rows.device))


@contextmanager
def reported(listener: Callable[[float, int], None]) -> Iterator[None]:
    """Call `listener(done, total)` in the `with` block whenever `embed` has embedded a batch of prompts.

    `total` is the number of distinct names in the call of `embed`. `done` is the number of these names that are
    embedded. A name counts in part if some of its prompts are embedded: with 2 templates, 3 prompts are 1.5 names.
    """
    before = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(before)


@torch.inference_mode()
def embed(tower: Tower, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Return unit-norm embeddings (K, D) float32 of K names, on the tower's device.

    Each template gives one prompt for a name. The prompt embeddings are averaged, and the mean is normalised.
    """
    unique = {name: row for row, name in enumerate(dict.fromkeys(names))}
    listed, parts = list(unique), []
    for begin in range(0, len(listed), NAMES):
        chunk = listed[begin : begin + NAMES]
        prompts = [template.format(name) for name in chunk for template in templates]
        listener = partial(_prompts_done, begin, len(listed), len(templates))
        per_name = embed_prompts(tower, prompts, listener).unflatten(0, (len(chunk), len(templates)))
        parts.append(F.normalize(per_name.mean(1), dim=-1))
    return torch.cat(parts)[[unique[name] for name in names]]


def _prompts_done(names: int, total: int, templates: int, prompts: int) -> None:
    """Report progress to the listener of the current `reported` block: (number of embedded names, `total`).

    The number of embedded names is `names` + `prompts` / `templates`. `names` names are completely embedded. Of the
    next names, `prompts` prompts are embedded. Each name has `templates` prompts.
    """
    _LISTENER.get()(names + prompts / templates, total)


@torch.inference_mode()
def embed_cached(tower: Tower, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Return the same embeddings (K, D) as `embed`. Only names that are missing in the cache WORDS are computed.

    With torch's deterministic algorithms (option `exact`), no bit of an embedding depends on the other names.
    """
    # A separate call of `embed` per name: in a common batch, the last bits may depend on the other names.
    alone = torch.are_deterministic_algorithms_enabled()
    digest = hashlib.sha256(json.dumps(list(templates)).encode()).hexdigest()[:12]
    prefix = f"{_digest(tower)} {digest} {'exact ' if alone else ''}"
    unique = dict.fromkeys(names)
    rows = {name: row for name in unique if (row := WORDS.kept(prefix + name)) is not None}
    missing = [name for name in unique if name not in rows]
    for part in [[name] for name in missing] if alone else [missing] if missing else []:
        rows |= zip(part, embed(tower, part, templates), strict=True)
    for name in unique:
        WORDS.get(prefix + name, rows[name].clone)  # a copy, since a row of a matrix holds all of it
    return torch.stack([rows[name] for name in names])


def _digest(tower: Any) -> str:
    """Return the digest of a text tower's weights and the tower's device, such as "0f3a… cuda:0"."""
    if tower not in _DIGESTS:
        digest = hashlib.sha256()
        state = {name: value for name, value in tower.state_dict().items() if not name.startswith("visual.")}
        for name, value in state.items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        _DIGESTS[tower] = f"{digest.hexdigest()[:24]} {next(iter(state.values())).device}"
    return _DIGESTS[tower]


def whole_names(vocabulary: Vocabulary) -> list[str]:
    """Return one text per class: all names of the class, joined by commas, such as "building, edifice"."""
    # The official codes of SAN and SCAN also embed one text per class.
    return [", ".join(name.strip() for name in names) for names in vocabulary.classes]


def templates(vocabulary: Vocabulary, default: str) -> tuple[str, ...]:
    """Return the templates of a vocabulary; if it has none, TEMPLATES[default]."""
    return vocabulary.templates or TEMPLATES[default]


def first_of_equal(vocabulary: Vocabulary) -> np.ndarray:
    """Return (K,) uint16: for each class, the index of the first class with the same text in `whole_names`.

    Case is ignored. Label maps use this index, so that rounding errors do not decide between classes with equal texts.
    """
    prompts = [prompt.lower() for prompt in whole_names(vocabulary)]
    first = {prompt: index for index, prompt in reversed(list(enumerate(prompts)))}
    return np.array([first[prompt] for prompt in prompts], np.uint16)


def embed_prompts(tower: Tower, prompts: Sequence[str], listener: Callable[[int], None] | None = None) -> Tensor:
    """Return unit-norm embeddings (P, D) float32 of P prompts, on the tower's device.

    After each batch, `listener` is called with the number of prompts that are embedded so far.
    """
    tokens, lengths = tokenise(prompts, tower.context, tower.words)
    device = next(iter(tower.state_dict().values())).device
    embeddings: list[Tensor] = []
    done = 0
    # A batch has prompts of equal length, without padding to 77 tokens: most prompts have about ten. The results are
    # the same as with padding, because the tower's mask is causal, and an embedding is read at the end token.
    order = torch.argsort(lengths, stable=True)
    for length in lengths.unique().tolist():
        rows = tokens[lengths == length, :length]
        for part in rows.split(max(1, BATCH_TOKENS // length)):
            embeddings.append(tower(part.to(device)))
            done += len(part)
            if listener:
                listener(done)
    return torch.cat(embeddings)[torch.argsort(order).to(device)]


def tokenise(prompts: Sequence[str], context: int = 77, words: str = "") -> tuple[Tensor, Tensor]:
    """Return tokens (P, context) int64 of P prompts, and the number of tokens of each prompt, (P,) int64.

    The tokens include the start token and the end token. If a prompt has more than `context` tokens, the last tokens
    before the end token are omitted. Case is ignored. If `words` is empty, the tokens are CLIP's byte pairs. Otherwise,
    each word or punctuation mark of a prompt is one token of `word_table(words)`.
    """
    tokens = _by_word(prompts, context, words) if words else _tokeniser()(list(prompts), context)
    return tokens, tokens.argmax(1) + 1  # the end token has the highest number of all


def _by_word(prompts: Sequence[str], context: int, words: str) -> Tensor:
    table = word_table(words)
    start, end, unknown = table["<start>"], table["<end>"], table["<unknown>"]
    tokens = torch.zeros(len(prompts), context, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        numbers = [table.get(word, unknown) for word in re.findall(r"\w+|[^\w\s]", prompt.lower())]
        line = [start, *numbers[: context - 2], end]
        tokens[row, : len(line)] = torch.tensor(line)
    return tokens


@cache
def word_table(words: str) -> Mapping[str, int]:
    """Return word → token for the words in tokens/{words}.txt. The token is the number of the word's line, from 0."""
    lines = (Path(__file__).parent / "tokens" / f"{words}.txt").read_text("utf-8").split()
    return {word: number for number, word in enumerate(lines)}


@cache
def _tokeniser() -> Any:
    from open_clip.tokenizer import SimpleTokenizer  # takes seconds to import; not needed if all embeddings are cached

    return SimpleTokenizer()
