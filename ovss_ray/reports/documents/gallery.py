"""Gallery of a page: pictures and values of selected images, as plain data for the page's script."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ovss_ray.reports.documents.pictures import Album
from ovss_ray.reports.resampling import Cells

ROOM = 6_000_000
"""Maximum bytes of the pictures of a page, so that the page fits into an e-mail."""
HOW_TO_SAVE = (
    "the run kept no label maps. To keep them, repeat it in a new folder with: "
    "ovss evaluate CONFIG … --set keep_predictions=all"
)
KINDS = {"photograph": "photographs", "truth": "ground truth", "label map": "label maps"}


@dataclass(frozen=True)
class Gallery:
    """Images of a gallery, and sentences on missing pictures."""

    images: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()


def share(images: int, benchmarks: int) -> int:
    """Return the number of images per benchmark: an equal part of `images`, at least 1; 0 if `images` is 0."""
    return max(images // benchmarks, min(images, 1))


def build(album: Album, cells: Sequence[Cells], reasons: Mapping[str, Sequence[str]], room: int = ROOM) -> Gallery:
    """Return a gallery of the images in `reasons`, in the order of `reasons`.

    `reasons`: image id → reasons to show the image. `cells`: for each run, the confusion matrices of the images. If the
    pictures exceed `room` bytes in total, the last images are left out.
    """
    places = [{name: k for k, name in enumerate(of_run.ids)} for of_run in cells]
    images: list[dict[str, Any]] = []
    used = 0
    for name, of_image in reasons.items():
        pictures = album.pictures(name)
        if used + pictures.bytes > room:
            break
        used += pictures.bytes
        mious = [float(of.image_miou[place[name]]) for of, place in zip(cells, places, strict=True)]
        images.append(
            {
                "id": name,
                "reasons": list(of_image),
                "miou": [None if np.isnan(value) else round(value, 2) for value in mious],
                "photo": pictures.photo,
                "truth": pictures.truth,
                "predictions": list(pictures.predictions),
                "differences": list(pictures.differences),
                "classes": [classes_of(of, place[name]) for of, place in zip(cells, places, strict=True)],
            }
        )
    return Gallery(tuple(images), tuple(_notes(album, images, len(reasons) - len(images), room)))


def _notes(album: Album, images: Sequence[Mapping[str, Any]], left_out: int, room: int) -> Iterable[str]:
    """Yield sentences on missing pictures."""
    if images and not any(any(image["predictions"]) for image in images) and "label map" not in album.missing:
        yield f"No predictions and no differences: {HOW_TO_SAVE}"
    for kind, reason in album.missing.items():
        yield f"Some or all {KINDS[kind]} are missing: {reason}"
    if left_out:
        yield f"{left_out} further images were left out, to keep the pictures below {room / 1e6:g} MB."


def classes_of(cells: Cells, image: int) -> list[list[int]]:
    """Return [label, true pixels, predicted pixels, correct pixels] for each label of an image, most pixels first.

    `image` is an index into `cells.ids`. A label is an index from 0 to L - 1, where L is the number of labels. Pixels
    without a predicted class count as predicted pixels of an additional label L.
    """
    of_image = slice(*np.searchsorted(cells.image, [image, image + 1]))  # the cells are sorted by image
    truth, prediction, pixels = (of[of_image] for of in (cells.truth, cells.prediction, cells.pixels))
    width = cells.labels + 1
    sums = [np.bincount(of, pixels, width) for of in (truth, prediction)]
    sums.append(np.bincount(truth, pixels * (truth == prediction), width))
    table = np.stack(sums, axis=1).astype(np.int64)
    present = np.flatnonzero(table.any(axis=1))
    order = present[np.argsort(-(table[present, 0] + table[present, 1]), kind="stable")]
    return [[int(label), *map(int, table[label])] for label in order]
