"""Synthetic scenes: photograph-like images with exact labels, drawn by this project from a seed.

A scene shows things on surfaces. There are 10 surfaces, such as "grass". A thing, such as a "striped red star", has one
of 10 colours, 4 patterns and 8 shapes. 32 of these 320 combinations never occur in training scenes. The benchmarks
differ in their classes. Each benchmark has 256 scenes for validation and 1024 scenes for testing:

    scenes:seen       the surfaces, and 32 combinations that occur in training
    scenes:held-out   the surfaces, and the 32 combinations that never occur in training
    scenes:all        the surfaces and all 320 combinations
    scenes:847        the classes and scenes of scenes:all, and 517 names of things that occur in no scene
    scenes:instances  the classes and scenes of scenes:seen, with a mask per thing, for methods that are prompted

In scenes:instances, things with fewer than 64 visible pixels are left out, and surfaces are ignored in the label map.

Two benchmarks evaluate one class at a time:

    scenes:episodes             scenes of scenes:seen
    scenes:episodes-held-out    scenes of scenes:held-out, whose things occur in no training scene

An episode is a scene and one class in the scene. All other classes of the scene are background. If the class is
completely hidden, all pixels of the episode are ignored. Methods that segment all classes at once get all 42 class
names of 10 surfaces and 32 things.

The address of an image is scenes://VOCABULARY/SPLIT/NUMBER.png, such as scenes://seen/validation/0017.png. VOCABULARY
is seen, held-out, all or 847. The label file of this image is scenes://seen/validation/0017_labels.png. The instance
file is scenes://seen/validation/0017_instances.png (see `instance_map`). The files are drawn when they are read, on any
machine. Nothing is downloaded, and no data root is needed.
"""

import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import product
from typing import Any

import numpy as np
from fsspec.spec import AbstractFileSystem

from ovss_ray.benchmarks import episodes
from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.benchmarks.conversion import encode
from ovss_ray.benchmarks.labels import look_up, value_table
from ovss_ray.benchmarks.layout import split_folder
from ovss_ray.benchmarks.listing import Item
from ovss_ray.datasets.scenes.instances import of_instances
from ovss_ray.datasets.scenes.patterns import NAMED
from ovss_ray.datasets.scenes.scene import COLOURS, Scene, Thing, draw, surfaces_of
from ovss_ray.datasets.scenes.shapes import SHAPES
from ovss_ray.datasets.scenes.surfaces import SURFACES
from ovss_ray.io import images
from ovss_ray.structures.vocabulary import Vocabulary

SPLITS = {"validation": 256, "test": 1024}
THINGS = (3, 7)
"""Range of the number of things in a scene, end exclusive."""
HEIGHTS, WIDTHS = (208, 305), (256, 385)
"""Ranges of the height and of the width of a scene, in pixels. The ends are exclusive. The mean size is 256 × 320."""
ABSENT = ("anchor", "arrow", "boat", "bottle", "chair", "cup", "fish", "hat", "key", "ladder", "lamp", "leaf", "spoon")
"""Shapes that occur in no scene. They are part of the names of scenes:847."""

COMBINATIONS = tuple(Thing(*parts) for parts in product(COLOURS, NAMED, SHAPES))


def _group_of_ten(thing: Thing) -> int:
    """Return the group, 0 to 9, of a combination of colour, pattern and shape. Training scenes never show group 0."""
    # Each group has 32 combinations: one colour for each pair of pattern and shape.
    colour, pattern, shape = list(COLOURS), list(NAMED), list(SHAPES)
    return (colour.index(str(thing.colour)) + 3 * pattern.index(str(thing.pattern)) + 7 * shape.index(thing.shape)) % 10


HELD_OUT = tuple(thing for thing in COMBINATIONS if _group_of_ten(thing) == 0)
SEEN = tuple(thing for thing in COMBINATIONS if _group_of_ten(thing) == 5)
TRAINED = tuple(thing for thing in COMBINATIONS if thing not in HELD_OUT)
OCCURRING = {"seen": SEEN, "held-out": HELD_OUT, "all": COMBINATIONS, "847": COMBINATIONS}
"""Name of a vocabulary → things that may occur in its scenes."""


def name(content: str | Thing) -> str:
    """Return the class name of a surface or thing. A random colour or pattern (None) is not part of the name."""
    return content if isinstance(content, str) else " ".join(word for word in words(content) if word)


def words(thing: Thing) -> tuple[str | None, str | None, str]:
    """Return the words for pattern, colour and shape of a thing. A random pattern or colour gives None."""
    return thing.pattern, thing.colour, thing.shape


