"""The backbone against a slow form without windows, and its entries against official checkpoints."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ovss_ray.models.scan.mask_decoder import MaskNetwork
from ovss_ray.models.scan.swin import ELSEWHERE, Block, Swin, Windows, constants
from ovss_ray.models.scan.variants import VARIANTS
from tests.models.scan.conftest import filled

SMALL = replace(
    VARIANTS["scan_tiny"], backbone_width=16, backbone_depths=(2, 1, 3, 2), backbone_heads=(1, 2, 2, 4), window=6
)


def slow_attention(block: Block, x: Tensor, side: int, shift: int) -> Tensor:
    """Attention of a block for one normalised map (h, w, C): all pairs of padded tokens, by the rules of the paper."""
    h, w, width = x.shape
    x = F.pad(x, (0, 0, 0, -w % side, 0, -h % side))
    tall, wide = x.shape[:2]
    q, k, v = block.attn.qkv(x.flatten(0, 1)).unflatten(-1, (3, block.attn.heads, -1)).permute(1, 2, 0, 3)
    logits = q @ k.transpose(1, 2) / (width / block.attn.heads) ** 0.5
    y, x0 = torch.meshgrid(torch.arange(tall), torch.arange(wide), indexing="ij")
    row, column = (y.flatten() - shift) % tall, (x0.flatten() - shift) % wide
    window = row // side * 1000 + column // side
    moved = (y.flatten() < shift) * 2 + (x0.flatten() < shift) * 1
    apart = [(place % side)[:, None] - (place % side) + side - 1 for place in (row, column)]
    bias = block.attn.relative_position_bias_table[apart[0] * (2 * side - 1) + apart[1]].permute(2, 0, 1)
    logits = logits + bias + ELSEWHERE * (moved[:, None] != moved)
    logits = logits.masked_fill(window[:, None] != window, -torch.inf)
    seen = (logits.softmax(-1) @ v).transpose(0, 1).flatten(1)
    return block.attn.proj(seen).unflatten(0, (tall, wide))[:h, :w]


@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("size", [(4, 5), (6, 12), (14, 9), (13, 20)])
def test_attention_in_windows_is_that_of_all_pairs_with_padding_and_roll(size: tuple[int, int], shift: int) -> None:
    block, side = filled(Block(16, 2, 6)), 6
    x = torch.randn(2, *size, 16, generator=torch.Generator().manual_seed(0))
    windows = Windows(x.shape[:3], side, shift, x.device)
    with torch.inference_mode():
        seen = block.attn(x.flatten(0, 2), windows).view_as(x)
        expected = torch.stack([slow_attention(block, image, side, shift) for image in x])
    assert torch.allclose(seen, expected, atol=1e-5, rtol=0)


def test_windows_of_opposite_edges_of_a_shifted_map_do_not_mix() -> None:
    block = filled(Block(16, 2, 6))
    x = torch.randn(1, 12, 12, 16, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[:, 0] += 1
    windows = Windows(x.shape[:3], 6, 3, x.device)
    with torch.inference_mode():
        before, after = (block.attn(image.flatten(0, 2), windows).view_as(x) for image in (x, changed))
    assert not torch.allclose(before[:, :3], after[:, :3], atol=1e-3)
    assert torch.equal(before[:, 3:], after[:, 3:])


def test_maps_have_four_scales_and_a_batch_equals_single_images() -> None:
    swin = filled(Swin(SMALL))
    images = torch.randn(3, 3, 96, 160, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        together, alone = swin(images), [swin(image[None]) for image in images]
    assert [tuple(x.shape[1:]) for x in together] == [(16, 24, 40), (32, 12, 20), (64, 6, 10), (128, 3, 5)]
    for scale, maps in enumerate(together):
        assert torch.allclose(maps, torch.cat([single[scale] for single in alone]), atol=1e-5, rtol=0)
    assert not torch.allclose(alone[0][-1], alone[1][-1], atol=1e-2)


@pytest.mark.parametrize("short", ["vitB", "vitL"])
def test_entries_are_those_of_official_checkpoints_but_for_computed_constants(shared: Path, short: str) -> None:
    manifest = json.loads((shared / "parity" / "scan" / f"manifest_scan_{short}.json").read_text())
    variant = VARIANTS[f"scan_{short}"]
    with torch.device("meta"):
        parts = {"backbone.": Swin(variant), "sem_seg_head.": MaskNetwork(variant)}
    for prefix, module in parts.items():
        official = {name.removeprefix(prefix): value for name, value in manifest.items() if name.startswith(prefix)}
        computed = {name for name, (_, dtype) in official.items() if dtype == "int64"}
        assert computed == (set(constants(variant)) if prefix == "backbone." else set())
        expected = {name: tuple(shape) for name, (shape, _) in official.items() if name not in computed}
        assert {name: tuple(value.shape) for name, value in module.state_dict().items()} == expected
