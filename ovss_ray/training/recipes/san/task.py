"""Training of SAN's side network next to a frozen CLIP (Xu et al., 2023, §3.3 and §4.1).

The official recipe is configs/train_san_vit_b_16.yaml. The recipe of the small network is configs/train_san_tiny.yaml.

Dimensions: B images, H W pixels, Q queries, h w mask grid, D features.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovss_ray.models import checkpoint, text
from ovss_ray.models.photograph import CLIP
from ovss_ray.models.san.network import UNUSED, San, pool
from ovss_ray.models.san.variants import VARIANTS
from ovss_ray.structures.recent import Recent
from ovss_ray.training.initial import initialise
from ovss_ray.training.matching import Answer, Target, losses, target
from ovss_ray.training.photographs import Photographs
from ovss_ray.training.recipes.san.config import Config
from ovss_ray.training.scenes import DrawnScenes, miou

SIDE = "side_adapter_network."
NO_OBJECT = "ov_classifier.bg_embed"
POSITIONS = "clip_visual_extractor.positional_embedding"


class Task:
    """Training of SAN, a task for training.loop."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.variant = VARIANTS[config.variant]
        self.model = San(self.variant)
        initialise(self.model, self.variant.side_layers, config.seed)
        _fill(self.model, config, "clip")
        if config.start:
            _fill(self.model, config, "start")
        for name, value in self.model.named_parameters():
            trained = name.startswith(SIDE) or name == NO_OBJECT or (name == POSITIONS and config.positions)
            value.requires_grad_(trained)
        self.source = DrawnScenes(config) if config.data == "scenes" else Photographs(config)
        names = text.whole_names(self.source.vocabulary)
        self.words = text.embed(self.model.ov_classifier, names, text.TEMPLATES["vild"]).clone()

    def batch(self, step: int) -> dict[str, Any]:
        """Return the batch of a step: images (B, 3, H, W) uint8, and the classes and masks of each image."""
        images, labels = zip(*self.source.batch(step), strict=True)
        stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
        return {"images": stacked, "targets": [target(label_map) for label_map in labels]}

    def forward(self, batch: dict[str, Any], step: int) -> list[tuple[Tensor, Tensor]]:
        """Return mask logits and mask embeddings, for each of the last two blocks of the side network.

        The mask logits are (B, Q, h, w). The mask embeddings are (B, Q, D).
        """
        model, device, depth = self.model, batch["images"].device, self.variant.side_layers
        images = (batch["images"].float() - CLIP.mean.to(device)) / CLIP.std.to(device)
        with torch.set_grad_enabled(self.config.positions):
            maps, tokens = model.clip_visual_extractor(model.clip_input(images), self.variant.fusion)
        answers = []
        for queries, patches in model.side_adapter_network.after(images, maps, (depth - 1, depth)):
            masks, bias = model.side_adapter_network.mask_decoder(queries, patches)
            pooled = pool(bias.float(), maps[self.variant.fusion[-1]].shape[-2:])
            answers.append((masks, model.clip_rec_head(tokens, pooled)))
        return answers

    def losses(self, outputs: list[tuple[Tensor, Tensor]], batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the losses `class`, `mask` and `dice` (see matching.losses), each summed over the last two blocks."""
        device = batch["images"].device
        rows = self.model.ov_classifier.classifier(self.words.to(device))
        answers = [Answer(masks.float(), F.normalize(named.float(), dim=-1) @ rows.T) for masks, named in outputs]
        targets = [Target(target.classes.to(device), target.masks.to(device)) for target in batch["targets"]]
        return losses(answers, targets, self.config.points, self.config.no_object)

    @torch.inference_mode()
    def measure(self) -> dict[str, float]:
        """Return the mIoU on validation scenes in percent, with the keys of `training.scenes.miou`."""
        self.model.classifiers = Recent[Tensor](16)  # training may have changed the temperature and "no object"
        return miou(self.model.segment, self.config.measured)

    def weights(self) -> dict[str, Tensor]:
        """Return all weights of the network."""
        return self.model.state_dict()


def _fill(model: San, config: Config, setting: Literal["clip", "start"]) -> None:
    """Load the checkpoint `config.clip` or `config.start` into the network, depending on `setting`.

    If `setting` is start, all weights are loaded. If `setting` is clip, the weights of the side network are not
    loaded. Raises OvssError if the checkpoint does not fit.
    """
    path, expected = Path(getattr(config, setting)), checkpoint.shapes(model)
    state = {k: v for k, v in checkpoint.read(path, ignore=UNUSED).items() if not k.startswith("heads.")}
    if setting == "clip":
        expected = {name: shape for name, shape in expected.items() if not name.startswith(SIDE)}
        state = {name: value for name, value in state.items() if not name.startswith(SIDE)}
    checkpoint.compare(expected, state, f"{setting}: {path} does not fit {config.variant}", {})
    model.load_state_dict(state, strict=False)
