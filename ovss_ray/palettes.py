"""Palettes of label files that disagree: one colour is another index in another file.

Programs that make files small (ImageMagick, GIMP, pngquant, Pillow's quantize) number the colours of each file anew.
Colours then still mean the classes, and indices mean nothing.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ovss_ray.faults import Fault
from ovss_ray.label_files import stored


@dataclass(frozen=True)
class Shown:
    """The palette of a label file, and which of its indices occur."""

    file: str
    colours: tuple[tuple[int, ...], ...]
    """red, green and blue of each index"""
    used: tuple[int, ...]
    """indices that occur, sorted"""

    def otherwise(self, index: int, colour: tuple[int, ...]) -> bool:
        """Whether an index stands for another colour here, or for none."""
        return index >= len(self.colours) or self.colours[index] != colour


def read(data: bytes, name: str) -> Shown | None:
    """Read the palette of a label file; None if it has none. Raises OvssError as `images.decode_labels` does."""
    samples, palette = stored(data, name)
    if palette is None:
        return None
    used = tuple(index for index in np.unique(samples).tolist() if index < len(palette))
    return Shown(name, tuple(map(tuple, palette.tolist())), used)


def verdict(shown: Iterable[Shown]) -> Iterator[Fault]:
    """Find the first colour that is one index in one file and another index in another file."""
    first: dict[tuple[int, ...], tuple[int, Shown]] = {}
    for palette in shown:
        for index in palette.used:
            colour = palette.colours[index]
            number, other = first.setdefault(colour, (index, palette))
            # A palette that was never filled has the same colour at all indices: that is no disagreement.
            if number != index and other.otherwise(index, colour) and palette.otherwise(number, colour):
                yield Fault(
                    f"the colour {list(colour)} is the index {number} in {other.file}, and the index {index} in "
                    f"{palette.file}",
                    cause="a program that numbers the colours of each file anew to save space, so that indices mean "
                    "nothing. If the colours are right, write `encoding: rgb` and a table `colours`",
                )
                return
