"""Contract of a benchmark: images, truth, vocabulary, and how its files are read, prepared and downloaded."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from ovss_ray.benchmarks.labels import INVALID
from ovss_ray.benchmarks.listing import Item
from ovss_ray.errors import OvssError
from ovss_ray.io import images
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.instances import Instances
from ovss_ray.structures.vocabulary import Vocabulary

DOWNLOADS = "downloads"
"""Name of the folder for downloaded archives. The folder is below the data root."""


@dataclass(frozen=True)
class Archive:
    """File that the authors of a data set offer for download, and the folder to which it is unpacked.

    zip and tar files are unpacked; other files are copied.
    """

    url: str
    """URL of the file; if `note` is set, URL of a web page that offers the file

    An archive that lies inside another archive has no URL. Instead, `url` is the path of the inner archive below the
    data root, such as "coco/annotations/panoptic_val2017.zip".
    """
    to: str
    """path of the target below the data root: a file if `inside` is a file, otherwise a folder"""
    inside: str = ""
    """folder or file to extract, as a path inside the archive; empty: everything"""
    digest: str = ""
    """published checksum as md5:…, sha1:… or sha256:…; empty if there is none"""
    size: int = 0
    """approximate size of the file in bytes, to check the free disk space before the download; 0 if unknown"""
    file: str = ""
    """name of the downloaded file; default: last part of the URL"""
    note: str = ""
    """reason why a browser is needed; empty: the file is freely available"""

    def path(self, root: Path) -> Path:
        """Return the path of the downloaded file below the data root `root`."""
        return root / DOWNLOADS / (self.file or PurePosixPath(self.url).name) if "://" in self.url else root / self.url


@dataclass(frozen=True)
class Step:
    """Conversion of one original file to one file of the data set's prepared form (see dataprep/prepare.py)."""

    source: str
    target: str
    convert: Callable[[bytes, str], bytes]
    """picklable function (bytes of the source file, name of the source file) → bytes of the target, an image file

    The function raises OvssError if the source file cannot be converted.
    """


@dataclass(frozen=True)
class Values:
    """Label values in the label files of a user's data set."""

    classes: tuple[int, ...]
    """label value of each class; the classes are in the order of the vocabulary"""
    ignore: tuple[int, ...]
    """label values of ignored pixels"""
    stated: bool
    """True if the user set `ignore`, even to the default value"""


Plan = Callable[[str, str, str | None], Iterable[Step]]
"""Function (data root, split, folder) → steps that convert the data set to its prepared form (see `Step`).

The targets are below `folder`, or next to the source files if `folder` is None. Raises OvssError if the source files
are missing.
"""


def _photograph(item: Item, data: bytes) -> np.ndarray:
    return images.decode(data, item.image)


