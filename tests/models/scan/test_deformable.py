"""The two forms of deformable attention against each other, and against a loop over points."""

import torch
from torch import Tensor

from ovss_ray.models.scan.deformable import POINTS, SCALES, Cells, DeformableAttention
from tests.models.scan.conftest import filled

SIZES = [torch.Size(size) for size in ((1, 2), (3, 4), (5, 7))]
TOKENS = sum(size.numel() for size in SIZES)
HEADS, WIDTH = 2, 6


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def looped(values: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """The output (T, C) for one image, point by point; arguments as in Cells.sampled."""
    maps = [part.unflatten(0, size) for part, size in zip(values.split([s.numel() for s in SIZES]), SIZES, strict=True)]
    centres = [((x + 0.5) / w, (y + 0.5) / h) for h, w in SIZES for y in range(h) for x in range(w)]
    sums = torch.zeros(TOKENS, HEADS, WIDTH // HEADS)
    for point in range(HEADS * SCALES * POINTS):
        head, scale = divmod(point // POINTS, SCALES)
        h, w = SIZES[scale]
        for token, (x, y) in enumerate(centres):
            columns = (1 - (x * w - 0.5 + offsets[token, point, 0] - torch.arange(w)).abs()).clamp(min=0)
            rows = (1 - (y * h - 0.5 + offsets[token, point, 1] - torch.arange(h)).abs()).clamp(min=0)
            value = maps[scale].unflatten(2, (HEADS, -1))[:, :, head]
            sums[token, head] += weights[token, point] * torch.einsum("y,x,yxc->c", rows, columns, value)
    return sums.flatten(1)


def test_both_forms_are_the_sum_over_points_inside_and_outside_of_the_maps() -> None:
    cells = Cells(SIZES, HEADS, torch.device("cpu"))
    points = HEADS * SCALES * POINTS
    values, weights = drawn(2, TOKENS, WIDTH), drawn(2, TOKENS, points, seed=1)
    offsets = 3 * drawn(2, TOKENS, points, 2, seed=2)
    offsets[:, ::5] = offsets[:, ::5].round()  # the centres of cells in the token's own scale
    offsets[:, 1] *= 1e6
    expected = torch.stack([looped(*image) for image in zip(values, offsets, weights, strict=True)])
    for form in (cells.sampled, cells.summed):
        assert torch.allclose(form(values, offsets, weights), expected, atol=1e-5, rtol=0), form
    assert (expected[:, 2:] != 0).float().mean() > 0.9
    assert not expected[:, 1].any()


def test_attention_is_the_same_with_and_without_gradients_and_for_any_batch() -> None:
    attention = filled(DeformableAttention(WIDTH, HEADS))
    cells = Cells(SIZES, HEADS, torch.device("cpu"))
    queries, values = drawn(3, TOKENS, WIDTH), drawn(3, TOKENS, WIDTH, seed=1)
    with_gradients = attention(queries, values, cells)
    with torch.inference_mode():
        together = attention(queries, values, cells)
        alone = torch.cat([attention(queries[i : i + 1], values[i : i + 1], cells) for i in range(3)])
    assert torch.allclose(with_gradients, together, atol=1e-6, rtol=0)
    assert torch.allclose(together, alone, atol=1e-6, rtol=0)
    assert not torch.allclose(together[0], together[1], atol=1e-2)
