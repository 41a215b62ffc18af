"""Regions per second: AlphaCLIP's image tower, SCAN's tower for crops, and SCAN's other parts, with made-up weights."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from ovss_ray.models import runtime
from ovss_ray.models.alpha_clip.inputs import Look
from ovss_ray.models.alpha_clip.network import AlphaClip
from ovss_ray.models.alpha_clip.variants import VARIANTS
from ovss_ray.structures.masks import regions
from perf import pictures, scan
from perf.gpu.setup import Setup

ALPHA_CLIPS = ("alpha_clip_vit_b_16", "alpha_clip_vit_l_14", "alpha_clip_vit_l_14_336")
SCANS = ("scan_vitB", "scan_vitL")
PARTS = ("pixels", "crops", "whole", "backbone", "pixel decoder", "masked decoder", "regions")
COUNTED = ("crops", "whole", "backbone")
"""Parts of SCAN that are mostly matrix products, so that a share of their peak says something."""
REGIONS = 128
"""Regions of the photograph, as many as SAM finds in one."""


def alpha_clip(setup: Setup) -> None:
    """Add rows for the tower alone, and from a photograph and masks to embeddings."""
    setup.each(("alpha_clip_tiny",) if setup.tiny else ALPHA_CLIPS, partial(_alpha_clip, setup))


def _alpha_clip(setup: Setup, name: str) -> None:
    model = filled(AlphaClip, VARIANTS[name]).to(setup.device)
    with torch.inference_mode(), runtime.full_precision(torch.device(setup.device)):
        for precision in setup.precisions:
            model.precision = precision
            _tower(setup, name, model)
            _regions(setup, name, model)


def filled(kind: Any, variant: Any) -> Any:
    """A network with made-up weights, on the CPU."""
    from ovss_ray.models import fake

    with torch.device("meta"):
        model = kind(variant)
    state = {name: fake.tensor(name, tuple(value.shape)) for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


def _tower(setup: Setup, name: str, model: AlphaClip) -> None:
    side = model.variant.pixels
    for batch in (2,) if setup.tiny else (1, 32, 128, 256):
        pictures_in = torch.randn(1, 3, side, side, device=model.device)
        alphas = torch.randn(batch, 1, side, side, device=model.device)
        which = torch.zeros(batch, dtype=torch.int64, device=model.device)
        given = pictures_in, alphas, which
        flops = setup.operations(name, lambda given=given: model(given[0], given[1][:1], given[2][:1]))
        case = ("alpha_clip", name, f"tower, batches of {batch}")
        setup.rate(case, model.precision, lambda given=given: model(*given), batch, "regions", flops=flops)


def _regions(setup: Setup, name: str, model: AlphaClip) -> None:
    size, count = ((48, 64), 3) if setup.tiny else ((512, 683), REGIONS)
    image, labels = pictures.photograph(size), pictures.regions(count, size, count=count)
    masks = labels == np.unique(labels)[:, None, None]
    boxes, bits = regions.pack(masks)
    for context in ("full", "crop_square"):
        look = Look(context=context)

        def views(look: Look = look) -> Iterator[Any]:
            yield from model.viewer(image, look).views(boxes, regions.Masks(boxes, bits))

        setup.rate(
            ("alpha_clip", name, f"{len(masks)} regions of a photograph, {context}"), model.precision,
            lambda views=views: model.embed(views()), len(masks), "regions", rounds=1 if setup.tiny else 2,
        )  # fmt: skip


def scan_parts(setup: Setup) -> None:
    """Add rows for SCAN's crops, in crops per second, and for its other parts, in images per second."""
    setup.each(("scan_tiny",) if setup.tiny else SCANS, partial(_scan, setup))


def _scan(setup: Setup, name: str) -> None:
    model = scan.made_up(name).to(setup.device)
    size, classes = ((48, 64), 3) if setup.tiny else ((512, 683), 150)
    with torch.inference_mode(), runtime.full_precision(torch.device(setup.device)):
        for precision in setup.precisions:
            model.precision = precision
            _parts(setup, name, model, size, classes)


def _parts(setup: Setup, name: str, model: Any, size: tuple[int, int], classes: int) -> None:
    calls, _, count = scan.parts(model, pictures.photograph(size), classes)
    for part in PARTS[: 1 if setup.tiny else None]:
        if setup.sheet.due(f"{part} of {name}, {model.precision}"):
            units, unit = (count, "crops") if part == "crops" else (1, "images")
            case = ("scan", name, f"{part}, {count} regions, K = {classes}")
            flops = setup.operations(f"{name} {part}", calls[part]) // units if part in COUNTED else None
            setup.rate(case, model.precision, calls[part], units, unit, flops=flops, rounds=1 if setup.tiny else 2)
