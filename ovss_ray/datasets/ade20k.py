"""ADE20K: scenes of every kind, labelled by a single annotator. There are two vocabularies, of 150 and 847 classes.

ade20k:150 is the SceneParsing challenge of 2016. Data: http://sceneparsing.csail.mit.edu, ADEChallengeData2016.zip.
Label files are 8-bit. In the folder `annotations`, 0 = other, 1 to 150 = the classes. If `annotations` is missing,
`annotations_detectron2` is read: 0 to 149 = the classes, 255 = other. Pixels of "other" are ignored.

ade20k:847 has the full labels of version 2021_17_01. Data: https://ade20k.csail.mit.edu (on request). The folders
`images_detectron2` and `annotations_detectron2` are read. If these folders are missing, each file of the archive is
converted when it is read, as by detectron2's prepare_ade20k_full.py:

- The class number of a pixel is (R // 10) · 256 + G in `_seg.png`.
- If the short side of an image is longer than 512 pixels, the image is scaled. The new short side is 512 pixels.
  Photographs are interpolated linearly. In label maps, each new pixel has the label of the nearest original pixel.
- classes/ade20k_847_index.txt lists the class numbers of the labels 0 to 846. Pixels of other classes are ignored.
- Photographs are saved again as JPEG of quality 75, which affects scores.

`ovss prepare` creates the folders `*_detectron2`, as detectron2's scripts do.

The class lists are those of detectron2 and SAN, byte for byte. The name "window " ends in a space. Paper: Zhou et al.,
"Scene Parsing through ADE20K Dataset", CVPR 2017.
"""

from pathlib import PurePosixPath

import numpy as np

from ovss_ray.benchmarks.class_lists import class_list
from ovss_ray.benchmarks.contract import Archive, Benchmark, Step
from ovss_ray.benchmarks.conversion import copy_image, encode
from ovss_ray.benchmarks.labels import look_up, value_table
from ovss_ray.benchmarks.layout import below, split_folder
from ovss_ray.benchmarks.listing import Item, Items, by_stem, inside, logged, paired, stems
from ovss_ray.errors import OvssError
from ovss_ray.io import files, images
from ovss_ray.structures.columns import IGNORE
from ovss_ray.structures.vocabulary import Vocabulary

CLASSES_150 = class_list("ade20k_150")
CLASSES_847 = class_list("ade20k_847")
INDEX_847 = tuple(int(line) for line in class_list("ade20k_847_index"))
"""Label, 0 to 846 → class number in the archive."""

SHORT_SIDE = 512
SPLITS = {"val": "validation", "validation": "validation", "train": "training", "training": "training"}
PREPARED = "annotations_detectron2", "images_detectron2"
FOLDER_150, FOLDER_847 = "ADEChallengeData2016", "ADE20K_2021_17_01"
GET_150 = (
    "Get it: ovss download ade20k:150, or http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip, and "
    "unpack it there"
)
GET_847 = "Get it: ask for ADE20K (full) on https://ade20k.csail.mit.edu/request_data, and unpack it there"
ARCHIVE_150 = Archive(
    "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
    to=FOLDER_150,
    inside=FOLDER_150,
    digest="sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",  # gluon-cv, scripts/datasets/ade20k.py
    size=967_000_000,
)
ARCHIVE_847 = Archive(
    "https://ade20k.csail.mit.edu/request_data",
    to=FOLDER_847,
    inside=FOLDER_847,
    file="ADE20K_2021_17_01.zip",
    note="its authors send you a personal link if you request one on this page",
)


def items_150(root: str, split: str) -> Items:
    """List the images of a split. Raises OvssError if the data are missing."""
    folder = split_folder(split, SPLITS)
    layouts = [(f"images/{folder}", f"{labels}/{folder}") for labels in ("annotations", "annotations_detectron2")]
    photographs, truths = below(root, FOLDER_150, layouts, GET_150)
    return paired(stems(inside(photographs)), stems(inside(truths)))


