"""Whether labels lie where their names say: the sky above, the road below, grass greener than the rest of the image.

Labels of another class order, or moved by one, are numbers like any others; only the photograph contradicts them. A
class whose name is in one of the tables below has a vote in every image that shows it; what the votes say of the labels
as they are is compared with what they would say if the labels had been moved, swapped or ordered otherwise.

Letters: H W pixels, K labels. A meaning is (K,) int64: label index in the file → index of the class that it stands for,
-1 for none.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ovss_ray.columns import IGNORE
from ovss_ray.faults import Fault

ABOVE = {"sky", "ceiling", "clouds"}
BELOW = {
    *("road", "street", "floor", "ground", "grass", "sidewalk", "pavement", "earth", "sand", "field", "carpet", "rug"),
    *("sea", "snow", "runway", "path", "dirt track", "terrain", "water", "river", "playingfield", "gravel", "mud"),
}
GREEN = {
    *("tree", "trees", "grass", "plant", "bush", "vegetation", "low vegetation", "crop", "weed", "leaves", "hedge"),
    *("palm", "forest"),
}
SMALL, LARGE = 0.01, 0.6
"""The least part of an image that a class must cover to have a vote, and the most to have one about its place."""
GREENER = 0.02
"""Differences of green below this are no sign: trees against a grey sky."""
INFRARED = 0.15
"""Classes that are redder by so much have no vote: aerial photographs show infrared, where plants shine, as red."""
STRIDE = 3
"""Every third row and column is looked at."""
VOTES, SOME, MANY = 3, 8, 20
"""The fewest votes that say anything; for a fault if another meaning fits better; for a fault if none does."""
CLEARER = 4
"""By how many votes moved labels must be ahead where a class at the end of the list is missing altogether."""
ALIKE = 3
"""Meanings that are named, at most, where several fit alike."""
BAD, GOOD, BETTER, NEAR = 0.5, 0.75, 0.3, 0.1
"""Share of votes for the labels at which they are doubted; that another meaning needs; by how much it must win; and by
how much a likelier mistake may lie behind the best one."""


@dataclass(frozen=True)
class Look:
    """What the classes of one image look like."""

    labels: np.ndarray
    """(n,) int64: the label indices that are large enough"""
    rows: np.ndarray
    """(n,) float64: the mean row of each, 0 at the top and 1 at the bottom; NaN where it covers most of the image"""
    green: np.ndarray
    """(n,) float64: how much greener than the image each is: (2 G - R - B) / (R + G + B); NaN where far redder"""


def look(image: np.ndarray, truth: np.ndarray, labels: int) -> Look:
    """Measure the classes of an image (H, W, 3) uint8 whose label map is (H, W) uint16 with `labels` labels."""
    image, truth = image[::STRIDE, ::STRIDE], truth[::STRIDE, ::STRIDE]
    known = truth != IGNORE
    flat = truth[known].astype(np.int64)
    red, green, blue = (image[..., channel].astype(np.float64) for channel in range(3))
    greenness, redness = ((3 * channel - red - green - blue) / (red + green + blue + 1) for channel in (green, red))
    rows = np.broadcast_to(np.linspace(0, 1, len(truth))[:, None], truth.shape)
    areas = np.bincount(flat, minlength=labels)
    shown = np.flatnonzero(areas >= max(1, SMALL * truth.size))
    mean_rows = np.bincount(flat, rows[known], labels)[shown] / areas[shown]
    greener, redder = (
        np.bincount(flat, values[known], labels)[shown] / areas[shown] - float(values.mean())
        for values in (greenness, redness)
    )
    places = np.where(areas[shown] > LARGE * truth.size, np.nan, mean_rows)
    return Look(shown, places, np.where(redder > INFRARED, np.nan, greener))


class Jury:
    """Knows what the names of K classes say about looks."""

    def __init__(self, names: Sequence[str]) -> None:
        words = [_words(name) for name in names]
        self.names = names
        # Seen from the air, roads and water lie anywhere: a list without anything above them says nothing of places.
        upright = any(some & ABOVE for some in words)
        self.place = np.array([upright * (bool(some & BELOW) - bool(some & ABOVE)) for some in words])
        self.green = np.array([bool(some & GREEN) for some in words])

    def votes(self, looks: Sequence[Look], meaning: np.ndarray) -> tuple[float, int]:
        """The share of votes for a meaning of the labels, and how many votes there are."""
        given = [self._given(one, meaning[one.labels]) for one in looks]
        every = np.concatenate([np.zeros(0, bool), *given])
        return float(every.mean()) if len(every) else 1.0, len(every)

    def _given(self, one: Look, classes: np.ndarray) -> np.ndarray:
        named = classes >= 0
        place, green = np.where(named, self.place[classes], 0), np.where(named, self.green[classes], False)
        asked = (place != 0) & ~np.isnan(one.rows)
        green &= np.abs(one.green) > GREENER
        return np.concatenate([(one.rows[asked] > 0.5) == (place[asked] > 0), one.green[green] > 0])

    def verdict(self, looks: Sequence[Look], orders: Mapping[str, Sequence[int]]) -> list[Fault]:
        """Say what is wrong with labels that do not look like their names, if anything is.

        `orders` are other orders of the same classes: what they are called → label index → class index. Few signs are
        no more than a hint.
        """
        own = np.arange(len(self.names))
        share, count = self.votes(looks, own)
        if count < VOTES or share > BAD:
            return []
        tried = [(*self.votes(looks, meaning), said) for said, meaning in self._others(looks, own, orders)]
        likely = [(found, said) for found, n, said in tried if n >= max(VOTES, count / 2)]
        best = max((found for found, _ in likely), default=0.0)
        many = count >= (SOME if best >= max(GOOD, share + BETTER) else MANY)
        told = (
            f"the labels {'do' if many else 'may'} not look like their names: only {share:.0%} of {count} signs speak "
            f"for them as they are ({self._example(looks)})"
        )
        if best < max(GOOD, share + BETTER):
            return [Fault(f"{told}; no other order that was tried fits better", sure=many)]
        found, said = next((found, said) for found, said in likely if found >= best - NEAR)
        alike = [other for share, other in likely if share == best and other != said][: ALIKE - 1]
        return [Fault(f"{told}, and {found:.0%} for this: {'; or: '.join([said, *alike])}", sure=many)]

    def moved(self, looks: Sequence[Look], step: int) -> bool:
        """Return whether the signs speak clearly for labels that were moved by `step` rather than for them as they are.

        Votes for less those against are compared, since moved labels lose most of their signs and not only some.
        """
        own = np.arange(len(self.names))
        meaning = np.where((own - step >= 0) & (own - step < len(own)), own - step, -1)
        (share, count), (moved_share, moved_count) = self.votes(looks, own), self.votes(looks, meaning)
        gain = (2 * moved_share - 1) * moved_count - (2 * share - 1) * count
        return moved_share >= GOOD and gain >= CLEARER

    def _others(
        self, looks: Sequence[Look], own: np.ndarray, orders: Mapping[str, Sequence[int]]
    ) -> Iterator[tuple[str, np.ndarray]]:
        """What else labels may mean, the likeliest mistakes first."""
        yield "the labels were not shifted by one (0 is still 'other')", own - 1
        yield "the labels were shifted by one once too often", np.where(own + 1 < len(own), own + 1, -1)
        for said, meaning in orders.items():
            yield f"the labels are in the order of {said}", np.asarray(meaning)
        shown = sorted({int(label) for one in looks for label in one.labels})
        doubtful = [label for label in shown if self.place[label] or self.green[label]]
        for first in doubtful:
            for second in (label for label in shown if label != first):
                swapped = own.copy()
                swapped[[first, second]] = second, first
                yield f"{self.names[first]!r} and {self.names[second]!r} are swapped", swapped

    def _example(self, looks: Iterable[Look]) -> str:
        """One sign against the labels, in words."""
        for one in looks:
            for label, row, green in zip(one.labels.tolist(), one.rows.tolist(), one.green.tolist(), strict=True):
                if self.place[label] and (row > 0.5) != (self.place[label] > 0) and not np.isnan(row):
                    return f"{self.names[label]!r} lies in the {'upper' if row <= 0.5 else 'lower'} half"
                if self.green[label] and green < -GREENER:
                    return f"{self.names[label]!r} is less green than the rest"
        return "no example"


def _words(name: str) -> set[str]:
    """The synonyms of a class name, and of each what stands before a hyphen, as COCO writes them."""
    synonyms = {one.strip().lower() for one in name.split(",")}
    return synonyms | {one.partition("-")[0] for one in synonyms}
