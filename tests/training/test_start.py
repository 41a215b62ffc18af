"""Checkpoints from which a training starts: a file that does not fit is an error of one line."""

from pathlib import Path

import pytest
import torch

from ovss_ray.errors import OvssError
from ovss_ray.training import config
from tests.paths import ROOT


@pytest.mark.parametrize("content", [{"layer.weight": torch.zeros(2)}, {"positional_embedding": torch.zeros(4, 2)}])
@pytest.mark.parametrize(
    ("recipe", "setting"),
    [
        *((recipe, "start") for recipe in ("sam_tiny", "clip_tiny", "alpha_clip_tiny", "scan_clip_tiny")),
        *((recipe, "start") for recipe in ("ovsam_tiny_neck", "fusioner_tiny")),
        *(
            (recipe, "clip")
            for recipe in ("san_tiny", "scan_tiny", "scan_clip_tiny", "ovsam_tiny_neck", "fusioner_tiny")
        ),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(
    recipe: str, setting: str, content: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "other.pt")
    settings = config.load(ROOT / f"configs/train_{recipe}.yaml", [f"{setting}={tmp_path / 'other.pt'}"])
    with pytest.raises(OvssError, match=rf"^{setting}: .*other\.pt (does not fit|is not a checkpoint|has no fusion)"):
        config.part(settings.task, "task", "Task")(settings)
