"""Training of SAM on drawn scenes from scratch (Kirillov et al., 2023, §3 and appendix A).

A prompt starts with a click or a box. Before each further answer, the prompt gets one more click, at a cell where the
last answer is wrong. An answer has four masks: a single mask (index 0), and three alternative masks (index 1 to 3).

Dimensions: B scenes, P prompts, h w cells of the masks; n side of an input, in pixels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from ovss_ray.datasets import scenes
from ovss_ray.datasets.scenes.scene import Scene
from ovss_ray.models.sam.network import Sam
from ovss_ray.models.sam.variants import VARIANTS, resized_size
from ovss_ray.models.sam_layers.prompts import BESIDE, FIRST_CORNER, LAST_CORNER, NOTHING, ON, Prompts
from ovss_ray.training import scenes as drawn_scenes
from ovss_ray.training.initial import initialise, load_start
from ovss_ray.training.recipes.sam.config import Config

FOCAL, DICE = 20.0, 1.0
"""Weights of a mask's two losses (appendix A); the weight of the predicted IoU's loss is one"""
# With α = 0.25, as in detectors, masks stay empty far longer. A smaller network was trained with both values of α. In
# steps 151 to 200, its mean IoU (best of three masks, one click) was 0.02 with α = 0.25, and 0.31 with α = 0.75.
ALPHA, GAMMA = 0.75, 2.0
"""Parameters of the focal loss (Lin et al., ICCV 2017, arXiv 1708.02002)

SAM's paper does not state the values of the parameters, so the values were chosen for this project.
"""
BOX_NOISE = 0.1
"""Standard deviation of the noise of a box's corners, as a fraction of the box's width (x) or height (y)"""
MOST_NOISE = 20 / 1024
"""Largest noise of a box's corners, as a fraction of the input's side"""
SMALLEST = 100
"""Minimum number of visible pixels of a region for a prompt"""

Answers = Sequence[tuple[Tensor, Tensor]]
"""Successive answers, each to all P prompts. An answer is a pair: mask logits (P, 4, h, w), predicted IoU (P, 4)"""


class Task:
    """Training of SAM, a task for training.loop."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.variant = VARIANTS[config.variant]
        self.model = Sam(self.variant)
        begin(self.model, config.seed)
        load_start(self.model, config)

    def batch(self, step: int) -> dict[str, Any]:
        """Return the batch of a step: preprocessed `images` (B, 3, n, n), and P = B · config.prompts prompts.

        `which` (P,) is the scene index of each prompt. `points` (P, 2, 2) and `labels` (P, 2) are as in the class
        Prompts. `truth` (P, h, w) float32 is the fraction of each cell that the prompted region covers.
        """
        config, drawn = self.config, np.random.default_rng([self.config.seed, step, 1])
        drawn_batch = drawn_scenes.batch(config.seed, step, config.batch, config.things, config.unnamed)
        size = resized_size(drawn_scenes.SHORT, drawn_batch[0].regions.shape[1], self.variant)
        drawn_batch = [drawn_scenes.resized(scene, size) for scene in drawn_batch]
        first_prompts = [self._first_prompts(drawn, scene) for scene in drawn_batch]
        points, labels, truth = (torch.from_numpy(np.concatenate(part)) for part in zip(*first_prompts, strict=True))
        return {
            "images": torch.stack([self.model.preprocess(scene.image) for scene in drawn_batch]),
            "which": torch.arange(len(drawn_batch)).repeat_interleave(config.prompts),
            "points": points,
            "labels": labels,
            "truth": truth,
        }

    def _first_prompts(self, drawn: np.random.Generator, scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the points, labels and truth of a scene's prompts for the first answer (see `batch`).

        Each prompt is for a random region of the scene, and is a click or a box.
        """
        pixels, (height, width) = self.variant.pixels, scene.regions.shape
        prompted = drawn.choice(drawn_scenes.visible(scene, SMALLEST), self.config.prompts)
        boxed = drawn.random(len(prompted)) < self.config.boxes
        masks = [scene.regions == region for region in prompted]
        points = [box(drawn, mask, pixels) if b else click(drawn, mask) for b, mask in zip(boxed, masks, strict=True)]
        labels = np.where(boxed[:, None], (FIRST_CORNER, LAST_CORNER), (ON, NOTHING))
        padded = np.full((pixels, pixels), len(scene.contents), np.uint8)
        padded[:height, :width] = scene.regions
        cell = self.variant.patch // 4
        return np.stack(points), labels, drawn_scenes.coverage(padded, cell, len(scene.contents))[prompted]

    def forward(self, batch: dict[str, Any], step: int) -> Answers:
        """Return the answers to the prompts of a batch. Config.answers explains the number of answers.

        Between two answers, every prompt gets one more click.
        """
        truth, embeddings = batch["truth"], self.model.image_encoder(batch["images"])
        prompts = Prompts(batch["points"], batch["labels"])
        answers = [self.model.decode(embeddings, prompts, batch["which"])]
        for number in range(step % self.config.answers):
            # the first answer counts by its best alternative mask, a later answer by its single mask
            logits = most_fitting(*answers[-1]) if number == 0 else answers[-1][0][:, 0]
            prompts = corrected(prompts, logits.detach().float(), truth, self.variant.patch // 4)
            answers.append(self.model.decode(embeddings, prompts, batch["which"]))
        return answers

    def losses(self, outputs: Answers, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the losses by name, each the mean over all answers."""
        parts = [losses(masks.float(), fit.float(), batch["truth"], i == 0) for i, (masks, fit) in enumerate(outputs)]
        return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}

    def measure(self) -> dict[str, float]:
        """Return the mean IoU on regions of validation scenes, in percent (see `measured`)."""
        return measured(self.model, self.config.measured)

    def weights(self) -> dict[str, Tensor]:
        """Return all weights of the network."""
        return self.model.state_dict()


