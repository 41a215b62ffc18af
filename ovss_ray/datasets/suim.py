"""SUIM, Segmentation of Underwater Imagery: reefs, fish, divers and wrecks, 110 photographs for testing.

Data: https://irvlab.cs.umn.edu/resources/suim-dataset, TEST.zip with `images/*.jpg` and RGB masks `masks/*.bmp`. In a
mask, red, green and blue are 0 or 255. A pixel's class index is (4 · red + 2 · green + blue) / 255. For example,
(255, 0, 255) is class 5. Every pixel is counted. The class names are those of the benchmark MESS.

Papers: Islam et al., "Semantic Segmentation of Underwater Imagery: Dataset and Benchmark", IROS 2020; Blumenstiel et
al., "What a MESS", NeurIPS 2023.
"""

from functools import partial

from ovss_ray.benchmarks.contract import Archive, Benchmark
from ovss_ray.benchmarks.labels import coloured
from ovss_ray.benchmarks.layout import below, split_folder
from ovss_ray.benchmarks.listing import Items, inside, paired, stems
from ovss_ray.structures.vocabulary import Vocabulary

CLASSES = (
    "background (waterbody)",
    "human diver",
    "aquatic plants and sea-grass",
    "wrecks and ruins",
    "robots (auvs/rovs/instruments)",
    "reefs and invertebrates",
    "fish and vertebrates",
    "sea-floor and rocks",
)
COLOURS = {0xFF0000 * (i >> 2) + 0x00FF00 * (i >> 1 & 1) + 0x0000FF * (i & 1): i for i in range(len(CLASSES))}
"""Colour as red · 65536 + green · 256 + blue → class index."""
GET = "Get it: TEST.zip, linked at https://irvlab.cs.umn.edu/resources/suim-dataset, unpacked into a folder SUIM there"
ARCHIVE = Archive(
    "https://irvlab.cs.umn.edu/resources/suim-dataset",
    to="SUIM/TEST",
    inside="TEST",
    file="TEST.zip",
    note="this page links to a folder of Google Drive that has it",
)


def items(root: str, split: str) -> Items:
    """List the images. Raises OvssError if the data are missing."""
    folder = split_folder(split, {"test": "TEST"})
    photographs, truths = below(root, "SUIM", [(f"{folder}/images", f"{folder}/masks")], GET)
    return paired(stems(inside(photographs)), stems(inside(truths)))


BENCHMARKS = {
    "": Benchmark(
        title="SUIM",
        domain="under water",
        licence="MIT as its repository states; whether that is meant for the photographs is not said",
        source="https://irvlab.cs.umn.edu/resources/suim-dataset",
        counts={"test": 110},
        vocabulary=Vocabulary.of(CLASSES),
        items=items,
        truth=partial(coloured, COLOURS),
        split="test",
        archives=(ARCHIVE,),
    )
}
