"""Goldens of AlphaCLIP. Written from the official source; the network was not run here (see tests/write_goldens.py)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ovss_ray.models.alpha_clip.variants import VARIANTS as ALPHA_CLIPS
from tests import small_alpha_clip
from tests.goldens import NAMES, SEED, Arrays, Order, drawn, numpy, saved


def write(order: Order) -> list[Path]:
    """Write inputs, embeddings and logits of AlphaCLIP, in the geometries of its README and of ImageNet-S."""
    import alpha_clip as official

    files = small_alpha_clip.made_up_state(ALPHA_CLIPS[f"alpha_clip_{order.variant}"], SEED)
    folder = order.out / "alpha_clip"
    folder.mkdir(parents=True, exist_ok=True)
    base, visual = small_alpha_clip.save(files, folder)
    try:
        model, preprocess = official.load(str(base), alpha_vision_ckpt_pth=str(visual), device="cpu")
    finally:
        base.unlink()
        visual.unlink()
    model.eval()
    arrays: Arrays = {"names": np.array(NAMES), "images": np.array(["scene"]), "logit_scale": numpy(model.logit_scale)}
    for suffix, template in (("", "a photo of a {}."), ("_no_period", "a photo of a {}")):
        tokens = official.tokenize([template.format(name) for name in NAMES])
        arrays |= {f"tokens{suffix}": tokens.numpy(), f"text_features{suffix}": numpy(model.encode_text(tokens))}
    image, masks = drawn()[:200], regions(200, 256)
    arrays |= {"scene/image": image, "scene/masks": masks}
    for geometry, tensors in inputs(image, masks, model.visual.input_resolution, preprocess).items():
        picture, alpha = tensors
        features = model.visual(picture[None].expand(len(alpha), -1, -1, -1), alpha)
        unit = torch.nn.functional.normalize(features, dim=-1)
        words = torch.nn.functional.normalize(torch.from_numpy(arrays["text_features"]), dim=-1)
        arrays |= {f"scene/{geometry}/image_tensor": numpy(picture), f"scene/{geometry}/alpha": numpy(alpha)}
        arrays |= {
            f"scene/{geometry}/image_features": numpy(features),
            f"scene/{geometry}/logits": numpy(100 * unit @ words.T),
        }
    return [saved(folder / f"goldens_{order.variant}_seed{SEED}.npz", arrays)]


def inputs(
    image: np.ndarray, masks: np.ndarray, pixels: int, preprocess: Callable[[Image.Image], Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Geometry → the image (3, n, n) and the masks (B, 1, n, n), normalised as the official code does."""
    from torchvision.transforms import v2

    normalise = v2.Normalize((0.5,), (0.26,))
    squashed = v2.Resize((pixels, pixels))
    readme = torch.stack([normalise(squashed(v2.functional.to_image(mask[..., None]).float())) for mask in masks])
    side, (height, width) = min(image.shape[:2]), image.shape[:2]
    rows, columns = (slice(length // 2 - side // 2, length // 2 - side // 2 + side) for length in (height, width))
    square = torch.from_numpy(image[rows, columns]).permute(2, 0, 1) / 255
    shrunk = v2.functional.resize(square, [pixels, pixels], v2.InterpolationMode.BICUBIC, antialias=True)
    aligned = v2.functional.normalize(shrunk, [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
    cut = torch.from_numpy(masks[:, None, rows, columns]).float()
    return {
        "readme": (preprocess(Image.fromarray(image)), readme),
        "aligned": (aligned, normalise(squashed(cut))),
    }


def regions(height: int, width: int) -> np.ndarray:
    """Return six masks (6, H, W) bool: a rectangle, an ellipse, a band, two parts, all, nothing."""
    y, x = np.mgrid[:height, :width]
    masks = np.zeros((6, height, width), bool)
    masks[0] = (abs(y - height / 2) < height / 5) & (abs(x - width / 3) < width / 6)
    masks[1] = ((y - height / 2) / height) ** 2 + ((x - width / 2) / width) ** 2 < 0.04
    masks[2] = y < height / 4
    masks[3] = (abs(x - width / 8) < width / 10) | (abs(x - 7 * width / 8) < width / 10)
    masks[4] = True
    return masks