def absent_names() -> list[str]:
    """Return the 517 names of things that occur in no scene. With the 330 names of scenes:all, they are 847 names."""
    names = (f"{pattern} {colour} {shape}" for shape, colour, pattern in product(ABSENT, COLOURS, NAMED))
    return list(names)[: 847 - len(SURFACES) - len(COMBINATIONS)]


def scene(occurring: Sequence[Thing], key: str, number: int, size: tuple[int, int] | None = None) -> Scene:
    """Draw a scene with random things from `occurring`. Equal arguments give bit-identical scenes.

    `key` and `number`, such as "seen/test" and 17, are the random seed. `size` is (H, W) in pixels. If `size` is
    None, the size is random.
    """
    drawn, drawn_size = _begun(key, number)
    things = _things(drawn, occurring)
    return draw(drawn, size or drawn_size, things)


def class_names(occurring: Sequence[Thing], key: str, number: int) -> list[str]:
    """Return the names of all classes in a scene without drawing the scene. Hidden surfaces and things are included."""
    drawn, _ = _begun(key, number)
    things = _things(drawn, occurring)
    return list(dict.fromkeys([*surfaces_of(drawn), *map(name, things)]))


def _things(drawn: np.random.Generator, occurring: Sequence[Thing]) -> list[Thing]:
    """Choose the things of a scene from `occurring`. `drawn`: the random generator that `_begun` returns."""
    indices = drawn.integers(0, len(occurring), int(drawn.integers(*THINGS)))
    return [occurring[i] for i in indices]


def _begun(key: str, number: int) -> tuple[np.random.Generator, tuple[int, int]]:
    """Return the random generator of a scene, and the random size (H, W) of the scene in pixels."""
    drawn = np.random.default_rng([zlib.crc32(key.encode()), number])
    return drawn, (int(drawn.integers(*HEIGHTS)), int(drawn.integers(*WIDTHS)))


# Latest scenes are cached, since a process often reads an image and then the labels of the image.
@lru_cache(16)
def of_address(address: str) -> tuple[Scene, str]:
    """Return the scene of an address VOCABULARY/SPLIT/NUMBER, and the vocabulary's name.

    Raises FileNotFoundError for an invalid address.
    """
    vocabulary, key, number = _parsed(address)
    return scene(OCCURRING[vocabulary], key, number), vocabulary


def size(uri: str) -> tuple[int, int]:
    """Return H, W in pixels of the scene scenes://VOCABULARY/SPLIT/NUMBER.png, without drawing it."""
    return _begun(*_parsed(uri.removeprefix("scenes://").removesuffix(".png"))[1:])[1]


def _parsed(address: str) -> tuple[str, str, int]:
    """Return (vocabulary, series, number): ("seen", "seen/test", 17) for the address "seen/test/0017".

    Raises FileNotFoundError for an invalid address.
    """
    vocabulary, split, number = [*address.split("/"), "", ""][:3]
    if vocabulary not in OCCURRING or split not in SPLITS or not number.isdigit():
        raise FileNotFoundError(f"no scene {address!r}; a valid address is scenes://seen/validation/17.png")
    return vocabulary, f"{'all' if vocabulary == '847' else vocabulary}/{split}", int(number)


def label_map(drawn: Scene, vocabulary: Vocabulary) -> np.ndarray:
    """Return the label map of a scene, (H, W) uint16: indices into the names of a vocabulary."""
    classes = [vocabulary.names.index(name(content)) for content in drawn.contents]
    return np.array(classes, np.uint16)[drawn.regions]


def instance_map(drawn: Scene, vocabulary: Vocabulary) -> np.ndarray:
    """Return the instance map of a scene, (H, W) uint16.

    Thing n of the scene, counted from 1, has the value 1000 · n + class index. Surfaces have the value 0.
    """
    things = [number for number, content in enumerate(drawn.contents) if isinstance(content, Thing)]
    values = np.zeros(len(drawn.contents), np.uint16)
    for place, number in enumerate(things, 1):
        values[number] = 1000 * place + vocabulary.names.index(name(drawn.contents[number]))
    return values[drawn.regions]


class Files(AbstractFileSystem):
    """File system of scenes://…, whose files are drawn when they are read."""

    protocol = "scenes"
    cachable = True

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """Return name, size and type of a file. Raises FileNotFoundError for an invalid address."""
        path = self._strip_protocol(path)
        return {"name": path, "size": len(_file(path)), "type": "file"}

    def _open(self, path: str, mode: str = "rb", **options: Any) -> io.BytesIO:
        return io.BytesIO(_file(self._strip_protocol(path)))


