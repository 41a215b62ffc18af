"""Test whether label boundaries follow the edges in photographs. The test needs no class names.

A fault is reported if an alternative fits the photographs clearly better than the unchanged labels do. Terms:

- alternative: the labels after a change that would undo a common error, such as a flip or a shift
- agreement: sum of the edge strengths at the label boundaries, after the labels are shifted by some rows and columns
- fit at a shift: (agreement at the shift − m) / s. The agreement at distant shifts (see NEAR) has the mean m and the
  standard deviation s
- gain: fit of an alternative minus fit of the unchanged labels, both at shift 0

Dimensions: n images, h w pixels of a reduced image, d shifts along each axis
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from scipy import fft

from ovss_ray.dataprep.symmetries import MIRRORED, STORED, UPRIGHT, Symmetry
from ovss_ray.structures.findings import Fault

LONGEST = 512
"""Longest side, in pixels, of a reduced image. Larger images are reduced to this size for the test."""
SHORTEST = 64
"""Minimum length, in pixels, of both sides of a reduced image. Images with a shorter side are not tested."""
LEAST = 30
"""Minimum number of boundary pixels in a reduced label map. Images with fewer boundary pixels are not tested."""
FLAT = 0.01
"""Minimum standard deviation of a photograph's edge strengths. Photographs with a smaller value are not tested."""
REACH = 64
"""Maximum shift of the labels, in pixels of reduced images. A second limit is a quarter of the image's shorter side."""
SLACK = 1
"""Largest distance at which a label boundary agrees with an edge, in pixels of reduced images."""
NEAR = 6
"""Limit in pixels of reduced images. Shifts are distant if they differ by more than NEAR in rows or columns."""
SURROUNDINGS = 24
"""Side of a square, in pixels of reduced images. An edge strength is normalised within the square around it."""
FITS_SHIFTED = 5.0
"""A shift is an alternative only if √n · (mean fit of n images) is at least FITS_SHIFTED."""
TOGETHER = 6
"""Minimum number of images for the rule BY_MEAN."""
STEADY = 6.0
"""Limit of an image's gain in the rule BY_MEAN: gains are clipped to ± STEADY, so that no image decides alone."""
LEAST_SHIFT = 10
"""Smallest shift that is reported, in pixels of the label file."""
STRANGERS = 24
"""Maximum number of images in the test for swapped files, which compares each photograph with other images' labels."""
STRANGER_FITS = 6.0
"""Minimum fit of another image's labels to a photograph. If it is reached, the files count as swapped."""
SEVERAL = 0.15
"""A fault is reported if at least this share of the photographs fit another image's labels clearly better."""
MANY = 8
"""Minimum number of images to report that label boundaries follow no edges."""
NOTHING = 1.0
"""Minimum median fit of the unchanged labels. Boundaries with a smaller fit follow no edges."""


class Rule(NamedTuple):
    """Minimum values at which an alternative is reported as a fault."""

    fit: float
    """minimum average fit of the alternative over the images"""
    gain: float
    """minimum average gain of the alternative over n images, multiplied by √n"""
    wins: float
    """minimum share of the images that the alternative fits better than the unchanged labels"""


BY_MEDIAN = Rule(3.5, 2.5, 0.8)
"""Rule for the median of fit and gain over the images."""
BY_MEAN = Rule(1.5, 6.0, 0.7)
"""Rule for the mean of fit and gain over the images. The rule needs at least TOGETHER images."""


@dataclass(frozen=True)
class Edges:
    """Edges of a photograph and boundaries of its labels, both at reduced size."""

    photograph: np.ndarray
    """(h, w) float16: edge strength relative to the surroundings"""
    labels: np.ndarray
    """(h, w) uint8: share of boundary pixels in each reduced pixel, from 0 (none) to 255 (all)"""
    stride: int
    """factor of the reduction: pixels of the file per reduced pixel, along each axis"""
    address: str = ""
    """path or URL of the photograph; two Edges with the same address are never compared with each other"""
    orientation: int = 1
    """EXIF orientation of the photograph"""


