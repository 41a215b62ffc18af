"""Training of AlphaCLIP on drawn scenes: a CLIP learns which region it is asked about (Sun et al., 2023, §3.2).

As there, the fourth channel's convolution begins at zero, so that the first step sees a plain CLIP, and the text tower
is frozen, so that it can be shared. Other than there, so is the first half of the image tower: what is not trained
need not be kept a second time. Letters: B scenes, R regions of a batch, n side of a picture, P prompts, D features.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from ovss_ray import regions, text, weights
from ovss_ray.drawing.scene import Scene
from ovss_ray.models import alpha_clip, checkpoint
from ovss_ray.models.alpha_clip import AlphaClip
from ovss_ray.models.alpha_clip_inputs import ALPHA_MEAN, ALPHA_STD, View, Viewer
from ovss_ray.models.alpha_clip_variants import VARIANTS, Look
from ovss_ray.training import clip
from ovss_ray.training import scenes as drawn_scenes
from ovss_ray.training.config import AlphaClipTraining
from ovss_ray.vocabulary import Vocabulary

SMALLEST = 100
"""Pixels that a region must show to be trained on, and that must be left of it in an imperfect mask."""
MOST = 5
"""Pixels by which imperfect masks are too large, too small, or misplaced, at most."""
LEAST = 0.3
"""What is left of a region, at least, if a part of it is taken for the whole."""
EVERYTHING = (1 - ALPHA_MEAN) / ALPHA_STD
"""The fourth channel where it points to nothing in particular (Look.alpha)."""


class Task:
    """What the loop has to know of this training (training/loop.py)."""

    def __init__(self, config: AlphaClipTraining) -> None:
        self.config = config
        self.variant = VARIANTS[config.variant]
        self.model = begin(weights.find(self.variant.base, config.base), config)
        if config.start:
            self.model.load_state_dict(checkpoint.read(Path(config.start)))
        self.captions = clip.possible_captions()

    def batch(self, step: int) -> dict[str, Any]:
        """The batch of a step: what is shown of regions, and what is said of them (clip.captions).

        Pictures (P, 3, n, n), each once, masks (R, 1, n, n), and the picture of each mask (R,), all as `classify` has
        them.
        """
        config, drawn = self.config, np.random.default_rng([self.config.seed, step, 1])
        made = drawn_scenes.batch(config.seed, step, config.batch, config.things, config.unnamed)
        views: list[View] = []
        said: list[clip.Region] = []
        for scene in made:
            chosen = drawn_scenes.visible(scene, SMALLEST)
            views += self._views(drawn, scene, chosen)
            said += [clip.Region.of(scene.contents[region]) for region in chosen]
        told = clip.captions(said, self.captions, config.negatives, drawn)
        pictures, alphas, which = alpha_clip.stacked(views)
        bare = torch.from_numpy(drawn.random(len(said)) < config.ones) & (told["attributes"][:, 2] >= 0)
        alphas[bare] = EVERYTHING
        return {"pictures": pictures, "alphas": alphas, "which": which, **told}

    def _views(self, drawn: np.random.Generator, scene: Scene, chosen: Sequence[int]) -> Iterable[View]:
        """What is shown of regions of a scene, some of them with masks that do not fit quite."""
        wrong = drawn.random(len(chosen)) < self.config.imperfect
        boxes, bits = regions.pack(
            imperfect(drawn, scene.regions, region) if bad else scene.regions == region
            for region, bad in zip(chosen, wrong, strict=True)
        )
        viewer = Viewer(scene.image, self.config.look, self.variant.pixels)
        return viewer.views(boxes, regions.Masks(boxes, bits))

    def forward(self, batch: dict[str, Any], step: int) -> tuple[Tensor, Tensor]:
        """Embeddings of unit norm, of the regions (R, D) and of the prompts (P, D)."""
        prompts = text.embed_prompts(self.model.text, batch["prompts"])
        return self.model(batch["pictures"], batch["alphas"], batch["which"]), prompts.float()

    def losses(self, seen: tuple[Tensor, Tensor], batch: dict[str, Any]) -> dict[str, Tensor]:
        """CLIP's loss over captions, and for each attribute a choice among its captions."""
        embeddings, prompts = seen
        logits = embeddings @ prompts.T * self.model.text.logit_scale.exp()
        names = batch["shown"].shape[1]
        found = clip.attribute_losses(logits[:, names:], batch["attributes"], self.config.attributes)
        named = dict(zip(("pattern", "colour", "shape"), found, strict=True))
        return named | clip.contrastive(logits[:, :names], batch["target"], batch["shown"], batch["own"])

    def measure(self) -> dict[str, float]:
        """How well true regions are named."""
        return naming(self.model, self.config.look, self.config.measured)

    def weights(self) -> dict[str, Tensor]:
        """What is kept of the network: what is trained of its image tower."""
        return {name: value for name, value in self.model.visual.named_parameters() if value.requires_grad}


def begin(base: Path, config: AlphaClipTraining) -> AlphaClip:
    """A CLIP with a fourth channel that does nothing yet; that, the last blocks, and what follows them are trained."""
    variant = VARIANTS[config.variant]
    model = alpha_clip.load(variant.base, [base], variant=replace(variant, base=""))
    model.visual.conv1_alpha = nn.Conv2d(1, variant.width, variant.patch, variant.patch, bias=False)
    nn.init.zeros_(model.visual.conv1_alpha.weight)
    last = tuple(f"resblocks.{i}." for i in range(variant.layers - config.blocks, variant.layers))
    for name, value in model.visual.named_parameters():
        value.requires_grad_(name.startswith(("conv1_alpha.", "ln_post.", "proj", *last)))
    return model.train()


def imperfect(drawn: np.random.Generator, numbers: np.ndarray, region: int) -> np.ndarray:
    """A region of a scene as a proposer may find it, (H, W) bool, given the regions' numbers (H, W) uint8.

    Too large, too small, misplaced by some pixels, in part, or with another, smaller region; as it is, if that leaves
    too little.
    """
    mask, kind, pixels = numbers == region, drawn.integers(5), int(drawn.integers(1, MOST + 1))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    if kind == 0:
        made = cv2.dilate(mask.astype(np.uint8), disc).astype(bool)
    elif kind == 1:
        made = cv2.erode(mask.astype(np.uint8), disc).astype(bool)
    elif kind == 2:
        made = ndimage.shift(mask, drawn.integers(-pixels, pixels + 1, 2), order=0)
    elif kind == 3:
        half = mask & _half_plane(drawn, mask)
        made = half if half.sum() >= LEAST * mask.sum() else mask & ~half
    else:
        other = numbers == drawn.integers(numbers.max() + 1)
        made = mask | other if other.sum() < 0.5 * mask.sum() else mask
    return made if made.sum() >= SMALLEST else mask


def _half_plane(drawn: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """One side of a line in any direction through any pixel of a region: (H, W) bool."""
    (y, x), angle = drawn.choice(np.argwhere(mask)), drawn.uniform(0, 2 * np.pi)
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    return (rows - y) * np.sin(angle) + (columns - x) * np.cos(angle) >= 0


def naming(model: AlphaClip, look: Look, count: int) -> dict[str, float]:
    """How well true regions are named, as training.clip.naming says it of SAN's CLIP."""
    vocabulary = Vocabulary.of(clip.NAMES)

    def name(scene: Scene, chosen: Sequence[int]) -> list[int]:
        masks = scene.regions == np.array(chosen)[:, None, None]
        return model.classify(scene.image, masks, vocabulary, **dict(look)).argmax(1).tolist()

    return clip.tally(name, count)
