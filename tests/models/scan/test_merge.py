"""A whole checkpoint from the files of SCAN's two trainings."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from ovss_ray.cli.weights import weights_app
from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.models import checkpoint, zoo
from ovss_ray.models.scan import network
from ovss_ray.models.scan.towers import MODEL, ORIGINAL, merge
from ovss_ray.models.scan.variants import VARIANTS, WEIGHTS
from tests.small_scan import SMALL, small_checkpoint


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "scan_small", SMALL)
        patch.setitem(WEIGHTS, "scan_small", WEIGHTS["scan_vitB"])
        yield small_checkpoint(tmp_path_factory.mktemp("merge") / "segmenter.pth")


@pytest.fixture(scope="module")
def tuned(segmenter: Path) -> dict[str, Tensor]:
    """A fine-tuned CLIP: every entry differs from the segmenter's."""
    state = checkpoint.stored(segmenter)
    return {key.removeprefix(MODEL): value + 1 for key, value in state.items() if key.startswith(MODEL)}


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("prefix", ["module.clip_model.", "module.", ""])
def test_the_fine_tuned_clip_replaces_the_pretrained_one_and_nothing_else(
    segmenter: Path, tuned: dict[str, Tensor], prefix: str, tmp_path: Path
) -> None:
    named = {prefix + key: value.half() for key, value in tuned.items()}
    if prefix:
        named |= {"module.original_clip.visual.proj": torch.zeros(2), f"{prefix}attn_mask": torch.zeros(9, 9)}
        content: object = {"epoch": 10, "name": "finetune", "state_dict": named, "optimizer": {"state": {}}}
    else:
        content = named
    if prefix == "module.":
        del named["module.original_clip.visual.proj"]
    clip = saved(tmp_path / "clip.pt", content)
    command = ["merge", "scan_small", "--clip", str(clip), "--segmenter", str(segmenter), "--out"]
    done = CliRunner().invoke(weights_app, [*command, str(tmp_path / "new/merged.pth")], catch_exceptions=False)
    assert f"--set scan.weights={tmp_path / 'new/merged.pth'}" in done.output
    before, after = checkpoint.stored(segmenter), checkpoint.stored(tmp_path / "new/merged.pth")
    assert after.keys() == before.keys()
    for key, value in before.items():
        replaced = key.startswith(MODEL)
        assert torch.equal(after[key], tuned[key.removeprefix(MODEL)].half() if replaced else value), key
        assert replaced or after[key].dtype == value.dtype
    assert zoo.is_fake(tmp_path / "new/merged.pth")
    adapter = network.load("scan_small", [tmp_path / "new/merged.pth"]).clip_adapter
    assert torch.equal(adapter.original_clip.proj, before[f"{ORIGINAL}proj"])
    assert torch.equal(adapter.clip_model.visual.proj, tuned["visual.proj"].half().float())


def test_files_that_do_not_fit_are_refused_with_what_differs(
    segmenter: Path, tuned: dict[str, Tensor], tmp_path: Path
) -> None:
    out = tmp_path / "merged.pth"
    less = {f"module.clip_model.{key}": value for key, value in tuned.items() if key != "visual.proj"}
    with pytest.raises(OvssError, match=r"less\.pt does not fit that of .*segmenter\.pth\. Missing: visual\.proj\."):
        merge("scan_small", segmenter, saved(tmp_path / "less.pt", less), out)
    other = {"module.clip_model.visual.proj": torch.zeros(3, 3)}
    with pytest.raises(OvssError, match=r"Different shape: visual\.proj \(3, 3\) instead of "):
        merge("scan_small", segmenter, saved(tmp_path / "other.pt", less | other), out)
    with pytest.raises(OvssError, match=r"words\.pt has no CLIP with an image tower: .*Pass the checkpoint .*--clip"):
        merge("scan_small", segmenter, saved(tmp_path / "words.pt", {"text_projection": torch.zeros(2)}), out)
    with pytest.raises(OvssError, match=r"words\.pt has no entries clip_adapter\.clip_model\.\*\. .*--segmenter"):
        merge("scan_small", tmp_path / "words.pt", saved(tmp_path / "clip.pt", tuned), out)
    for name, message in (("scan_vitB", r"segmenter\.pth is not a checkpoint of scan_vitB"), ("scan_b", "scan_vitB")):
        command = ["merge", name, "--clip", str(tmp_path / "clip.pt"), "--segmenter", str(segmenter)]
        with pytest.raises((OvssError, UnknownName), match=message):
            CliRunner().invoke(weights_app, command, catch_exceptions=False)
    assert not out.exists()
