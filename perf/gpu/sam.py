"""SAM: the image encoder and the automatic masks, next to the released segment-anything with the same weights.

The weights are made up so that masks are smooth specks; a quarter of them passes the threshold of the predicted IoU
(see perf/sam.py). The released side is float32, as it is shipped.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator

from ovss_ray.models import runtime
from ovss_ray.models.sam.generator import Generator
from ovss_ray.models.sam.network import Sam
from ovss_ray.models.sam.variants import VARIANTS
from ovss_ray.models.sam_layers.points import Settings
from perf import pictures
from perf.gpu.rows import Row
from perf.gpu.setup import Setup
from perf.sam import PASSING, SHIFT
from tests import official_sam

GOAL = {"sam_vit_h": ">= 8"}
"""Network → images per second as a multiple of the released generator's."""
NETWORKS = ("sam_vit_b", "sam_vit_h")


def measure(setup: Setup) -> None:
    """Add rows for encoders and generators, ours and released, and their ratios."""
    setup.each(("sam_tiny",) if setup.tiny else NETWORKS, partial(_measure, setup))


def _measure(setup: Setup, name: str) -> None:
    with torch.inference_mode(), runtime.full_precision(torch.device(setup.device)):
        ours, released = networks(name, setup.device)
        encoder(setup, name, ours, released)
        generator(setup, name, ours, released)


def networks(name: str, device: str) -> tuple[Sam, Any]:
    """Our network and the released one, with equal weights."""
    variant = VARIANTS[name]
    state = official_sam.speckled(variant, SHIFT)
    released = official_sam.build(variant)
    released.load_state_dict(state)
    with torch.device("meta"):
        ours = Sam(variant)
    ours.load_state_dict(state, assign=True)
    return ours.eval().requires_grad_(False).to(device), released.requires_grad_(False).to(device)


def encoder(setup: Setup, name: str, ours: Sam, released: Any) -> None:
    """Add rows for the image encoders: images per second, for several batches and precisions."""
    inputs = ours.preprocess(pictures.photograph((96, 128) if setup.tiny else (683, 1024)))
    flops = setup.operations(name, lambda: ours.encode(inputs[None].to(setup.device)))
    for batch in (1,) if setup.tiny else (1, 4, 8):
        images = inputs.expand(batch, -1, -1, -1).to(setup.device)
        for precision in setup.precisions:
            if setup.sheet.due(f"encoder of {name}, {precision}, batches of {batch}"):
                ours.precision = precision
                case = ("sam", name, f"encoder, batches of {batch}")
                setup.rate(case, precision, lambda images=images: ours.encode(images), batch, "images", flops=flops)
    case = ("sam", name, "released encoder, batches of 1")
    setup.rate(case, "fp32", lambda: released.image_encoder(inputs[None].to(setup.device)), 1, "images", flops=flops)


def generator(setup: Setup, name: str, ours: Sam, released: Any) -> None:
    """Add rows for automatic masks: images per second, and how many times the released rate that is."""
    if not setup.sheet.due(f"generator of {name}"):
        return
    side, size = (4, (96, 128)) if setup.tiny else (32, (683, 1024))
    images = setup.photographs(1 if setup.tiny else 4, size)
    ours.precision = "fp32"
    options = {"points_per_side": side} | thresholds(ours, images[0])
    official = SamAutomaticMaskGenerator(released, **options)
    case = f"{side} × {side} points"
    base = setup.rate(
        ("sam", name, f"released generator, {case}"), "fp32",
        lambda: official.generate(images[0]), 1, "images", rounds=1,
    )  # fmt: skip
    for precision in setup.precisions:
        ours.precision = precision
        generate = Generator(ours, Settings(**options), len(images)).generate
        row = setup.rate(
            ("sam", name, f"generator, {case}"), precision,
            lambda generate=generate: generate(images), len(images), "images", rounds=1 if setup.tiny else 2,
        )  # fmt: skip
        ratio = row.figure / base.figure
        goal = GOAL.get(name, "")
        setup.sheet.add(Row("sam", name, f"generator, {case}, {precision}", ratio, "× released", goal))


def thresholds(model: Sam, image: np.ndarray) -> dict[str, float]:
    """The options of both generators besides the points: a quarter of the masks passes, and no other filter."""
    every = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
    (found,) = Generator(model, Settings(points_per_side=4, **every)).generate([image])
    return {"pred_iou_thresh": float(np.quantile(found.predicted_iou, 1 - PASSING)), "stability_score_thresh": 0.0}
