"""Data sets of instances: which annotations count, their masks, and the recorded loader of SA-1B."""

import json
import shutil
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from ovss_ray.benchmarks import class_lists, coco_json
from ovss_ray.benchmarks.catalog import load
from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.benchmarks.listing import Item, faults, left_out
from ovss_ray.dataprep import inspection
from ovss_ray.datasets import coco, scenes
from ovss_ray.datasets.scenes.instances import VISIBLE
from ovss_ray.errors import OvssError
from ovss_ray.io import files, inline
from ovss_ray.structures.columns import IGNORE
from ovss_ray.structures.instances import COUNTED, CROWD, INVALID, Instances
from ovss_ray.structures.masks import regions


def of(name: str, root: Path) -> dict[str, Instances]:
    benchmark = load(name)
    items = benchmark.items(str(root), "val")
    return {item.image_id: benchmark.instances(item, files.read(item.truth)) for item in items}


def masks(instances: Instances) -> np.ndarray:
    return regions.masks(instances.boxes, instances.bits, instances.size)


def test_the_split_of_48_and_17_classes_is_that_of_the_recorded_evaluation(
    shared: Path, instances: dict[str, Path]
) -> None:
    golden = json.loads((shared / "parity/ovsam/golden_eval.json").read_text())
    found = of("coco:instances_48_17", instances["coco:instances_48_17"])
    assert len(found) == golden["dataset_len"]
    for row in golden["rows"]:
        image = found[Path(row["img"]).stem]
        counted = image.status == COUNTED
        assert image.labels[counted].tolist() == row["labels"]
        assert image.frames[counted].tolist() == row["boxes"]
        assert list(image.size) == row["ori_shape"]
    assert found["truck"].status.tolist() == [COUNTED] * 3 + [CROWD, COUNTED]


def test_images_without_a_thing_are_listed_except_in_the_open_vocabulary_split(
    instances: dict[str, Path], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    shutil.copytree(instances["coco:instances"], root)
    path = root / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    (dog,) = [image["id"] for image in content["images"] if image["file_name"] == "dog.jpg"]
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] != dog]
    path.write_text(json.dumps(content))
    assert list(of("coco:instances", root)) == ["dog", "groceries", "truck"]
    assert not len(of("coco:instances", root)["dog"].labels)
    assert "dog" not in of("coco:instances_48_17", root)


def test_masks_are_those_of_pycocotools(instances: dict[str, Path]) -> None:
    reference = COCO(str(instances["coco:instances"] / "annotations/instances_val2017.json"))
    for image in of("coco:instances", instances["coco:instances"]).values():
        annotations = reference.loadAnns(reference.getAnnIds(imgIds=[image.number]))
        expected = [reference.annToMask(annotation) > 0 for annotation in annotations]
        assert np.array_equal(masks(image), expected)
        assert image.areas.tolist() == [annotation["area"] for annotation in annotations]


def test_the_classes_are_base_novel_or_neither(shared: Path) -> None:
    groups = load("coco:instances_48_17").groups
    assert (len(groups["base"]), len(groups["novel"])) == (48, 17)
    assert not set(groups["base"]) & set(groups["novel"])
    assert [load("coco:instances").labels[label] for label in groups["novel"]] == [
        *("airplane", "bus", "cat", "dog", "cow", "elephant", "umbrella", "tie", "snowboard", "skateboard", "cup"),
        *("knife", "cake", "couch", "keyboard", "sink", "scissors"),
    ]
    told = json.loads((shared / "data/real/coco_panoptic/panoptic_coco_categories.json").read_text())
    assert list(coco.THINGS) == [category["id"] for category in told if category["isthing"]]
    assert load("coco:instances").labels == load("coco:stuff").labels[:80]


@pytest.mark.parametrize("name", ["coco:instances", "coco:instances_48_17"])
def test_the_names_of_open_vocabulary_sam_are_its_173_synonyms_of_the_80_classes(name: str) -> None:
    base, renamed = load(name), load(f"{name}@ovsam")
    counts = [len(names) for names in renamed.vocabulary.classes]
    assert (len(counts), sum(counts), max(counts)) == (80, 173, 17)
    assert renamed.vocabulary.classes[-1] == ("toothbrush", "toothbrushes")
    assert (renamed.labels, renamed.index, renamed.groups) == (base.labels, base.index, base.groups)
    shared_words = [set(" ".join(names).split()) & set(label.split()) for names, label in paired_names(renamed)]
    assert all(shared_words)


def paired_names(benchmark: Benchmark) -> list[tuple[tuple[str, ...], str]]:
    """Names and label of each class, in the order of the vocabulary."""
    return list(zip(benchmark.vocabulary.classes, benchmark.labels, strict=True))


