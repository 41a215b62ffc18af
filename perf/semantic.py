"""Semantic inference and argmax, tile by tile, against the plain form that makes all K × H × W scores at once.

The plain form is that of the official SAN: masks resized to the padded input, cropped, resized to the photograph,
sigmoid, einsum with the softmax of the classes, argmax (Cheng et al., MaskFormer, NeurIPS 2021, §3.4). Peak memory is
what a process of its own takes beyond its inputs: the peak of its resident set on a CPU, of torch's allocator on a GPU.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from perf.timing import interleaved, ratio, show, spread, titled

if TYPE_CHECKING:  # not imported here: a child process would begin with this one's memory as its peak
    from torch import Tensor

    from ovss_ray.models.semantic import Geometry

QUERIES = 100
SAME = 0.999
"""Share of the pixels that must have the same class; the rest are near-ties."""


def measure(classes: list[int], size: tuple[int, int], device: str, rounds: int) -> None:
    """Print the table, with the ratio of both bars."""
    table = titled(
        "Semantic inference + argmax (bar at K = 847: memory at most 0.1, time at most 1)",
        *("K", "tiled ms", "plain ms", "time ratio", "tiled MB", "plain MB", "memory ratio", "pixels that differ"),
    )
    peaks = {labels: [_peak_apart(side, labels, size, device) for side in ("tiled", "plain")] for labels in classes}
    for labels in classes:
        ours, plain = sides(labels, size, device)
        differing = float((ours() != plain()).mean())
        assert differing <= 1 - SAME, f"{differing:.2%} of the pixels differ"
        times = interleaved({"tiled": ours, "plain": plain}, rounds, device)
        mine, theirs = peaks[labels]
        table.add_row(
            str(labels),
            *(spread(1e3 * times[side], 0) for side in ("tiled", "plain")),
            ratio(times["tiled"], times["plain"]),
            *(f"{peak / 1e6:,.0f}" for peak in (mine, theirs)),
            f"{mine / theirs:.3f}",
            f"{differing:.4%}",
        )
    height, width = size
    show(
        table, f"{QUERIES} random masks on {height} × {width} pixels, device {device}; memory once, in a process each."
    )


def sides(labels: int, size: tuple[int, int], device: str) -> tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]]:
    """The tiled and the plain form over the same random masks and classes."""
    import torch

    from ovss_ray.models.photograph import padded_size, resized_size
    from ovss_ray.models.san.variants import VARIANTS
    from ovss_ray.models.semantic import Geometry, label_map

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    sides = VARIANTS["san_vit_b_16"]
    geometry = Geometry(padded_size(*size, sides), resized_size(*size, sides), size)
    torch.manual_seed(labels)
    masks = 4 * torch.randn(QUERIES, *(side // 16 for side in geometry.padded))
    probabilities = (3 * torch.randn(QUERIES, labels + 1)).softmax(-1)[:, :-1].contiguous()
    given = masks.to(device), probabilities.to(device)
    return lambda: label_map(*given, geometry), lambda: _plain(*given, geometry)


def _plain(masks: "Tensor", probabilities: "Tensor", geometry: "Geometry") -> np.ndarray:
    import torch
    from torch.nn import functional as F

    padded = F.interpolate(masks[None], geometry.padded, mode="bilinear", align_corners=False)
    cropped = padded[..., : geometry.resized[0], : geometry.resized[1]]
    laid = F.interpolate(cropped, geometry.original, mode="bilinear", align_corners=False)[0].sigmoid()
    return torch.einsum("qc,qhw->chw", probabilities, laid).argmax(0).cpu().numpy().astype(np.uint16)


def peak(side: str, labels: int, size: tuple[int, int], device: str) -> int:
    """Bytes that one call of a side takes at its peak, beyond what there was before it. Linux only, on a CPU."""
    number = ("tiled", "plain").index(side)
    sides(2, (16, 16), device)[number]()  # libraries and kernels are loaded
    return peak_of(sides(labels, size, device)[number], device)


def peak_of(call: Callable[[], object], device: str) -> int:
    """Bytes that the resident set, or what torch has allocated on a GPU, grows by at its peak while a call runs."""
    if device != "cpu":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        allocated = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - allocated
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far, that of importing torch, is forgotten
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _peak_apart(side: str, labels: int, size: tuple[int, int], device: str) -> int:
    command = [sys.executable, "-m", "perf", "--threads", os.environ["OMP_NUM_THREADS"], "semantic-peak"]
    command += [side, str(labels), f"{size[0]}x{size[1]}", device]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
