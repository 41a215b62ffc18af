"""SAN against the official code, number by number, and what the goldens do not exercise."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from ovss_ray import models
from ovss_ray.errors import UnknownName
from ovss_ray.models import fake
from ovss_ray.models.photograph import CLIP
from ovss_ray.models.san import network
from ovss_ray.models.san.network import San, class_probabilities, pool
from ovss_ray.models.san.variants import VARIANTS
from ovss_ray.models.semantic import label_map
from tests.checkpoints import SMALL

PHOTOGRAPHS = {"bus": "bus.jpg", "camvid": "0001TP_008550.png"}
SHORT = ("vit_b_16", "vit_large_14")
MAPS, SIDE, LOGITS, UNIT = 1.5e-5, 1.5e-5, 2e-4, 5e-6
NEAR_TIES = 20


def photograph(shared: Path, name: str) -> np.ndarray:
    return np.array(Image.open(shared / "parity" / "inputs" / PHOTOGRAPHS[name]).convert("RGB"))


def drawn(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@dataclass(frozen=True)
class Traced:
    """A golden, the model with its weights, and what the model makes of the golden's photograph."""

    golden: dict[str, np.ndarray]
    synthetic: dict[str, np.ndarray]
    texts: dict[str, np.ndarray]
    model: San
    image: np.ndarray
    found: dict[str, torch.Tensor]

    def assert_close(self, key: str, found: torch.Tensor, tolerance: float) -> None:
        expected = self.golden[key]
        assert found.shape == expected.shape
        assert np.abs(found.numpy() - expected).max() <= tolerance, key


@pytest.fixture(scope="module")
def loaded(golden: Callable[[str], Path]) -> Iterator[Callable[[str], San]]:
    kept: dict[str, San] = {}
    yield lambda short: kept.setdefault(short, models.load(f"san_{short}", golden(short)))
    kept.clear()


QUICK = ("vit_b_16", "camvid")
"""The golden that the default tests compare with; the others are slow."""
GOLDENS = [
    pytest.param(pair, id="-".join(pair), marks=[pytest.mark.slow] * (pair != QUICK))
    for pair in (QUICK, ("vit_b_16", "bus"), ("vit_large_14", "bus"))
]


@pytest.fixture(scope="module", params=GOLDENS)
def traced(request: pytest.FixtureRequest, shared: Path, loaded: Callable[[str], San]) -> Traced:
    short, name = request.param
    folder = shared / "parity" / "san"
    texts = {path.stem.rpartition("_")[2]: path for path in folder.glob(f"{short}_seed0_text_*.npz")}
    image, model = photograph(shared, name), loaded(short)
    return Traced(
        dict(np.load(folder / f"{short}_seed0_{name}.npz")),
        dict(np.load(folder / f"{short}_seed0_{name}_synthetic.npz")),
        {words: np.load(path)["classifier"] for words, path in texts.items()},
        model,
        image,
        trace(model, image),
    )


@torch.inference_mode()
def trace(model: San, image: np.ndarray) -> dict[str, torch.Tensor]:
    images = model.preprocess(image)[0][None]
    maps, tokens = model.clip_visual_extractor(model.clip_input(images), model.variant.fusion)
    found = {f"clip_feat_{i}": value[0] for i, value in maps.items()} | {"class_token": tokens[0, 0]}
    for prefix, depth in (("", model.variant.side_layers), ("aux0_", model.variant.side_layers - 1)):
        queries, patches = model.side_adapter_network.after(images, maps, [depth])[0]
        masks, bias = model.side_adapter_network.mask_decoder(queries, patches)
        pooled = pool(bias, maps[0].shape[-2:])
        made = {"queries": queries, "patches": patches, "masks": masks, "bias": bias, "pooled": pooled}
        made["embeddings"] = model.clip_rec_head(tokens, pooled)
        found |= {prefix + key: value[0] for key, value in made.items()}
    return found


def test_preprocessing_is_the_official_one_to_the_bit(traced: Traced) -> None:
    golden, model = traced.golden, traced.model
    images, (height, width) = model.preprocess(traced.image)
    assert (height, width) == tuple(golden["resized_hw"])
    assert (1, *images.shape) == tuple(golden["padded_input_shape"])
    resized = Image.fromarray(traced.image).resize((width, height), Image.Resampling.BILINEAR)
    assert hashlib.sha256(np.asarray(resized).tobytes()).hexdigest() == str(golden["resized_sha256"])
    restored = (images * CLIP.std + CLIP.mean)[:, :height, :width].round().to(torch.uint8)
    assert np.array_equal(restored.permute(1, 2, 0).numpy(), np.asarray(resized))
    assert not images[:, height:].any()
    assert not images[:, :, width:].any()


