"""ADE20K: scenes of every kind, labelled by one careful annotator. Two vocabularies: 150 classes, and 847.

ade20k:150, the SceneParsing challenge of 2016. Data: http://sceneparsing.csail.mit.edu, ADEChallengeData2016.zip.
Labels are 8 bit, 0 = other, 1 to 150. Read are the archive's own `annotations`, or if they are not there the
`annotations_detectron2` that detectron2's prepare_ade20k_sem_seg.py makes of them (255 = other, 0 to 149), the same.

ade20k:847, the full labels of version 2021_17_01. Data: https://ade20k.csail.mit.edu (on request). Read are the folders
`images_detectron2` and `annotations_detectron2` of prepare_ade20k_full.py, or if they are not there the archive itself,
`images/ADE`, each pair being prepared when it is read, equal to the prepared files pixel for pixel. The rule of that
script: the class is (R // 10) · 256 + G of `_seg.png`; if the short side is longer than 512, it is scaled to 512 by
OpenCV (linear; nearest for labels); then classes/ade20k_847_index.txt brings the classes to 0..846, and all others are
not counted. Photographs are saved anew as JPEG of quality 75, and scores depend on that.

`ovss prepare ade20k:847` makes those folders, and `ovss prepare ade20k:150` the `annotations_detectron2` of the other.

The class lists are those of detectron2 and SAN, byte for byte: one line is one name, several words for one thing are
parted by ", ", and "window " ends in a blank. Paper: Zhou et al., "Scene Parsing through ADE20K Dataset", CVPR 2017.
"""

import io
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from ovss_ray import files, images
from ovss_ray.archives import Archive
from ovss_ray.columns import IGNORE
from ovss_ray.datasets.benchmark import Benchmark, Step, below, class_list, look_up, split_folder, value_table
from ovss_ray.errors import OvssError
from ovss_ray.listing import Item, Items, by_stem, inside, paired, stems
from ovss_ray.vocabulary import Vocabulary

CLASSES_150 = class_list("ade20k_150")
CLASSES_847 = class_list("ade20k_847")
INDEX_847 = tuple(int(line) for line in class_list("ade20k_847_index"))
"""(R // 10) · 256 + G of each of the 847 classes"""

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
    note="its authors send a link of your own when they are asked on this page",
)


def items_150(root: str, split: str) -> Items:
    """List the images of a split. Raises OvssError if they are not there."""
    folder = split_folder(split, SPLITS)
    layouts = [(f"images/{folder}", f"{labels}/{folder}") for labels in ("annotations", "annotations_detectron2")]
    photographs, truths = below(root, FOLDER_150, layouts, GET_150)
    return paired(stems(inside(photographs)), stems(inside(truths)))


def items_847(root: str, split: str) -> Items:
    """List the images of a split, prepared ones before those of the archive. Raises OvssError if there are none."""
    folder = split_folder(split, SPLITS)
    layouts = [(f"images_detectron2/{folder}", f"annotations_detectron2/{folder}"), (f"images/ADE/{folder}",)]
    found = below(root, FOLDER_847, layouts, GET_847)
    if len(found) == 2:
        return paired(stems(inside(found[0])), stems(inside(found[1])))
    return archive_items(files.walk(found[0]))


def archive_items(uris: list[str]) -> Items:
    """Pair ADE_*.jpg with ADE_*_seg.png among the files of the archive, which has parts and instances besides."""
    scenes = [uri for uri in uris if uri.rpartition("/")[2].startswith("ADE_")]
    segmentations = {uri.rpartition("/")[2].removesuffix("_seg.png"): uri for uri in scenes if uri.endswith("_seg.png")}
    return paired(by_stem(scenes, (".jpg",)), segmentations)


def truth_150(item: Item, data: bytes) -> np.ndarray:
    """Decode a label file of either layout to (H, W) uint16. Raises OvssError for a value that it cannot have."""
    classes = len(CLASSES_150)
    table = value_table(classes, ignore=[255]) if _prepared(item.truth) else value_table(classes, offset=1, ignore=[0])
    return look_up(images.decode_labels(data, item.truth), table, item.truth)