def items_847(root: str, split: str) -> Items:
    """List the images of a split: the prepared files, else the archive's. Raises OvssError if both are missing."""
    folder = split_folder(split, SPLITS)
    layouts = [(f"images_detectron2/{folder}", f"annotations_detectron2/{folder}"), (f"images/ADE/{folder}",)]
    folders = below(root, FOLDER_847, layouts, GET_847)
    if len(folders) == 2:
        return paired(stems(inside(folders[0])), stems(inside(folders[1])))
    return archive_items(files.walk(folders[0]))


def archive_items(uris: list[str]) -> Items:
    """Pair each ADE_*.jpg with its ADE_*_seg.png. Other files of the archive, such as masks of parts, are ignored."""
    scenes = [uri for uri in uris if uri.rpartition("/")[2].startswith("ADE_")]
    segmentations = {uri.rpartition("/")[2].removesuffix("_seg.png"): uri for uri in scenes if uri.endswith("_seg.png")}
    return paired(by_stem(scenes, (".jpg",)), segmentations)


def truth_150(item: Item, data: bytes) -> np.ndarray:
    """Decode an original or prepared label file to labels (H, W) uint16. Raises OvssError for an invalid value."""
    classes = len(CLASSES_150)
    table = value_table(classes, ignore=[255]) if _prepared(item.truth) else value_table(classes, offset=1, ignore=[0])
    return look_up(images.decode_labels(data, item.truth), table, item.truth)


def truth_847(item: Item, data: bytes) -> np.ndarray:
    """Decode a prepared label file or a _seg.png to labels (H, W) uint16. Raises OvssError for an invalid value."""
    if not _prepared(item.truth):
        return convert_labels(data, item.truth)
    return look_up(images.decode_labels(data, item.truth), value_table(len(CLASSES_847), ignore=[IGNORE]), item.truth)


def image_847(item: Item, data: bytes) -> np.ndarray:
    """Decode a photograph to (H, W, 3) uint8. Raises OvssError if it is damaged.

    A photograph of the original archive is first resized by `convert_image`.
    """
    return images.decode(data if _prepared(item.image) else convert_image(data, item.image), item.image)


def convert_image(data: bytes, name: str = "photograph") -> bytes:
    """Convert a photograph to a JPEG of quality 75 with a short side of at most 512 pixels. Raises OvssError."""
    # The EXIF orientation is ignored, as in the official script, since the labels fit the stored pixels.
    scaled = _scaled(images.decode(data, name, upright=False), smooth=True)
    try:
        return encode(scaled, "JPEG", quality=75)
    except (OSError, ValueError) as failure:
        height, width = scaled.shape[:2]
        raise OvssError(
            f"{name}: {width} × {height} pixels are too large for a JPEG: {failure}. Remove this file"
        ) from failure


