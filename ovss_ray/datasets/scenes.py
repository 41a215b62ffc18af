"""Scenes that the project draws itself: photograph-like, with exact labels, from nothing but a number.

Ten surfaces, and things of 10 colours × 4 patterns × 8 shapes, such as "striped red star". 288 of these 320
combinations occur in the scenes that networks are trained on; the other 32 never do, so that whoever names them has
understood the words. A vocabulary, and the things in its 256 scenes:

    scenes:seen       the surfaces, 32 combinations that occur in training
    scenes:held-out   the surfaces, the 32 that do not
    scenes:all        the surfaces and all combinations, which only those can tell apart who see shapes
    scenes:847        those, and 517 names of things that are in no scene; the scenes are those of scenes:all

An image is the file scenes://VOCABULARY/SPLIT/NUMBER.png, its labels are NUMBER_labels.png; `files` has them drawn when
they are read, on whatever machine, so there is nothing to download and no data root.
"""

import io
import zlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from fsspec.spec import AbstractFileSystem
from PIL import Image

from ovss_ray import images
from ovss_ray.datasets.benchmark import Benchmark, look_up, split_folder, value_table
from ovss_ray.drawing.patterns import NAMED
from ovss_ray.drawing.scene import COLOURS, Scene, Thing, draw
from ovss_ray.drawing.shapes import SHAPES
from ovss_ray.drawing.surfaces import SURFACES
from ovss_ray.listing import Item
from ovss_ray.vocabulary import Vocabulary

SPLITS = {"validation": 256, "test": 1024}
THINGS = (3, 7)
"""How many things a scene has, the upper end left out."""
HEIGHTS, WIDTHS = (208, 305), (256, 385)
"""Sizes in pixels, the upper ends left out: around 256 × 320."""
ABSENT = ("anchor", "arrow", "boat", "bottle", "chair", "cup", "fish", "hat", "key", "ladder", "lamp", "leaf", "spoon")
"""Shapes that are in no scene: the 847 names have them as well."""

COMBINATIONS = tuple(Thing(*one) for one in product(COLOURS, NAMED, SHAPES))


def _class_of_ten(thing: Thing) -> int:
    """Cut the combinations into ten parts, in each of which every pattern of every shape has one colour."""
    colour, pattern, shape = list(COLOURS), list(NAMED), list(SHAPES)
    return (colour.index(str(thing.colour)) + 3 * pattern.index(str(thing.pattern)) + 7 * shape.index(thing.shape)) % 10


HELD_OUT = tuple(thing for thing in COMBINATIONS if _class_of_ten(thing) == 0)
SEEN = tuple(thing for thing in COMBINATIONS if _class_of_ten(thing) == 5)
TRAINED = tuple(thing for thing in COMBINATIONS if thing not in HELD_OUT)
OCCURRING = {"seen": SEEN, "held-out": HELD_OUT, "all": COMBINATIONS, "847": COMBINATIONS}
"""Vocabulary → the things in its scenes."""


def name(content: str | Thing) -> str:
    """What a surface or thing is called; a thing without named colour or pattern by its shape alone."""
    return content if isinstance(content, str) else " ".join(word for word in words(content) if word)


def words(thing: Thing) -> tuple[str | None, str | None, str]:
    """Pattern, colour and shape, in the order in which they are said; None where there is no word."""
    return thing.pattern, thing.colour, thing.shape


def absent_names() -> list[str]:
    """Names of things that are in no scene: what makes 847 of the 330 names there are."""
    made = (f"{pattern} {colour} {shape}" for shape, colour, pattern in product(ABSENT, COLOURS, NAMED))
    return list(made)[: 847 - len(SURFACES) - len(COMBINATIONS)]


def scene(occurring: Sequence[Thing], key: str, number: int, size: tuple[int, int] | None = None) -> Scene:
    """Draw scene `number` of a series `key`: the same arguments, the same scene, to the last bit.

    The size (H, W) in pixels is drawn too if it is not given.
    """
    drawn, own = _begun(key, number)
    chosen = drawn.integers(0, len(occurring), int(drawn.integers(*THINGS)))
    return draw(drawn, size or own, [occurring[i] for i in chosen])


