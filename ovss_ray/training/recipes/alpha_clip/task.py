"""Training of AlphaCLIP on drawn scenes: CLIP with an alpha channel for the region (Sun et al., 2023, §3.2).

The text tower is frozen. Unlike in the paper, the first blocks of the image tower are frozen too. Only the trained
weights are exported.

Dimensions: B scenes, R regions of a batch, I distinct images, n side of an image, P prompts, D features.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ovss_ray.datasets.scenes.scene import Scene
from ovss_ray.models import text, zoo
from ovss_ray.models.alpha_clip import network
from ovss_ray.models.alpha_clip.inputs import ALPHA_MEAN, ALPHA_STD, View, Viewer
from ovss_ray.models.alpha_clip.network import AlphaClip
from ovss_ray.models.alpha_clip.variants import VARIANTS, Look
from ovss_ray.structures.masks import regions
from ovss_ray.structures.vocabulary import Vocabulary
from ovss_ray.training import captions
from ovss_ray.training import scenes as drawn_scenes
from ovss_ray.training.imperfect_masks import imperfect
from ovss_ray.training.initial import load_start
from ovss_ray.training.recipes.alpha_clip.config import Config

SMALLEST = 100
"""Minimum number of visible pixels of a training region"""
EVERYTHING = (1 - ALPHA_MEAN) / ALPHA_STD
"""Alpha value 1, normalised by ALPHA_MEAN and ALPHA_STD"""


class Task:
    """Training of AlphaCLIP, a task for training.loop."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.variant = VARIANTS[config.variant]
        self.model = begin(zoo.find(self.variant.base, config.base), config)
        load_start(self.model, config)
        self.captions = captions.possible_captions()

    def batch(self, step: int) -> dict[str, Any]:
        """Return a dict for the regions of a step, with the entries of captions.draw_captions and three more:

        - `pictures` (I, 3, n, n): the distinct input images, normalised
        - `alphas` (R, 1, n, n): the alpha channel of each region, normalised
        - `which` (R,): index of each region's image in `pictures`
        """
        config, drawn = self.config, np.random.default_rng([self.config.seed, step, 1])
        drawn_batch = drawn_scenes.batch(config.seed, step, config.batch, config.things, config.unnamed)
        views: list[View] = []
        shown: list[captions.Region] = []
        for scene in drawn_batch:
            visible = drawn_scenes.visible(scene, SMALLEST)
            views += self._views(drawn, scene, visible)
            shown += [captions.Region.of(scene.contents[region]) for region in visible]
        drawn_captions = captions.draw_captions(shown, self.captions, config.negatives, drawn)
        pictures, alphas, which = network.stacked(views)
        bare = torch.from_numpy(drawn.random(len(shown)) < config.ones) & (drawn_captions["attributes"][:, 2] >= 0)
        alphas[bare] = EVERYTHING
        return {"pictures": pictures, "alphas": alphas, "which": which, **drawn_captions}

    def _views(self, drawn: np.random.Generator, scene: Scene, visible: Sequence[int]) -> Iterable[View]:
        """Return the network inputs of the visible regions of a scene; a random fraction of the masks is distorted."""
        wrong = drawn.random(len(visible)) < self.config.imperfect
        boxes, bits = regions.pack(
            imperfect(drawn, scene.regions, region) if bad else scene.regions == region
            for region, bad in zip(visible, wrong, strict=True)
        )
        viewer = Viewer(scene.image, self.config.look, self.variant.pixels)
        return viewer.views(boxes, regions.Masks(boxes, bits))

    def forward(self, batch: dict[str, Any], step: int) -> tuple[Tensor, Tensor]:
        """Return unit-norm embeddings of the regions (R, D) and of the prompts (P, D)."""
        prompts = text.embed_prompts(self.model.text, batch["prompts"])
        return self.model(batch["pictures"], batch["alphas"], batch["which"]), prompts.float()

    def losses(self, outputs: tuple[Tensor, Tensor], batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return CLIP's loss over captions, and the classification losses of pattern, colour and shape."""
        return captions.losses(*outputs, self.model.text.logit_scale.exp(), batch, self.config.attributes)

    def measure(self) -> dict[str, float]:
        """Return the classification accuracy on ground-truth regions of validation scenes (see captions.tally)."""
        return naming(self.model, self.config.look, self.config.measured)

    def weights(self) -> dict[str, Tensor]:
        """Return the trained weights of the image tower."""
        return {name: value for name, value in self.model.visual.named_parameters() if value.requires_grad}


def begin(base: Path, config: Config) -> AlphaClip:
    """Return a CLIP with an alpha channel of zero weight.

    Only the alpha channel, the last blocks, the last norm and the projection are trainable.
    """
    variant = VARIANTS[config.variant]
    model = network.load(variant.base, [base], variant=replace(variant, base=""))
    model.visual.conv1_alpha = nn.Conv2d(1, variant.width, variant.patch, variant.patch, bias=False)
    nn.init.zeros_(model.visual.conv1_alpha.weight)  # as in the paper, so that training starts from a plain CLIP
    last = tuple(f"resblocks.{i}." for i in range(variant.layers - config.blocks, variant.layers))
    for name, value in model.visual.named_parameters():
        value.requires_grad_(name.startswith(("conv1_alpha.", "ln_post.", "proj", *last)))
    return model.train()


def naming(model: AlphaClip, look: Look, count: int) -> dict[str, float]:
    """Return the accuracies in percent with which `model` classifies ground-truth regions of validation scenes.

    `look` has the options for the crop and the masking of a region. captions.tally explains `count` and the keys of
    the result.
    """
    vocabulary = Vocabulary.of(captions.NAMES)

    def name(scene: Scene, numbers: Sequence[int]) -> list[int]:
        masks = scene.regions == np.array(numbers)[:, None, None]
        return model.classify(scene.image, masks, vocabulary, **dict(look)).argmax(1).tolist()

    return captions.tally(name, count)
