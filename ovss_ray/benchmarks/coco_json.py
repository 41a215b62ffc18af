"""Instances in COCO's format: a JSON file with the images and annotations of a split, read as a stream.

The annotations are sorted by image in a temporary file, not in memory. An image has no label file. `Item.truth` is
an inline address, which contains the annotations of the image (see io.inline).

The status of an annotation is CROWD if `iscrowd` is set, as in mmdet's data sets. Other annotations are INVALID if
`ignore` is set, or if their mask, area or box is invalid.
"""

import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ovss_ray.benchmarks.listing import COLUMNS, KINDS, Item, LeftOut, Paired, inside
from ovss_ray.errors import OvssError
from ovss_ray.io import files, inline
from ovss_ray.io.sorted_rows import Rows, row
from ovss_ray.structures.instances import COUNTED, CROWD, INVALID, Instances
from ovss_ray.structures.masks import regions, rle

KEPT = ("category_id", "bbox", "area", "segmentation", "iscrowd", "ignore")
"""Keys of an annotation that are passed on to the workers."""
ABSENT, PARTIAL = SEARCHED = ("neg_category_ids", "not_exhaustive_category_ids")
"""Keys of an image in LVIS's JSON. The value of each key is a list of category ids.

ABSENT lists the categories that are known to be absent from the image. PARTIAL lists the categories of which the image
may have unmarked instances. SEARCHED contains both keys.
"""
INSTALL = 'Run `pip install "ovss_ray[instances]"`'


def items(
    uri: str, photograph: Callable[[Mapping[str, Any]], str], categories: Container[int], empty: bool = False,
    kept: Sequence[str] = (),
) -> Paired:  # fmt: skip
    """Return the images of a JSON file as Items, sorted by `image_id`. Images without a photograph are left out.

    `image_id` is the stem of the photograph's name, such as "000000000139" for 000000000139.jpg.

    `photograph`: function (JSON of an image) → address of the photograph. `categories`: category ids of the annotations
    to keep. `empty`: whether images without annotations are also returned. `kept`: further keys of each image
    in the JSON file, such as "neg_category_ids". `Item.truth` contains the values of these keys for the workers. Raises
    OvssError if the file is damaged or a library is missing.
    """
    require("ijson", "pycocotools")
    annotations: Rows[Any] = Rows(row, "image, number, content", _annotations(uri, categories))
    images: Rows[Any] = Rows(row, "image, height, width, address, more", _images(uri, photograph, kept))
    missing: Rows[Any] = Rows(row, "label", ())
    rows = _joined(uri, images, annotations, empty)
    pairs = Paired(Item, COLUMNS, _with_photograph(rows, missing), order="image_id")
    if len(missing):
        (example,) = next(missing.in_order("label"))
        pairs.left_out = (LeftOut(KINDS[1], len(missing), example),)
    return pairs


def _with_photograph(
    rows: Iterable[tuple[str, str, str, str]], missing: Rows[Any]
) -> Iterator[tuple[str, str, str, str]]:
    """Yield the rows whose photograph exists. Append the label addresses of all other rows to `missing`."""
    present: dict[str, set[str]] = {}
    for stem, photograph, label, part in rows:
        folder, _, name = photograph.rpartition("/")
        if folder not in present:
            present[folder] = {address.rpartition("/")[2] for address in inside(folder)}
        if name in present[folder]:
            yield stem, photograph, label, part
        else:
            missing.add(inline.shown(label))


def require(*libraries: str) -> None:
    """Raise OvssError, which names the extra to install, if a library is missing."""
    from importlib.util import find_spec

    if missing := [library for library in libraries if find_spec(library) is None]:
        raise OvssError(f"COCO's JSON format needs {', '.join(missing)}, which is not installed. {INSTALL}")


def _annotations(uri: str, categories: Container[int]) -> Iterator[tuple[int, int, str]]:
    for number, entry in enumerate(_stream(uri, "annotations")):
        try:
            if entry["category_id"] in categories:
                kept = {key: entry[key] for key in KEPT if key in entry}
                yield entry["image_id"], number, json.dumps(kept)
        except (KeyError, TypeError) as failure:
            raise damaged(uri, f"annotation {number}", failure) from failure


def _images(
    uri: str, photograph: Callable[[Mapping[str, Any]], str], kept: Sequence[str]
) -> Iterator[tuple[int, int, int, str, str]]:
    for number, entry in enumerate(_stream(uri, "images")):
        try:
            more = "".join(f', "{key}": {json.dumps(entry[key])}' for key in kept)
            yield entry["id"], entry["height"], entry["width"], photograph(entry), more
        except (KeyError, TypeError) as failure:
            raise damaged(uri, f"image {number}", failure) from failure


