"""Captions of regions in drawn scenes, CLIP's losses over captions, and the accuracy of classifiers of regions.

Dimensions: R regions and C captions of a batch, A captions in ATTRIBUTES, P = C + A prompts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovss_ray.datasets import scenes
from ovss_ray.datasets.scenes.patterns import NAMED
from ovss_ray.datasets.scenes.scene import COLOURS, Scene, Thing
from ovss_ray.datasets.scenes.shapes import SHAPES
from ovss_ray.models import text
from ovss_ray.training import scenes as drawn_scenes

TEMPLATES = text.TEMPLATES["vild"]
ATTRIBUTES = (
    tuple(f"{pattern} thing" for pattern in NAMED),
    tuple(f"{colour} thing" for colour in COLOURS),
    tuple(SHAPES),
)
"""Captions of each attribute, in the order pattern, colour, shape"""
NAMES = (*scenes.SURFACES, *map(scenes.name, scenes.COMBINATIONS))
"""Names of all surfaces and things of drawn scenes"""
SMALLEST = 300
"""Minimum number of visible pixels of a region for training and measurement"""


@dataclass(frozen=True)
class Region:
    """The caption of a region, and the indices of its pattern, colour and shape in ATTRIBUTES.

    A region shows a thing or a surface. If the caption of a thing does not name an attribute, the index of this
    attribute is -1. If the region shows a surface, all three indices are -1.
    """

    caption: str
    attributes: tuple[int, int, int]

    @classmethod
    def of(cls, content: str | Thing) -> "Region":
        """Return the Region that shows `content`. `content` is the name of a surface, or a Thing."""
        if isinstance(content, str):
            return cls(content, (-1, -1, -1))
        pairs = zip((NAMED, COLOURS, SHAPES), scenes.words(content), strict=True)
        pattern, colour, shape = (list(words).index(word) if word else -1 for words, word in pairs)
        return cls(scenes.name(content), (pattern, colour, shape))


def possible_captions() -> list[str]:
    """Return the names that can be negative captions.

    They are the names of surfaces, of the things in training scenes, and of things that occur in no scene. The names
    of scenes.HELD_OUT are left out, because no training may use these names.
    """
    return [*scenes.SURFACES, *map(scenes.name, scenes.TRAINED), *scenes.absent_names()]


def draw_captions(
    regions: Sequence[Region], possible: Sequence[str], negatives: int, drawn: np.random.Generator
) -> dict[str, Any]:
    """Return the captions of a batch and the targets of the losses, as a dict.

    The C captions are the captions of `regions`, then `negatives` random names of `possible`. Each caption occurs once.
    The dict has these keys:

    - `prompts`: texts of the C captions, then of the A captions in ATTRIBUTES
    - `own`: number of captions that belong to `regions`
    - `shown` (R, C) bool: [r, c] is True if the losses compare region r with caption c. A region is not compared with
      shorter captions that the region's caption implies (see `implied`)
    - `target` (R,): index of each region's caption among the C captions
    - `attributes` (R, 3): Region.attributes of each region
    """
    positives = list(dict.fromkeys(region.caption for region in regions))
    negative_names = [possible[i] for i in drawn.permutation(len(possible))[:negatives]]
    names = list(dict.fromkeys([*positives, *negative_names]))
    template = TEMPLATES[drawn.integers(len(TEMPLATES))]
    return {
        "prompts": [template.format(name) for name in (*names, *sum(ATTRIBUTES, ()))],
        "own": len(positives),
        "shown": torch.tensor([[not implied(name, region.caption) for name in names] for region in regions]),
        "target": torch.tensor([names.index(region.caption) for region in regions]),
        "attributes": torch.tensor([region.attributes for region in regions]),
    }


def losses(
    embeddings: Tensor, prompts: Tensor, scale: Tensor | float, batch: dict[str, Any], weights: Sequence[float]
) -> dict[str, Tensor]:
    """Return the losses of `contrastive`, and the losses of `attribute_losses` as `pattern`, `colour` and `shape`.

    `embeddings` (R, D) are embeddings of the regions, and `prompts` (P, D) are embeddings of the prompts. All
    embeddings have D numbers and unit norm. A cosine times `scale` is a logit. `batch` contains the entries of
    `draw_captions`. `weights` are the factors of the losses of pattern, colour and shape.
    """
    logits = embeddings @ prompts.T * scale
    names = batch["shown"].shape[1]
    per_attribute = attribute_losses(logits[:, names:], batch["attributes"], weights)
    named = dict(zip(("pattern", "colour", "shape"), per_attribute, strict=True))
    return named | contrastive(logits[:, :names], batch["target"], batch["shown"], batch["own"])


def attribute_losses(logits: Tensor, targets: Tensor, weights: Sequence[float]) -> Tensor:
    """Return the cross-entropies (3,) of pattern, colour and shape, times `weights`, from `logits` (R, A).

    `targets` (R, 3) are Region.attributes. A target of -1 adds no loss.
    """
    parts = zip(logits.split([len(captions) for captions in ATTRIBUTES], 1), targets.T, strict=True)
    losses = [F.cross_entropy(part, target, ignore_index=-1) for part, target in parts]
    return torch.stack(losses) * torch.tensor(weights, device=logits.device)


def implied(name: str, caption: str) -> bool:
    """Return whether `caption` has all words of `name` and more: "striped red star" implies "red star"."""
    return set(name.split()) < set(caption.split())


def contrastive(logits: Tensor, target: Tensor, shown: Tensor, positives: int) -> dict[str, Tensor]:
    """Return a dict of CLIP's losses: `to_name` from regions to captions, and `to_region` from captions to regions.

    `logits` are (R, C). `target` (R,) is the index of each region's caption. `shown` is (R, C) bool. If `shown[r, c]`
    is False, region r is not compared with caption c. Only the first `positives` captions belong to regions.

    `to_name` is the mean cross-entropy of the regions. `to_region` is half the mean loss of the captions that belong to
    regions. The loss of a caption is −log p. p is the total probability of the regions with this caption, in a softmax
    over the regions.
    """
    logits = logits.masked_fill(~shown, -torch.inf)
    matches = F.one_hot(target, logits.shape[1]).bool()[:, :positives]
    positive_logits = logits[:, :positives]
    to_region = positive_logits.logsumexp(0) - positive_logits.masked_fill(~matches, -torch.inf).logsumexp(0)
    return {"to_name": F.cross_entropy(logits, target), "to_region": 0.5 * to_region.mean()}


def tally(name: Callable[[Scene, Sequence[int]], Sequence[int]], count: int) -> dict[str, float]:
    """Return the accuracy in percent of the classifier `name`, on ground-truth regions of validation scenes.

    `name` maps a scene and region indices to one index in NAMES per region. The benchmark scenes:all provides
    2 · `count` scenes, and the benchmark scenes:held-out provides `count` scenes. Regions with fewer than SMALLEST
    visible pixels are left out.

    The result has these keys:

    - `trained`: accuracy on things that occur in training scenes
    - `held_out`: accuracy on things that occur in no training scene
    - `surface`: accuracy on surfaces
    - `trained_pattern`, `trained_colour` and `trained_shape`: accuracy of one attribute on the things of `trained`
    - `held_out_pattern`, `held_out_colour` and `held_out_shape`: the same for the things of `held_out`
    """
    results: dict[str, list[tuple[Any, ...]]] = {"trained": [], "held_out": [], "surface": []}
    kinds = (("all", 2 * count), ("held-out", count))
    addresses = [f"{kind}/validation/{number}" for kind, most in kinds for number in range(most)]
    for address in addresses:
        scene = drawn_scenes.resized(scenes.of_address(address)[0], (256, 320))
        regions = drawn_scenes.visible(scene, SMALLEST)
        for region, guessed in zip(regions, name(scene, regions), strict=True):
            content = scene.contents[region]
            kind = "surface" if isinstance(content, str) else "held_out" if content in scenes.HELD_OUT else "trained"
            right, guess = scenes.name(content).split(), NAMES[guessed].split()
            equal = [a == b for a, b in zip(right, guess, strict=True)] if len(right) == len(guess) else [False] * 3
            results[kind].append((all(equal), *(equal if kind != "surface" else ())))
    parts = ("", "_pattern", "_colour", "_shape")
    return {
        kind + part: 100 * float(np.mean(values))
        for kind, rows in results.items()
        for part, values in zip(parts, zip(*rows, strict=True), strict=False)
    }
