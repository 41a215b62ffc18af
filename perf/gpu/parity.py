"""Parity: every network in float32 on the device against the goldens of the official code, which ran on a CPU.

The weights of the goldens follow from names and shapes (tests/, ../shared/parity). A row has the largest difference of
a network's tensors, as a part of each tensor's largest magnitude, or the pixels of its label map or masks that differ.
SAM has no golden: the released modules run on the CPU in the same call. The tiny networks run on the device and on the
CPU.
"""

import json
import runpy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ovss_ray import models
from ovss_ray.models import runtime, semantic
from ovss_ray.structures.vocabulary import Vocabulary
from perf.gpu import tiny
from perf.gpu.rows import Row
from perf.gpu.setup import Setup

BOUND = "<= 0.0001"
"""Goal for tensors: of README.md in ../shared/parity."""
NEAR = 1e-4
"""Distance of a mask probability to the threshold at which float32 decides nothing."""


@dataclass(frozen=True)
class Compared:
    """The results of one network."""

    tensors: Mapping[str, tuple[Any, np.ndarray]]
    """name → tensor on the device, and the golden's"""
    pixels: int
    """pixels of the label map, or of the masks, that differ"""
    allowed: int
    """near-ties: pixels that may differ"""


def measure(setup: Setup) -> None:
    """Add two rows for every network whose golden is in the kit."""
    for name, compare in {} if setup.tiny else OFFICIAL.items():
        if setup.sheet.due(f"parity of {name}"):
            with setup.sheet.attempt(f"parity of {name}"):
                _measure(setup, name, compare)
            setup.free()
    tiny.parity(setup)


def _measure(setup: Setup, name: str, compare: "Compare") -> None:
    device = torch.device(setup.device)
    with torch.inference_mode(), runtime.full_precision(device):
        compared = compare(setup.kit, device)
    errors = {key: error(ours, golden) for key, (ours, golden) in compared.tensors.items()}
    worst = max(errors, key=lambda key: errors[key])
    note = "largest: " + ", ".join(f"{key} {value:.1e}" for key, value in errors.items())
    case = f"{len(errors)} tensors, fp32; most: {worst}"
    setup.sheet.add(Row("parity", name, case, errors[worst], "of largest", BOUND, note=note))
    setup.sheet.add(Row("parity", name, "labels, fp32", compared.pixels, "pixels", f"<= {compared.allowed}"))


def error(ours: Any, golden: np.ndarray) -> float:
    """The largest difference, as a part of the golden's largest magnitude."""
    values = ours.float().cpu().numpy() if isinstance(ours, Tensor) else np.asarray(ours)
    assert values.size == golden.size, (values.shape, golden.shape)
    return float(np.abs(values.reshape(golden.shape).astype(np.float64) - golden).max() / np.abs(golden).max())


def npz(kit: Path, name: str) -> dict[str, np.ndarray]:
    """The arrays of a golden."""
    with np.load(kit / "parity" / name) as stored:
        return dict(stored)


def photograph(kit: Path, name: str = "0001TP_008550.png") -> np.ndarray:
    """An input of the goldens, (H, W, 3) uint8."""
    return np.array(Image.open(kit / "parity/inputs" / name).convert("RGB"))


def san(short: str, kit: Path, device: torch.device) -> Compared:
    """SAN: CLIP's maps, masks, embeddings, text, class logits, and the label map of 20 classes."""
    from ovss_ray.models.san import fake as san_fake
    from ovss_ray.models.san import network
    from ovss_ray.models.san.variants import VARIANTS
    from tests.checkpoints import golden_overrides

    golden, text = npz(kit, f"san/{short}_seed0_camvid.npz"), npz(kit, f"san/{short}_seed0_text_v20.npz")
    overrides = golden_overrides(kit, f"{short}_seed0_overrides.npz")
    state = san_fake.state_dict(VARIANTS[f"san_{short}"], 0, overrides)
    with torch.device("meta"):
        model = network.San(VARIANTS[f"san_{short}"])
    filled(model, state, network.UNUSED).to(device)
    image, vocabulary = photograph(kit), Vocabulary.of([str(name) for name in text["names"]])
    images = model.preprocess(image)[0][None].to(device)
    maps, _ = model.clip_visual_extractor(model.clip_input(images), model.variant.fusion)
    features, rows = model(images), model.classifier(vocabulary)
    logits = features.mask_embeddings[0] @ rows.T
    labels = model.labels(features.mask_logits[0], logits, image, vocabulary)
    tensors = {f"clip_feat_{i}": (maps[i][0, ::16, ::2, ::2], golden[f"clip_feat_{i}_sub"]) for i in maps}
    tensors |= {
        "text": (rows, text["classifier"] * text["logit_scale_exp"]),
        "mask_logits": (features.mask_logits[0], golden["mask_logits"]),
        "mask_embeddings": (features.mask_embeddings[0], golden["mask_embeddings"]),
        "class_logits": (logits, golden["v20/class_logits"]),
    }
    return Compared(tensors, int((labels != golden["v20/label_map"]).sum()), 20)


