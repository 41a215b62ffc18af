"""The small CLIP is the one inside the small SAN, and an AlphaCLIP's file may hold only what its training changed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ovss_ray import models
from ovss_ray.datasets import scenes
from ovss_ray.datasets.scenes.scene import Thing
from ovss_ray.errors import OvssError
from ovss_ray.models import checkpoint, text, zoo
from ovss_ray.models.alpha_clip import network
from ovss_ray.models.alpha_clip.network import AlphaClip
from ovss_ray.models.alpha_clip.variants import VARIANTS, Look
from ovss_ray.models.san.variants import VARIANTS as SAN_VARIANTS
from ovss_ray.training.recipes.clip import task as clip
from tests.small_alpha_clip import SMALL, save, small_state


@pytest.fixture(scope="module")
def plain() -> AlphaClip:
    return models.load("clip_tiny")


def test_it_sees_and_reads_as_the_clip_inside_the_san_does(plain: AlphaClip) -> None:
    """A token that looks at all patches alike is the class token of plain CLIP."""
    inside = clip.Clip(SAN_VARIANTS["san_tiny"]).eval()
    inside.load_state_dict(checkpoint.read(zoo.find("san_tiny")), strict=False)
    images = torch.from_numpy(scenes.of_address("all/validation/3")[0].image[None, :200, :200].copy())
    images = F.interpolate(images.permute(0, 3, 1, 2).float(), (256, 256)).byte()
    with torch.inference_mode():
        expected = inside(images, torch.ones(1, 1, 16, 16))[0][0]
        found = plain(inside.shrunk(images), torch.zeros(1, 1, 128, 128), torch.zeros(1, dtype=torch.int64))
        assert torch.allclose(found, expected, atol=1e-5)
        prompts = ["a photo of a striped red star.", "sky"]
        words = text.embed_prompts(plain.text, prompts)
        assert torch.equal(words, text.embed_prompts(inside.ov_classifier, prompts))


def test_it_names_things_that_are_cut_out(plain: AlphaClip) -> None:
    """Of 330 names, a third at least; it was never trained on squares of this size."""
    right = []
    for number in range(4):
        scene, _ = scenes.of_address(f"all/validation/{number}")
        things = [i for i, one in enumerate(scene.contents) if isinstance(one, Thing) and (scene.regions == i).any()]
        masks = scene.regions == np.array(things)[:, None, None]
        found = plain.classify(scene.image, masks, clip.NAMES, context="crop_square").argmax(1)
        right += [clip.NAMES[name] == scenes.name(scene.contents[i]) for name, i in zip(found, things, strict=True)]
    assert np.mean(right) > 1 / 3


def test_its_squares_are_smaller_than_its_position_embedding_is_for(plain: AlphaClip) -> None:
    image = scenes.of_address("all/validation/0")[0].image
    view = next(plain.viewer(image, Look()).views(np.array([[9, 9, 40, 40]]), [np.ones((31, 31), bool)]))
    assert view.picture.shape == (3, 80, 80)
    assert plain.visual.positional_embedding.shape == (16 * 16 + 1, 128)
    assert plain.embed([view]).shape == (1, 128)


@pytest.fixture
def partial(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(VARIANTS, "alpha_clip_partial", replace(SMALL, partial=True))
    return "alpha_clip_partial"


def test_what_a_file_leaves_out_is_the_bases(partial: str, tmp_path: Path) -> None:
    base, visual = small_state()
    _, other = small_state(seed=1)
    changed = ("conv1_alpha.weight", "proj", "transformer.resblocks.1.mlp.c_fc.weight")
    model = network.load(partial, save((base, {name: other[name] for name in changed}), tmp_path))
    for name, value in model.visual.state_dict().items():
        official = name.replace("resblocks", "transformer.resblocks").replace("in_proj_", "in_proj.")
        assert torch.equal(value, (other if official in changed else visual)[official]), name


def test_a_file_that_leaves_out_the_fourth_channel_or_has_something_else_is_refused(
    partial: str, tmp_path: Path
) -> None:
    base, visual = small_state()
    del visual["conv1_alpha.weight"]
    with pytest.raises(
        OvssError, match=r"visual\.pth is not a checkpoint of .*partial\. Missing: conv1_alpha\.weight\."
    ):
        network.load(partial, save((base, visual), tmp_path))
    visual["conv1_beta.weight"] = torch.zeros(1)
    with pytest.raises(OvssError, match=r"Unexpected: conv1_beta\.weight"):
        network.load(partial, save((base, visual), tmp_path))


def test_an_official_file_must_be_whole(tmp_path: Path) -> None:
    base, visual = small_state()
    del visual["proj"]
    with pytest.raises(OvssError, match=r"visual\.pth is not a checkpoint of alpha_clip_small\. Missing: proj\."):
        network.load("alpha_clip_small", save((base, visual), tmp_path))
