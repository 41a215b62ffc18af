"""Read label maps that another system has written, to score them without running a network.

The label maps are in a folder, one file per image, or in sem_seg_predictions.json of detectron2's SemSegEvaluator. The
JSON has one entry per image and class, with the image's file_name and a mask in COCO's RLE.

An image's id is compared with the paths in the folder, or with the file_names, by the rules in io/image_names.py.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from pydantic import field_validator, model_validator

from ovss_ray.benchmarks.listing import LABELS
from ovss_ray.errors import OvssError
from ovss_ray.io import files, images
from ovss_ray.io.image_names import ImageNames
from ovss_ray.io.images import palettes
from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import NONE, Batch, column
from ovss_ray.structures.masks import rle
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies

ENDINGS = LABELS
SAMPLE = 8
"""Maximum number of label maps whose palettes are compared before a run. If a colour has different indices in two of
these palettes, the run does not start (see io/images/palettes.py)"""
_UNCOVERED = -(2**40)
"""Value of pixels that no mask of a JSON covers. No label map in a file contains this value."""
_INVALID = 65533


class Stage(stage.Stage):
    """Read the prediction (H, W) uint16 of each image from a file, by the image's id."""

    reads = ("vocabulary",)
    writes = ("prediction",)

    class Config(Settings):
        """The files, and the meaning of their values."""

        path: str
        """a folder of label maps, or a .json file"""
        none: int | tuple[int, ...] = NONE
        """value or values that mean "no class". In a .json file, pixels without a mask always have no class"""
        offset: int = 0
        """value of the first class in the files: class index = value − offset"""
        category_ids: tuple[int, ...] | None = None
        """value of each class in the files, in the order of the classes, such as [7, 8, 11]. None: consecutive
        values from `offset`"""

        @field_validator("path")
        @classmethod
        def _absolute(cls, path: str) -> str:
            return files.absolute(path)

        @model_validator(mode="after")
        def _agrees(self) -> "Stage.Config":
            ids = self.category_ids
            if ids is None:
                return self
            if self.offset:
                raise ValueError("`category_ids` and `offset` both define the values of the classes. Set only one")
            if odd := [value for value in ids if value < 0 or ids.count(value) > 1]:
                raise ValueError(
                    f"category_ids: {odd[0]} is negative or repeated. Give each class a separate value, 0 or more"
                )
            return self

    def __init__(self, config: Config, prepared: stage.Prepared | None = None) -> None:
        super().__init__(config, prepared)
        self._source: _Source = (_Json if config.path.endswith(".json") else _Folder)(config.path)
        self._table = lru_cache(maxsize=64)(self._classes)

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Read every image's label map.

        Raises OvssError if an image has no label map or several label maps, or if a pixel value is unknown. Also raises
        OvssError if `category_ids` or `none` does not fit the classes of the vocabulary.
        """
        rows = zip(batch["image_id"], batch["vocabulary"], strict=True)
        predictions = (self._prediction(str(image_id), len(vocabularies[digest])) for image_id, digest in rows)
        return {"prediction": column(predictions)}

    @classmethod
    def files(cls, config: Config) -> tuple[Path, ...]:
        """Return the local files of the predictions.

        Raises OvssError if `path` does not exist. Also raises OvssError if a colour has different indices in the
        palettes of two label maps. At most SAMPLE label maps are compared.
        """
        if not files.exists(config.path):
            raise OvssError(f"{config.path}: not found. Set `path` to a folder of label maps, or to detectron2's JSON")
        if "://" in config.path:
            return ()
        path = Path(config.path)
        if path.suffix == ".json":
            return (path,)
        maps = tuple(label_maps(config.path).values())
        _agree(maps[:: -(-len(maps) // SAMPLE)])
        archive = files.archive_of(config.path)
        return tuple(map(Path, maps)) if archive is None else (Path(archive),)

    def _prediction(self, image_id: str, classes: int) -> np.ndarray:
        name, values = self._source.read(image_id)
        table = self._table(classes)
        listed = (values >= 0) & (values < len(table))
        labels = np.where(listed, table[np.where(listed, values, 0)], _INVALID).astype(np.uint16)
        if (values < 0).any():
            labels[np.isin(values, [_UNCOVERED, *(value for value in np.ravel(self.config.none) if value < 0)])] = NONE
        if len(wrong := values[labels == _INVALID]):
            raise OvssError(
                f"{name}: {len(wrong)} pixels have values such as {wrong[0]}. This is not the value of any of the "
                f"{classes} classes. Check `offset`. If the classes do not have consecutive values, list the value of "
                f"each class in `category_ids`. If {wrong[0]} marks pixels without a class, add {wrong[0]} to `none`"
            )
        return labels

    def _classes(self, classes: int) -> np.ndarray:
        """Return the class index of each pixel value, as a table (n,) uint16 for a vocabulary of `classes` classes.

        Entry v is for the pixel value v: a class index, NONE for "no class", or _INVALID for an unknown value. The
        table ends at the largest value that means a class or "no class".

        Raises OvssError if `category_ids` does not have one value per class. Raises OvssError if a value in the option
        `none` is also the value of a class. Only 65534, the default of `none`, may be both.
        """
        values = self.config.category_ids or range(self.config.offset, self.config.offset + classes)
        if len(values) != classes:
            raise OvssError(
                f"category_ids has {len(values)} ids for {classes} classes. List one id per class, in vocabulary order"
            )
        none = np.ravel(self.config.none).astype(np.int64)
        if clash := sorted({*none.tolist()} & {*values} - {NONE}):
            raise OvssError(
                f"the option `none` has the value {clash[0]}, but {clash[0]} is also the value of the class with index "
                f"{list(values).index(clash[0])}. This class can never be predicted. Remove the value from `none`, or "
                "set `offset` or `category_ids` to fit the files"
            )
        table = np.full(max(*values, *none, 0) + 1, _INVALID, np.uint16)
        for index, value in enumerate(values):
            if value >= 0:
                table[value] = index
        table[none[none >= 0]] = NONE
        return table


def _agree(sample: Iterable[str]) -> None:
    """Raise OvssError if a colour has different indices in the palettes of two label maps."""
    shown = []
    for uri in sample:
        with suppress(OvssError):  # the run reports an unreadable file, and continues with the other images
            shown.append(palettes.read(files.read(uri), uri))
    for fault in palettes.verdict(filter(None, shown)):
        raise OvssError(
            f"{fault.what}. Some programs renumber colours to save space. Save class numbers as grey PNG files"
        )


class _Source(Protocol):
    def read(self, image_id: str) -> tuple[str, np.ndarray]:
        """Return a name for error messages, and the integers (H, W) that are stored for an image's pixels.

        Raises OvssError if the image has no prediction, several predictions, or an invalid prediction.
        """


class _Folder:
    """Label maps in a folder, found by their relative paths."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._maps = label_maps(path)
        self._names = ImageNames(self._maps)

    def read(self, image_id: str) -> tuple[str, np.ndarray]:
        fitting = self._names.fitting(image_id)
        if len(fitting) != 1:
            looked = f"{files.join(self._path, image_id)}{{{','.join(ENDINGS)}}}"
            raise OvssError(
                f"no unique prediction: searched for {looked}. {len(fitting)} of {len(self._maps)} files match, but "
                "exactly one file must match. Name exactly one file after the image's id"
            )
        uri = self._maps[fitting[0]]
        return uri, images.decode_labels(files.read(uri), uri).astype(np.int32)


