"""What a benchmark is, how a name becomes one, and what the files of data sets share."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from ovss_ray import files, images, stage
from ovss_ray.archives import Archive
from ovss_ray.columns import IGNORE
from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.listing import Item
from ovss_ray.vocabulary import Vocabulary

_CLASSES = Path(__file__).parent / "classes"
_INVALID = 65533
"""In a table of label values: this value must not occur."""


@dataclass(frozen=True)
class Step:
    """One file of the prepared form of a data set, and the one file it is made of."""

    source: str
    target: str
    convert: Callable[[bytes, str], bytes]
    """(content of the source, its name) → content of the target: an image file. Raises OvssError.

    A function of a module, since it is sent to other processes."""


@dataclass(frozen=True)
class Values:
    """Numbers in the label files of a benchmark that a user describes, each of which stands for one class."""

    classes: tuple[int, ...]
    """label value of each class, in the order of the vocabulary"""
    ignore: tuple[int, ...]
    """label values that are not counted"""
    stated: bool
    """whether the user wrote `ignore`; False: it is the default"""


Plan = Callable[[str, str, str | None], Iterable[Step]]
"""(data root, split, folder) → the steps that make the prepared form.

It goes into the data set's usual layout below the folder, or beside the source if that is None; the benchmark's `items`
then finds it there. Raises OvssError if the source is not below the data root."""


def _photograph(item: Item, data: bytes) -> np.ndarray:
    return images.decode(data, item.image)


@dataclass(frozen=True)
class Benchmark:
    """Images, truth and vocabulary of one evaluation, and how its files are read.

    Raises OvssError if the parts do not fit one another.
    """

    title: str
    domain: str
    licence: str
    source: str
    """where the data come from"""
    counts: Mapping[str, int]
    """how many images belong to each split; a split that is not listed may have any number"""
    vocabulary: Vocabulary
    """the K classes that are asked for"""
    items: Callable[[str, str], Iterable[Item]]
    """(data root, split) → its images, sorted by id. Raises OvssError if the data are not there"""
    truth: Callable[[Item, bytes], np.ndarray]
    """(item, bytes of its label file) → (H, W) uint16 label indices, IGNORE where not counted. Raises OvssError"""
    index: tuple[int, ...] = ()
    """class → index of the label it counts as, K numbers; left out: class i is label i"""
    asked: Mapping[str, tuple[Vocabulary, tuple[int, ...]]] = field(default_factory=dict)
    """part of an image (Item.part) → the vocabulary and index of its own that it is asked for instead"""
    labels: tuple[str, ...] = ()
    """the names of the label indices that the truth uses; left out: those of the classes"""
    image: Callable[[Item, bytes], np.ndarray] = _photograph
    """(item, bytes of its photograph) → (H, W, 3) uint8 RGB. Raises OvssError"""
    size: Callable[[str], tuple[int, int]] = images.size
    """URI of a photograph → its H, W, without decoding it. Raises OvssError"""
    rules: str = ""
    """names how label files are read, where a user has a say in it: another rule is another benchmark"""
    split: str = "val"
    """the split that is scored if none is named"""
    prepare: Plan | None = None
    """how the prepared form is made, if there is one (see ovss_ray.prepare); else files are read as they are sent"""
    archives: tuple[Archive, ...] = ()
    """what its authors offer for download, and where that goes (see ovss_ray.download)"""
    unlabelled: bool = False
    """whether nearly every label file has pixels that are not counted: if none has any, they were read wrongly"""
    twin: Callable[[Item], str] | None = None
    """where another label file of the image may lie that should say the same: `ovss check` compares them"""
    drawn: bool = False
    """whether the images are made on the spot, so that no data root is needed"""
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """name → indices of labels whose mIoU the report gives apart as well, such as things and stuff"""
    values: Values | None = None
    """label values as a user describes them; None if labels are coded by colours or the data set is a known one"""
    unpaired: Literal["error", "skip"] = "error"
    """whether files without a partner make a run incomplete (see listing.LeftOut)"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", self.labels or self.vocabulary.names)
        object.__setattr__(self, "index", self.index or tuple(range(len(self.vocabulary))))
        if len(self.index) != len(self.vocabulary):
            raise OvssError(f"{self.title}: {len(self.vocabulary)} classes, and `index` maps {len(self.index)}")
        if len(self.labels) > _INVALID or len(self.vocabulary) > _INVALID:
            raise OvssError(f"{self.title}: more than {_INVALID} classes do not fit into 16 bits")
        if set(self.index) != set(range(len(self.labels))):
            odd = sorted(set(self.index) ^ set(range(len(self.labels))))
            raise OvssError(
                f"{self.title}: `index` must name each of the {len(self.labels)} labels and no other; at odds: {odd}"
            )
        for part, (own, index) in self.asked.items():
            if len(own) != len(index) or set(index) - set(range(len(self.labels))):
                raise OvssError(f"{self.title}: {part!r} is asked for {len(own)} classes, which count as {index}")
        if odd := sorted(set().union(*self.groups.values()) - set(range(len(self.labels)))):
            raise OvssError(f"{self.title}: `groups` names labels that there are not: {odd}")
        if any(count < 1 for count in self.counts.values()):
            raise OvssError(f"{self.title}: a split has at least one image, and `counts` says {dict(self.counts)}")

    def question(self, part: str) -> tuple[Vocabulary, tuple[int, ...]]:
        """What a part of an image is asked for: a vocabulary, and which label each of its classes counts as."""
        return self.asked.get(part, (self.vocabulary, self.index))


