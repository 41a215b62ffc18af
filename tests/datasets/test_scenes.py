"""The benchmark that the project draws: files on request, labels that fit, combinations that training never sees."""

import numpy as np
import pytest

from ovss_ray import files, images, manifest
from ovss_ray.datasets import benchmark, scenes
from ovss_ray.drawing.scene import Thing
from ovss_ray.drawing.surfaces import SURFACES
from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.manifest import Selection
from ovss_ray.training import scenes as training


def test_vocabularies_have_the_classes_they_are_named_after() -> None:
    sizes = {name: len(one.vocabulary) for name, one in scenes.BENCHMARKS.items()}
    assert sizes == {"seen": 42, "held-out": 42, "all": 330, "847": 847}
    for one in scenes.BENCHMARKS.values():
        assert not one.vocabulary.repeated()
        assert one.vocabulary.names[:10] == tuple(SURFACES)


def test_a_part_of_the_combinations_is_held_out_and_fair_to_all_shapes_and_patterns() -> None:
    assert not set(scenes.HELD_OUT) & set(scenes.TRAINED)
    assert set(scenes.SEEN) < set(scenes.TRAINED)
    for things in (scenes.SEEN, scenes.HELD_OUT):
        assert {sum(t.shape == shape for t in things) for shape in {t.shape for t in things}} == {4}
        assert {sum(t.pattern == pattern for t in things) for pattern in {t.pattern for t in things}} == {8}


def test_no_held_out_combination_is_ever_drawn_for_training() -> None:
    held_out = set(scenes.HELD_OUT)
    drawn = [scene for step in range(150) for scene in training.batch(0, step, 2, (4, 8), unnamed=0.2, width=32)]
    things = [content for scene in drawn for content in scene.contents if isinstance(content, Thing)]
    assert len(set(things) & set(scenes.TRAINED)) > 250
    assert not held_out & set(things)
    assert 0.1 < np.mean([thing.colour is None for thing in things]) < 0.3


def test_an_image_and_its_labels_are_files_that_anything_can_read() -> None:
    one = benchmark.load("scenes:held-out")
    items = list(one.items("", "validation"))
    assert len(items) == one.counts["validation"] == 256
    item = items[17]
    assert item.image == "scenes://held-out/validation/0017.png"
    assert files.exists(item.image)
    image, truth = one.image(item, files.read(item.image)), one.truth(item, files.read(item.truth))
    assert image.shape[:2] == truth.shape == images.size(item.image)
    scene, _ = scenes.of_address("held-out/validation/17")
    assert np.array_equal(image, scene.image)
    named = {one.vocabulary.names[label] for label in np.unique(truth)}
    assert named <= {scenes.name(content) for content in scene.contents}
    assert named & set(map(scenes.name, scenes.HELD_OUT))


def test_847_names_are_asked_of_the_scenes_of_all_combinations() -> None:
    some, same = (benchmark.load(f"scenes:{name}") for name in ("all", "847"))
    one, other = (list(b.items("", "validation"))[3] for b in (some, same))
    assert files.read(one.image) == files.read(other.image)
    assert np.array_equal(some.truth(one, files.read(one.truth)), same.truth(other, files.read(other.truth)))
    assert some.vocabulary.names == same.vocabulary.names[:330]


def test_scenes_vary_in_size_and_need_no_data_root() -> None:
    listed = manifest.build("scenes:seen", benchmark.load("scenes:seen"), "", Selection("validation", None, 12))
    sizes = list(zip(listed["height"].to_pylist(), listed["width"].to_pylist(), strict=True))
    assert len(set(sizes)) > 8
    assert all(208 <= height <= 304 and 256 <= width <= 384 for height, width in sizes)


@pytest.mark.parametrize("address", ["scenes://seen/train/1.png", "scenes://none/validation/1.png", "scenes://x"])
def test_an_address_without_a_scene_is_an_error(address: str) -> None:
    assert not files.exists(address)
    with pytest.raises(OvssError, match="scenes://"):
        files.read(address)


def test_an_unknown_split_is_answered_with_those_there_are() -> None:
    with pytest.raises(UnknownName, match="validation"):
        benchmark.load("scenes:seen").items("", "train")