def convert_labels(data: bytes, name: str = "labels") -> np.ndarray:
    """Convert a _seg.png of the archive to labels (H, W) uint16, 0 to 846 or IGNORE. Raises OvssError."""
    colours = images.decode_colours(data, name)
    classes = (colours[..., 0] // 10).astype(np.int32) * 256 + colours[..., 1]
    table = np.full(26 * 256, IGNORE, np.uint16)
    table[list(INDEX_847)] = np.arange(len(INDEX_847))
    return table[_scaled(classes, smooth=False)]


def prepare_150(root: str, split: str, out: str | None) -> list[Step]:
    """List the steps that create the label files of detectron2's prepare_ade20k_sem_seg.py (see `contract.Plan`).

    If `out` is a path, further steps copy the photographs to `out`.
    """
    folder = split_folder(split, SPLITS)
    folders = below(root, FOLDER_150, [(f"images/{folder}", f"annotations/{folder}")], GET_150)
    base = files.join(out, FOLDER_150) if out else folders[0].removesuffix(f"/images/{folder}")
    items = logged(paired(stems(inside(folders[0])), stems(inside(folders[1]))))
    copies = [
        Step(item.image, files.join(base, "images", folder, PurePosixPath(item.image).name), copy_image)
        for item in items
    ]
    labels = [
        Step(item.truth, files.join(base, PREPARED[0], folder, f"{item.image_id}.png"), convert_labels_150)
        for item in items
    ]
    return [step for step in (*copies, *labels) if step.source != step.target]


def prepare_847(root: str, split: str, out: str | None) -> list[Step]:
    """List the steps that create the files of detectron2's prepare_ade20k_full.py (see `contract.Plan`)."""
    # Images are found by their file names. The archive's index is not read, since it is a pickle, which can run code.
    folder = split_folder(split, SPLITS)
    (archive,) = below(root, FOLDER_847, [(f"images/ADE/{folder}",)], GET_847)
    base = files.join(out, FOLDER_847) if out else archive.removesuffix(f"/images/ADE/{folder}")
    labels, photographs = (files.join(base, name, folder) for name in PREPARED)
    return [
        step
        for item in logged(archive_items(files.walk(archive)))
        for step in (
            Step(item.image, files.join(photographs, f"{item.image_id}.jpg"), convert_image),
            Step(item.truth, files.join(labels, f"{item.image_id}.tif"), convert_labels_847),
        )
    ]


def convert_labels_150(data: bytes, name: str) -> bytes:
    """Convert an original label file to a prepared one: an 8-bit PNG, 0 to 149 and 255 (other). Raises OvssError."""
    truth = look_up(images.decode_labels(data, name), value_table(len(CLASSES_150), offset=1, ignore=[0]), name)
    return encode(np.where(truth == IGNORE, 255, truth).astype(np.uint8))


def convert_labels_847(data: bytes, name: str) -> bytes:
    """Convert a _seg.png to the prepared label file: a 16-bit TIFF, 0 to 846 and IGNORE. Raises OvssError."""
    return encode(convert_labels(data, name), "TIFF")


def _scaled(pixels: np.ndarray, smooth: bool) -> np.ndarray:
    """Scale pixels (H, W, …) to a short side of 512 pixels. If the short side is not longer, nothing is scaled.

    If `smooth` is True, the scaling interpolates linearly. Otherwise each new pixel has the value of the nearest
    original pixel.
    """
    import cv2  # imported here, since it is slow and only the full archive needs it

    short, long = sorted(pixels.shape[:2])
    if short <= SHORT_SIDE:
        return pixels
    sides = {long: round(long / short * SHORT_SIDE), short: SHORT_SIDE}
    height, width = (sides[side] for side in pixels.shape[:2])
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST)


def _prepared(uri: str) -> bool:
    return any(folder in PREPARED for folder in uri.split("/"))


_COUNTS = {"val": 2000, "validation": 2000}
_LICENCE = "ADE20K terms of use (https://ade20k.csail.mit.edu/terms): research and teaching, no commercial use"
BENCHMARKS = {
    "150": Benchmark(
        title="ADE20K-150",
        domain="scenes",
        licence=_LICENCE,
        source="http://sceneparsing.csail.mit.edu",
        counts={**_COUNTS, "train": 20210, "training": 20210},
        vocabulary=Vocabulary.of(CLASSES_150),
        items=items_150,
        truth=truth_150,
        unlabelled=True,
        prepare=prepare_150,
        archives=(ARCHIVE_150,),
    ),
    "847": Benchmark(
        title="ADE20K-847",
        domain="scenes",
        licence=_LICENCE,
        source="https://ade20k.csail.mit.edu",
        counts={**_COUNTS, "train": 25574, "training": 25574},
        vocabulary=Vocabulary.of(CLASSES_847),
        items=items_847,
        truth=truth_847,
        unlabelled=True,
        image=image_847,
        prepare=prepare_847,
        archives=(ARCHIVE_847,),
    ),
}
