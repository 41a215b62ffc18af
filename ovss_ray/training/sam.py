"""Training of SAM on drawn scenes, all of it from nothing (Kirillov et al., 2023, §3 and appendix A).

A prompt begins with a click or a box; then further clicks go where the last answer was wrong, some of them with that
answer as a mask. The first answer may be any of three masks: only the one that costs least is learned from. Letters:
B scenes, P prompts, N points of a prompt, M masks of an answer, h w cells of the masks.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from ovss_ray.datasets import scenes
from ovss_ray.drawing.scene import Scene
from ovss_ray.models import checkpoint
from ovss_ray.models.sam import Prompts, Sam
from ovss_ray.models.sam_decoder import BESIDE, FIRST_CORNER, LAST_CORNER, NOTHING, ON
from ovss_ray.models.sam_variants import VARIANTS, resized_size
from ovss_ray.training import scenes as drawn_scenes
from ovss_ray.training.config import SamTraining
from ovss_ray.training.initial import initialise

FOCAL, DICE = 20.0, 1.0
"""Weights of the two losses of a mask (appendix A); that of its predicted IoU is one."""
ALPHA, GAMMA = 0.75, 2.0
"""Of the focal loss (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, arXiv 1708.02002).

SAM's paper does not name them. With α = 0.25, usual for detectors, masks stay empty far longer: in steps 151 to
200 of a smaller network the best of three for one click had mean IoU 0.02 with the truth, and with 0.75 it had 0.31.
"""
BOX_NOISE, MOST_NOISE = 0.1, 20 / 1024
"""Corners of boxes are off by this part of the box's side (standard deviation), and at most by this of the input's."""
SMALLEST = 100
"""Pixels of the input that a region must show to be asked for."""

Answers = Sequence[tuple[Tensor, Tensor]]
"""All masks (P, 4, h, w), logits, and their predicted IoU (P, 4), for the prompts as they grew."""


class Task:
    """What the loop has to know of this training (training/loop.py)."""

    def __init__(self, config: SamTraining) -> None:
        self.config = config
        self.variant = VARIANTS[config.variant]
        self.model = Sam(self.variant)
        begin(self.model, config.seed)
        if config.start:
            self.model.load_state_dict(checkpoint.read(Path(config.start)))

    def batch(self, step: int) -> dict[str, Any]:
        """The batch of a step: images (B, 3, pixels, pixels) as the network wants them, and P = B · prompts questions.

        Of each the scene `which` (P,), `points` (P, 2, 2), `labels` (P, 2), and `truth` (P, h, w) float32: how much of
        each cell is the region's, nothing of the padding.
        """
        config, drawn = self.config, np.random.default_rng([self.config.seed, step, 1])
        made = drawn_scenes.batch(config.seed, step, config.batch, config.things, config.unnamed)
        size = resized_size(drawn_scenes.SHORT, made[0].regions.shape[1], self.variant)
        made = [drawn_scenes.resized(scene, size) for scene in made]
        asked = [self._ask(drawn, scene) for scene in made]
        points, labels, truth = (torch.from_numpy(np.concatenate(part)) for part in zip(*asked, strict=True))
        return {
            "images": torch.stack([self.model.preprocess(scene.image) for scene in made]),
            "which": torch.arange(len(made)).repeat_interleave(config.prompts),
            "points": points,
            "labels": labels,
            "truth": truth,
        }

    def _ask(self, drawn: np.random.Generator, scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The first prompts for regions of a scene, each as likely as any other: points, labels, truth."""
        pixels, (height, width) = self.variant.pixels, scene.regions.shape
        wanted = drawn.choice(drawn_scenes.visible(scene, SMALLEST), self.config.prompts)
        boxed = drawn.random(len(wanted)) < self.config.boxes
        masks = [scene.regions == region for region in wanted]
        points = [box(drawn, mask, pixels) if b else click(drawn, mask) for b, mask in zip(boxed, masks, strict=True)]
        labels = np.where(boxed[:, None], (FIRST_CORNER, LAST_CORNER), (ON, NOTHING))
        padded = np.full((pixels, pixels), len(scene.contents), np.uint8)
        padded[:height, :width] = scene.regions
        cell = self.variant.patch // 4
        return np.stack(points), labels, drawn_scenes.coverage(padded, cell, len(scene.contents))[wanted]

    def forward(self, batch: dict[str, Any], step: int) -> Answers:
        """The answers to the first prompts, and in two of three steps to what becomes of them."""
        truth, embeddings = batch["truth"], self.model.image_encoder(batch["images"])
        prompts = Prompts(batch["points"], batch["labels"])
        found = [self.model.decode(embeddings, prompts, batch["which"])]
        for number in range(step % self.config.answers):
            logits = most_fitting(*found[-1]) if number == 0 else found[-1][0][:, 0]
            prompts = corrected(prompts, logits.detach().float(), truth, self.variant.patch // 4)
            found.append(self.model.decode(embeddings, prompts, batch["which"]))
        return found

    def losses(self, seen: Answers, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The losses, means over the answers."""
        parts = [losses(masks.float(), fit.float(), batch["truth"], i == 0) for i, (masks, fit) in enumerate(seen)]
        return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}

    def measure(self) -> dict[str, float]:
        """How well regions of validation scenes are found."""
        return measured(self.model, self.config.measured)

    def weights(self) -> dict[str, Tensor]:
        """What is kept of the network: all of it."""
        return self.model.state_dict()


@torch.no_grad()
def begin(model: Sam, seed: int) -> None:
    """First values: tokens are normal, relative positions zero, as in the official code; for the others `initialise`.

    The frequencies, which are not trained, are rounded to half precision, in which they will be kept.
    """
    initialise(model, model.variant.layers, seed)
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if "rel_pos" in name:
            value.zero_()
        elif name.endswith(("gaussian_matrix", "token.weight", "tokens.weight")) or "point" in name:
            value.copy_(torch.randn(value.shape, generator=generator).half())


def click(drawn: np.random.Generator, region: np.ndarray) -> np.ndarray:
    """Anywhere on a region (H, W) bool → (2, 2) float32: x and y, and a point that says nothing."""
    y, x = np.argwhere(region)[drawn.integers(region.sum())]
    return np.array([[x, y], [0, 0]], np.float32)


def box(drawn: np.random.Generator, region: np.ndarray, pixels: int) -> np.ndarray:
    """The box of a region (H, W) bool, a little off → (2, 2) float32: its first corner and, half open, its last."""
    places = np.argwhere(region)[:, ::-1]
    first, last = places.min(0), places.max(0) + 1
    noise = drawn.normal(0, BOX_NOISE * (last - first), (2, 2)).clip(-MOST_NOISE * pixels, MOST_NOISE * pixels)
    return (np.stack([first, last]) + noise).astype(np.float32)


def most_fitting(masks: Tensor, fit: Tensor) -> Tensor:
    """Of the three masks of each first answer the one that is thought to fit best: (P, 4, h, w), (P, 4) → (P, h, w)."""
    return masks[torch.arange(len(masks), device=masks.device), 1 + fit[:, 1:].argmax(1)]


def corrected(prompts: Prompts, logits: Tensor, truth: Tensor, cell: int) -> Prompts:
    """The prompts with a click more, at a random place where the answers (P, h, w) are wrong; on the region if nowhere.

    Half of the time the answers are given too. `cell` is the side of a mask's cell in pixels of the input.
    """
    right = truth > 0.5
    wrong = (logits > 0) != right
    weights = torch.where(wrong.any((1, 2), keepdim=True), wrong, right).flatten(1).float()
    place = torch.multinomial(weights, 1)
    x, y = place % truth.shape[2], place // truth.shape[2]
    point = torch.stack([x, y], -1) * cell + (cell - 1) / 2
    label = torch.where(right.flatten(1).gather(1, place), ON, BESIDE)
    masks = logits[:, None] if torch.rand(()) < 0.5 else None
    return Prompts(torch.cat([prompts.points, point], 1), torch.cat([prompts.labels, label], 1), masks)


def losses(masks: Tensor, fit: Tensor, truth: Tensor, first: bool) -> dict[str, Tensor]:
    """The losses of one answer: masks (P, 4, h, w), logits, predicted IoU (P, 4), truth (P, h, w) in 0..1.

    Of a first answer the best of the three masks counts, and, other than in the paper, also the single mask: people ask
    for it with one click. Of later answers only that one. All masks that count for anything learn how well they fit.
    """
    kept = 4 if first else 1
    masks, fit, truth = masks[:, :kept], fit[:, :kept], truth[:, None]
    each = {"focal": FOCAL * focal(masks, truth), "dice": DICE * dice(masks, truth)}
    if first:
        best = 1 + (each["focal"] + each["dice"])[:, 1:].argmin(1, keepdim=True)
        each = {name: loss[:, :1] + loss.gather(1, best) for name, loss in each.items()}
    return {name: loss.mean() for name, loss in each.items()} | {"iou": (fit - true_iou(masks, truth)).square().mean()}


def focal(logits: Tensor, truth: Tensor) -> Tensor:
    """The focal loss of masks (…, h, w), a mean over their cells; a cell that is partly the region's counts as both."""
    inside = logits.sigmoid()
    on = ALPHA * (1 - inside) ** GAMMA * F.softplus(-logits)
    beside = (1 - ALPHA) * inside**GAMMA * F.softplus(logits)
    return (truth * on + (1 - truth) * beside).mean((-2, -1))


def dice(logits: Tensor, truth: Tensor) -> Tensor:
    """1 − dice of masks (…, h, w), smoothed by one cell (Milletari et al., 3DV 2016, arXiv 1606.04797, eq. 3)."""
    inside = logits.sigmoid()
    common = (inside * truth).sum((-2, -1))
    return 1 - (2 * common + 1) / (inside.sum((-2, -1)) + truth.sum((-2, -1)) + 1)


def true_iou(logits: Tensor, truth: Tensor) -> Tensor:
    """IoU of masks (…, h, w) that are cut at zero with a truth that is cut at one half."""
    found, right = logits > 0, truth > 0.5
    return (found & right).sum((-2, -1)) / (found | right).sum((-2, -1)).clamp(min=1)


def centre(region: np.ndarray) -> tuple[int, int]:
    """The x, y of a region (H, W) bool that is farthest from its edge, where SAM's authors click (§7.1)."""
    inner = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(inner.argmax(), region.shape)
    return int(x), int(y)


def measured(model: Sam, count: int) -> dict[str, float]:
    """Mean IoU in percent over the regions of the first scenes of scenes:seen and scenes:held-out.

    One click on the centre and the mask that is thought to fit best, the best of the three, and the exact box.
    """
    said: dict[str, list[float]] = {}
    for key, number in ((key, number) for key in ("seen", "held-out") for number in range(count)):
        scene, _ = scenes.of_address(f"{key}/validation/{number}")
        image = model.embed(scene.image)
        for region in drawn_scenes.visible(scene, SMALLEST):
            truth = scene.regions == region
            kind = "surfaces" if isinstance(scene.contents[region], str) else f"{key}_things"
            places = np.argwhere(truth)[:, ::-1]
            clicked = model.predict(image, [centre(truth)], [1])
            boxed = model.predict(image, box=[*places.min(0), *(places.max(0) + 1)], multimask=False)
            fits = [100 * (mask & truth).sum() / (mask | truth).sum() for mask in (*clicked.masks, *boxed.masks)]
            found = {"": fits[clicked.predicted_iou.argmax()], "_best_of_three": max(fits[:3]), "_box": fits[3]}
            for part, fit in found.items():
                said.setdefault(kind + part, []).append(float(fit))
    return {name: float(np.mean(fits)) for name, fits in said.items()}
