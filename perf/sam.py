"""SAM's automatic masks: our generator against the released one, over the same photograph with the same weights.

The released side is segment-anything's SamAutomaticMaskGenerator. sam_tiny has its trained weights if they are shipped;
others are made up so that masks are smooth specks (tests/official_sam.py). The threshold of the predicted IoU is set so
that a quarter of the masks passes, and no other threshold. Seconds are those of the process on a CPU, or those that
pass with a GPU, for the whole `generate`. Peak memory is what a process of its own takes beyond the loaded network: the
peak of its resident set, on Linux only, or of what torch has allocated on the GPU.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from perf import pictures
from perf.semantic import peak_of
from perf.timing import ratio, show, spread, titled

if TYPE_CHECKING:  # not imported here: a child process would begin with this one's memory as its peak
    from torch import Tensor

PASSING = 0.25
"""Share of the masks whose predicted IoU passes."""
SHIFT = 0.4
"""How far masks of made-up weights are pushed below the threshold, so that they are specks and not all of the image."""
SIDES = ("ours", "released")
PHOTOGRAPH = pictures.REAL / "photos" / "sam" / "truck.jpg"
Side = Callable[[], Any]


def measure(variants: list[str], points: int, size: tuple[int, int], device: str, rounds: int) -> None:
    """Print the table, with the ratio of both bars."""
    table = titled(
        f"SAM's automatic masks, {points} × {points} points (bars: time at most 0.5, memory at most 0.5)",
        *("network", "our s", "released s", "ratio", "our MB", "released MB", "ratio"),
        *("masks", "on one side only", "pixels that differ"),
    )
    clock = time.process_time if device == "cpu" else time.perf_counter  # both sides end with masks on the host
    for name in variants:
        options = {"points_per_side": points} | _options(name, size)
        calls = {side: build(side, name, size, device, options) for side in SIDES}
        made, spent = {}, {side: np.zeros(rounds) for side in SIDES}
        for i in range(rounds if device == "cpu" else rounds + 1):  # a GPU's first has its kernels loaded
            for side in SIDES:
                begun = clock()
                made[side] = calls[side]()
                spent[side][i % rounds] = clock() - begun
        few = options | {"points_per_side": min(points, 8)}  # one batch of the released generator
        peaks = [_peak_apart(side, name, size, device, few) for side in SIDES]
        table.add_row(
            name,
            *(spread(spent[side], 1) for side in SIDES),
            ratio(spent["ours"], spent["released"]),
            *(f"{peak / 1e6:,.0f}" for peak in peaks),
            f"{peaks[0] / peaks[1]:.2f}",
            *(f"{count:,}" for count in differences(made["ours"], made["released"], size)),
        )
    photograph = PHOTOGRAPH.name if PHOTOGRAPH.exists() else "a drawn photograph"
    note = f"{photograph}, {size[0]} × {size[1]} pixels, float32, device {device}"
    show(table, f"{note}; memory once, in a process each, 8 × 8 points.")


def build(side: str, name: str, size: tuple[int, int], device: str, options: dict[str, Any]) -> Side:
    """Load one side's network; the call that makes its masks of the photograph."""
    import torch
    from segment_anything import SamAutomaticMaskGenerator

    from ovss_ray.models.sam.generator import Generator
    from ovss_ray.models.sam.variants import VARIANTS
    from ovss_ray.models.sam_layers.points import Settings
    from tests import official_sam

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    image = _photograph(size)
    if side == "ours":
        generator = Generator(_ours(name).to(device), Settings(**options))
        return lambda: generator.generate([image])[0]
    network = official_sam.build(VARIANTS[name])
    network.load_state_dict(_state(name))
    released = SamAutomaticMaskGenerator(network.requires_grad_(False).to(device), **options)
    return lambda: released.generate(image)


def peak(side: str, name: str, size: tuple[int, int], device: str, options: dict[str, Any]) -> int:
    """Bytes that one side takes at its peak, beyond what there is when its network is loaded."""
    return peak_of(build(side, name, size, device, options), device)


def differences(ours: Any, released: list[dict[str, Any]], size: tuple[int, int]) -> tuple[int, int, int]:
    """How many masks there are, how many only one side has, and how many pixels differ in those that both have."""
    from ovss_ray.structures.masks import regions

    found = zip(ours.points, ours.predicted_iou, ours.boxes, ours.bits, strict=True)
    mine = {(*point.round(3), round(float(fit), 3)): (box, bits) for point, fit, box, bits in found}
    theirs = {(*np.round(one["point_coords"][0], 3), round(one["predicted_iou"], 3)): one for one in released}
    pixels = 0
    for key in mine.keys() & theirs.keys():
        box, bits = mine[key]
        pixels += int((regions.masks(box[None], bits, size)[0] != theirs[key]["segmentation"]).sum())
    return len(released), len(mine.keys() ^ theirs.keys()), pixels


def _photograph(size: tuple[int, int]) -> np.ndarray:
    """The photograph (H, W, 3) uint8."""
    if not PHOTOGRAPH.exists():
        return pictures.photograph(size)
    with Image.open(PHOTOGRAPH) as opened:
        return np.asarray(opened.convert("RGB").resize(size[::-1]))


def _state(name: str) -> "dict[str, Tensor]":
    from ovss_ray.models import checkpoint, zoo
    from ovss_ray.models.sam.variants import VARIANTS
    from tests import official_sam

    if name != "sam_tiny":
        return official_sam.speckled(VARIANTS[name], SHIFT)
    return {key: value.float() for key, value in checkpoint.read(zoo.find(name)).items()}


def _ours(name: str) -> Any:
    import torch

    from ovss_ray.models.sam.network import Sam
    from ovss_ray.models.sam.variants import VARIANTS

    with torch.device("meta"):
        model = Sam(VARIANTS[name])
    model.load_state_dict(_state(name), assign=True)
    return model.eval().requires_grad_(False)


def _options(name: str, size: tuple[int, int]) -> dict[str, Any]:
    """What both generators are given besides the points: the thresholds."""
    from ovss_ray.models.sam.generator import Generator
    from ovss_ray.models.sam_layers.points import Settings

    every = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
    (found,) = Generator(_ours(name), Settings(points_per_side=4, **every)).generate([_photograph(size)])
    passing = float(np.quantile(found.predicted_iou, 1 - PASSING))
    return {"pred_iou_thresh": passing, "stability_score_thresh": 0.0}


def _peak_apart(side: str, name: str, size: tuple[int, int], device: str, options: dict[str, Any]) -> int:
    command = [sys.executable, "-m", "perf", "--threads", os.environ["OMP_NUM_THREADS"], "sam-peak"]
    command += [side, name, f"{size[0]}x{size[1]}", device, json.dumps(options)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
