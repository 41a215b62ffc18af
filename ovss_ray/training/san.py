"""Training of SAN's side network beside a frozen CLIP (Xu et al., 2023, §3.3 and §4.1).

The official recipe is configs/train_san_vit_b_16.yaml, the tiny one on drawn scenes configs/train_san_tiny.yaml.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovss_ray import text
from ovss_ray.columns import IGNORE
from ovss_ray.datasets import scenes
from ovss_ray.errors import OvssError
from ovss_ray.models import checkpoint
from ovss_ray.models.san import MEAN, STD, UNUSED, San, pool, prompts_of
from ovss_ray.models.san_variants import VARIANTS
from ovss_ray.training.config import SanTraining
from ovss_ray.training.initial import initialise
from ovss_ray.training.matching import Answer, Target, losses
from ovss_ray.training.photographs import Photographs
from ovss_ray.training.scenes import DrawnScenes

SIDE = "side_adapter_network."
NO_OBJECT = "ov_classifier.bg_embed"
POSITIONS = "clip_visual_extractor.positional_embedding"


class Task:
    """What the loop has to know of this training (training/loop.py)."""

    def __init__(self, config: SanTraining) -> None:
        self.config = config
        self.variant = VARIANTS[config.variant]
        self.model = San(self.variant)
        initialise(self.model, self.variant.side_layers, config.seed)
        _fill(self.model, Path(config.clip), all_of_it=False)
        if config.start:
            _fill(self.model, Path(config.start), all_of_it=True)
        for name, value in self.model.named_parameters():
            trained = name.startswith(SIDE) or name == NO_OBJECT or (name == POSITIONS and config.positions)
            value.requires_grad_(trained)
        self.source = DrawnScenes(config) if config.data == "scenes" else Photographs(config)
        names = prompts_of(self.source.vocabulary)
        self.words = text.embed(self.model.ov_classifier, names, text.TEMPLATES["vild"]).clone()

    def batch(self, step: int) -> dict[str, Any]:
        """The batch of a step: images (B, 3, H, W) uint8, and the classes and masks of each."""
        images, labels = zip(*self.source.batch(step), strict=True)
        stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
        return {"images": stacked, "targets": [target(one) for one in labels]}

    def forward(self, batch: dict[str, Any], step: int) -> list[tuple[Tensor, Tensor]]:
        """Mask logits (B, Q, h, w) and mask embeddings (B, Q, D) after each of the last two side blocks."""
        model, device, depth = self.model, batch["images"].device, self.variant.side_layers
        images = (batch["images"].float() - MEAN.to(device)) / STD.to(device)
        with torch.set_grad_enabled(self.config.positions):
            maps, tokens = model.clip_visual_extractor(model.clip_input(images), self.variant.fusion)
        found = []
        for queries, patches in model.side_adapter_network.after(images, maps, (depth - 1, depth)):
            masks, bias = model.side_adapter_network.mask_decoder(queries, patches)
            pooled = pool(bias.float(), maps[self.variant.fusion[-1]].shape[-2:])
            found.append((masks, model.clip_rec_head(tokens, pooled)))
        return found

    def losses(self, seen: list[tuple[Tensor, Tensor]], batch: dict[str, Any]) -> dict[str, Tensor]:
        """The losses after both blocks."""
        device = batch["images"].device
        rows = self.model.ov_classifier.classifier(self.words.to(device))
        answers = [Answer(masks.float(), F.normalize(named.float(), dim=-1) @ rows.T) for masks, named in seen]
        targets = [Target(target.classes.to(device), target.masks.to(device)) for target in batch["targets"]]
        return losses(answers, targets, self.config.points, self.config.no_object)

    @torch.inference_mode()
    def measure(self) -> dict[str, float]:
        """How well validation scenes are segmented."""
        return measured(self.model, self.config.measured)

    def weights(self) -> dict[str, Tensor]:
        """What is kept of the network: all of it."""
        return self.model.state_dict()


def target(labels: np.ndarray) -> Target:
    """A label map (H, W) uint16 → one mask per class that is there, as semantic segmentation wants it."""
    present = np.setdiff1d(labels, [IGNORE])
    return Target(
        torch.from_numpy(present.astype(np.int64)), torch.from_numpy(labels == present[:, None, None]).float()
    )


def _fill(model: San, path: Path, all_of_it: bool) -> None:
    """Put a checkpoint into the network. Raises OvssError if CLIP's entries, or any if all are due, are missing."""
    state = {k: v for k, v in checkpoint.read(path, ignore=UNUSED).items() if not k.startswith("heads.")}
    wanted = {name for name in model.state_dict() if all_of_it or not name.startswith(SIDE)}
    missing, unexpected = sorted(wanted - state.keys()), sorted(state.keys() - model.state_dict().keys())
    if missing or unexpected:
        raise OvssError(
            f"{path} does not fit: {len(missing)} entries are missing and {len(unexpected)} unexpected, such as "
            f"{(missing + unexpected)[0]}. Give a checkpoint of a CLIP training of this variant"
        )
    model.load_state_dict({name: state[name] for name in wanted}, strict=False)


def measured(model: San, count: int) -> dict[str, float]:
    """mIoU over the first scenes of scenes:seen and scenes:held-out, in percent: all classes, things, surfaces."""
    model.classifiers = text.Recent[Tensor](16)  # the temperature and "no object" may have changed since
    found: dict[str, float] = {}
    for key in ("seen", "held-out"):
        vocabulary = scenes.BENCHMARKS[key].vocabulary
        k = len(vocabulary)
        cells = np.zeros((k, k), np.int64)
        for number in range(count):
            scene, _ = scenes.of_address(f"{key}/validation/{number}")
            both = scenes.label_map(scene, vocabulary).astype(np.int64) * k + model.segment(scene.image, vocabulary)
            cells += np.bincount(both.ravel(), minlength=k * k).reshape(k, k)
        right, truth, said = cells.diagonal(), cells.sum(1), cells.sum(0)
        iou = 100 * np.where(truth > 0, right / np.maximum(1, truth + said - right), np.nan)
        surfaces = len(scenes.SURFACES)
        parts = {"": iou, "_things": iou[surfaces:], "_surfaces": iou[:surfaces]}
        found |= {key + part: float(np.nanmean(values)) for part, values in parts.items()}
    return found
