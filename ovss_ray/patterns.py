"""Patterns of file names, such as `images/**/*.jpg`, and the files that fit them.

`*`, `?` and `[...]` stand for parts of one step of a path, `**` for any number of folders. A step that exists under
exactly this name is that file or folder, whatever characters it has: `data [2024]/*.jpg`. A pattern that is a folder
stands for all files below it. The ending of a file fits in any case: `*.jpg` fits `a.JPG`. Hidden folders are entered
only if a step of the pattern begins with a dot. Links to folders are followed, but not into their own folder, and
no folder is listed under two paths.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from posixpath import splitext

from ovss_ray import files
from ovss_ray.files import Trail


@dataclass(frozen=True, slots=True)
class Match:
    """A file, and how a pattern fits it."""

    uri: str
    stem: str
    """name without ending; where the pattern spells the name out, the last folder that a wildcard stands for"""
    folders: tuple[str, ...]
    """the folders before `stem` that wildcards stand for, or that differ among the patterns of a list"""
    ending: str
    """of the file, in lower case, with its dot"""
    exact: bool
    """False: only the ending keeps the file from fitting"""


@dataclass(frozen=True)
class Step:
    """One step of a pattern."""

    text: str
    varies: bool = False
    """whether the patterns of a list differ here, so that this step tells their files apart"""

    @property
    def wild(self) -> bool:
        """Whether wildcards are in it."""
        return bool(set(self.text) & set("*?["))


@dataclass(frozen=True)
class _Place:
    """A folder on the way, and the names that tell it from its like."""

    uri: str
    trail: Trail
    named: tuple[str, ...] = ()


class Search:
    """The files below a folder that any of some patterns fits, and whose names without ending end in `suffix`.

    Once it has ended, `loops` are the links that were ignored since they lead to a folder that contains them, and
    `lost` the links without an ending that lead nowhere, where a folder is looked for. `again` are folders that were
    ignored since a link has shown them before, or shows them here.
    """

    def __init__(self, base: str, patterns: Sequence[str], suffix: str = "") -> None:
        self.loops: list[str] = []
        self.lost: list[str] = []
        self.again: list[str] = []
        self._known: dict[int, int] = {}
        self._suffix = suffix
        self._patterns = [_split(base, pattern) for pattern in patterns]

    def __iter__(self) -> Iterator[Match]:
        """Each file that a pattern fits, exactly or but for its ending, once for each pattern, in no order."""
        varying = _varying([steps for _, steps in self._patterns])
        for (folder, steps), varies in zip(self._patterns, varying, strict=True):
            marked = tuple(map(Step, steps, varies))
            yield from self._walk(_Place(folder, Trail.at(folder)), marked)

    def _walk(self, place: _Place, steps: tuple[Step, ...]) -> Iterator[Match]:
        first, *rest = steps
        if first.text == "**":
            yield from self._walk(place, tuple(rest) or (Step("*"),))
            for inner in self._folders(place, Step("*")):
                yield from self._walk(inner, steps)
        elif rest:
            for inner in self._folders(place, first):
                yield from self._walk(inner, tuple(rest))
        elif _literal(place, first) and files.is_folder(files.join(place.uri, first.text)):
            for inner in self._folders(place, first):
                yield from self._walk(inner, (Step("**"), Step("*")))
        elif self._is_new(place):
            yield from _fitting(place, first, self._suffix)

    def _is_new(self, place: _Place) -> bool:
        """Whether the files of a place were not listed yet under another path, which would count each twice."""
        if not place.trail.reals:
            return True
        new = self._known.setdefault(hash(place.trail.reals[-1]), hash(place.uri)) == hash(place.uri)
        if not new and place.uri not in self.again:
            self.again.append(place.uri)
        return new

    def _folders(self, place: _Place, step: Step) -> Iterator[_Place]:
        """The folders in a place that a step fits."""
        if _literal(place, step):
            named = (*place.named, step.text) if step.varies else place.named
            address = files.join(place.uri, step.text)
            yield _Place(address, Trail.at(address), named)
            return
        for name in self._fitting_folders(place, step):
            address = files.join(place.uri, name)
            if trail := place.trail.into(address):
                yield _Place(address, trail, (*place.named, name))
            elif address not in self.loops:
                self.loops.append(address)

    def _fitting_folders(self, place: _Place, step: Step) -> list[str]:
        """The names of the folders in a place that a step fits, links behind the others."""
        names = []
        for name, is_folder in files.entries(place.uri):
            address = files.join(place.uri, name)
            if is_folder and _fits(name, step.text):
                names.append((files.is_link(address), name))
            elif _fits(name, step.text) and not split_ending(name)[1] and files.leads_nowhere(address):
                self.lost.extend({address} - {*self.lost})
        return [name for _, name in sorted(names)]


def _fitting(place: _Place, step: Step, suffix: str) -> Iterator[Match]:
    """The files in a place that the last step of a pattern fits, exactly or but for the ending."""
    literal = _literal(place, step)
    base, ending = split_ending(step.text)
    for name, is_folder in files.entries(place.uri):
        stem, own = split_ending(name)
        if is_folder or not stem.endswith(suffix) or (literal and step.wild and name != step.text):
            continue
        exact = name == step.text if literal else _fits(name, step.text)
        if exact or _fits(stem, base) or stem == base:
            exact = exact or fnmatchcase(own.lower(), ending.lower())
            kept = place.named if literal and place.named else (*place.named, stem.removesuffix(suffix))
            yield Match(files.join(place.uri, name), kept[-1], kept[:-1], own.lower(), exact)


def lacking(base: str, pattern: str) -> str | None:
    """Return the first folder that a pattern spells out and that is not there; None if all are."""
    address, steps = _split(base, pattern)
    for step in steps[:-1]:
        if Step(step).wild and not _literal(_Place(address, Trail(())), Step(step)):
            return None
        address = files.join(address, step)
        if not files.exists(address):
            return address
    return None


def _literal(place: _Place, step: Step) -> bool:
    """Whether a step is one name: it has no wildcard, or something is called exactly so."""
    return not step.wild or (step.text.strip("*") != "" and files.exists(files.join(place.uri, step.text)))


def _fits(name: str, step: str) -> bool:
    return fnmatchcase(name, step) and (not name.startswith(".") or step.startswith("."))


def split_ending(name: str) -> tuple[str, str]:
    """Split a file's name into stem and ending; `.nii.gz` is one ending."""
    stem, ending = splitext(name)
    if ending.lower() in (".gz", ".bz2", ".xz"):
        first, inner = splitext(stem)
        return first, inner + ending
    return stem, ending


def _split(base: str, pattern: str) -> tuple[str, tuple[str, ...]]:
    """The folder where a pattern begins, of which no character is a wildcard, and its steps."""
    scheme, mark, rest = pattern.partition("://")
    if mark:
        host, _, path = rest.partition("/")
        return f"{scheme}://{host}", _steps(path)
    return ("/" if pattern.startswith("/") else base), _steps(pattern)


def _steps(path: str) -> tuple[str, ...]:
    return tuple(step for step in path.split("/") if step not in ("", ".")) or ("**",)


def _varying(patterns: Sequence[tuple[str, ...]]) -> list[list[bool]]:
    """For each step of each pattern, whether the patterns differ there; nowhere if they are of unlike lengths."""
    if len({len(steps) for steps in patterns}) != 1:
        return [[False] * len(steps) for steps in patterns]
    differs = [len(set(column)) > 1 for column in zip(*patterns, strict=True)]
    # Names of files that are spelled out differ, too, and are no folders.
    return [[*differs[:-1], False] for _ in patterns]