@pytest.mark.parametrize("threads", [1, 2])
def test_clips_input_is_sampled_alike_with_any_number_of_threads(traced: Traced, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        shrunk = traced.model.clip_input(traced.model.preprocess(traced.image)[0][None])
    finally:
        torch.set_num_threads(before)
    assert shrunk.shape == tuple(traced.golden["clip_input_shape"])
    traced.assert_close("clip_input_sub", shrunk[0, :, ::16, ::16], 0)


def test_clip_features_are_those_of_the_official_code(traced: Traced) -> None:
    for i in traced.model.variant.fusion:
        traced.assert_close(f"clip_feat_{i}_sub", traced.found[f"clip_feat_{i}"][::16, ::2, ::2], MAPS)
    traced.assert_close("clip_cls_token_last_shared", traced.found["class_token"], MAPS)


def test_the_side_network_is_that_of_the_official_code(traced: Traced) -> None:
    found = traced.found
    traced.assert_close("side_query_last", found["queries"], SIDE)
    traced.assert_close("side_pixel_last_sub", found["patches"][::8, ::4, ::4], SIDE)
    traced.assert_close("mask_logits", found["masks"], LOGITS)
    traced.assert_close("attn_bias_sub", found["bias"][:, ::10, ::4, ::4], LOGITS)
    traced.assert_close("attn_bias_pooled_sub", found["pooled"][:, ::10, ::2, ::2], LOGITS)
    traced.assert_close("aux0_mask_logits_sub2", found["aux0_masks"][:, ::2, ::2], LOGITS)


def test_mask_embeddings_and_class_logits_are_those_of_the_official_code(traced: Traced) -> None:
    scale = traced.model.ov_classifier.logit_scale.exp()
    for prefix in ("", "aux0_"):
        embeddings = traced.found[f"{prefix}embeddings"]
        traced.assert_close(f"{prefix}mask_embeddings", embeddings, UNIT)
        for words, rows in traced.texts.items():
            logits = embeddings @ (torch.from_numpy(rows) * scale).T
            traced.assert_close(f"{words}/{prefix}class_logits", logits, LOGITS)


def test_masks_lie_on_the_photograph_as_the_official_code_lays_them(traced: Traced) -> None:
    geometry, (height, width) = traced.model.geometry(traced.image), traced.golden["resized_hw"]
    padded = F.interpolate(traced.found["masks"][None], geometry.padded, mode="bilinear")[..., :height, :width]
    laid = F.interpolate(padded, geometry.original, mode="bilinear")[0, ::10, ::8, ::8]
    traced.assert_close("mask_logits_at_output_sub8", laid, LOGITS)


def test_label_maps_are_those_of_the_official_code(traced: Traced) -> None:
    scale, geometry = traced.model.ov_classifier.logit_scale.exp(), traced.model.geometry(traced.image)
    for words, rows in traced.texts.items():
        logits = traced.found["embeddings"] @ (torch.from_numpy(rows) * scale).T
        labels = label_map(traced.found["masks"], class_probabilities(logits), geometry)
        assert (labels != traced.golden[f"{words}/label_map"]).sum() <= NEAR_TIES, words


@pytest.mark.parametrize("classes", [20, 171])
def test_diverse_label_maps_are_those_of_the_official_code(traced: Traced, classes: int) -> None:
    drawn_logits = fake.tensor(f"synthetic_class_logits_{classes}", (100, classes + 1)) * 4 * (classes + 1) ** 0.5
    masks = torch.from_numpy(traced.golden["mask_logits"])
    labels = label_map(masks, class_probabilities(drawn_logits), traced.model.geometry(traced.image))
    expected = traced.synthetic[f"c{classes}/label_map"]
    assert len(np.unique(expected)) > 3
    assert (labels != expected).sum() <= NEAR_TIES


@pytest.mark.parametrize("short", SHORT)
def test_the_state_dict_is_the_official_one_less_what_inference_does_not_use(shared: Path, short: str) -> None:
    manifest = json.loads((shared / "parity" / "san" / f"manifest_{short}.json").read_text())
    assert all(dtype == "float32" for _, dtype in manifest.values())
    with torch.device("meta"):
        state = San(VARIANTS[f"san_{short}"]).state_dict()
    expected = {name: tuple(shape) for name, (shape, _) in manifest.items() if name not in network.UNUSED}
    assert {name: tuple(value.shape) for name, value in state.items()} == expected


@pytest.fixture(scope="module")
def small_model(small: Path) -> San:
    return network.load("small", [small], variant=SMALL)


def test_a_photograph_in_a_batch_gets_what_it_gets_alone(small_model: San) -> None:
    images = torch.stack([small_model.preprocess(drawn(64, 85, seed))[0] for seed in range(3)])
    with torch.inference_mode():
        together, alone = small_model(images), [small_model(image[None]) for image in images]
    for i, one in enumerate(alone):
        assert torch.allclose(together.mask_logits[i], one.mask_logits[0], atol=1e-4, rtol=0)
        assert torch.allclose(together.mask_embeddings[i], one.mask_embeddings[0], atol=1e-5, rtol=0)
    assert not torch.allclose(alone[0].mask_logits, alone[1].mask_logits, atol=1e-2)


def test_sls_tokens_by_slices_equal_the_official_additive_mask(small_model: San) -> None:
    torch.manual_seed(0)
    head, (n, q) = small_model.clip_rec_head, (1 + 6, SMALL.queries)
    tokens, bias = torch.randn(2, n, SMALL.width), 5 * torch.randn(2, SMALL.heads, q, 2, 3)
    mask = torch.zeros(2, SMALL.heads, q + n, q + n)
    mask[..., :q] = -100  # the official sequence: SLS, class, patches
    mask[..., torch.arange(q), torch.arange(q)] = 0
    mask[..., :q, q], mask[..., :q, q + 1 :] = -100, bias.flatten(3)
    x = torch.cat([tokens[:, :1].expand(-1, q, -1), tokens], 1)
    for block in head.resblocks:
        x = block(x, lambda query, key, value: F.scaled_dot_product_attention(query, key, value, attn_mask=mask))
    assert torch.allclose(head.sls_tokens(tokens, bias), x[:, :q], atol=2e-5, rtol=0)


def test_a_grid_of_1600_tokens_takes_the_position_embedding_as_it_lies(small_model: San) -> None:
    patches = small_model.side_adapter_network.vit_model
    assert torch.equal(patches.positions(torch.Size((10, 160))), patches.pos_embed)
    assert torch.equal(patches.positions(torch.Size((40, 40))), patches.pos_embed)
    square = patches.pos_embed.transpose(1, 2).unflatten(2, (40, 40))
    wide = F.interpolate(square, (10, 161), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    assert torch.equal(patches.positions(torch.Size((10, 161))), wide)
    assert patches(torch.zeros(1, 3, 160, 2560))[1].shape == (1, 1600, SMALL.side_width)


def test_a_prediction_is_what_its_parts_make_and_words_decide_it(small_model: San) -> None:
    image = drawn(60, 80)
    made = small_model.predict(image, ["sky", "tree", "car"])
    assert made.class_logits.shape == (SMALL.queries, 4)
    assert made.mask_logits.shape == (SMALL.queries, 40, 54)
    assert (made.label_map.shape, made.label_map.dtype) == ((60, 80), np.uint16)
    expected = label_map(made.mask_logits, class_probabilities(made.class_logits), small_model.geometry(image))
    assert np.array_equal(made.label_map, expected)
    turned = small_model.predict(image, ["car", "sky", "tree"])
    assert torch.allclose(turned.class_logits[:, [1, 2, 0, 3]], made.class_logits, atol=1e-4)


def test_all_names_of_a_class_make_one_prompt_as_in_the_official_code(small_model: San) -> None:
    several = small_model.predict(drawn(60, 80), [(" building", "edifice "), "sky"]).class_logits
    joined = small_model.predict(drawn(60, 80), ["building, edifice", "sky"]).class_logits
    assert torch.allclose(several, joined, atol=1e-5)
    assert not torch.allclose(several, small_model.predict(drawn(60, 80), ["building", "sky"]).class_logits, atol=1e-3)


def test_of_classes_with_one_name_the_first_is_predicted(small_model: San) -> None:
    names = ["sky", "tree", "car", "dog"]
    once = small_model.segment(drawn(60, 80), names)
    often = small_model.segment(drawn(60, 80), [*names, *reversed(names), "SKY ", *names])
    assert often.max() < len(names)
    assert (once == often).mean() > 0.5  # the share of "no object" shrinks, so classes may gain on each other


def test_bf16_runs_the_towers_and_stays_near_fp32(small: Path, small_model: San) -> None:
    coarse = network.load("small", [small], precision="bf16", variant=SMALL)
    one, other = (model.predict(drawn(64, 96), ["sky", "tree"]) for model in (small_model, coarse))
    assert coarse.state_dict()["clip_rec_head.proj"].dtype == torch.float32
    assert not torch.equal(one.class_logits, other.class_logits)
    assert torch.nn.functional.cosine_similarity(one.mask_logits.flatten(), other.mask_logits.flatten(), dim=0) > 0.999


def test_another_variant_needs_only_other_numbers() -> None:
    with torch.device("meta"):
        model = San(replace(SMALL, side_layers=6, queries=7))
    assert len(model.side_adapter_network.vit_model.blocks) == 6
    assert model.side_adapter_network.query_embed.shape == (1, 7, SMALL.side_width)


def test_an_unknown_model_is_answered_with_the_nearest_known_one() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'san_vit_b_16'"):
        models.load("san_vit_b16")


@pytest.mark.slow
def test_a_made_up_checkpoint_gives_a_photograph_several_labels(shared: Path, tmp_path: Path) -> None:
    fake.write("san_vit_b_16", tmp_path / "made_up.pth")
    words = ["sky", "building", "road", "tree", "car", "person", "bus", "pole"]
    labels = models.load("san_vit_b_16", tmp_path / "made_up.pth").segment(photograph(shared, "bus"), words)
    shares = np.bincount(labels.ravel()) / labels.size
    assert (shares > 0.01).sum() >= 2
