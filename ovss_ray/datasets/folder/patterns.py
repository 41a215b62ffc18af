"""Patterns of file names, such as `images/**/*.jpg`, and a search for the files that fit them.

A step is a part of a pattern between two slashes. Rules:

- `*`, `?` and `[...]` are wildcards.
- A step that is the exact name of a file or folder, such as `data [2024]`, has no wildcards.
- `**` stands for any number of folders.
- The pattern of a folder matches all files below the folder.
- Extensions match in upper and lower case: `*.jpg` matches `a.JPG`.
- Hidden folders are searched only if a step begins with a dot.
- Links to folders are followed, except links to a parent folder. If two paths lead to the same folder, the files of
  this folder are listed once.
- Archives are searched like folders if the step has the extension of an archive: `shards/*.tar/*.jpg`.
- A range in braces stands for several names: `{008..010}.tar` is 008.tar, 009.tar, 010.tar.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from posixpath import splitext

from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.io.files import Trail

MANY = 100_000
"""Largest number of names to which a range in braces, such as {000..010}, may expand."""
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True, slots=True)
class Match:
    """File that fits a pattern exactly, or apart from its extension."""

    uri: str
    stem: str
    """file name without extension and without the `suffix` of the search, or the name of a folder

    `stem` is a folder's name only if the file name in the pattern has no wildcards. For example, the pattern
    `*/labels.png` gives the file `a/labels.png` the stem "a".
    """
    folders: tuple[str, ...]
    """folders on the file's path whose name in the pattern has wildcards, or is not the same in all patterns

    These names distinguish files with equal stems. For the pattern `*/photos/*.jpg`, the file `a/photos/1.jpg` has
    ("a",). For the patterns `day/*.jpg` and `night/*.jpg`, the file `day/1.jpg` has ("day",).
    """
    ending: str
    """extension of the file, in lower case, with its dot"""
    exact: bool
    """True if the file fits exactly; False if its extension differs from the pattern"""


@dataclass(frozen=True)
class Step:
    """Step of a pattern: the text between two slashes."""

    text: str
    varies: bool = False
    """True if another pattern of the same search has a different text in this step"""

    @property
    def wild(self) -> bool:
        """Return whether the step has wildcards."""
        return bool(set(self.text) & set("*?["))


@dataclass(frozen=True)
class _Place:
    """Folder that a search has reached."""

    uri: str
    trail: Trail
    named: tuple[str, ...] = ()
    """names that distinguish files with equal stems: some of the folders on the path `uri`, the outermost first

    A folder is included if its name in the pattern has wildcards, or is not the same in all patterns. For example, the
    patterns `day/*/*.jpg` and `night/*/*.jpg` give the folder `day/a` the names ("day", "a").
    """


class Search:
    """Search below a folder for files that fit one of several patterns, and whose stem ends in `suffix`.

    The search collects addresses in three lists:

    - `loops`: ignored links to a parent folder
    - `lost`: broken links without an extension, which were probably links to folders
    - `again`: folders that are ignored, since their files were already listed under another path
    """

    def __init__(self, base: str, patterns: Sequence[str], suffix: str = "") -> None:
        self.loops: list[str] = []
        self.lost: list[str] = []
        self.again: list[str] = []
        self._known: dict[int, int] = {}
        self._suffix = suffix
        self._patterns = [_split(base, pattern) for listed in patterns for pattern in expanded(listed)]

    def __iter__(self) -> Iterator[Match]:
        """Yield, in arbitrary order, each file that fits a pattern or differs from the pattern only in the extension.

        A file that fits two patterns is yielded twice.
        """
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
        elif files.is_archive(first.text) or (
            _literal(place, first) and files.is_folder(files.join(place.uri, first.text))
        ):
            for inner in self._folders(place, first):
                yield from self._walk(inner, (Step("**"), Step("*")))
        elif self._is_new(place):
            yield from _fitting(place, first, self._suffix)

    def _is_new(self, place: _Place) -> bool:
        """Return whether a folder is new; False if its files were already listed under another path."""
        if not place.trail.reals:
            return True
        new = self._known.setdefault(hash(place.trail.reals[-1]), hash(place.uri)) == hash(place.uri)
        if not new and place.uri not in self.again:
            self.again.append(place.uri)
        return new

    def _folders(self, place: _Place, step: Step) -> Iterator[_Place]:
        """Yield the folders that lie in `place` and fit a step of a pattern."""
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
        """Return the names of the subfolders of `place` whose names fit `step`. Symbolic links are last.

        If `step` has the extension of an archive, archives count as subfolders. Broken links that probably led
        to folders are added to `self.lost`.
        """
        names = []
        for name, is_folder in files.entries(place.uri):
            address = files.join(place.uri, name)
            archive = files.is_archive(step.text) and files.is_archive(name)
            if (is_folder or archive) and _fits(name, step.text):
                names.append((files.is_link(address), name))
            elif _fits(name, step.text) and not split_ending(name)[1] and files.leads_nowhere(address):
                self.lost.extend({address} - {*self.lost})
        return [name for _, name in sorted(names)]


def _fitting(place: _Place, step: Step, suffix: str) -> Iterator[Match]:
    """Yield the files in a folder that fit the last step of a pattern, or would fit with another extension."""
    literal = _literal(place, step)
    base, ending = split_ending(step.text)
    for name, is_folder in files.entries(place.uri):
        stem, extension = split_ending(name)
        if is_folder or not stem.endswith(suffix) or (literal and step.wild and name != step.text):
            continue
        exact = name == step.text if literal else _fits(name, step.text)
        if exact or _fits(stem, base) or stem == base:
            exact = exact or fnmatchcase(extension.lower(), ending.lower())
            kept = place.named if literal and place.named else (*place.named, stem.removesuffix(suffix))
            yield Match(files.join(place.uri, name), kept[-1], kept[:-1], extension.lower(), exact)


def lacking(base: str, pattern: str) -> str | None:
    """Return the first missing folder on the path of a pattern, or None. Folders after a wildcard are not checked."""
    address, steps = _split(base, pattern)
    for step in steps[:-1]:
        if Step(step).wild and not _literal(_Place(address, Trail(())), Step(step)):
            return None
        address = files.join(address, step)
        if not files.exists(address):
            return address
    return None


def _literal(place: _Place, step: Step) -> bool:
    """Return whether a step has no wildcards, or is literally the name of a file in `place`, such as "a[1].jpg"."""
    return not step.wild or (step.text.strip("*") != "" and files.exists(files.join(place.uri, step.text)))


def _fits(name: str, step: str) -> bool:
    return fnmatchcase(name, step) and (not name.startswith(".") or step.startswith("."))


def split_ending(name: str) -> tuple[str, str]:
    """Return stem and extension of a file's name; `.nii.gz` is one extension."""
    stem, ending = splitext(name)
    if ending.lower() in (".gz", ".bz2", ".xz"):
        first, inner = splitext(stem)
        return first, inner + ending
    return stem, ending


