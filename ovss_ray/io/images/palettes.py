"""Detection of label files whose palettes contradict each other: a colour has different indices in two files.

Some programs, such as pngquant and GIMP, renumber the colours of each file to save space. Afterwards, colours still
identify classes, but indices do not.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ovss_ray.io.images.label_files import stored
from ovss_ray.structures.findings import Fault


@dataclass(frozen=True)
class Shown:
    """Palette of a label file, and the palette indices that occur in the file."""

    file: str
    colours: tuple[tuple[int, ...], ...]
    """red, green and blue of each index"""
    used: tuple[int, ...]
    """indices that occur in the file, sorted"""

    def otherwise(self, index: int, colour: tuple[int, ...]) -> bool:
        """Return True unless the palette assigns the colour `colour` to the index `index`."""
        return index >= len(self.colours) or self.colours[index] != colour


def read(data: bytes, name: str) -> Shown | None:
    """Return a label file's palette, and the palette indices that occur in its pixels; None without a palette.

    Raises OvssError for a damaged, lossy or ambiguous file (see `label_files.stored`).
    """
    samples, palette = stored(data, name)
    if palette is None:
        return None
    used = tuple(index for index in np.unique(samples).tolist() if index < len(palette))
    return Shown(name, tuple(map(tuple, palette.tolist())), used)


def verdict(shown: Iterable[Shown]) -> Iterator[Fault]:
    """Yield at most one Fault, for the first colour that has different indices in two files."""
    first: dict[tuple[int, ...], tuple[int, Shown]] = {}
    for palette in shown:
        for index in palette.used:
            colour = palette.colours[index]
            number, other = first.setdefault(colour, (index, palette))
            # If a palette was never filled, all its indices have the same colour. This is not a contradiction.
            if number != index and other.otherwise(index, colour) and palette.otherwise(number, colour):
                yield Fault(
                    f"the colour {list(colour)} is index {number} in {other.file}, but index {index} in {palette.file}",
                    cause="a program that renumbers the colours of each file to save space, so that indices have no "
                    "meaning. If the colours are right, write `encoding: rgb` and a table `colours`",
                )
                return