def truth_847(item: Item, data: bytes) -> np.ndarray:
    """Decode a prepared label file or a _seg.png to (H, W) uint16. Raises OvssError for a value that it cannot have."""
    if not _prepared(item.truth):
        return convert_labels(data, item.truth)
    return look_up(images.decode_labels(data, item.truth), value_table(len(CLASSES_847), ignore=[IGNORE]), item.truth)


def image_847(item: Item, data: bytes) -> np.ndarray:
    """Decode a photograph, (H, W, 3) uint8; one of the archive is first prepared. Raises OvssError."""
    return images.decode(data if _prepared(item.image) else convert_image(data, item.image), item.image)


def convert_image(data: bytes, name: str = "photograph") -> bytes:
    """Prepare a photograph of the full archive: short side 512 at most, JPEG of quality 75. Raises OvssError.

    The official script knows no EXIF orientation, as the labels do not.
    """
    scaled = _scaled(images.decode(data, name, upright=False), smooth=True)
    try:
        return _encoded(scaled, "JPEG", quality=75)
    except (OSError, ValueError) as failure:
        height, width = scaled.shape[:2]
        raise OvssError(f"{name}: {width} × {height} pixels do not fit into a JPEG: {failure}") from failure


def convert_labels(data: bytes, name: str = "labels") -> np.ndarray:
    """Prepare a _seg.png of the full archive: (H, W) uint16, 0 to 846 or IGNORE. Raises OvssError."""
    colours = images.decode_colours(data, name)
    classes = (colours[..., 0] // 10).astype(np.int32) * 256 + colours[..., 1]
    table = np.full(26 * 256, IGNORE, np.uint16)
    table[list(INDEX_847)] = np.arange(len(INDEX_847))
    return table[_scaled(classes, smooth=False)]


def prepare_150(root: str, split: str, out: str | None) -> list[Step]:
    """What prepare_ade20k_sem_seg.py does: new label files; photographs are copied if they are wanted elsewhere."""
    folder = split_folder(split, SPLITS)
    found = below(root, FOLDER_150, [(f"images/{folder}", f"annotations/{folder}")], GET_150)
    base = files.join(out, FOLDER_150) if out else found[0].removesuffix(f"/images/{folder}")
    items = paired(stems(inside(found[0])), stems(inside(found[1])))
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
    """What prepare_ade20k_full.py does, of the archive's images alone: the index that comes with it is a pickle."""
    folder = split_folder(split, SPLITS)
    (archive,) = below(root, FOLDER_847, [(f"images/ADE/{folder}",)], GET_847)
    base = files.join(out, FOLDER_847) if out else archive.removesuffix(f"/images/ADE/{folder}")
    labels, photographs = (files.join(base, name, folder) for name in PREPARED)
    return [
        step
        for item in archive_items(files.walk(archive))
        for step in (
            Step(item.image, files.join(photographs, f"{item.image_id}.jpg"), convert_image),
            Step(item.truth, files.join(labels, f"{item.image_id}.tif"), convert_labels_847),
        )
    ]


def copy_image(data: bytes, name: str) -> bytes:
    """Return an image file as it is. Raises OvssError if it is none."""
    images.decode(data, name)
    return data


def convert_labels_150(data: bytes, name: str) -> bytes:
    """Make the prepared label file of an official one: an 8-bit PNG, 0 to 149 and 255. Raises OvssError."""
    truth = look_up(images.decode_labels(data, name), value_table(len(CLASSES_150), offset=1, ignore=[0]), name)
    return _encoded(np.where(truth == IGNORE, 255, truth).astype(np.uint8), "PNG")


def convert_labels_847(data: bytes, name: str) -> bytes:
    """Make the prepared label file of a _seg.png: a 16-bit TIFF, 0 to 846 and IGNORE. Raises OvssError."""
    return _encoded(convert_labels(data, name), "TIFF")


def _encoded(pixels: np.ndarray, kind: str, **options: int) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, kind, **options)
    return sink.getvalue()


def _scaled(pixels: np.ndarray, smooth: bool) -> np.ndarray:
    """Scale (H, W, …) so that the short side is 512, if it is longer; the long side is rounded."""
    import cv2  # slow to import, and needed for the full archive only

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
