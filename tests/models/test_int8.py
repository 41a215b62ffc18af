"""Linear layers in 8-bit integers, and networks that have them."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ovss_ray.datasets import scenes
from ovss_ray.errors import OvssError
from ovss_ray.models import load
from ovss_ray.models.ovsam import network as ovsam
from ovss_ray.models.runtime import computing, int8
from ovss_ray.models.runtime.int8 import Int8Linear


@pytest.mark.parametrize(("inputs", "outputs", "biased"), [(64, 96, True), (200, 70, False), (768, 3072, True)])
def test_a_layer_differs_from_fp32_by_rounding_alone(inputs: int, outputs: int, biased: bool) -> None:
    drawn = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=drawn)
    bias = torch.randn(outputs, generator=drawn) if biased else None
    x = torch.randn(3, 17, inputs, generator=drawn) * torch.logspace(-6, 6, 17)[:, None]
    expected = F.linear(x, weight)
    got = Int8Linear(weight, bias)(x) - (0 if bias is None else bias)
    error = ((got - expected).square().mean(-1) / expected.square().mean(-1)).sqrt()
    assert error[:, 8:].max() < 0.03, "rows of every size; in small ones, the bias takes the digits"


def test_a_row_does_not_depend_on_the_other_rows_or_on_the_threads() -> None:
    drawn = torch.Generator().manual_seed(1)
    layer = Int8Linear(torch.randn(80, 64, generator=drawn), torch.randn(80, generator=drawn))
    rows = torch.randn(50, 64, generator=drawn) * torch.linspace(0, 9, 50)[:, None]
    together = layer(rows)
    assert torch.equal(torch.cat([layer(row[None]) for row in rows]), together)
    assert torch.equal(together[0], layer.bias), "a row of zeros"
    with computing(threads=1):
        assert torch.equal(layer(rows), together)


def test_a_network_has_nearly_the_labels_of_fp32() -> None:
    full, rounded = load("san_tiny"), load("san_tiny", precision="int8")
    assert any(isinstance(module, Int8Linear) for module in rounded.clip_rec_head.modules())
    assert not any(isinstance(module, Int8Linear) for module in rounded.ov_classifier.modules()), "text stays in fp32"
    names = scenes.BENCHMARKS["seen"].vocabulary.names
    drawn = [scenes.of_address(f"seen/validation/{number}")[0].image for number in range(2)]
    maps = [[network.segment(image, names) for image in drawn] for network in (full, rounded)]
    equal = np.mean([(one == other).mean() for one, other in zip(*maps, strict=True)])
    assert 0.95 < equal < 1


def test_int8_is_refused_where_it_cannot_be() -> None:
    with torch.device("meta"):
        network = ovsam.Ovsam(ovsam.VARIANTS["ovsam_rn50x16"])
    with pytest.raises(OvssError, match=r"precision int8 is for CPUs, not for cuda\. Set `precision` to bf16"):
        int8.placed(network, "cuda", "int8", ovsam.TOWERS)
    with pytest.raises(OvssError, match=r"int8 would not change Ovsam\. int8 needs an image transformer"):
        int8.placed(network, "cpu", "int8", ovsam.TOWERS)
