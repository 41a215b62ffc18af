"""Test whether the pixels of each label look like the class name: sky above, road below, grass greener than the rest.

If label files number the classes in another order than the class list, every label value is still valid. Only the
photographs show this mistake. So each class with a usual position or colour votes in each image. The vote is for the
labels if the class has its usual position or colour in the image. Otherwise the vote is against the labels.

The test also tries possible mistakes, such as a shift of the labels by one. A mistake is described by an array
`meaning`, (K,) int64. Element i of `meaning` is the index of the class that pixels of label i show. If pixels of label
i show none of the K classes, element i is -1. For correct labels, element i is i.

Dimensions: H W pixels, K labels, n labels in an image.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ovss_ray.structures.columns import IGNORE
from ovss_ray.structures.findings import Fault

ABOVE = {"sky", "ceiling", "clouds"}
"""Names of classes that are usually in the upper half of an image."""
BELOW = {
    *("road", "street", "floor", "ground", "grass", "sidewalk", "pavement", "earth", "sand", "field", "carpet", "rug"),
    *("sea", "snow", "runway", "path", "dirt track", "terrain", "water", "river", "playingfield", "gravel", "mud"),
}
"""Names of classes that are usually in the lower half of an image."""
GREEN = {
    *("tree", "trees", "grass", "plant", "bush", "vegetation", "low vegetation", "crop", "weed", "leaves", "hedge"),
    *("palm", "forest"),
}
"""Names of classes that are usually greener than the rest of an image."""
SMALL = 0.01
"""Minimum share of an image that a class must cover to vote for or against the labels."""
LARGE = 0.6
"""Share of an image above which a class does not vote by its position."""
GREENER = 0.02
"""Minimum absolute value of `ClassStats.green`. A class with a smaller absolute value does not vote by its colour."""
# Some aerial photographs show infrared as red, so their plants are red.
INFRARED = 0.15
"""Maximum excess redness of a class. A class with a larger excess redness does not vote by its colour.

The excess redness of a class is the redness of the class minus the redness of the image. Redness is the mean of
(2 R - G - B) / (R + G + B + 1).
"""
STRIDE = 3
"""Step, in pixels, between the rows and between the columns that are evaluated."""
VOTES = 3
"""Minimum number of votes; with fewer votes, the labels are not judged."""
SOME = 8
"""Minimum number of votes to set `Fault.sure` of a fault with a known cause, such as shifted labels."""
MANY = 20
"""Minimum number of votes to set `Fault.sure` of a fault without a known cause."""
CLEARER = 4
"""Minimum lead, in votes, of shifted labels over unchanged labels to report a shift (see `PlausibilityTest.moved`)."""
ALIKE = 3
"""Maximum number of possible causes of a fault, such as a shift by one, that the fault's message lists."""
BAD = 0.5
"""The labels are judged implausible if at most this share of the votes is for them."""
GOOD = 0.75
"""Another order or shift of the labels is suggested only if at least this share of the votes supports it."""
BETTER = 0.3
"""Minimum lead at which another order or shift of the labels is suggested.

The lead is the share of votes for the suggestion minus the share of votes for the unchanged labels.
"""
NEAR = 0.1
"""Maximum difference between two shares of votes that count as nearly equal.

Each possible mistake in the labels (see `_others`) has a share: the fraction of votes for the corrected labels. The
first mistake of `_others` is suggested whose share nearly equals the highest share.
"""


@dataclass(frozen=True)
class ClassStats:
    """Position and colour of the classes in one image."""

    labels: np.ndarray
    """(n,) int64: indices of the labels that cover enough of the image"""
    rows: np.ndarray
    """(n,) float64: mean row of each label, 0 = top, 1 = bottom; NaN if the label covers most of the image"""
    green: np.ndarray
    """(n,) float64: greenness of each label's pixels minus greenness of the image

    Greenness is the mean of (2 G - R - B) / (R + G + B + 1). If a label's pixels are much redder than the image (see
    INFRARED), the element of this label is NaN.
    """


def look(image: np.ndarray, truth: np.ndarray, labels: int) -> ClassStats:
    """Return the position and colour of each label that covers enough of an image (see SMALL).

    `image`: (H, W, 3) uint8. `truth`: the label map of the image, (H, W) uint16. `labels`: the number of labels, K.
    """
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
    return ClassStats(shown, places, np.where(redder > INFRARED, np.nan, greener))


