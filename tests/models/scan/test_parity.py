"""SCAN against the official code, number by number, in the order of a bisection."""

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.models import semantic, text
from ovss_ray.models.scan import fusion, regions, shift
from ovss_ray.models.scan.network import Inputs, Prediction, Scan
from ovss_ray.models.scan.regions import Cut
from ovss_ray.models.scan.towers import ours
from ovss_ray.models.scan.variants import VARIANTS, Options
from ovss_ray.models.semantic import Geometry
from tests.models.scan.conftest import Golden, GoldenState

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # the networks are large: a busy machine may need long
CASES = [
    pytest.param(("scan_vitB", "vitB_small_seed0"), id="vitB"),
    pytest.param(("scan_vitL", "vitL_seed0"), id="vitL"),
]
PIXELS = 50
"""Pixels of a label map that may differ."""
NEAR = 1e-6
"""Distance of a mask probability to the threshold at which float32 decides nothing: kernels and threads differ so."""
FLIPPED = 1e-6
"""Share of the pixels of all binary masks that may be so near and lie on the other side."""
EVERY = 8
"""Of so many crops one goes through CLIP's tower, which is most of the work; the others get golden embeddings."""
MARGIN = 2e-4
"""Bound of argmax_margin, whose noise is larger than that of other tensors: 6e-5."""


@dataclass
class Traced:
    """A golden, and what our network makes of its photograph."""

    golden: Golden
    image: np.ndarray
    model: Scan
    inputs: Inputs
    prediction: Prediction
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Tensors by the golden's names."""
    flipped: int = 0
    """Pixels that were set to the golden's side of the threshold, so that all crops can be compared."""
    embedded: list[int] = field(default_factory=list)
    """Regions whose crops went through CLIP's tower."""

    def settled(self) -> Callable[[Tensor, Geometry], Tensor]:
        """Mask probabilities of queries, in order; pixels nearer to the threshold than NEAR get the golden's side."""
        threshold, (_, height, width) = self.golden.meta["MASK_THR"], self.golden.meta["resized_shape"]
        bits = np.unpackbits(self.golden.arrays["full/mask_binary_packed"], count=100 * height * width)
        official = iter(torch.from_numpy(bits.astype(bool).reshape(100, height, width)))

        def probabilities(mask_logits: Tensor, geometry: Geometry) -> Tensor:
            own = semantic.probabilities(mask_logits, geometry)
            expected = torch.stack([next(official) for _ in mask_logits])
            flipped = ((own > threshold) != expected) & ((own - threshold).abs() < NEAR)
            self.flipped += int(flipped.sum())
            return torch.where(flipped, expected.float(), own)

        return probabilities

    def crops(self, cut: Cut) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """`Scan._crops`, but of some regions: every EVERYth, and those with most and with fewest replaced tokens."""
        count, each = cut.shift.replaced.sum((1, 2)), list(Scan._crops(self.model, cut))
        self.embedded = sorted({*range(0, len(count), EVERY), int(count.argmax()), int(count.argmin())})
        self.tensors["regions.pixels"] = torch.stack([crop for crop, *_ in each])
        yield from (each[i] for i in self.embedded)

    def completed(self, embeddings: Tensor) -> Tensor:
        """Embeddings of all regions: of those that were embedded, and the golden's."""
        whole = torch.from_numpy(self.golden.arrays["full/regions.clip_embedding"].copy())
        whole[self.embedded] = embeddings
        return whole

    def spread(self, tokens: Tensor) -> Tensor:
        """Tokens (T, V, C) of all regions from those of the embedded ones; the others are NaN."""
        whole = tokens.new_full((len(tokens), len(self.prediction["regions.boxes_xyxy"]), tokens.shape[2]), torch.nan)
        whole[:, self.embedded] = tokens
        return whole

    def close(self, *names: str) -> None:
        """Compare tensors that were kept; of the blocks of the crops' tower, the tokens of the embedded regions."""
        blocks = {name: self.tensors[name] for name in names if "regions.block" in name}
        part = torch.zeros(len(self.prediction["regions.boxes_xyxy"]), 1, dtype=torch.bool)
        part[self.embedded] = True
        self.golden.assert_close({name: self.tensors[name] for name in names if name not in blocks})
        self.golden.assert_close(blocks, part=part)

    def exact(self, name: str, values: Any) -> None:
        expected = self.golden.arrays[f"full/{name}"]
        assert np.array_equal(np.asarray(values), expected), name

    @property
    def options(self) -> dict[str, Any]:
        names = ("mask_threshold", "MASK_THR"), ("ensemble_weight", "CLIP_ENSEMBLE_WEIGHT")
        names = *names, ("replace_ratio", "REPLACE_RATIO")
        return {name: self.golden.meta[official] for name, official in names}

    def semseg(self, **options: Any) -> Tensor:
        """Scores of all classes at the resized photograph's pixels, with other options on the same logits."""
        made, checked = self.prediction, Options.of(self.options | options)
        valid = torch.from_numpy(made["valid_flag"])
        scores = fusion.scores(made["in_vocab_logits"], made["clip_logits"], valid, checked)
        return torch.einsum("qc,qhw->chw", scores, self.tensors["mask_prob"])

    def pixels(self) -> dict[str, Tensor]:
        """Scores of pixels, and means of crops."""
        scores, prediction, crops = self.semseg(), self.prediction, self.tensors["regions.pixels"]
        original = F.interpolate(scores[None], self.image.shape[:2], mode="bilinear", align_corners=False)[0]
        best, second = original.topk(2, 0).values
        boxes, masks = prediction["regions.boxes_xyxy"], prediction["mask_binary"][prediction["valid_flag"]]
        inside = [mask[y0:y1, x0:x1] for mask, (x0, y0, x1, y1) in zip(masks, boxes.astype(int), strict=True)]
        squares = [F.interpolate(torch.from_numpy(mask[None, None]).float(), crops.shape[2:]) for mask in inside]
        return {
            "semseg_before_postprocess": scores,
            "semseg": original,
            "argmax_margin": best - second,
            "log_branch.semseg_before_postprocess": self.semseg(fusion="log"),
            "weight0.semseg_before_postprocess": self.semseg(ensemble_weight=0),
            "no_ensemble.semseg_before_postprocess": self.semseg(ensemble_weight=None),
            "mask_prob_per_query_mean": self.tensors["mask_prob"].mean((1, 2)),
            "regions.pixels_per_region_mean": crops.mean((1, 2, 3)),
            "regions.mask_per_region_mean": torch.stack([square.mean() for square in squares]),
        }