def expanded(pattern: str) -> Iterator[str]:
    """Yield the patterns that result from expanding ranges in braces. Without braces, yield the pattern unchanged."""
    match = _BRACES.search(pattern)
    if not match:
        yield pattern
        return
    first, last = match.groups()
    if int(last) - int(first) >= MANY:
        raise OvssError(f"{pattern}: the range in braces expands to more than {MANY:,} names. Write * instead")
    width = len(first) if first.startswith("0") else 0
    for number in range(int(first), int(last) + 1):
        yield from expanded(f"{pattern[: match.start()]}{number:0{width}}{pattern[match.end() :]}")


def _split(base: str, pattern: str) -> tuple[str, tuple[str, ...]]:
    """Return the folder in which the search for a pattern starts, and the steps of the pattern below this folder."""
    scheme, mark, rest = pattern.partition("://")
    if mark:
        host, _, path = rest.partition("/")
        return f"{scheme}://{host}", _steps(path)
    return ("/" if pattern.startswith("/") else base), _steps(pattern)


def _steps(path: str) -> tuple[str, ...]:
    return tuple(step for step in path.split("/") if step not in ("", ".")) or ("**",)


def _varying(patterns: Sequence[tuple[str, ...]]) -> list[list[bool]]:
    """Return one list per pattern, with one element per step: True if the patterns differ in this step.

    The last step is a file name, and its element is False. If the patterns have different numbers of steps, every
    element is False.
    """
    if len({len(steps) for steps in patterns}) != 1:
        return [[False] * len(steps) for steps in patterns]
    differs = [len(set(column)) > 1 for column in zip(*patterns, strict=True)]
    return [[*differs[:-1], False] for _ in patterns]