def filled(model: Any, state: Mapping[str, Tensor], unused: Any = ()) -> Any:
    """The network with the entries of a state dict, ready for inference."""
    model.load_state_dict({key: value for key, value in state.items() if key not in unused}, assign=True)
    return model.eval().requires_grad_(False)


def alpha_clip(arch: str, kit: Path, device: torch.device) -> Compared:
    """AlphaCLIP: features of the official inputs, and logits from pixels; there is no label map."""
    from tests.small_alpha_clip import golden_files, save

    golden = npz(kit, f"alpha_clip/goldens_{arch}_seed0.npz")
    with tempfile.TemporaryDirectory() as folder:
        model = models.load(f"alpha_clip_{arch}", save(golden_files(kit, arch), Path(folder)), str(device))
    names, tensors = [str(name) for name in golden["names"]], {}
    wrong = 0
    for image in map(str, golden["images"]):
        given = (torch.from_numpy(golden[f"{image}/readme/{kind}"]).to(device) for kind in ("image_tensor", "alpha"))
        picture, alphas = given
        which = torch.zeros(len(alphas), dtype=torch.int64, device=device)
        features = model.visual.look(picture[None], alphas, which)
        tensors[f"{image} features"] = (features, golden[f"{image}/readme/image_features"])
        logits = model.classify(golden[f"{image}/image"], golden[f"{image}/masks"], names, fit="center_crop")
        tensors[f"{image} logits"] = (logits, golden[f"{image}/aligned/logits"])
        wrong += int((logits.argmax(1).cpu().numpy() != golden[f"{image}/aligned/logits"].argmax(1)).sum())
    return Compared(tensors, wrong, 0)


def scan(variant: str, case: str, kit: Path, device: torch.device) -> Compared:
    """SCAN: proposals, calibrated and fused scores, embeddings of crops, and the label map."""
    from ovss_ray.models.scan import regions
    from ovss_ray.models.scan.network import Scan
    from ovss_ray.models.scan.towers import ours
    from ovss_ray.models.scan.variants import VARIANTS
    from tests.models.scan.conftest import Golden, GoldenState

    golden = Golden(kit / f"parity/scan/golden_{case}.npz")
    meta, state = golden.meta, GoldenState(kit, variant)
    with torch.device("meta"):
        model = Scan(VARIANTS[variant])
    filled(model, {ours(name): value for name, value in state.items()}).to(device)
    options = {"mask_threshold": meta["MASK_THR"], "ensemble_weight": meta["CLIP_ENSEMBLE_WEIGHT"]}
    with patch.object(regions, "probabilities", settled(golden)):
        made = model.predict(
            photograph(kit), meta["classes"], meta["MIN_SIZE_TEST"], golden.arrays["full/shift.indices"],
            replace_ratio=meta["REPLACE_RATIO"], **options,
        )  # fmt: skip
    names = ("text_features", "head.pred_logits", "in_vocab_logits", "regions.clip_embedding", "clip_logits")
    names = (*names, "fusion.in_vocab_prob", "fusion.out_vocab_prob", "fusion.void_prob", "fusion.fused")
    tensors = {name: (made[name], golden.arrays[f"full/{name}"]) for name in names}
    return Compared(tensors, int((made["argmax"] != golden.arrays["full/argmax"]).sum()), 50)


def settled(golden: Any) -> Callable[[Tensor, semantic.Geometry], Tensor]:
    """Mask probabilities in which pixels near the threshold get the golden's side, so that all crops are alike."""
    threshold, (_, height, width) = golden.meta["MASK_THR"], golden.meta["resized_shape"]
    bits = np.unpackbits(golden.arrays["full/mask_binary_packed"], count=100 * height * width)
    official = iter(torch.from_numpy(bits.astype(bool).reshape(100, height, width)))

    def probabilities(mask_logits: Tensor, geometry: semantic.Geometry) -> Tensor:
        values = semantic.probabilities(mask_logits, geometry)
        expected = torch.stack([next(official) for _ in mask_logits]).to(values.device)
        near = ((values > threshold) != expected) & ((values - threshold).abs() < NEAR)
        return torch.where(near, expected.float(), values)

    return probabilities