@contextmanager
def outputs(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Any]]]:
    """All outputs of modules while the context lasts, by name."""
    kept: dict[str, list[Any]] = {name: [] for name in modules}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: kept[name].append(output)

    hooks = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    yield kept
    for hook in hooks:
        hook.remove()


def watched(model: Scan) -> dict[str, nn.Module]:
    """The modules whose outputs are compared."""
    adapter, decoder = model.clip_adapter, model.sem_seg_head.pixel_decoder
    modules: dict[str, nn.Module] = {"lfm": model.LFM, "oriclip_mlp": model.oriclip_mlp}
    modules |= {"proposal_after_fusion_decoder": model.fusion_decoder}
    modules |= {"proposal_after_lightweight_transformer": model.lightweight_transformer}
    modules |= {"backbone.patch_embed": model.backbone.patch_embed, "maps": model.backbone, "pixel_decoder": decoder}
    modules |= {f"pixel_decoder.input_proj{i}": module for i, module in enumerate(decoder.input_proj)}
    layers = decoder.transformer.encoder["layers"].children()
    modules |= {f"pixel_decoder.enc{i}": module for i, module in enumerate(layers)}
    modules |= {f"original_clip.block{i}": block for i, block in enumerate(adapter.original_clip.resblocks, 1)}
    visual = adapter.clip_model.visual
    modules |= {f"regions.block{i}": block for i, block in enumerate([*visual.resblocks][:-1], 1) if i in (1, 2, 3, 9)}
    return modules


