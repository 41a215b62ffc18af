"""Read the words of each image from a file, for example the tags of a tagging model.

The suffix of the file determines its format:

    .json      a list of entries, or an object with image names as keys: {"val/7": ["sky", ["car", "auto"]], …}
    .jsonl     one entry per line
    .parquet   one entry per row

An entry has the name of the image under `image_id`, `file_name` or `image`. The words are under `classes`,
`class_names` or `words`. A word is a name, or a list of synonyms with the displayed name first. The optional key
`scores` has one number per word. The name `maps/val/7.png` fits the image `val/7` (see io/image_names.py).
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.io.files.cache import local_copy
from ovss_ray.io.image_names import ImageNames
from ovss_ray.pipeline import stage
from ovss_ray.structures import words
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies, Vocabulary, folded

PHOTOGRAPHS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
"""Suffixes that are removed from the name of an image"""
IMAGE, CLASSES = ("image_id", "file_name", "image"), ("classes", "class_names", "words")
"""Possible keys for the name of an entry's image, and for the entry's words. The first key that an entry has is read"""


class Entry(NamedTuple):
    """Words of one image as read from the file, not yet checked."""

    place: str
    """position of the entry in the file, such as "line 3"; for messages"""
    classes: Any
    scores: Any = None


class Stage(stage.Stage):
    """Return the words of each image, from the file's entry whose image name fits the image's id."""

    reads: tuple[str, ...] = ()
    writes = ("words",)

    class Config(Settings):
        """The file, and the treatment of images without words."""

        path: str
        """path of the .json, .jsonl or .parquet file"""
        missing: Literal["error", "benchmark"] = "error"
        """error: an image without an entry fails; benchmark: an image without an entry gets the benchmark's classes"""
        base: bool = False
        """True: the classes of the benchmark come first, then the words of the entry"""
        most: int = Field(default=1000, ge=1, le=65_533)
        """maximum number of words of an entry; if an entry has more words, the entry's image fails"""
        fallback: str = ""
        """word of an image whose entry has no words, for example "object"; empty: the image has no prediction

        If `base` is True, the option `fallback` has no effect.
        """

        @field_validator("path")
        @classmethod
        def _absolute(cls, path: str) -> str:
            return files.absolute(path)

    @classmethod
    def files(cls, config: Config) -> tuple[Path, ...]:
        """Return the file. Raises OvssError if it is missing, unreadable or empty, or has two entries for an image."""
        if not files.exists(config.path):
            raise OvssError(f"{config.path}: not found. Set given_words.path to a .json, .jsonl or .parquet file")
        read(config.path)
        return (local_copy(config.path),)

    @classmethod
    def check(cls, config: Config, images: Iterable[str]) -> tuple[str, ...]:
        """Return warnings about images without an entry, entries without an image, and names repeated in an entry.

        Raises OvssError if no image has an entry.
        """
        entries, used, first = read(config.path), set[str](), ""
        names, total, lacking = ImageNames(entries), 0, 0
        for image in images:
            keys = names.fitting(image)
            used |= set(keys)
            first = first or ("" if keys else image)
            total, lacking = total + 1, lacking + (not keys)
        if not total:
            return ()
        unused = [entry for entry in entries if entry not in used]
        if not used:
            raise OvssError(
                f"{config.path}: none of the {len(entries):,} entries belongs to an image of this run. Example of an "
                f"entry: {unused[0]!r}; example of an image id: {first!r}. In each entry, name the image by its id"
            )
        fate = "will fail" if config.missing == "error" else "have the classes of the benchmark"
        rest = f"{lacking:,} of {total:,} images have no entry, such as {first!r}. They {fate}"
        useless = f"{len(unused):,} of {len(entries):,} entries belong to no image of this run, such as "
        repeated = {entry: name for entry in entries if (name := _repeated(entries[entry].classes))}
        twice = f"{len(repeated):,} entries repeat a name, which counts once, such as "
        warnings = [rest] if lacking else []
        warnings += [f"{useless}{unused[0]!r}"] if unused else []
        warnings += [f"{twice}{name!r} for {entry!r}" for entry, name in list(repeated.items())[:1]]
        return tuple(f"{PurePosixPath(config.path).name}: {warning}" for warning in warnings)

    @classmethod
    def columns(cls, options: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the columns that the stage reads and writes.

        The column `vocabulary` is read only if `base` is True, or if `missing` is benchmark.
        """
        of_benchmark = options.get("base") or options.get("missing") == "benchmark"
        return ("vocabulary",) if of_benchmark else (), cls.writes

    @classmethod
    def notes(cls, config: Config, benchmark: str) -> tuple[str, ...]:
        """Return a note for the report: the name of the file, and the treatment of images without an entry."""
        base = "; words are added to the classes of the benchmark" * config.base
        rest = "; images without an entry have the classes of the benchmark" * (config.missing == "benchmark")
        return (f"words from {PurePosixPath(config.path).name}{base}{rest}",)

    def __init__(self, config: Config, prepared: stage.Prepared | None = None) -> None:
        super().__init__(config, prepared)
        self.reads, _ = self.columns(config.model_dump())
        self._entries = read(config.path)
        self._names = ImageNames(self._entries)

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Return the words of every image.

        Raises OvssError if an entry is invalid, or if several entries fit an image. With `missing: error`, also raises
        OvssError if an image has no entry.
        """
        rows = zip(batch["image_id"], batch.get("vocabulary", batch["image_id"]), strict=True)
        return {"words": column(self._words(str(image), vocabularies.get(digest)) for image, digest in rows)}

    def _words(self, image: str, classes: Vocabulary | None) -> dict[str, Any]:
        of_benchmark = classes.classes if classes else ()
        keys = self._names.fitting(image)
        if not keys and self.config.missing == "benchmark":
            return words.of((), "benchmark", base=of_benchmark)
        if len(keys) != 1:
            advice = "Keep one entry" if keys else "Add an entry for the image, or set given_words.missing=benchmark"
            raise OvssError(
                f"{self.config.path}: {len(keys)} of {len(self._entries):,} entries belong to the image {image!r}, "
                f"expected exactly 1 entry{_examples(keys or self._entries)}. {advice}"
            )
        entry = self._entries[keys[0]]
        place = f"{self.config.path}, {entry.place}"
        try:
            listed = _checked(entry.classes, self.config.most)
            scores = None if entry.scores is None else list(map(float, entry.scores))
            source, base = f"given_words {Path(self.config.path).name}", of_benchmark if self.config.base else ()
            return words.of(listed, source, scores, self.config.fallback, base)
        except (OvssError, TypeError, ValueError) as failure:
            raise OvssError(f"{place}: {failure}") from failure


def _checked(classes: Any, most: int) -> list[Any]:
    """Return the words of an entry as a list.

    Raises OvssError unless `classes` is a list of at most `most` words. A word is a name, or a list of names.
    """
    listed = classes.tolist() if isinstance(classes, np.ndarray) else classes
    if not isinstance(listed, list | tuple):
        raise OvssError(f'expected a list of names, such as ["sky", "road"], found {_short(listed)}')
    if len(listed) > most:
        raise OvssError(f"{len(listed):,} words, more than given_words.most ({most:,}). Remove words, or raise `most`")
    for word in listed:
        names = [word] if isinstance(word, str) else word
        if not isinstance(names, list | tuple | np.ndarray) or not all(isinstance(name, str) for name in names):
            raise OvssError(f"the word {_short(word)} is neither a name nor a list of names. Write each name in quotes")
    return list(listed)


def _repeated(classes: Any) -> str:
    """Return the first repeated name of an entry, or "". Differences in case and blanks are ignored."""
    listed = classes if isinstance(classes, list) else ()
    names = (name for word in listed for name in (word if isinstance(word, list) else [word]))
    seen: set[str] = set()
    for name in filter(lambda name: isinstance(name, str), names):
        key = folded(" ".join(name.split()))
        if key in seen:
            return str(name)
        seen.add(key)
    return ""


@lru_cache(maxsize=4)
def read(path: str) -> Mapping[str, Entry]:
    """Return the entries of a file of words. The key of an entry is the image's name without suffix.

    Raises OvssError if the file is invalid or empty.
    """
    suffix = PurePosixPath(path).suffix.lower()
    if suffix not in _FORMS:
        raise OvssError(f"{path}: unknown suffix {suffix!r}. Save the words as {', '.join(_FORMS)}")
    entries: dict[str, Entry] = {}
    try:
        for image, entry in _FORMS[suffix](files.read(path)):
            name = _stem(image)
            if name in entries:
                raise ValueError(f"{entry.place} is a second entry for the image {name!r}, after {entries[name].place}")
            entries[name] = entry
    except (ValueError, KeyError, TypeError, RecursionError, OSError, pa.ArrowException) as failure:
        raise OvssError(
            f"{path}: not a file of words: {failure}. See docs/vocabulary_free.md for the accepted forms"
        ) from failure
    if not entries:
        raise OvssError(f"{path}: no entries. Write an entry with image_id and classes for each image")
    return entries


def _of_json(content: bytes) -> Iterator[tuple[str, Entry]]:
    raw = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_Pairs)
    if isinstance(raw, _Pairs):
        pairs = raw.pairs
        return ((name, Entry(f"entry {name!r}", _plain(classes))) for name, classes in pairs)
    if not isinstance(raw, list):
        raise ValueError(f"found {_short(raw)}, expected an object or a list of entries")
    return (_entry(_plain(entry), f"entry {number}") for number, entry in enumerate(raw))


