"""Pictures of a run's images as data URIs: photograph, truth, saved label map, and difference of map and truth."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from ovss_ray.benchmarks import catalog
from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.benchmarks.listing import Item
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.io.images import decode_labels
from ovss_ray.reports.totals import Reading
from ovss_ray.runs.complete import binary, gives_words
from ovss_ray.runs.folder import RunFolder
from ovss_ray.structures.columns import IGNORE, NONE
from ovss_ray.structures.question import Question
from ovss_ray.structures.vocabulary import Vocabulary

SIDE = 480
"""Longest side of a picture, in pixels."""
QUALITY = 78
"""WebP quality of photographs, 0 to 100."""
UNCOUNTED, UNLABELLED = (138, 138, 138), (0, 0, 0)
"""RGB colours of pixels that are not counted, and of pixels without a predicted class."""
RIGHT, WRONG = (236, 238, 241), (196, 32, 74)
"""RGB colours of correct and of wrong pixels in a difference picture."""


@dataclass(frozen=True)
class Pictures:
    """Pictures of one image as data URIs; an empty text for a picture that is not available."""

    photo: str = ""
    truth: str = ""
    predictions: tuple[str, ...] = ()
    """coloured label map of each run"""
    differences: tuple[str, ...] = ()
    """one picture per run; correct pixels have the colour RIGHT, and wrong pixels have the colour WRONG"""

    @property
    def bytes(self) -> int:
        """Total length of the data URIs, in bytes."""
        return sum(map(len, (self.photo, self.truth, *self.predictions, *self.differences)))


class Album:
    """Source of the pictures of a benchmark's images. `missing` collects the reasons for missing pictures."""

    def __init__(self, name: str, runs: Sequence[tuple[RunFolder, Reading]]) -> None:
        self._name, self._runs = name, runs
        self._reading = runs[0][1]
        self.missing: dict[str, str] = {}
        """kind of picture → first reason why a picture of this kind is missing"""
        self._question = lru_cache(maxsize=64)(self._asked)

    def saved(self) -> set[str]:
        """Return the ids of the images that have a saved label map in every run."""
        return set.intersection(*(set(saved_maps(folder, self._name)) for folder, _ in self._runs))

    def pictures(self, image_id: str) -> Pictures:
        """Return the pictures of an image. Pictures that cannot be read are left out, with a reason in `missing`."""
        item = self._item(image_id)
        benchmark = self._benchmark
        photo = truth = None
        if item and benchmark:
            photo = self._try("photograph", lambda: benchmark.image(item, files.read(item.image)))
            truth = self._try("truth", lambda: benchmark.truth(item, files.read(item.truth)))
        predictions = [self._prediction(run, image_id, item.part if item else "") for run in range(len(self._runs))]
        size = next((of.shape[:2] for of in (photo, truth, *predictions) if of is not None), (1, 1))
        small = None if truth is None else _nearest(truth, size)
        maps = [None if of is None else _nearest(of, size) for of in predictions]
        return Pictures(
            photo="" if photo is None else _photograph(photo),
            truth="" if small is None else _coloured(small),
            predictions=tuple("" if of is None else _coloured(of) for of in maps),
            differences=tuple("" if of is None or small is None else _different(small, of) for of in maps),
        )

    @cached_property
    def _benchmark(self) -> Benchmark | None:
        """The benchmark; None if it cannot be loaded, or if its labels differ from those of the run."""

        def load() -> Benchmark:
            benchmark = catalog.load(self._name)
            if list(benchmark.labels) != self._reading.card["labels"]:
                raise OvssError(
                    f"the labels of {self._name} differ from the labels in this run's records, so photographs and "
                    "ground truth cannot be shown. Restore the labels with which the run was started"
                )
            return benchmark

        return self._try("photograph", load)

    def _item(self, image_id: str) -> Item | None:
        """Return an image's Item, read from its row in the manifest; None if the manifest does not list the image."""
        listed = self._reading.listed.select(["image_id", "image_uri", "truth_uri", "part"])
        rows = listed.filter(pc.equal(listed["image_id"], image_id)).to_pylist()
        return Item(*(text or "" for text in rows[0].values())) if rows else None

    def _prediction(self, run: int, image_id: str, part: str) -> np.ndarray | None:
        """Return the label map that a run saved for an image, as label indices (H, W) uint16.

        `run` is an index into the runs of the album. `part` is the class of a few-shot episode, as in Item.part.
        Returns None if the run saved no label map for the image, or if the label map cannot be read.
        """
        uri = files.join(self._runs[run][0].predictions(self._name), f"{image_id}.png")
        if not files.exists(uri):
            return None
        return self._try("label map", lambda: self._question(run, part).labelled(decode_labels(files.read(uri), uri)))

    def _asked(self, run: int, part: str) -> Question:
        """Return a Question with the classes of a run's label maps, and with the ground-truth label of each class.

        `run` is an index into the runs of the album. `part` is the class of a few-shot episode, as in Item.part.
        Raises OvssError if a stage of the run gives each image its own vocabulary.
        """
        folder, reading = self._runs[run]
        config, card = folder.config(), reading.card
        if gives_words(config):
            raise OvssError(
                f"the label maps of {folder.uri} cannot be shown: each image has its own vocabulary, so a pixel value "
                "may stand for different words in two label maps. The metrics are not affected"
            )
        labels, benchmark = tuple(card["labels"]), self._benchmark
        if benchmark and binary(config):
            benchmark = benchmark.for_binary()
        # the card (benchmark.json) has no episodes, and has no `index` if an earlier version wrote it
        if benchmark and (part in benchmark.parts or "index" not in card):
            return Question(labels, *benchmark.question(part))
        index = card.get("index", range(len(labels)))
        return Question(labels, Vocabulary.of(card.get("classes", labels)), tuple(index))

    def _try(self, kind: str, make: Any) -> Any:
        """Return the result of `make`. After an OvssError, add its message to `missing`, and return None."""
        try:
            return make()
        except OvssError as failure:
            self.missing.setdefault(kind, str(failure))
            return None


