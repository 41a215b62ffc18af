"""Checkpoints are found, fetched, verified, or asked for with the line to type."""

import importlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch

from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.io import digests
from ovss_ray.models import fake, zoo
from ovss_ray.models.san import fake as san_fake
from ovss_ray.models.san.variants import VARIANTS, WEIGHTS
from ovss_ray.pipeline.stage import StageConfig
from tests.checkpoints import SMALL, small_checkpoint
from tests.web import Web

NAME = "san_vit_b_16"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OVSS_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Web() as server:
        yield server
        server.shutdown()


def test_a_path_that_is_given_is_taken(tmp_path: Path) -> None:
    (tmp_path / "mine.pth").write_bytes(b"x")
    assert zoo.find(NAME, tmp_path / "mine.pth") == tmp_path / "mine.pth"
    with pytest.raises(OvssError, match=r"file not found: .*other\.pth.*--set san\.weights=PATH"):
        zoo.find(NAME, tmp_path / "other.pth")


def test_a_file_in_the_folder_of_weights_is_found(folder: Path) -> None:
    assert zoo.lookup(NAME) is None
    folder.mkdir()
    (folder / "san_vit_b_16.pth").write_bytes(b"x")
    assert zoo.find(NAME) == zoo.lookup(NAME) == folder / "san_vit_b_16.pth"


def test_without_a_network_the_error_says_what_where_and_what_to_type(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection\nand more")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(OvssError) as caught:
        zoo.find(NAME)
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
    assert zoo.find(NAME) == folder / "san_vit_b_16.pth"
    (folder / "san_vit_b_16.pth").unlink()
    known = replace(WEIGHTS[NAME], sha256="0" * 64)
    monkeypatch.setitem(WEIGHTS, NAME, known)
    with pytest.raises(OvssError, match=r"instead of 0000.*Delete it and download it again"):
        zoo.find(NAME)


def test_a_file_of_the_wrong_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pth").write_bytes(b"abc")
    monkeypatch.setitem(WEIGHTS, NAME, replace(WEIGHTS[NAME], bytes=4))
    with pytest.raises(OvssError, match="has 3 bytes instead of 4"):
        zoo.verify(NAME, tmp_path / "a.pth")


def test_a_file_without_a_direct_url_is_to_be_downloaded_by_hand(folder: Path) -> None:
    assert zoo.lookup("scan_vitL") is None
    with pytest.raises(OvssError) as caught:
        zoo.find("scan_vitL")
    wanted = (str(folder / "SCAN.pth"), "no direct URL", "Download SCAN.pth from https://github.com/yongliu20/SCAN")
    assert all(
        part in str(caught.value) for part in (*wanted, "--set scan.weights=PATH", "ovss weights fake scan_vitL")
    )
    folder.mkdir()
    (folder / "SCAN.pth").write_bytes(b"x")
    assert zoo.find("scan_vitL") == folder / "SCAN.pth"


def test_a_network_without_a_published_file_says_so(folder: Path) -> None:
    folder.mkdir()
    assert zoo.lookup("scan_vitB") is None
    message = r"scan_vitB are missing.*not published.*offers no checkpoint.*--set scan\.weights=PATH"
    with pytest.raises(OvssError, match=message):
        zoo.find("scan_vitB")


def test_the_advice_names_the_option_of_every_stage_that_loads_a_checkpoint(tmp_path: Path) -> None:
    of_prompts, of_ovsam = r"sam_prompt\.weights for the stage sam_prompt", r"ovsam\.sam for the stage ovsam"
    option = rf"add --set sam\.weights=PATH, or {of_prompts}, or {of_ovsam}"
    with pytest.raises(OvssError, match=option):
        zoo.find("sam_vit_h", tmp_path / "none.pth")
    for name, weights in zoo.known().items():
        for setting in weights.other_options:
            use, _, key = setting.partition(".")
            assert key in StageConfig(use=use).kind().Config.model_fields, name


def test_an_unknown_checkpoint_is_answered_with_the_nearest_known_one() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'san_vit_large_14'"):
        zoo.find("san_vit_l_14")


def test_a_digest_follows_the_content_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"abc")
    assert digests.sha256(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    file.write_bytes(b"abcd")
    assert digests.sha256(file).startswith("88d4266fd4e6338d")


def test_every_variant_has_a_checkpoint_with_a_page_and_a_licence() -> None:
    assert zoo.families() == [
        f"ovss_ray.models.{name}" for name in ("alpha_clip", "fusioner", "ovsam", "sam", "san", "scan")
    ]
    names = [name for family in zoo.families() for name in zoo.variants(family) if not name.endswith("_small")]
    assert len(names) == len(set(names))  # tests/small_*.py add the small ones, without weights
    parts = {
        name for network in names for family in [zoo.family_of(network)[0]] for name in checkpoints(family, network)
    }
    assert set(names) <= parts == set(zoo.known())
    options = {"clip": "alpha_clip.base", "alpha": "alpha_clip.weights", "sam": "sam.weights", "san": "san.weights"}
    options |= {"scan": "scan.weights", "fusioner": "fusioner.weights", "ovsam": "ovsam.weights"}
    options |= {"clip_rn50x16": "ovsam.clip", "ovsam_sam2clip": "ovsam.neck"}
    options |= {"ovsam_demo_neck": "ovsam.neck", "ovsam_demo_fpn": "ovsam.fpn"}
    for name, weights in zoo.known().items():
        assert weights.licence
        assert zoo.option_of(name) == options.get(name, options[name.split("_")[0]])
        assert not weights.url or (weights.url.endswith(weights.file) and weights.page.startswith("https://"))


def checkpoints(family: str, network: str) -> tuple[str, ...]:
    """Names of a network's checkpoints."""
    listed = getattr(importlib.import_module(f"{family}.variants"), "checkpoints", None)
    return (network, *(listed(network) if listed else ()))


def test_a_made_up_checkpoint_is_told_from_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "san_small", SMALL)
    fake.write("san_small", tmp_path / "sub" / "fake.pth", seed=1)
    small_checkpoint(tmp_path / "other.pth")
    (tmp_path / "text.pth").write_bytes(b"ovss_ray_fake")
    assert zoo.is_fake(tmp_path / "sub" / "fake.pth")
    assert not zoo.is_fake(tmp_path / "other.pth")
    assert not zoo.is_fake(tmp_path / "text.pth")
    assert [file.name for file in (tmp_path / "sub").iterdir()] == ["fake.pth"]


