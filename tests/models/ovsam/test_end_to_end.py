"""The official evaluation of two images, through `ovss evaluate`, with the network of the released size.

The official code, too, has an accuracy of 0 here: its random weights name all six instances wrongly, in both passes of
golden_eval.json. Runs whose names are right are in tests/runs/test_ovsam_runs.py.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ovss_ray.models.ovsam.network import Ovsam
from ovss_ray.models.ovsam.parts import WORDS
from ovss_ray.reports.schema import Report
from tests.paths import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1800)]


@pytest.fixture
def weights(ovsam: Ovsam, tmp_path: Path) -> Iterator[Path]:
    """The weights of the goldens in one file, with the official names: 1.6 GB."""
    path = tmp_path / "ovsam.pth"
    torch.save({name.removeprefix(WORDS): value for name, value in ovsam.state_dict().items()}, path)
    yield path
    path.unlink()


def test_the_numbers_of_the_official_evaluation_come_out_of_the_command(
    shared: Path, weights: Path, golden_tensor: Callable[..., Tensor], tmp_path: Path
) -> None:
    folder = shared / "parity/ovsam"
    expected = json.loads((folder / "golden_eval.json").read_text())["result_predicted"]
    drawn = golden_tensor("cls_embed.RN50x16_CocoOVDataset", (80, 17, 768), torch.float32)
    np.save(tmp_path / "embeddings.npy", F.normalize(drawn, dim=-1).numpy())
    options = {"weights": str(weights), "embeddings": str(tmp_path / "embeddings.npy"), "official": True}
    stages = [{"use": "truth_prompts"}, {"use": "tests.golden_ovsam", "options": options}]
    config = {"keep_predictions": "none", "deadline": 1800, "pools": [{"workers": 1, "stages": stages}]}
    (tmp_path / "golden.yaml").write_text(json.dumps(config))
    command = [
        *(sys.executable, "-m", "ovss_ray", "evaluate", tmp_path / "golden.yaml"),
        *("--benchmark", "coco:instances_48_17", "--data-root", folder / "tiny_coco", "--limit", "2"),
        *("--out", tmp_path / "run"),
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    report = Report.load(tmp_path / "run").benchmarks["coco:instances_48_17"]
    groups = {name: report.groups[name].model_dump() for name in ("base", "novel")}
    assert report.metrics["instance_iou"] == pytest.approx(100 * expected["miou"], abs=1e-4)
    assert groups["base"]["instance_iou"] == pytest.approx(100 * expected["base_iou"], abs=1e-4)
    assert groups["novel"]["instance_iou"] == pytest.approx(100 * expected["novel_iou"], abs=1e-4)
    assert report.metrics["instance_accuracy"] == expected["score"] == 0
    assert (groups["base"]["instances"], groups["novel"]["instances"]) == (4, 2)
    assert "as in the published evaluation" in " ".join(report.notes)
