"""Pairing of the photographs and label files that fit a user's patterns. Unpaired files are listed as well."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter

from ovss_ray.benchmarks.listing import FILE, LOST, NEARLY, UNREAD, UNREADABLE, File, Paired, paired_files
from ovss_ray.datasets.folder.patterns import Match, Search, expanded, lacking, split_ending
from ovss_ray.errors import OvssError
from ovss_ray.io.sorted_rows import Rows
from ovss_ray.structures.findings import Fault

WHY = {
    ".jpg": "JPEG and WebP may change label values",
    ".json": "convert outlines to label maps first",
}
"""Hints in error messages about label files with an unsupported extension. The keys are the extensions."""
WHY |= dict.fromkeys((".jpeg", ".jpe", ".jfif", ".webp"), WHY[".jpg"]) | dict.fromkeys((".xml", ".txt"), WHY[".json"])


@dataclass
class Side:
    """Photographs or label files of a user's data set, with their patterns and the results of the search."""

    key: str
    """key of the YAML file that lists the patterns: `images` or `labels`"""
    patterns: tuple[str, ...]
    suffix: str
    endings: tuple[str, ...]
    """supported extensions"""
    fitting: int = 0
    """number of files that fit the patterns, counted by `files`"""
    example: str = ""
    """stem of a fitting file, the first in alphabetical order"""
    others: Counter[str] = field(default_factory=Counter)
    """extension → number of files with this extension that fit a pattern if the pattern's extension is ignored

    For example, if the pattern is `*.png`, the file `a.gif` is counted too. The numbers are complete only if `fitting`
    is 0.
    """
    ignored: list[Fault] = field(default_factory=list)
    """notes on links that were ignored, added by `files`"""

    def files(self, number: int, bases: Sequence[str]) -> Iterator[File]:
        """Yield the files that fit the patterns, and files that nearly fit, such as files with another extension.

        Only the first folder of `bases` that contains a fitting file is searched. If no folder contains a fitting file,
        no file is yielded. Raises OvssError if a folder in a pattern does not exist.

        `number`: value of `File.side` in each yielded File, 0 for photographs and 1 for label files.
        """
        base = next((base for base in bases if any(map(self._fits, Search(base, self.patterns, self.suffix)))), None)
        every = [pattern for listed in self.patterns for pattern in expanded(listed)]
        if base and (absent := next(filter(None, (lacking(base, pattern) for pattern in every)), None)):
            raise OvssError(
                f"{self.key}: no such folder: {absent}. Complete the data, or remove the pattern of this folder"
            )
        search = Search(base or bases[0], self.patterns, self.suffix)
        for match in search if base else ():
            if match.ending in self.endings:
                path = "/".join((*match.folders, match.stem)) if match.folders else match.stem
                self.fitting += match.exact
                self.example = min(self.example or match.stem, match.stem) if match.exact else self.example
                yield File(match.stem, path, number, match.uri, 0 if match.exact else NEARLY)
            elif match.ending in UNREAD[number]:
                yield File(match.stem, match.stem, number, match.uri, UNREADABLE)
        yield from (File(link, link, number, link, LOST) for link in search.lost)
        self.ignored += _remarks("links to a parent folder were ignored", search.loops)
        self.ignored += _remarks("folders were ignored since a link leads to them a second time", search.again)

    def _fits(self, match: Match) -> bool:
        self.others[match.ending] += 1
        return match.exact and match.ending in self.endings

    def _misspelled(self) -> str:
        """Return advice if `suffix` contains an extension such as ".png", or if a pattern has a backslash; else ""."""
        stem, ending = split_ending(self.suffix)
        if stem and ending.lower() in self.endings:
            return f". A suffix must not include the extension: write {stem}"
        return r". Write / instead of \ between folders" if any("\\" in text for text in self.patterns) else ""

    def summary(self) -> str:
        """Return a sentence with the number of fitting files, or the reason why there are none."""
        listed = self.patterns[0] if len(self.patterns) == 1 else list(self.patterns)
        suffix = f" with the suffix {self.suffix!r}" if self.suffix else ""
        kind = "photographs" if self.key == "images" else "label files"
        fitting = f"{self.fitting} {kind} fit `{self.key}: {listed}`{suffix}"
        if self.fitting:
            return f"{fitting}, such as {self.example!r}"
        if not self.others:
            return fitting + self._misspelled()
        ending, number = max(self.others.items(), key=lambda other: (other[0] in self.endings, other[1]))
        if ending in self.endings:
            return f"{fitting}. {number} other files end in {ending}. Write *{ending} in the pattern"
        reason = f" ({WHY[ending]})" if self.key == "labels" and ending in WHY else ""
        return (
            f"{fitting}. {number} other files have an unsupported extension: {ending or 'none'}{reason}. Supported: "
            f"{' '.join(self.endings)}"
        )