def _stream(uri: str, name: str) -> Iterator[Any]:
    """Yield the entries of the JSON list `name`. Raises OvssError for a damaged file or an empty list."""
    import ijson  # part of an extra

    count = 0
    try:
        with files.opened(uri) as file:
            for entry in ijson.items(file, f"{name}.item", use_float=True):
                count += 1
                yield entry
    except (ijson.JSONError, UnicodeDecodeError) as failure:
        raise damaged(uri, f"{name}, entry {count}", failure) from failure
    if not count:  # such as COCO's image_info files, which have no annotations
        raise damaged(uri, name, ValueError("an empty or missing list"))


def damaged(uri: str, where: str, failure: Exception) -> OvssError:
    """Return the error for a damaged file of annotations."""
    return OvssError(f"{uri}: invalid annotations: {where}: {failure!r}. Get the official file again")


def _joined(uri: str, images: Rows[Any], annotations: Rows[Any], empty: bool) -> Iterator[tuple[str, str, str, str]]:
    """Join images and annotations by the image's id. Yield the values of an Item's fields, one row per image."""
    grouped = groupby(annotations.in_order("image, number"), itemgetter(0))
    following = next(grouped, None)
    for image, height, width, photograph, more in images.in_order("image"):
        while following is not None and following[0] < image:
            following = next(grouped, None)
        listed = []
        if following is not None and following[0] == image:
            listed = [content for _, _, content in following[1]]
        if listed or empty:
            stem = PurePosixPath(photograph).stem
            text = f'{{"image": {{"id": {image}, "height": {height}, "width": {width}{more}}}, "annotations": '
            label = inline.address(f"{PurePosixPath(uri).name}/{stem}", f"{text}[{', '.join(listed)}]}}".encode())
            yield stem, photograph, label, ""


def decode(labels: Mapping[int, int] | None, item: Item, data: bytes) -> Instances:
    """Return the Instances of one image. Raises OvssError for damaged annotations.

    `labels`: category id → label index; if None, every instance has label 0. `data`: JSON with the image's
    size and annotations.
    """
    name = inline.shown(item.truth)
    try:
        content = json.loads(data)
        image, annotations = content["image"], content["annotations"]
        size = int(image["height"]), int(image["width"])
        masks = regions.pack(_mask(annotation, size, name) for annotation in annotations)  # one at a time in memory
        return Instances(
            size,
            *masks,
            labels=np.array([labels[entry["category_id"]] if labels else 0 for entry in annotations], np.uint16),
            frames=np.array([_frame(entry["bbox"]) for entry in annotations], np.float32).reshape(-1, 4),
            areas=np.array([entry["area"] for entry in annotations], np.float64),
            status=np.array([_status(annotation, size) for annotation in annotations], np.uint8),
            number=int(image.get("id", image.get("image_id", 0))),
            absent=_labels(labels, image.get(ABSENT, ())),
            partial=_labels(labels, image.get(PARTIAL, ())),
        )
    except (ValueError, KeyError, TypeError, IndexError) as failure:
        raise damaged(name, "its annotations", failure) from failure


def _labels(labels: Mapping[int, int] | None, categories: Iterable[int]) -> np.ndarray:
    """Return the label indices of categories, (n,) uint16. Categories without a label are left out."""
    return np.array([labels[category] for category in categories if category in labels] if labels else [], np.uint16)


def _frame(box: list[float]) -> tuple[float, float, float, float]:
    """Convert a box from (x, y, width, height) to (x0, y0, x1, y1)."""
    x, y, width, height = box
    return x, y, x + width, y + height


def is_valid(entry: Mapping[str, Any], size: tuple[int, int]) -> bool:
    """Return whether an annotation has an area above 0, and a valid box.

    A valid box has sides of at least 1 pixel, and overlaps the image.
    """
    x0, y0, x1, y1 = _frame(entry["bbox"])
    inside = max(0, min(x1, size[1]) - max(x0, 0)) * max(0, min(y1, size[0]) - max(y0, 0)) > 0
    return inside and entry["area"] > 0 and x1 - x0 >= 1 and y1 - y0 >= 1


def _status(entry: Mapping[str, Any], size: tuple[int, int]) -> int:
    """Return the status of an annotation: COUNTED, CROWD or INVALID."""
    if entry.get("iscrowd"):
        return CROWD
    shape = entry["segmentation"]
    has_mask = isinstance(shape, dict) or bool(_outlines(shape))
    return COUNTED if has_mask and not entry.get("ignore") and is_valid(entry, size) else INVALID


def _outlines(polygons: Iterable[list[float]]) -> list[list[float]]:
    """Return the polygons with at least three corners."""
    return [polygon for polygon in polygons if len(polygon) % 2 == 0 and len(polygon) >= 6]


def _mask(entry: Mapping[str, Any], size: tuple[int, int], name: str) -> np.ndarray:
    """Return the mask of an annotation, (H, W) bool; all False if no polygon has three corners or more."""
    shape = entry["segmentation"]
    if isinstance(shape, dict):
        return rle.decode(shape["counts"], size, name)
    outlines = _outlines(shape)
    if not outlines:
        return np.zeros(size, bool)
    from pycocotools import mask as coco  # part of an extra

    return coco.decode(coco.merge(coco.frPyObjects(outlines, *size))).astype(bool)
