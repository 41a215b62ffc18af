"""Checkpoints that fit are taken, all others are refused with words that help."""

import contextlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ovss_ray.errors import OvssError
from ovss_ray.models import checkpoint, fake
from ovss_ray.models.alpha_clip import network as alpha_clip_network
from ovss_ray.models.san import network
from ovss_ray.models.san.network import San
from ovss_ray.models.san.variants import VARIANTS
from tests.checkpoints import SMALL, small_state

Change = Callable[[dict[str, torch.Tensor]], object]


def load(path: Path) -> San:
    return network.load("small", [path], variant=SMALL)


def saved(tmp_path: Path, content: object, **options: bool) -> Path:
    torch.save(content, tmp_path / "given.pth", **options)
    return tmp_path / "given.pth"


def test_every_official_layout_gives_the_same_network(tmp_path: Path, small: Path) -> None:
    state, wanted = small_state(), load(small).state_dict()
    optimizer = {"optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}}
    safetensors.torch.save_file(state, tmp_path / "given.safetensors")
    paths = [tmp_path / "given.safetensors"]
    for i, (content, zipped) in enumerate([({"model": state, **optimizer}, True), (state, True), (state, False)]):
        paths.append(tmp_path / f"given{i}.pth")
        torch.save(content, paths[-1], _use_new_zipfile_serialization=zipped)
    for path in paths:
        found = load(path).state_dict()
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted), path.name


def test_entries_that_inference_does_not_use_may_be_absent(tmp_path: Path) -> None:
    state = {name: value for name, value in small_state().items() if name not in network.UNUSED}
    assert load(saved(tmp_path, {"model": state})).variant == SMALL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("clip_rec_head.proj"), r"Missing: clip_rec_head\.proj\."),
        (lambda state: state.update(extra=torch.zeros(1)), r"Unexpected: extra\."),
        (
            lambda state: state.update({"clip_rec_head.proj": torch.zeros(3, 2)}),
            r"Different shape: clip_rec_head\.proj \(3, 2\) instead of \(48, 32\)\.",
        ),
        (lambda state: [state.pop(name) for name in list(state)[:9]], r"Missing: .*, .*, .*, .* and 5 more"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused_by_name(tmp_path: Path, change: Change, message: str) -> None:
    state = small_state()
    change(state)
    with pytest.raises(OvssError, match=message):
        load(saved(tmp_path, {"model": state}))


def test_the_checkpoint_of_the_other_variant_is_recognised() -> None:
    with torch.device("meta"):
        large, base = San(VARIANTS["san_vit_large_14"]), San(VARIANTS["san_vit_b_16"])
    others = network._others("san_vit_b_16")
    with pytest.raises(OvssError, match="It is a checkpoint of san_vit_large_14: write that name"):
        checkpoint.fill(base, large.state_dict(), Path("large.pth"), "san_vit_b_16", others)


class Bomb:
    """What a malicious checkpoint would hold."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, ("touch exploded",)


def test_a_checkpoint_that_wants_to_run_code_is_refused_unrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps({"model": Bomb()}, protocol=2))
    for path in (saved(tmp_path, {"model": Bomb()}), tmp_path / "bomb.pkl"):
        with pytest.raises(
            OvssError, match=r"not a checkpoint that can be read safely\. No code in the file was run"
        ) as found:
            load(path)
        assert "nsupported" in str(found.value)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["given.pth", "given.safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04 and then nothing"])
def test_a_file_that_is_no_checkpoint_is_an_error_that_names_it(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OvssError, match=rf"{name} (is not a|cannot be read as a) checkpoint.*download complete"):
        load(tmp_path / name)


@pytest.mark.parametrize("name", ["given.pth", "given.pt", "given.safetensors"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"\n<!DOCTYPE html><title>Sign in</title>", "it looks like a web page"),
        (b'\xef\xbb\xbf<?xml version="1.0"?><Error/>', "it looks like a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a Git LFS pointer.*git lfs pull"),
    ],
)
def test_what_lies_in_the_place_of_a_checkpoint_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    for read in (load, lambda path: alpha_clip_network.load("alpha_clip_vit_b_16", [path, path])):
        with pytest.raises(OvssError, match=rf"{name} is not a checkpoint: .*{said}"):
            read(tmp_path / name)


def test_a_download_that_was_cut_off_is_an_error_that_says_so(tmp_path: Path, small: Path) -> None:
    (tmp_path / "cut.pth").write_bytes(small.read_bytes()[:100_000])
    with pytest.raises(OvssError, match="Was the download complete"):
        load(tmp_path / "cut.pth")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_damage_to_what_a_file_says_of_itself_is_an_error_that_names_it(tmp_path: Path, zipped: bool) -> None:
    data = saved(tmp_path, {"a": torch.zeros(3), "b": torch.ones(2, 2)}, _use_new_zipfile_serialization=zipped)
    whole = data.read_bytes()
    for place in range(0, len(whole), 3):
        data.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        with contextlib.suppress(OvssError):
            checkpoint.read(data)


@pytest.mark.parametrize("content", [{"model": {"a": 1}}, [torch.zeros(1)], {}, {"epoch": 3}])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(OvssError, match="contains no state dict"):
        load(saved(tmp_path, content))


def test_the_text_tower_loads_by_itself_and_agrees_with_the_whole(small: Path) -> None:
    tower, whole = network.load_text("small", [small], variant=SMALL), load(small)
    tokens = torch.tensor([[49406, 320, 1125, 49407]])
    with torch.inference_mode():
        assert torch.equal(tower(tokens), whole.ov_classifier(tokens))
    assert not any(name.startswith("clip") for name in tower.state_dict())


def test_half_precision_files_are_computed_in_single_precision(tmp_path: Path) -> None:
    halved = {name: value.half() for name, value in small_state().items()}
    assert all(value.dtype == torch.float32 for value in load(saved(tmp_path, halved)).state_dict().values())


def test_an_unknown_precision_is_an_error_that_names_the_known_ones(small: Path) -> None:
    with pytest.raises(OvssError, match="unknown precision 'fp16'; write one of fp32, bf16, int8"):
        network.load("small", [small], precision="fp16", variant=SMALL)


def test_made_up_values_follow_the_rule_of_the_goldens(shared: Path) -> None:
    scope: dict[str, object] = {}
    exec((shared / "parity" / "deterministic.py").read_text(), scope)  # the reference rule, which is not ours to commit
    reference = scope["tensor"]
    assert callable(reference)
    for name, shape in {
        "a.weight": (4, 3, 2, 2),
        "b.bias": (5,),
        "c.weight": (5,),
        "d": (1, 7),
        "logit_scale": (),
    }.items():
        assert torch.equal(fake.tensor(name, shape, 3), reference(name, shape, torch.float32, 3)), name