def _remarks(what: str, addresses: Sequence[str]) -> Iterator[Fault]:
    """Yield a note with the number of `addresses`, the text `what`, and the first address as an example.

    `what`: statement on the addresses, such as "links to a parent folder were ignored". If `addresses` is empty, no
    note is yielded.
    """
    if addresses:
        yield Fault(f"{len(addresses)} {what}, such as {addresses[0]}", sure=False)


def items(photographs: Side, truths: Side, bases: Sequence[str]) -> Paired:
    """Return pairs of photographs and label files (see listing.paired_files).

    Photographs are searched below the first folder of `bases` that contains fitting photographs. Label files are
    searched below the first folder of `bases` that contains fitting label files. If a file fits both `images` and
    `labels`, the side with the longer suffix gets the file. Raises OvssError if both suffixes are equally long. Also
    raises OvssError if there is no pair, or if an image id is repeated.
    """
    every = Rows(File, FILE, _both(photographs, truths, bases))
    suffixes = len(photographs.suffix), len(truths.suffix)
    pairs = paired_files(_sorted_out(every, suffixes) if every.repeats("uri") else every)
    pairs.remarks = (*photographs.ignored, *truths.ignored)
    if not len(pairs):
        advice = ""
        if photographs.fitting and truths.fitting:
            advice = (
                f" A pair has equal stems, but theirs differ: {photographs.example!r}, {truths.example!r}. Set "
                "label_suffix or image_suffix to the extra end of one side's stems, such as _mask."
            )
        raise OvssError(
            f"no photograph with a label file. {photographs.summary()}. {truths.summary()}.{advice} Searched below "
            f"{' and '.join(map(repr, bases))}"
        )
    return pairs


def _both(photographs: Side, truths: Side, bases: Sequence[str]) -> Iterator[File]:
    yield from photographs.files(0, bases)
    yield from truths.files(1, bases)


def _sorted_out(every: Rows[File], suffixes: tuple[int, int]) -> Iterator[File]:
    """Yield each file in `every` once, although a file that fits several patterns is in `every` several times.

    A file may fit both `images` and `labels`. If image_suffix is longer than label_suffix, this file is a photograph.
    If label_suffix is longer, this file is a label file. If both suffixes are equally long, this function raises
    OvssError.

    `suffixes`: the length of image_suffix, then the length of label_suffix.
    """
    for uri, group in groupby(every.in_order("uri, near, side"), attrgetter("uri")):
        kinds = list(group)
        sides = {file.side for file in kinds if not file.near}
        if len(sides) == 2 and suffixes[0] == suffixes[1]:
            raise OvssError(
                f"{uri}: fits both `images` and `labels`, but a file is either a photograph or a label file. Write "
                "different patterns for `images` and `labels`, or set label_suffix to the end of the label files' "
                "stems, such as _mask"
            )
        side = suffixes.index(max(suffixes)) if len(sides) == 2 else kinds[0].side
        yield next(file for file in kinds if file.side == side)
