"""Fine-tuning of CLIP's image tower on masked crops (Liu et al., CVPR 2024, arXiv 2312.04089, §3.3 and §4.1).

Crops are made as in SCAN's inference, with the contextual shift (see models/scan/shift.py). The losses are the two
losses of CLIP. One loss compares each region with all captions. The other loss compares each caption with all regions.

Dimensions: B photographs, H W pixels of a photograph, R regions of a batch; n side of CLIP's input, T patches of a
crop, P prompts, D features.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.datasets.scenes.scene import Scene
from ovss_ray.models import checkpoint, photograph, text
from ovss_ray.models.clip import WholeImageTower
from ovss_ray.models.clip_sizes import ClipSizes
from ovss_ray.models.scan import regions, shift
from ovss_ray.models.scan.calibration import overview
from ovss_ray.models.scan.towers import SCALE, Clip
from ovss_ray.models.scan.variants import VARIANTS, Variant
from ovss_ray.structures.masks.regions import Masks, pack
from ovss_ray.training import captions, clip_start, scenes
from ovss_ray.training.imperfect_masks import imperfect
from ovss_ray.training.initial import load_start
from ovss_ray.training.pairs import Pairs
from ovss_ray.training.recipes.scan_clip.config import Config

SMALLEST = 100
"""Minimum number of visible pixels of a training region in drawn scenes"""


class RegionClip(nn.Module):
    """The CLIP to train, and a frozen copy of its image tower that encodes whole photographs."""

    def __init__(self, variant: Variant, sizes: ClipSizes) -> None:
        super().__init__()
        self.variant = variant
        self.clip_model = Clip(sizes)
        self.original_clip = WholeImageTower.of(sizes)

    def forward(self, crops: Tensor, replaced: Tensor, photographs: Tensor, which: Tensor) -> Tensor:
        """Return unit-norm embeddings (R, D) float32 of regions.

        `crops` (R, 3, n, n) and `photographs` (B, 3, n, n) are normalised. `which` (R,) is the index of each region's
        photograph. The class token of a region's photograph replaces some patch tokens of the region. `replaced` is
        (R, number of blocks in Variant.replaced, T) bool. If `replaced[r, i, t]` is True, patch token t of region r is
        replaced after CLIP's block number Variant.replaced[i].
        """
        blocks = self.variant.replaced
        with torch.no_grad():
            class_tokens = overview(self.original_clip, photographs, (), blocks).class_tokens[which]
        tower = self.clip_model.visual
        shifted = tower.encode(tower.conv1(crops), shift.between(blocks, replaced, class_tokens))
        return F.normalize(shifted.float(), dim=-1)


class Task:
    """Training of SCAN's region CLIP, a task for training.loop."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.variant = VARIANTS[config.variant]
        self.sizes = replace(self.variant.clip, quick=self.variant.clip.quick if config.quick is None else config.quick)
        self.model = RegionClip(self.variant, self.sizes)
        begin(self.model, config)
        load_start(self.model, config)
        self.pairs = None if config.data == "scenes" else Pairs(config.data, config.data_root, config.seed)
        self.captions = captions.possible_captions()

    def batch(self, step: int) -> dict[str, Any]:
        """Return the batch of a step, a dict with the inputs of RegionClip (see `inputs`) and the captions.

        If the data are drawn scenes, the captions are the entries of the dict that `captions.draw_captions` returns. If
        the data are a table, the captions are the entry `prompts`, a list with one caption per region.
        """
        if self.pairs:
            images, masks, prompts = zip(*self.pairs.batch(step, self.config.batch), strict=True)
            return {**self.inputs(images, [mask[None] for mask in masks], step), "prompts": list(prompts)}
        config, drawn = self.config, np.random.default_rng([self.config.seed, step, 1])
        batch = scenes.batch(config.seed, step, config.batch, config.things, config.unnamed)
        visible = [scenes.visible(scene, SMALLEST) for scene in batch]
        regions = [
            captions.Region.of(scene.contents[region])
            for scene, numbers in zip(batch, visible, strict=True)
            for region in numbers
        ]
        masks = [self._masks(drawn, scene, numbers) for scene, numbers in zip(batch, visible, strict=True)]
        return {
            **self.inputs([scene.image for scene in batch], masks, step),
            **captions.draw_captions(regions, self.captions, config.negatives, drawn),
        }

    def _masks(self, drawn: np.random.Generator, scene: Scene, numbers: Sequence[int]) -> list[np.ndarray]:
        """Return the masks (H, W) bool of the regions of a scene with the indices `numbers`.

        Each mask is distorted with probability Config.imperfect.
        """
        wrong = drawn.random(len(numbers)) < self.config.imperfect
        return [
            imperfect(drawn, scene.regions, number) if bad else scene.regions == number
            for number, bad in zip(numbers, wrong, strict=True)
        ]

    def inputs(
        self, images: Sequence[np.ndarray], masks: Sequence[Sequence[np.ndarray]], step: int
    ) -> dict[str, Tensor]:
        """Return the inputs of RegionClip for all masks of all images, as a dict.

        `images` has photographs (H, W, 3) uint8. `masks` has a list of masks (H, W) bool for each photograph. The
        tokens to replace are random, and depend on Config.seed and `step`.
        """
        parts = [inputs(image, of_image, self.variant) for image, of_image in zip(images, masks, strict=True)]
        drawn = random.Random(f"{self.config.seed} {step}")
        blocks, ratio = len(self.variant.replaced), self.config.replace_ratio
        replaced = [shift.draw(cut.foreground, blocks, ratio, drawn).replaced for _, _, cut in parts]
        return {
            "crops": torch.cat([crops for crops, _, _ in parts]),
            "replaced": torch.from_numpy(np.concatenate(replaced)),
            "photographs": torch.stack([whole for _, whole, _ in parts]),
            "which": torch.arange(len(parts)).repeat_interleave(torch.tensor([len(cut) for _, _, cut in parts])),
        }

    def forward(self, batch: dict[str, Any], step: int) -> tuple[Tensor, Tensor]:
        """Return the embeddings (R, D) of the regions, and the embeddings (P, D) of the prompts, all of unit norm."""
        with torch.no_grad():
            prompts = text.embed_prompts(self.model.clip_model, batch["prompts"]).float()
        return self.model(batch["crops"], batch["replaced"], batch["photographs"], batch["which"]), prompts

    def losses(self, outputs: tuple[Tensor, Tensor], batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return CLIP's two losses, `to_name` and `to_region`. Each of the two losses is multiplied by 0.5.

        `to_name` compares each region with all captions, and `to_region` compares each caption with all regions. If the
        data are drawn scenes, the result also has the losses `pattern`, `colour` and `shape` (see captions.losses).
        """
        if self.pairs is None:
            losses = captions.losses(*outputs, SCALE, batch, self.config.attributes)
        else:  # as in open_clip, a caption is negative for other regions, even for regions with an equal caption
            right = torch.arange(len(outputs[0]), device=outputs[0].device)
            logits = SCALE * outputs[0] @ outputs[1].T
            losses = captions.contrastive(logits, right, torch.ones_like(logits, dtype=torch.bool), len(right))
        return losses | {"to_name": 0.5 * losses["to_name"]}

    @torch.inference_mode()
    def measure(self) -> dict[str, float]:
        """Return the accuracy on ground-truth regions of validation scenes, in percent.

        The keys are those of `captions.tally`.
        """
        model, device = self.model, self.model.clip_model.logit_scale.device
        words = text.embed(model.clip_model, captions.NAMES, captions.TEMPLATES)

        def name(scene: Scene, numbers: Sequence[int]) -> list[int]:
            batch = self.inputs([scene.image], [[scene.regions == number for number in numbers]], 0)
            return (model(**{key: value.to(device) for key, value in batch.items()}) @ words.T).argmax(1).tolist()

        return captions.tally(name, self.config.measured)

    def weights(self) -> dict[str, Tensor]:
        """Return the trained CLIP's weights to export. Weights with the values of the shipped CLIP are left out.

        The weights have open_clip's names. If no CLIP is shipped for the variant, all weights are returned.
        """
        words, visual = clip_start.shipped(self.config.variant)
        base = words | {f"visual.{name}": value for name, value in visual.items()}
        state = clip_start.changed(self.model.clip_model.state_dict(), base)
        return {name.replace("visual.resblocks.", "visual.transformer.resblocks."): state[name] for name in state}


def begin(model: RegionClip, config: Config) -> None:
    """Load the CLIP to train and the frozen copy of its image tower, and mark the parameters that are trained.

    Config.blocks determines the parameters that are trained. Raises OvssError if `clip` does not fit the variant.
    Raises OvssError if `clip` is None and no CLIP is shipped for the variant.
    """
    words, visual = clip_start.towers(config.variant, config.clip)
    fault = f"clip: {config.clip or 'the shipped CLIP'} does not fit {config.variant}"
    state = words | {f"visual.{name}": value for name, value in visual.items()}
    checkpoint.load_into(model.clip_model, state, fault)
    checkpoint.load_into(model.original_clip, visual, fault)
    model.requires_grad_(False)
    tower, depth = model.clip_model.visual, len(model.clip_model.visual.resblocks)
    last = tuple(f"resblocks.{i}." for i in range(depth - (config.blocks or depth), depth))
    for name, value in tower.named_parameters():
        value.requires_grad_(config.blocks is None or name.startswith(("ln_post.", "proj", *last)))


def inputs(image: np.ndarray, masks: Sequence[np.ndarray], variant: Variant) -> tuple[Tensor, Tensor, regions.Regions]:
    """Return the crops of R masks, the resized photograph, and the masks as Regions, all as in SCAN's inference.

    `image` is a photograph (H, W, 3) uint8 RGB. `masks` are (H, W) bool with at least one pixel each. The crops are
    (R, 3, n, n), and the photograph is (3, n, n). Crops and photograph are float32 and normalised for CLIP.
    """
    placed, side = photograph.geometry(image, variant), variant.clip.pixels
    whole = photograph.padded(photograph.resized(image, placed.resized), photograph.CLIP, placed.padded)
    boxes, bits = pack(masks)
    seen = [regions.seen_patches(torch.from_numpy(mask), variant.clip) for mask in Masks(boxes, bits)]
    cut = regions.Regions(np.ones(len(masks), bool), boxes, bits, np.stack(seen))
    pixels = torch.tensor(image).permute(2, 0, 1)
    crops = torch.stack(list(regions.crops(pixels, cut, side)))
    return crops, F.interpolate(whole[None], (side, side), mode="nearest")[0], cut