@torch.no_grad()
def begin(model: Sam, seed: int) -> None:
    """Initialise all weights of a network, with the distributions of the official code.

    Relative position embeddings are 0. Tokens, point embeddings and the frequencies of the position encoding are drawn
    from a standard normal distribution.
    """
    initialise(model, model.variant.layers, seed)
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if "rel_pos" in name:
            value.zero_()
        elif name.endswith(("gaussian_matrix", "token.weight", "tokens.weight")) or "point" in name:
            # rounded to half precision, like exported weights
            value.copy_(torch.randn(value.shape, generator=generator).half())


def click(drawn: np.random.Generator, region: np.ndarray) -> np.ndarray:
    """Return two points (2, 2) float32: a random pixel of a region (H, W) bool, and a padding point.

    The first row is x, y of the pixel. The second row is 0, 0.
    """
    # with the padding, a click has two points, like a box
    y, x = np.argwhere(region)[drawn.integers(region.sum())]
    return np.array([[x, y], [0, 0]], np.float32)


def box(drawn: np.random.Generator, region: np.ndarray, pixels: int) -> np.ndarray:
    """Return two corners (2, 2) float32 of a region's bounding box. Random noise is added to the corners.

    Each row is x, y of a corner. The box without noise is half-open: its last corner is not in the region. `region` is
    (H, W) bool. `pixels` is the side n of the input, which limits the noise (see MOST_NOISE).
    """
    places = np.argwhere(region)[:, ::-1]
    first, last = places.min(0), places.max(0) + 1
    noise = drawn.normal(0, BOX_NOISE * (last - first), (2, 2)).clip(-MOST_NOISE * pixels, MOST_NOISE * pixels)
    return (np.stack([first, last]) + noise).astype(np.float32)


def most_fitting(masks: Tensor, fit: Tensor) -> Tensor:
    """Return the logits (P, h, w) of the alternative mask with the highest predicted IoU.

    `masks` (P, 4, h, w) are logits, and `fit` (P, 4) is the predicted IoU.
    """
    return masks[torch.arange(len(masks), device=masks.device), 1 + fit[:, 1:].argmax(1)]


def corrected(prompts: Prompts, logits: Tensor, truth: Tensor, cell: int) -> Prompts:
    """Return P prompts, each with one more click at a random cell where the answer to the prompt is wrong.

    `logits` (P, h, w) are the mask logits of the answer to each prompt. `truth` (P, h, w) is the fraction of each cell
    that the prompted region covers. `cell` is the side of a cell in pixels of the input. With probability 0.5,
    `logits` become the mask prompts of all P prompts. Otherwise, none of the P prompts has a mask prompt.
    """
    right = truth > 0.5
    wrong = (logits > 0) != right
    # if no cell is wrong, the click is at a random cell of the true region
    weights = torch.where(wrong.any((1, 2), keepdim=True), wrong, right).flatten(1).float()
    place = torch.multinomial(weights, 1)
    x, y = place % truth.shape[2], place // truth.shape[2]
    point = torch.stack([x, y], -1) * cell + (cell - 1) / 2
    label = torch.where(right.flatten(1).gather(1, place), ON, BESIDE)
    masks = logits[:, None] if torch.rand(()) < 0.5 else None
    return Prompts(torch.cat([prompts.points, point], 1), torch.cat([prompts.labels, label], 1), masks)


