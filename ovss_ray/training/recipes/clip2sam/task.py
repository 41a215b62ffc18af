"""Training of CLIP2SAM (Yuan et al., ECCV 2024, arXiv 2401.02955, §3.3): feature pyramid, mask decoder and class head.

CLIP and the prompt encoder are frozen. The neck is frozen unless `train_neck` is True. A prompt is the box of an
instance, or a point in the mask of the instance. The class head always receives the ground-truth box. The decoder
starts with the weights of a SAM's decoder. The official recipes are configs/train_ovsam_clip2sam_coco.yaml and
train_ovsam_clip2sam_lvis.yaml.

Dimensions: B images, P prompts, K classes, n side of the input in pixels, g side of the image embedding.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovss_ray.errors import OvssError
from ovss_ray.models import checkpoint, zoo
from ovss_ray.models.ovsam import head, words
from ovss_ray.models.ovsam.network import Ovsam, embed_names
from ovss_ray.models.ovsam.parts import NECK_FILE, towers
from ovss_ray.models.ovsam.variants import NECK, PARTS, VARIANTS, teacher
from ovss_ray.models.sam_layers.prompts import Prompts
from ovss_ray.models.text import Classifier
from ovss_ray.training.initial import initialise, load_start
from ovss_ray.training.matching import CLASS, DICE, MASK, point_losses
from ovss_ray.training.recipes.clip2sam.config import Config
from ovss_ray.training.recipes.clip2sam.samples import DrawnInstances, Photographs, stacked
from ovss_ray.training.recipes.clip2sam.validation import measured

DECODER = "mask_decoder."
"""Prefix of the decoder's entries in a checkpoint of a SAM"""
FROZEN = ("backbone", "neck", "pe", "words")


class Task:
    """Training of CLIP2SAM, a task for training.loop."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.variant = VARIANTS[config.variant]
        self.model = Ovsam(self.variant)
        begin(self.model, config)
        load_start(self.model, config)
        for name in FROZEN:
            self.model.get_submodule(name).requires_grad_(name == "neck" and config.train_neck)
        source = DrawnInstances if config.data == "scenes" else Photographs
        self.source = source(config, self.variant.pixels)
        rows = embed_names(self.model.words, self.source.vocabulary)
        classes = words.grouped(rows, self.source.vocabulary)
        self.rows, self.classes = classes.rows.clone(), classes.classes.clone()

    def batch(self, step: int) -> dict[str, Any]:
        """Return the batch of a step (samples.stacked)."""
        drawn = np.random.default_rng([self.config.seed, step, 3])
        return stacked(self.source.batch(step), self.config, self.variant.pixels, drawn)

    def forward(self, batch: dict[str, Any], step: int) -> tuple[Tensor, Tensor]:
        """Return mask logits (P, 4 g, 4 g) and class logits (P, K + 1) of the prompts."""
        model = self.model
        with torch.no_grad():
            maps = model.backbone(batch["images"])
        with torch.set_grad_enabled(self.config.train_neck):
            embeddings = model.neck(maps)
        prompts = Prompts(batch["points"], batch["labels"])
        masks = model.decode(embeddings[batch["which"]], prompts)[:, 0]
        rois = torch.cat([batch["which"][:, None].float(), batch["frames"]], 1)
        levels = head.levels(batch["frames"], self.variant.pixels)
        pyramid = [level.float() for level in model.fpn_neck(maps)]
        pooled = model.mask_decoder.regions(pyramid, rois, levels, self.variant.roi)
        classes = Classifier(self.rows.to(rois.device), self.classes.to(rois.device))
        return masks, head.logits(model.mask_decoder.embed(pooled).float(), classes)

    def losses(self, outputs: tuple[Tensor, Tensor], batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the class loss, and the two mask losses at uncertain points."""
        masks, classes = outputs
        weight = torch.ones(classes.shape[1], device=classes.device)
        weight[-1] = self.config.no_object
        bce, dice = point_losses(masks.float()[:, None], batch["truth"].float()[:, None], self.config.points)
        return {
            "class": CLASS * F.cross_entropy(classes, batch["classes"], weight),
            "mask": MASK * bce,
            "dice": DICE * dice,
        }

    def measure(self) -> dict[str, float]:
        """Return the mask IoU and the accuracies that `measured` computes for the things in validation scenes.

        If the training images are photographs, return an empty dict.
        """
        return measured(self.model, self.config.measured) if self.config.data == "scenes" else {}

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of the trained parts. For ovsam_tiny, return the neck and the prompt encoder too."""
        exported = tuple(PARTS[self.config.variant].values())
        return {name: value for name, value in self.model.state_dict().items() if name.startswith(exported)}


@torch.no_grad()
def begin(model: Ovsam, config: Config) -> None:
    """Initialise a network from checkpoints of CLIP, neck and SAM. Raises OvssError for a file that does not fit."""
    _fill_neck(model, config)
    for part in (model.fpn_neck, model.mask_decoder):
        initialise(part, 1, config.seed)
    texts, image = towers(config.variant, config.clip)
    fault = f"clip: {config.clip or 'the default CLIP'} does not fit {config.variant}"
    checkpoint.load_into(model.words, texts, fault)
    checkpoint.load_into(model.backbone, image, fault)
    name = teacher(config.variant)
    file = zoo.find(name, config.teacher)
    state = checkpoint.read(file)
    prompts = {key.removeprefix("prompt_encoder."): state[key] for key in state if key.startswith("prompt_encoder.")}
    checkpoint.load_into(model.pe, prompts, f"{file} is not a checkpoint of {name}")
    decoder = {key.removeprefix(DECODER): state[key] for key in state if key.startswith(DECODER)}
    # the first mask token of the SAM is kept, and the IoU token becomes the label token
    decoder["mask_tokens.weight"] = decoder["mask_tokens.weight"][:1]
    model.mask_decoder.label_token.weight.copy_(decoder["iou_token.weight"])
    inner = model.mask_decoder.mask_decoder
    inner.load_state_dict({key: decoder[key] for key in inner.state_dict()})


def _fill_neck(model: Ovsam, config: Config) -> None:
    """Load the neck from the official SAM2CLIP checkpoint, or from a file that the recipe `sam2clip` wrote."""
    if config.variant == "ovsam_tiny" and not config.neck:
        raise OvssError(
            "neck: ovsam_tiny has no shipped neck (SAM2CLIP). Run `ovss train train_ovsam_tiny_neck "
            "--out runs/ovsam_tiny_neck`, then set `neck` to runs/ovsam_tiny_neck/checkpoint.pt"
        )
    file = zoo.find(NECK, config.neck)
    state = checkpoint.read(file)
    prefix = NECK_FILE if any(key.startswith(NECK_FILE) for key in state) else "neck."
    entries = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    checkpoint.load_into(model.neck, entries, f"{file} is not a checkpoint of the neck of {config.variant}")