def saved_maps(folder: RunFolder, name: str) -> dict[str, str]:
    """Return image id → address of its saved label map, sorted by id; {} if the run saved none."""
    inner = folder.predictions(name)
    addresses = (uri for uri in files.walk(inner) if uri.endswith(".png"))
    return dict(sorted((uri[len(inner) :].lstrip("/").removesuffix(".png"), uri) for uri in addresses))


def colour(label: int) -> tuple[int, int, int]:
    """Return a label's RGB colour, 0 to 255. The page of the online service shows the same colours."""
    hue = 0.618034 * label % 1.0
    value, saturation = ((0.95, 0.72), (0.72, 0.85), (0.85, 0.45))[label % 3]
    parts = [abs((hue * 6 + shift) % 6 - 3) - 1 for shift in (0, 4, 2)]
    red, green, blue = (round(255 * value * (1 - saturation * (1 - min(max(part, 0), 1)))) for part in parts)
    return red, green, blue


@lru_cache(maxsize=1)
def _table() -> np.ndarray:
    """Return the colour of each value of a label map, (65536, 3) uint8."""
    table = np.zeros((IGNORE + 1, 3), np.uint8)
    table[:4096] = [colour(label) for label in range(4096)]
    table[4096:NONE] = table[:4096][np.arange(4096, NONE) % 4096]
    table[NONE], table[IGNORE] = UNLABELLED, UNCOUNTED
    return table


def _scale(size: tuple[int, ...]) -> tuple[int, int]:
    """Return the size (H, W) of a picture, with no side over SIDE. `size`: (H, W) of the image."""
    factor = min(1.0, SIDE / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _nearest(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Resize a label map by nearest neighbour to `_scale(size)`, where `size` (H, W) is the size of the image."""
    height, width = _scale(size)
    rows = (np.arange(height) * 2 + 1) * values.shape[0] // (2 * height)
    columns = (np.arange(width) * 2 + 1) * values.shape[1] // (2 * width)
    return values[rows[:, None], columns]


def _photograph(image: np.ndarray) -> str:
    height, width = _scale(image.shape[:2])
    small = Image.fromarray(image).resize((width, height), Image.Resampling.BOX)
    return _uri(small, quality=QUALITY, method=2)


def _coloured(labels: np.ndarray) -> str:
    return _uri(Image.fromarray(_table()[labels]), lossless=True, quality=20, method=1)


def _different(truth: np.ndarray, prediction: np.ndarray) -> str:
    """Return the difference picture as a data URI. Pixels with the truth IGNORE have the colour UNCOUNTED."""
    colours = np.array([RIGHT, WRONG, UNCOUNTED], np.uint8)
    state = np.where(truth == IGNORE, 2, (truth != prediction).astype(np.int64))
    return _uri(Image.fromarray(colours[state]), lossless=True, quality=20, method=1)


def _uri(picture: Image.Image, **options: Any) -> str:
    picture.save(sink := io.BytesIO(), "WEBP", **options)
    return f"data:image/webp;base64,{base64.b64encode(sink.getvalue()).decode()}"