def losses(masks: Tensor, fit: Tensor, truth: Tensor, first: bool) -> dict[str, Tensor]:
    """Return the losses of an answer: `focal` and `dice` of masks, and `iou` of the predicted IoU.

    `masks` (P, 4, h, w) are the logits of four masks per prompt. `fit` (P, 4) is their predicted IoU. `truth` (P, h, w)
    is from 0 to 1. If `first` is False, all losses use only mask 0. If `first` is True, `iou` uses all four masks;
    `focal` and `dice` use mask 0 and the best of the others. The best mask has the lowest sum of `focal` and `dice`.
    """
    # The paper does not train index 0 on first answers. Here it is trained, for users who request one mask per click.
    masks_used = 4 if first else 1
    masks, fit, truth = masks[:, :masks_used], fit[:, :masks_used], truth[:, None]
    per_mask = {"focal": FOCAL * focal(masks, truth), "dice": DICE * dice(masks, truth)}
    if first:
        best = 1 + (per_mask["focal"] + per_mask["dice"])[:, 1:].argmin(1, keepdim=True)
        per_mask = {name: loss[:, :1] + loss.gather(1, best) for name, loss in per_mask.items()}
    return {name: loss.mean() for name, loss in per_mask.items()} | {
        "iou": (fit - true_iou(masks, truth)).square().mean()
    }


def focal(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the focal loss (…,) of mask logits (…, h, w), as a mean over the cells of a mask.

    `truth` (…, h, w) is the fraction of each cell that belongs to the foreground, from 0 to 1.
    """
    inside = logits.sigmoid()
    on = ALPHA * (1 - inside) ** GAMMA * F.softplus(-logits)
    beside = (1 - ALPHA) * inside**GAMMA * F.softplus(logits)
    return (truth * on + (1 - truth) * beside).mean((-2, -1))


def dice(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the dice loss (…,) of predicted masks. The dice loss is 1 minus the dice coefficient.

    `logits` and `truth` are (…, h, w). The dice coefficient is that of Milletari et al., 3DV 2016, arXiv 1606.04797,
    eq. 3, with two differences. The denominator has no squares, and 1 is added to the numerator and to the denominator.
    """
    inside = logits.sigmoid()
    common = (inside * truth).sum((-2, -1))
    return 1 - (2 * common + 1) / (inside.sum((-2, -1)) + truth.sum((-2, -1)) + 1)


def true_iou(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the IoU (…,) of the masks `logits` > 0 and `truth` > 0.5. `logits` and `truth` are (…, h, w)."""
    predicted, right = logits > 0, truth > 0.5
    return (predicted & right).sum((-2, -1)) / (predicted | right).sum((-2, -1)).clamp(min=1)


def centre(region: np.ndarray) -> tuple[int, int]:
    """Return x, y of the pixel in `region` (H, W) bool that is farthest from all pixels outside the region.

    SAM's evaluation uses this pixel as the click (§7.1). Pixels beyond the edge of the image are outside the region.
    """
    inner = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(inner.argmax(), region.shape)
    return int(x), int(y)


def measured(model: Sam, count: int) -> dict[str, float]:
    """Return name → mean IoU in percent, over the visible regions of validation scenes.

    The scenes are the first `count` scenes of scenes:seen, and the first `count` scenes of scenes:held-out. A name is
    `seen_things`, `held-out_things` or `surfaces`, followed by a suffix. The suffix determines the prompt, and the
    mask whose IoU is measured:

    - no suffix: a click on the region's centre; the alternative mask with the highest predicted IoU
    - `_best_of_three`: a click on the region's centre; the alternative mask with the highest true IoU
    - `_box`: the region's exact bounding box; the single mask
    """
    fits_by_name: dict[str, list[float]] = {}
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
            fit_by_kind = {"": fits[clicked.predicted_iou.argmax()], "_best_of_three": max(fits[:3]), "_box": fits[3]}
            for part, fit in fit_by_kind.items():
                fits_by_name.setdefault(kind + part, []).append(float(fit))
    return {name: float(np.mean(fits)) for name, fits in fits_by_name.items()}