def test_lvis_lists_every_image_and_finds_photographs_by_the_end_of_their_address(instances: dict[str, Path]) -> None:
    benchmark = load("lvis")
    items = {item.image_id: item for item in benchmark.items(str(instances["lvis"]), "val")}
    assert sorted(items) == ["dog", "groceries", "truck"]
    assert all(Path(item.image).parent.name == "val2017" for item in items.values())
    dog = benchmark.instances(items["dog"], files.read(items["dog"].truth))
    assert dog.labels.tolist() == [17, 33, 12]  # category ids count from 1
    assert (dog.absent.tolist(), dog.partial.tolist()) == ([0, 1202], [33])
    of_coco = next(iter(load("coco:instances").items(str(instances["coco:instances"]), "val")))
    assert set(json.loads(files.read(of_coco.truth))["image"]) == {"id", "height", "width"}


@pytest.mark.parametrize("name", ["coco:instances", "lvis"])
def test_images_without_a_photograph_are_left_out_and_counted(
    instances: dict[str, Path], tmp_path: Path, name: str
) -> None:
    root = tmp_path / "root"
    shutil.copytree(instances[name], root)
    base = root / "lvis" if name == "lvis" else root
    (base / "val2017/dog.jpg").unlink()
    listed = load(name).items(str(root), "val")
    assert [item.image_id for item in listed] == ["groceries", "truck"]
    (left,) = left_out(listed)
    assert (left.what, left.number) == ("label files without a photograph", 1)
    assert left.example.endswith("_val.json/dog" if name == "lvis" else "instances_val2017.json/dog")
    (fault,) = faults(listed)
    assert fault.what == f"1 label files without a photograph, such as {left.example}"


def test_lvis_needs_the_photographs_of_both_splits_in_its_folder_or_cocos(
    instances: dict[str, Path], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    shutil.copytree(instances["lvis"], root)
    (root / "lvis/train2017").rmdir()
    with pytest.raises(OvssError, match=r"train2017.*Get it: ovss download lvis"):
        load("lvis").items(str(root), "val")
    (root / "coco/train2017").mkdir(parents=True)
    assert len(list(load("lvis").items(str(root), "val"))) == 3


def test_lvis_without_its_lists_of_what_was_searched_for_is_damaged(instances: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(instances["lvis"], root)
    path = root / "lvis/lvis_v1_val.json"
    content = json.loads(path.read_text())
    del content["images"][1]["not_exhaustive_category_ids"]
    path.write_text(json.dumps(content))
    with pytest.raises(OvssError, match=r"image 1: KeyError\('not_exhaustive_category_ids'\)"):
        load("lvis").items(str(root), "val")


def test_lvis_has_866_base_and_337_novel_classes() -> None:
    benchmark = load("lvis")
    assert [len(benchmark.groups[group]) for group in ("base", "novel")] == [866, 337]
    assert [len(benchmark.groups[group]) for group in ("rare", "common", "frequent")] == [337, 461, 405]
    assert sorted(sum((benchmark.groups[group] for group in ("rare", "common", "frequent")), ())) == list(range(1203))
    assert len(benchmark.vocabulary) == 1203
    for group in ("rare", "common"):
        assert set(class_lists.class_list(f"lvis_{group}")) <= set(benchmark.labels)
    assert benchmark.labels[:2] == ("aerosol can", "air conditioner")
    assert "wine bottle" in benchmark.labels


def test_the_masks_of_sa_1b_are_those_of_the_recorded_loader(shared: Path, instances: dict[str, Path]) -> None:
    golden = json.loads((shared / "parity/ovsam/golden_sam_loader.json").read_text())
    found = of("sa1b", instances["sa1b"])
    assert [image.number for image in found.values()] == [row["img_id"] for row in golden]
    for image, row in zip(found.values(), golden, strict=True):
        counted, scale = image.status == COUNTED, np.array(row["scale_factor"])
        height, width = row["img_shape"]
        resized = [cv2.resize(mask.astype(np.uint8), (width, height), interpolation=0) for mask in masks(image)]
        assert [int(mask.sum()) for mask in np.array(resized)[counted]] == row["mask_areas"]
        assert np.allclose(image.frames[counted] * np.tile(scale, 2), row["bboxes"], atol=1e-4)
        assert image.labels[counted].tolist() == row["labels"]
        assert image.status.tolist().count(INVALID) == 1
        assert np.diff(image.areas).max() <= 0


def test_a_listed_folder_of_sa_1b_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("sa_000020\nsa_000021\n")
    (tmp_path / "sa_000020").mkdir()
    with pytest.raises(OvssError, match=r"val\.txt: 1 of 2 folders are missing, such as sa_000021\. Get it: "):
        load("sa1b").items(str(tmp_path), "val")


def test_things_of_scenes_are_the_drawn_things() -> None:
    benchmark = load("scenes:instances")
    items = list(benchmark.items("", "validation"))[:6]
    for item in items:
        found = benchmark.instances(item, files.read(item.truth))
        drawn, _ = scenes.of_address(item.image.removeprefix("scenes://").removesuffix(".png"))
        label_map = load("scenes:seen").truth(item, files.read(item.truth.replace("_instances", "_labels")))
        things = [number for number, content in enumerate(drawn.contents) if isinstance(content, scenes.Thing)]
        visible = [number for number in things if (drawn.regions == number).sum() >= VISIBLE]
        assert [benchmark.labels[label] for label in found.labels] == [scenes.name(drawn.contents[n]) for n in visible]
        for mask, number, label in zip(masks(found), visible, found.labels, strict=True):
            assert np.array_equal(mask, drawn.regions == number)
            assert (label_map[mask] == label).all()
    assert benchmark.vocabulary == load("scenes:seen").vocabulary


def annotation(**changes: object) -> dict[str, object]:
    square = [[1.0, 1.0, 5.0, 1.0, 5.0, 5.0, 1.0, 5.0]]
    return {"category_id": 1, "bbox": [1, 1, 4, 4], "area": 16.0, "segmentation": square, **changes}


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, COUNTED),
        ({"iscrowd": 1}, CROWD),
        ({"ignore": 1}, INVALID),
        ({"area": 0}, INVALID),
        ({"bbox": [1, 1, 0.5, 4]}, INVALID),
        ({"bbox": [12, 1, 4, 4]}, INVALID),
        ({"segmentation": [[1.0, 1.0, 5.0, 5.0]]}, INVALID),
    ],
)
def test_annotations_are_counted_by_the_rules_of_the_released_data_sets(
    tmp_path: Path, changes: dict[str, object], status: int
) -> None:
    entry = annotation(image_id=7, **changes)
    (tmp_path / "7.jpg").touch()
    (tmp_path / "a.json").write_text(
        json.dumps({"annotations": [entry], "images": [{"id": 7, "height": 10, "width": 12, "file_name": "7.jpg"}]})
    )
    (item,) = coco_json.items(str(tmp_path / "a.json"), lambda image: str(tmp_path / image["file_name"]), {1})
    found = coco_json.decode({1: 3}, item, files.read(item.truth))
    assert found.status.tolist() == [status]
    assert found.labels.tolist() == [3]
    assert (found.label_map() == 3).any() == (status == COUNTED)
    assert (found.label_map() == IGNORE).any()