def label_maps(folder: str) -> dict[str, str]:
    """Return the address of each label map in a folder, such as {"val/7": "/maps/val/7.png"} for the folder "/maps".

    Keys are relative paths without suffix. Raises OvssError if no label map exists, or if two keys would be equal.
    """
    addresses: dict[str, str] = {}
    others: Counter[str] = Counter()
    for uri in files.walk(folder):
        inner = PurePosixPath(uri[len(folder) :].lstrip("/"))
        if inner.suffix.lower() in ENDINGS:
            stem = str(inner.with_suffix(""))
            if stem in addresses:
                raise OvssError(f"{addresses[stem]} and {inner} are both predictions of {stem!r}. Remove one file")
            addresses[stem] = uri
        else:
            others[inner.suffix] += 1
    if not addresses:
        seen = ", ".join(f"{number} files {ending or 'without suffix'}" for ending, number in others.most_common(3))
        raise OvssError(f"{folder}: no label maps; found: {seen or 'nothing'}. Accepted: {' '.join(ENDINGS)}")
    return addresses


class _Json:
    """Predictions in detectron2's JSON. The file is read once; masks are decoded image by image."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._masks: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
        try:
            for entry in _entries(json.loads(files.read(path))):
                name = PurePosixPath(str(entry["file_name"]).replace("\\", "/"))
                self._masks.setdefault(str(name.with_suffix("")), []).append(_mask(entry))
        except (ValueError, KeyError, TypeError, RecursionError) as failure:
            raise OvssError(
                f"{path}: not detectron2's sem_seg_predictions.json ({type(failure).__name__}: {failure}). Expected a "
                "list of entries with file_name, category_id and segmentation"
            ) from failure
        self._names = ImageNames(self._masks)

    def read(self, image_id: str) -> tuple[str, np.ndarray]:
        """Return a name for error messages, and an image's category ids (H, W) int64, _UNCOVERED outside all masks.

        Raises OvssError if no unique file_name matches, if the masks differ in size, or if two categories overlap.
        """
        fitting = self._names.fitting(image_id)
        if len(fitting) != 1:
            raise OvssError(f"no prediction: {self._missing(image_id, fitting)}")
        masks = self._masks[fitting[0]]
        name, sizes = f"{self._path}, {image_id}", {tuple(encoded["size"]) for _, encoded in masks}
        if len(sizes) > 1 or math.prod(min(sizes)) > images.PIXELS:
            raise OvssError(
                f"{name}: all masks of an image must have the same size, at most {images.PIXELS:,} pixels. Found "
                f"sizes {sizes}. If two images share a file_name, add the folder to file_name, such as val/0001.png"
            )
        height, width = min(sizes)
        painted = np.full((height, width), _UNCOVERED, np.int64)
        for category, encoded in masks:
            inside = rle.decode(encoded["counts"], (height, width), name)
            if twice := np.count_nonzero(~np.isin(painted[inside], (_UNCOVERED, category))):
                raise OvssError(
                    f"{name}: {twice} pixels are covered by masks of two categories. If two images share a "
                    "file_name, add the folder to file_name, such as val/0001.png. If the masks of one image overlap, "
                    "save label maps as PNG instead"
                )
            painted[inside] = category
        return name, painted

    def _missing(self, image_id: str, fitting: list[str]) -> str:
        """Return text for an error message: no file_name matches the image, or several match."""
        if fitting:
            return f"{len(fitting)} file_names of {self._path} match {image_id!r}: {', '.join(fitting[:3])}"
        folders, _, stem = image_id.rpartition("/")
        example = next(iter(self._masks), "").rpartition("/")[2]
        where = f" in the folder {folders!r}" if folders else ""
        return f"{self._path} has no file_name with the stem {stem!r}{where}; an example is {example!r}"


def _entries(raw: Any) -> list[Any]:
    """Return the entries of detectron2's JSON. Raises ValueError for COCO's annotations and COCO's instance results."""
    if isinstance(raw, dict):
        keys = ", ".join(list(raw)[:5])
        raise ValueError(
            f"found an object with the keys {keys}, as in COCO's annotations. Convert it to label maps first"
        )
    if raw and isinstance(raw[0], dict) and "image_id" in raw[0] and "file_name" not in raw[0]:
        kind = "instances with scores" if "score" in raw[0] else "entries by image_id"
        raise ValueError(f"found {kind}, as in COCO's instance results. Convert them to label maps first")
    return raw


def _mask(entry: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
    """Return the category and the encoded mask of an entry.

    Raises ValueError, KeyError or TypeError for an invalid entry.
    """
    encoded = entry["segmentation"]
    if not isinstance(encoded, dict) or not {"size", "counts"} <= set(encoded):
        raise ValueError(f"the mask of {entry['file_name']} is not RLE (size, counts); polygons are not supported")
    if len(encoded["size"]) != 2 or not all(type(side) is int and side > 0 for side in encoded["size"]):
        raise ValueError(f"{entry['file_name']} has the size {encoded['size']}; expected two positive integers")
    category = entry["category_id"]
    if isinstance(category, bool) or int(category) != float(category):
        raise ValueError(f"category_id of {entry['file_name']} is {category!r}, not an integer")
    return int(category), encoded
