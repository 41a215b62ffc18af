"""Label boundaries against the edges in photographs."""

import numpy as np
import pytest

from ovss_ray.dataprep import alignment, symmetries
from ovss_ray.dataprep.alignment import Edges


def scene(seed: int, size: tuple[int, int] = (120, 160)) -> tuple[np.ndarray, np.ndarray]:
    """A photograph (H, W, 3) of discs before noise, and its labels (H, W)."""
    generator = np.random.default_rng(seed)
    truth = np.zeros(size, np.uint16)
    rows, columns = np.mgrid[: size[0], : size[1]]
    for label in range(1, 7):
        row, column, radius = generator.uniform((10, 10, 8), (size[0] - 10, size[1] - 10, 24))
        truth[np.hypot(rows - row, columns - column) < radius] = label
    shades = generator.integers(40, 215, (7, 3))
    noise = generator.normal(0, 8, (*size, 3))
    return np.clip(shades[truth] + noise, 0, 255).astype(np.uint8), truth


def traced(image: np.ndarray, truth: np.ndarray, address: str = "a", orientation: int = 1) -> Edges:
    found = alignment.trace(image, truth, address, orientation)
    assert found is not None
    return found


def test_right_labels_fit_best_where_they_are() -> None:
    one = traced(*scene(0))
    agreed = alignment.agreement(one.photograph, one.labels)
    middle = len(agreed) // 2
    peak = np.unravel_index(agreed.argmax(), agreed.shape)
    assert np.abs(np.subtract(peak, middle)).max() <= 1
    assert alignment.fit(agreed) > 8
    assert list(alignment.verdict([(0, one)])) == []


@pytest.mark.parametrize("shift", [(0, 20), (-15, 0), (12, -18)])
def test_a_shift_is_measured(shift: tuple[int, int]) -> None:
    images = [scene(seed) for seed in range(3)]
    moved = [(k, traced(image, np.roll(truth, shift, (0, 1)), str(k))) for k, (image, truth) in enumerate(images)]
    (fault,) = alignment.verdict(moved)
    down, right = shift
    assert (f"{abs(right)} pixels {'to the right' if right > 0 else 'to the left'}" in fault.what) == bool(right)
    assert (f"{abs(down)} pixels {'down' if down > 0 else 'up'}" in fault.what) == bool(down)


@pytest.mark.parametrize("said", symmetries.MIRRORED)
def test_what_undoes_a_symmetry_is_found_by_its_name(said: str) -> None:
    undo = symmetries.MIRRORED[said]
    image, truth = scene(0, (128, 128))
    done = next(turn for turn in symmetries.UPRIGHT.values() if np.array_equal(undo(turn(truth)), truth))
    (fault,) = alignment.verdict([(0, traced(image, np.ascontiguousarray(done(truth))))])
    assert f"the labels are {said}:" in fault.what


def test_neighbours_are_those_that_stand_next_to_each_other_in_the_set() -> None:
    images = [scene(seed) for seed in range(4)]
    wrong = [traced(images[k][0], images[(k + 1) % 4][1], str(k)) for k in range(4)]
    (fault,) = alignment.verdict(list(enumerate(wrong)))
    assert "those of the next image" in fault.what
    (fault,) = alignment.verdict([(10 * k, one) for k, one in enumerate(wrong)])
    assert "labels belong to other photographs: the label file of" in fault.what


def test_label_files_of_one_photograph_are_not_compared() -> None:
    image, truth = scene(0)
    faint = np.where(truth == 1, 1, 0).astype(np.uint16)
    parts = [traced(image, part, "the same") for part in (faint, truth)]
    assert list(alignment.verdict(list(enumerate(parts)))) == []


def test_labels_without_boundaries_and_small_images_say_nothing() -> None:
    image, truth = scene(0)
    assert alignment.trace(image, np.zeros_like(truth)) is None
    assert alignment.trace(image[:50, :50], truth[:50, :50]) is None
    assert list(alignment.verdict([])) == []


def test_labels_that_follow_no_edge_are_noted_only_if_there_are_many() -> None:
    images = [(scene(seed)[0], scene(100 + seed)[1]) for seed in range(12)]
    unlike = [(10 * k, traced(image, truth, str(k))) for k, (image, truth) in enumerate(images)]
    (note,) = alignment.verdict(unlike)
    assert not note.sure
    assert "label boundaries follow no edges in 12 photographs" in note.what
    assert list(alignment.verdict(unlike[:4])) == []


def test_large_images_are_reduced_and_shifts_are_in_their_pixels() -> None:
    image, truth = (array.repeat(8, 0).repeat(8, 1) for array in scene(1))
    large = traced(image, np.roll(truth, 48, 1))
    assert large.stride == 3
    assert max(large.labels.shape) <= alignment.LONGEST
    (fault,) = alignment.verdict([(0, large)])
    assert "shifted by 48 pixels to the right" in fault.what


def test_weak_fits_count_together_if_nearly_all_images_agree() -> None:
    """Each image alone says little: faint discs under much noise."""
    generator = np.random.default_rng(5)
    weak = []
    for seed in range(24):
        image, truth = scene(seed, (96, 96))
        noisy = 110 + 0.025 * (image.astype(float) - 110) + generator.normal(0, 6, image.shape)
        weak.append((10 * seed, traced(noisy.clip(0, 255).astype(np.uint8), truth[:, ::-1].copy(), str(seed))))
    assert list(alignment.verdict(weak[:1])) == []
    (fault,) = alignment.verdict(weak)
    assert "flipped left to right" in fault.what


def test_a_photograph_of_one_colour_says_nothing() -> None:
    image, truth = scene(0)
    assert alignment.trace(np.full_like(image, 90), truth) is None
