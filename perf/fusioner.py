"""CPU seconds of Fusioner per episode, next to the official order of computing.

Ours encodes the prompts of a class once per run, and the windows of a photograph once for all of its classes. The
official order encodes the 32 prompts, padded to the tower's context, and the image for every window of every episode.
Its time per episode does not depend on the number of classes. Both sides have the same windows, and their logits are
compared. The weights are made up.

"allowed" is the ratio of floating-point operations: two per multiply-add of linear layers and convolutions.
"""

import os
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovss_ray.models import fake as fakes
from ovss_ray.models import text
from ovss_ray.models.checkpoint import shapes
from ovss_ray.models.fusioner import network
from ovss_ray.models.fusioner.network import Fusioner, Inputs
from ovss_ray.models.fusioner.variants import VARIANTS, Variant
from ovss_ray.structures.vocabulary import Vocabulary
from perf import pictures
from perf.timing import interleaved, ratio, show, spread, titled

CLASSES = (1, 2, 3, 5)
"""Numbers of classes per photograph"""


def measure(name: str, size: tuple[int, int], device: str, rounds: int) -> None:
    """Print the table of one variant."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model = made_up(name).to(device)
    inputs = model.preprocess(pictures.photograph(size))
    words = [Vocabulary.of([f"thing number {number}"]) for number in range(max(CLASSES))]
    clock = time.process_time if device == "cpu" else time.perf_counter
    with torch.inference_mode():
        rows = network.embed(model.text_model, words, model.variant)
        corner = model.preprocess(
            pictures.photograph((model.variant.side,) * 2)
        )  # also loads what the first pass needs
        difference = float((episodes(model, corner, rows[:1])[0] - official(model, corner, words[0])).abs().max())
        assert difference < 1e-3, f"the logits of both sides differ by {difference}"
        sides: dict[str, Callable[[], object]] = {"official": partial(official, model, inputs, words[0])}
        sides |= {str(count): partial(episodes, model, inputs, rows[:count]) for count in CLASSES}
        times = interleaved(sides, rounds, device, clock, warm=False)
    table = titled(f"{name}: an episode", "classes", "s", "official s", "official / ours", "allowed", "share of it")
    for count in CLASSES:
        spent, allowed = times[str(count)] / count, _allowed(model.variant, count)
        share = spread(times["official"] / spent / allowed)
        numbers = spread(spent), spread(times["official"]), ratio(times["official"], spent), f"{allowed:.2f}", share
        table.add_row(str(count), *numbers)
    height, width = size
    about = f"One photograph of {height} × {width} pixels, {len(inputs.windows)} windows, float32, device {device}"
    show(table, f"{about}; seconds of the processor on a CPU. Largest difference of logits: {difference:.1e}.")


def made_up(name: str) -> Fusioner:
    """The network with made-up weights, on the CPU."""
    with torch.device("meta"):
        model = Fusioner(VARIANTS[name])
    state = {key: fakes.tensor(key, shape) for key, shape in shapes(model).items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


def episodes(model: Fusioner, inputs: Inputs, rows: list[Tensor]) -> list[Tensor]:
    """Logits (1, H, W) of the episodes of one photograph, as the stage computes them from embedded names."""
    visual = model.visual(inputs.windows)
    every = [row.expand(len(visual), -1, -1) for row in rows]
    windows = model.logits(visual.repeat(len(rows), 1, 1), torch.cat(every))
    together = list(windows)
    count = len(visual)
    return [inputs.layout.mean(together[begin : begin + count]) for begin in range(0, len(together), count)]


def official(model: Fusioner, inputs: Inputs, words: Vocabulary) -> Tensor:
    """Logits (1, H, W) of one episode in the official order: prompts and image anew for each window."""

    def window(pixels: Tensor) -> Tensor:
        row = embedding(model, words.names[0])
        return next(model.logits(model.visual(pixels[None]), row[None, None]))

    return inputs.layout.mean(window(pixels) for pixels in inputs.windows)


def embedding(model: Fusioner, name: str) -> Tensor:
    """The embedding (D,) of a name: all its prompts in one pass, padded to the context, all tokens in all blocks."""
    tower = model.text_model
    prompts = [template.format(name) for template in text.TEMPLATES[model.variant.templates]]
    tokens, lengths = text.tokenise(prompts, tower.context, tower.words)
    x = tower.token_embedding(tokens.to(tower.text_projection.device)) + tower.positional_embedding
    for block in tower.transformer["resblocks"].children():
        x = block(x, partial(F.scaled_dot_product_attention, is_causal=True))
    ends = tower.ln_final(x)[torch.arange(len(prompts)), lengths.to(x.device) - 1] @ tower.text_projection
    return F.normalize(F.normalize(ends, dim=-1).mean(0), dim=-1)


def _allowed(variant: Variant, classes: int) -> float:
    """The ratio of operations of both orders, for a photograph with a number of classes."""
    clip, width = variant.clip, variant.width
    tokens, templates = clip.grid**2, len(text.TEMPLATES[variant.templates])
    image = 24 * clip.layers * (tokens + 1) * clip.width**2
    prompts = 24 * clip.text_layers * templates * clip.context * clip.text_width**2
    fusion = 24 * variant.layers * (tokens + 1) * width**2
    sides = [clip.grid * 2**number for number in range(variant.doublings + 1)]
    decoder = 2 * width**2 * (9 * int(np.square(sides).sum()) + sides[-1] ** 2)
    return (image + prompts + fusion + decoder) / (image / classes + fusion + decoder)
