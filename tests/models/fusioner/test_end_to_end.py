"""The official evaluation loop on six episodes, through `ovss evaluate`, with the network of the released size."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovss_ray.reports import totals
from ovss_ray.reports.schema import Report
from ovss_ray.runs.folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1800)]
NUMBERS = range(6, 11)
"""Label values of fold 1"""


def data_root(shared: Path, expected: dict[str, np.ndarray], root: Path) -> Path:
    """Write the golden's photographs and masks in VOC's layout, and its episodes as a list of ids."""
    for name in ("JPEGImages", "SegmentationClassAug"):
        (root / "VOCdevkit/VOC2012" / name).mkdir(parents=True)
    for key, mask in expected.items():
        if key.startswith("mask_"):
            stem = key.removeprefix("mask_")
            photograph = shared / f"parity/inputs/{stem}.png"
            (root / f"VOCdevkit/VOC2012/JPEGImages/{stem}.png").symlink_to(photograph)
            Image.fromarray(mask).save(root / f"VOCdevkit/VOC2012/SegmentationClassAug/{stem}.png")
    (root / "mini.txt").write_text("\n".join(expected["episodes"].tolist()))
    return root


@pytest.mark.parametrize(("golden", "resolution"), [("org", "original"), ("resized", "square_224")])
def test_the_numbers_of_the_official_loop_come_out_of_the_command(
    shared: Path, fusioner_checkpoint: Path, tmp_path: Path, golden: str, resolution: str
) -> None:
    with np.load(shared / f"parity/fusioner/end_to_end_pascal_{golden}.npz") as stored:
        expected = dict(stored)
    root = data_root(shared, expected, tmp_path / "data")
    options = {"fusioner.weights": fusioner_checkpoint, "fusioner.resolution": resolution, "pools.0.workers": 1}
    command = [
        *(sys.executable, "-m", "ovss_ray", "evaluate", "fusioner_vit_l_14", "--benchmark", "pascal5i:1"),
        *("--data-root", root, "--ids", root / "mini.txt", "--out", tmp_path / "run"),
        *(part for key, value in options.items() for part in ("--set", f"{key}={value}")),
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reading = totals.read(RunFolder(str(tmp_path / "run")))["pascal5i:1"]
    (fold,) = (values for metric, values in reading.results() if metric.name == "episodes")
    pixels = expected["intersection"][0] + expected["union"][1]
    for ours, official in ((fold.hits, expected["intersection"][1]), (fold.union, expected["union"][1])):
        assert (np.abs(ours - official[NUMBERS]) <= 0.0005 * pixels[NUMBERS]).all()
    both = expected["intersection"][0].sum(), expected["union"][0].sum()
    assert (np.abs(np.subtract(fold.background, both)) <= 0.0005 * pixels.sum()).all()
    report = Report.load(tmp_path / "run").benchmarks["pascal5i:1"]
    assert report.metrics["fold_miou"] == pytest.approx(100 * float(expected["miou"]), abs=1e-3)
    assert report.metrics["fb_iou"] == pytest.approx(100 * float(expected["fb_iou"]), abs=1e-3)
    assert report.counts == {"episodes": 5, "without_foreground": 1, "classes_seen": 3, "classes_of_fold": 5}
    assert report.selection.ids is not None
    assert report.asks == "each episode asks for its class alone; the rest is background"
    assert resolution in report.notes[0]
    assert report.asks in done.stdout
