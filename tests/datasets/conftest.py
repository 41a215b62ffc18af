"""One data root with a sample of every data set, in its authors' layout."""

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks


@pytest.fixture(scope="session")
def manifest(shared: Path) -> dict[str, Any]:
    """What the official preparation scripts made of the samples."""
    return json.loads((shared / "benchmarks/golden/manifest.json").read_text())


@pytest.fixture(scope="session")
def root(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real samples, linked; of label files of COCO-Stuff and photographs of PASCAL-Context there are none."""
    root, real = tmp_path_factory.mktemp("data"), shared / "data/real"
    for name in ("ADE20K_2021_17_01", "ADEChallengeData2016", "CamVid", "SUIM", "cwfid"):
        (root / name).symlink_to(real / name)
    (root / "cityscapes").symlink_to(real / "mmseg_tests/pseudo_cityscapes_dataset")
    _voc(root / "VOCdevkit/VOC2012", real)
    _pascal_context(root / "VOCdevkit/VOC2010", shared)
    _coco(root / "coco", shared)
    return root


def _voc(folder: Path, real: Path) -> None:
    (folder / "ImageSets/Segmentation").mkdir(parents=True)
    (folder / "ImageSets/Segmentation/val.txt").write_text("2007_000129\n")
    for name in ("JPEGImages", "SegmentationClass"):
        (folder / name).symlink_to(real / "VOC2012" / name)


def _pascal_context(folder: Path, shared: Path) -> None:
    (folder / "JPEGImages").mkdir(parents=True)
    for name in ("full", "withzero", "of_train"):
        Image.new("RGB", (34, 27)).save(folder / f"JPEGImages/{name}.jpg")
    (folder / "trainval").symlink_to(shared / "benchmarks/golden/pc_synthetic")
    (folder / "pascalcontext_val.txt").write_text("withzero\nfull")
    merged = {
        "images": [
            {"image_id": number, "file_name": f"{name}.jpg", "phase": phase, "height": 27, "width": 34}
            for number, (name, phase) in enumerate({"full": "val", "of_train": "train", "withzero": "val"}.items())
        ],
        "annos_segmentation": [
            {"image_id": number, "category_id": category, "segmentation": encoded(rows, columns)}
            for number, category, rows, columns in MASKS
        ],
    }
    (folder / "trainval_merged.json").write_text(json.dumps(merged))


MASKS = [
    (0, 2, slice(0, 20), slice(0, 20)),
    (2, 440, slice(0, 27), slice(0, 34)),
    (0, 458, slice(10, 27), slice(5, 9)),
    (2, 0, slice(3, 5), slice(0, 34)),
    (1, 397, slice(0, 9), slice(0, 9)),
    (0, 397, slice(15, 16), slice(0, 34)),
]
"""Image, category, rows and columns of the masks in a trainval_merged.json of 27 × 34 pixels, as in its order."""


def encoded(rows: slice, columns: slice) -> dict[str, Any]:
    mask = np.zeros((27, 34), np.uint8, order="F")
    mask[rows, columns] = 1
    made = coco_masks.encode(mask)
    return {"size": made["size"], "counts": made["counts"].decode()}


def _coco(folder: Path, shared: Path) -> None:
    for name in ("val2017", "stuffthingmaps/val2017", "annotations"):
        (folder / name).mkdir(parents=True)
    sample = shared / "data/real/coco_panoptic/sample_data"
    for photo in (sample / "input_images").iterdir():
        (folder / "val2017" / photo.name).symlink_to(photo)
        width, height = Image.open(photo).size
        stuffthings = np.resize(np.array([0, 79, 89, 91, 181, 255], np.uint8), (height, width))
        Image.fromarray(stuffthings).save(folder / f"stuffthingmaps/val2017/{photo.stem}.png")
    (folder / "panoptic_val2017").symlink_to(sample / "panoptic_examples")
    (folder / "annotations/panoptic_val2017.json").symlink_to(sample / "panoptic_examples.json")


@pytest.fixture(scope="session")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with PASCAL-5i and COCO-20i: two made-up photographs each, with a class of every fold in both."""
    root, fold_lists = tmp_path_factory.mktemp("folds"), {}
    pascal = {"2007_000001": (0, 1, 6, 11, 16, 255), "2008_000002": (255, 5, 10, 15, 20, 0)}
    coco = {"COCO_val2014_000000000042": (0, 1, 2, 3, 4), "COCO_val2014_000000000074": (77, 78, 79, 80, 0)}
    for fold in range(4):
        lines = [f"{stem}__{values[fold + 1]:02}\n" for stem, values in pascal.items()]
        fold_lists[f"pascal/val/fold{fold}.txt"] = "".join(lines).encode()
        first, second = coco
        named: dict[int, list[str]] = {number: [] for number in range(80)}
        named |= {fold: [f"val2014/{first}.jpg"], fold + 76: [f"val2014/{second}.jpg"]}
        fold_lists[f"coco/val/fold{fold}.pkl"] = pickle.dumps(named)
    for name, content in fold_lists.items():
        (root / "data/splits" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "data/splits" / name).write_bytes(content)
    write_episodes(root / "VOCdevkit/VOC2012", "JPEGImages", "SegmentationClassAug", pascal)
    write_episodes(root / "COCO2014", "val2014", "annotations/val2014", coco)
    return root


def write_episodes(folder: Path, photographs: str, labels: str, values: Mapping[str, Sequence[int]]) -> None:
    """Grey photographs, 12 high, whose label files have a stripe for each value."""
    for name in (photographs, labels):
        (folder / name).mkdir(parents=True)
    for stem, some in values.items():
        stripes = np.repeat(np.array(some, np.uint8), 5)[None].repeat(12, 0)
        Image.fromarray(stripes).save(folder / labels / f"{stem}.png")
        Image.new("RGB", stripes.shape[::-1], (128, 128, 128)).save(folder / photographs / f"{stem}.jpg")


@pytest.fixture(scope="session")
def instances(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data roots of the data sets of instances: photographs with hand-made shapes, also as LVIS has its JSON."""
    sample, root = shared / "parity/ovsam", tmp_path_factory.mktemp("lvis")
    listed = json.loads((sample / "tiny_coco/annotations/instances_val2017.json").read_text())
    for image in listed["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/val2017/{image.pop('file_name')}"
        image |= {"neg_category_ids": [1, 1203], "not_exhaustive_category_ids": [34]}
    (root / "lvis").mkdir()
    (root / "lvis/lvis_v1_val.json").write_text(json.dumps(listed))
    (root / "lvis/val2017").symlink_to(sample / "tiny_coco/val2017")
    (root / "lvis/train2017").mkdir()
    tiny = sample / "tiny_coco"
    return {"coco:instances": tiny, "coco:instances_48_17": tiny, "lvis": root, "sa1b": sample / "tiny_sam"}
