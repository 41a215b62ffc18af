"""AlphaCLIP and CLIP against the official code, number by number; loading, naming, and what goldens do not exercise."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ovss_ray import models
from ovss_ray.benchmarks import catalog
from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.models import checkpoint, text, zoo
from ovss_ray.models.alpha_clip import network
from ovss_ray.models.alpha_clip import variants as alpha_clip_variants
from ovss_ray.models.alpha_clip.classifier import classifier, prompts
from ovss_ray.models.alpha_clip.network import AlphaClip
from ovss_ray.models.alpha_clip.variants import VARIANTS, Look, Naming
from ovss_ray.models.checkpoint import torchscript
from ovss_ray.structures.masks import regions
from ovss_ray.structures.vocabulary import Vocabulary
from tests.small_alpha_clip import SMALL, golden_files, save, small_state

FEATURES, LOGITS, INPUTS = 1e-4, 1e-3, 1e-5
"""The tolerances of GOLDENS.md."""
ARCHITECTURES = ("vit_b_16", pytest.param("vit_l_14_336", marks=pytest.mark.slow))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def golden(
    request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator["Golden"]:
    arch = request.param
    numbers = dict(np.load(shared / f"parity/alpha_clip/goldens_{arch}_seed0.npz"))
    files = save(golden_files(shared, arch), tmp_path_factory.mktemp(arch))
    yield Golden(numbers, models.load(f"alpha_clip_{arch}", files))
    for file in files:
        file.unlink()


class Golden:
    """What the official code made, and the network with its weights, loaded from the two files."""

    def __init__(self, numbers: dict[str, np.ndarray], model: AlphaClip) -> None:
        self.numbers, self.model = numbers, model
        self.names = [str(name) for name in numbers["names"]]
        self.images = [str(name) for name in numbers["images"]]
        self.regions = 6 if model.variant.layers == 12 else 1
        """Regions that are compared in each image: every one costs the large network a pass of six seconds."""

    def close(self, key: str, found: torch.Tensor, tolerance: float, most: int | None = None) -> None:
        expected = self.numbers[key][:most]
        assert found.shape == expected.shape
        assert np.abs(found.numpy() - expected).max() <= tolerance, key


def test_tokens_and_word_embeddings_are_the_official_ones(golden: Golden) -> None:
    for suffix in ("", "_no_period"):
        wanted = [f"a photo of a {name}{'' if suffix else '.'}" for name in golden.names]
        tokens, _ = text.tokenise(wanted)
        assert np.array_equal(tokens.numpy(), golden.numbers[f"tokens{suffix}"])
        unit = golden.numbers[f"text_features{suffix}"]
        unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
        found = text.embed_prompts(golden.model.text, wanted).numpy()
        assert np.abs(found - unit).max() <= FEATURES


def test_features_of_the_official_inputs_are_the_official_ones(golden: Golden) -> None:
    """In the README's geometry, whose inputs misplace the region (fault 3) and which is therefore no `fit` of ours."""
    rows = golden.model.classifier(Vocabulary.of(golden.names), Naming())
    for image in golden.images:
        picture, alphas = (torch.tensor(golden.numbers[f"{image}/readme/{kind}"]) for kind in ("image_tensor", "alpha"))
        with torch.inference_mode():
            some = alphas[: min(2, golden.regions)]
            found = golden.model.visual.look(picture[None], some, torch.zeros(len(some), dtype=torch.int64))
        golden.close(f"{image}/readme/image_features", found, FEATURES, most=len(some))
        golden.close(f"{image}/readme/logits", rows(nn.functional.normalize(found, dim=-1)), LOGITS, most=len(some))


def test_images_masks_and_names_get_the_official_inputs_and_logits(golden: Golden) -> None:
    """In the geometry of the official evaluation, from pixels to logits."""
    for name in golden.images:
        image, masks = golden.numbers[f"{name}/image"], golden.numbers[f"{name}/masks"]
        boxes, bits = regions.pack(masks)
        views = list(golden.model.viewer(image, Look(fit="center_crop")).views(boxes, regions.Masks(boxes, bits)))
        golden.close(f"{name}/aligned/image_tensor", views[0].picture, INPUTS)
        golden.close(f"{name}/aligned/alpha", torch.stack([view.alpha for view in views]), INPUTS)
        found = golden.model.classify(image, masks[: golden.regions], golden.names, fit="center_crop")
        golden.close(f"{name}/aligned/logits", found, LOGITS, most=golden.regions)


