"""Words of the user for a benchmark: the classes to segment, their labels, and the templates of their prompts.

A text file has one class per line, with tabs between synonyms. A YAML or JSON file has the keys of WordList, or is a
list of names.
"""

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import StrictInt, ValidationError, field_validator, model_validator

from ovss_ray.errors import OvssError, nearest
from ovss_ray.io import files, strict_yaml, validation
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabulary

EVERY = "*"
"""Key of the words for all benchmarks without a separate entry"""
NOTHING = ("", "~", "null")
"""Spellings of YAML's null. In a file of words, a label with one of these spellings means "no label"."""
FORM = "Write one class per line, or `names: [sedan, [suv, jeep]]` and `map: {sedan: car, suv: car}` in YAML"


class WordList(Settings):
    """Words of the user, the benchmark label of each word, and templates of prompts."""

    names: str | tuple[str | tuple[str, ...], ...] = ()
    """classes to segment, each a name or a list of synonyms

    If `names` is the name of a benchmark, such as "cityscapes:19", the classes of that benchmark are segmented. If
    `names` is empty, the evaluated benchmark keeps its own classes.
    """
    images: str = ""
    """path of a file with words for each image (see the stage `given_words`); empty: the same words for all images"""
    add: bool = False
    """True: the user's words are added to the benchmark's classes; False: the words replace the benchmark's classes"""
    map: dict[str, str | StrictInt | None] = {}
    """word → label of the benchmark (name or index), or null for no label

    Any other word has the label of the same name. If there is no such label, see `unmapped`.
    """
    unmapped: str | None = None
    """label of the benchmark for all words that are neither keys of `map` nor names of labels; null: no label

    If a pixel's predicted word has no label, the pixel counts as a false negative of its true label. Such a pixel never
    counts as a false positive.
    """
    templates: tuple[str, ...] = ()
    """sentences such as "a photo of a {}", with {} in place of a class name; empty: the model's own templates"""

    @field_validator("names")
    @classmethod
    def _tidy(cls, names: str | tuple[str | tuple[str, ...], ...]) -> str | tuple[str | tuple[str, ...], ...]:
        """Return the names, each changed by `tidy`. Raises ValueError for an empty or invalid name."""
        if isinstance(names, str):
            return names
        classes = tuple(tidy(name) if isinstance(name, str) else tuple(map(tidy, name)) for name in names)
        try:
            Vocabulary.of(classes or ["anything"])
        except OvssError as failure:
            raise ValueError(str(failure)) from failure
        return classes

    @field_validator("templates")
    @classmethod
    def _with_gap(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return Vocabulary.of(["anything"], templates).templates
        except OvssError as failure:
            raise ValueError(str(failure)) from failure

    @model_validator(mode="after")
    def _for_all_or_each(self) -> "WordList":
        if self.images and (self.names or self.unmapped):
            raise ValueError(
                "`images` lists the words of each image, so `names` and `unmapped` must not be set. Remove `names` and "
                "`unmapped`"
            )
        return self

    @property
    def sha256(self) -> str:
        """SHA-256 of the word list in hex digits.

        If the words come from a file, this property is not used. `read` returns the SHA-256 of the file instead.
        """
        return hashlib.sha256(self.model_dump_json(exclude=None if self.images else {"images"}).encode()).hexdigest()


def tidy(name: str) -> str:
    """Return a name with composed accents (NFC), without spaces at its ends, and with single spaces inside."""
    return " ".join(part for part in unicodedata.normalize("NFC", name).split(" ") if part)


def listed(value: Any) -> Any:
    """Return benchmark name → vocabulary, from the setting `vocabulary` as a user writes it. Return None for None.

    In `value`, a vocabulary is a path, a list of class names, a Vocabulary, or a mapping with WordList's keys. In the
    result, each list and each Vocabulary is replaced by a mapping with WordList's keys.

    `value` is either a mapping of benchmark names to vocabularies, or a single vocabulary. A single vocabulary applies
    to all benchmarks, so the result is EVERY → vocabulary. A mapping with a key of WordList is a single vocabulary.
    """
    if isinstance(value, Mapping) and not set(value) & set(WordList.model_fields):
        return {str(name): _entry(entry) for name, entry in value.items()}
    return value if value is None else {EVERY: _entry(value)}


def _entry(value: Any) -> Any:
    if isinstance(value, Vocabulary):
        return {"names": value.classes, "templates": value.templates}
    if isinstance(value, Path):
        return str(value)
    return {"names": value} if isinstance(value, Sequence) and not isinstance(value, str) else value


def of_options(options: Sequence[str] | None) -> dict[str, str] | None:
    """Return benchmark name → file from the values of `--vocabulary`; None if there are no values.

    The value BENCHMARK=FILE gives BENCHMARK → FILE. A value without a benchmark gives EVERY → FILE. Raises OvssError
    for a repeated key, or an empty file name.
    """
    entries: dict[str, str] = {}
    for option in options or ():
        name, mark, file = (EVERY, "", option) if files.exists(option) else option.rpartition("=")
        key = name if mark else EVERY
        if not file:
            raise OvssError(f"--vocabulary {option}: no file name. Write --vocabulary FILE, or BENCHMARK=FILE")
        if key in entries:
            whose = "all benchmarks" if key == EVERY else key
            raise OvssError(
                f"--vocabulary {option}: {entries[key]} is already the vocabulary of {whose}. Pass only one vocabulary "
                f"for {whose}"
            )
        entries[key] = file
    return entries or None


def read(file: str) -> tuple[WordList, str]:
    """Return the words in a file, and the file's SHA-256 in hex digits.

    Known endings are .yaml, .yml, .json, .jsonl and .parquet; any other file is text. Raises OvssError for a missing or
    invalid file.
    """
    content = files.read(file)
    if file.lower().endswith((".jsonl", ".parquet")):
        return WordList(images=file), hashlib.sha256(content).hexdigest()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        raise OvssError(f"{file}: not UTF-8 text: {failure}. Save the file with the encoding UTF-8") from failure
    if file.lower().endswith(".json"):
        raw = _json(text, file)
    elif file.lower().endswith((".yaml", ".yml")):
        raw = strict_yaml.load(text, file, ("names", "map", "templates", "unmapped"))
    else:
        raw = _lines(text, file)
    if _per_image(raw):
        return WordList(images=file), hashlib.sha256(content).hexdigest()
    raw = {"names": raw} if isinstance(raw, list) else raw
    if not isinstance(raw, dict) or not raw or raw.get("names") == []:
        raise OvssError(f"{file}: no words found. {FORM}")
    return _validated(_with_nothing(raw), file), hashlib.sha256(content).hexdigest()


def _per_image(raw: Any) -> bool:
    """Return whether the content of a file has words for each image, as the stage `given_words` reads them."""
    if isinstance(raw, list):
        return any(isinstance(entry, dict) for entry in raw)
    known = isinstance(raw, dict) and set(raw) & set(WordList.model_fields)
    return isinstance(raw, dict) and bool(raw) and not known and all(isinstance(names, list) for names in raw.values())


def _json(text: str, file: str) -> Any:
    """Return the value of JSON. Raises OvssError for invalid JSON and for repeated keys."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"duplicate key {next(key for key in keys if keys.count(key) > 1)!r}")
        return table

    try:
        return json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as failure:
        raise OvssError(f"{file}: invalid JSON: {failure}") from failure


def _lines(text: str, file: str) -> list[list[str]]:
    """Return the names on each line of a text. Raises OvssError for an empty line, except at the end."""
    lines = text.replace("\r\n", "\n").rstrip("\n \t").split("\n")
    if lines == [""]:
        return []
    for number, line in enumerate(lines, 1):
        if not line.strip():  # would shift the indices of the next classes
            raise OvssError(f"{file}, line {number} is empty. Write one class per line, without empty lines")
    return [line.split("\t") for line in lines]


def _with_nothing(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `raw`, the mapping in a word file. If a label is an entry of NOTHING, the label becomes None.

    Labels are the values of the key `map`, and the value of the key `unmapped`.
    """
    keys = dict(raw)
    if isinstance(table := keys.get("map"), dict):
        keys["map"] = {word: None if label in NOTHING else label for word, label in table.items()}
    if keys.get("unmapped") in NOTHING:
        keys["unmapped"] = None
    return keys


def _validated(raw: Mapping[str, Any], file: str) -> WordList:
    try:
        return WordList.model_validate(raw)
    except ValidationError as failure:
        faults = validation.faults(failure, raw, lambda place: nearest(str(place[-1]), WordList.model_fields))
        raise OvssError(f"{file}: {'; '.join(faults)}. {FORM}") from failure