def _of_lines(content: bytes) -> Iterator[tuple[str, Entry]]:
    for number, line in enumerate(content.decode("utf-8-sig").split("\n"), 1):
        if line.strip():
            try:
                raw = json.loads(line)
            except ValueError as failure:
                raise ValueError(f"line {number}: invalid JSON: {failure}") from failure
            yield _entry(raw, f"line {number}")


def _of_parquet(content: bytes) -> Iterator[tuple[str, Entry]]:
    table = files.read_parquet(content)
    kept = [name for name in (*IMAGE, *CLASSES, "scores") if name in table.column_names]
    return (_entry(row, f"row {number}") for number, row in enumerate(table.select(kept).to_pylist()))


_FORMS = {".json": _of_json, ".jsonl": _of_lines, ".parquet": _of_parquet}


class _Pairs:
    """A JSON object with its keys in order; a dict would lose the first of two equal keys."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        self.pairs = pairs


def _plain(value: Any) -> Any:
    """Return a JSON value with all _Pairs converted to dicts. Raises ValueError for a repeated key."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, _Pairs):
        return value
    keys = [key for key, _ in value.pairs]
    if repeated := [key for key in dict.fromkeys(keys) if keys.count(key) > 1]:
        raise ValueError(f"the key {repeated[0]!r} is repeated in an entry. Write each key only once per entry")
    return {key: _plain(item) for key, item in value.pairs}


def _entry(raw: Any, place: str) -> tuple[str, Entry]:
    if not isinstance(raw, dict):
        raise ValueError(f"{place} is {_short(raw)}, expected an object with image_id and classes")
    image, classes = (next((key for key in keys if key in raw), None) for keys in (IMAGE, CLASSES))
    if image is None or classes is None:
        names, keys = ("image", IMAGE) if image is None else ("words", CLASSES)
        raise ValueError(f"{place} has no {names}: expected key {keys[0]}, found {', '.join(map(str, raw)) or 'none'}")
    if not isinstance(raw[image], str | int) or raw[image] == "":
        raise ValueError(
            f"{place}: the value of {image!r} is {_short(raw[image])}, expected the name of the image as a string"
        )
    return str(raw[image]), Entry(place, raw[classes], raw.get("scores"))


def _stem(image: str) -> str:
    path = image.replace("\\", "/").removeprefix("./")
    suffix = PurePosixPath(path).suffix
    return path.removesuffix(suffix) if suffix.lower() in PHOTOGRAPHS else path


def _examples(names: Iterable[str]) -> str:
    shown = [name for name, _ in zip(names, range(3), strict=False)]
    return f" (examples of entries: {', '.join(map(repr, shown))})" if shown else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