@pytest.mark.parametrize("golden", ["vit_b_16"], indirect=True)
def test_the_reference_project_gets_the_same_scores_from_the_same_inputs_but_for_two_faults(
    golden: Golden, shared: Path
) -> None:
    """Fault 7: its temperature is 100 · exp(1.2). Fault 1: where it ran, its prompts were "a photo of a ('wall',)"."""
    vfss = np.load(shared / "parity/alpha_clip/vfss_variants_vit_b_16_seed0.npz")
    names = [str(name) for name in vfss["names"]]
    variants = ("none", "bbox_masks", "blurred_masks", "black_background_masks")
    pictures, alphas, scores = (
        torch.stack([torch.tensor(vfss[f"{one}/{kind}"][k]) for k, one in enumerate(variants)])
        for kind in ("image_tensor", "alpha", "logits")
    )
    with torch.inference_mode():
        embeddings = golden.model(pictures, alphas, torch.arange(4))
    naming = Naming(templates=("a photo of a {}",))
    found = golden.model.classifier(Vocabulary.of(names), naming)(embeddings)
    assert (found * np.exp(1.2) - scores).abs().max() < LOGITS * np.exp(1.2)
    good, faulty = (
        text.embed_prompts(golden.model.text, [template.format(name) for name in names])
        for template in ("a photo of a {}", "a photo of a ('{}',)")
    )
    assert np.abs((good * faulty).sum(1).numpy() - vfss["text_cos_good_vs_tuple_prompt"]).max() < FEATURES


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return save(small_state(), tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def small(files: tuple[Path, Path]) -> AlphaClip:
    return network.load("alpha_clip_small", files)


def picture(height: int = 40, width: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An image and three masks."""
    drawn = np.random.default_rng(seed)
    masks = np.zeros((3, height, width), bool)
    masks[0, 5:20, 10:30] = masks[1, :, :7] = masks[2, 15:16, 15:16] = True
    return drawn.integers(0, 256, (height, width, 3), np.uint8), masks


def test_plain_clip_is_alpha_clip_without_the_fourth_channel(files: tuple[Path, Path], small: AlphaClip) -> None:
    """AlphaCLIP is initialised from CLIP with a convolution of zeros: both then say the same."""
    patch = pytest.MonkeyPatch()
    patch.setitem(VARIANTS, "clip_small", replace(SMALL, base=""))
    with patch.context():
        plain = network.load("clip_small", files[:1])
        assert "visual.conv1_alpha.weight" not in plain.state_dict()
    assert plain.embed_photographs([]).shape == (0, SMALL.embed)
    image, masks = picture()
    base, visual = small_state()
    fresh = {**{name.removeprefix("visual."): value for name, value in base.items() if name.startswith("visual.")}}
    fresh["conv1_alpha.weight"] = torch.zeros_like(visual["conv1_alpha.weight"])
    small_zero = network.AlphaClip(SMALL).eval()
    small_zero.load_state_dict(
        {**small.state_dict(), **{f"visual.{name}": value for name, value in checkpoint.image_tower(fresh).items()}}
    )
    one, other = (model.classify(image, masks, ["sky", "car"], context="crop") for model in (plain, small_zero))
    assert torch.allclose(one, other, atol=1e-4)
    assert not torch.allclose(one, small.classify(image, masks, ["sky", "car"], context="crop"), atol=1e-2)


def test_the_fourth_channel_decides(small: AlphaClip) -> None:
    image, masks = picture()
    seen, blind = (small.classify(image, masks, ["sky", "car"], alpha=alpha) for alpha in ("mask", "ones"))
    assert not torch.allclose(seen[0], seen[1], atol=1e-2)
    assert torch.allclose(blind[0], blind[1], atol=1e-4)


def test_regions_in_batches_of_any_size_get_the_same_scores(small: AlphaClip) -> None:
    image, masks = picture()
    together = small.classify(image, masks, ["sky", "car"], background="blur")
    alone = small.classify(image, masks, ["sky", "car"], batch=1, background="blur")
    assert torch.allclose(together, alone, atol=1e-4)
    assert small.classify(image, masks[:0], ["sky", "car"]).shape == (0, 2)


def test_openais_archive_is_read_without_running_its_code(tmp_path: Path, files: tuple[Path, Path]) -> None:
    class Holder(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    base, _ = small_state()
    root = Holder()
    for name, value in {**base, "input_resolution": torch.tensor(224)}.items():
        *path, leaf = name.split(".")
        module = root
        for step in path:
            if not hasattr(module, step):
                module.add_module(step, Holder())
            module = getattr(module, step)
        half = value.half() if value.is_floating_point() else value
        module.register_buffer(leaf, half)
    torch.jit.save(torch.jit.trace(root, torch.zeros(1)), tmp_path / "ViT-B-16.pt")
    assert torchscript.is_archive(tmp_path / "ViT-B-16.pt")
    assert not torchscript.is_archive(files[0])
    found = torchscript.read(tmp_path / "ViT-B-16.pt")
    assert found.keys() == {*base, "input_resolution"}
    assert all(torch.equal(found[name], value.half().float()) for name, value in base.items())
    loaded = network.load("alpha_clip_small", (tmp_path / "ViT-B-16.pt", files[1]))
    assert loaded.text.logit_scale.dtype == torch.float32


def test_an_archive_that_refers_to_anything_else_is_refused(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "bomb.pt", "w") as archive:
        archive.writestr("x/data.pkl", b"cos\nsystem\n(S'touch exploded'\ntR.")
        archive.writestr("x/constants.pkl", b"")
    with pytest.raises(
        OvssError, match=r"bomb\.pt cannot be read .*the archive refers to os\.system, which is not allowed\. No code"
    ):
        torchscript.read(tmp_path / "bomb.pt")


def test_files_that_do_not_fit_are_refused_by_name(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(OvssError, match=r"visual\.pth is not a checkpoint of clip_small\. Missing: text_projection,"):
        network.load("alpha_clip_small", files[::-1])
    with torch.device("meta"):
        large = network.RegionTower(VARIANTS["alpha_clip_vit_l_14"])
    with pytest.raises(OvssError, match="It is a checkpoint of alpha_clip_vit_l_14: write that name"):
        network.checkpoint.fill(
            network.RegionTower(SMALL), large.state_dict(), Path("l.pth"), "x", network._others("x")
        )
    with pytest.raises(OvssError, match=r"clip_vit_b_16 has 1 checkpoints .*found 2 paths"):
        zoo.files("clip_vit_b_16", files)
    with pytest.raises(UnknownName, match="Did you mean 'alpha_clip_vit_b_16'"):
        models.load("alpha_clip_vit_b16", files)


def test_every_variant_has_a_checkpoint_and_so_has_its_base() -> None:
    official = {name for name in VARIANTS if not name.endswith("_small")}
    assert official == set(alpha_clip_variants.WEIGHTS)
    assert {VARIANTS[name].base for name in official} - {""} < official


def test_checkpoints_that_lie_on_no_hub_are_fetched_from_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, content = "clip_vit_b_16", b"a checkpoint"
    (tmp_path / "ViT-B-16.pt").write_bytes(content)
    monkeypatch.setenv("OVSS_WEIGHTS", str(tmp_path / "weights"))
    known = zoo.weights_of(name)
    assert known.url.split("/")[-2] == known.sha256  # as OpenAI publishes it
    here = replace(known, url=(tmp_path / "ViT-B-16.pt").as_uri(), sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(alpha_clip_variants.WEIGHTS, name, here)
    assert zoo.find(name).read_bytes() == content
    zoo.find(name).unlink()
    monkeypatch.setitem(alpha_clip_variants.WEIGHTS, name, replace(here, url=(tmp_path / "nowhere.pt").as_uri()))
    with pytest.raises(
        OvssError, match=r"the download failed.*github\.com/openai/CLIP.*--set alpha_clip\.base=PATH, or "
    ):
        zoo.find(name)
    assert [file.suffix for file in (tmp_path / "weights").iterdir()] == [".lock"]


def test_wrong_options_and_masks_are_errors_that_say_what_is_known(small: AlphaClip) -> None:
    image, masks = picture()
    with pytest.raises(OvssError, match=r"fit='pad'.*'pad_square' or 'center_crop'.*templates, synonyms"):
        small.classify(image, masks, ["sky"], fit="pad")
    with pytest.raises(OvssError, match=r"fits=.*The options are fit, context"):
        small.classify(image, masks, ["sky"], fits="pad")
    with pytest.raises(OvssError, match=r"templates=.*must have one \{\}"):
        small.classify(image, masks, ["sky"], templates=("a photo",))
    with pytest.raises(OvssError, match=r"dtype uint8 and shape \(3, 40, 60\)\. Pass .*bool, shape \(R, 40, 60\)"):
        small.classify(image, masks.astype(np.uint8), ["sky"])


def test_bf16_runs_the_image_tower_and_stays_near_fp32(files: tuple[Path, Path], small: AlphaClip) -> None:
    coarse = network.load("alpha_clip_small", files, precision="bf16")
    image, masks = picture()
    one, other = (model.classify(image, masks, ["sky", "car"]) for model in (small, coarse))
    assert other.dtype == torch.float32
    assert not torch.equal(one, other)
    assert torch.allclose(one, other, atol=2)


SHARED_NAMES = Vocabulary.of([["bag"], ["Bag", "handbag"], ["pot", "jar"], ["pot"], ["pot", "jar", "vase"], ["x", "y"]])


def test_synonyms_become_prompts_as_asked() -> None:
    assert prompts(SHARED_NAMES, Naming())[1] == ("Bag, handbag",)
    first = prompts(SHARED_NAMES, Naming(synonyms="first"))
    assert first == [("bag",), ("handbag",), ("jar",), ("pot",), ("vase",), ("x",)]
    most = prompts(SHARED_NAMES, Naming(synonyms="max"))
    assert most == [("bag",), ("handbag",), ("jar",), ("pot",), ("vase",), ("x", "y")]
    assert prompts(SHARED_NAMES, Naming(synonyms="mean"))[5] == ("x", "y")
    assert prompts(Vocabulary.of([["a", "b"], ["b", "a"], ["b"]]), Naming(synonyms="first"))[2] == ("b",)


@pytest.mark.parametrize("synonyms", ["whole", "first", "max", "mean"])
def test_every_class_of_ade20k_847_can_be_predicted(small: AlphaClip, synonyms: str) -> None:
    """The reference project could never predict 34 of them, whose first names belong to earlier classes (fault 9)."""
    vocabulary, naming = catalog.load("ade20k:847").vocabulary, Naming(synonyms=synonyms)
    asked = prompts(vocabulary, naming)
    names = sorted({name.lower() for one in asked for name in one})
    unit = torch.nn.functional.normalize(
        torch.randn(len(names), 64, generator=torch.Generator().manual_seed(0)), dim=-1
    )
    parts = [unit[[names.index(name.lower()) for name in one]] for one in asked]
    rows = (
        torch.cat(parts)
        if synonyms == "max"
        else torch.stack([nn.functional.normalize(p.mean(0), dim=0) for p in parts])
    )
    best = classifier(rows, vocabulary, naming)(rows).argmax(1)
    assert len(set(best.tolist())) == 847 == len(vocabulary)


def test_the_best_name_of_a_class_counts_or_their_mean(small: AlphaClip) -> None:
    vocabulary, (image, masks) = Vocabulary.of([["sky", "heaven"], ["car"]]), picture()
    alone = small.classify(image, masks, ["sky", "heaven", "car"])
    most = small.classify(image, masks, vocabulary, synonyms="max")
    assert torch.allclose(most, torch.stack([alone[:, :2].amax(1), alone[:, 2]], 1), atol=1e-4)
    rows = small.classifier(Vocabulary.of(["sky", "heaven"]), Naming()).rows
    mean = small.classifier(vocabulary, Naming(synonyms="mean")).rows
    assert torch.allclose(mean[0], 100 * nn.functional.normalize(rows.mean(0), dim=0), atol=1e-3)
    whole = small.classify(image, masks, vocabulary)
    assert torch.allclose(whole[:, 0], small.classify(image, masks, ["sky, heaven"])[:, 0], atol=1e-4)


def test_templates_are_averaged(small: AlphaClip) -> None:
    naming = Naming(templates=("a photo of a {}.", "{}"))
    rows = small.classifier(Vocabulary.of(["sky"]), naming).rows
    parts = text.embed_prompts(small.text, ["a photo of a sky.", "sky"])
    assert torch.allclose(rows[0], 100 * nn.functional.normalize(parts.mean(0), dim=0), atol=1e-3)
