"""The user's own class names ("own words"), mapped to the labels of a run's benchmarks (docs/own_words.md)."""

import logging
from collections.abc import Mapping, Sequence

from ovss_ray.benchmarks import catalog
from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.benchmarks.labels import INVALID
from ovss_ray.benchmarks.own_words import OwnWords
from ovss_ray.config import word_list
from ovss_ray.config.run import RunConfig
from ovss_ray.config.word_list import WordList
from ovss_ray.errors import OvssError, UnknownName, nearest
from ovss_ray.io import files
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.structures import relations
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.vocabulary import Vocabulary

SHOWN = 5
"""Maximum number of names in a warning"""
Names = tuple[str, ...]
Places = Mapping[str, Sequence[int]]
"""Name in folded form (see `_folded`) → indices of the labels that it can mean"""


def resolve(vocabulary: Mapping[str, str | WordList], benchmarks: Mapping[str, Benchmark]) -> dict[str, OwnWords]:
    """Return benchmark → own words, for the benchmarks with an entry in `vocabulary` (see RunConfig.vocabulary).

    Raises OvssError for an entry of another benchmark, an invalid file, or words that do not fit the benchmark.
    """
    entries = _entries(vocabulary, list(benchmarks))
    read = {file: word_list.read(file) for file in dict.fromkeys(e for e in entries.values() if isinstance(e, str))}
    resolved = {}
    for name, entry in entries.items():
        words, sha256 = read[entry] if isinstance(entry, str) else (entry, entry.sha256)
        file = entry if isinstance(entry, str) else ""
        try:
            resolved[name] = of(words, benchmarks[name], file, sha256)
        except OvssError as failure:
            raise OvssError(f"{file or 'vocabulary'}: {name}: {failure}") from failure
        _warn(name, resolved[name], words, benchmarks[name])
    return resolved


def _entries(vocabulary: Mapping[str, str | WordList], benchmarks: Sequence[str]) -> dict[str, str | WordList]:
    """Return benchmark → its entry in `vocabulary`, if it has one. Raises OvssError for entries of other benchmarks."""
    default = vocabulary.get(word_list.EVERY)
    entries = {} if default is None else dict.fromkeys(benchmarks, default)
    for key, entry in vocabulary.items():
        names = () if key == word_list.EVERY else tuple(map(catalog.absolute, catalog.expanded([key])))
        if unknown := [name for name in names if name not in benchmarks]:
            raise UnknownName("--vocabulary benchmark", unknown[0], benchmarks)
        entries |= dict.fromkeys(names, entry)
    return entries


def with_images(config: RunConfig) -> RunConfig:
    """Return `config` with the stage `given_words` added, if `config.vocabulary` has a file with words of each image.

    If WordList.images is empty for all benchmarks, there is no such file, and `config` is returned unchanged. Raises
    OvssError unless WordList.images and WordList.add are the same for all benchmarks of the run. Also raises OvssError
    if another stage provides words.
    """
    entries = _entries(config.vocabulary, config.benchmarks) if config.benchmarks else {}
    read = {name: word_list.read(entry)[0] if isinstance(entry, str) else entry for name, entry in entries.items()}
    listed = {(read[name].images, read[name].add) if name in read else ("", False) for name in config.benchmarks}
    if not any(path for path, _ in listed):
        return config
    if len(listed) > 1:
        raise OvssError(
            f"--vocabulary: the file {next(path for path, _ in listed if path)} lists words for each image. All "
            f"benchmarks of the run ({', '.join(config.benchmarks)}) must use this file, with the same value of `add`. "
            "Evaluate the other benchmarks in another run"
        )
    if finders := [stage.use for stage in config.stages() if stage.gives_words()]:
        raise OvssError(
            "the file of --vocabulary lists words for each image, but the stage "
            f"{finders[0]!r} of this config also provides words. Use a config without this stage, such as san_tiny"
        )
    ((path, added),) = listed
    base = {"base": True} if added else {}
    stage = StageConfig(use="given_words", options={"path": files.absolute(path), **base})
    first, *others = config.pools
    pools = (first.model_copy(update={"stages": (stage, *first.stages)}), *others)
    kept = {name: _without_images(words) for name, words in read.items() if words.map or words.templates}
    return config.model_copy(update={"pools": pools, "vocabulary": kept})


