"""Proposals of the small variant, and the rules of masked attention."""

from dataclasses import replace

import torch
from torch.nn import functional as F

from ovss_ray.models.scan.mask_decoder import MaskNetwork, attended, resized
from ovss_ray.models.scan.swin import Swin
from ovss_ray.models.scan.variants import VARIANTS
from tests.models.scan.conftest import filled

TINY = VARIANTS["scan_tiny"]


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_a_query_attends_to_probabilities_of_a_half_and_more() -> None:
    logits = torch.tensor([[[[-1.0, -1e-3, 0.0, 2.0]]]])
    assert attended(logits).tolist() == [[[False, False, True, True]]]


def test_a_query_whose_mask_is_empty_attends_everywhere() -> None:
    logits = torch.tensor([[[[-1.0, -2.0]], [[-1.0, 1.0]]]])
    assert attended(logits).tolist() == [[[True, True], [False, True]]]


def test_products_with_resized_features_are_resized_masks() -> None:
    features, embeddings = drawn(2, 8, 24, 40), drawn(2, 5, 8)
    masks = torch.einsum("bqc,bchw->bqhw", embeddings, features)
    expected = F.interpolate(masks, (3, 5), mode="bilinear", align_corners=False)
    found = torch.einsum("bqc,bchw->bqhw", embeddings, resized(features, torch.Size((3, 5))))
    assert torch.allclose(found, expected, atol=1e-5, rtol=0)


def test_unlike_images_in_a_batch_get_the_proposals_that_they_get_alone() -> None:
    swin, network = filled(Swin(TINY)), filled(MaskNetwork(TINY))
    images = drawn(2, 3, 96, 160) * torch.tensor([1, 2])[:, None, None, None]
    with torch.inference_mode():
        together = network(swin(images), every=True)
        alone = [network(swin(image[None]), every=True) for image in images]
    assert len(together) == TINY.decoder_layers + 1
    for layer, proposals in enumerate(together):
        assert proposals.embeddings.shape == (2, TINY.queries, TINY.clip.embed)
        assert proposals.mask_logits.shape == (2, TINY.queries, 24, 40)
        for i in range(2):
            single = alone[i][layer]
            assert torch.allclose(proposals.embeddings[i], single.embeddings[0], atol=1e-5, rtol=0)
            assert torch.allclose(proposals.mask_logits[i], single.mask_logits[0], atol=1e-5, rtol=0)
    last = together[-1]
    assert not torch.allclose(last.mask_logits[0], last.mask_logits[1], atol=1e-2)
    assert not torch.allclose(last.mask_logits, together[0].mask_logits, atol=1e-2)


def test_gradients_of_all_proposals_reach_all_parameters() -> None:
    small = replace(TINY, decoder_layers=4)
    parts = [filled(part(small)).requires_grad_() for part in (Swin, MaskNetwork)]
    swin, network = parts
    every = network(swin(drawn(1, 3, 64, 96)), every=True)
    sum(x.embeddings.square().mean() + x.mask_logits.square().mean() for x in every).backward()
    assert not [name for part in parts for name, value in part.named_parameters() if not value.grad.any()]
