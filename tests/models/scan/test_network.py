"""The whole SCAN in small, its checkpoints, and what the goldens do not exercise."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ovss_ray import models
from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.models import checkpoint, runtime
from ovss_ray.models.fake import clouds, write
from ovss_ray.models.san import fake as san_fake
from ovss_ray.models.san.variants import VARIANTS as SANS
from ovss_ray.models.scan import fake, network
from ovss_ray.models.scan.network import Scan
from ovss_ray.models.scan.towers import MODEL, ORIGINAL, UNUSED, ours
from ovss_ray.models.scan.variants import VARIANTS, Options
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.vocabulary import Vocabulary
from tests.small_scan import SMALL, small_checkpoint

WORDS = ["sky", "tree", "car", "dog"]
OPTIONS = Options(mask_threshold=0.3, replace_ratio=0.5)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("scan") / "small.pth")


@pytest.fixture(scope="module")
def model(file: Path) -> Scan:
    return load(file)


def load(*files: Path, precision: str = "fp32") -> Scan:
    return network.load("small", files, precision=precision, variant=SMALL)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [image[:90, :120] for image in clouds(3, 4)]


def test_the_state_dict_is_the_official_one_less_what_inference_does_not_use(shared: Path) -> None:
    for short in ("vitB", "vitL"):
        manifest = json.loads((shared / "parity" / "scan" / f"manifest_scan_{short}.json").read_text())
        with torch.device("meta"):
            state = checkpoint.shapes(Scan(VARIANTS[f"scan_{short}"]))
        left_out = {name for name in manifest if name in UNUSED or name.endswith("relative_position_index")}
        expected = {ours(name): torch.Size(shape) for name, (shape, _) in manifest.items() if name not in left_out}
        assert state == expected


def test_a_made_up_checkpoint_has_the_official_entries(shared: Path) -> None:
    made, official = (
        fake.state_dict(SMALL),
        json.loads((shared / "parity" / "scan" / "manifest_scan_vitB.json").read_text()),
    )
    kinds = {name: str(value.dtype).removeprefix("torch.") for name, value in made.items()}
    same = {name: dtype for name, (_, dtype) in official.items() if name in kinds}
    assert {name: kinds[name] for name in same} == same
    blocks = ("resblocks", "layers", "blocks", "multiattn", "ln.")
    assert {name for name in set(official) - set(kinds) if not any(block in name for block in blocks)} == set()


def test_official_files_load_as_they_are_published(model: Scan, file: Path, tmp_path: Path) -> None:
    state = torch.load(file, weights_only=True)["model"]
    extra = {"clip_adapter.clip_model.attn_mask": torch.zeros(77, 77)}
    stray = {"optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}, "iteration": 9}
    bare = {name: value for name, value in state.items() if name not in UNUSED and value.is_floating_point()}
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    for i, content in enumerate(({"model": state | extra, **stray}, {"model": bare}, {"model": half})):
        torch.save(content, tmp_path / f"{i}.pth")
        loaded = load(tmp_path / f"{i}.pth").state_dict()
        for name, value in model.state_dict().items():
            assert torch.equal(loaded[name], value.half().float() if i == 2 else value), name


def test_a_checkpoint_of_another_network_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(OvssError, match=r"small\.pth is not a checkpoint of scan_vitB\. .*Different shape: "):
        network.load("scan_vitB", [file])
    state = torch.load(file, weights_only=True)["model"]
    del state["learnable_weight"]
    torch.save({"model": state}, tmp_path / "less.pth")
    with pytest.raises(OvssError, match=r"less\.pth is not a checkpoint of small\. Missing: learnable_weight\."):
        load(tmp_path / "less.pth")


def test_a_second_file_is_the_clip_from_which_both_clips_start(tmp_path: Path) -> None:
    variant, sizes = VARIANTS["scan_tiny"], SANS["san_tiny"]
    own, base = fake.state_dict(variant), san_fake.state_dict(sizes)
    changed = "clip_adapter.clip_model.visual.proj"
    kept = {
        name: value
        for name, value in own.items()
        if not name.startswith((MODEL, ORIGINAL)) or name.endswith("visual.positional_embedding")
    }
    kept[ORIGINAL + "positional_embedding"] = own[ORIGINAL + "positional_embedding"]  # of another grid than CLIP's
    torch.save({"model": kept | {changed: own[changed]}}, tmp_path / "own.pth")
    torch.save({"model": base}, tmp_path / "base.pth")
    loaded = network.load("scan_tiny", [tmp_path / "own.pth", tmp_path / "base.pth"]).clip_adapter
    assert torch.equal(loaded.clip_model.visual.proj, own[changed])
    assert torch.equal(loaded.original_clip.proj, base["clip_rec_head.proj"])
    assert torch.equal(loaded.clip_model.visual.ln_post.weight, base["clip_rec_head.ln_post.weight"])
    assert torch.equal(loaded.clip_model.text_projection, base["ov_classifier.text_projection"])


def test_the_text_tower_alone_embeds_a_vocabulary_as_the_network_does(model: Scan, file: Path) -> None:
    words = Vocabulary.of([("sky", "air"), "tree"])
    rows = network.load_text("small", [file], variant=SMALL).classifier(words)
    assert torch.equal(rows, model.classifier(words))
    assert rows.shape == (3, 32)
    assert torch.allclose(rows.norm(dim=-1), torch.ones(3), atol=1e-5)
    assert torch.allclose(rows[0], model.classifier(Vocabulary.of(["sky, air"]))[0], atol=1e-6)


def steps(model: Scan, images: list[np.ndarray], batch: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Calibrated proposals, embeddings of crops, class scores, and mask probabilities of images in one call."""
    words = Vocabulary.of(WORDS)
    with torch.inference_mode():
        inputs = [model.preprocess(image) for image in images]
        features, rows = model(inputs), model.classifier(words)
        each = zip(images, inputs, features.mask_logits, features.class_tokens, strict=True)
        cuts = [model.cut(*one, OPTIONS) for one in each]
        crops = model.embed(cuts, batch).split([len(cut.regions) for cut in cuts])
        for i, cut in enumerate(cuts):
            valid = torch.from_numpy(cut.regions.valid)
            scores = model.scores(features.proposals[i], crops[i], valid, rows, OPTIONS)
            yield features.proposals[i], crops[i], scores, features.mask_logits[i].sigmoid()


