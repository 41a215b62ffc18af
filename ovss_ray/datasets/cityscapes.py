"""Cityscapes-19: streets of 50 cities, seen from a car. 500 images of three cities are for validation.

Data: https://www.cityscapes-dataset.com/downloads (after registration), leftImg8bit_trainvaltest.zip and
gtFine_trainvaltest.zip. Photographs are `leftImg8bit/<split>/<city>/*_leftImg8bit.png` (2048 × 1024). Label files are
`gtFine/<split>/<city>/*_gtFine_labelIds.png`, 8-bit, with the values 0 to 33. The values in NUMBERS are the 19 classes.
Pixels of other values are not counted. The labels of the test split are not published. Paper: Cordts et al., "The
Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016.
"""

from functools import partial

import numpy as np

from ovss_ray.benchmarks.class_lists import vocabulary
from ovss_ray.benchmarks.contract import Archive, Benchmark
from ovss_ray.benchmarks.labels import indexed, value_table
from ovss_ray.benchmarks.layout import below, split_folder
from ovss_ray.benchmarks.listing import Items, paired
from ovss_ray.io import files

NUMBERS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Values of the 19 classes in label files. In cityscapesScripts, helpers/labels.py, they are called `id`."""
PHOTOGRAPH, TRUTH = "_leftImg8bit.png", "_gtFine_labelIds.png"
GET = "Get it: leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of https://www.cityscapes-dataset.com/downloads"
ARCHIVES = tuple(
    Archive(
        "https://www.cityscapes-dataset.com/downloads",
        to=f"cityscapes/{folder}",
        inside=folder,
        file=f"{folder}_trainvaltest.zip",
        note="this page asks for a login",
    )
    for folder in ("leftImg8bit", "gtFine")
)


def items(root: str, split: str) -> Items:
    """List the images of a split. Raises OvssError if the data are missing."""
    split = split_folder(split, {"train": "train", "val": "val"})
    photographs, truths = below(root, "cityscapes", [(f"leftImg8bit/{split}", f"gtFine/{split}")], GET)
    return paired(_by_frame(photographs, PHOTOGRAPH), _by_frame(truths, TRUTH))


def _by_frame(folder: str, ending: str) -> dict[str, str]:
    """Map frames, such as "ulm_000000_000019", to the addresses of files named FRAME + `ending`. Skip other files."""
    return {uri.rpartition("/")[2].removesuffix(ending): uri for uri in files.walk(folder) if uri.endswith(ending)}


def _table() -> np.ndarray:
    table = value_table(0, ignore=range(34))
    table[list(NUMBERS)] = np.arange(len(NUMBERS))
    return table


BENCHMARKS = {
    "19": Benchmark(
        title="Cityscapes-19",
        domain="driving",
        licence="https://www.cityscapes-dataset.com/license: research and teaching, no commercial use",
        source="https://www.cityscapes-dataset.com",
        counts={"train": 2975, "val": 500},
        vocabulary=vocabulary("cityscapes_19"),
        items=items,
        truth=partial(indexed, _table()),
        unlabelled=True,
        archives=ARCHIVES,
    )
}
