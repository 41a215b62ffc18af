"""The benchmark that the project draws: files on request, labels that fit, combinations that training never sees."""

import numpy as np
import pytest

from ovss_ray.benchmarks import catalog
from ovss_ray.benchmarks.selection import Selection
from ovss_ray.datasets import scenes
from ovss_ray.datasets.scenes.scene import Thing
from ovss_ray.datasets.scenes.surfaces import SURFACES
from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.io import files, images
from ovss_ray.runs import manifest
from ovss_ray.structures.columns import IGNORE
from ovss_ray.training import scenes as training


def test_vocabularies_have_the_classes_they_are_named_after() -> None:
    sizes = {name: len(one.vocabulary) for name, one in scenes.BENCHMARKS.items()}
    sizes_of_episodes = {"episodes": 43, "episodes-held-out": 43}
    assert sizes == {"seen": 42, "held-out": 42, "all": 330, "847": 847, "instances": 42, **sizes_of_episodes}
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
    one = catalog.load("scenes:held-out")
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
    some, same = (catalog.load(f"scenes:{name}") for name in ("all", "847"))
    one, other = (list(b.items("", "validation"))[3] for b in (some, same))
    assert files.read(one.image) == files.read(other.image)
    assert np.array_equal(some.truth(one, files.read(one.truth)), same.truth(other, files.read(other.truth)))
    assert some.vocabulary.names == same.vocabulary.names[:330]


def test_scenes_vary_in_size_and_need_no_data_root() -> None:
    listed = manifest.build("scenes:seen", catalog.load("scenes:seen"), "", Selection("validation", None, 12))
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
        catalog.load("scenes:seen").items("", "train")


@pytest.mark.parametrize(("name", "series"), [("episodes", "seen"), ("episodes-held-out", "held-out")])
def test_an_episode_is_a_scene_and_a_class_in_it_listed_without_drawing(name: str, series: str) -> None:
    benchmark, whole = catalog.load(f"scenes:{name}"), catalog.load(f"scenes:{series}")
    for split, count in benchmark.counts.items():
        items = list(benchmark.items("", split))
        assert len(items) == count
        assert [item.image_id for item in items] == sorted({item.image_id for item in items})
    items = [item for item in benchmark.items("", "validation") if item.image.endswith(("/0003.png", "/0017.png"))]
    for number in (3, 17):
        scene, _ = scenes.of_address(f"{series}/validation/{number}")
        drawn = {scenes.name(content) for content in scene.contents}
        assert {item.part for item in items if item.image_id.startswith(f"{number:04}__")} == drawn
    for item in items:
        data = files.read(item.truth)
        labels, label = whole.truth(item, data), whole.vocabulary.names.index(item.part)
        expected = np.where(labels == label, label, 42) if (labels == label).any() else np.full_like(labels, IGNORE)
        assert np.array_equal(benchmark.truth(item, data), expected)


def test_an_episode_asks_for_its_class_alone_or_among_all_names_of_the_scenes() -> None:
    benchmark = catalog.load("scenes:episodes-held-out")
    assert benchmark.labels[-1] == "background"
    part = benchmark.labels[20]
    vocabulary, index = benchmark.question(part)
    assert vocabulary == catalog.load("scenes:held-out").vocabulary
    assert index == (*[42] * 20, 20, *[42] * 21)
    vocabulary, index = benchmark.for_binary().question(part)
    assert (vocabulary.names, index) == (("background", part), (42, 20))
    assert {name: len(labels) for name, labels in benchmark.groups.items()} == {
        "foreground": 42,
        "surfaces": 10,
        "things": 32,
        "background": 1,
    }
