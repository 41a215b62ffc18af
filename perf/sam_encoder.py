"""SAM's image encoder: what its precision, compiling it and CUDA graphs gain, and what compiling costs at the start.

The weights are made up: the time does not depend on them. Every way is compared with the plain one, float32 and not
compiled, in time and in what it makes. Needs neither Ray nor checkpoints.
"""

import os

import torch

from ovss_ray.models.sam.network import Sam
from ovss_ray.models.sam.variants import VARIANTS
from perf import pictures
from perf.timing import interleaved, ratio, show, spread, titled
from tests import official_sam

PLAIN = "fp32"
WAYS = {
    PLAIN: ("fp32", None),
    "fp32, compiled": ("fp32", "default"),
    "bf16": ("bf16", None),
    "bf16, compiled": ("bf16", "default"),
}
GRAPHS = {
    "fp32, compiled, CUDA graphs": ("fp32", "reduce-overhead"),
    "bf16, compiled, CUDA graphs": ("bf16", "reduce-overhead"),
}
"""Where there is a GPU."""


def measure(name: str, images: int, device: str, compiled: bool, rounds: int) -> None:
    """Print the table of one variant; without what is compiled, if `compiled` is False."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.compiler.reset()  # it bounds how often one function is compiled, for all variants together
    models, started = {}, {}
    for way, (precision, mode) in (WAYS if device == "cpu" else WAYS | GRAPHS).items():
        if mode and not compiled:
            continue
        models[way] = made_up(name, precision, device)
        started[way] = models[way].compile_for(images, mode) if mode else 0.0
    picture = models[PLAIN].preprocess(pictures.photograph((683, 1024)))
    inputs = picture.expand(images, -1, -1, -1).to(device)
    with torch.inference_mode():
        made = {way: model.encode(inputs) for way, model in models.items()}
        times = interleaved({way: lambda m=model: m.encode(inputs) for way, model in models.items()}, rounds, device)
    table = titled(
        f"{name}: its image encoder, {images} images at a time",
        *("way", "seconds to compile", "ms an image", "times the rate of the first", "largest difference"),
    )
    for way, spent in times.items():
        apart = float((made[way] - made[PLAIN]).abs().max() / made[PLAIN].abs().max())
        cells = (f"{started[way]:.1f}", spread(1e3 * spent / images, 1), ratio(times[PLAIN], spent), f"{apart:.1e}")
        table.add_row(way, *cells)
    show(table, f"Made-up weights, device {device}. Differences are parts of the largest value.")


def made_up(name: str, precision: str, device: str) -> Sam:
    """The network with made-up weights."""
    with torch.device("meta"):
        model = Sam(VARIANTS[name])
    model.load_state_dict(official_sam.state(VARIANTS[name]), assign=True)
    model.precision = precision
    return model.eval().requires_grad_(False).to(device)
