"""Relations between labels, read from the user's file and stored in the folder of a run.

The file is YAML or JSON. Each section is named like a benchmark, and lists child classes with their father classes:

    ade20k:150:
      grass: plant
      armchair: [chair, seat]
      12: 17

A class is written as a label, as one name of a label, or as an index. For example, "road" is a name of the label
"road, route".
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ovss_ray.benchmarks import catalog
from ovss_ray.errors import OvssError
from ovss_ray.io import files, strict_yaml
from ovss_ray.runs.folder import RunFolder
from ovss_ray.structures.relations import Relations

FORM = "Write a section for each benchmark, such as `ade20k:150: {grass: plant, armchair: [chair, seat]}`"


def read(file: str | Path, labels: Mapping[str, Sequence[str]]) -> dict[str, Relations]:
    """Return benchmark → its relations, for the benchmarks in `labels` that have a section in the file.

    `labels`: benchmark → its labels. Raises OvssError if the file is invalid, or if the file has no section
    for any benchmark in `labels`.
    """
    sections = {catalog.absolute(name): section for name, section in _sections(file).items()}
    related = {name: _related(file, name, sections[name], labels[name]) for name in labels if name in sections}
    for name in sections:
        if name not in labels:
            _check_name(file, name)
    if not related:
        raise OvssError(
            f"{file}: has relations of {', '.join(sections)}, but the run evaluates {', '.join(labels)}. Class names "
            f"and indices differ between benchmarks: write a section {next(iter(labels))!r}"
        )
    return related


def save(folder: RunFolder, related: Mapping[str, Relations]) -> None:
    """Write the relations of some benchmarks into the folder of a run. Other benchmarks keep their relations."""
    for name, relations in related.items():
        folder.save_json(folder.relations(name), {"file": relations.file, "pairs": relations.pairs})


def load(folder: RunFolder, benchmark: str, labels: int) -> Relations | None:
    """Return the stored relations of a benchmark, or None if no relations are stored.

    `labels`: number of labels of the benchmark. Raises OvssError if the stored file is damaged, or if an index belongs
    to no label.
    """
    raw = folder.json(folder.relations(benchmark))
    if not raw:
        return None
    try:
        pairs = tuple((int(child), int(father)) for child, father in raw["pairs"])
        relations = Relations(pairs, str(raw["file"]))
    except (KeyError, TypeError, ValueError) as failure:
        raise OvssError(f"{_place(folder, benchmark)}: damaged: {failure!r}. {_advice(folder)}") from failure
    if not relations.fits(labels):
        raise OvssError(
            f"{_place(folder, benchmark)}: the relations name classes that are not among the {labels} labels of "
            f"{benchmark}. {_advice(folder)}"
        )
    return relations


def _place(folder: RunFolder, benchmark: str) -> str:
    return folder.file(folder.relations(benchmark))


def _advice(folder: RunFolder) -> str:
    return f"Delete the file, or type: ovss report {folder.uri} --relations FILE"


def _sections(file: str | Path) -> dict[str, dict[str, Any]]:
    """Return section name → section, a dict. Raises OvssError if the file is malformed.

    A section maps each child class to a father class, or to a list of father classes.
    """
    content = files.read(file)
    names = strict_yaml.load(content, str(file))
    if not isinstance(names, dict) or not names:
        raise OvssError(f"{file}: expected relations of classes, found {_short(names)}. {FORM}")
    sections = strict_yaml.load(content, str(file), text=tuple(names))  # so that `no` and 1e5 are class names
    for name, section in sections.items():
        if not isinstance(section, dict) or not section:
            raise OvssError(f"{file}: section {name}: expected pairs `child: father`, found {_short(section)}. {FORM}")
    return sections


def _related(file: str | Path, benchmark: str, section: Mapping[str, Any], labels: Sequence[str]) -> Relations:
    """Return the relations of a section. Raises OvssError if a relation is invalid.

    The error message begins with the file and the benchmark.
    """
    try:
        return Relations.of({child: _words(child, fathers) for child, fathers in section.items()}, labels, str(file))
    except OvssError as failure:
        raise OvssError(f"{file}: {benchmark}: {failure}") from failure


def _words(child: str, fathers: Any) -> list[str]:
    words = fathers if isinstance(fathers, list) else [fathers]
    if not all(isinstance(word, str) for word in words):
        raise OvssError(f"{child}: expected a father class or a list of father classes, found {_short(fathers)}")
    return [word for word in words if word.strip()]


def _check_name(file: str | Path, name: str) -> None:
    """Raise OvssError if there is no benchmark `name`. A benchmark that the run does not evaluate is allowed."""
    try:
        if not name.startswith("folder:"):
            catalog.load(name)
    except OvssError as failure:
        raise OvssError(f"{file}: {failure}") from failure


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
