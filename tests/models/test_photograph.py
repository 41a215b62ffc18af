"""What the networks take for a photograph, and what they answer to anything else."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ovss_ray import models
from ovss_ray.models.photograph import padded_size, resized_size, rgb
from ovss_ray.models.sam.generator import Generator
from ovss_ray.models.sam_layers.points import Settings
from ovss_ray.models.san.variants import VARIANTS

PHOTO = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
GREY = PHOTO[..., 0]
WORDS = ["sky", "road"]
MASKS = np.ones((1, 24, 32), bool)
SIDES = VARIANTS["san_vit_b_16"]

ODD: dict[str, tuple[Any, str]] = {
    "colours first": (PHOTO.transpose(2, 0, 1), r"\(3, 24, 32\) and dtype uint8.*image\.transpose\(1, 2, 0\)"),
    "floats": (PHOTO / 255, r"\(24, 32, 3\) and dtype float64.*255"),
    "16 bits": (PHOTO.astype(np.uint16), "dtype uint16.*0 to 255"),
    "truth values": (PHOTO > 99, "dtype bool"),
    "two channels": (PHOTO[..., :2], r"\(24, 32, 2\)"),
    "five channels": (np.dstack([PHOTO, PHOTO[..., :2]]), r"\(24, 32, 5\)"),
    "a batch": (PHOTO[None], r"\(1, 24, 32, 3\).*one by one"),
    "a row": (PHOTO[0, 0], r"\(3,\)"),
    "no rows": (PHOTO[:0], r"\(0, 32, 3\).*no pixels"),
    "no columns": (PHOTO[:, :0], r"\(24, 0, 3\).*no pixels"),
    "nothing": (np.empty(0, np.uint8), r"\(0,\).*no pixels"),
    "a name": ("street.jpg", r"a str, not an array.*images\.decode"),
    "a path": (Path("street.jpg"), r"PosixPath, not an array.*images\.decode"),
    "bytes": (b"\xff\xd8\xff", r"a bytes, not an array.*images\.decode"),
    "an image of Pillow": (Image.fromarray(PHOTO), r"Image.*numpy\.asarray"),
    "a tensor": (torch.zeros(3, 24, 32), r"a Tensor of shape \(3, 24, 32\) and dtype torch\.float32.*numpy\(\)"),
    "None": (None, "a NoneType"),
    "a list": (PHOTO.tolist(), "a list, not an array"),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_photograph_is_a_value_error_that_says_what_is_wanted(kind: str) -> None:
    image, said = ODD[kind]
    with pytest.raises(ValueError, match=said) as caught:
        rgb(image)
    assert "(H, W, 3) of uint8, RGB" in str(caught.value)


def test_grey_is_repeated_and_alpha_is_dropped() -> None:
    grey = np.dstack([GREY] * 3)
    assert np.array_equal(rgb(GREY), grey)
    assert np.array_equal(rgb(GREY[..., None]), grey)
    assert np.array_equal(rgb(np.dstack([PHOTO, GREY])), PHOTO)
    assert np.shares_memory(rgb(PHOTO), PHOTO)
    assert np.array_equal(rgb(PHOTO[:, ::-1]), PHOTO[:, ::-1])


loaded = cache(models.load)


def answers(image: Any) -> list[np.ndarray]:
    """The answer of each public way into a network, of those that come with the package."""
    san, sam, alpha_clip = (loaded(name) for name in ("san_tiny", "sam_tiny", "alpha_clip_tiny"))
    return [
        san.segment(image, WORDS),
        san.predict(image, WORDS).class_logits.numpy(),
        sam.embed(image).embedding.numpy(),
        sam.predict(image, points=[[9, 9]], labels=[1]).logits,
        Generator(sam, Settings(points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0))
        .generate([image])[0]
        .boxes,
        alpha_clip.classify(image, MASKS, WORDS).numpy(),
    ]


@pytest.mark.parametrize(
    ("image", "same"),
    [
        (GREY, np.dstack([GREY] * 3)),
        (GREY[..., None], np.dstack([GREY] * 3)),
        (np.dstack([PHOTO, GREY]), PHOTO),
        (PHOTO[:, ::-1], PHOTO[:, ::-1].copy()),
    ],
    ids=["grey", "one channel", "RGBA", "mirrored view"],
)
def test_every_network_takes_grey_and_rgba(image: np.ndarray, same: np.ndarray) -> None:
    for found, expected in zip(answers(image), answers(same), strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("way", ["segment", "predict", "embed", "click", "generate", "classify", "preprocess"])
@pytest.mark.parametrize("kind", ["colours first", "floats", "no rows", "a name"])
def test_every_way_into_a_network_refuses_what_is_no_photograph(way: str, kind: str) -> None:
    image, said = ODD[kind]
    san, sam, alpha_clip = (loaded(name) for name in ("san_tiny", "sam_tiny", "alpha_clip_tiny"))
    ways = {
        "segment": lambda: san.segment(image, WORDS),
        "predict": lambda: san.predict(image, WORDS),
        "preprocess": lambda: san.preprocess(image),
        "embed": lambda: sam.embed(image),
        "click": lambda: sam.predict(image, points=[[9, 9]], labels=[1]),
        "generate": lambda: Generator(sam).generate([image]),
        "classify": lambda: alpha_clip.classify(image, MASKS, WORDS),
    }
    with pytest.raises(ValueError, match=said):
        ways[way]()


def test_one_image_in_the_place_of_a_list_of_images_is_an_error() -> None:
    with pytest.raises(ValueError, match=re.escape("generate([image])")):
        Generator(loaded("sam_tiny")).generate(PHOTO)


@pytest.mark.parametrize(
    ("size", "resized", "padded"),
    [
        ((360, 480), (640, 853), (640, 864)),
        ((1080, 810), (853, 640), (864, 640)),
        ((100, 400), (640, 2560), (640, 2560)),
        ((100, 1000), (256, 2560), (256, 2560)),
        ((3333, 300), (2560, 230), (2560, 256)),
        ((640, 640), (640, 640), (640, 640)),
        ((1, 10_000), (1, 2560), (32, 2560)),
    ],
)
def test_sizes_follow_the_short_side_unless_the_long_side_would_pass_2560(
    size: tuple[int, int], resized: tuple[int, int], padded: tuple[int, int]
) -> None:
    assert resized_size(*size, SIDES) == resized
    assert padded_size(*size, SIDES) == padded