@pytest.mark.parametrize("batch", [3, 1000])
def test_four_unlike_photographs_in_one_call_get_what_each_gets_alone(
    model: Scan, images: list[np.ndarray], batch: int
) -> None:
    together = list(steps(model, images, batch))
    alone = [next(steps(model, [image], 32)) for image in images]
    counts = set()
    for one, other in zip(together, alone, strict=True):
        counts.add(len(one[1]))
        for own, expected in zip(one, other, strict=True):
            assert torch.allclose(own, expected, atol=1e-5, rtol=0)
    assert len(counts) > 1
    assert not torch.allclose(alone[0][0], alone[1][0], atol=1e-2)


def test_no_more_crops_exist_than_one_forward_pass_takes(model: Scan, images: list[np.ndarray]) -> None:
    sizes: list[int] = []
    tower = model.clip_adapter.clip_model.visual
    hook = tower.conv1.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    list(steps(model, images, 5))
    hook.remove()
    assert set(sizes[:-1]) == {5}
    assert 1 <= sizes[-1] <= 5
    assert len(sizes) > 2


def test_a_prediction_is_the_same_each_time_and_another_seed_changes_the_crops_alone(
    model: Scan, images: list[np.ndarray]
) -> None:
    first, again, other = (
        model.predict(images[0], WORDS, mask_threshold=0.3, replace_ratio=0.5, seed=seed) for seed in (0, 0, 1)
    )
    for name in first:
        assert np.array_equal(first[name], again[name]), name
    assert torch.equal(first["in_vocab_logits"], other["in_vocab_logits"])
    assert not torch.equal(first["clip_logits"], other["clip_logits"])
    replayed = model.predict(
        images[0], WORDS, mask_threshold=0.3, replace_ratio=0.5, seed=5, shift_indices=first["shift.indices"]
    )
    assert torch.equal(first["clip_logits"], replayed["clip_logits"])