def _begun(key: str, number: int) -> tuple[np.random.Generator, tuple[int, int]]:
    """The source of a scene's choices, and the first of them: its size (H, W) in pixels."""
    drawn = np.random.default_rng([zlib.crc32(key.encode()), number])
    return drawn, (int(drawn.integers(*HEIGHTS)), int(drawn.integers(*WIDTHS)))


@lru_cache(16)
def of_address(address: str) -> tuple[Scene, str]:
    """Draw the scene of VOCABULARY/SPLIT/NUMBER, and say which vocabulary that is. Raises FileNotFoundError.

    The last ones are kept: a scene's labels are asked for after its photograph, often by the same process.
    """
    vocabulary, key, number = _parsed(address)
    return scene(OCCURRING[vocabulary], key, number), vocabulary


def size(uri: str) -> tuple[int, int]:
    """H, W in pixels of the scene of scenes://VOCABULARY/SPLIT/NUMBER.png, which is not drawn for it."""
    return _begun(*_parsed(uri.removeprefix("scenes://").removesuffix(".png"))[1:])[1]


def _parsed(address: str) -> tuple[str, str, int]:
    """The vocabulary of an address, and the series and number of its scene. Raises FileNotFoundError."""
    vocabulary, split, number = [*address.split("/"), "", ""][:3]
    if vocabulary not in OCCURRING or split not in SPLITS or not number.isdigit():
        raise FileNotFoundError(f"no scene {address!r}; scenes://seen/validation/17.png is one")
    return vocabulary, f"{'all' if vocabulary == '847' else vocabulary}/{split}", int(number)


def label_map(drawn: Scene, vocabulary: Vocabulary) -> np.ndarray:
    """The classes of a scene's regions in a vocabulary: (H, W) uint16."""
    classes = [vocabulary.names.index(name(content)) for content in drawn.contents]
    return np.array(classes, np.uint16)[drawn.regions]


class Files(AbstractFileSystem):
    """The files scenes://…: drawn when they are read."""

    protocol = "scenes"
    cachable = True

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """Size and kind of a file. Raises FileNotFoundError."""
        path = self._strip_protocol(path)
        return {"name": path, "size": len(_file(path)), "type": "file"}

    def _open(self, path: str, mode: str = "rb", **options: Any) -> io.BytesIO:
        return io.BytesIO(_file(self._strip_protocol(path)))


@lru_cache(128)
def _file(path: str) -> bytes:
    """A file's content, some 250 KB; kept a while, since whoever reads a file asks for its size first."""
    stem = path.removesuffix(".png")
    drawn, vocabulary = of_address(stem.removesuffix("_labels"))
    labels = stem.endswith("_labels")
    content = label_map(drawn, BENCHMARKS[vocabulary].vocabulary) if labels else drawn.image
    Image.fromarray(content).save(file := io.BytesIO(), "PNG", compress_level=0)
    return file.getvalue()


def truth(item: Item, data: bytes) -> np.ndarray:
    """Decode a label file to (H, W) uint16. Raises OvssError."""
    return look_up(images.decode_labels(data, item.truth), value_table(847), item.truth)


def _benchmark(vocabulary: str, title: str, names: Sequence[str]) -> Benchmark:
    def items(root: str, split: str) -> list[Item]:
        folder = f"scenes://{vocabulary}/{split_folder(split, {one: one for one in SPLITS})}"
        stems = [f"{number:04d}" for number in range(SPLITS[split])]
        return [Item(stem, f"{folder}/{stem}.png", f"{folder}/{stem}_labels.png") for stem in stems]

    return Benchmark(
        title=title,
        domain="drawn",
        licence="Apache-2.0, as the project that draws them",
        source="drawn by ovss_ray.drawing",
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


BENCHMARKS = {
    "seen": _benchmark("seen", "Drawn scenes, combinations seen in training", [*map(name, SEEN)]),
    "held-out": _benchmark("held-out", "Drawn scenes, combinations never seen", [*map(name, HELD_OUT)]),
    "all": _benchmark("all", "Drawn scenes, all combinations", [*map(name, COMBINATIONS)]),
    "847": _benchmark("847", "Drawn scenes, 847 names", [*map(name, COMBINATIONS), *absent_names()]),
}
