"""What the small CLIP is shown and told, and what is asked of it."""

import math

import numpy as np
import pytest
import torch

from ovss_ray.datasets import scenes
from ovss_ray.datasets.scenes.scene import Scene, Thing
from ovss_ray.models.san.network import San
from ovss_ray.models.san.variants import VARIANTS
from ovss_ray.training import captions
from ovss_ray.training import scenes as drawn_scenes
from ovss_ray.training.recipes.clip import task as clip
from ovss_ray.training.recipes.clip.config import Config as ClipTraining

CONFIG = ClipTraining(task="clip", steps=4, batch=2, rate=1e-3, things=(5, 9), unnamed=0.3)


@pytest.fixture(scope="module")
def task() -> clip.Task:
    return clip.Task(CONFIG)


def scene(seed: int = 0) -> Scene:
    return drawn_scenes.batch(seed, 0, 1, (5, 6), width=320)[0]


def test_both_directions_of_the_loss_are_those_of_the_formulas() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 6, generator=generator)
    target = torch.tensor([0, 1, 0, 2, 1])
    shown = torch.rand(5, 6, generator=generator) > 0.3
    shown[torch.arange(5), target] = True
    found = captions.contrastive(logits, target, shown, positives=3)

    def share(r: int, p: int, among: list[tuple[int, int]]) -> float:
        seen = [math.exp(logits[pair]) for pair in among if shown[pair]]
        return math.exp(logits[r, p]) / sum(seen)

    by_region = [share(r, int(p), [(r, q) for q in range(6)]) for r, p in enumerate(target)]
    by_name = [sum(share(r, p, [(q, p) for q in range(5)]) for r in range(5) if target[r] == p) for p in range(3)]
    assert float(found["to_name"]) == pytest.approx(-np.mean(np.log(by_region)), abs=1e-5)
    assert float(found["to_region"]) == pytest.approx(-0.5 * np.mean(np.log(by_name)), abs=1e-5)


def test_a_name_that_says_less_is_not_held_against_a_region() -> None:
    assert captions.implied("red star", "striped red star")
    assert captions.implied("star", "red star")
    for name in ("striped red star", "striped red ball", "spotted red star", "sky"):
        assert not captions.implied(name, "striped red star")


def test_regions_are_told_what_they_show_and_never_a_held_out_name(task: clip.Task) -> None:
    held_out = set(map(scenes.name, scenes.HELD_OUT))
    for step in range(3):
        batch = task.batch(step)
        made = drawn_scenes.batch(CONFIG.seed, step, CONFIG.batch, CONFIG.things, CONFIG.unnamed)
        names = batch["shown"].shape[1]
        template = max((t for t in captions.TEMPLATES if all(_fits(t, p) for p in batch["prompts"])), key=len)
        said = [
            prompt[len(template.split("{}")[0]) :].removesuffix(template.split("{}")[1]) for prompt in batch["prompts"]
        ]
        for row, (i, q) in enumerate(batch["chosen"].tolist()):
            assert said[batch["target"][row]] == scenes.name(made[i].contents[q])
            assert batch["shown"][row, batch["target"][row]]
        assert not held_out & set(said)
        assert [*said[names:]] == [*captions.ATTRIBUTES[0], *captions.ATTRIBUTES[1], *captions.ATTRIBUTES[2]]


def _fits(template: str, prompt: str) -> bool:
    before, after = template.split("{}")
    return prompt.startswith(before) and prompt.endswith(after)


def test_the_same_step_is_the_same_batch(task: clip.Task) -> None:
    one, two = task.batch(7), task.batch(7)
    assert one["prompts"] == two["prompts"]
    for key in ("images", "coverage", "crops", "chosen", "patches", "shown", "target", "attributes"):
        assert torch.equal(one[key], two[key]), key
    assert not torch.equal(one["coverage"], task.batch(8)["coverage"])


def test_coverage_says_which_part_of_a_patch_is_whose() -> None:
    regions = np.zeros((32, 48), np.uint8)
    regions[8:16, 16:48] = 1
    found = drawn_scenes.coverage(regions, 16, 3)
    assert found[1].tolist() == [[0, 0.5, 0.5], [0, 0, 0]]
    assert found[0].tolist() == [[1, 0.5, 0.5], [1, 1, 1]]
    assert not found[2].any()


def test_patches_bear_the_attributes_of_the_thing_that_fills_them() -> None:
    made = scene()
    found = clip.patch_attributes(made, 16)
    middle = made.regions.reshape(16, 16, -1, 16)
    whole = (middle == middle[:, :1, :, :1]).all((1, 3))
    assert whole.sum() > 100
    for y, x in np.argwhere(whole):
        content = made.contents[made.regions[16 * y, 16 * x]]
        assert found[y, x].tolist() == list(captions.Region.of(content).attributes)
    assert (found[whole] >= 0).any()


def test_the_small_clip_sees_a_scene_as_san_does(task: clip.Task) -> None:
    image = scene().image
    model = San(VARIANTS["san_tiny"])
    asked = model.clip_input(model.preprocess(image)[0][None])
    given = task.model.shrunk(torch.from_numpy(image.copy()).permute(2, 0, 1)[None])
    assert torch.allclose(given, asked, atol=1e-5)


def test_a_crop_shows_the_whole_region_in_its_middle() -> None:
    made = scene(3)
    largest = max(
        drawn_scenes.visible(made, 1), key=lambda q: isinstance(made.contents[q], Thing) * (made.regions == q).sum()
    )
    marked = Scene(
        np.repeat((made.regions == largest).astype(np.uint8)[..., None] * 255, 3, 2), made.regions, made.contents
    )
    cut = drawn_scenes.crop(marked, largest, 64)[..., 0] > 127
    assert 0.1 < cut.mean() < 0.9
    assert not cut[[0, -1]].any()
    assert not cut[:, [0, -1]].any()


class Oracle:
    """Knows the scenes by heart, or says "sky" of everything."""

    def __init__(self, blind: bool) -> None:
        self.blind = blind
        made = [(key, scenes.of_address(f"{key}/validation/{i}")[0]) for key in ("seen", "held-out") for i in range(2)]
        self.known = {s.image.tobytes(): scenes.label_map(s, scenes.BENCHMARKS[key].vocabulary) for key, s in made}

    def segment(self, image: np.ndarray, vocabulary: object) -> np.ndarray:
        return self.known[image.tobytes()] * (not self.blind)


def test_measurements_are_mious_of_things_and_surfaces() -> None:
    kinds = {key + part for key in ("seen", "held-out") for part in ("", "_things", "_surfaces")}
    assert drawn_scenes.miou(Oracle(blind=False).segment, 2) == dict.fromkeys(kinds, 100.0)
    blind = drawn_scenes.miou(Oracle(blind=True).segment, 2)
    assert blind["seen_things"] == blind["held-out_things"] == 0


def test_an_untrained_clip_names_at_chance(task: clip.Task) -> None:
    found = clip.naming(task.model, task.cell, 2)
    assert found["trained"] < 20
    assert {"trained_shape", "held_out_colour", "surface"} < found.keys()
    assert all(0 <= value <= 100 for value in found.values())
