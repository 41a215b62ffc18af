"""Photographs and label files that a user describes by patterns: which belong together, and which to nothing."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter

from ovss_ray.errors import OvssError
from ovss_ray.listing import FILE, LOST, NEARLY, UNREAD, UNREADABLE, File, Paired, paired_files
from ovss_ray.patterns import Match, Search, lacking, split_ending
from ovss_ray.spill import Rows

WHY = {
    ".jpg": "JPEG and WebP do not keep the exact values of labels",
    ".json": "outlines have to be drawn as label maps first",
}
"""Ending of files that do not serve as labels → the reason."""
WHY |= dict.fromkeys((".jpeg", ".jpe", ".jfif", ".webp"), WHY[".jpg"]) | dict.fromkeys((".xml", ".txt"), WHY[".json"])


@dataclass
class Side:
    """The photographs, or the label files, as a description names them."""

    key: str
    """what the description calls them: `images` or `labels`"""
    patterns: tuple[str, ...]
    suffix: str
    endings: tuple[str, ...]
    """endings of the files that are read"""
    fitting: int = 0
    """once it was listed: how many files fit"""
    example: str = ""
    """the least stem of those"""
    others: Counter[str] = field(default_factory=Counter)
    """ending → number of files that would fit by the rest of their names; counted where nothing fits"""

    def files(self, number: int, bases: Sequence[str]) -> Iterator[File]:
        """List the files as those of side `number`, from the first base that has any that fits."""
        base = next((base for base in bases if any(map(self._fits, Search(base, self.patterns, self.suffix)))), None)
        if base and (absent := next(filter(None, (lacking(base, pattern) for pattern in self.patterns)), None)):
            raise OvssError(f"{self.key}: there is no folder {absent}. Complete the data, or take that pattern out")
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
        _warn("links ignored that lead to a folder that contains them", search.loops)
        _warn("folders ignored that a link shows a second time", search.again)

    def _fits(self, match: Match) -> bool:
        self.others[match.ending] += 1
        return match.exact and match.ending in self.endings

    def _misspelled(self) -> str:
        """Name the part of the description that keeps every file from fitting; "" if there is none."""
        stem, ending = split_ending(self.suffix)
        if stem and ending.lower() in self.endings:
            return f". A suffix is what stands before the ending: write {stem}"
        return r". Write / in the place of \ between folders" if any("\\" in text for text in self.patterns) else ""

    def summary(self) -> str:
        """Say in a sentence how many files fit, or why none does."""
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
            return f"{fitting}. {number} others end in {ending}: write *{ending} there"
        why = f" ({WHY[ending]})" if self.key == "labels" and ending in WHY else ""
        return (
            f"{fitting}. {number} others are not read: {ending or 'no ending'}{why}. Read are {' '.join(self.endings)}"
        )


def _warn(what: str, addresses: Sequence[str]) -> None:
    """Log what was ignored, if anything was; `ovss check` takes it for a note."""
    if addresses:
        text = "%d %s, such as %s"
        logging.getLogger(__name__).warning(text, len(addresses), what, addresses[0], extra={"sure": False})


def items(photographs: Side, truths: Side, bases: Sequence[str]) -> Paired:
    """Pair photographs and label files below the first of some folders that has any; see listing.paired_files.

    Raises OvssError if there is no pair, or if two files would be the same image.
    """
    every = Rows(File, FILE, _both(photographs, truths, bases))
    suffixes = len(photographs.suffix), len(truths.suffix)
    pairs = paired_files(_sorted_out(every, suffixes) if every.repeats("uri") else every)
    if not len(pairs):
        advice = ""
        if photographs.fitting and truths.fitting:
            advice = (
                f" No two have one stem, which is what pairs them: {photographs.example!r}, {truths.example!r}. Set "
                "label_suffix or image_suffix to how their names end."
            )
        raise OvssError(
            f"no photograph with a label file. {photographs.summary()}. {truths.summary()}.{advice} Looked for below "
            f"{' and '.join(map(repr, bases))}"
        )
    return pairs


def _both(photographs: Side, truths: Side, bases: Sequence[str]) -> Iterator[File]:
    yield from photographs.files(0, bases)
    yield from truths.files(1, bases)


def _sorted_out(every: Rows[File], suffixes: tuple[int, int]) -> Iterator[File]:
    """Each file once: of what fits exactly and by its neighbour's ending the former, of two sides the longer suffix."""
    for uri, group in groupby(every.in_order("uri, near, side"), attrgetter("uri")):
        kinds = list(group)
        sides = {file.side for file in kinds if not file.near}
        if len(sides) == 2 and suffixes[0] == suffixes[1]:
            raise OvssError(
                f"{uri}: fits both `images` and `labels`, and cannot be photograph and label file. Give each a pattern "
                "of its own, or set label_suffix to how the names of label files end, such as _mask"
            )
        side = suffixes.index(max(suffixes)) if len(sides) == 2 else kinds[0].side
        yield next(file for file in kinds if file.side == side)