def test_one_full_size_mask_at_a_time_is_in_memory_while_an_image_is_decoded() -> None:
    side, count = 1000, 30
    image = {"id": 7, "height": side, "width": side}
    data = json.dumps({"image": image, "annotations": [annotation()] * count}).encode()
    coco_json.decode({1: 3}, Item("7", "7.jpg", "7.json"), data)  # imports are not measured
    tracemalloc.start()
    decoded = coco_json.decode({1: 3}, Item("7", "7.jpg", "7.json"), data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(decoded.labels) == count
    assert peak < side * side * count / 2


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ("{", "annotations, entry 0"),
        ('{"annotations": [{"id": 1, "category_id": 0}], "images": []}', "images"),
        ('{"annotations": [{"id": 1}], "images": [{"id": 1}]}', "annotation 0"),
        ('{"annotations": [{"id": 1, "category_id": 0}], "images": [{"id": 1}]}', "image 0"),
        ('{"images": [{"id": 1}]}', "annotations"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str, where: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(OvssError, match=rf"a\.json: invalid annotations: {where}: .*Get the official file again"):
        coco_json.items(str(tmp_path / "a.json"), lambda image: image["file_name"], {1}, empty=True)


def test_a_missing_library_names_the_extra() -> None:
    with pytest.raises(OvssError, match=r'needs no_such_library, .*pip install "ovss_ray\[instances\]"'):
        coco_json.require("json", "no_such_library")


def test_an_address_with_content_is_read_like_a_file_and_shown_without_it() -> None:
    uri = inline.address("a.json/7", b"some text")
    assert files.read(uri) == b"some text"
    assert files.exists(uri)
    assert inline.shown(uri) == "a.json/7"
    assert inline.shown("s3://bucket/a.png") == "s3://bucket/a.png"
    assert files.stamp(uri) != files.stamp(inline.address("a.json/7", b"other text"))
    with pytest.raises(OvssError, match=r"a\.json/7: damaged content"):
        files.read("inline://a.json/7/AAAA")


def test_the_check_accepts_an_image_without_instances_and_names_damaged_annotations_briefly(tmp_path: Path) -> None:
    Image.new("RGB", (12, 10)).save(tmp_path / "a.png")
    image = {"id": 1, "height": 10, "width": 12}
    uri = inline.address("lvis_v1_val.json/a", json.dumps({"image": image, "annotations": []}).encode())
    seen = inspection.inspect(load("lvis"), Item("a", str(tmp_path / "a.png"), uri))
    assert seen.faults == ()
    broken = inline.address("lvis_v1_val.json/a", json.dumps({"image": image, "annotations": [{}]}).encode())
    (fault,) = inspection.inspect(load("lvis"), Item("a", str(tmp_path / "a.png"), broken)).faults
    assert fault.file == "lvis_v1_val.json/a"
    assert fault.what.startswith("lvis_v1_val.json/a: invalid annotations")
