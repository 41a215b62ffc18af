"""Goldens of SAN. Written from the official source; not run here."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ovss_ray.models.san import fake
from ovss_ray.models.san.variants import VARIANTS as SANS
from tests.goldens import NAMES, SEED, Arrays, Order, numpy, saved

RECENTRED = (
    "side_adapter_network.mask_decoder.query_mlp.layers.2.bias",
    "clip_rec_head.ln_post.bias",
    "ov_classifier.ln_final.bias",
)
"""SAN's biases that fake recentres, so that queries and words differ."""
PHOTOGRAPHS = {"bus": "bus.jpg", "camvid": "0001TP_008550.png"}
"""Name in the goldens' file names → the file, of ultralytics' assets and of CamVid's test split."""
CONFIGS = {
    "vit_b_16": "configs/san_clip_vit_res4_coco.yaml",
    "vit_large_14": "configs/san_clip_vit_large_res4_coco.yaml",
}


def write(order: Order) -> list[Path]:
    """Write every tensor on SAN's way from a photograph to its label map, by the official modules."""
    if not order.checkout or not order.photographs:
        raise SystemExit(
            "san needs the path of a checkout, and --photographs DIR with " + ", ".join(PHOTOGRAPHS.values())
        )
    folder, short = order.out / "san", order.variant
    overrides = recentred(f"san_{short}")
    model = official(order.checkout, short, overrides)
    rows = numpy(model.ov_classifier.get_classifier_by_vocabulary(list(NAMES)))
    scale = model.ov_classifier.logit_scale.exp()
    text = {"names": np.array(NAMES), "classifier": rows, "logit_scale_exp": numpy(scale)}
    paths = [
        saved(folder / f"{short}_seed{SEED}_overrides.npz", overrides),
        saved(folder / f"{short}_seed{SEED}_text_v20.npz", text),
    ]
    for name, file in PHOTOGRAPHS.items():
        image = np.array(Image.open(order.photographs / file).convert("RGB"))
        arrays = tensors(model, image, torch.from_numpy(rows) * scale)
        paths.append(saved(folder / f"{short}_seed{SEED}_{name}.npz", arrays))
        labels = made_up_labels(model, arrays, image.shape[:2])
        paths.append(saved(folder / f"{short}_seed{SEED}_{name}_synthetic.npz", labels))
    state = {key: [list(value.shape), "float32"] for key, value in model.state_dict().items()}
    (folder / f"manifest_{short}.json").write_text(json.dumps(state))
    return [*paths, folder / f"manifest_{short}.json"]


def recentred(name: str) -> Arrays:
    """Return the three biases, recentred for the weights of the goldens, which `fake` scales less than its own."""
    from ovss_ray.models.san.network import UNUSED, San

    with torch.device("meta"):
        model = San(SANS[name])
    state = fake.state_dict(SANS[name], SEED, overrides={})
    model.load_state_dict({key: value for key, value in state.items() if key not in UNUSED}, assign=True)
    fake._recentre(model.eval(), SEED)
    return {key: numpy(model.get_parameter(key)) for key in RECENTRED}


def official(checkout: Path, short: str, overrides: Arrays) -> Any:
    """Build the official network on the CPU, with the made-up weights."""
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model
    from detectron2.projects.deeplab import add_deeplab_config
    from san import add_san_config

    config = get_cfg()
    add_deeplab_config(config)
    add_san_config(config)
    config.merge_from_file(str(checkout / CONFIGS[short]))
    config.MODEL.DEVICE = "cpu"
    config.MODEL.SAN.CLIP_PRETRAINED_NAME = ""  # nothing is downloaded; but OpenAI's weights also ask for QuickGELU
    config.MODEL.SAN.CLIP_MODEL_NAME = config.MODEL.SAN.CLIP_MODEL_NAME.replace("/", "-") + "-quickgelu"
    model = build_model(config).eval()
    model.load_state_dict(fake.state_dict(SANS[f"san_{short}"], SEED, overrides))
    return model


