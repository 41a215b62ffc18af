"""Fusioner against the official code, number by number, and its evaluation of six episodes by `ovss evaluate`.

The weights of the released size are written once. Windows over a photograph cost a pass each, so one photograph has
them here; the episodes are of photographs resized to one window.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ovss_ray.models import checkpoint, fake, text
from ovss_ray.models.fusioner import network
from ovss_ray.models.fusioner.network import Fusioner, Prediction
from ovss_ray.reports import totals
from ovss_ray.reports.schema import Report
from ovss_ray.runs.folder import RunFolder
from tests.commands import ovss

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
FORWARD = [("pascal", "pascal", 1), ("coco", "coco", 1), ("multi", "pascal", 2)]
"""Golden, its normalisation, and the step between the logits that were kept"""
BOXES = ("full", "both_below_crop")
NUMBERS = range(6, 11)
"""Label values of fold 1"""


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "parity/fusioner"


@pytest.fixture(scope="module")
def fusioner_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An official checkpoint with the weights of the goldens, which are those of `ovss weights fake`: 1.9 GB."""
    path = tmp_path_factory.mktemp("fusioner") / "fusioner.pth"
    fake.write("fusioner_vit_l_14", path)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def model(folder: Path, fusioner_checkpoint: Path) -> Fusioner:
    manifest = json.loads((folder / "manifest_fusioner.json").read_text())["tensors"]
    state = checkpoint.read(fusioner_checkpoint)
    assert {name: [list(value.shape), "float32"] for name, value in state.items()} == manifest
    return network.load("fusioner_vit_l_14", [fusioner_checkpoint])


def photograph(shared: Path, name: str) -> np.ndarray:
    return np.array(Image.open(shared / f"parity/inputs/{name}.png").convert("RGB"))


def difference(ours: Any, golden: np.ndarray) -> float:
    ours = np.asarray(ours)
    assert ours.shape == golden.shape
    return float(np.abs(ours - golden).max())


def assert_flips_are_ties(pred: np.ndarray, logits: np.ndarray, golden: np.ndarray) -> None:
    """At most 0.05 % of the pixels differ, each within 1e-4 of the threshold (two classes: of each other)."""
    flipped = (pred != golden).any(0)
    assert flipped.mean() <= 0.0005
    with_threshold = np.sort(np.concatenate([logits, np.zeros_like(logits[:1])]), 0)
    assert ((with_threshold[-1] - with_threshold[-2])[flipped] <= 2e-4).all()


def test_the_weights_are_those_of_the_goldens(shared: Path, fusioner_checkpoint: Path) -> None:
    state = checkpoint.read(fusioner_checkpoint)
    for name in ("fusion.blocks.3.attn.qkv.weight", "text_model.logit_scale", "img_model.ln_pre.weight"):
        assert torch.equal(state[name], fake.tensor(name, tuple(state[name].shape), 0))


@pytest.mark.parametrize(("golden", "data_set", "step"), FORWARD)
def test_one_forward_pass(shared: Path, folder: Path, model: Fusioner, golden: str, data_set: Any, step: int) -> None:
    with np.load(folder / f"forward_{golden}.npz") as stored:
        expected = dict(stored)
    image, names = photograph(shared, str(expected["photo"])), [str(name) for name in expected["class_names"]]
    prompts = [template.format(name) for name in names for template in text.TEMPLATES["fusioner"]]
    assert np.array_equal(text.tokenise(prompts)[0].view(len(names), 32, 77), expected["tokens"])
    if "input_s" in expected:
        inputs = model.preprocess(image, data_set, "square_224").windows[0]
        assert np.array_equal(inputs[:, ::4, ::4], expected["input_s"])
    made = model.predict(image, names, data_set, "square_224")
    assert difference(made["text_embedding"], expected["text_embedding"]) <= 1e-7
    check_tokens(made, expected)
    assert difference(made["logits"][:, ::step, ::step], expected["logits"]) <= 1e-4
    assert_flips_are_ties(made["pred"], made["logits"].numpy(), expected["pred"])


def check_tokens(made: Prediction, expected: Mapping[str, np.ndarray]) -> None:
    assert difference(made["img_tokens"][::8, ::8], expected["img_tokens_s"]) <= 1e-5
    assert difference(made["fusion_patches"][::8, ::8], expected["fusion_patches_s"]) <= 1e-5
    assert difference(made["fusion_text"], expected["fusion_text"]) <= 1e-5
    assert difference(made["decoder"][::32, ::14, ::14], expected["decoder_s"]) <= 1e-4
    for name in ("img_tokens", "fusion_patches", "decoder"):
        values = made[name].numpy().astype(np.float64)
        sums = [values.mean(), values.std(), values.min(), values.max()]
        assert np.allclose(sums, expected[f"{name}_stats"][:4], atol=1e-4), name


@pytest.mark.parametrize("case", BOXES)
def test_windows_over_a_photograph(shared: Path, folder: Path, model: Fusioner, case: str) -> None:
    with np.load(folder / "windows_pascal.npz") as stored:
        expected = dict(stored)
    top, bottom, left, right = expected[f"{case}_box"]
    image = photograph(shared, str(expected["photo"]))[top:bottom, left:right]
    made = model.predict(image, [str(expected["class_name"])])
    assert difference(made["logits"][0, ::2, ::2], expected[f"{case}_logits_s"]) <= 1e-4
    assert_flips_are_ties(made["pred"], made["logits"].numpy(), expected[f"{case}_pred"][None])
    assert abs(int(made["pred"].sum()) - int(expected[f"{case}_foreground"])) <= 0.0005 * made["pred"].size


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


def test_the_numbers_of_the_official_loop_come_out_of_the_command(
    in_process: None, shared: Path, fusioner_checkpoint: Path, tmp_path: Path
) -> None:
    with np.load(shared / "parity/fusioner/end_to_end_pascal_resized.npz") as stored:
        expected = dict(stored)
    root = data_root(shared, expected, tmp_path / "data")
    options = {"fusioner.weights": fusioner_checkpoint, "fusioner.resolution": "square_224"}
    command = [
        *("evaluate", "fusioner_vit_l_14", "--benchmark", "pascal5i:1"),
        *("--data-root", root, "--ids", root / "mini.txt", "--out", tmp_path / "run"),
        *(part for key, value in options.items() for part in ("--set", f"{key}={value}")),
    ]
    done = ovss(*map(str, command))
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
    assert "square_224" in report.notes[0]
    assert report.asks in done.stdout