def _without_images(words: WordList) -> WordList:
    """Return a WordList that has the `map` and the `templates` of `words`, but no `images`.

    The `names` of the result are the keys of `words.map`. The `add` of the result is True if `words.map` is not empty.
    """
    # without names, the benchmark keeps its classes; with names, the names are added to the classes
    return WordList(names=tuple(words.map), add=bool(words.map), map=words.map, templates=words.templates)


def of(words: WordList, benchmark: Benchmark, file: str = "", sha256: str = "") -> OwnWords:
    """Return the user's words for a benchmark, each with its label. Raises OvssError for words that do not fit."""
    if not words.names:
        if words.map or words.add or words.unmapped or not words.templates:
            raise OvssError(f"no names. {word_list.FORM}")
        return OwnWords(None, (), words.templates, file, sha256)
    if benchmark.parts:
        raise OvssError(
            "each episode has its own class, so only templates can be set. Remove all class names from the vocabulary, "
            "and keep only its templates"
        )
    classes = _classes(words, benchmark)
    if len(classes) > INVALID:
        raise OvssError(f"too many words: {len(classes):,}; at most {INVALID:,} fit into 16 bits")
    index = _index(classes, words, benchmark)
    if not set(index) - {NONE}:
        raise OvssError(
            f"none of the {len(classes)} words is the name of a label. The first word is {classes[0][0]!r}, and the "
            f"first label is {benchmark.labels[0]!r}. Add `map` to the vocabulary, with the label of each word, such "
            f"as `map: {{{classes[0][0]}: {benchmark.labels[0]}}}`"
        )
    return OwnWords(Vocabulary(classes, words.templates), index, words.templates, file, sha256)


def _classes(words: WordList, benchmark: Benchmark) -> tuple[Names, ...]:
    """Return the classes to segment, each as a tuple of names. Raises OvssError if a word is repeated.

    If `words.add` is True, the result has the benchmark's classes, then the words that are not among these classes.
    """
    if isinstance(words.names, str):
        listed = catalog.load(words.names).vocabulary.classes
    else:
        listed = Vocabulary.of(words.names).classes
        if _same(listed, benchmark):  # the benchmark's own classes may have equal first names
            return benchmark.vocabulary.classes
        _check_repeated(listed)
    if not words.add:
        return listed
    # a word is new if no class of the benchmark has the same first name
    present = {_folded(names[0]) for names in benchmark.vocabulary.classes}
    return (*benchmark.vocabulary.classes, *(names for names in listed if _folded(names[0]) not in present))


def _check_repeated(classes: Sequence[Names]) -> None:
    """Raise OvssError if the first names of two classes are equal. The second class would never be predicted."""
    first: dict[str, int] = {}
    for position, names in enumerate(classes):
        earlier = first.setdefault(_folded(names[0]), position)
        if earlier != position:
            raise OvssError(
                f"the word {names[0]!r} is repeated: words {earlier + 1} and {position + 1} (counted from 1). Remove "
                "one, or give it a different name"
            )


def _same(classes: Sequence[Names], benchmark: Benchmark) -> bool:
    """Return whether classes have the names of the benchmark's classes, in the same order."""
    return _all_folded(classes) == _all_folded(benchmark.vocabulary.classes)


def _all_folded(classes: Sequence[Names]) -> list[list[str]]:
    return [list(map(_folded, names)) for names in classes]


def _index(classes: Sequence[Names], words: WordList, benchmark: Benchmark) -> tuple[int, ...]:
    """Return the index of the label of each class, or NONE for a class without a label.

    The first of these rules that applies gives the label:

    1. If a key of `words.map` refers to the class (see `_mapped`), the value of this key is the label.
    2. If the class comes from `benchmark`, the class keeps the label that it has in `benchmark`.
    3. If a name of the class is also the name of a label, the class gets this label.
    4. Otherwise, the class gets the label `words.unmapped`.
    """
    places, kept = _places(benchmark), len(benchmark.vocabulary) if words.add else 0
    mapped = _mapped(classes, words, places, benchmark)
    rest = NONE if words.unmapped is None else _target(words.unmapped, "unmapped", places, benchmark)
    same = _same(classes, benchmark)

    def label(position: int) -> int:
        if position in mapped:
            return mapped[position]
        if same or position < kept:
            return benchmark.index[position]
        named = _label(classes[position], places)
        return rest if named is None else named

    return tuple(map(label, range(len(classes))))


