"""The contextual shift: draws, replays, and tokens."""

import random

import numpy as np
import pytest
import torch

from ovss_ray.errors import OvssError
from ovss_ray.models.scan import shift

FOREGROUND = np.random.default_rng(0).random((5, 16)) < 0.4
FOREGROUND[3] = True
IMAGE = np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)


def test_tokens_are_drawn_block_by_block_and_region_by_region() -> None:
    drawn, source = shift.draw(FOREGROUND, 3, 0.3, random.Random(7)), random.Random(7)
    expected = np.zeros((5, 3, 16), bool)
    indices: list[int] = []
    for block in range(3):
        for region, foreground in enumerate(FOREGROUND):
            background = [token for token in range(16) if not foreground[token]]
            sample = source.sample(range(len(background)), int(0.3 * len(background)))
            indices += sample
            for place in sample:
                expected[region, block, background[place]] = True
    assert drawn.indices.tolist() == indices
    assert np.array_equal(drawn.replaced, expected)
    assert drawn.populations.tolist() == (~FOREGROUND).sum(1).tolist() * 3
    assert drawn.counts.tolist() == [int(0.3 * n) for n in (~FOREGROUND).sum(1)] * 3
    assert drawn.counts[3] == 0 < drawn.counts[0]


def test_draws_that_are_replayed_replace_the_same_tokens() -> None:
    drawn = shift.draw(FOREGROUND, 3, 0.3, random.Random(7))
    again = shift.replay(FOREGROUND, 3, 0.3, drawn.indices.tolist())
    assert np.array_equal(again.replaced, drawn.replaced)
    assert np.array_equal(again.indices, drawn.indices)


@pytest.mark.parametrize("change", [lambda v: v[:-1], lambda v: v + 16, lambda v: v - 16, lambda v: v[None]])
def test_draws_of_another_image_are_refused(change: object) -> None:
    drawn = shift.draw(FOREGROUND, 3, 0.3, random.Random(7))
    with pytest.raises(OvssError, match=rf"shift_indices .*5 regions and 3 CLIP blocks .*\({len(drawn.indices)},\)"):
        shift.replay(FOREGROUND, 3, 0.3, change(drawn.indices))  # type: ignore[operator]


def test_without_a_region_nothing_is_drawn() -> None:
    source = random.Random(0)
    drawn = shift.draw(np.zeros((0, 16), bool), 3, 0.5, source)
    assert drawn.replaced.shape == (0, 3, 16)
    assert drawn.indices.shape == drawn.counts.shape == (0,)
    assert source.getstate() == random.Random(0).getstate()


def test_the_generator_of_an_image_depends_on_seed_pixels_and_shape_alone() -> None:
    value = shift.generator(IMAGE, 0).random()
    assert shift.generator(np.asfortranarray(IMAGE.copy()), 0).random() == value
    other = IMAGE.copy()
    other[0, 0, 0] ^= 1
    different = {shift.generator(image, seed).random() for image, seed in ((IMAGE, 1), (other, 0))}
    assert len({value, shift.generator(IMAGE.reshape(8, 6, 3), 0).random(), *different}) == 4


def test_replaced_tokens_become_the_class_token_of_their_own_photograph() -> None:
    tokens, classes = torch.randn(3, 6, 4), torch.randn(3, 4)
    replaced = torch.tensor([[1, 0, 0, 0, 1], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0]]).bool()
    shifted = shift.shifted(tokens, replaced, classes)
    expected = tokens.clone()
    expected[0, 0] = expected[0, 4] = classes[0]
    expected[2, 1] = classes[2]
    assert torch.equal(shifted, expected)