@dataclass(frozen=True)
class Alternative:
    """Change of labels, such as a flip, which is tested on n photographs."""

    description: str
    cause: str
    fits: np.ndarray
    """(n,) float64: fit of the changed labels to each photograph, in standard deviations"""
    baseline: np.ndarray
    """(n,) float64: fit of the unchanged labels to each photograph, in standard deviations"""
    by_median: Rule = BY_MEDIAN
    by_mean: Rule = BY_MEAN

    def holds(self) -> bool:
        """Return whether the alternative fits clearly better than the unchanged labels, by one of the two rules."""
        if not (number := len(self.fits)):
            return False
        gains = np.clip(self.fits - self.baseline, -STEADY, STEADY)
        wins = (gains > 0).mean()
        by_median = np.median(self.fits), self.gain * number**0.5, wins
        by_mean = self.fits.mean(), gains.mean() * number**0.5, wins
        steady = number >= TOGETHER and np.greater_equal(by_mean, self.by_mean).all()
        return bool(steady or np.greater_equal(by_median, self.by_median).all())

    @property
    def gain(self) -> float:
        """Return the median gain over the images, in standard deviations. An image's gain is `fits` − `baseline`."""
        return float(np.median(self.fits - self.baseline))


def trace(image: np.ndarray, truth: np.ndarray, address: str = "", orientation: int = 1) -> Edges | None:
    """Return Edges of `image` (H, W, 3) uint8, `truth` (H, W) uint16; None if not tested: see SHORTEST, LEAST, FLAT."""
    stride = max(1, -(-max(truth.shape) // LONGEST))
    labels = np.asarray(Image.fromarray(_boundaries(truth)).reduce(stride))
    if min(labels.shape) < SHORTEST or labels.sum(dtype=np.int64) < 255 * LEAST:
        return None
    photograph = _strengths(np.asarray(Image.fromarray(image).reduce(stride), np.float32))
    if photograph.std() < FLAT:
        return None
    return Edges(photograph.astype(np.float16), labels, stride, address, orientation)


def _boundaries(truth: np.ndarray) -> np.ndarray:
    """Return (H, W) uint8: 255 in the pixels on both sides of each boundary between labels, 0 elsewhere."""
    marked = np.zeros(truth.shape, np.uint8)
    for side, neighbour in (np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1]):
        differs = (truth[side] != truth[neighbour]) * np.uint8(255)
        marked[side] |= differs
        marked[neighbour] |= differs
    return marked


def _strengths(image: np.ndarray) -> np.ndarray:
    """Return edge strengths (h, w) float32: logarithms of gradients, normalised so that edges in texture are weaker."""
    smooth = cv2.GaussianBlur(image, (0, 0), 0.7)
    steps = sum((np.gradient(smooth, axis=axis) ** 2).sum(2) for axis in (0, 1))
    strength = np.log1p(np.sqrt(steps)).astype(np.float32)
    square = (SURROUNDINGS, SURROUNDINGS)
    mean, squares = cv2.blur(strength, square), cv2.blur(strength * strength, square)
    deviation = np.sqrt(np.maximum(squares - mean * mean, 0) + 0.01)
    return np.clip((strength - mean) / deviation, -2, 3)


def agreement(photograph: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the agreement (see the module) at each shift of the labels, (d, d) float32; no shift in the middle."""
    reach = min(REACH, min(labels.shape) // 4)
    size = [fft.next_fast_len(side + reach, real=True) for side in labels.shape]
    spectra = [fft.rfft2(array.astype(np.float32), size) for array in (photograph, labels)]
    summed = fft.irfft2(spectra[0] * np.conj(spectra[1]), size)
    return np.roll(summed, (reach, reach), (0, 1))[: 2 * reach + 1, : 2 * reach + 1]


def fit(agreed: np.ndarray, shift: tuple[int, int] = (0, 0)) -> float:
    """Return the fit at a shift (rows, columns). `agreed` (d, d): agreement at each shift (see module's docstring)."""
    row, column = (middle + moved for middle, moved in zip((len(agreed) // 2,) * 2, shift, strict=True))

    def around(margin: int) -> tuple[slice, slice]:
        return np.s_[max(0, row - margin) : row + margin + 1, max(0, column - margin) : column + margin + 1]

    elsewhere = np.ones(agreed.shape, bool)
    elsewhere[around(NEAR)] = False
    chance = agreed[elsewhere]
    return float((agreed[around(SLACK)].max() - chance.mean()) / (chance.std() + 1e-9))


def verdict(traced: Sequence[tuple[int, Edges]]) -> Iterator[Fault]:
    """Yield each fault of the labels' alignment. `traced`: (position in the data set, Edges), sorted by position."""
    if not traced:
        return
    surfaces = [agreement(edges.photograph, edges.labels) for _, edges in traced]
    baseline = np.array([fit(surface) for surface in surfaces])
    tried = [*_mirrored(traced, baseline), *_neighbours(traced, baseline), *_shifted(traced, surfaces, baseline)]
    likely = [alternative for alternative in tried if alternative.holds()]
    if likely:
        best = max(likely, key=lambda alternative: alternative.gain)
        number = f"{len(best.fits)} photograph{'s' * (len(best.fits) > 1)}"
        fits = (
            f"a fit of {np.median(best.fits):.1f} standard deviations, and {np.median(best.baseline):.1f} as they are"
        )
        message = f"the labels are {best.description}: with that undone, boundaries lie on the edges in {number}"
        yield Fault(f"{message} ({fits})", cause=best.cause)
    else:
        yield from _strangers(traced, baseline)
        yield from _all_alike(traced, baseline)


def _mirrored(traced: Sequence[tuple[int, Edges]], baseline: np.ndarray) -> Iterator[Alternative]:
    """Yield alternatives: labels turned upright by the photographs' EXIF orientation, and labels mirrored or turned."""
    undone = {at: UPRIGHT[edges.orientation] for at, (_, edges) in enumerate(traced) if edges.orientation in UPRIGHT}
    yield _alternative(STORED, "a labelling tool that ignores EXIF: turn the label files too", traced, baseline, undone)
    for error, undo in MIRRORED.items():
        cause = "labels written by code that mirrors or turns arrays, or photographs that were turned later"
        yield _alternative(error, cause, traced, baseline, dict.fromkeys(range(len(traced)), undo))


def _alternative(
    error: str, cause: str, traced: Sequence[tuple[int, Edges]], baseline: np.ndarray, undone: dict[int, Symmetry]
) -> Alternative:
    """Compare corrected labels with unchanged labels. `undone`: index in `traced` → function that corrects labels."""
    fitting = {
        at: undo for at, undo in undone.items() if undo(traced[at][1].labels).shape == traced[at][1].labels.shape
    }
    fits = [fit(agreement(traced[at][1].photograph, undo(traced[at][1].labels))) for at, undo in fitting.items()]
    return Alternative(error, cause, np.array(fits), baseline[list(fitting)])


def _neighbours(traced: Sequence[tuple[int, Edges]], baseline: np.ndarray) -> Iterator[Alternative]:
    """Yield two alternatives: each image has the labels of the previous image, or of the next image."""
    at = {place: position for position, (place, _) in enumerate(traced)}
    cause = "frames and labels that are counted from different numbers, or sorted differently"
    for error, step in ("those of the next image", -1), ("those of the image before", 1):
        pairs = [(at[place], at[place + step]) for place in at if place + step in at]
        pairs = [pair for pair in pairs if _comparable(*(traced[position][1] for position in pair))]
        fits = [fit(agreement(traced[i][1].photograph, traced[j][1].labels)) for i, j in pairs]
        yield Alternative(error, cause, np.array(fits), baseline[[i for i, _ in pairs]])


def _comparable(here: Edges, there: Edges) -> bool:
    return here.labels.shape == there.labels.shape and here.address != there.address


def _shifted(
    traced: Sequence[tuple[int, Edges]], surfaces: Sequence[np.ndarray], baseline: np.ndarray
) -> Iterator[Alternative]:
    """Yield an alternative if one shift may correct all label maps. `surfaces`: result of `agreement` per image."""
    strides = [edges.stride for _, edges in traced]
    stride = max(strides, key=strides.count)
    positions = [at for at, other in enumerate(strides) if other == stride]
    reach = min(len(surfaces[at]) for at in positions) // 2
    common = [_middle(surfaces[at], reach) for at in positions]
    pooled = sum((surface - surface.mean()) / (surface.std() + 1e-9) for surface in common)
    peak = np.subtract(np.unravel_index(np.argmax(pooled), common[0].shape), reach)
    fits = np.array([fit(surface, (int(peak[0]), int(peak[1]))) for surface in common])
    moved = peak * stride
    if np.abs(moved).max() >= max(LEAST_SHIFT, 4 * stride) and fits.sum() >= FITS_SHIFTED * len(fits) ** 0.5:
        cause = "cropping or padding of only the photograph or only the label file"
        # The peak is the shift that would correct the labels, so their error is the opposite shift.
        description = f"shifted by {_direction(-moved, 2 * stride)}"
        rules = BY_MEDIAN._replace(gain=2.0), BY_MEAN._replace(gain=8.0)
        yield Alternative(description, cause, fits, baseline[positions], *rules)


def _middle(surface: np.ndarray, reach: int) -> np.ndarray:
    """Return the middle of `surface` (d, d): the elements for shifts of at most `reach` pixels along each axis."""
    middle = len(surface) // 2
    return surface[middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]


def _direction(most: np.ndarray, slack: float) -> str:
    """Return the shift `most` (pixels down, right) in words. A direction with at most `slack` pixels is left out."""
    down, right = most.tolist()
    words = [(right, "to the right" if right > 0 else "to the left"), (down, "down" if down > 0 else "up")]
    return " and ".join(f"{abs(pixels)} pixels {where}" for pixels, where in words if abs(pixels) > slack)


def _strangers(traced: Sequence[tuple[int, Edges]], baseline: np.ndarray) -> Iterator[Fault]:
    """Yield a fault if photographs fit other images' labels better than their own, or if boundaries follow no edges."""
    compared = [edges for _, edges in traced[:STRANGERS]]
    photographs = [edges.photograph.astype(np.float32) for edges in compared]
    shares = [edges.labels / edges.labels.sum(dtype=np.float32) for edges in compared]
    better: list[tuple[str, str]] = []
    for here, edges in enumerate(compared):
        strengths = {
            there: float(np.vdot(photographs[here], shares[there]))
            for there, other in enumerate(compared)
            if _comparable(edges, other)
        }
        there = max(strengths, key=lambda position: strengths[position], default=here)
        fits = fit(agreement(photographs[here], compared[there].labels))
        if fits >= max(STRANGER_FITS, baseline[here] + BY_MEDIAN.gain):
            better.append((compared[there].address, edges.address))
    if len(better) >= max(2, SEVERAL * len(compared)):
        message = "labels belong to other photographs: the label file of {} fits {}".format(*better[0])
        yield Fault(message, cause="files that were renamed or sorted differently")
    elif len(baseline) >= MANY and (median := np.median(baseline)) < NOTHING:
        message = f"label boundaries follow no edges in {len(baseline)} photographs (a median fit of {median:.1f})"
        yield Fault(message, cause="labels of other photographs, or labels that are drawn very coarsely", sure=False)


def _all_alike(traced: Sequence[tuple[int, Edges]], baseline: np.ndarray) -> Iterator[Fault]:
    """Yield a fault if all label maps, at least three, are equal and do not fit most photographs."""
    unlike = np.median(baseline) < BY_MEDIAN.fit or baseline.max() - np.median(baseline) >= BY_MEDIAN.fit
    if len(traced) >= 3 and unlike and len({edges.labels.tobytes() for _, edges in traced}) == 1:
        message = f"the same labels in all {len(traced)} label files, and they do not fit the photographs"
        yield Fault(message, cause="one label file that was copied or written over the others")
