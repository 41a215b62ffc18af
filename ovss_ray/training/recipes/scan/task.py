"""Training of SCAN's mask network and calibration (Liu et al., CVPR 2024, arXiv 2312.04089, §3.2 and §4.1).

SCAN has two CLIPs: one classifies regions, and the other encodes whole photographs. Both CLIPs are frozen. The losses
are those of Mask2Former. Supervised outputs are outputs of the decoder that have a loss (see Config.auxiliary). The
official recipe is configs/train_scan_vitL.yaml. The recipe of the small network is configs/train_scan_tiny.yaml.

Dimensions: B images, H W pixels, Q queries, D features.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.errors import OvssError
from ovss_ray.models import checkpoint, photograph, runtime, text
from ovss_ray.models.scan.calibration import overview
from ovss_ray.models.scan.deformable import POINTS, SCALES, DeformableAttention
from ovss_ray.models.scan.network import Scan
from ovss_ray.models.scan.swin import constants
from ovss_ray.models.scan.towers import ADAPTER, MODEL, ORIGINAL, logits
from ovss_ray.models.scan.variants import VARIANTS
from ovss_ray.structures.recent import Recent
from ovss_ray.training import clip_start
from ovss_ray.training.initial import initialise, load_start
from ovss_ray.training.matching import Answer, Target, losses, target
from ovss_ray.training.photographs import Photographs
from ovss_ray.training.recipes.scan.config import Config
from ovss_ray.training.scenes import DrawnScenes, miou

VOID = ADAPTER + "non_object_embedding"
NOT_IN_BACKBONE = ("norm.", "head.")
"""Prefixes of the classifier's entries in a Swin checkpoint"""


class Task:
    """Training of SCAN's mask network, a task for training.loop."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.variant = VARIANTS[config.variant]
        self.model = Scan(self.variant)
        begin(self.model, config)
        load_start(self.model, config)
        for name, value in self.model.named_parameters():
            value.requires_grad_(name == VOID or not name.startswith(ADAPTER))
        self.source = DrawnScenes(config) if config.data == "scenes" else Photographs(config)
        names = text.whole_names(self.source.vocabulary)
        self.words = text.embed(self.model.clip_adapter.clip_model, names, text.TEMPLATES["vild"]).clone()

    def batch(self, step: int) -> dict[str, Any]:
        """Return the batch of a step: images (B, 3, H, W) uint8, and the classes and masks of each image."""
        images, labels = zip(*self.source.batch(step), strict=True)
        stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
        return {"images": stacked, "targets": [target(label_map) for label_map in labels]}

    def forward(self, batch: dict[str, Any], step: int) -> list[tuple[Tensor, Tensor]]:
        """Return the mask logits and the calibrated proposals of each supervised output.

        The mask logits are (B, Q, H/4, W/4). The proposals (B, Q, D) are one embedding for each query.
        """
        model, variant, images = self.model, self.variant, batch["images"]
        with torch.no_grad():
            side = variant.clip.pixels
            whole = F.interpolate(normalised(images, photograph.CLIP, variant.multiple), (side, side), mode="nearest")
            seen = overview(model.clip_adapter.original_clip, whole, variant.levels, variant.replaced)
        maps = model.backbone(normalised(images, photograph.IMAGENET, variant.multiple))
        *auxiliary, last = model.sem_seg_head(maps, every=True)
        # the official code has no weight for the loss of the second-last layer's output
        outputs = [*(auxiliary[:-1] if self.config.auxiliary == "official" else auxiliary), last]
        with runtime.autocast(images.device, "fp32"):  # the spectrum has no half precision
            raw = torch.cat([output.embeddings.float() for output in outputs], 1)
            calibrated = model.calibrate(raw, model.clip_tokens(seen.maps), seen.embeddings)
        parts = calibrated.chunk(len(outputs), 1)  # queries do not see each other, so one call is enough
        return [(output.mask_logits, part) for output, part in zip(outputs, parts, strict=True)]

    def losses(self, outputs: list[tuple[Tensor, Tensor]], batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the losses `class`, `mask` and `dice` (see matching.losses), each summed over supervised outputs."""
        device = batch["images"].device
        void = F.normalize(self.model.clip_adapter.non_object_embedding, dim=-1)
        rows = torch.cat([self.words.to(device), void])
        answers = [Answer(masks.float(), logits(proposals, rows)) for masks, proposals in outputs]
        targets = [Target(target.classes.to(device), target.masks.to(device)) for target in batch["targets"]]
        return losses(answers, targets, self.config.points, self.config.no_object)

    @torch.inference_mode()
    def measure(self) -> dict[str, float]:
        """Return the mIoU on validation scenes in percent, with the keys of `training.scenes.miou`."""
        self.model.classifiers = Recent[Tensor](16)  # training may have changed "void"
        names = ("mask_threshold", "ensemble_weight", "replace_ratio")
        options = {name: getattr(self.config, name) for name in names}
        return miou(lambda image, vocabulary: self.model.segment(image, vocabulary, **options), self.config.measured)

    def weights(self) -> dict[str, Tensor]:
        """Return the weights to export. Weights with the same values as in the shipped CLIP are left out.

        If no CLIP is shipped for the variant, all weights are returned.
        """
        words, visual = clip_start.shipped(self.config.variant)
        base = {MODEL + name: value for name, value in words.items()}
        for prefix in (MODEL + "visual.", ORIGINAL):
            base |= {prefix + name: value for name, value in visual.items()}
        return clip_start.changed(self.model.state_dict(), base)


