"""Checkpoints are found, fetched, verified, or asked for with the line to type."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch

from ovss_ray import weights
from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.models import fake
from ovss_ray.models.san_variants import VARIANTS
from tests.checkpoints import SMALL, small_checkpoint

NAME = "san_vit_b_16"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OVSS_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def test_a_path_that_is_given_is_taken(tmp_path: Path) -> None:
    (tmp_path / "mine.pth").write_bytes(b"x")
    assert weights.find(NAME, tmp_path / "mine.pth") == tmp_path / "mine.pth"
    with pytest.raises(OvssError, match=r"there is no file .*other\.pth.*--set san\.weights=PATH"):
        weights.find(NAME, tmp_path / "other.pth")


def test_a_file_in_the_folder_of_weights_is_found(folder: Path) -> None:
    assert weights.lookup(NAME) is None
    folder.mkdir()
    (folder / "san_vit_b_16.pth").write_bytes(b"x")
    assert weights.find(NAME) == weights.lookup(NAME) == folder / "san_vit_b_16.pth"


def test_without_a_network_the_error_says_what_where_and_what_to_type(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection\nand more")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(OvssError) as caught:
        weights.find(NAME)
    said = str(caught.value)
    wanted = (str(folder / "san_vit_b_16.pth"), "https://huggingface.co/Mendel192/san", "OVSS_WEIGHTS", "no connection")
    assert all(part in said for part in (*wanted, f"ovss weights fake {NAME}"))
    assert "and more" not in said


def test_a_download_goes_to_the_folder_of_weights_and_is_verified(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(repo: str, file: str, local_dir: Path) -> str:
        assert (repo, file) == ("Mendel192/san", "san_vit_b_16.pth")
        (Path(local_dir) / file).write_bytes(b"content")
        return str(Path(local_dir) / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert weights.find(NAME) == folder / "san_vit_b_16.pth"
    (folder / "san_vit_b_16.pth").unlink()
    known = replace(weights.WEIGHTS[NAME], sha256="0" * 64)
    monkeypatch.setitem(weights.WEIGHTS, NAME, known)
    with pytest.raises(OvssError, match=r"instead of 0000.*Delete it and download it again"):
        weights.find(NAME)


def test_a_file_of_the_wrong_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pth").write_bytes(b"abc")
    monkeypatch.setitem(weights.WEIGHTS, NAME, replace(weights.WEIGHTS[NAME], bytes=4))
    with pytest.raises(OvssError, match="has 3 bytes instead of 4"):
        weights.verify(NAME, tmp_path / "a.pth")


def test_an_unknown_checkpoint_is_answered_with_the_nearest_known_one() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'san_vit_large_14'"):
        weights.find("san_vit_l_14")


def test_a_digest_follows_the_content_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"abc")
    assert weights.sha256(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    file.write_bytes(b"abcd")
    assert weights.sha256(file).startswith("88d4266fd4e6338d")


def test_every_variant_has_a_checkpoint_with_a_page_and_a_licence() -> None:
    known = set(VARIANTS) - {"san_small"}  # which tests/small_san.py adds where it is imported
    assert known == {name for name in weights.WEIGHTS if name.startswith("san_")}
    for one in weights.WEIGHTS.values():
        assert one.licence
        assert not one.url or (one.url.endswith(one.file) and one.page.startswith("https://"))


def test_a_made_up_checkpoint_is_told_from_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "san_small", SMALL)
    fake.write("san_small", tmp_path / "sub" / "fake.pth", seed=1)
    small_checkpoint(tmp_path / "other.pth")
    (tmp_path / "text.pth").write_bytes(b"ovss_ray_fake")
    assert weights.is_fake(tmp_path / "sub" / "fake.pth")
    assert not weights.is_fake(tmp_path / "other.pth")
    assert not weights.is_fake(tmp_path / "text.pth")
    assert [file.name for file in (tmp_path / "sub").iterdir()] == ["fake.pth"]


def test_a_made_up_checkpoint_is_the_same_each_time_and_has_the_official_entries(shared: Path) -> None:
    one, same, other = (fake.state_dict(SMALL, seed) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["clip_rec_head.proj"], other["clip_rec_head.proj"])
    assert one["ov_classifier.attn_mask"][0].tolist() == [0.0] + [-float("inf")] * 76
    assert one["criterion.empty_weight"].shape == (172,)


def test_only_known_variants_can_be_made_up(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="san_vit_b_16"):
        fake.write("sam_vit_h", tmp_path / "a.pth")


def test_looking_for_weights_loads_no_torch() -> None:
    script = "import sys, ovss_ray.weights, ovss_ray.models, ovss_ray.actors.san; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