@torch.inference_mode()
def trace(golden: Golden, model: Scan, image: np.ndarray) -> Traced:
    """Predict once, and keep what the golden has of the way."""
    meta, modules, visual = golden.meta, watched(model), model.clip_adapter.clip_model.visual
    last: list[Tensor] = []
    hook = visual.resblocks[-1].register_forward_pre_hook(lambda module, args: last.append(args[0]))
    embed = model.embed
    traced = Traced(golden, image, model, model.preprocess(image, meta["MIN_SIZE_TEST"]), Prediction(np.empty(0), {}))
    with outputs(modules) as kept, pytest.MonkeyPatch.context() as patch:
        patch.setattr(regions, "probabilities", traced.settled())
        patch.setattr(model, "_crops", traced.crops)
        patch.setattr(model, "embed", lambda cuts: traced.completed(embed(cuts)))
        traced.prediction = model.predict(
            image, meta["classes"], short_edge=meta["MIN_SIZE_TEST"],
            shift_indices=golden.arrays["full/shift.indices"], **traced.options,
        )  # fmt: skip
    hook.remove()
    traced.tensors |= tensors(traced, kept)
    deep = [visual.resblocks[-1](tokens) for tokens in last]
    kept["regions.block" + str(len(visual.resblocks))] = deep
    traced.tensors |= {
        name: traced.spread(torch.cat(parts).roll(1, 1).transpose(0, 1))
        for name, parts in kept.items()
        if "regions.block" in name
    }
    traced.tensors |= traced.pixels()
    return traced


def tensors(traced: Traced, kept: Mapping[str, list[Any]]) -> dict[str, Tensor]:
    """What the hooks have kept, in the shapes of the official code, and what follows from the prediction."""
    prediction, model, variant = traced.prediction, traced.model, traced.model.variant
    found: dict[str, Tensor] = {name: parts[0] for name, parts in kept.items() if isinstance(parts[0], Tensor)}
    for i in variant.levels:
        found[f"original_clip.block{i}"] = kept[f"original_clip.block{i}"][0][:, 1:].transpose(0, 1)
    found |= {f"original_clip.block{i}_cls": kept[f"original_clip.block{i}"][0][None, :, 0] for i in variant.replaced}
    found["original_clip.final_cls"] = model.clip_adapter.original_clip.project(
        kept[f"original_clip.block{variant.clip.layers}"][0][:, 0]
    )
    found["input.resized_uint8"] = traced.inputs.pixels.float()
    found["original_clip.input"] = traced.inputs.overview[None]
    found |= {f"lfm.{i}": value for i, value in enumerate(kept["lfm"])}
    found |= {f"backbone.res{i}": value for i, value in enumerate(kept["maps"][0], 2)}
    features, levels = kept["pixel_decoder"][0]
    found["pixel_decoder.mask_features"] = features
    *earlier, last = model.sem_seg_head.predictor(levels, features, every=True)
    found |= {f"head.aux{i}.pred_masks": value.mask_logits for i, value in enumerate(earlier)}
    found |= {"head.pred_masks": last.mask_logits, "head.pred_logits": prediction["head.pred_logits"][None]}
    assert torch.equal(last.embeddings, found["head.pred_logits"])
    found["proposal_after_lightweight_transformer"] = kept["proposal_after_lightweight_transformer"][0].transpose(0, 1)
    found["mask_prob"] = semantic.probabilities(prediction["head.pred_masks"], traced.inputs.geometry)
    found["in_vocab_logits"] = prediction["in_vocab_logits"][None]
    same = (
        "text_features",
        "regions.clip_embedding",
        "clip_logits",
        *(name for name in prediction if "fusion." in name),
    )
    return found | {name: prediction[name] for name in same}


@pytest.fixture(scope="module", params=CASES)
def traced(
    request: pytest.FixtureRequest, shared: Path, golden_state: Callable[[str], GoldenState],
    golden_case: Callable[[str], Golden],
) -> Traced:  # fmt: skip
    variant, case = request.param
    with torch.device("meta"):
        model = Scan(VARIANTS[variant])
    state = golden_state(variant)
    model.load_state_dict({ours(name): value for name, value in state.items()}, assign=True)
    image = np.array(Image.open(shared / "parity" / "inputs" / "0001TP_008550.png").convert("RGB"))
    return trace(golden_case(case), model.eval().requires_grad_(False), image)


def test_the_photograph_is_resized_to_the_bit_and_its_words_are_the_same_tokens(traced: Traced) -> None:
    pixels, meta = traced.inputs.pixels, traced.golden.meta
    assert hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest() == meta["resized_sha256"]
    prompts = [text.TEMPLATES["vild"][0].format(name) for name in meta["classes"]]
    traced.exact("tokens", text.tokenise(prompts)[0])
    traced.close("text_features")


def test_clip_sees_the_whole_photograph_as_in_the_official_code(traced: Traced) -> None:
    variant = traced.model.variant
    blocks = [f"original_clip.block{i}" for i in variant.levels]
    classes = [f"original_clip.block{i}_cls" for i in variant.replaced]
    traced.close("original_clip.input", *blocks, *classes, "original_clip.final_cls")