@dataclass(frozen=True)
class Benchmark:
    """Images, truth and vocabulary of an evaluation, and functions that read files.

    The constructor raises OvssError if fields contradict each other.
    """

    title: str
    domain: str
    licence: str
    source: str
    """origin of the images and labels, such as a URL, or the path of a user's YAML file"""
    counts: Mapping[str, int]
    """split → number of images; unlisted splits may have any number"""
    vocabulary: Vocabulary
    """classes to segment"""
    items: Callable[[str, str], Iterable[Item]]
    """function (data root, split) → images of the split, sorted by id. Raises OvssError if the data are missing"""
    truth: Callable[[Item, bytes], np.ndarray]
    """function (item, bytes of its label file) → label map, (H, W) uint16, of label indices and IGNORE

    The function raises OvssError if the label file is damaged or has an invalid label value.
    """
    instances: Callable[[Item, bytes], Instances] | None = None
    """function (item, bytes of its label file) → annotated instances of the image

    The function raises OvssError if the annotations are damaged. If the data set has only label maps, `instances` is
    None.
    """
    federated: bool = False
    """True if annotators searched each image for some classes only, as in LVIS (see Instances.absent)"""
    categories: tuple[int, ...] = ()
    """category id of each label in files of COCO's format; default: label index + 1"""
    index: tuple[int, ...] = ()
    """label index of each class, or NONE for a class without a label; default: class i has label index i

    Several classes may have the same label. If `own_words` is False, each class must have a label.
    """
    own_words: bool = False
    """True if the classes are words of the user; then a class may have no label, and a label may have no class"""
    parts: Mapping[str, tuple[Vocabulary, tuple[int, ...]]] = field(default_factory=dict)
    """value of Item.part → (vocabulary, label index of each class) for the images with this value

    The field is used for few-shot episodes.
    """
    alone: Mapping[str, tuple[Vocabulary, tuple[int, ...]]] = field(default_factory=dict)
    """value of Item.part → (vocabulary, label index of each class) for the images with this value

    Methods that segment one class at a time use `alone` instead of `parts` (see `for_binary`). Each vocabulary has two
    classes: first background, then the class to segment.
    """
    labels: tuple[str, ...] = ()
    """name of each label index in the ground truth; default: first name of each class"""
    listed: Callable[[str, str, Sequence[str]], Iterable[Item]] | None = None
    """function (data root, split, ids of the user) → images with these ids. Raises OvssError for an invalid id

    If `listed` is None, the user may only select ids that `items` lists.
    """
    image: Callable[[Item, bytes], np.ndarray] = _photograph
    """function (item, bytes of its photograph) → (H, W, 3) uint8 RGB. Raises OvssError for a damaged photograph"""
    size: Callable[[str], tuple[int, int]] = images.size
    """function: URI of a photograph → H, W in pixels. Raises OvssError if the photograph cannot be read

    The function does not decode the photograph.
    """
    rules: str = ""
    """settings of a user's data set as JSON; empty for built-in data sets

    A run can be resumed only if `rules` is the same text as at the run's start.
    """
    split: str = "val"
    """split to evaluate by default"""
    prepare: Plan | None = None
    """function that lists the steps to the prepared form (see `Plan`); None: files are read as downloaded"""
    archives: tuple[Archive, ...] = ()
    """files that the data set's authors offer for download (see ovss_ray.dataprep.download)"""
    unlabelled: bool = False
    """True if nearly all label files have ignored pixels

    If `unlabelled` is True and no label file has ignored pixels, `ovss check` reports a fault.
    """
    twin: Callable[[Item], str] | None = None
    """function: item → address of a second label file; if the second file exists, `ovss check` compares both files"""
    drawn: bool = False
    """True for synthetic images, which are drawn by code when they are read, and which need no data root"""
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """name of a group, such as things or stuff → label indices; the mIoU of each group is reported separately"""
    values: Values | None = None
    """label values of a user's data set; None for other data sets, or if labels are coded by colours"""
    unpaired: Literal["error", "skip"] = "error"
    """rule for unpaired files, which are photographs without a label file and label files without a photograph

    "error": unpaired files make a run incomplete. "skip": a run with unpaired files can be complete.
    """

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", self.labels or self.vocabulary.names)
        object.__setattr__(self, "index", self.index or tuple(range(len(self.vocabulary))))
        if len(self.index) != len(self.vocabulary):
            raise OvssError(
                f"{self.title}: {len(self.vocabulary)} classes, but `index` has {len(self.index)} label indices. "
                "Write one label index per class"
            )
        if len(self.labels) > INVALID or len(self.vocabulary) > INVALID:
            raise OvssError(
                f"{self.title}: {len(self.vocabulary)} classes and {len(self.labels)} labels do not fit into 16 bits. "
                f"Use at most {INVALID} classes and at most {INVALID} labels"
            )
        labels = set(range(len(self.labels)))
        if self.own_words and (unknown := sorted(set(self.index) - labels - {NONE})):
            raise OvssError(
                f"{self.title}: `index` has invalid label indices: {unknown}. Write a label index from 0 to "
                f"{len(self.labels) - 1} for each class, or {NONE} for a class without a label"
            )
        if not self.own_words and (unknown := sorted(set(self.index) ^ labels)):
            raise OvssError(
                f"{self.title}: `index` must contain each label index from 0 to {len(self.labels) - 1}, and no other "
                f"number. Missing or invalid: {unknown}. Add each missing label index, and remove each invalid number"
            )
        for part, (vocabulary, index) in (*self.parts.items(), *self.alone.items()):
            if len(vocabulary) != len(index) or set(index) - set(range(len(self.labels))):
                raise OvssError(
                    f"{self.title}: part {part!r} has {len(vocabulary)} classes and the label indices {index}. "
                    f"Write one label index per class, from 0 to {len(self.labels) - 1}"
                )
        if unknown := sorted(set().union(*self.groups.values()) - set(range(len(self.labels)))):
            raise OvssError(
                f"{self.title}: `groups` has unknown label indices: {unknown}. Known: 0 to {len(self.labels) - 1}"
            )
        if any(count < 1 for count in self.counts.values()):
            raise OvssError(f"{self.title}: `counts` must be at least one image per split, found {dict(self.counts)}")

    def question(self, part: str) -> tuple[Vocabulary, tuple[int, ...]]:
        """Return (vocabulary, label index of each class) for the images whose `Item.part` is `part`."""
        return self.parts.get(part, (self.vocabulary, self.index))

    def for_binary(self) -> "Benchmark":
        """Return the benchmark for a method that segments one class at a time.

        If the field `alone` is empty, the benchmark is returned unchanged. Otherwise, the result has other values in
        three fields:

        - `parts`: the value of `alone`. In `alone`, an episode has two classes: background and the class to segment.
        - `vocabulary`: background, then the classes that episodes segment, such as "background", "cat", "dog".
        - `index`: the label index of each class in this vocabulary.
        """
        if not self.alone:
            return self
        (first, (background, _)), *_ = self.alone.values()
        classes = (vocabulary.classes[1] for vocabulary, _ in self.alone.values())
        index = (background, *(labels[1] for _, labels in self.alone.values()))
        vocabulary = Vocabulary((first.classes[0], *classes), first.templates)
        return replace(self, parts=self.alone, vocabulary=vocabulary, index=index)

    @property
    def asks(self) -> str:
        """Sentence for the report that states which classes each episode segments; empty without episodes."""
        if not self.alone:
            return ""
        if self.parts == self.alone:
            return "each episode asks for its class alone; the rest is background"
        return "each episode asks for its class among other names, which count as background"
