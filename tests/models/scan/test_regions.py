"""Regions of queries and their crops, against the operations of the official code one by one."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ovss_ray.models.scan import regions
from ovss_ray.models.semantic import Geometry
from tests.small_scan import CLIP

GEOMETRY = Geometry((64, 96), (60, 85), (120, 170))
THRESHOLD = 0.4


@pytest.fixture(scope="module")
def mask_logits() -> Tensor:
    torch.manual_seed(0)
    smooth = F.interpolate(3 * torch.randn(1, 7, 4, 6), (16, 24), mode="bicubic")[0] - 2
    smooth[2] = -9
    smooth[4] = 9
    return smooth


def official_mask(logits: Tensor) -> Tensor:
    padded = F.interpolate(logits[None, None], GEOMETRY.padded, mode="bilinear", align_corners=False)[0, 0]
    return padded[:60, :85].sigmoid() > THRESHOLD


@pytest.mark.parametrize("chunk", [1, 1 << 26])
def test_a_region_is_the_binary_mask_of_a_query_in_its_tight_box(
    mask_logits: Tensor, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regions, "CHUNK", chunk)
    cut = regions.of_masks(mask_logits, GEOMETRY, THRESHOLD, CLIP)
    masks = [official_mask(logits) for logits in mask_logits]
    assert cut.valid.tolist() == [bool(mask.any()) for mask in masks]
    assert cut.valid.tolist() == [True, True, False, True, True, True, True]
    assert len(cut) == 6
    seen = [mask for mask in masks if mask.any()]
    for mask, (x0, y0, x1, y1), inside in zip(seen, cut.boxes.tolist(), cut.masks(), strict=True):
        rows, columns = mask.nonzero().T
        assert (x0, y0, x1, y1) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.array_equal(inside, mask[y0:y1, x0:x1])
    assert cut.boxes[3].tolist() == [0, 0, 85, 60]


def test_a_patch_is_foreground_if_any_of_its_pixels_is_in_the_mask(mask_logits: Tensor) -> None:
    cut = regions.of_masks(mask_logits, GEOMETRY, THRESHOLD, CLIP)
    for inside, foreground in zip(cut.masks(), cut.foreground, strict=True):
        square = F.interpolate(torch.from_numpy(inside)[None, None].float(), (32, 32))
        expected = F.avg_pool2d(square.half(), 8).ceil()
        assert np.array_equal(foreground, expected.flatten().bool().numpy())
    assert cut.foreground[3].all()
    assert 0 < cut.foreground[0].sum() < 16


def test_a_crop_is_cut_filled_normalised_and_then_resized(mask_logits: Tensor) -> None:
    pixels = torch.randint(0, 256, (3, 60, 85), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    cut = regions.of_masks(mask_logits, GEOMETRY, THRESHOLD, CLIP)
    mean = 255 * torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = 255 * torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    crops = list(regions.crops(pixels, cut, 32))
    for crop, (x0, y0, x1, y1), inside in zip(crops, cut.boxes.tolist(), cut.masks(), strict=True):
        filled = torch.where(torch.from_numpy(inside), pixels[:, y0:y1, x0:x1].float(), mean)
        expected = F.interpolate(((filled - mean) / std)[None], (32, 32), mode="bicubic", align_corners=False)
        assert torch.allclose(crop, expected[0], atol=1e-5)


def test_an_image_whose_masks_are_all_empty_has_no_region(mask_logits: Tensor) -> None:
    cut = regions.of_masks(mask_logits - 99, GEOMETRY, THRESHOLD, CLIP)
    assert not cut.valid.any()
    assert len(cut) == 0
    assert cut.foreground.shape == (0, 16)
    assert list(regions.crops(torch.zeros(3, 60, 85, dtype=torch.uint8), cut, 32)) == []