def _mapped(classes: Sequence[Names], words: WordList, places: Places, benchmark: Benchmark) -> dict[int, int]:
    """Apply `words.map`, a mapping from class names to labels. Return position in `classes` → index of the label.

    A key of `words.map` refers to the classes whose first name is the key. If there are none, the key refers to all
    classes that have the key as a name. For the label null, the index is NONE. Raises OvssError if a key refers to no
    class, or if a label is unknown or ambiguous.
    """
    synonyms: dict[str, list[int]] = {}
    first: dict[str, list[int]] = {}
    for position, names in enumerate(classes):
        first.setdefault(_folded(names[0]), []).append(position)
        for name in _spelled(names):
            synonyms.setdefault(_folded(name), []).append(position)
    named = {**synonyms, **first}
    mapped: dict[int, int] = {}
    for word, target in words.map.items():
        if _folded(word) not in named:
            known = [name for names in classes for name in _spelled(names)]
            raise OvssError(f"map: {word!r} is not one of the {len(classes)} words.{nearest(word, known)}")
        label = NONE if target is None else _target(target, f"map: {word}", places, benchmark)
        mapped |= dict.fromkeys(named[_folded(word)], label)
    return mapped


def _target(target: str | int, where: str, places: Places, benchmark: Benchmark) -> int:
    """Return the index of the label `target`, which is a name or an index.

    `where`: beginning of an error message, such as "map: car". Raises OvssError if the label is unknown or ambiguous.
    """
    try:
        return relations.index_of(_folded(str(target)), places, len(benchmark.labels))
    except OvssError as failure:
        raise OvssError(f"{where}: {failure}") from failure


def _label(names: Names, places: Places) -> int | None:
    """Return the index of the label for a class, of which the user has given several names; None if no label fits.

    The first name in `names` that is also a name of a label decides. Raises OvssError if several labels have this name.
    """
    name = next((name for name in _spelled(names) if _folded(name) in places), None)
    if name is None:
        return None
    indices = places[_folded(name)]
    if len(indices) > 1:
        raise OvssError(
            f"the word {name!r} names {len(indices)} labels: {', '.join(map(str, indices))} (counted from 0). Choose "
            f"one: `map: {{{names[0]}: {indices[0]}}}`"
        )
    return indices[0]


def _spelled(names: Names) -> list[str]:
    """Return the names of a class, followed by the parts of each name that contains commas.

    For example, the result for the single name "car, auto" is "car, auto", "car" and "auto".
    """
    return [*names, *(part.strip() for name in names if "," in name for part in name.split(","))]


def _places(benchmark: Benchmark) -> dict[str, list[int]]:
    """Return name → indices of the labels that the name can mean. The names have the form that `_folded` returns.

    The first of these rules that finds a label gives the labels of the name:

    1. A label that is equal to the name: "car" means the label "car".
    2. The label of a class that has this name among its names: "car" means the label of the class ["auto", "car"].
    3. A label of which the name is a part: "car" means the label "car, auto".
    """
    levels: list[dict[str, list[int]]] = [{}, {}, {}]
    parts, classes, whole = levels
    for index, label in enumerate(benchmark.labels):
        whole.setdefault(_folded(label), []).append(index)
        for part in dict.fromkeys(map(_folded, label.split(","))):
            parts.setdefault(part, []).append(index)
    for names, index in zip(benchmark.vocabulary.classes, benchmark.index, strict=True):
        for name in dict.fromkeys(map(_folded, names)):
            if index not in classes.setdefault(name, []):
                classes[name].append(index)
    return {**parts, **classes, **whole}


def _folded(name: str) -> str:
    """Return a name in the form in which names are compared: cleaned by word_list.tidy, in lower case."""
    return word_list.tidy(name).casefold()


def _warn(name: str, mapped: OwnWords, words: WordList, benchmark: Benchmark) -> None:
    """Log a warning that lists words without a label, and a warning that lists labels without a word.

    The first warning omits words whose label in `words.map` is null.
    """
    if mapped.vocabulary is None:
        return
    intended = {_folded(word) for word, label in words.map.items() if label is None}
    lost = [
        names[0]
        for names, index in zip(mapped.vocabulary.classes, mapped.index, strict=True)
        if index == NONE and not intended & set(map(_folded, names))
    ]
    without = mapped.card(benchmark)["without_word"]
    log = logging.getLogger(__name__).warning
    if lost:
        log("%s: %d of %d words name no label of the benchmark: %s", name, len(lost), len(mapped.index), _short(lost))
    if without:
        counts = len(without), len(benchmark.labels)
        log("%s: %d of %d labels have no word, so that their IoU is 0: %s", name, *counts, _short(without))


def _short(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
