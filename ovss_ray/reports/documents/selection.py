"""Selection of a gallery's images: worst, best and random images, and examples of classes and confusions."""

import zlib
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from ovss_ray.reports.documents.confusions import Confusion
from ovss_ray.reports.resampling import Cells

WORST_CLASSES = 10
"""Maximum number of classes for which the gallery shows an image: the classes with the lowest IoU."""


def selected(
    cells: Cells, iou: np.ndarray, confusions: Sequence[Confusion], saved: Collection[str] | None, most: int
) -> dict[str, list[str]]:
    """Return image id → the reasons why the gallery shows the image, for at most `most` images.

    The reasons "worst", "best", "random", "confusion" and "class" each select at most max(1, most // 5) images. If
    fewer than `most` images are selected, the images with the lowest mIoU are added, with the reason "more".
    `iou` (L,) is the IoU of each label in percent. If `saved` has image ids, only images with these ids are selected.
    If `saved` is None or empty, any image may be selected.
    """
    places = [k for k, name in enumerate(cells.ids) if not saved or name in saved]
    scored = [k for k in places if not np.isnan(cells.image_miou[k])]
    by_score = sorted(scored, key=lambda k: (cells.image_miou[k], cells.ids[k]))
    wanted = {
        "worst": [cells.ids[k] for k in by_score],
        "best": [cells.ids[k] for k in reversed(by_score)],
        "random": sorted((cells.ids[k] for k in places), key=lambda name: (zlib.crc32(name.encode()), name)),
        "confusion": [name for confusion in confusions for name in confusion.examples[:2]],
        "class": _of_classes(cells, iou),
    }
    allowed = {cells.ids[k] for k in places}
    quota = max(1, most // len(wanted))
    reasons: dict[str, list[str]] = {}
    for reason, names in wanted.items():
        for name in [name for name in dict.fromkeys(names) if name in allowed][:quota]:
            if name in reasons or len(reasons) < most:
                reasons.setdefault(name, []).append(reason)
    for name in wanted["worst"]:
        if len(reasons) < most:
            reasons.setdefault(name, ["more"])
    return reasons


def _of_classes(cells: Cells, iou: np.ndarray) -> list[str]:
    """Return the id of an example image for each of the WORST_CLASSES classes with the lowest IoU.

    The example is the image with the most false negatives and false positives of the class.
    """
    order = [int(label) for label in np.argsort(iou, kind="stable") if not np.isnan(iou[label])][:WORST_CLASSES]
    return [name for label in order for name in _most_wrong(cells, label)]


def _most_wrong(cells: Cells, label: int) -> Iterable[str]:
    wrong = (cells.truth != cells.prediction) & ((cells.truth == label) | (cells.prediction == label))
    if not wrong.any():
        return []
    pixels = np.bincount(cells.image[wrong], cells.pixels[wrong], len(cells.ids))
    return [cells.ids[int(np.argmax(pixels))]]
