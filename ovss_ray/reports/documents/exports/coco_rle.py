"""Export of saved label maps as detectron2's sem_seg_predictions.json: a mask per image and class, in COCO's RLE.

Category ids are class indices of the vocabulary.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.io.arrays import mapped_tables
from ovss_ray.io.images import decode_labels
from ovss_ray.reports.documents.pictures import saved_maps
from ovss_ray.runs import manifest as manifests
from ovss_ray.runs.complete import gives_words
from ovss_ray.runs.folder import RunFolder
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.masks import rle


def write(folder: RunFolder, uri: str) -> str:
    """Write the label maps of a run to a file, and return a sentence on the number of images.

    Raises OvssError if the run has several benchmarks, gives each image its own words, or has no saved label maps.
    """
    config = folder.config()
    names = config.benchmarks
    if len(names) != 1:
        raise OvssError(
            f"--coco-rle: the run has {len(names)} benchmarks, but the file can hold only one. Repeat the run with one "
            "--benchmark"
        )
    if gives_words(config):
        raise OvssError(
            f"--coco-rle: the label maps of {folder.uri} have indices into the words of each image, not category ids. "
            "Pass a run without stages that find words. For example, the stages `tags` and `given_words` find words"
        )
    listed = manifests.load(folder.manifest(names[0]), ["image_id", "image_uri"])
    saved = saved_maps(folder, names[0])
    images = pc.sum(pc.is_in(listed["image_id"], pa.array(list(saved), pa.string()))).as_py() or 0
    if not images:
        raise OvssError(
            f"--coco-rle: {folder.uri} has no saved label maps. Repeat the run in a new folder with "
            "--set keep_predictions=all"
        )
    rows = (row for _, block in mapped_tables.blocks(listed) for row in block.to_pylist() if row["image_id"] in saved)
    entries = (entry for row in rows for entry in _entries(row, saved[row["image_id"]]))
    files.write(files.absolute(uri), _lines(entries))
    return f"{uri}: label maps of {images} of {len(listed)} images"


def _lines(entries: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """Yield the bytes of a JSON list, one entry per line."""
    opening = "["
    for entry in entries:
        yield (opening + json.dumps(entry, ensure_ascii=False)).encode()
        opening = ",\n"
    yield b"]\n" if opening != "[" else b"[]\n"


def _entries(row: dict[str, str], uri: str) -> Iterator[dict[str, Any]]:
    """Yield an entry of the JSON file for each class in the saved label map of an image.

    `row` is the image's row in the manifest, and `uri` is the address of the label map. The "file_name" of an entry is
    the image id with the photograph's suffix. If the photograph has no suffix, the name ends with ".png".
    """
    labels = decode_labels(files.read(uri), uri)
    classes = [int(value) for value in np.unique(labels) if value != NONE]
    suffix = PurePosixPath(row["image_uri"] or "").suffix or ".png"
    for index, counts in zip(classes, rle.encode(labels, classes), strict=True):
        segmentation = {"size": list(labels.shape), "counts": counts}
        yield {"file_name": row["image_id"] + suffix, "category_id": index, "segmentation": segmentation}
