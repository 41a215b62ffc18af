"""Training of Fusioner's fusion and decoder (Ma et al., BMVC 2022, arXiv 2210.15138, §3 and §4.1).

Both towers of CLIP are frozen. A sample is a window and a class in the window. The fusion is trained by AdamW, the
decoder by Adam. The official recipes are configs/train_fusioner_vit_l_14.yaml and train_fusioner_vit_l_14_coco.yaml.

Dimensions: V windows of n × n pixels, S samples, C channels.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.benchmarks import catalog
from ovss_ray.io import files
from ovss_ray.models import checkpoint, text, zoo
from ovss_ray.models.fusioner.fusion import logits
from ovss_ray.models.fusioner.network import DECODER, FUSION, IMAGE, TEXT, Fusioner
from ovss_ray.models.fusioner.variants import VARIANTS, DataSet
from ovss_ray.training.recipes.fusioner.config import Config
from ovss_ray.training.recipes.fusioner.drawn import Drawn
from ovss_ray.training.recipes.fusioner.photographs import Photographs
from ovss_ray.training.recipes.fusioner.samples import NOT_COUNTED, stacked
from ovss_ray.training.recipes.fusioner.validation import counted, groups

SCENES = {"scenes:episodes": "seen", "scenes:episodes-held-out": "held-out"}
"""Benchmark → prefix of its keys in the result of Task.measure"""


class Task:
    """Training of Fusioner, a task for training.loop with separate schedules (loop.Scheduled)."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.variant = VARIANTS[config.variant]
        self.model = Fusioner(self.variant)
        begin(self.model, config)
        self.source = Drawn(config, self.model) if config.data == "scenes" else Photographs(config, self.model)
        self.rows = {name: row for row, name in enumerate(self.source.names)}
        templates = text.TEMPLATES[self.variant.templates]
        self.words = text.embed(self.model.text_model, self.source.names, templates).clone()

    def batch(self, step: int) -> dict[str, Any]:
        """Return the batch of a step (samples.stacked)."""
        return stacked(self.source.batch(step), self.rows)

    def forward(self, batch: dict[str, Any], step: int) -> Tensor:
        """Return logits (S, n, n) of the samples. Samples do not influence each other."""
        model = self.model
        with torch.no_grad():
            tokens = model.encode(batch["windows"]).float()
        rows = self.words.to(tokens.device)[batch["classes"], None]
        # the samples of a window share its projected tokens
        patches, classes = model.fusion(model.fusion.visual(tokens)[batch["which"]], rows)
        return logits(model.decoder(patches).float(), classes.float())[:, 0]

    def losses(self, outputs: Tensor, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the binary cross-entropy as `bce`, a mean over the samples.

        The loss of a sample is the mean over the pixels whose target is not NOT_COUNTED. If all pixels of a sample are
        NOT_COUNTED, the mean is over all pixels.
        """
        valid = batch["targets"] != NOT_COUNTED
        # as in the official code, a sample without a counted pixel counts with all its pixels
        valid = valid | ~valid.any((1, 2), keepdim=True)
        truth = (batch["targets"] == 1).to(outputs.dtype)
        pixels = F.binary_cross_entropy_with_logits(outputs, truth, reduction="none")
        return {"bce": ((pixels * valid).sum((1, 2)) / valid.sum((1, 2))).mean()}

    def groups(self) -> list[dict[str, Any]]:
        """Return three groups of parameters: the fusion's matrices, the fusion's vectors, and the whole decoder."""
        fusion = list(self.model.fusion.parameters())
        return [
            {"params": [value for value in fusion if value.ndim > 1], "weight_decay": self.config.weight_decay},
            {"params": [value for value in fusion if value.ndim < 2], "weight_decay": 0.0},
            {"params": list(self.model.decoder.parameters()), "weight_decay": 0.0},
        ]

    def settings(self, step: int) -> list[dict[str, float]]:
        """Return the optimizer settings for a step: one dict per parameter group, in the order of `groups`.

        Each dict has the learning rate `lr`. The first dict also has `weight_decay`.
        """
        config = self.config
        if step < config.warmup:
            rate = config.rate * step / max(1, config.warmup - 1)
        else:
            done = (step - config.warmup) / (config.steps - config.warmup)
            rate = cosine(config.rate, config.final_rate, done)
        decay = cosine(config.weight_decay, config.final_weight_decay, step / config.steps)
        last = config.decoder_rate if config.final_decoder_rate is None else config.final_decoder_rate
        decoder = cosine(config.decoder_rate, last, step / config.steps)
        return [{"lr": rate, "weight_decay": decay}, {"lr": rate}, {"lr": decoder}]

    def measure(self) -> dict[str, float]:
        """Return the scores in percent, measured on the episodes of the first Config.measured images.

        For photographs, the scores are `fold_miou` and `fb_iou` (see metrics/episodes.py). For drawn scenes, each score
        is the mean IoU of a class group in a benchmark of SCENES. For example, `seen_things` is the mean IoU of the
        class group `things` in scenes:episodes, whose prefix in SCENES is "seen".
        """
        config = self.config
        scores: dict[str, float] = {}
        for name in SCENES if config.data == "scenes" else (f"{config.data}:{config.fold}",):
            benchmark = catalog.load(name)
            items = benchmark.items(files.absolute(config.data_root or ""), benchmark.split)
            data_set: DataSet = "coco" if config.data == "coco20i" else "pascal"
            result = counted(self.model, benchmark, items, config.measured, data_set, config.resolution)
            if config.data == "scenes":
                scores |= {f"{SCENES[name]}_{group}": value for group, value in groups(result, benchmark).items()}
            else:
                scores |= {key: value for key, value in result.result().items() if key != "fold_miou_hsnet"}
        return scores

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of fusion and decoder; CLIP has its own file."""
        return {name: value for name, value in self.model.state_dict().items() if name.startswith((FUSION, DECODER))}


def cosine(first: float, last: float, done: float) -> float:
    """Return `first` if `done` is 0, `last` if `done` is 1, and half a cosine period in between."""
    return last + 0.5 * (first - last) * (1 + math.cos(math.pi * min(1.0, done)))


def begin(model: Fusioner, config: Config) -> None:
    """Load and freeze both towers of CLIP. Load the fusion and the decoder from the checkpoint Config.start.

    If Config.start is None, initialise the fusion and the decoder with random values. Raises OvssError if a checkpoint
    does not fit the network.
    """
    file = zoo.find(VARIANTS[config.variant].base, config.clip)
    words, visual = checkpoint.read_clip(file)
    frozen = {TEXT + key: value for key, value in words.items()} | {IMAGE + key: v for key, v in visual.items()}
    initialise(model, config.seed)
    state = {key: value for key, value in model.state_dict().items() if key.startswith((FUSION, DECODER))}
    shapes = checkpoint.shapes(model)
    if config.start:
        trained = {key: shapes[key] for key in state}
        state = {k: v for k, v in checkpoint.read(Path(config.start)).items() if k.startswith((FUSION, DECODER))}
        checkpoint.compare(trained, state, f"start: {config.start} has no fusion and decoder of {config.variant}", {})
    checkpoint.load_into(model, frozen | state, f"clip: {file} does not fit {config.variant}")
    model.img_model.requires_grad_(False)
    model.text_model.requires_grad_(False)


@torch.no_grad()
def initialise(model: Fusioner, seed: int) -> None:
    """Initialise fusion and decoder with random values, as in the official code."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in (*model.fusion.modules(), *model.decoder.modules()):
            if isinstance(part, nn.Linear | nn.LayerNorm | nn.Conv2d):
                part.reset_parameters()
        width = model.variant.width
        nn.init.normal_(model.fusion.cls_emb)
        for projection in (model.fusion.proj_patch, model.fusion.proj_classes):
            nn.init.normal_(projection, std=width**-0.5)
