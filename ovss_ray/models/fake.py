"""Fake checkpoints in the official format, to test speed and installation without released checkpoints.

A family supports fake checkpoints if it has a module `fake` with a function `state_dict(variant, seed)`. Predictions
with fake weights are meaningless.
"""

import importlib
import zlib
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ovss_ray import registry
from ovss_ray.errors import UnknownName
from ovss_ray.models import checkpoint, text, zoo
from ovss_ray.models.clip import TextTower

WORDS = ("sky", "building", "road", "tree", "car", "person", "dog", "chair", "window", "water")
"""Class names. `recentre_words` averages the text features of prompts that contain these names."""


def write(name: str, path: str | Path, seed: int = 0) -> None:
    """Write a fake checkpoint of a network.

    Raises UnknownName for an unknown network, and for a network whose family has no module `fake`.
    """
    kind = "network with fake weights"
    family, variant = zoo.family_of(name, kind)
    if not registry.exists(f"{family}.fake"):
        raise UnknownName(kind, name, zoo.fakeable())
    made_up = importlib.import_module(f"{family}.fake").state_dict(zoo.variants(family)[variant], seed)
    save(name, made_up, Path(path), seed)


def save(name: str, state: Mapping[str, Tensor], path: Path, seed: int = 0) -> None:
    """Write a fake checkpoint in detectron2's format: the state dict under "model", and an iteration number.

    The entry zoo.FAKE contains the network's name `name`, and `seed`. Reports recognise fake weights by the key
    zoo.FAKE.
    """
    checkpoint.write({"model": dict(state), "iteration": 0, zoo.FAKE: {"name": name, "seed": seed}}, path)


def tensor(name: str, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Return a float32 tensor of fake values for the entry `name` of a state dict.

    Equal arguments give equal values. The values depend on the number of axes, and on the last part of `name`:

    - `logit_scale`: log 100
    - two or more axes: normal random numbers, scaled so that a layer keeps the variance of its input
    - one axis, and the last part is `weight`, as in the scale of a norm: random numbers near 1
    - one axis, and another last part, such as `bias`: random numbers near 0
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


def scaled(value: Tensor, name: str, scales: Mapping[str, float]) -> Tensor:
    """Return `value` times the factor of the first pattern in `scales` that matches `name`, else `value`.

    `scales` maps patterns, such as "*.mlp.c_proj.weight", to factors.
    """
    return value * next((scale for pattern, scale in scales.items() if fnmatch(name, pattern)), 1.0)


@torch.inference_mode()
def recentre_words(tower: TextTower) -> None:
    """Shift the bias of a text tower's last norm, so that the norm's mean output is zero.

    The mean is over the last tokens of prompts. There is a prompt for each class name in WORDS and each of ViLD's
    templates.
    """
    prompts = [template.format(word) for word in WORDS for template in text.TEMPLATES["vild"]]
    words = [
        tokens[None, :length]
        for tokens, length in zip(*text.tokenise(prompts, tower.context, tower.words), strict=True)
    ]
    tower.ln_final.bias.sub_(torch.cat([tower.last_tokens(word) for word in words]).mean(0))


def clouds(seed: int, count: int = 4) -> list[np.ndarray]:
    """Return `count` random cloudy images (480, 640, 3) uint8. Amplitudes are 1 / frequency, as in photographs."""
    drawn = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(480)[:, None] * 480, np.fft.rfftfreq(640) * 640)
    frequency[0, 0] = np.inf
    images = []
    for _ in range(count):
        phases = np.exp(2j * np.pi * drawn.random((3, *frequency.shape)))
        colours = np.fft.irfft2(phases / frequency, s=(480, 640)).transpose(1, 2, 0)
        dull = 0.7 * colours.mean(2, keepdims=True) + 0.3 * colours
        contrast, brightness = drawn.uniform(25, 60), drawn.uniform(80, 160)
        images.append((brightness + contrast * dull / dull.std()).clip(0, 255).astype(np.uint8))
    return images
