"""Semantic inference and argmax, tile by tile: pruned against dense, and against all K × H × W scores at once.

The plain form is that of the official SAN: masks resized to the padded input, cropped, resized to the photograph,
sigmoid, einsum with the softmax of the classes, argmax (Cheng et al., MaskFormer, NeurIPS 2021, §3.4). Peak memory is
what a process of its own takes beyond its inputs: the peak of its resident set on a CPU, of torch's allocator on a GPU.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from perf.timing import interleaved, ratio, show, spread, titled

if TYPE_CHECKING:  # not imported here: a child process would begin with this one's memory as its peak
    from torch import Tensor

    from ovss_ray.models.san.network import Features
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


def measure_pruning(classes: list[int], size: tuple[int, int], device: str, rounds: int) -> None:
    """Print the table of pruned and dense label maps, on trained and on made-up networks' masks."""
    import torch

    from ovss_ray.models.semantic import label_map

    table = titled(
        "Pruned against all scores, CPU time (bar: 1.05; at K = 847: 0.3; at K = 20,000: 0.2)",
        *("masks", "K", "pruned ms", "dense ms", "time ratio", "pixels that differ"),
    )
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with torch.inference_mode():
        for title, make in (("san_tiny, trained", _trained), ("ViT-B/16, made up", _made_up)):
            features, rows, geometry = make(size)
            masks = features.mask_logits[0].to(device)
            for labels in classes:
                logits = features.mask_embeddings[0] @ _more(rows, labels).T
                given = masks, logits.softmax(-1)[:, :-1].to(device), geometry
                calls = {
                    "pruned": lambda given=given: label_map(*given),
                    "dense": lambda given=given: label_map(*given, prune=False),
                }
                differing = int((calls["pruned"]() != calls["dense"]()).sum())
                clock = time.process_time if device == "cpu" else time.perf_counter
                times = interleaved(calls, rounds, device, clock, warm=False)
                cells = [spread(1e3 * times[side], 0) for side in calls]
                table.add_row(title, str(labels), *cells, ratio(*times.values()), str(differing))
    show(table, f"{size[0]} × {size[1]} pixels, device {device}. Below K = 100, both sides are dense.")


def _trained(size: tuple[int, int]) -> "tuple[Features, Tensor, Geometry]":
    """Features of a drawn scene, classifier rows of its 847 names with "no object" last, and the geometry."""
    from ovss_ray.datasets.scenes import BENCHMARKS, OCCURRING, scene
    from ovss_ray.models import zoo
    from ovss_ray.models.san import network

    model = network.load("san_tiny", zoo.files("san_tiny", (None,)))
    image = scene(OCCURRING["847"], "all/validation", 0, size).image
    return (
        model(model.preprocess(image)[0][None]),
        model.classifier(BENCHMARKS["847"].vocabulary),
        model.geometry(image),
    )


def _made_up(size: tuple[int, int]) -> "tuple[Features, Tensor, Geometry]":
    """The same of a drawn photograph and made-up weights, with random rows."""
    import torch
    from torch.nn import functional as F

    from perf import pictures
    from perf.san import made_up

    model, image = made_up("san_vit_b_16"), pictures.photograph(size)
    torch.manual_seed(0)
    rows = 100 * F.normalize(torch.randn(848, model.variant.embed), dim=-1)
    return model(model.preprocess(image)[0][None]), rows, model.geometry(image)


def _more(rows: "Tensor", labels: int) -> "Tensor":
    """Rows for K classes and "no object": the first of those given, then copies of them with noise of a third."""
    import torch
    from torch.nn import functional as F

    torch.manual_seed(labels)
    classes = rows[torch.arange(labels) % (len(rows) - 1)]
    noise = F.normalize(torch.randn_like(classes), dim=-1) * classes.norm(dim=-1, keepdim=True) / 3
    noise[: len(rows) - 1] = 0
    noisy = F.normalize(classes + noise, dim=-1) * classes.norm(dim=-1, keepdim=True)
    return torch.cat([noisy, rows[-1:]])


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
    return lambda: label_map(*given, geometry), lambda: plain(*given, geometry)


def plain(masks: "Tensor", probabilities: "Tensor", geometry: "Geometry") -> np.ndarray:
    """Return the label map (H, W) uint16 by the official computation, with all K × H × W scores."""
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
