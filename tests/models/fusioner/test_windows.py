"""Windows over a photograph, and the mean of their logits."""

import pytest
import torch

from ovss_ray.errors import OvssError
from ovss_ray.models.fusioner.windows import PADDING, Layout


@pytest.mark.parametrize(
    ("height", "width", "corners"),
    [
        (375, 500, [(top, left) for top in (0, 149, 298) for left in (0, 149, 298)]),
        (224, 373, [(0, 0), (0, 149)]),
        (225, 100, [(0, 0), (149, 0)]),
        (1, 1, [(0, 0)]),
    ],
)
def test_windows_start_at_multiples_of_the_stride_and_reach_the_end(
    height: int, width: int, corners: list[tuple[int, int]]
) -> None:
    layout = Layout(height, width, 224, 149)
    assert list(layout.corners()) == corners
    assert len(layout) == len(corners)
    assert corners[-1][0] + 224 >= height
    assert corners[-1][1] + 224 >= width


def test_the_last_window_is_cut_at_the_end_and_padded_there() -> None:
    pixels = torch.arange(30.0).view(1, 5, 6).expand(3, -1, -1)
    windows = Layout(5, 6, 4, 3).cut(pixels)
    assert windows.shape == (4, 3, 4, 4)
    assert windows[3, 0].tolist() == [[21, 22, 23, -1], [27, 28, 29, -1], [-1] * 4, [-1] * 4]
    assert PADDING == -1


def test_every_pixel_has_the_mean_of_the_windows_that_cover_it() -> None:
    layout = Layout(5, 6, 4, 3)
    logits = torch.tensor([1.0, 2.0, 4.0, 8.0])[:, None, None, None].expand(-1, 2, 4, 4)
    mean = layout.mean(iter(logits))
    assert mean.shape == (2, 5, 6)
    assert mean[0, 0].tolist() == [1, 1, 1, 1.5, 2, 2]
    assert mean[1, 3].tolist() == [2.5, 2.5, 2.5, 3.75, 5, 5]
    assert mean[1, 4].tolist() == [4, 4, 4, 6, 8, 8]


def test_pixels_that_are_cut_and_averaged_are_unchanged() -> None:
    pixels = torch.rand(3, 50, 70)
    layout = Layout(50, 70, 32, 21)
    assert torch.allclose(layout.mean(layout.cut(pixels)), pixels)


def test_the_mean_has_the_size_of_the_photograph_before_it_was_resized() -> None:
    ramp = torch.arange(8.0).expand(1, 4, 8)
    layout = Layout(4, 8, 4, 4, (8, 16))
    larger = layout.mean(layout.cut(ramp))
    assert larger.shape == (1, 8, 16)
    assert larger[0, 3, 1:15].tolist() == [0.25 + 0.5 * i for i in range(14)]
    assert torch.equal(Layout(4, 8, 4, 4, (4, 8)).mean(layout.cut(ramp)), ramp)


def test_logits_that_need_too_much_memory_are_refused_with_the_number_that_fits() -> None:
    photograph = Layout(5000, 8000, 224, 149)
    photograph.check(25)  # 25 · 40 million pixels · 4 bytes = 4 GB
    with pytest.raises(OvssError, match=r"1000 classes .* 5000 × 8000 .* 160\.0 GB .* is 4 GB\. .* at most 25 classes"):
        photograph.check(1000)
    Layout(5000, 8000, 224, 149, (5000, 8000)).check(25)
    with pytest.raises(OvssError, match="at most 24 classes"):
        Layout(128, 205, 128, 64, (5000, 8000)).check(25)
    with pytest.raises(OvssError, match="Use a smaller photograph"):
        Layout(50_000, 80_000, 224, 149).check(1)