class PlausibilityTest:
    """Test whether labels have the position and colour that are usual for their class names."""

    def __init__(self, names: Sequence[str]) -> None:
        words = [_words(name) for name in names]
        self.names = names
        # In aerial images, roads and water lie anywhere, so a list without classes above them has no positions.
        upright = any(synonyms & ABOVE for synonyms in words)
        self.place = np.array([upright * (bool(synonyms & BELOW) - bool(synonyms & ABOVE)) for synonyms in words])
        self.green = np.array([bool(synonyms & GREEN) for synonyms in words])

    def votes(self, looks: Sequence[ClassStats], meaning: np.ndarray) -> tuple[float, int]:
        """Return the share of votes for the assumption `meaning`, and the number of all votes.

        The assumption is that pixels of label i show the class `meaning[i]`. `meaning`: (K,) int64, indices of classes;
        -1 for no class. If there are no votes, the share is 1.
        """
        image_votes = [self._image_votes(stats, meaning[stats.labels]) for stats in looks]
        every = np.concatenate([np.zeros(0, bool), *image_votes])
        return float(every.mean()) if len(every) else 1.0, len(every)

    def _image_votes(self, stats: ClassStats, classes: np.ndarray) -> np.ndarray:
        """Return the votes of one image as a bool array.

        The votes test the assumption that pixels of the label `stats.labels[j]` show the class `classes[j]`. A class
        with a usual position, such as "sky", gives one vote: whether the label has this position. A class with a usual
        colour gives one vote: whether the label has this colour. Other classes give no vote.

        `classes`: (n,) int64, indices of classes. For -1, no class is assumed, and there is no vote.
        """
        named = classes >= 0
        place, green = np.where(named, self.place[classes], 0), np.where(named, self.green[classes], False)
        placed = (place != 0) & ~np.isnan(stats.rows)
        green &= np.abs(stats.green) > GREENER
        return np.concatenate([(stats.rows[placed] > 0.5) == (place[placed] > 0), stats.green[green] > 0])

    def verdict(self, looks: Sequence[ClassStats], orders: Mapping[str, Sequence[int]]) -> list[Fault]:
        """Return a list with one fault if the labels do not match their names; else an empty list.

        `orders`: name of another class order → indices of the K classes in this order. For example, [2, 0, 1]
        means: if the label files have this order, pixels of label 0 show class 2.
        """
        unchanged = np.arange(len(self.names))
        share, count = self.votes(looks, unchanged)
        if count < VOTES or share > BAD:
            return []
        others = self._others(looks, unchanged, orders)
        tried = [(*self.votes(looks, meaning), description) for description, meaning in others]
        likely = [(support, description) for support, n, description in tried if n >= max(VOTES, count / 2)]
        best = max((support for support, _ in likely), default=0.0)
        many = count >= (SOME if best >= max(GOOD, share + BETTER) else MANY)
        message = (
            f"the labels {'do' if many else 'may'} not look like their names: only {share:.0%} of {count} votes are "
            f"for them ({self._example(looks)})"
        )
        if best < max(GOOD, share + BETTER):
            return [Fault(f"{message}; no other order that was tried fits better", sure=many)]
        support, description = next(pair for pair in likely if pair[0] >= best - NEAR)
        alike = [other for share, other in likely if share == best and other != description][: ALIKE - 1]
        return [Fault(f"{message}, and {support:.0%} for this: {'; or: '.join([description, *alike])}", sure=many)]

    def moved(self, looks: Sequence[ClassStats], step: int) -> bool:
        """Return whether the votes clearly favour labels shifted by `step` over the unchanged labels."""
        unchanged = np.arange(len(self.names))
        meaning = np.where((unchanged - step >= 0) & (unchanged - step < len(unchanged)), unchanged - step, -1)
        (share, count), (moved_share, moved_count) = self.votes(looks, unchanged), self.votes(looks, meaning)
        # Votes for minus votes against, compared between the shifted and the unchanged labels.
        gain = (2 * moved_share - 1) * moved_count - (2 * share - 1) * count
        return moved_share >= GOOD and gain >= CLEARER

    def _others(
        self, looks: Sequence[ClassStats], unchanged: np.ndarray, orders: Mapping[str, Sequence[int]]
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (description, meaning) of each possible mistake in the labels. Common mistakes come first.

        `meaning` is (K,) int64. With this mistake, pixels of label i show the class with the index `meaning[i]`. The
        index -1 means none of the K classes. `unchanged`: the meaning of labels without a mistake, [0, 1, …].
        `orders`: see `verdict`.
        """
        yield "the labels were not shifted by one (0 is still 'other')", unchanged - 1
        yield (
            "the labels were shifted by one once too often",
            np.where(unchanged + 1 < len(unchanged), unchanged + 1, -1),
        )
        for order, meaning in orders.items():
            yield f"the labels are in the order of {order}", np.asarray(meaning)
        shown = sorted({int(label) for stats in looks for label in stats.labels})
        doubtful = [label for label in shown if self.place[label] or self.green[label]]
        for first in doubtful:
            for second in (label for label in shown if label != first):
                swapped = unchanged.copy()
                swapped[[first, second]] = second, first
                yield f"{self.names[first]!r} and {self.names[second]!r} are swapped", swapped

    def _example(self, looks: Iterable[ClassStats]) -> str:
        """Return in words how an image contradicts the labels, such as "'sky' lies in the lower half"."""
        for stats in looks:
            for label, row, green in zip(stats.labels.tolist(), stats.rows.tolist(), stats.green.tolist(), strict=True):
                if self.place[label] and (row > 0.5) != (self.place[label] > 0) and not np.isnan(row):
                    return f"{self.names[label]!r} lies in the {'upper' if row <= 0.5 else 'lower'} half"
                if self.green[label] and green < -GREENER:
                    return f"{self.names[label]!r} is less green than the rest"
        return "no example"


def _words(name: str) -> set[str]:
    """Return the synonyms in a class name, in lower case. For a synonym such as "floor-wood", "floor" is added."""
    synonyms = {synonym.strip().lower() for synonym in name.split(",")}
    return synonyms | {synonym.partition("-")[0] for synonym in synonyms}
