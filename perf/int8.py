"""8-bit integers in the linear layers of image transformers (models/runtime/int8.py): cost and gain.

The cost is the change of the mIoU of the small networks on drawn scenes; the gain is the time of a large network, whose
weights are made up. The small networks gain nothing: their layers are too narrow.
"""

import copy
import os
import time
from collections.abc import Sequence

import torch

from ovss_ray.models.runtime import int8
from ovss_ray.models.san import network
from perf import pictures
from perf.gpu import tiny
from perf.san import made_up
from perf.timing import interleaved, ratio, show, spread, titled


def miou(count: int, names: Sequence[str] = ()) -> None:
    """Print the mIoU of small networks in both precisions, over `count` scenes of each benchmark."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    table = titled("mIoU of the small networks in percent", "config", "fp32", "int8", "difference")
    for name in names or tiny.PIPELINES:
        full, rounded = (tiny.miou(name, precision, "cpu", count) for precision in ("fp32", "int8"))
        table.add_row(name, f"{full:.2f}", f"{rounded:.2f}", f"{rounded - full:+.2f}")
    show(table, f"{count} scenes of each of the benchmarks {', '.join(tiny.BENCHMARKS)}; device cpu.")


def seconds(name: str, size: tuple[int, int], rounds: int) -> None:
    """Print the time of a SAN's forward pass over one photograph in both precisions, and how far the results differ."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    full = made_up(name)
    rounded = int8.placed(copy.deepcopy(full), "cpu", "int8", network.TOWERS)
    inputs = full.preprocess(pictures.photograph(size))[0][None]
    with torch.inference_mode():
        calls = {"fp32": lambda: full(inputs), "int8": lambda: rounded(inputs)}
        times = interleaved(calls, rounds, "cpu", time.process_time)
        masks, others = full(inputs).mask_logits, rounded(inputs).mask_logits
    title = f"{name}, made-up weights: the network without preprocessing and argmax"
    table = titled(title, "precision", "CPU ms", "of fp32")
    for kind, spent in times.items():
        table.add_row(kind, spread(1e3 * spent, 1), ratio(spent, times["fp32"]))
    apart = ((masks > 0) != (others > 0)).float().mean().item()
    height, width = size
    show(table, f"One photograph of {height} × {width} pixels. {apart:.2%} of the cells of the masks differ.")
