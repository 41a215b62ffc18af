"""The modules that calibrate proposals are those of torch with the official connections."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ovss_ray.models.clip import WholeImageTower, as_map
from ovss_ray.models.scan.calibration import (
    Calibrated,
    FusionDecoder,
    LowPassFusion,
    QueryTransformer,
    gaussian,
    overview,
)
from tests.small_scan import CLIP, SMALL

WIDTH, HEADS, INNER = 16, 4, 24


def filled(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for value in module.parameters():
        nn.init.normal_(value, std=0.3)
    return module.eval().requires_grad_(False)


def test_the_query_transformer_is_torchs_over_sequences_of_one_query() -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, batch_first=True)
    official = filled(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False))
    own = QueryTransformer(WIDTH, HEADS, INNER, 3)
    own.load_state_dict(official.state_dict())
    x = torch.randn(2, 5, WIDTH)
    expected = official(x.flatten(0, 1)[:, None])[:, 0].unflatten(0, (2, 5))
    assert torch.allclose(own(x), expected, atol=1e-5)
    assert not torch.allclose(own(x), official(x), atol=1e-2)


def test_the_fusion_decoder_adds_torchs_attention_and_leaves_out_the_last_norm() -> None:
    own = filled(FusionDecoder(WIDTH, HEADS, 3))
    proposals, tokens = torch.randn(2, 5, WIDTH), torch.randn(2, 7, WIDTH)
    x = proposals
    for number, layer in enumerate(own.multiattn):
        attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        attention.load_state_dict(layer.state_dict())
        x = x + attention(x, tokens, tokens)[0]
        if number < 2:
            x = nn.functional.layer_norm(x, (WIDTH,), own.ln[number].weight, own.ln[number].bias)
    assert torch.allclose(own(proposals, tokens), x, atol=1e-5)


@pytest.mark.parametrize("side", [5, 6])
def test_the_filter_is_the_one_of_numpys_spectrum(side: int) -> None:
    module, x = filled(LowPassFusion(3)), torch.randn(2, 3, side, side)
    rows, columns = np.mgrid[:side, :side]
    middle = side // 2
    gap = np.exp(-((rows - middle) ** 2 + (columns - middle) ** 2) / (2 * 1.5**2))
    assert np.allclose(gaussian(side, side, 1.5, x), gap, atol=1e-6)
    spectrum = np.fft.fft2(x.numpy()) * (1 - gap)
    stacked = np.concatenate([spectrum.real, spectrum.imag], 1)
    for number, conv in enumerate((module.conv1, module.conv2)):
        stacked = np.einsum("oi,bihw->bohw", conv.weight[..., 0, 0].numpy(), stacked)
        stacked = stacked + conv.bias.numpy()[:, None, None]
        stacked = np.maximum(stacked, 0) if number == 0 else stacked
    expected = np.fft.ifft2(stacked[:, :3] + 1j * stacked[:, 3:]).real + x.numpy()
    assert np.allclose(module(x, 1.5), expected, atol=1e-4)


def test_the_filter_takes_the_highest_frequencies_and_leaves_the_mean() -> None:
    gap = gaussian(14, 14, 3, torch.zeros(1))
    assert gap[7, 7] == 1
    assert gap[0, 0] < 0.01
    board = (-1.0) ** (torch.arange(14)[:, None] + torch.arange(14))
    assert torch.fft.ifft2(torch.fft.fft2(board) * (1 - gap)).abs().max() < 1e-5
    assert torch.allclose(torch.fft.ifft2(torch.fft.fft2(torch.ones(14, 14)) * (1 - gap)).real, 1 - gap[0, 0])


@pytest.fixture(scope="module")
def tower() -> WholeImageTower:
    return filled(WholeImageTower.of(CLIP))  # type: ignore[return-value]


def test_an_overview_has_the_tokens_after_the_named_blocks(tower: WholeImageTower) -> None:
    images = torch.randn(2, 3, CLIP.pixels, CLIP.pixels)
    seen = overview(tower, images, (2, 3, 4), (1, 3))
    maps, tokens = tower(images, (2, 3, 4))
    assert all(torch.equal(own, other) for own, other in zip(seen.maps, maps.values(), strict=True))
    assert torch.equal(seen.embeddings, tower.project(tokens[:, 0]))
    x, _ = tower.embed(images)
    x = tower.resblocks[0](x)
    assert torch.equal(seen.class_tokens[:, 0], x[:, 0])
    assert torch.equal(seen.class_tokens[:, 1], tower.resblocks[2](tower.resblocks[1](x))[:, 0])


def test_a_tower_that_encodes_the_class_token_alone_at_last_embeds_as_the_whole_tower(tower: WholeImageTower) -> None:
    images = torch.randn(2, 3, CLIP.pixels, CLIP.pixels)
    whole = overview(tower, images, (4,), (1,)).embeddings
    assert torch.allclose(tower.encode(tower.conv1(images)), whole, atol=1e-5)


def test_the_tokens_of_the_levels_follow_each_other_and_each_has_its_own_sigma() -> None:
    module = filled(Calibrated(SMALL))
    maps = [as_map(torch.randn(2, 16, CLIP.width), (4, 4)) for _ in range(3)]
    tokens = module.clip_tokens(maps)
    assert tokens.shape == (2, 48, CLIP.embed)
    for i, (features, sigma) in enumerate(zip(maps, (9, 7, 3), strict=True)):
        alone: Tensor = module.oriclip_mlp(module.LFM(features, sigma).flatten(2).transpose(1, 2))
        assert torch.allclose(tokens[:, 16 * i : 16 * (i + 1)], alone, atol=1e-4)


def test_calibration_depends_on_tokens_and_photograph_but_not_on_other_proposals() -> None:
    module = filled(Calibrated(SMALL))
    proposals, tokens, embeddings = torch.randn(1, 6, 32), torch.randn(1, 48, 32), torch.randn(1, 32)
    first = module.calibrate(proposals, tokens, embeddings)
    changed = torch.cat([proposals[:, :5], torch.randn(1, 1, 32)], 1)
    assert torch.allclose(module.calibrate(changed, tokens, embeddings)[:, :5], first[:, :5], atol=1e-5)
    assert torch.allclose(module.calibrate(proposals, tokens, 7 * embeddings), first, atol=1e-5)
    assert not torch.allclose(module.calibrate(proposals, tokens, -embeddings), first, atol=1e-3)
    assert not torch.allclose(module.calibrate(proposals, -tokens, embeddings), first, atol=1e-3)