def load(name: str) -> Benchmark:
    """Look up a benchmark by name: "camvid", "ade20k:847", "folder:my.yaml", "my_package.my_data:variant".

    "ade20k:150@catseg" is ade20k:150 asked for in the words of classes/ade20k_150@catseg.txt. Raises UnknownName with
    the nearest known name.
    """
    family, _, argument = name.partition(":")
    if "." not in family and family not in families():
        raise UnknownName("benchmark", name, known())
    # A module's namespace, so that both ways of offering benchmarks can be looked for without an error in between.
    module = stage.find("ovss_ray.datasets", family, "__dict__")
    if "benchmark" in module:
        return module["benchmark"](argument)
    offered = stage.find("ovss_ray.datasets", family, "BENCHMARKS")
    if argument in offered:
        return offered[argument]
    base, mark, words = argument.partition("@")
    if base not in offered or not mark:
        raise UnknownName("benchmark", name, [_named(family, suffix) for suffix in offered])
    return _in_words(offered[base], _named(family, base), words)


def _in_words(base: Benchmark, name: str, words: str) -> Benchmark:
    """Ask for the classes of a benchmark in other words; its labels stay. Raises UnknownName."""
    known = variants(name)
    if words not in known:
        raise UnknownName(f"list of names for {name}", words, known)
    told = vocabulary(f"{name.replace(':', '_')}@{words}")
    return replace(base, title=f"{base.title}, names of {words}", vocabulary=told)


def variants(name: str) -> list[str]:
    """What may follow a benchmark's name and "@": other lists of names for its classes, called after who asks by them.

    catseg: CAT-Seg, SED. ebseg: EBSeg. fcclip: FC-CLIP, MAFT+, EBSeg, many names for a class. mmseg: mmsegmentation.
    openseg: OpenSeg, ODISE. ovseg: OVSeg, SCAN. proxyclip: ProxyCLIP, Trident.
    """
    return [path.stem.partition("@")[2] for path in sorted(_CLASSES.glob(f"{name.replace(':', '_')}@*.txt"))]


def families() -> list[str]:
    """The modules of ovss_ray.datasets that offer benchmarks."""
    return [module for module in stage.known("ovss_ray.datasets") if module != "benchmark"]