def fusioner(kit: Path, device: torch.device) -> Compared:
    """Fusioner: tokens, fusion, decoder, logits, and the mask of a class."""
    from ovss_ray.models.fusioner import fake as fusioner_fake
    from ovss_ray.models.fusioner.network import IMAGE, Fusioner
    from ovss_ray.models.fusioner.variants import VARIANTS

    golden, variant = npz(kit, "fusioner/forward_pascal.npz"), VARIANTS["fusioner_vit_l_14"]
    state = fusioner_fake.state_dict(variant)
    with torch.device("meta"):
        model = Fusioner(variant)
    filled(model, {name.replace(f"{IMAGE}transformer.", IMAGE): value for name, value in state.items()}).to(device)
    names = [str(name) for name in golden["class_names"]]
    made = model.predict(photograph(kit, f"{golden['photo']}.png"), names, "pascal", "square_224")
    steps = {"img_tokens": np.s_[::8, ::8], "fusion_patches": np.s_[::8, ::8], "decoder": np.s_[::32, ::14, ::14]}
    tensors = {name: (made[name][step], golden[f"{name}_s"]) for name, step in steps.items()}
    tensors |= {name: (made[name], golden[name]) for name in ("text_embedding", "fusion_text", "logits")}
    wrong = made["pred"] != golden["pred"]
    return Compared(tensors, int(wrong.sum()), int(0.0005 * wrong.size))


def ovsam(kit: Path, device: torch.device) -> Compared:
    """Open-Vocabulary SAM: image embedding, scores of names and masks of clicks."""
    from ovss_ray.models.ovsam.network import Ovsam
    from ovss_ray.models.ovsam.parts import WORDS
    from ovss_ray.models.ovsam.variants import VARIANTS
    from tests.models.ovsam.conftest import Golden

    value, state = runpy.run_path(str(kit / "parity/deterministic.py"))["tensor"], {}
    for prefix, part in (("", "ovsam_rn50x16"), (WORDS, "clip_text_rn50x16")):
        manifest = json.loads((kit / f"parity/ovsam/manifest_{part}.json").read_text())
        state |= {
            prefix + name: value(name, tuple(shape), getattr(torch, kind)) for name, (shape, kind) in manifest.items()
        }
    with torch.device("meta"):
        model = Ovsam(VARIANTS["ovsam_rn50x16"])
    filled(model, state).to(device)
    golden = Golden(kit / "parity/ovsam/golden_predict.npz")
    spec = golden.meta["spec"]
    image = np.array(Image.open(kit / "parity/ovsam/tiny_coco/val2017/truck.jpg").convert("RGB"))
    words = {name: spec[name] for name in ("names", "base", "novel")}
    made = model.predict(image, spec["points"], clip_boxes=spec["boxes"], **words)
    tensors = {}
    for name in ("low_res_masks", "head_logits", "clip_logits", "fused_scores"):
        values = made[name].cpu().numpy()[golden.index(f"point/{name}")]
        tensors[name] = (values, golden.arrays[f"point/{name}"])
    wrong = made["masks"] != golden.masks("point/mask")
    return Compared(tensors, int(wrong.sum()), int(1e-5 * wrong.size))


def sam(variant: str, kit: Path, device: torch.device) -> Compared:
    """SAM: the image embedding and the masks of a click, against the released modules on the CPU."""
    from segment_anything import SamPredictor

    from ovss_ray.models.sam.network import Sam
    from ovss_ray.models.sam.variants import VARIANTS
    from tests import official_sam

    state, image = official_sam.state(VARIANTS[variant]), photograph(kit)
    released = official_sam.build(VARIANTS[variant])
    released.load_state_dict(state)
    predictor = SamPredictor(released)
    predictor.set_image(image)
    click = np.array([[220.5, 150.5]])
    masks, scores, low = predictor.predict(click, np.ones(1), return_logits=True)
    with torch.device("meta"):
        model = Sam(VARIANTS[variant])
    filled(model, state).to(device)
    seen = model.embed(image)
    answer = model.predict(seen, points=click, labels=[1], multimask=True)
    tensors = {
        "embedding": (seen.embedding, predictor.get_image_embedding().numpy()),
        "low_res_logits": (answer.logits, low),
        "predicted_iou": (answer.predicted_iou, scores),
    }
    wrong = (answer.masks != (masks > 0)) & (np.abs(masks) > NEAR)
    return Compared(tensors, int(wrong.sum()), 0)


Compare = Callable[[Path, torch.device], Compared]
OFFICIAL: Mapping[str, Compare] = {
    "san_vit_b_16": partial(san, "vit_b_16"),
    "alpha_clip_vit_b_16": partial(alpha_clip, "vit_b_16"),
    "scan_vitB": partial(scan, "scan_vitB", "vitB_small_seed0"),
    "fusioner_vit_l_14": fusioner,
    "ovsam_rn50x16": ovsam,
    "sam_vit_b": partial(sam, "sam_vit_b"),
    "san_vit_large_14": partial(san, "vit_large_14"),
    "alpha_clip_vit_l_14_336": partial(alpha_clip, "vit_l_14_336"),
    "scan_vitL": partial(scan, "scan_vitL", "vitL_seed0"),
    "sam_vit_h": partial(sam, "sam_vit_h"),
}
"""Network → comparison, small networks first. The kit has one golden of each."""
