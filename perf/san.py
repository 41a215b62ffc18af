"""SAN's stages over one photograph, each timed by itself on what the stage before it has made.

The weights are made up: the time does not depend on them. "text" embeds a vocabulary, once per run and not per image,
so it has no share. "whole" is `San.segment` with the vocabulary embedded. Needs neither Ray nor checkpoints.
"""

import os
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from ovss_ray.models.san import fake, network
from ovss_ray.models.san.variants import VARIANTS
from ovss_ray.structures.vocabulary import Vocabulary
from perf import pictures
from perf.timing import interleaved, show, spread, titled

IMAGE = ("preprocess", "CLIP, shallow", "side adapter", "CLIP, deep", "semantic inference")
"""The stages that every image goes through."""


def measure(name: str, size: tuple[int, int], classes: int, device: str, rounds: int) -> None:
    """Print the table of one variant."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model = made_up(name).to(device)
    with torch.inference_mode():
        times = interleaved(stages(model, pictures.photograph(size), classes), rounds, device)
    table = titled(f"{name}: its stages", "stage", "ms", "share of an image")
    total = np.sum([times[stage] for stage in IMAGE], axis=0)
    for stage, spent in times.items():
        share = "" if stage == "text" else spread(100 * spent / total, 1) + " %"
        table.add_row(stage, spread(1e3 * spent, 1), share)
    height, width = size
    show(table, f"One photograph of {height} × {width} pixels, {classes} classes, float32, device {device}.")


def made_up(name: str) -> network.San:
    """The network with made-up weights, on the CPU."""
    with torch.device("meta"):
        model = network.San(VARIANTS[name])
    state = fake.state_dict(VARIANTS[name], overrides={})  # given none to override, no biases are recentred: faster
    model.load_state_dict({key: value for key, value in state.items() if key not in network.UNUSED}, assign=True)
    return model


def stages(model: network.San, image: np.ndarray, classes: int) -> Mapping[str, Callable[[], object]]:
    """Stage → call; each works on inputs that were made before. They are checked to add up to `San.segment`."""
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

    def text() -> Tensor:
        return network.classifier(model.ov_classifier, vocabulary)

    def inference() -> np.ndarray:
        return model.labels(masks[0], embeddings @ words.T, image, vocabulary)

    inputs = preprocess()
    maps, tokens = shallow()
    masks, bias = side()
    embeddings, words = deep(), text()
    differing = (inference() != model.segment(image, vocabulary)).mean()
    assert differing <= 0.001, f"the stages do not add up to San.segment: {differing:.2%} of the pixels differ"
    calls = dict(zip(IMAGE, (preprocess, shallow, side, deep, inference), strict=True))
    return {**calls, "whole": lambda: model.segment(image, vocabulary), "text": text}
