"""Made-up checkpoints in the official format, to try speed and plumbing without the real ones.

Every tensor follows from its name, its shape and a seed alone. Plain random values make a network that answers with one
label everywhere, so some tensors are scaled, and three biases are recentred: queries and words then differ from each other.
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
from ovss_ray.models import checkpoint
from ovss_ray.models.san import UNUSED, San, pool
from ovss_ray.models.san_variants import VARIANTS, Variant
from ovss_ray.weights import FAKE

SCALES = {
    "side_adapter_network.query_embed": 150.0,
    "side_adapter_network.mask_decoder.pix_mlp.layers.2.weight": 0.5,
    "side_adapter_network.mask_decoder.attn_mlp.layers.2.weight": 0.5,
    "clip_rec_head.resblocks.*.attn.out_proj.weight": 4.0,
}
WORDS = ("sky", "building", "road", "tree", "car", "person", "dog", "chair", "window", "water")
TRAINING_CLASSES = 171
"""Of COCO-Stuff, which SAN was trained on; the official checkpoints hold a loss weight for each, and for "no object"."""


def write(name: str, path: Path, seed: int = 0, overrides: Mapping[str, np.ndarray] | None = None) -> None:
    """Write a made-up checkpoint of a variant, as detectron2 does: the state dict under "model", beside the iteration.

    `overrides` replace entries after the scaling; without any, three biases are recentred over a made-up image and a few
    words. The entry weights.FAKE marks the file, for reports to say so. Raises UnknownName.
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
    state = {name: _scaled(name, tensor(name, shape, seed)) for name, shape in checkpoint.shapes(model).items()}
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


def _scaled(name: str, value: Tensor) -> Tensor:
    return value * next((scale for pattern, scale in SCALES.items() if fnmatch(name, pattern)), 1.0)


@torch.inference_mode()
def _recentre(model: San, seed: int) -> None:
    """Take from three biases what all queries, all masks and all words have in common, on a made-up image."""
    image = model.preprocess(_image(seed))[0][None]
    maps, tokens = model.clip_visual_extractor(model.clip_input(image), model.variant.fusion)
    queries, patches = model.side_adapter_network(image, maps)
    decoder, head, tower = model.side_adapter_network.mask_decoder, model.clip_rec_head, model.ov_classifier
    decoder.query_mlp.layers[-1].bias -= decoder.query_mlp(queries).mean((0, 1))
    bias = decoder(queries, patches)[1]
    head.ln_post.bias -= head.ln_post(head.sls_tokens(tokens, pool(bias, maps[0].shape[-2:]))).mean((0, 1))
    prompts = [template.format(word) for word in WORDS for template in text.TEMPLATES["vild"]]
    words = [tokens[None, :length] for tokens, length in zip(*text.tokenise(prompts, tower.context), strict=True)]
    tower.ln_final.bias -= torch.cat([tower.last_tokens(word) for word in words]).mean(0)


def _image(seed: int) -> np.ndarray:
    """Smooth blobs of colour with some noise, (480, 640, 3) uint8."""
    drawn = np.random.default_rng(seed)
    coarse = torch.from_numpy(drawn.uniform(0, 255, (1, 3, 8, 10)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, (480, 640), mode="bicubic", align_corners=False)[0]
    noisy = smooth.permute(1, 2, 0).numpy() + drawn.normal(0, 8, (480, 640, 3))
    return noisy.clip(0, 255).astype(np.uint8)
