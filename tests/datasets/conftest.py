"""One data root with a sample of every data set, in its authors' layout."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


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
