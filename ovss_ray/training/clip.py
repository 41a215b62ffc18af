"""Training of a small CLIP on drawn scenes: regions and captions are brought together (Radford et al., 2021, §2.3).

Whole scenes are seen, and their regions are SLS tokens, each biased towards its own pixels, as SAN will ask for them:
a CLIP that is trained on crops alone does not know things in scenes. Letters: B scenes, Q regions of a scene, R regions
of a batch, P prompts, D features, N heads, h w CLIP's grid of patches.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray import text
from ovss_ray.datasets import scenes
from ovss_ray.drawing.patterns import NAMED
from ovss_ray.drawing.scene import COLOURS, Scene, Thing
from ovss_ray.drawing.shapes import SHAPES
from ovss_ray.models import checkpoint
from ovss_ray.models.clip import ImageTower
from ovss_ray.models.san import MEAN, STD, RecognitionHead, text_tower
from ovss_ray.models.san_variants import VARIANTS, Variant
from ovss_ray.training import scenes as drawn_scenes
from ovss_ray.training.config import ClipTraining
from ovss_ray.training.initial import initialise

TEMPLATES = text.TEMPLATES["vild"]
ATTRIBUTES = (
    tuple(f"{pattern} thing" for pattern in NAMED),
    tuple(f"{colour} thing" for colour in COLOURS),
    tuple(SHAPES),
)
"""Captions that speak of one attribute: pattern, colour, shape."""
NAMES = (*scenes.SURFACES, *map(scenes.name, scenes.COMBINATIONS))
"""All that can be in a scene."""
SMALLEST = 300
"""Pixels that a region must show to be trained on, or asked for in a measurement."""
EDGE = 0.05
"""A patch belongs to a region, for the heads, if this part of it is covered: shapes show at edges."""
CROP = 8
"""Side of a crop in patches."""
SHARPNESS = 8.0
"""The bias of a patch that lies outside a region is minus this."""


class Clip(nn.Module):
    """CLIP cut as SAN cuts it, without SAN's side network. But for the heads, its state dict is a part of a San's.

    The heads read colour, pattern and shape off the early maps: they shorten the way to what is hard to learn, shape,
    and are thrown away after the training.
    """

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        self.clip_visual_extractor = ImageTower(
            variant.width, variant.heads, variant.shallow, variant.patch, variant.grid, variant.stem
        )
        self.clip_rec_head = RecognitionHead(variant)
        self.ov_classifier = text_tower(variant)
        count = sum(map(len, ATTRIBUTES))
        self.heads = nn.ModuleDict({str(tap): nn.Linear(variant.width, count) for tap in (0, variant.shallow)})

    def forward(self, images: Tensor, coverage: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) uint8 at SAN's scale, coverage (B, Q, h, w) 0..1 → embeddings (B, Q, D) of unit norm.

        Also what each head reads in each patch, (heads, B, h, w, attributes).
        """
        maps, tokens = self.clip_visual_extractor(self.shrunk(images), tuple(map(int, self.heads)))
        embeddings = F.normalize(self.clip_rec_head(tokens, self.bias(coverage)).float(), dim=-1)
        read = [self.heads[str(tap)](seen.permute(0, 2, 3, 1)) for tap, seen in maps.items()]
        return embeddings, torch.stack(read)

    def first(self, images: Tensor) -> Tensor:
        """What the first head reads in each patch, (1, B, h, w, attributes), without the transformer."""
        x, size = self.clip_visual_extractor.embed(self.shrunk(images))
        return self.heads["0"](x[:, 1:].unflatten(1, size))[None]

    def shrunk(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 as the image tower wants them."""
        normal = (images.float() - MEAN.to(images.device)) / STD.to(images.device)
        return F.interpolate(normal, scale_factor=self.variant.ratio, mode="bilinear", align_corners=False)

    def bias(self, coverage: Tensor) -> Tensor:
        """Coverage (B, Q, h, w) → bias (B, N, Q, h, w): 0 where a region is densest, -SHARPNESS where it is not."""
        relative = coverage / coverage.amax((2, 3), keepdim=True).clamp(min=1e-3)
        return (SHARPNESS * (relative - 1))[:, None].expand(-1, self.variant.heads, -1, -1, -1)


@dataclass(frozen=True)
class Region:
    """What is said of a region: its caption, and its place in each of ATTRIBUTES, -1 for none."""

    caption: str
    attributes: tuple[int, int, int]

    @classmethod
    def of(cls, content: str | Thing) -> "Region":
        """Of a surface or a thing."""
        if isinstance(content, str):
            return cls(content, (-1, -1, -1))
        found = zip((NAMED, COLOURS, SHAPES), scenes.words(content), strict=True)
        pattern, colour, shape = (list(words).index(word) if word else -1 for words, word in found)
        return cls(scenes.name(content), (pattern, colour, shape))


class Task:
    """What the loop has to know of this training (training/loop.py)."""

    def __init__(self, config: ClipTraining) -> None:
        self.config = config
        self.variant = VARIANTS[config.variant]
        self.cell = round(self.variant.patch / self.variant.ratio)
        self.model = Clip(self.variant)
        initialise(self.model, self.variant.layers, config.seed)
        if config.start:
            self.model.load_state_dict(checkpoint.read(Path(config.start)))
        self.captions = possible_captions()

    def batch(self, step: int) -> dict[str, Any]:
        """Draw the batch of a step: images, coverage, crops, which (scene, region) count, and what is said of them."""
        config = self.config
        drawn = np.random.default_rng([config.seed, step, 1])
        made = drawn_scenes.batch(config.seed, step, config.batch, config.things, config.unnamed)
        chosen = [(i, q) for i, scene in enumerate(made) for q in drawn_scenes.visible(scene, SMALLEST)]
        things = [(i, q) for i, q in chosen if isinstance(made[i].contents[q], Thing)]
        cut = [things[k] for k in drawn.permutation(len(things))[: config.crops]]
        regions = [Region.of(made[i].contents[q]) for i, q in (*chosen, *cut)]
        pieces = [drawn_scenes.crop(made[i], q, CROP * self.cell) for i, q in cut]
        return {
            **images_and_coverage(made, self.cell),
            "patches": torch.from_numpy(np.stack([patch_attributes(scene, self.cell) for scene in made])),
            "crops": _stack(pieces) if pieces else None,
            "chosen": torch.tensor(chosen),
            **captions(regions, self.captions, config.negatives, drawn),
        }

    def forward(self, batch: dict[str, Any], step: int) -> tuple[Tensor, Tensor, Tensor]:
        """What the heads read in each patch, (heads, B, h, w, attributes), and embeddings of unit norm: of the regions

        that count, then of the crops (R, D), and of the prompts (P, D); none in the first steps.
        """
        if step < self.config.attribute_steps:
            read = self.model.first(batch["images"])
            return read, read.new_zeros(0, 0), read.new_zeros(0, 0)
        scene, region = batch["chosen"].T
        embeddings, read = self.model(batch["images"], batch["coverage"])
        regions = embeddings[scene, region]
        if batch["crops"] is not None:
            whole = torch.ones(len(batch["crops"]), 1, CROP, CROP, device=regions.device)
            regions = torch.cat([regions, self.model(batch["crops"], whole)[0][:, 0]])
        prompts = text.embed_prompts(self.model.ov_classifier, batch["prompts"]).float()
        return read, regions, prompts

    def losses(self, seen: tuple[Tensor, Tensor, Tensor], batch: dict[str, Any]) -> dict[str, Tensor]:
        """CLIP's loss over captions; for each attribute a choice among its captions; and those of the heads."""
        read, regions, prompts = seen
        attributes, kinds = batch["attributes"], ("pattern", "colour", "shape")
        early = torch.stack([self._early(head.float(), batch) for head in read]).sum(0)
        found = {f"early_{kind}": self.config.heads * loss for kind, loss in zip(kinds, early, strict=True)}
        if not len(regions):
            return found
        logits = regions @ prompts.T * self.model.ov_classifier.logit_scale.clamp(max=math.log(100)).exp()
        names = batch["shown"].shape[1]
        found |= zip(kinds, attribute_losses(logits[:, names:], attributes, self.config.attributes), strict=True)
        return found | contrastive(logits[:, :names], batch["target"], batch["shown"], batch["own"])

    def _early(self, read: Tensor, batch: dict[str, Any]) -> Tensor:
        """The losses of a head (B, h, w, attributes): in each patch, and of its mean over each region."""
        scene, region = batch["chosen"].T
        touched = (batch["coverage"][scene, region] > EDGE).float()
        share = touched / touched.sum((1, 2), keepdim=True).clamp(min=1)
        mean = torch.einsum("rhw,rhwa->ra", share, read[scene])
        weights = self.config.attributes
        patches = attribute_losses(read.flatten(0, 2), batch["patches"].flatten(0, 2), weights)
        return patches + attribute_losses(mean, batch["attributes"][: len(mean)], weights)

    @torch.inference_mode()
    def measure(self) -> dict[str, float]:
        """How well true regions are named."""
        return naming(self.model, self.cell, self.config.measured)

    def weights(self) -> dict[str, Tensor]:
        """What is kept of the network."""
        return {name: value for name, value in self.model.state_dict().items() if not name.startswith("heads.")}


def possible_captions() -> list[str]:
    """What may be said in training: never a held-out name."""
    return [*scenes.SURFACES, *map(scenes.name, scenes.TRAINED), *scenes.absent_names()]


def captions(
    regions: Sequence[Region], possible: Sequence[str], negatives: int, drawn: np.random.Generator
) -> dict[str, Any]:
    """Prompts, which of them each region is shown with (R, P), and its own among them (R,)."""
    own = list(dict.fromkeys(region.caption for region in regions))
    others = [possible[i] for i in drawn.permutation(len(possible))[:negatives]]
    names = list(dict.fromkeys([*own, *others]))
    template = TEMPLATES[drawn.integers(len(TEMPLATES))]
    return {
        "prompts": [template.format(name) for name in (*names, *sum(ATTRIBUTES, ()))],
        "own": len(own),
        "shown": torch.tensor([[not implied(name, region.caption) for name in names] for region in regions]),
        "target": torch.tensor([names.index(region.caption) for region in regions]),
        "attributes": torch.tensor([region.attributes for region in regions]),
    }


def attribute_losses(logits: Tensor, wanted: Tensor, weights: Sequence[float]) -> Tensor:
    """The weighed losses of the three attributes: (R, attributes), (R, 3) → (3,)."""
    parts = zip(logits.split([len(captions) for captions in ATTRIBUTES], 1), wanted.T, strict=True)
    found = [F.cross_entropy(part, target, ignore_index=-1) for part, target in parts]
    return torch.stack(found) * torch.tensor(weights, device=logits.device)


def patch_attributes(scene: Scene, cell: int) -> np.ndarray:
    """The attributes of what fills most of each patch, (h, w, 3) int64; -1 for surfaces, and where nothing does."""
    covered = drawn_scenes.coverage(scene.regions, cell, len(scene.contents))
    table = np.array([Region.of(content).attributes for content in scene.contents])
    return np.where(covered.max(0)[..., None] > 0.5, table[covered.argmax(0)], -1)


def implied(name: str, caption: str) -> bool:
    """Whether a caption says all that a name does, and more: "red star" is true of a striped red star."""
    return set(name.split()) < set(caption.split())


def contrastive(logits: Tensor, target: Tensor, shown: Tensor, own: int) -> dict[str, Tensor]:
    """Both directions of CLIP's loss, where several regions may have one caption.

    `logits` (R, P), `target` (R,) the caption of each region, `shown` (R, P) bool: which captions it is compared with;
    the first `own` captions belong to regions of this batch.
    """
    logits = logits.masked_fill(~shown, -torch.inf)
    mine = F.one_hot(target, logits.shape[1]).bool()[:, :own]
    some = logits[:, :own]
    to_region = some.logsumexp(0) - some.masked_fill(~mine, -torch.inf).logsumexp(0)
    return {"to_name": F.cross_entropy(logits, target), "to_region": 0.5 * to_region.mean()}


def images_and_coverage(made: Sequence[Scene], cell: int) -> dict[str, Tensor]:
    """Scenes of one size → images (B, 3, H, W) uint8, coverage (B, Q, h, w) float32, none for missing regions."""
    most = max(len(scene.contents) for scene in made)
    covered = [drawn_scenes.coverage(scene.regions, cell, most) for scene in made]
    return {"images": _stack([scene.image for scene in made]), "coverage": torch.from_numpy(np.stack(covered))}


def _stack(images: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


@torch.inference_mode()
def naming(model: Clip, cell: int, count: int) -> dict[str, float]:
    """Name the true regions of validation scenes among all 330 names: percent right, and of each attribute."""
    device = model.ov_classifier.logit_scale.device
    words = text.embed(model.ov_classifier, NAMES, TEMPLATES).float()

    def name(scene: Scene, regions: Sequence[int]) -> list[int]:
        batch = images_and_coverage([scene], cell)
        embeddings = model(batch["images"].to(device), batch["coverage"].to(device))[0][0]
        return (embeddings[list(regions)] @ words.T).argmax(1).tolist()

    return tally(name, count)


def tally(name: Callable[[Scene, Sequence[int]], Sequence[int]], count: int) -> dict[str, float]:
    """How often a function that gives regions of a scene one of NAMES each is right, as `naming` says."""
    said: dict[str, list[tuple[Any, ...]]] = {"trained": [], "held_out": [], "surface": []}
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
            said[kind].append((all(equal), *(equal if kind != "surface" else ())))
    parts = ("", "_pattern", "_colour", "_shape")
    return {
        kind + part: 100 * float(np.mean(values))
        for kind, rows in said.items()
        for part, values in zip(parts, zip(*rows, strict=True), strict=False)
    }
