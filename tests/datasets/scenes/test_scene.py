"""Scenes are drawn the same everywhere, and their labels are exact."""

import hashlib

import numpy as np
import pytest

from ovss_ray.datasets.scenes.patterns import NAMED, PATTERNS
from ovss_ray.datasets.scenes.scene import COLOURS, Thing, draw
from ovss_ray.datasets.scenes.shapes import SHAPES
from ovss_ray.datasets.scenes.surfaces import SURFACES


def numbers(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_silhouette_fits_its_circle_and_differs_from_all_others(shape: str) -> None:
    u, v = np.meshgrid(np.linspace(-1.25, 1.25, 101, dtype=np.float32), np.linspace(-1.25, 1.25, 101, dtype=np.float32))
    inside = SHAPES[shape](u, v)
    assert not inside[u * u + v * v > 1.25].any()
    assert 0.15 < inside.sum() / (u * u + v * v < 1).sum() < 0.9
    for other in SHAPES.keys() - {shape}:
        theirs = SHAPES[other](u, v)
        assert (inside & theirs).sum() < 0.75 * (inside | theirs).sum(), other


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_leaves_most_of_a_thing_in_its_main_colour(pattern: str) -> None:
    s, t = np.meshgrid(np.linspace(-1, 1, 101, dtype=np.float32), np.linspace(-1, 1, 101, dtype=np.float32))
    share = [PATTERNS[pattern](numbers(seed), s, t, np.float32(0.45)).mean() for seed in range(5)]
    assert np.mean(share) <= 0.55
    assert (np.mean(share) > 0.2) == (pattern != "plain")


@pytest.mark.parametrize("surface", SURFACES)
def test_a_surface_fills_any_size_with_colours_in_range(surface: str) -> None:
    for size in ((208, 384), (1, 256), (37, 51)):
        texture = SURFACES[surface](numbers(1), size)
        assert texture.shape == (*size, 3)
        assert texture.dtype == np.float32
        assert -0.3 < texture.min() <= texture.max() < 1.3


def test_regions_are_where_things_are_drawn() -> None:
    """A white thing without noise on it is found again by its colour."""
    scene = draw(numbers(3), (256, 320), [Thing("white", "plain", "ring"), Thing("red", "plain", "ball")])
    red = scene.contents.index(Thing("red", "plain", "ball"))
    pixels = scene.image[scene.regions == red].astype(int)
    assert len(pixels) > 1500
    assert np.mean((pixels[:, 0] > 90) & (pixels[:, 0] > 2 * pixels[:, 1])) > 0.97
    elsewhere = scene.image[scene.regions != red].astype(int)
    assert np.mean((elsewhere[:, 0] > 90) & (elsewhere[:, 0] > 3 * elsewhere[:, 1])) < 0.02


def test_what_is_drawn_last_lies_in_front() -> None:
    things = [Thing("blue", "plain", "ball")] * 40
    scene = draw(numbers(5), (256, 320), things)
    counts = np.bincount(scene.regions.ravel(), minlength=len(scene.contents))
    assert counts[-1] > counts[-40:-20].mean()
    assert scene.regions.max() == len(scene.contents) - 1


def test_a_scene_is_the_same_to_the_last_bit_on_every_machine() -> None:
    digest = hashlib.sha256()
    for seed in range(6):
        things = [Thing(*one) for one in zip(list(COLOURS)[seed:], NAMED, list(SHAPES)[seed::-1], strict=False)]
        things += [Thing(None, None, shape) for shape in list(SHAPES)[:2]]
        scene = draw(numbers(seed), (208 + 16 * seed, 384 - 16 * seed), things)
        digest.update(scene.image.tobytes() + scene.regions.tobytes() + repr(scene.contents).encode())
    assert digest.hexdigest()[:16] == "a376a0378ab5e1bf"
