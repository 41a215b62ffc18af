"""Training of a small CLIP on drawn scenes: a contrastive loss of regions and captions (Radford et al., 2021, §2.3).

The inputs are whole scenes. As in SAN, each region has its own copy of the class token. An attention bias directs the
copy to the region.

Dimensions: B scenes, Q regions per scene, R regions per batch, P prompts, D features, N heads, h w patches.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.datasets.scenes.scene import Scene, Thing
from ovss_ray.models import text
from ovss_ray.models.clip import ImageTower
from ovss_ray.models.photograph import CLIP
from ovss_ray.models.san.network import RecognitionHead, Words
from ovss_ray.models.san.variants import VARIANTS, Variant
from ovss_ray.training import scenes as drawn_scenes
from ovss_ray.training.captions import (
    ATTRIBUTES,
    NAMES,
    SMALLEST,
    TEMPLATES,
    Region,
    attribute_losses,
    contrastive,
    draw_captions,
    possible_captions,
    tally,
)
from ovss_ray.training.initial import initialise, load_start
from ovss_ray.training.recipes.clip.config import Config

EDGE = 0.05  # low, since patches at the edge of a region show the region's shape
"""Coverage above which a patch belongs to a region, as a fraction of the patch"""
CROP = 8
"""Patches per side of a crop"""
SHARPNESS = 8.0
"""Absolute value of the attention bias of a patch outside a region; the bias is negative"""


class Clip(nn.Module):
    """CLIP, split into modules as in SAN, with additional attribute heads.

    The heads classify pattern, colour and shape of each patch. The heads are not exported. All other weights have the
    same names and shapes as in the state dict of a San.
    """

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        self.clip_visual_extractor = ImageTower(
            variant.width, variant.heads, variant.shallow, variant.patch, variant.grid, variant.stem
        )
        self.clip_rec_head = RecognitionHead(variant)
        self.ov_classifier = Words(variant)
        count = sum(map(len, ATTRIBUTES))
        # heads on early feature maps, so that the network learns shapes
        self.heads = nn.ModuleDict({str(tap): nn.Linear(variant.width, count) for tap in (0, variant.shallow)})

    def forward(self, images: Tensor, coverage: Tensor) -> tuple[Tensor, Tensor]:
        """Return unit-norm embeddings of the regions (B, Q, D), and the logits of the attribute heads for each patch.

        The logits are (heads, B, h, w, attributes). `images` are (B, 3, H, W) uint8, of the size of SAN's input.
        `coverage` (B, Q, h, w) is defined in images_and_coverage.
        """
        maps, tokens = self.clip_visual_extractor(self.shrunk(images), tuple(map(int, self.heads)))
        embeddings = F.normalize(self.clip_rec_head(tokens, self.bias(coverage)).float(), dim=-1)
        read = [self.heads[str(tap)](features.permute(0, 2, 3, 1)) for tap, features in maps.items()]
        return embeddings, torch.stack(read)

    def first(self, images: Tensor) -> Tensor:
        """Return the logits (1, B, h, w, attributes) of the first attribute head, for images (B, 3, H, W) uint8.

        The first head classifies the patch embeddings, before the first transformer block. No block is run.
        """
        x, size = self.clip_visual_extractor.embed(self.shrunk(images))
        return self.heads["0"](x[:, 1:].unflatten(1, size))[None]

    def shrunk(self, images: Tensor) -> Tensor:
        """Return uint8 images (B, 3, H, W) as float32, normalised and resized for the image tower."""
        normal = (images.float() - CLIP.mean.to(images.device)) / CLIP.std.to(images.device)
        return F.interpolate(normal, scale_factor=self.variant.ratio, mode="bilinear", align_corners=False)

    def bias(self, coverage: Tensor) -> Tensor:
        """Return the attention bias (B, N, Q, h, w) of each region and patch, for N attention heads.

        `coverage` (B, Q, h, w) is the fraction of a patch that a region covers. The bias rises linearly with the
        coverage. If the coverage is 0, the bias is -SHARPNESS. The patch that the region covers most has the bias 0.
        """
        relative = coverage / coverage.amax((2, 3), keepdim=True).clamp(min=1e-3)
        return (SHARPNESS * (relative - 1))[:, None].expand(-1, self.variant.heads, -1, -1, -1)


class Task:
    """Training of CLIP, a task for training.loop."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.variant = VARIANTS[config.variant]
        self.cell = round(self.variant.patch / self.variant.ratio)
        self.model = Clip(self.variant)
        initialise(self.model, self.variant.layers, config.seed)
        load_start(self.model, config)
        self.captions = possible_captions()

    def batch(self, step: int) -> dict[str, Any]:
        """Return the entries of `images_and_coverage` and `draw_captions` for a step, and three more:

        - `patches` (B, h, w, 3) int64: result of patch_attributes for each scene
        - `crops` (number of crops, 3, side, side) uint8: crops of single things, or None if the step has no crops
        - `chosen` (number of visible regions, 2) int64: scene index and region index of each visible region
        """
        config = self.config
        drawn = np.random.default_rng([config.seed, step, 1])
        batch = drawn_scenes.batch(config.seed, step, config.batch, config.things, config.unnamed)
        visible = [(i, q) for i, scene in enumerate(batch) for q in drawn_scenes.visible(scene, SMALLEST)]
        things = [(i, q) for i, q in visible if isinstance(batch[i].contents[q], Thing)]
        cut = [things[k] for k in drawn.permutation(len(things))[: config.crops]]
        regions = [Region.of(batch[i].contents[q]) for i, q in (*visible, *cut)]
        pieces = [drawn_scenes.crop(batch[i], q, CROP * self.cell) for i, q in cut]
        return {
            # whole scenes, since a CLIP trained only on crops fails to recognise things in whole scenes
            **images_and_coverage(batch, self.cell),
            "patches": torch.from_numpy(np.stack([patch_attributes(scene, self.cell) for scene in batch])),
            "crops": _stack(pieces) if pieces else None,
            "chosen": torch.tensor(visible),
            **draw_captions(regions, self.captions, config.negatives, drawn),
        }

    def forward(self, batch: dict[str, Any], step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (heads, B, h, w, attributes), and unit-norm embeddings of regions (R, D) and prompts (P, D).

        The last regions are the crops. In the first `attribute_steps` steps, only the first head has logits, and both
        embeddings are empty (0, 0).
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

    def losses(self, outputs: tuple[Tensor, Tensor, Tensor], batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the losses of captions.contrastive, and two classification losses for each of three attributes.

        The attributes are pattern, colour and shape. For example, the two losses for the pattern are:

        - `pattern`: CLIP classifies the pattern of each region. A logit is the cosine of the region's embedding and the
          embedding of a pattern's prompt, multiplied by CLIP's scale.
        - `early_pattern`: The attribute heads classify the pattern of each patch and each region. The loss is summed
          over the heads, then multiplied by the weight `Config.heads`.

        In the first `attribute_steps` steps, only `early_pattern`, `early_colour` and `early_shape` are returned.
        """
        read, regions, prompts = outputs
        attributes, kinds = batch["attributes"], ("pattern", "colour", "shape")
        early = torch.stack([self._early(head.float(), batch) for head in read]).sum(0)
        losses = {f"early_{kind}": self.config.heads * loss for kind, loss in zip(kinds, early, strict=True)}
        if not len(regions):
            return losses
        logits = regions @ prompts.T * self.model.ov_classifier.logit_scale.clamp(max=math.log(100)).exp()
        names = batch["shown"].shape[1]
        losses |= zip(kinds, attribute_losses(logits[:, names:], attributes, self.config.attributes), strict=True)
        return losses | contrastive(logits[:, :names], batch["target"], batch["shown"], batch["own"])

    def _early(self, read: Tensor, batch: dict[str, Any]) -> Tensor:
        """Return the losses (3,) of pattern, colour and shape, from a head's logits (B, h, w, attributes)."""
        scene, region = batch["chosen"].T
        touched = (batch["coverage"][scene, region] > EDGE).float()
        share = touched / touched.sum((1, 2), keepdim=True).clamp(min=1)
        mean = torch.einsum("rhw,rhwa->ra", share, read[scene])
        weights = self.config.attributes
        patches = attribute_losses(read.flatten(0, 2), batch["patches"].flatten(0, 2), weights)
        return patches + attribute_losses(mean, batch["attributes"][: len(mean)], weights)

    @torch.inference_mode()
    def measure(self) -> dict[str, float]:
        """Return the classification accuracy on ground-truth regions of validation scenes (see captions.tally)."""
        return naming(self.model, self.cell, self.config.measured)

    def weights(self) -> dict[str, Tensor]:
        """Return all weights except those of the heads."""
        return {name: value for name, value in self.model.state_dict().items() if not name.startswith("heads.")}


def patch_attributes(scene: Scene, cell: int) -> np.ndarray:
    """Return the pattern, colour and shape of each patch, (h, w, 3) int64, as in Region.attributes.

    A patch has the attributes of the thing that covers more than half of the patch. If no thing covers more than half,
    all three attributes are -1. `cell` is the side of a patch, in pixels of the scene.
    """
    covered = drawn_scenes.coverage(scene.regions, cell, len(scene.contents))
    table = np.array([Region.of(content).attributes for content in scene.contents])
    return np.where(covered.max(0)[..., None] > 0.5, table[covered.argmax(0)], -1)


def images_and_coverage(drawn: Sequence[Scene], cell: int) -> dict[str, Tensor]:
    """Return images (B, 3, H, W) uint8 and coverage (B, Q, h, w) float32 of scenes of equal size.

    Coverage is the fraction of a patch that a region covers. Q is the largest number of regions in a scene. The
    coverage of scenes with fewer regions is padded with zeros. `cell` is the side of a patch, in pixels of the scene.
    """
    most = max(len(scene.contents) for scene in drawn)
    covered = [drawn_scenes.coverage(scene.regions, cell, most) for scene in drawn]
    return {"images": _stack([scene.image for scene in drawn]), "coverage": torch.from_numpy(np.stack(covered))}


def _stack(images: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


@torch.inference_mode()
def naming(model: Clip, cell: int, count: int) -> dict[str, float]:
    """Return the accuracies in percent with which `model` classifies ground-truth regions of validation scenes.

    A region is classified among 330 names. `cell` is the side of a patch, in pixels of the scene. captions.tally
    explains `count` and the keys of the result.
    """
    device = model.ov_classifier.logit_scale.device
    words = text.embed(model.ov_classifier, NAMES, TEMPLATES).float()

    def name(scene: Scene, regions: Sequence[int]) -> list[int]:
        batch = images_and_coverage([scene], cell)
        embeddings = model(batch["images"].to(device), batch["coverage"].to(device))[0][0]
        return (embeddings[list(regions)] @ words.T).argmax(1).tolist()

    return tally(name, count)
