"""Compute the scores of a finished run under other mappings of words to classes. No stage runs again.

The classes are those that the benchmark had at the time of the run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ovss_ray import metrics
from ovss_ray.errors import OvssError
from ovss_ray.metrics import words as of_words
from ovss_ray.reports import totals
from ovss_ray.reports.totals import Reading
from ovss_ray.runs import records
from ovss_ray.runs.folder import RunFolder
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.vocabulary import Vocabulary
from ovss_ray.words import mapping, scoring, similarity, vicss
from ovss_ray.words.mapping import Word

UPPER_BOUNDS = ("overlap", "hungarian", "best_iou")
"""Mappings that use the ground truth, so that their scores are upper bounds."""
VICSS = "vicss"


@dataclass(frozen=True)
class FrequentWord:
    """Word of a run, and the benchmark label to which the word is mapped."""

    word: str
    images: int
    """number of images that have the word"""
    pixels: float
    """share of pixels that were predicted as this word, in percent. Pixels whose truth is IGNORE are left out"""
    label: str
    """benchmark label to which the word is mapped; empty for an unmapped word"""
    rule: str
    """rule that mapped the word, such as "hypernym"; empty for an unmapped word"""


@dataclass(frozen=True)
class Remapped:
    """Scores of a benchmark under one mapping, in percent."""

    mapping: str
    stamps: tuple[str, ...]
    """one text per file that the mapping uses, with the name and the sha256 of the file"""
    values: Mapping[str, float]
    """metric → value: the metrics of the confusion matrix, such as miou, followed by three shares

    - present_recall: share of pairs (image, true label) for which a word of the image is mapped to the label
    - unmapped_pixels: share of the counted pixels that have no word, or whose word is mapped to no label
    - unmapped_words: share of the counted pixels that have a word, but whose word is mapped to no label

    Counted pixels are the pixels whose truth is not IGNORE.
    """
    confusion: Any
    """sum of the images' confusion matrices (metrics.confusion.Partial)"""
    words: tuple[FrequentWord, ...]
    """all words of the benchmark's images, sorted by FrequentWord.images, the largest number first

    Words with equal `images` are sorted by FrequentWord.pixels, the largest share first. Words with equal `images` and
    equal `pixels` are sorted by name.
    """


@dataclass(frozen=True)
class Remapping:
    """Scores of a benchmark under several mappings."""

    words: Mapping[str, float]
    """words_per_image (mean number), pixels_with_word (percent) and distinct_words (number)"""
    mapped: tuple[Remapped, ...]
    upper_bounds: Mapping[str, float]
    """score → value in percent, for the scores overlap, hungarian and best_iou (see words/scoring.py)

    If an argument of `remap` is the name of one of these scores, the dict has all three scores. Otherwise, the dict is
    empty. The scores are not comparable with mIoU.
    """
    vicss: Mapping[str, Mapping[str, float]]
    """source of word similarities → metric of vicss → value from 0 to 1 (see words/vicss.py)

    An argument of `remap` such as "vicss:similar.json" adds the source "similar.json". The argument "vicss" names no
    source, and adds the key "". The key "" has only the metrics that need no similarities.
    """


@dataclass(frozen=True)
class _Sums:
    """Sums over images, from which the scores are computed. The operator + is exact, associative and commutative.

    `confusion` and `recall` have one entry per mapping. `vicss` has one entry per source of similarities. `bounds` has
    one entry if upper bounds were requested, otherwise none.
    """

    confusion: tuple[Any, ...]
    recall: tuple[scoring.Recall, ...]
    bounds: tuple[scoring.UpperBounds, ...]
    vicss: tuple[vicss.Sums, ...]

    def __add__(self, other: "_Sums") -> "_Sums":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return _Sums(*(tuple(a + b for a, b in zip(first, second, strict=True)) for first, second in pairs))


@dataclass(frozen=True)
class _Judges:
    """Mappings, upper bounds and vicss metrics that score the words of one benchmark."""

    labels: int
    label_of: tuple[Mapping[Word, int], ...]
    """word → label index, or NONE for an unmapped word; one table per mapping"""
    bounds: bool
    background: int | None
    """index of the label `background`; None if the benchmark has no label of this name"""
    vicss: tuple[vicss.Judge, ...]

    def sums(self, part: pa.Table) -> _Sums:
        """Return the sums over a table of records."""
        measured = [record for record in part["words"].to_pylist() if record] if "words" in part.column_names else []
        main = metrics.load(metrics.MAIN)
        cells = [[scoring.mapped(record, labels) for record in measured] for labels in self.label_of]
        return _Sums(
            tuple(main.partial(pa.array(of_mapping, main.schema), self.labels) for of_mapping in cells),
            tuple(scoring.Recall.of(measured, labels) for labels in self.label_of),
            (scoring.UpperBounds.of(measured, self.labels, self.background),) if self.bounds else (),
            tuple(judge.sum(measured) for judge in self.vicss),
        )