def tensors(model: Any, image: np.ndarray, classifier: Tensor) -> Arrays:
    """Return the tensors that tests/models/san/test_network.py reads; names ending in _sub are subsampled."""
    from detectron2.data.transforms import ResizeShortestEdge
    from san.model.attn_helper import downsample2d

    resized = ResizeShortestEdge(640, 2560).get_transform(image).apply_image(image)
    pixels = torch.from_numpy(resized).permute(2, 0, 1).float()
    normalised = (pixels - model.pixel_mean) / model.pixel_std
    (height, width), multiple = resized.shape[:2], model.size_divisibility
    padded = torch.nn.functional.pad(normalised, (0, -width % multiple, 0, -height % multiple))[None]
    clip_input = torch.nn.functional.interpolate(padded, scale_factor=model.clip_resolution, mode="bilinear")
    clip = model.clip_visual_extractor(clip_input)
    side = model.side_adapter_network
    features = side.forward_features(padded, clip)
    arrays = {
        "resized_hw": np.array([height, width]),
        "resized_sha256": np.array(hashlib.sha256(np.ascontiguousarray(resized).tobytes()).hexdigest()),
        "padded_input_shape": np.array(padded.shape),
        "clip_input_shape": np.array(clip_input.shape),
        "clip_input_sub": numpy(clip_input[0, :, ::16, ::16]),
        "clip_cls_token_last_shared": numpy(clip[f"{model.clip_rec_head.first_layer_idx}_cls_token"][0, 0]),
        "side_query_last": numpy(features[-1]["query"][0]),
        "side_pixel_last_sub": numpy(features[-1]["x"][0, ::8, ::4, ::4]),
    }
    arrays |= {f"clip_feat_{i}_sub": numpy(clip[i][0, ::16, ::2, ::2]) for i in side.fusion_map.values()}
    for prefix, feature in (("aux0_", features[-2]), ("", features[-1])):
        masks, biases = side.mask_decoder(**feature)
        embeddings = model.clip_rec_head(clip, biases, normalize=True)[0]
        arrays |= {f"{prefix}mask_embeddings": numpy(embeddings)}
        arrays |= {f"v20/{prefix}class_logits": numpy(embeddings @ classifier.T)}
        arrays |= (
            {"aux0_mask_logits_sub2": numpy(masks[0, :, ::2, ::2])} if prefix else {"mask_logits": numpy(masks[0])}
        )
    grid = clip[0].shape[-2:]
    pooled = downsample2d(biases[0].flatten(1, 2), grid, method=model.clip_rec_head.downsample_method)
    arrays |= {"attn_bias_sub": numpy(biases[0][0, :, ::10, ::4, ::4])}
    arrays |= {"attn_bias_pooled_sub": numpy(pooled.reshape(*biases[0].shape[:3], *grid)[0, :, ::10, ::2, ::2])}
    laid = upsampled(masks, padded.shape[-2:], (height, width), image.shape[:2])
    scores = model.semantic_inference(torch.from_numpy(arrays["v20/class_logits"]), laid)
    arrays |= {"mask_logits_at_output_sub8": numpy(laid[::10, ::8, ::8])}
    return arrays | {"v20/label_map": scores.argmax(0).numpy().astype(np.uint16)}


def upsampled(masks: Tensor, padded: Any, resized: tuple[int, int], size: Any) -> Tensor:
    """Return mask logits (Q, H, W) on the photograph, by detectron2's own resize and crop."""
    from detectron2.modeling.postprocessing import sem_seg_postprocess

    whole = torch.nn.functional.interpolate(masks, size=tuple(padded), mode="bilinear", align_corners=False)
    return sem_seg_postprocess(whole[0], resized, *size)


def made_up_labels(model: Any, arrays: Arrays, size: Any) -> Arrays:
    """Return label maps of made-up class logits: those of made-up weights have but few labels."""
    found: Arrays = {}
    for classes in (20, 171):
        logits = fake.tensor(f"synthetic_class_logits_{classes}", (100, classes + 1), SEED)
        masks = torch.from_numpy(arrays["mask_logits"])[None]
        laid = upsampled(masks, arrays["padded_input_shape"][-2:].tolist(), tuple(arrays["resized_hw"].tolist()), size)
        scores = model.semantic_inference(logits * 4 * (classes + 1) ** 0.5, laid)
        found[f"c{classes}/label_map"] = scores.argmax(0).numpy().astype(np.uint16)
    return found
