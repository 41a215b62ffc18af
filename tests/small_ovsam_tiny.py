"""A smaller `ovsam_tiny` with a smaller `sam_tiny` as its teacher; the CLIP is the shipped one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ovss_ray.models.ovsam import variants as ovsam
from ovss_ray.models.sam import variants as sam
from ovss_ray.models.sam.network import Sam
from ovss_ray.training.recipes.sam.task import begin

TEACHER = replace(
    sam.VARIANTS["sam_tiny"], width=32, heads=2, layers=2, globals=(1,), pixels=128, embed=32, decoder_mlp=64,
    fit_width=32,
)  # fmt: skip
STUDENT = replace(ovsam.VARIANTS["ovsam_tiny"], width=32, heads=2, windows=(8, 0), pixels=128, embed=32, decoder_mlp=64)


def put(patch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Put both in the place of the shipped sizes, and return a checkpoint of the teacher, which is untrained."""
    patch.setitem(sam.VARIANTS, "sam_tiny", TEACHER)
    patch.setitem(ovsam.VARIANTS, "ovsam_tiny", STUDENT)
    model = Sam(TEACHER)
    begin(model, seed=3)
    torch.save(model.state_dict(), folder / "teacher.pth")
    return folder / "teacher.pth"
