"""MobileSAM's image encoder against timm's TinyViT, which has other names and begins stages where ours end."""

import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from ovss_ray.models import fake
from ovss_ray.models.sam import network
from ovss_ray.models.sam.generator import Generator
from ovss_ray.models.sam.network import Sam
from ovss_ray.models.sam.tiny_vit import UNUSED, TinyVitEncoder
from ovss_ray.models.sam.variants import VARIANTS
from ovss_ray.models.sam_layers.points import Settings

MOBILE = VARIANTS["sam_mobile"]


def values(module: nn.Module) -> dict[str, Tensor]:
    """Made-up values for all entries, the variances of batch norms above 0."""
    made = {name: fake.tensor(name, tuple(x.shape)) for name, x in module.state_dict().items() if x.is_floating_point()}
    return {name: 0.5 + x.abs() if "running_var" in name else x for name, x in made.items()}


def official(name: str) -> str:
    """The entry of mobile_sam.pt, without image_encoder, that an entry of timm's network is."""
    name = re.sub(r"\.conv(\.weight)$", r".c\1", name)
    name = re.sub(r"^patch_embed\.conv(\d)", lambda found: f"patch_embed.seq.{2 * (int(found[1]) - 1)}", name)
    name = re.sub(r"^stages\.(\d)\.downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", name)
    return name.replace("stages.", "layers.")


@pytest.mark.parametrize("pixels", [256, 352])
def test_the_encoder_is_timms_but_for_the_last_stride(pixels: int) -> None:
    theirs = timm.create_model("tiny_vit_5m_224", num_classes=0)
    theirs.stages[3].downsample.conv2.conv.stride = (1, 1)
    assert MOBILE.tiny_vit
    ours = TinyVitEncoder(MOBILE, MOBILE.tiny_vit).eval()
    given = values(ours)
    ours.load_state_dict(given, strict=False)
    renamed = {name: given[official(name)] for name, x in theirs.state_dict().items() if official(name) in given}
    missing, _ = theirs.eval().load_state_dict(renamed, strict=False)
    assert all(name.startswith("head.") or name.endswith("num_batches_tracked") for name in missing)
    assert {official(name) for name in renamed} == {name for name in given if not name.startswith("neck.")}
    images = torch.randn(2, 3, pixels, pixels, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = theirs.stages(theirs.patch_embed(images))
        found = ours.features(images)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def test_a_checkpoint_with_the_classifier_that_it_had_is_loaded(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = Sam(MOBILE)
    state = values(model) | {name: torch.zeros(1) for name in UNUSED}
    counts = [name for name in model.state_dict() if name.endswith("num_batches_tracked")]
    assert "image_encoder.layers.0.blocks.0.conv1.bn.num_batches_tracked" in counts
    torch.save(state | {name: torch.tensor(7) for name in counts}, tmp_path / "mobile_sam.pt")
    loaded = network.load("sam_mobile", [tmp_path / "mobile_sam.pt"])
    assert not loaded.image_encoder.training
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    settings = Settings(points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1)
    (found,) = Generator(loaded, settings).generate([image])
    assert len(found.boxes) == 12