def known() -> list[str]:
    """The names of all benchmarks of this package, "folder:PATH.yaml" for those that users describe themselves."""
    names = []
    for family in families():
        module = stage.find("ovss_ray.datasets", family, "__dict__")
        names += [_named(family, suffix) for suffix in module.get("BENCHMARKS", ["PATH.yaml"])]
    return names


def _named(family: str, suffix: str) -> str:
    return f"{family}:{suffix}" if suffix else family


def class_list(name: str) -> tuple[str, ...]:
    """Read classes/NAME.txt, one entry a line, byte for byte: blanks at the ends of lines belong to the names."""
    return tuple((_CLASSES / f"{name}.txt").read_text("utf-8").removesuffix("\n").split("\n"))


def vocabulary(name: str) -> Vocabulary:
    """Read classes/NAME.txt as a vocabulary: one class a line, several names of one class parted by tabs."""
    return Vocabulary.of(line.split("\t") for line in class_list(name))


def data_root(given: str | None) -> str:
    """The folder of the data sets: the one given, or else $OVSS_DATA, made absolute. Raises OvssError for neither."""
    root = given or os.environ.get("OVSS_DATA")
    if not root:
        raise OvssError("where the data lie was not said. Add --data-root DIR, or set OVSS_DATA=DIR")
    return files.absolute(root)


def below(root: str, own: str, layouts: Iterable[tuple[str, ...]], advice: str) -> list[str]:
    """Find a data set below a data root, which may be the data set's own folder or the one above it.

    `own` is the folder's usual name; a layout is a tuple of folders inside it that must all exist, and the first
    layout that is found is returned as addresses, in its order. Raises OvssError that says where it was looked for and
    how to get the data.
    """
    tried = []
    for layout in layouts:
        for base in (files.join(files.absolute(root), own), files.absolute(root)):
            found = [files.join(base, folder) for folder in layout]
            if all(map(files.exists, found)):
                return found
            tried += found
    raise OvssError(f"the data set was not found below {root!r}. Looked for: {', '.join(tried)}. {advice}")


def split_folder(split: str, folders: Mapping[str, str]) -> str:
    """The folder of a split. Raises UnknownName."""
    if split not in folders:
        raise UnknownName("split", split, folders)
    return folders[split]


def value_table(labels: int, offset: int = 0, ignore: Iterable[int] = ()) -> np.ndarray:
    """Say what the values of label files mean: (65536,) uint16, value → label index, IGNORE, or a mark of its own.

    A value stands for the label `value - offset`; values in `ignore` are not counted, whatever they would stand for.
    """
    return table_of(range(offset, offset + labels), ignore)


def table_of(values: Sequence[int], ignore: Iterable[int] = ()) -> np.ndarray:
    """Make the table of `value_table` of the value of each label; values that no 16 bits hold are left out."""
    table = np.full(65536, _INVALID, np.uint16)
    listed = np.array(values, np.int64)
    fits = (listed >= 0) & (listed < len(table))
    table[listed[fits]] = np.flatnonzero(fits)
    table[[value for value in ignore if value >= 0]] = IGNORE
    return table


def look_up(values: np.ndarray, table: np.ndarray, name: str) -> np.ndarray:
    """Bring the values of a label file, (H, W) of any integers, to (H, W) uint16 label indices and IGNORE.

    Raises OvssError with the file's name and the first value that the table has nothing for.
    """
    if values.dtype != np.uint16 and ((values < 0) | (values >= len(table))).any():
        wrong = values[(values < 0) | (values >= len(table))]
        raise OvssError(f"{name}: the label {wrong[0]} does not fit into 16 bits")
    found = table[values]
    if (found == _INVALID).any():
        allowed = _ranges(np.flatnonzero(table != _INVALID))
        wrong = values[found == _INVALID]
        raise OvssError(f"{name}: {len(wrong)} pixels have labels such as {wrong[0]}; this data set has {allowed}")
    return found


def _ranges(numbers: np.ndarray) -> str:
    """Write sorted numbers as "0 to 10, 255"."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
