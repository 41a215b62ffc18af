"""Names become embeddings: templates, tokens, a text tower.

A text tower is the expensive part of a large vocabulary (847 classes times 14 templates are 11,858 prompts) and knows
nothing of images, so a run embeds each vocabulary once. Letters: K classes, T templates, D features, L tokens.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "single": ("a photo of a {}.",),
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
"""Sets of templates by name. "single" is the sentence of CLIP's and AlphaCLIP's papers. "vild" is ViLD's (Gu et al.,
ICLR 2022) as SAN has it, missing full stops included."""

BATCH_TOKENS = 4096
"""Tokens that the text tower is given at once: bounds its memory whatever the vocabulary."""


KEPT = 1 << 26
"""Bytes of embedded vocabularies that a network keeps, those that were asked for last."""


class Tower(Protocol):
    """A text tower: models.clip.TextTower, or anything that behaves like it."""

    context: int
    words: str
    """the table that its prompts are tokenised by (tokenise)"""

    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L) int64, all prompts of one length with the end token last → (B, D) float32 of unit norm."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """Its weights."""


@torch.inference_mode()
def embed(tower: Tower, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Embed K names with every template → (K, D) float32 of unit norm, on the tower's device.

    Per prompt unit norm, then the mean over the templates, then unit norm again. A repeated name is computed once.
    """
    unique = {name: row for row, name in enumerate(dict.fromkeys(names))}
    prompts = [template.format(name) for name in unique for template in templates]
    per_name = embed_prompts(tower, prompts).unflatten(0, (len(unique), len(templates)))
    return F.normalize(per_name.mean(1), dim=-1)[[unique[name] for name in names]]


def embed_prompts(tower: Tower, prompts: Sequence[str]) -> Tensor:
    """Embed P prompts → (P, D) of unit norm, those of one length together.

    So none is padded to the context of 77 tokens, where most have about ten. This changes nothing: the tower's mask is
    causal, and a prompt's embedding is read at its end token.
    """
    tokens, lengths = tokenise(prompts, tower.context, tower.words)
    device = next(iter(tower.state_dict().values())).device
    embeddings: list[Tensor] = []
    order = torch.argsort(lengths, stable=True)
    for length in lengths.unique().tolist():
        rows = tokens[lengths == length, :length]
        embeddings += [tower(some.to(device)) for some in rows.split(max(1, BATCH_TOKENS // length))]
    return torch.cat(embeddings)[torch.argsort(order).to(device)]


def tokenise(prompts: Sequence[str], context: int = 77, words: str = "") -> tuple[Tensor, Tensor]:
    """Prompts in lower case → tokens (P, context) int64 and lengths (P,), start and end included.

    By CLIP's byte pair encoding, or word by word by the table tokens/WORDS.txt, in which the line is the number; words
    that are not in it become its "<unknown>". A prompt that is too long loses its tail, but keeps the end token.
    """
    tokens = _by_word(prompts, context, words) if words else _tokeniser()(list(prompts), context)
    return tokens, tokens.argmax(1) + 1  # the end token has the highest number of all


def _by_word(prompts: Sequence[str], context: int, words: str) -> Tensor:
    table = word_table(words)
    start, end, unknown = table["<start>"], table["<end>"], table["<unknown>"]
    tokens = torch.zeros(len(prompts), context, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        found = [table.get(word, unknown) for word in re.findall(r"\w+|[^\w\s]", prompt.lower())]
        made = [start, *found[: context - 2], end]
        tokens[row, : len(made)] = torch.tensor(made)
    return tokens


@cache
def word_table(words: str) -> Mapping[str, int]:
    """Word → number, of tokens/WORDS.txt."""
    lines = (Path(__file__).parent / "tokens" / f"{words}.txt").read_text("utf-8").split()
    return {word: number for number, word in enumerate(lines)}


@cache
def _tokeniser() -> Any:
    from open_clip.tokenizer import SimpleTokenizer  # takes seconds to import, and is not needed if all is cached

    return SimpleTokenizer()


Value = TypeVar("Value")


class Recent(Generic[Value]):
    """A memo of bounded size: it keeps the values that were asked for last, and at least the very last one.

    `limit` is a number of values, or what their sizes may add up to if `size` measures one, such as in bytes.
    """

    def __init__(self, limit: int, size: Callable[[Value], int] = lambda _: 1) -> None:
        self._limit, self._size = limit, size
        self._values: OrderedDict[str, Value] = OrderedDict()
        self.held = 0
        """what the sizes of the values add up to"""

    def kept(self, key: str) -> Value | None:
        """The value of a key if it is kept; this is no asking for it."""
        return self._values.get(key)

    def get(self, key: str, make: Callable[[], Value]) -> Value:
        """Return the value of a key, made if it is not kept."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = make()
        self._values[key] = value
        self.held += self._size(value)
        while self.held > self._limit and len(self._values) > 1:
            _, oldest = self._values.popitem(last=False)
            self.held -= self._size(oldest)
        return value