def test_a_photograph_without_any_mask_gets_its_in_vocabulary_classes(model: Scan, images: list[np.ndarray]) -> None:
    made = model.predict(images[0], WORDS, mask_threshold=1, ensemble_weight=0.5)
    assert not made["valid_flag"].any()
    assert made["clip_logits"].shape == (0, 5)
    assert torch.allclose(made["scores"], made["fusion.in_vocab_prob"] ** 0.5)
    assert made.label_map.shape == images[0].shape[:2]


def test_without_an_ensemble_nothing_is_cropped_and_void_may_win(model: Scan, images: list[np.ndarray]) -> None:
    made = model.predict(images[0], WORDS, ensemble_weight=None)
    assert "clip_logits" not in made
    assert made["scores"].shape == (SMALL.queries, 5)
    scores = torch.zeros(SMALL.queries, 5)
    scores[:, 4] = 1
    labels = model.labels(made["head.pred_masks"], scores, model.geometry(images[0]), Vocabulary.of(WORDS))
    assert (labels == NONE).all()


def test_of_classes_with_one_name_the_first_is_predicted(model: Scan, images: list[np.ndarray]) -> None:
    labels = model.segment(images[0], [*WORDS, *reversed(WORDS), "SKY ", *WORDS], mask_threshold=0.3)
    assert labels.max() < len(WORDS)


def test_the_short_edge_sets_the_size_of_the_masks(model: Scan, images: list[np.ndarray]) -> None:
    made = model.predict(images[0], WORDS, short_edge=32)
    assert made["mask_binary"].shape == (SMALL.queries, 32, 43)
    assert model.predict(images[0], WORDS)["mask_binary"].shape == (SMALL.queries, 64, 85)
    with pytest.raises(UnknownName, match="short_side"):
        model.predict(images[0], WORDS, short_side=32)


def test_bf16_runs_the_towers_and_stays_near_fp32(model: Scan, file: Path, images: list[np.ndarray]) -> None:
    coarse = load(file, precision="bf16")
    one, other = (each.predict(images[0], WORDS, mask_threshold=0.3) for each in (model, coarse))
    assert coarse.state_dict()["learnable_weight"].dtype == torch.float32
    assert not torch.equal(one["head.pred_masks"], other["head.pred_masks"])
    masks = [made["head.pred_masks"].flatten() for made in (one, other)]
    assert torch.nn.functional.cosine_similarity(*masks, dim=0) > 0.99
    assert other["clip_logits"].dtype == torch.float32


def test_exact_settings_give_the_same_bits_each_time(model: Scan, images: list[np.ndarray]) -> None:
    with runtime.computing(exact=True):
        first, again = (model.predict(images[1], WORDS, mask_threshold=0.3) for _ in range(2))
    assert all(np.array_equal(first[name], again[name]) for name in first)


def test_masks_of_a_made_up_network_differ_and_some_are_empty(model: Scan, images: list[np.ndarray]) -> None:
    made = [model.predict(image, WORDS) for image in images]
    valid = np.concatenate([one["valid_flag"] for one in made])
    assert 0.1 < valid.mean() < 1
    masks = np.concatenate([one["mask_binary"][one["valid_flag"]] for one in made])
    assert masks.mean((1, 2)).max() < 0.9
    assert len({mask.tobytes() for mask in masks}) == len(masks)


@pytest.mark.slow
def test_a_made_up_checkpoint_gives_a_photograph_several_labels(shared: Path, tmp_path: Path) -> None:
    write("scan_vitB", tmp_path / "made_up.pth")
    photograph = np.array(Image.open(shared / "parity" / "inputs" / "0001TP_008550.png").convert("RGB"))
    words = ["sky", "building", "road", "tree", "car", "person", "bus", "pole"]
    model = models.load("scan_vitB", tmp_path / "made_up.pth")
    made = model.predict(photograph, words, short_edge=320, ensemble_weight=None)  # crops would take a minute
    assert ((np.unique(made.label_map, return_counts=True)[1] / made.label_map.size) > 0.01).sum() >= 2
    cover = (made["head.pred_masks"].sigmoid() > 0.4).float().mean((1, 2))
    assert (cover > 0).any()
    assert cover.min() < 0.1 < cover.max()