def test_its_tokens_are_filtered_and_projected_as_in_the_official_code(traced: Traced) -> None:
    traced.close("lfm.0", "lfm.1", "lfm.2", "oriclip_mlp")


def test_the_maps_of_the_backbone_are_those_of_the_official_code(traced: Traced) -> None:
    traced.close("backbone.patch_embed", *(f"backbone.res{i}" for i in range(2, 6)))


def test_the_pixel_decoder_is_that_of_the_official_code(traced: Traced) -> None:
    names = [*(f"input_proj{i}" for i in range(3)), *(f"enc{i}" for i in range(6)), "mask_features"]
    traced.close(*(f"pixel_decoder.{name}" for name in names))


def test_the_proposals_are_those_of_the_official_code(traced: Traced) -> None:
    traced.close(*(f"head.aux{i}.pred_masks" for i in range(10)), "head.pred_masks", "head.pred_logits")


def test_the_proposals_are_calibrated_as_in_the_official_code(traced: Traced) -> None:
    steps = ("fusion_decoder", "lightweight_transformer")
    traced.close(*(f"proposal_after_{step}" for step in steps), "in_vocab_logits")


def test_the_binary_masks_are_those_of_the_official_code_pixel_by_pixel(traced: Traced) -> None:
    traced.close("mask_prob", "mask_prob_per_query_mean")
    assert traced.flipped <= FLIPPED * traced.prediction["mask_binary"].size
    traced.exact("mask_binary_packed", np.packbits(traced.prediction["mask_binary"]))
    traced.exact("valid_flag", traced.prediction["valid_flag"])


def test_the_crops_are_those_of_the_official_code(traced: Traced) -> None:
    for name in ("regions.boxes_xyxy", "regions.patch_foreground"):
        traced.exact(name, traced.prediction[name])
    traced.close("regions.pixels", "regions.pixels_per_region_mean", "regions.mask_per_region_mean")


def test_the_shift_draws_the_official_tokens_from_the_official_seed(traced: Traced) -> None:
    meta, prediction = traced.golden.meta, traced.prediction
    blocks = len(traced.model.variant.replaced)
    source = random.Random(meta["python_random_seed"])
    drawn = shift.draw(prediction["regions.patch_foreground"], blocks, meta["REPLACE_RATIO"], source)
    for name, values in (("population", drawn.populations), ("count", drawn.counts), ("indices", drawn.indices)):
        traced.exact(f"shift.{name}", values)
        assert np.array_equal(prediction[f"shift.{name}"], values)


def test_the_tower_of_the_crops_is_that_of_the_official_code(traced: Traced) -> None:
    assert len(traced.embedded) * EVERY >= len(traced.prediction["regions.boxes_xyxy"])
    blocks = (1, 2, 3, 9, traced.model.variant.clip.layers)
    traced.close(*(f"regions.block{i}" for i in blocks), "regions.clip_embedding", "clip_logits")


def test_the_scores_are_fused_as_in_the_official_code(traced: Traced) -> None:
    traced.close(*(f"fusion.{name}" for name in ("in_vocab_prob", "out_vocab_prob", "void_prob", "fused")))


def test_the_scores_of_pixels_and_the_label_map_are_those_of_the_official_code(traced: Traced) -> None:
    traced.close("semseg_before_postprocess", "semseg")
    traced.golden.assert_close({"argmax_margin": traced.tensors["argmax_margin"]}, MARGIN)
    assert (traced.prediction["argmax"] != traced.golden.arrays["full/argmax"]).sum() <= PIXELS


def test_the_other_rules_of_fusion_are_those_of_the_official_code(traced: Traced) -> None:
    names = [f"{rule}.semseg_before_postprocess" for rule in ("log_branch", "weight0", "no_ensemble")]
    traced.close(*names)
    labels = traced.tensors[names[0]][:, ::4, ::4].argmax(0).numpy()
    assert (labels != traced.golden.arrays["full/log_branch.argmax"]).sum() <= PIXELS


def test_no_array_of_the_golden_is_left_out(traced: Traced) -> None:
    names = {name.partition("/")[2] for name in traced.golden.arrays if name != "meta"}
    exact = {"tokens", "mask_binary_packed", "valid_flag", "argmax", "log_branch.argmax", "argmax_margin"}
    exact |= {"regions.boxes_xyxy", "regions.patch_foreground", *(name for name in names if name.startswith("shift."))}
    traced.close(*(names - exact))
