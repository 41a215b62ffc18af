"""Label boundaries and the edges in photographs: a sign that needs no class names.

Labels of the next frame, flipped, or shifted by 24 pixels are plausible numbers in files of the right size. Their
boundaries, however, miss the edges that they should follow. The boundaries are moved over the edges by all shifts up to
REACH, and a fit says by how many standard deviations the agreement at one shift exceeds the agreement at the others.
Right labels fit best as they are; an alternative is a fault only if it fits clearly better in nearly all images.

Letters: h w pixels of the reduced image, d shifts in each direction. A place is the position of an image in its set.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image
from scipy import fft

from ovss_ray.faults import Fault

LONGEST, SHORTEST = 512, 64
"""pixels: the longest side after reduction; the shortest side for which fits are computed"""
LEAST = 30
"""pixels of boundary (reduced) below which an image says nothing"""
FLAT = 0.01
"""deviation of edge strengths below which a photograph is of one colour"""
REACH = 64
"""reduced pixels: the largest shift, at most a quarter of the shorter side"""
SLACK = 1
"""reduced pixels: how far labels may lie beside their edges and still count as being in place"""
NEAR = 6
"""reduced pixels: shifts this close to a peak say nothing about chance"""
SURROUNDINGS = 24
"""reduced pixels: edges are measured against the contrast of a square of this side"""
FITS, FITS_SHIFTED = 3.5, 5.0
"""standard deviations: the least median fit of an alternative; the least sum / root of the number of a shift's"""
GAIN, WINS = 2.5, 0.8
"""what an alternative must gain: median · root of the number of images; and in which share of them"""
TOGETHER, FITS_TOGETHER, GAIN_TOGETHER, WINS_TOGETHER, STEADY = 6, 1.5, 6.0, 0.7, 6.0
"""images from which on weak fits count together; their least mean; what they must gain, as mean · root of the number;
in which share of them; the gain that counts most in one image"""
LEAST_SHIFT, SHIFT_GAIN, SHIFT_TOGETHER = 10, 2.0, 8.0
"""pixels that a shift must have; what it must gain, more than other alternatives since it is the best of many"""
STRANGERS, STRANGER_FITS, SEVERAL = 24, 6.0, 0.15
"""most images among which each is compared with each; the fit by which a photograph finds its labels there; the share
of the images that must find them"""
ALL_ALIKE = 3
"""files from which on equal labels in all of them are conspicuous"""
MANY, NOTHING = 8, 1.0
"""images of which a median fit below the second number says that labels follow no edges at all"""

Symmetry = Callable[[np.ndarray], np.ndarray]
UPRIGHT: dict[int, Symmetry] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.T, 2),
    8: lambda a: np.rot90(a),
}
"""EXIF orientation → what brings an array (H, W) of stored pixels upright"""
STORED = "drawn on the stored pixels, while the photographs are turned upright by their EXIF orientation"
MIRRORED: dict[str, Symmetry] = {
    "flipped left to right": UPRIGHT[2],
    "flipped upside down": UPRIGHT[4],
    "turned by 180°": UPRIGHT[3],
    "transposed (rows and columns are swapped)": UPRIGHT[5],
    "turned by 90° to the left": UPRIGHT[6],
    "turned by 90° to the right": UPRIGHT[8],
    "transposed and turned by 180°": UPRIGHT[7],
}
"""what may have happened to labels → what undoes it; those that swap the axes apply to square images"""


@dataclass(frozen=True)
class Edges:
    """Edges of one photograph and boundaries of its labels, reduced."""

    photograph: np.ndarray
    """(h, w) float16: edge strength against the surroundings"""
    labels: np.ndarray
    """(h, w) uint8: share of boundary pixels, 255 = all"""
    stride: int
    """pixels of the file per reduced pixel"""
    address: str = ""
    """of the photograph: label files of one photograph are not compared with one another"""
    orientation: int = 1
    """the photograph's EXIF orientation"""


@dataclass(frozen=True)
class Alternative:
    """How well labels fit in another way, image by image."""

    said: str
    cause: str
    fits: np.ndarray
    """(n,) float64: standard deviations"""
    own: np.ndarray
    """(n,) float64: of the same images with their labels as they are"""
    least: float = GAIN
    least_together: float = GAIN_TOGETHER

    def holds(self) -> bool:
        """Return whether it fits clearly better in nearly all images: by much, or by less in many."""
        number = len(self.fits)
        if not number:
            return False
        gains = np.clip(self.fits - self.own, -STEADY, STEADY)
        wins = (gains > 0).mean()
        clear = np.median(self.fits) >= FITS and self.gain * number**0.5 >= self.least
        together = number >= TOGETHER and self.fits.mean() >= FITS_TOGETHER
        steady = together and gains.mean() * number**0.5 >= self.least_together
        return bool((clear and wins >= WINS) or (steady and wins >= WINS_TOGETHER))

    @property
    def gain(self) -> float:
        """The median of the standard deviations by which it fits better."""
        return float(np.median(self.fits - self.own))