def test_a_made_up_checkpoint_is_the_same_each_time_and_has_the_official_entries(shared: Path) -> None:
    one, same, other = (san_fake.state_dict(SMALL, seed) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["clip_rec_head.proj"], other["clip_rec_head.proj"])
    assert one["ov_classifier.attn_mask"][0].tolist() == [0.0] + [-float("inf")] * 76
    assert one["criterion.empty_weight"].shape == (172,)


def test_only_known_variants_can_be_made_up(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="san_vit_b_16"):
        fake.write("sam_vit_h", tmp_path / "a.pth")


def test_looking_for_weights_loads_no_torch() -> None:
    script = (
        "import sys, ovss_ray.models, ovss_ray.actors.san; from ovss_ray.models import zoo; "
        "zoo.find('alpha_clip_tiny'), zoo.fakeable(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


LOADING = "import sys; from ovss_ray.models import zoo; print(zoo.find('san_vit_b_16', sys.argv[1]))"


def test_two_processes_of_a_machine_download_a_checkpoint_once(
    web: Web, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, content = web.url("san.pth"), os.urandom(300_000)
    web.files["san.pth"], web.held = content, threading.Event()
    processes = [
        subprocess.Popen([sys.executable, "-c", LOADING, url], stdout=subprocess.PIPE, text=True) for _ in "12"
    ]
    while not any(folder.rglob("*.part")):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
    web.held.set()
    (first, second) = (Path(process.communicate(timeout=120)[0].strip()) for process in processes)
    assert first == second
    assert first.read_bytes() == content
    assert len(web.asked) == 3, "each looks which version there is, and one downloads"
    web.files["san.pth"], web.cuts = content[1:], [1000] * 9
    zoo._copy.cache_clear()
    with pytest.raises(OvssError, match=r"san\.pth: cannot be downloaded: .*IncompleteRead"):
        zoo.find(NAME, url)
    assert [file for file in folder.rglob("*san.pth*") if file.suffix != ".lock"] == [first], (
        "nothing is left of half a file"
    )
    with pytest.raises(OvssError, match=r"the weights: file not found: .*other\.pth"):
        zoo.find(NAME, web.url("other.pth"))
