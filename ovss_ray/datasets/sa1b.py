"""SA-1B: a billion masks in eleven million photographs, for methods that are prompted.

Data: https://ai.meta.com/datasets/segment-anything-downloads. Download the tar files in a browser. As in OVSAM, a
folder such as sam/sa_000020 has files sa_ID.jpg and sa_ID.json. The text file `sam/val.txt` lists the folders of the
split val, one name such as sa_000020 per line. `sam/train.txt` lists the folders of the split train. Any number of
folders may be listed.

The data set has no classes. Here, every mask has the class "object". So the instance accuracy is always 100 %, and
methods differ only in the IoU of their masks. Pixels outside all masks are not counted. Masks with an invalid box are
not counted.

Paper: Kirillov et al., "Segment Anything", ICCV 2023.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ovss_ray.benchmarks import coco_json
from ovss_ray.benchmarks.contract import Archive, Benchmark
from ovss_ray.benchmarks.layout import below, split_folder
from ovss_ray.benchmarks.listing import Item, Items, inside, paired, stems
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.structures.instances import Instances
from ovss_ray.structures.masks import regions
from ovss_ray.structures.vocabulary import Vocabulary

GET = (
    "Get it: tar files of https://ai.meta.com/datasets/segment-anything-downloads, unpacked into folders such as "
    "sam/sa_000020, and a text file sam/val.txt with the names of the folders"
)
ARCHIVES = (
    Archive(
        "https://ai.meta.com/datasets/segment-anything-downloads",
        to="sam/sa_000020",
        file="sa_000020.tar",
        note="its page asks for a licence agreement, and then lists addresses that expire",
    ),
)


def items(root: str, split: str) -> Items:
    """List the images of a split: the images in all folders that the text file of the split names.

    Raises OvssError if the text file, such as sam/val.txt, is missing. Raises OvssError if a folder that the text file
    names is missing. Raises UnknownName for an unknown split.
    """
    (names,) = below(root, "sam", [(split_folder(split, {"val": "val.txt", "train": "train.txt"}),)], GET)
    base = names.rpartition("/")[0]
    folders = [line.strip() for line in files.read(names).decode("utf-8", "replace").splitlines() if line.strip()]
    if missing := [folder for folder in folders if not files.is_folder(files.join(base, folder))]:
        raise OvssError(f"{names}: {len(missing)} of {len(folders)} folders are missing, such as {missing[0]}. {GET}")
    addresses = [files.join(base, folder) for folder in folders]
    return paired(_files(addresses, (".jpg",)), _files(addresses, (".json",)))


def _files(folders: list[str], endings: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for folder in folders:
        yield from stems(inside(folder), endings)


def instances(item: Item, data: bytes) -> Instances:
    """Decode the masks of an image, sorted by area, the largest first. Raises OvssError for a damaged file."""
    listed = coco_json.decode(None, item, data)
    order = np.argsort(-listed.areas, kind="stable")
    masks = regions.Masks(listed.boxes, listed.bits)
    boxes, bits = regions.join((tuple(listed.boxes[i].tolist()), masks[i]) for i in order)
    arrays = {name: getattr(listed, name)[order] for name in ("labels", "frames", "areas", "status")}
    return replace(listed, boxes=boxes, bits=bits, **arrays)


def truth(item: Item, data: bytes) -> np.ndarray:
    """Return a label map (H, W) uint16: 0 in masks, IGNORE elsewhere. Raises OvssError for a damaged file."""
    return instances(item, data).label_map()


BENCHMARKS = {
    "": Benchmark(
        title="SA-1B, masks without classes",
        domain="photographs of all kinds",
        licence="SA-1B Dataset Research License",
        source="https://ai.meta.com/datasets/segment-anything",
        counts={},
        vocabulary=Vocabulary.of(["object"]),
        items=items,
        truth=truth,
        instances=instances,
        archives=ARCHIVES,
    )
}