def trace(image: np.ndarray, truth: np.ndarray, address: str = "", orientation: int = 1) -> Edges | None:
    """Reduce an image (H, W, 3) uint8 and its label map (H, W) uint16; None if there is too little to compare."""
    stride = max(1, -(-max(truth.shape) // LONGEST))
    labels = np.asarray(Image.fromarray(_boundaries(truth)).reduce(stride))
    if min(labels.shape) < SHORTEST or labels.sum(dtype=np.int64) < 255 * LEAST:
        return None
    photograph = _strengths(np.asarray(Image.fromarray(image).reduce(stride), np.float32))
    if photograph.std() < FLAT:
        return None
    return Edges(photograph.astype(np.float16), labels, stride, address, orientation)


def _boundaries(truth: np.ndarray) -> np.ndarray:
    """(H, W) uint8: 255 on both sides of each boundary between labels."""
    marked = np.zeros(truth.shape, np.uint8)
    for side, neighbour in (np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1]):
        differs = (truth[side] != truth[neighbour]) * np.uint8(255)
        marked[side] |= differs
        marked[neighbour] |= differs
    return marked


def _strengths(image: np.ndarray) -> np.ndarray:
    """(h, w) float32: logarithm of the gradient, standardised in its surroundings, so that texture counts for less."""
    smooth = cv2.GaussianBlur(image, (0, 0), 0.7)
    steps = sum((np.gradient(smooth, axis=axis) ** 2).sum(2) for axis in (0, 1))
    strength = np.log1p(np.sqrt(steps)).astype(np.float32)
    square = (SURROUNDINGS, SURROUNDINGS)
    mean, squares = cv2.blur(strength, square), cv2.blur(strength * strength, square)
    deviation = np.sqrt(np.maximum(squares - mean * mean, 0) + 0.01)
    return np.clip((strength - mean) / deviation, -2, 3)


def agreement(photograph: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(d, d) float32: edge strength under boundaries (h, w) moved by each shift; no shift is in the middle."""
    reach = min(REACH, min(labels.shape) // 4)
    size = [fft.next_fast_len(side + reach, real=True) for side in labels.shape]
    spectra = [fft.rfft2(array.astype(np.float32), size) for array in (photograph, labels)]
    summed = fft.irfft2(spectra[0] * np.conj(spectra[1]), size)
    return np.roll(summed, (reach, reach), (0, 1))[: 2 * reach + 1, : 2 * reach + 1]


def fit(agreed: np.ndarray, shift: tuple[int, int] = (0, 0)) -> float:
    """Standard deviations by which the agreement at a shift (rows, columns) exceeds that at shifts elsewhere."""
    row, column = (middle + moved for middle, moved in zip((len(agreed) // 2,) * 2, shift, strict=True))

    def around(margin: int) -> tuple[slice, slice]:
        return np.s_[max(0, row - margin) : row + margin + 1, max(0, column - margin) : column + margin + 1]

    elsewhere = np.ones(agreed.shape, bool)
    elsewhere[around(NEAR)] = False
    chance = agreed[elsewhere]
    return float((agreed[around(SLACK)].max() - chance.mean()) / (chance.std() + 1e-9))


def verdict(traced: Sequence[tuple[int, Edges]]) -> Iterator[Fault]:
    """Say how labels fit better than as they are, if they do; `traced` are places and images, sorted by place."""
    if not traced:
        return
    surfaces = [agreement(edges.photograph, edges.labels) for _, edges in traced]
    own = np.array([fit(surface) for surface in surfaces])
    tried = [*_mirrored(traced, own), *_neighbours(traced, own), *_shifted(traced, surfaces, own)]
    likely = [alternative for alternative in tried if alternative.holds()]
    if likely:
        best = max(likely, key=lambda alternative: alternative.gain)
        number = f"{len(best.fits)} photograph{'s' * (len(best.fits) > 1)}"
        fits = f"a fit of {np.median(best.fits):.1f} standard deviations, and {np.median(best.own):.1f} as they are"
        what = f"the labels are {best.said}: with that undone, boundaries lie on the edges in {number} ({fits})"
        yield Fault(what, cause=best.cause)
    else:
        yield from _strangers(traced, own)
        yield from _all_alike(traced, own)


def _mirrored(traced: Sequence[tuple[int, Edges]], own: np.ndarray) -> Iterator[Alternative]:
    turned = [at for at, (_, edges) in enumerate(traced) if edges.orientation in UPRIGHT]
    undone = {at: UPRIGHT[traced[at][1].orientation] for at in turned}
    yield _alternative(STORED, "a labelling tool that ignores EXIF: turn the label files too", traced, own, undone)
    for said, undo in MIRRORED.items():
        cause = "labels written by code that mirrors or turns arrays, or photographs that were turned later"
        yield _alternative(said, cause, traced, own, dict.fromkeys(range(len(traced)), undo))


def _alternative(
    said: str, cause: str, traced: Sequence[tuple[int, Edges]], own: np.ndarray, undone: dict[int, Symmetry]
) -> Alternative:
    """Fits of the labels after a symmetry: position in `traced` → what undoes it."""
    fitting = {
        at: undo for at, undo in undone.items() if undo(traced[at][1].labels).shape == traced[at][1].labels.shape
    }
    fits = [fit(agreement(traced[at][1].photograph, undo(traced[at][1].labels))) for at, undo in fitting.items()]
    return Alternative(said, cause, np.array(fits), own[list(fitting)])


def _neighbours(traced: Sequence[tuple[int, Edges]], own: np.ndarray) -> Iterator[Alternative]:
    """Fits of each photograph with the label file before it and after it in the order of the ids."""
    at = {place: position for position, (place, _) in enumerate(traced)}
    cause = "frames and labels that are counted from different numbers, or sorted differently"
    for said, step in ("those of the next image", -1), ("those of the image before", 1):
        pairs = [(at[place], at[place + step]) for place in at if place + step in at]
        pairs = [pair for pair in pairs if _comparable(*(traced[position][1] for position in pair))]
        fits = [fit(agreement(traced[here][1].photograph, traced[there][1].labels)) for here, there in pairs]
        yield Alternative(said, cause, np.array(fits), own[[here for here, _ in pairs]])


def _comparable(here: Edges, there: Edges) -> bool:
    return here.labels.shape == there.labels.shape and here.address != there.address


def _shifted(
    traced: Sequence[tuple[int, Edges]], surfaces: Sequence[np.ndarray], own: np.ndarray
) -> Iterator[Alternative]:
    """Fits at the shift that suits all images of the commonest scale best, if it is more than slack."""
    strides = [edges.stride for _, edges in traced]
    stride = max(strides, key=strides.count)
    chosen = [at for at, other in enumerate(strides) if other == stride]
    reach = min(len(surfaces[at]) for at in chosen) // 2
    common = [_middle(surfaces[at], reach) for at in chosen]
    pooled = sum((surface - surface.mean()) / (surface.std() + 1e-9) for surface in common)
    peak = np.subtract(np.unravel_index(np.argmax(pooled), common[0].shape), reach)
    fits = np.array([fit(surface, (int(peak[0]), int(peak[1]))) for surface in common])
    moved = peak * stride
    if np.abs(moved).max() >= max(LEAST_SHIFT, 4 * stride) and fits.sum() >= FITS_SHIFTED * len(fits) ** 0.5:
        cause = "cropping or padding that only one of photograph and label file went through"
        # Photographs lie where labels would have to be moved to, so labels are shifted the other way.
        said = f"shifted by {_direction(-moved, 2 * stride)}"
        yield Alternative(said, cause, fits, own[chosen], SHIFT_GAIN, SHIFT_TOGETHER)


def _middle(surface: np.ndarray, reach: int) -> np.ndarray:
    """Return the shifts up to `reach` of an agreement (d, d)."""
    middle = len(surface) // 2
    return surface[middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]


def _direction(most: np.ndarray, slack: float) -> str:
    """Write pixels down and to the right in words; what is less than the slack is left out."""
    down, right = most.tolist()
    words = [(right, "to the right" if right > 0 else "to the left"), (down, "down" if down > 0 else "up")]
    return " and ".join(f"{abs(pixels)} pixels {where}" for pixels, where in words if abs(pixels) > slack)


def _strangers(traced: Sequence[tuple[int, Edges]], own: np.ndarray) -> Iterator[Fault]:
    """Look for photographs that fit the labels of others clearly better than their own."""
    some = [edges for _, edges in traced[:STRANGERS]]
    photographs = [edges.photograph.astype(np.float32) for edges in some]
    shares = [edges.labels / edges.labels.sum(dtype=np.float32) for edges in some]
    better: list[tuple[str, str]] = []
    for here, edges in enumerate(some):
        strengths = {
            there: float(np.vdot(photographs[here], shares[there]))
            for there, other in enumerate(some)
            if _comparable(edges, other)
        }
        there = max(strengths, key=lambda position: strengths[position], default=here)
        fits = fit(agreement(photographs[here], some[there].labels))
        if fits >= max(STRANGER_FITS, own[here] + GAIN):
            better.append((some[there].address, edges.address))
    if len(better) >= max(2, SEVERAL * len(some)):
        what = "labels belong to other photographs: the label file of {} fits {}".format(*better[0])
        yield Fault(what, cause="files that were renamed or sorted differently")
    elif len(own) >= MANY and np.median(own) < NOTHING:
        what = f"label boundaries follow no edges in {len(own)} photographs (a median fit of {np.median(own):.1f})"
        yield Fault(what, cause="labels of other photographs, or labels that are drawn very coarsely", sure=False)


def _all_alike(traced: Sequence[tuple[int, Edges]], own: np.ndarray) -> Iterator[Fault]:
    """Look for one label map in all files that fits no photograph, or one much better than the others."""
    unlike = np.median(own) < FITS or own.max() - np.median(own) >= FITS
    if len(traced) >= ALL_ALIKE and unlike and len({edges.labels.tobytes() for _, edges in traced}) == 1:
        what = f"the same labels in all {len(traced)} label files, and they do not fit the photographs"
        yield Fault(what, cause="one label file that was copied or written over the others")
