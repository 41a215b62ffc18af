"""Made-up checkpoints in the official format, to try speed and plumbing without the real ones.

Every tensor follows from its name, its shape and a seed alone. Plain random values make a network that answers with one
label everywhere, so some tensors are scaled, and three biases are recentred: queries and words then differ from each
other, and photographs get several labels. The labels mean nothing.
"""

import os
import uuid
import zlib
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ovss_ray import text
from ovss_ray.errors import UnknownName
from ovss_ray.models.checkpoint import shapes
from ovss_ray.models.san import UNUSED, San, pool
from ovss_ray.models.san_variants import VARIANTS, Variant
from ovss_ray.weights import FAKE

SCALES = {
    "side_adapter_network.query_embed": 150.0,
    "side_adapter_network.mask_decoder.pix_mlp.layers.2.weight": 0.5,
    "side_adapter_network.mask_decoder.attn_mlp.layers.2.weight": 0.5,
    "clip_rec_head.resblocks.*.attn.out_proj.weight": 4.0,
}
"""Of all made-up checkpoints."""
QUIET = {
    "clip_visual_extractor.resblocks.*.attn.out_proj.weight": 0.1,
    "clip_visual_extractor.resblocks.*.mlp.c_proj.weight": 0.1,
}
"""Of those that are recentred: random attention averages over the image, and then all patches would look alike."""
WORDS = ("sky", "building", "road", "tree", "car", "person", "dog", "chair", "window", "water")
TRAINING_CLASSES = 171
"""Of COCO-Stuff, which SAN was trained on: official checkpoints hold a loss weight for each, and for "no object"."""


def write(name: str, path: Path, seed: int = 0, overrides: Mapping[str, np.ndarray] | None = None) -> None:
    """Write a made-up checkpoint of a variant, as detectron2 does: the state dict under "model", beside the iteration.

    `overrides` replace entries after the scaling; without any, three biases are recentred over made-up images and a
    few words. The entry weights.FAKE marks the file, for reports to say so. Raises UnknownName.
    """
    if name not in VARIANTS:
        raise UnknownName("model that can be made up", name, VARIANTS)
    content = {"model": state_dict(VARIANTS[name], seed, overrides), "iteration": 0, FAKE: {"name": name, "seed": seed}}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        torch.save(content, aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def state_dict(variant: Variant, seed: int = 0, overrides: Mapping[str, np.ndarray] | None = None) -> dict[str, Tensor]:
    """All entries of an official checkpoint, float32: the network's, and those that inference does not use."""
    with torch.device("meta"):
        model = San(variant)
    scales = SCALES | (QUIET if overrides is None else {})
    state = {name: _scaled(tensor(name, shape, seed), name, scales) for name, shape in shapes(model).items()}
    if overrides is None:
        model.load_state_dict(state, assign=True)
        _recentre(model.eval(), seed)
    state |= {name: torch.from_numpy(value) for name, value in (overrides or {}).items()}
    mask, loss_weight = UNUSED
    state[mask] = torch.full((variant.context, variant.context), -torch.inf).triu(1)
    state[loss_weight] = tensor(loss_weight, (TRAINING_CLASSES + 1,), seed)
    return state


def tensor(name: str, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """The made-up value of an entry, float32: normal, of a spread that keeps a network's signals of one size.

    Norm scales are near one, biases near zero, matrices divided by the root of their fan-in; a temperature is 100.
    """
    last = name.rpartition(".")[2]
    if last == "logit_scale":
        return torch.full(shape, float(np.log(100)))
    drawn = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        drawn = drawn / np.sqrt(np.prod(shape[1:], dtype=int))
    elif last == "weight":
        drawn = 1 + 0.05 * drawn
    else:
        drawn = 0.02 * drawn
    return torch.from_numpy(np.asarray(drawn, np.float32))


def _scaled(value: Tensor, name: str, scales: Mapping[str, float]) -> Tensor:
    return value * next((scale for pattern, scale in scales.items() if fnmatch(name, pattern)), 1.0)


@torch.inference_mode()
def _recentre(model: San, seed: int) -> None:
    """Take from three biases what all queries, all masks and all words have in common, on made-up images."""
    images = torch.stack([model.preprocess(image)[0][:, :320, :320] for image in _images(seed)])
    maps, tokens = model.clip_visual_extractor(model.clip_input(images), model.variant.fusion)
    queries, patches = model.side_adapter_network(images, maps)
    decoder, head, tower = model.side_adapter_network.mask_decoder, model.clip_rec_head, model.ov_classifier
    decoder.query_mlp.last()[1].sub_(decoder.query_mlp(queries).mean((0, 1)))
    pixel = decoder.pix_mlp(patches).mean((0, 2, 3))
    spread = decoder(queries, patches)[0].std()
    decoder.query_mlp.last()[1].sub_(2 * spread * pixel / pixel.square().sum())  # few masks at a pixel, not half
    bias = pool(decoder(queries, patches)[1], maps[0].shape[-2:])
    head.ln_post.bias.sub_(head.ln_post(head.sls_tokens(tokens, bias)).mean((0, 1)))
    prompts = [template.format(word) for word in WORDS for template in text.TEMPLATES["vild"]]
    words = [
        tokens[None, :length]
        for tokens, length in zip(*text.tokenise(prompts, tower.context, tower.words), strict=True)
    ]
    tower.ln_final.bias.sub_(torch.cat([tower.last_tokens(word) for word in words]).mean(0))


def _images(seed: int, count: int = 4) -> list[np.ndarray]:
    """Clouds with the spectrum of photographs, amplitude 1 / frequency, in dull colours: each (480, 640, 3) uint8."""
    drawn = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(480)[:, None] * 480, np.fft.rfftfreq(640) * 640)
    frequency[0, 0] = np.inf
    made = []
    for _ in range(count):
        phases = np.exp(2j * np.pi * drawn.random((3, *frequency.shape)))
        colours = np.fft.irfft2(phases / frequency, s=(480, 640)).transpose(1, 2, 0)
        dull = 0.7 * colours.mean(2, keepdims=True) + 0.3 * colours
        contrast, brightness = drawn.uniform(25, 60), drawn.uniform(80, 160)
        made.append((brightness + contrast * dull / dull.std()).clip(0, 255).astype(np.uint8))
    return made