# Readers request the size of a file before the content, and the size is known only after drawing.
@lru_cache(128)
def _file(path: str) -> bytes:
    """Return the content of an image, label or instance file, 100 to 350 KB."""
    stem = path.removesuffix(".png")
    stem, _, kind = stem.partition("_")
    drawn, vocabulary = of_address(stem)
    if not kind:
        return encode(drawn.image, compress_level=0)
    draw_labels = {"labels": label_map, "instances": instance_map}.get(kind)
    if draw_labels is None:
        raise FileNotFoundError(f"no file {path!r}; a valid address is scenes://seen/validation/17_labels.png")
    return encode(draw_labels(drawn, BENCHMARKS[vocabulary].vocabulary), compress_level=0)


def truth(item: Item, data: bytes) -> np.ndarray:
    """Decode the label file of a scene to labels (H, W) uint16. Raises OvssError for an invalid file."""
    return look_up(images.decode_labels(data, item.truth), value_table(847), item.truth)


def _benchmark(vocabulary: str, title: str, names: Sequence[str]) -> Benchmark:
    def items(root: str, split: str) -> list[Item]:
        folder = f"scenes://{vocabulary}/{split_folder(split, {name: name for name in SPLITS})}"
        stems = [f"{number:04d}" for number in range(SPLITS[split])]
        return [Item(stem, f"{folder}/{stem}.png", f"{folder}/{stem}_labels.png") for stem in stems]

    return Benchmark(
        title=title,
        domain="drawn",
        licence="Apache-2.0, as the project that draws them",
        source="drawn by ovss_ray.datasets.scenes",
        counts=SPLITS,
        vocabulary=Vocabulary.of([*SURFACES, *names]),
        items=items,
        truth=truth,
        size=size,
        split="validation",
        drawn=True,
        groups={
            "surfaces": tuple(range(len(SURFACES))),
            "things": tuple(range(len(SURFACES), len(SURFACES) + len(names))),
        },
    )


def _episodes(series: str, title: str, counts: Mapping[str, int]) -> Benchmark:
    """Return a benchmark with an episode for each class in each scene of BENCHMARKS[series].

    The labels of the benchmark are the class names of BENCHMARKS[series], followed by "background". `counts` has the
    number of episodes of each split.
    """
    scenes = BENCHMARKS[series]
    names, last = scenes.vocabulary.names, len(scenes.vocabulary)

    def items(root: str, split: str) -> list[Item]:
        return [
            Item(f"{item.image_id}__{names.index(part):02}", item.image, item.truth, part)
            for number, item in enumerate(scenes.items(root, split))
            for part in sorted(class_names(OCCURRING[series], f"{series}/{split}", number), key=names.index)
        ]

    def index(label: int) -> tuple[int, ...]:
        return tuple(label if i == label else last for i in range(last))

    return replace(
        scenes,
        title=title,
        domain="drawn, one class at a time",
        counts=counts,
        vocabulary=Vocabulary((*scenes.vocabulary.classes, episodes.BACKGROUND)),
        index=(*range(last), last),
        labels=(*names, *episodes.BACKGROUND),
        parts={part: (scenes.vocabulary, index(label)) for label, part in enumerate(names)},
        alone={part: (Vocabulary((episodes.BACKGROUND, (part,))), (last, label)) for label, part in enumerate(names)},
        items=items,
        truth=partial(episodes.truth, {part: label for label, part in enumerate(names)}, last - 1),
        groups={"foreground": tuple(range(last)), **scenes.groups, "background": (last,)},
    )


_SEEN = _benchmark("seen", "Drawn scenes, combinations seen in training", [*map(name, SEEN)])
BENCHMARKS = {
    "seen": _SEEN,
    "held-out": _benchmark("held-out", "Drawn scenes, combinations never seen", [*map(name, HELD_OUT)]),
    "all": _benchmark("all", "Drawn scenes, all combinations", [*map(name, COMBINATIONS)]),
    "847": _benchmark("847", "Drawn scenes, 847 names", [*map(name, COMBINATIONS), *absent_names()]),
    "instances": of_instances(_SEEN),
}
BENCHMARKS |= {
    "episodes": _episodes("seen", "Drawn scenes, one class at a time", {"validation": 1742, "test": 6893}),
    "episodes-held-out": _episodes(
        "held-out", "Drawn scenes, one class at a time, combinations never seen", {"validation": 1744, "test": 6891}
    ),
}
