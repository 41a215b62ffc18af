"""The released SAM's answers as `tests/write_goldens.py` writes them, against ours."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ovss_ray.models.sam.network import Sam
from ovss_ray.models.sam.variants import VARIANTS
from tests import official_sam, write_goldens
from tests.paths import ROOT


@pytest.mark.parametrize("variant", ["small", pytest.param("sam_vit_b", marks=pytest.mark.slow)])
def test_the_answers_are_those_that_the_released_package_writes(variant: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.write_goldens", "segment_anything", "--variant", variant]
    done = subprocess.run([*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    golden = np.load(done.stdout.strip())
    numbers = official_sam.SMALL if variant == "small" else VARIANTS[variant]
    ours = Sam(numbers).eval().requires_grad_(False)
    ours.load_state_dict(official_sam.state(numbers))
    seen = ours.embed(golden["image"])
    np.testing.assert_allclose(seen.embedding[0, :, ::4, ::4], golden["embedding_sub"], rtol=0, atol=1e-4)
    for i, click in enumerate(golden["clicks"]):
        found = ours.predict(seen, points=click[None], labels=[1], multimask=True)
        np.testing.assert_allclose(found.logits, golden["low_res_logits"][i], rtol=0, atol=1e-4)
        np.testing.assert_allclose(found.predicted_iou, golden["predicted_iou"][i], rtol=0, atol=1e-4)
        wrong = np.packbits(found.masks, axis=-1) ^ golden["masks_packed"][i]
        assert not (wrong & ~golden["near_zero_packed"][i]).any()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["segment_anything", "/none"], "No such file or directory: '/none'"),
        (["segment_anything", "--variant", "vit_b_16"], "has no variant 'vit_b_16'; there are small, sam_vit_b"),
        (["san"], "san needs the path of a checkout, and --photographs DIR with bus.jpg, 0001TP_008550.png"),
    ],
)
def test_what_cannot_be_written_is_said(
    given: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["write_goldens", *given])
    with pytest.raises((SystemExit, FileNotFoundError)) as failure:
        write_goldens.main()
    assert said in str(failure.value) + capsys.readouterr().err
