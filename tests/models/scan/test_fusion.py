"""The rules of fusion, by hand."""

import math

import pytest
import torch

from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.models.scan import fusion
from ovss_ray.models.scan.variants import Options

LOGITS = torch.tensor([[1.0, 2.0, 0.5], [0.0, 1.0, 3.0]])
CLIP_LOGITS = torch.tensor([[3.0, 1.0, 9.0]])
VALID = torch.tensor([True, False])


def softmax(*values: float) -> list[float]:
    return [math.exp(value) / sum(map(math.exp, values)) for value in values]


def test_a_mask_with_pixels_has_the_weighted_geometric_mean_of_both_scores() -> None:
    scores = fusion.scores(LOGITS, CLIP_LOGITS, VALID, Options(ensemble_weight=0.7))
    inside, outside = softmax(1, 2, 0.5)[:2], softmax(3, 1)
    expected = [a**0.3 * b**0.7 for a, b in zip(inside, outside, strict=True)]
    assert scores[0].tolist() == pytest.approx(expected)


def test_a_mask_without_pixels_keeps_a_power_of_its_in_vocabulary_score() -> None:
    scores = fusion.scores(LOGITS, CLIP_LOGITS, VALID, Options(ensemble_weight=0.7))
    assert scores[1].tolist() == pytest.approx([value**0.3 for value in softmax(0, 1, 3)[:2]])


def test_the_rule_log_normalises_so_that_void_keeps_its_probability() -> None:
    scores = fusion.scores(LOGITS, CLIP_LOGITS, VALID, Options(ensemble_weight=0.7, fusion="log"))
    inside, outside, void = softmax(1, 2, 0.5)[:2], softmax(3, 1), softmax(1, 2, 0.5)[2]
    fused = [a**0.3 * b**0.7 for a, b in zip(inside, outside, strict=True)]
    expected = [(1 - void) * value / sum(fused) for value in fused]
    assert scores[0].tolist() == pytest.approx(expected, rel=1e-5)
    assert float(scores[0].sum()) == pytest.approx(1 - void)


def test_a_weight_of_zero_counts_crops_alone() -> None:
    scores = fusion.scores(LOGITS, CLIP_LOGITS, VALID, Options(ensemble_weight=0))
    assert scores[0].tolist() == pytest.approx(softmax(3, 1))
    assert scores[1].tolist() == [0, 0]


def test_without_an_ensemble_the_logits_are_the_scores_void_included() -> None:
    options = Options(ensemble_weight=None)
    assert torch.equal(fusion.scores(LOGITS, CLIP_LOGITS[:0], torch.zeros(2).bool(), options), LOGITS)


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_without_any_mask_the_crops_count_as_ones(weight: float) -> None:
    scores = fusion.scores(LOGITS, CLIP_LOGITS[:0], torch.zeros(2).bool(), Options(ensemble_weight=weight))
    expected = LOGITS.softmax(-1)[:, :2] ** (1 - weight) if weight else torch.ones(2, 2)
    assert torch.allclose(scores, expected)


def test_wrong_options_say_what_is_known() -> None:
    with pytest.raises(UnknownName, match=r"mask_treshold.*Did you mean 'mask_threshold'"):
        Options.of({"mask_treshold": 0.3})
    with pytest.raises(OvssError, match="ensemble_weight=7: expected a number from 0 to 1"):
        Options(ensemble_weight=7)
    with pytest.raises(OvssError, match="unknown fusion 'sum'; write product or log"):
        Options.of({"fusion": "sum"})
