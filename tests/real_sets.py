"""Real samples as a user describes them: copies of the files of `shared/data/real`, and a YAML file beside them."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ovss_ray.benchmarks import catalog

VOC = [
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
]
CAMVID = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
CITYSCAPES = [
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
]
LOVEDA = ["background", "building", "road", "water", "barren", "forest", "agricultural"]
AERIAL = ["impervious surface", "building", "low vegetation", "tree", "car", "clutter"]
SYNAPSE = ["background", *(f"organ {number}" for number in range(1, 14))]
MAPILLARY = [f"thing {number}" for number in range(66)]
LIP = ["background", *(f"part {number}" for number in range(1, 20))]


@dataclass(frozen=True)
class Sample:
    """Where a real sample lies below shared/data/real, and how its labels are described."""

    images: str
    labels: str
    classes: list[str]
    more: str = ""


MMSEG = "mmseg_tests/pseudo_"
INDEXED = {
    "camvid": Sample("CamVid/val/*.png", "CamVid/valannot/*.png", CAMVID, "ignore: 11"),
    "loveda": Sample(
        f"{MMSEG}loveda_dataset/img_dir/*", f"{MMSEG}loveda_dataset/ann_dir/*", LOVEDA, "offset: 1\nignore: 0"
    ),
    "potsdam": Sample(
        f"{MMSEG}potsdam_dataset/img_dir/*", f"{MMSEG}potsdam_dataset/ann_dir/*", AERIAL, "offset: 1\nignore: 0"
    ),
    "vaihingen": Sample(
        f"{MMSEG}vaihingen_dataset/img_dir/*", f"{MMSEG}vaihingen_dataset/ann_dir/*", AERIAL, "offset: 1\nignore: 0"
    ),
    "labelme_voc": Sample("labelme_voc/JPEGImages/*", "labelme_voc/SegmentationClass/*", VOC),
    "voc": Sample("VOC2012/JPEGImages/*", "VOC2012/SegmentationClass/*", VOC),
    "cityscapes": Sample(
        f"{MMSEG}cityscapes_dataset/leftImg8bit/val/*/*",
        f"{MMSEG}cityscapes_dataset/gtFine/val/*/*_gtFine_labelTrainIds.png",
        CITYSCAPES,
        "image_suffix: _leftImg8bit\nlabel_suffix: _gtFine_labelTrainIds",
    ),
    "bdd": Sample(
        f"{MMSEG}bdd100k_dataset/images/10k/*/*", f"{MMSEG}bdd100k_dataset/labels/sem_seg/masks/*/*", CITYSCAPES
    ),
    "lip": Sample(f"{MMSEG}lip_dataset/*_images/*", f"{MMSEG}lip_dataset/*_segmentations/*", LIP),
    "synapse": Sample(f"{MMSEG}synapse_dataset/img_dir/*", f"{MMSEG}synapse_dataset/ann_dir/*", SYNAPSE),
    "mapillary": Sample(f"{MMSEG}mapillary_dataset/images/*", f"{MMSEG}mapillary_dataset/v1.2/*", MAPILLARY),
    "ade": Sample(
        "ADEChallengeData2016/images/validation/*",
        "ADEChallengeData2016/annotations/validation/*",
        [name.partition(",")[0] for name in catalog.load("ade20k:150").labels],
        "offset: 1\nignore: 0",
    ),
    "shapes": Sample(
        f"{MMSEG}dataset/imgs/*", f"{MMSEG}dataset/gts/*", ["a", "b", "c", "d"], "image_suffix: _img\nlabel_suffix: _gt"
    ),
    "membrane": Sample(
        "membrane/image/*",
        "membrane/label/*",
        ["membrane", "cell"],
        "encoding: rgb\ncolours: {membrane: [0, 0, 0], cell: [255, 255, 255]}",
    ),
    "refuge": Sample(
        f"{MMSEG}refuge_dataset/img_dir/*",
        f"{MMSEG}refuge_dataset/ann_dir/*",
        ["rest", "cup", "disc"],
        "encoding: rgb\ncolours: {rest: [0, 0, 0], cup: [1, 1, 1], disc: [2, 2, 2]}",
    ),
    "cwfid_masks": Sample(
        "cwfid/images/*", "cwfid/masks/*", ["plant", "soil"], "image_suffix: _image\nlabel_suffix: _mask"
    ),
}
COLOURED = {
    "cwfid": Sample(
        "cwfid/images/*",
        "cwfid/annotations/*.png",
        ["soil", "weed", "crop"],
        "image_suffix: _image\nlabel_suffix: _annotation\nencoding: rgb\n"
        "colours: {soil: [0, 0, 0], weed: [255, 0, 0], crop: [0, 255, 0]}",
    ),
    "isaid": Sample(
        "iSAID/val/images/P0003.png",
        "iSAID/val/images/P0003_instance_color_RGB.png",
        ["background", "ship", "small vehicle", "large vehicle"],
        "label_suffix: _instance_color_RGB\nencoding: rgb\ncolours: {background: [0, 0, 0], ship: [0, 0, 127], "
        "small vehicle: [0, 63, 63], large vehicle: [0, 127, 127]}",
    ),
    "deepcrack": Sample(
        "deepcrack/crack_image.png",
        "deepcrack/crack_label.png",
        ["background", "crack"],
        "image_suffix: _image\nlabel_suffix: _label\nencoding: rgb\n"
        "colours: {background: [0, 0, 0], crack: [255, 255, 255]}",
    ),
    "suim": Sample(
        "SUIM/TEST/images/*",
        "SUIM/TEST/masks/*",
        ["water", "diver", "plant", "wreck", "robot", "reef", "fish", "floor"],
        "encoding: rgb\ncolours: {water: [0, 0, 0], diver: [0, 0, 255], plant: [0, 255, 0], wreck: [0, 255, 255], "
        "robot: [255, 0, 0], reef: [255, 0, 255], fish: [255, 255, 0], floor: [255, 255, 255]}",
    ),
}
SAMPLES = {**INDEXED, **COLOURED}


def describe(name: str, shared: Path, folder: Path, most: int | None = None) -> str:
    """Copy a sample into a folder, at most so many images, and write its YAML; return the benchmark's name."""
    sample = SAMPLES[name]
    for pattern, target in (sample.images, "images"), (sample.labels, "labels"):
        (folder / target).mkdir(parents=True, exist_ok=True)
        for file in sorted((shared / "data/real").glob(pattern))[:most]:
            shutil.copy(file, folder / target)
    return write(folder, sample.classes, sample.more)


def write(folder: Path, classes: list[str], more: str = "") -> str:
    """Write the YAML of files in `images` and `labels`; return the benchmark's name."""
    listed = "".join(f"  - {name!r}\n" for name in classes)
    (folder / "mine.yaml").write_text(f"images: images/*\nlabels: labels/*\n{more}\nclasses:\n{listed}")
    return f"folder:{folder / 'mine.yaml'}"


def labels(folder: Path) -> list[Path]:
    """The label files of a described sample."""
    return sorted((folder / "labels").iterdir())


def stored(file: Path) -> np.ndarray:
    """The values or colours of a label file."""
    return np.array(Image.open(file))


def rewrite(file: Path, pixels: np.ndarray) -> None:
    """Save values or colours, in the format of the file's ending."""
    Image.fromarray(pixels).save(file)


def change(folder: Path, new: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change every label file."""
    for file in labels(folder):
        rewrite(file, new(stored(file)))
