"""CWFID, the Crop/Weed Field Image Dataset: 60 photographs of carrot seedlings among weeds, taken from a field robot.

Data: https://github.com/cwfid/dataset. Photographs are `images/NNN_image.png` (1296 × 966). Label files are
`annotations/NNN_annotation.png` in RGB: black = ground, green = crop, red = weed. `train_test_split.yaml` lists 40
images for training and 21 for testing; image 28 is in both lists. Every pixel is counted.

cwfid        the classes as the data set's authors define them
cwfid:mess   crop and weed are swapped, as in the benchmark MESS. Use cwfid:mess to compare with published MESS figures

Papers: Haug, Ostermann, "A Crop/Weed Field Image Dataset for the Evaluation of Computer Vision Based Precision
Agriculture Tasks", ECCV workshops 2014; Blumenstiel et al., "What a MESS", NeurIPS 2023.
"""

from functools import partial
from typing import Any

from ovss_ray.benchmarks.contract import Archive, Benchmark
from ovss_ray.benchmarks.labels import coloured
from ovss_ray.benchmarks.layout import below, split_folder
from ovss_ray.benchmarks.listing import Items, inside, paired, stems
from ovss_ray.errors import OvssError
from ovss_ray.io import files, strict_yaml
from ovss_ray.structures.vocabulary import Vocabulary

GROUND, CROP, WEED = 0x000000, 0x00FF00, 0xFF0000
GET = "Get it: ovss download cwfid, or git clone https://github.com/cwfid/dataset, and give its folder as the data root"
COMMIT = "36290d0912a032f0bd1a5678ed55457ddafde217"
ARCHIVE = Archive(
    f"https://github.com/cwfid/dataset/archive/{COMMIT}.zip",
    to="cwfid",
    inside=f"dataset-{COMMIT}",
    file="cwfid.zip",
)


def items(root: str, split: str) -> Items:
    """List the images of a split. Raises OvssError if the data are missing."""
    split = split_folder(split, {"train": "train", "test": "test"})
    *folders, split_file = below(root, "cwfid", [("images", "annotations", "train_test_split.yaml")], GET)
    splits = strict_yaml.load(files.read(split_file), split_file)
    if not isinstance(splits, dict) or not isinstance(splits.get(split), list):
        raise OvssError(f"{split_file}: no list {split!r} of image numbers in the file. {GET}")
    wanted = {f"{number:03}" for number in splits[split]}
    kinds = (((stem.partition("_")[0], uri) for stem, uri in stems(inside(folder))) for folder in folders)
    return paired(*(((stem, uri) for stem, uri in kind if stem in wanted) for kind in kinds))


_CARD: dict[str, Any] = {
    "domain": "agriculture",
    "licence": "all rights reserved; non-commercial research only, and its paper has to be cited",
    "source": "https://github.com/cwfid/dataset",
    "counts": {"train": 40, "test": 21},
    "items": items,
    "split": "test",
    "archives": (ARCHIVE,),
}
BENCHMARKS = {
    "": Benchmark(
        title="CWFID",
        vocabulary=Vocabulary.of(["ground", "crop", "weed"]),
        truth=partial(coloured, {GROUND: 0, CROP: 1, WEED: 2}),
        **_CARD,
    ),
    "mess": Benchmark(
        title="CWFID as in MESS",
        vocabulary=Vocabulary.of(["ground", "crop seedling", "weed"]),
        truth=partial(coloured, {GROUND: 0, WEED: 1, CROP: 2}),
        **_CARD,
    ),
}
