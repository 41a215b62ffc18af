"""Fake weights of a SCAN (see models/fake.py). Masks differ from each other, but labels are meaningless.

Most masks cover a small part of the image, and some masks are empty.
"""

from itertools import islice

import torch
from torch import Tensor

from ovss_ray.models.checkpoint import shapes
from ovss_ray.models.fake import clouds, recentre_words, scaled, tensor
from ovss_ray.models.photograph import CLIP
from ovss_ray.models.scan import regions
from ovss_ray.models.scan.calibration import overview
from ovss_ray.models.scan.network import Scan
from ovss_ray.models.scan.swin import constants, relative_position_index
from ovss_ray.models.scan.towers import ADAPTER, official
from ovss_ray.models.scan.variants import Options, Variant

DECODER = "sem_seg_head.predictor."
SCALES = {
    DECODER + "query_*.weight": 16.0,
    DECODER + "level_embed.weight": 16.0,
    "sem_seg_head.pixel_decoder.transformer.level_embed": 16.0,
    DECODER + "transformer_*_attention_layers.*.in_proj_weight": 2.0,
    DECODER + "transformer_*_attention_layers.*.out_proj.weight": 0.1,
    DECODER + "transformer_ffn_layers.*.linear2.weight": 0.2,
    "fusion_decoder.multiattn.*.out_proj.weight": 0.1,
}
"""Pattern of a tensor's official name → factor for the tensor. Without the factors, all queries would become equal."""
DEVIATIONS = 2.0
"""Shift of the mask logits, in standard deviations. The shift makes most masks small and some empty."""
CALIBRATED = "lightweight_transformer.layers.{}.norm2.bias"
"""Name of the last norm's bias in QueryTransformer. {} is the number of the last layer"""
CROPS = 4
"""Maximum number of crops that the function `_recentre` takes from one random image

`_recentre` makes several random images, and computes one mean embedding of the crops from all these images."""
TRAINING_CLASSES = 171
"""Number of classes in COCO-Stuff, the training set of SCAN"""


def state_dict(variant: Variant, seed: int = 0) -> dict[str, Tensor]:
    """Return fake tensors for all entries of an official checkpoint, including entries that inference does not use.

    The tensors that inference uses are float32. `_recentre` shifts some of the biases.
    """
    with torch.device("meta"):
        model = Scan(variant)
    state = {name: scaled(tensor(official(name), shape, seed), name, SCALES) for name, shape in shapes(model).items()}
    model.load_state_dict(state, assign=True)
    _recentre(model.eval(), seed)
    return {official(name): value for name, value in state.items()} | _unused(variant, seed)


def _unused(variant: Variant, seed: int) -> dict[str, Tensor]:
    """Return the entries of an official checkpoint that inference does not use."""
    index = relative_position_index(variant.window)
    constant = {f"backbone.{name}": index for name in constants(variant)}
    colours = {f"{ADAPTER}pixel_{name}": value[None].clone() for name, value in CLIP._asdict().items()}
    loss_weight = "criterion.empty_weight"  # a weight for each class, and one for "void"
    return constant | colours | {loss_weight: tensor(loss_weight, (TRAINING_CLASSES + 1,), seed)}


@torch.inference_mode()
def _recentre(model: Scan, seed: int) -> None:
    """Shift biases of the model, so that most masks are small and mean embeddings are zero.

    The mean embeddings are those of proposals, of crops, and of texts. Proposals and crops are from random images,
    which are made from `seed`.
    """
    variant, adapter, predictor = model.variant, model.clip_adapter, model.sem_seg_head.predictor
    inputs = [model.preprocess(image, variant.short_side // 2) for image in clouds(seed)]
    whole = torch.stack([image.overview for image in inputs])
    pixels, levels = model.sem_seg_head.pixel_decoder(model.backbone(torch.stack([image.padded for image in inputs])))
    mean = pixels.mean((0, 2, 3))
    for _ in range(2):  # masks guide attention, so a shift changes the masks of the next layer
        mask_logits = predictor(levels, pixels)[-1].mask_logits
        excess = mask_logits.mean() + DEVIATIONS * mask_logits.std()
        predictor.mask_embed.last()[1].sub_(excess * mean / mean.square().sum())
    proposals = predictor(levels, pixels)[-1]
    seen = overview(adapter.original_clip, whole, variant.levels, variant.replaced)
    calibrated = model.calibrate(proposals.embeddings, model.clip_tokens(seen.maps), seen.embeddings)
    model.get_parameter(CALIBRATED.format(variant.calibration_layers - 1)).sub_(calibrated.mean((0, 1)))
    visual = adapter.clip_model.visual
    crops: list[Tensor] = []
    for image, mask_logits in zip(inputs, proposals.mask_logits, strict=True):
        cut = regions.of_masks(mask_logits, image.geometry, Options().mask_threshold, variant.clip)
        crops += islice(regions.crops(image.pixels, cut, variant.clip.pixels), CROPS)
    if crops:
        visual.ln_post.bias.sub_(visual.ln_post(visual(torch.stack(crops), ())[1][:, 0]).mean(0))
    recentre_words(adapter.clip_model)
