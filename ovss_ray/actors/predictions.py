"""Label maps that another system has written: scored without running anything.

Either a folder of label maps, one PNG or TIFF per image, called as the image; or the sem_seg_predictions.json of
detectron2's SemSegEvaluator: one entry per image and class, its mask as COCO run lengths.
"""

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from pydantic import field_validator

from ovss_ray import files, images, stage
from ovss_ray.columns import NONE, Batch, column
from ovss_ray.errors import OvssError
from ovss_ray.run_lengths import decode_runs
from ovss_ray.vocabulary import Vocabularies

ENDINGS = (".png", ".tif", ".tiff")
_UNCOVERED = -(2**40)
"""In the place of a value where no mask of a JSON lies: beyond all that a label file can hold, -1 included."""
_INVALID = 65533


class Stage(stage.Stage):
    """image_id → prediction (H, W) uint16, from a file."""

    reads = ("vocabulary",)
    writes = ("prediction",)

    class Config(stage.Config):
        """How the files are to be read."""

        path: str
        """a folder of label maps, or a .json"""
        none: int | tuple[int, ...] = NONE
        """the value or values that name no class; pixels that no mask of a JSON covers need none"""
        offset: int = 0
        """value − offset = index of the class"""
        category_ids: tuple[int, ...] | None = None
        """the value of each class, if they are no row of numbers: detectron2's contiguous ids → data set's ids"""

        @field_validator("path")
        @classmethod
        def _absolute(cls, path: str) -> str:
            return files.absolute(path)

    def __init__(self, config: Config, prepared: stage.Prepared | None = None) -> None:
        super().__init__(config, prepared)
        self._source: _Source = (_Json if config.path.endswith(".json") else _Folder)(config.path)
        self._table = lru_cache(maxsize=64)(self._classes)

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Read every image's label map. Raises OvssError if it is missing or has a value that is no class."""
        rows = zip(batch["image_id"], batch["vocabulary"], strict=True)
        return {"prediction": column(self._prediction(str(one), len(vocabularies[digest])) for one, digest in rows)}

    @classmethod
    def files(cls, config: Config) -> tuple[Path, ...]:
        """The local files that predictions are read from. Raises OvssError if there is nothing at the path."""
        if not files.exists(config.path):
            raise OvssError(f"{config.path}: nothing there. `path` is a folder of label maps, or detectron2's JSON")
        if "://" in config.path:
            return ()
        path = Path(config.path)
        return (path,) if path.suffix == ".json" else tuple(map(Path, label_maps(config.path).values()))

    def _prediction(self, image_id: str, classes: int) -> np.ndarray:
        name, values = self._source.read(image_id)
        table = self._table(classes)
        listed = (values >= 0) & (values < len(table))
        found = np.where(listed, table[np.where(listed, values, 0)], _INVALID).astype(np.uint16)
        if (values < 0).any():
            found[np.isin(values, [_UNCOVERED, *(value for value in np.ravel(self.config.none) if value < 0)])] = NONE
        if len(wrong := values[found == _INVALID]):
            raise OvssError(
                f"{name}: {len(wrong)} pixels have values such as {wrong[0]}, which is none of the {classes} classes. "
                "Is `offset` right? Values that name no class belong into `none`"
            )
        return found

    def _classes(self, classes: int) -> np.ndarray:
        """Value in the files, from 0 on → class index, NONE or _INVALID, uint16."""
        values = self.config.category_ids or range(self.config.offset, self.config.offset + classes)
        if len(values) != classes:
            raise OvssError(f"category_ids: {len(values)} ids for {classes} classes. Give each class one, in order")
        none = np.ravel(self.config.none).astype(np.int64)
        table = np.full(max(*values, *none, 0) + 1, _INVALID, np.uint16)
        for index, value in enumerate(values):
            if value >= 0:
                table[value] = index
        table[none[none >= 0]] = NONE
        return table


class _Source(Protocol):
    def read(self, image_id: str) -> tuple[str, np.ndarray]:
        """The name of an image's file, for errors, and its values (H, W) as they are stored. Raises OvssError."""


class _Folder:
    """Label maps by image id, or by its last part if only one file is called so."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._maps = label_maps(path)
        self._named: dict[str, list[str]] = {}
        for stem, uri in self._maps.items():
            self._named.setdefault(PurePosixPath(stem).name, []).append(uri)

    def read(self, image_id: str) -> tuple[str, np.ndarray]:
        named = self._named.get(PurePosixPath(image_id).name, [])
        uri = self._maps.get(image_id) or (named[0] if len(named) == 1 else None)
        if uri is None:
            looked = f"{files.join(self._path, image_id)}{{{','.join(ENDINGS)}}}"
            raise OvssError(
                f"no prediction: looked for {looked}, and {len(named)} of {len(self._maps)} files have its name"
            )
        return uri, images.decode_labels(files.read(uri), uri).astype(np.int32)


def label_maps(folder: str) -> dict[str, str]:
    """Path below the folder without its ending → address, of all label maps. Raises OvssError if two share one."""
    found: dict[str, str] = {}
    for uri in files.walk(folder):
        inner = PurePosixPath(uri[len(folder) :].lstrip("/"))
        if inner.suffix.lower() in ENDINGS:
            stem = str(inner.with_suffix(""))
            if stem in found:
                raise OvssError(f"{found[stem]} and {inner} would both be the prediction of {stem!r}. Remove one")
            found[stem] = uri
    return found


class _Json:
    """detectron2's predictions, read once: the masks stay encoded until their image's turn."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._masks: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
        try:
            for entry in json.loads(files.read(path)):
                stem = PurePosixPath(entry["file_name"]).stem
                self._masks.setdefault(stem, []).append((int(entry["category_id"]), entry["segmentation"]))
        except (ValueError, KeyError, TypeError) as failure:
            raise OvssError(
                f"{path}: not detectron2's sem_seg_predictions.json, a list of file_name, category_id and segmentation "
                f"({type(failure).__name__}: {failure})"
            ) from failure

    def read(self, image_id: str) -> tuple[str, np.ndarray]:
        """Paint the masks; where two overlap, which detectron2 never writes, the later one wins."""
        masks = self._masks.get(image_id)
        if not masks:
            example = next(iter(self._masks), None)
            raise OvssError(
                f"no prediction: {self._path} has no file_name with the stem {image_id!r}; one is {example!r}"
            )
        name, sizes = f"{self._path}, {image_id}", {tuple(encoded["size"]) for _, encoded in masks}
        if len(sizes) > 1 or math.prod(min(sizes)) > images.PIXELS:
            raise OvssError(f"{name}: its masks must have one size of at most {images.PIXELS:,} pixels, not {sizes}")
        height, width = min(sizes)
        painted = np.full((height, width), _UNCOVERED, np.int64)
        for category, encoded in masks:
            painted[decode_runs(encoded["counts"], height, width, name)] = category
        return name, painted
