"""Label maps that another system has written: scored without running anything.

Either a folder of label maps, one per image, called as the image; or the sem_seg_predictions.json of
detectron2's SemSegEvaluator: one entry per image and class, its mask as COCO run lengths. Both are looked up by the
image's id: the path that ends in it, else the only one that has its last step and, in their order, its folders.
"""

import json
import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from pydantic import field_validator, model_validator

from ovss_ray import files, images, palettes, stage
from ovss_ray.columns import NONE, Batch, column
from ovss_ray.errors import OvssError
from ovss_ray.listing import LABELS
from ovss_ray.run_lengths import decode_runs
from ovss_ray.vocabulary import Vocabularies

ENDINGS = LABELS
SAMPLE = 8
"""Files whose palettes are compared before a run, at most."""
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

        @model_validator(mode="after")
        def _agrees(self) -> "Stage.Config":
            ids = self.category_ids
            if ids is None:
                return self
            if self.offset:
                raise ValueError("`category_ids` and `offset` both say which value a class has. Write one of them")
            if odd := [value for value in ids if value < 0 or ids.count(value) > 1]:
                raise ValueError(f"category_ids: each class has a value of its own, from 0 on; see {odd[0]}")
            return self

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
        if path.suffix == ".json":
            return (path,)
        maps = tuple(label_maps(config.path).values())
        _agree(maps[:: -(-len(maps) // SAMPLE)])
        return tuple(map(Path, maps))

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
                "Is `offset` right? Numbers with gaps, such as 0 and 255, belong into `category_ids`, and those that "
                "name no class into `none`"
            )
        return found

    def _classes(self, classes: int) -> np.ndarray:
        """Value in the files, from 0 on → class index, NONE or _INVALID, uint16."""
        values = self.config.category_ids or range(self.config.offset, self.config.offset + classes)
        if len(values) != classes:
            raise OvssError(f"category_ids: {len(values)} ids for {classes} classes. Give each class one, in order")
        none = np.ravel(self.config.none).astype(np.int64)
        if clash := sorted({*none.tolist()} & {*values} - {NONE}):
            raise OvssError(
                f"none: {clash[0]} is the value of the class number {list(values).index(clash[0])}, which would then "
                "never be predicted. Take it out, or set `offset` or `category_ids` to what the files have"
            )
        table = np.full(max(*values, *none, 0) + 1, _INVALID, np.uint16)
        for index, value in enumerate(values):
            if value >= 0:
                table[value] = index
        table[none[none >= 0]] = NONE
        return table


def _agree(sample: Iterable[str]) -> None:
    """Look at the palettes of some label maps. Raises OvssError if they number one colour otherwise."""
    shown = []
    for uri in sample:
        with suppress(OvssError):  # left to the run, which costs that image alone
            shown.append(palettes.read(files.read(uri), uri))
    for fault in palettes.verdict(filter(None, shown)):
        raise OvssError(f"{fault.what}: its palette was made anew to save space. Save the class numbers as grey PNG")


class _Source(Protocol):
    def read(self, image_id: str) -> tuple[str, np.ndarray]:
        """The name of an image's file, for errors, and its values (H, W) as they are stored. Raises OvssError."""


class _Folder:
    """Label maps by the path of their files below the folder."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._maps = label_maps(path)
        self._names = _Names(self._maps)

    def read(self, image_id: str) -> tuple[str, np.ndarray]:
        fitting = self._names.fitting(image_id)
        if len(fitting) != 1:
            looked = f"{files.join(self._path, image_id)}{{{','.join(ENDINGS)}}}"
            raise OvssError(
                f"no prediction: looked for {looked}, and {len(fitting)} of {len(self._maps)} files have its name"
            )
        uri = self._maps[fitting[0]]
        return uri, images.decode_labels(files.read(uri), uri).astype(np.int32)


class _Names:
    """Paths without endings, looked up by image ids."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._named: dict[str, list[str]] = {}
        for path in paths:
            self._named.setdefault(_composed(path).rpartition("/")[2], []).append(path)

    def fitting(self, image_id: str) -> list[str]:
        """The path that is an image's id, or that ends in it; else those that have its last step and its folders."""
        wanted = _composed(image_id)
        alike = {path: _composed(path) for path in self._named.get(wanted.rpartition("/")[2], [])}
        equal = [path for path, name in alike.items() if name == wanted]
        ending = [path for path, name in alike.items() if f"/{name}".endswith(f"/{wanted}")]
        if equal or (len(ending) == 1 and "/" in wanted):
            return equal or ending
        return [path for path, name in alike.items() if _in_order(wanted.split("/"), name.split("/"))]


def _composed(name: str) -> str:
    """A name with its accents as Linux writes them; macOS takes them apart."""
    return unicodedata.normalize("NFC", name)


def _in_order(steps: list[str], path: list[str]) -> bool:
    """Whether all steps occur in a path, one after another."""
    left = iter(path)
    return all(step in left for step in steps)


def label_maps(folder: str) -> dict[str, str]:
    """Path below the folder without its ending → address, of all label maps.

    Raises OvssError if there is none, or if two share one path.
    """
    found: dict[str, str] = {}
    others: Counter[str] = Counter()
    for uri in files.walk(folder):
        inner = PurePosixPath(uri[len(folder) :].lstrip("/"))
        if inner.suffix.lower() in ENDINGS:
            stem = str(inner.with_suffix(""))
            if stem in found:
                raise OvssError(f"{found[stem]} and {inner} would both be the prediction of {stem!r}. Remove one")
            found[stem] = uri
        else:
            others[inner.suffix] += 1
    if not found:
        seen = ", ".join(f"{number} files {ending or 'without ending'}" for ending, number in others.most_common(3))
        raise OvssError(f"{folder}: no label maps in it, but {seen or 'no file'}. Read are {' '.join(ENDINGS)}")
    return found


class _Json:
    """detectron2's predictions, read once: the masks stay encoded until their image's turn."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._masks: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
        try:
            for entry in _entries(json.loads(files.read(path))):
                name = PurePosixPath(str(entry["file_name"]).replace("\\", "/"))
                self._masks.setdefault(str(name.with_suffix("")), []).append(_mask(entry))
        except (ValueError, KeyError, TypeError, RecursionError) as failure:
            raise OvssError(
                f"{path}: not detectron2's sem_seg_predictions.json, a list of file_name, category_id and segmentation "
                f"({type(failure).__name__}: {failure})"
            ) from failure
        self._names = _Names(self._masks)

    def read(self, image_id: str) -> tuple[str, np.ndarray]:
        """Paint the masks. Raises OvssError where two of different classes overlap: they may be of two images."""
        fitting = self._names.fitting(image_id)
        if len(fitting) != 1:
            raise OvssError(f"no prediction: {self._missing(image_id, fitting)}")
        masks = self._masks[fitting[0]]
        name, sizes = f"{self._path}, {image_id}", {tuple(encoded["size"]) for _, encoded in masks}
        if len(sizes) > 1 or math.prod(min(sizes)) > images.PIXELS:
            raise OvssError(f"{name}: its masks must have one size of at most {images.PIXELS:,} pixels, not {sizes}")
        height, width = min(sizes)
        painted = np.full((height, width), _UNCOVERED, np.int64)
        for category, encoded in masks:
            inside = decode_runs(encoded["counts"], height, width, name)
            if twice := np.count_nonzero(~np.isin(painted[inside], (_UNCOVERED, category))):
                raise OvssError(
                    f"{name}: {twice} pixels are covered by masks of two categories. Are they of two images with one "
                    "file_name? Write the folders into file_name, or save label maps as PNG"
                )
            painted[inside] = category
        return name, painted

    def _missing(self, image_id: str, fitting: list[str]) -> str:
        """Why an image has no masks, in words."""
        if fitting:
            return f"{len(fitting)} file_names of {self._path} fit {image_id!r}: {', '.join(fitting[:3])}"
        folders, _, stem = image_id.rpartition("/")
        example = next(iter(self._masks), "").rpartition("/")[2]
        where = f" in the folder {folders!r}" if folders else ""
        return f"{self._path} has no file_name with the stem {stem!r}{where}; one is {example!r}"


def _entries(raw: Any) -> list[Any]:
    """The entries of detectron2's JSON. Raises ValueError for JSON of another kind, naming it."""
    if isinstance(raw, dict):
        raise ValueError(f"a table of {', '.join(list(raw)[:5])}, such as COCO's annotations and panoptic results")
    if raw and isinstance(raw[0], dict) and "image_id" in raw[0] and "file_name" not in raw[0]:
        kind = "instances with scores" if "score" in raw[0] else "entries by image_id"
        raise ValueError(f"{kind}, as of COCO's instance results. Paint them into label maps first")
    return raw


def _mask(entry: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
    """The category and the encoded mask of an entry. Raises ValueError, KeyError or TypeError."""
    encoded = entry["segmentation"]
    if not isinstance(encoded, dict) or not {"size", "counts"} <= set(encoded):
        raise ValueError(f"the mask of {entry['file_name']} is no run lengths, size and counts: polygons are not read")
    if len(encoded["size"]) != 2 or not all(type(side) is int and side > 0 for side in encoded["size"]):
        raise ValueError(f"segmentation of {entry['file_name']} has the size {encoded['size']}, not [height, width]")
    category = entry["category_id"]
    if isinstance(category, bool) or int(category) != float(category):
        raise ValueError(f"{category!r} of {entry['file_name']} is no category_id, which is a whole number")
    return int(category), encoded