def remap(run: str | Path, *options: str) -> dict[str, Remapping]:
    """Return benchmark → scores of a run under mappings of its words. The folder of the run is not changed.

    Each of `options` is one of these:

    - a mapping, such as "exact" or "wordnet:wup" (see words/mapping.py)
    - "overlap", "hungarian" or "best_iou" for upper bounds
    - "vicss" or "vicss:SOURCE", with a source of word similarities (see words/similarity.py)

    Raises OvssError for an unknown option, a folder without a run, or a run without words. Raises OvssError if
    `ovss report --compact` has replaced the records of the run by sums. Raises OvssError if `options` has a mapping and
    the run has few-shot episodes.

    Example: `remap("runs/free", "wordnet")["ade20k:150"].mapped[0].values["miou"]` is in percent.
    """
    parsed = [mapping.parse(option) for option in options if not _special(option)]
    sources = [option.partition(":")[2] for option in options if option.partition(":")[0] == VICSS]
    similar = {source: similarity.load(source)[0] if source else None for source in sources}
    bounds = any(option in UPPER_BOUNDS for option in options)
    folder = RunFolder(str(run))
    readings = totals.read(folder)
    if not any(_has_words(reading) for reading in readings.values()):
        raise OvssError(
            f"{run}: the images have no words of their own, so there is nothing to map. Use the folder of a run with "
            "a stage that finds words, such as `tags`, `given_words` or `words`"
        )
    totals.check_images(readings, "--mapping")
    for name, reading in readings.items():
        if parsed and reading.card.get("asks"):
            raise OvssError(
                f"{run}: the words of {name} cannot be mapped to classes. Each few-shot episode has its own classes, "
                "which the records do not contain. Use the values of the report, or a run without few-shot episodes"
            )
    return {
        name: _remap(folder.records(name), reading, parsed, similar, bounds)
        for name, reading in readings.items()
        if _has_words(reading)
    }


def _special(option: str) -> bool:
    return option in UPPER_BOUNDS or option.partition(":")[0] == VICSS


def _has_words(reading: Reading) -> bool:
    return bool(reading.total.measured.get("words"))


def _remap(
    folder: str, reading: Reading, parsed: Sequence[mapping.Mapping], similar: Mapping[str, Any], bounds: bool
) -> Remapping:
    labels = tuple(reading.card["labels"])
    vocabulary = Vocabulary.of(reading.card.get("classes") or labels)
    index = reading.card.get("index") or range(len(labels))
    summed = reading.total.partials["words"]
    words = sorted(summed.words)
    outcomes = [each(words, vocabulary) for each in parsed]
    label_of = tuple(
        {word: NONE if k == NONE else index[k] for word, (k, _) in zip(words, outcome, strict=True)}
        for outcome in outcomes
    )
    background = labels.index(vicss.BACKGROUND) if vicss.BACKGROUND in labels else None
    judges = _Judges(
        len(labels), label_of, bounds, background, tuple(_judge(labels, words, each) for each in similar.values())
    )
    _, sums = records.fold(folder, reading.listed, judges.sums)
    assert sums is not None, "a benchmark whose images have words has records"
    wordless = sum(number for (_, word), number in summed.cells.items() if word == of_words.NOTHING)
    rules = [{word: rule for word, (_, rule) in zip(words, outcome, strict=True)} for outcome in outcomes]
    return Remapping(
        words={**summed.result(), "distinct_words": len(words)},
        mapped=tuple(
            _remapped(
                each, sums.confusion[i], sums.recall[i], _frequent(summed, labels, label_of[i], rules[i]), wordless
            )
            for i, each in enumerate(parsed)
        ),
        upper_bounds=sums.bounds[0].result() if bounds else {},
        vicss={
            source: total.result(similar[source] is not None) for source, total in zip(similar, sums.vicss, strict=True)
        },
    )


def _judge(labels: tuple[str, ...], words: Sequence[Word], similar: similarity.Similarity | None) -> vicss.Judge:
    judge = vicss.Judge(labels)
    if similar is None:
        return judge
    rows = similar([word[0] for word in words], judge.classes)
    return vicss.Judge(labels, dict(zip(words, rows, strict=True)))


def _remapped(
    each: mapping.Mapping, confusion: Any, recall: scoring.Recall, words: tuple[FrequentWord, ...], wordless: int
) -> Remapped:
    """Return the scores of a mapping. `wordless`: number of pixels without a word, in all images together."""
    counts = confusion.counts
    pixels, lost = int(counts.sum()), int(counts[:, -1].sum())
    shares = [100.0 * part / pixels if pixels else float("nan") for part in (lost, lost - wordless)]
    unmapped = dict(zip(("unmapped_pixels", "unmapped_words"), shares, strict=True))
    values = {**confusion.result(), "present_recall": recall.percent, **unmapped}
    return Remapped(each.text, each.stamps, values, confusion, words)


def _frequent(
    summed: of_words.Partial, labels: Sequence[str], label_of: Mapping[Word, int], rules: Mapping[Word, str]
) -> tuple[FrequentWord, ...]:
    pixels: dict[Word, int] = {}
    for (_, word), number in summed.cells.items():
        pixels[word] = pixels.get(word, 0) + number
    whole = max(sum(pixels.values()), 1)
    ordered = sorted(summed.words, key=lambda word: (-summed.words[word], -pixels.get(word, 0), word))
    return tuple(
        FrequentWord(
            word[0],
            summed.words[word],
            100.0 * pixels.get(word, 0) / whole,
            "" if label_of[word] == NONE else labels[label_of[word]],
            rules[word],
        )
        for word in ordered
    )