def normalised(images: Tensor, colours: photograph.Colours, multiple: int) -> Tensor:
    """Return normalised and padded images (B, 3, H', W') float32 from `images` (B, 3, H, W) uint8.

    H' is H rounded up to a multiple of `multiple`, and W' is W rounded up in the same way. The added pixels are 0.
    """
    mean, std = (value.to(images.device) for value in colours)
    height, width = images.shape[-2:]
    return F.pad((images.float() - mean) / std, (0, -width % multiple, 0, -height % multiple))


def begin(model: Scan, config: Config) -> None:
    """Initialise the network, then load the checkpoints in the settings `clip`, `regions` and `backbone`.

    Raises OvssError if a checkpoint does not fit the variant. Raises OvssError if `clip` is None and no CLIP is shipped
    for the variant.
    """
    initialise(model, sum(model.variant.backbone_depths), config.seed)
    _begin_attention(model, config.seed)
    words, visual = clip_start.towers(config.variant, config.clip)
    fault = f"clip: {config.clip or 'the shipped CLIP'} does not fit {config.variant}"
    checkpoint.load_into(model.clip_adapter.original_clip, visual, fault)
    tower = {f"visual.{name}": value for name, value in visual.items()}
    if config.regions:
        fine = {name.replace(".transformer.", ".", 1): v for name, v in checkpoint.read(Path(config.regions)).items()}
        tower |= {name: value for name, value in fine.items() if name.startswith("visual.")}
        fault = f"regions: {config.regions} does not fit {config.variant}"
    checkpoint.load_into(model.clip_adapter.clip_model, words | tower, fault)
    if config.backbone:
        _fill_backbone(model, Path(config.backbone))


@torch.no_grad()
def _begin_attention(model: Scan, seed: int) -> None:
    """Initialise queries, level embeddings and deformable attention, as in Mask2Former.

    Also set `model.learnable_weight` to 0.1. The calibration multiplies CLIP's image embedding by this weight, and adds
    the product to each proposal.
    """
    generator = torch.Generator().manual_seed(seed)
    for part in model.sem_seg_head.modules():
        if isinstance(part, nn.Embedding):
            part.weight.copy_(torch.randn(part.weight.shape, generator=generator))
        if isinstance(part, DeformableAttention):
            # each head samples points in its own direction, at distances of 1, 2, … cells, with equal weights
            angles = torch.arange(part.heads) * (2 * math.pi / part.heads)
            ways = torch.stack([angles.cos(), angles.sin()], -1)
            ways = ways / ways.abs().amax(-1, keepdim=True)
            steps = torch.arange(1, POINTS + 1)
            offsets = (ways[:, None, None] * steps[:, None]).expand(-1, SCALES, -1, -1)
            part.sampling_offsets.weight.zero_()
            part.sampling_offsets.bias.copy_(offsets.flatten())
            part.attention_weights.weight.zero_()
    levels = model.sem_seg_head.pixel_decoder.transformer.level_embed
    levels.copy_(torch.randn(levels.shape, generator=generator))
    model.learnable_weight.fill_(0.1)


def _fill_backbone(model: Scan, path: Path) -> None:
    """Load a pretrained Swin backbone. Raises OvssError if entries are missing, unexpected, or of another shape."""
    state, expected = checkpoint.read(path), model.backbone.state_dict()
    unused = {*constants(model.variant), *(name for name in state if name.endswith("attn_mask"))}
    pretrained = {k: v for k, v in state.items() if k not in unused and not k.startswith(NOT_IN_BACKBONE)}
    new = {name for name in expected if name.startswith("norm")}  # norms of the outputs, which a classifier lacks
    wrong = sorted(
        name
        for name in expected.keys() - new | pretrained.keys()
        if name not in pretrained or name not in expected or pretrained[name].shape != expected[name].shape
    )
    if wrong:
        raise OvssError(
            f"{path} is not a Swin of the size that the setting `variant` requires: {len(wrong)} entries do not fit, "
            f"such as {wrong[0]}. Set `backbone` to the checkpoint of a Swin of the required size"
        )
    model.backbone.load_state_dict(pretrained, strict=False)
