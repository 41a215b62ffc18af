"""The time that stages take for images of some size, and the largest image that can be answered in time."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

LARGE = 200_000
"""Minimum number of pixels in a batch whose duration updates the pace; times of smaller batches are too imprecise"""
WEIGHT = 0.5
"""Weight of a new batch, 0 to 1, when the batch updates `Pace.factor`. The old factor has the weight 1 − WEIGHT"""
HALF = 60.0
"""Seconds in which `Pace.factor` moves halfway to 1, such as from 3 to 2, if no large batch comes"""
SHARE = 0.7
"""Fraction of the time limit that the stages may take; the rest is for decoding, waiting and writing the answer"""
LEAST = 250_000
"""Number of pixels up to which an image is never refused because of a slow pace"""


@dataclass(frozen=True)
class Pace:
    """Seconds for one image: `factor` · (`fixed` + `each` · megapixels). Measured batches update `factor`."""

    fixed: float
    each: float
    factor: float = 1.0
    """slowness: 1 if images take `fixed` + `each` · megapixels, 2 if images take twice as long"""
    when: float = 0.0
    """time.monotonic() of the latest batch from which the factor was learned"""

    def seconds(self, images: int, pixels: int) -> float:
        """Return the seconds for a batch of `images` images with `pixels` pixels in all, as if `factor` were 1."""
        return images * self.fixed + self.each * pixels / 1e6

    def now(self) -> "Pace":
        """Return the pace at the present time: `factor` moves towards 1 while no batch updates `factor`.

        HALF seconds after the latest update, `factor` has moved halfway to 1.
        """
        age = time.monotonic() - self.when
        return replace(self, factor=1 + (self.factor - 1) * 0.5 ** (age / HALF))

    def learned(self, images: int, pixels: int, seconds: float) -> "Pace":
        """Return the pace, updated by the `seconds` of a batch.

        A batch with fewer than LARGE pixels changes nothing. If `fixed` and `each` are 0, the pace never changes.
        """
        expected = self.seconds(images, pixels)
        if pixels < LARGE or not expected:
            return self
        factor = (1 - WEIGHT) * self.now().factor + WEIGHT * seconds / expected
        return replace(self, factor=factor, when=time.monotonic())

    def pixels(self, seconds: float, most: int) -> int:
        """Return the number of pixels of the largest image whose stages take at most SHARE · `seconds`.

        A number below LEAST becomes LEAST. Then a number above `most` becomes `most`. If `each` is 0, return `most`.
        """
        room, each = SHARE * seconds - self.factor * self.fixed, self.factor * self.each
        return min(most, max(LEAST, int(1e6 * room / each))) if each else most


def slowest(paces: Iterable[Pace]) -> Pace | None:
    """Return a new pace that is at least as slow as each of the paces; None: there are no paces.

    The factor of the new pace is 1.
    """
    current = list(paces)
    if not current:
        return None
    return Pace(max(pace.factor * pace.fixed for pace in current), max(pace.factor * pace.each for pace in current))
