"""SAN's stages over one photograph, each timed by itself on what the stage before it has made.

The weights are made up: the time does not depend on them. "text" embeds a vocabulary, once per run and not per image,
so it is timed once and has no share. "whole" is `San.segment` with the vocabulary embedded. "official" is the official
computation, written plainly (perf/san_plain.py). Needs neither Ray nor checkpoints. Times on a CPU are CPU seconds.
"""

import os
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovss_ray.models.san import fake, network
from ovss_ray.models.san.variants import VARIANTS
from ovss_ray.structures.vocabulary import Vocabulary
from perf import pictures, san_plain
from perf.timing import interleaved, ratio, show, spread, titled

IMAGE = ("preprocess", "CLIP, shallow", "side adapter", "CLIP, deep", "semantic inference")
"""The stages that every image goes through."""


def measure(name: str, size: tuple[int, int], classes: int, device: str, rounds: int, text: bool = True) -> None:
    """Print the table of one variant. Without `text`, the embeddings of the vocabulary are random."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model = made_up(name).to(device)
    with torch.inference_mode():
        clock = time.process_time if device == "cpu" else time.perf_counter
        calls, seconds = stages(model, pictures.photograph(size), classes, clock, text)
        times = interleaved(calls, rounds, device, clock)
    title = f"{name}: its stages (bar for the whole at K = 847: 0.38 of the official)"
    table = titled(title, "stage", "ms", "share of an image", "of the official")
    total = np.sum([times[stage] for stage in IMAGE], axis=0)
    for stage, spent in times.items():
        share = "" if stage == "official" else spread(100 * spent / total, 1) + " %"
        table.add_row(stage, spread(1e3 * spent, 1), share, ratio(spent, times["official"]))
    table.add_row("text", f"{1e3 * seconds:,.1f}" if text else "random", "", "")
    height, width = size
    show(table, f"One photograph of {height} × {width} pixels, {classes} classes, float32, device {device}.")


def made_up(name: str) -> network.San:
    """The network with made-up weights, on the CPU."""
    with torch.device("meta"):
        model = network.San(VARIANTS[name])
    state = fake.state_dict(VARIANTS[name], overrides={})  # given none to override, no biases are recentred: faster
    model.load_state_dict({key: value for key, value in state.items() if key not in network.UNUSED}, assign=True)
    return model


def stages(
    model: network.San, image: np.ndarray, classes: int, clock: Callable[[], float], text: bool
) -> tuple[Mapping[str, Callable[[], object]], float]:
    """Return stage → call, and the seconds of embedding the vocabulary.

    Each call works on inputs that were made before. They are checked to add up to `San.segment`.
    """
    vocabulary = Vocabulary.of([f"thing number {number}" for number in range(classes)])
    adapter, fusion = model.side_adapter_network, model.variant.fusion

    def preprocess() -> Tensor:
        return model.preprocess(image)[0][None].to(model.device)

    def shallow() -> tuple[dict[int, Tensor], Tensor]:
        return model.clip_visual_extractor(model.clip_input(inputs), fusion)

    def side() -> tuple[Tensor, Tensor]:
        return adapter.mask_decoder(*adapter(inputs, maps))

    def deep() -> Tensor:
        return model.clip_rec_head(tokens, network.pool(bias, maps[fusion[-1]].shape[-2:]))[0]

    def inference() -> np.ndarray:
        return model.labels(masks[0], embeddings @ words.T, image, vocabulary)

    def official() -> np.ndarray:
        return san_plain.segment(model, image, words)

    inputs = preprocess()
    maps, tokens = shallow()
    masks, bias = side()
    embeddings = deep()
    begun = clock()
    if not text:
        torch.manual_seed(0)
        rows = 100 * F.normalize(torch.randn(classes + 1, model.variant.embed), dim=-1).to(model.device)
        model.classifiers.get(vocabulary.digest, lambda: rows)
    words = model.classifier(vocabulary)  # cached in the network from now on
    seconds = clock() - begun
    differing = (inference() != model.segment(image, vocabulary)).mean()
    assert differing <= 0.001, f"the stages do not add up to San.segment: {differing:.2%} of the pixels differ"
    differing = (inference() != official()).mean()
    assert differing <= 0.001, f"the official form has other labels: {differing:.2%} of the pixels differ"
    calls = dict(zip(IMAGE, (preprocess, shallow, side, deep, inference), strict=True))
    return {**calls, "whole": lambda: model.segment(image, vocabulary), "official": official}, seconds
