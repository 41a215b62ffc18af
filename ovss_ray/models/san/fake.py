"""Fake weights of a SAN (see models/fake.py) that predict several labels per photograph. The labels are meaningless.

With plain random weights, a network would predict the same label everywhere.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ovss_ray.models.checkpoint import shapes
from ovss_ray.models.fake import clouds, recentre_words, scaled, tensor
from ovss_ray.models.san.network import UNUSED, San, pool
from ovss_ray.models.san.variants import Variant

SCALES = {
    "side_adapter_network.query_embed": 150.0,
    "side_adapter_network.mask_decoder.pix_mlp.layers.2.weight": 0.5,
    "side_adapter_network.mask_decoder.attn_mlp.layers.2.weight": 0.5,
    "clip_rec_head.resblocks.*.attn.out_proj.weight": 4.0,
}
"""Pattern of tensor names → factor for these tensors, in all fake checkpoints."""
# CLIP's first blocks are weakened: their random attention would make all patches alike
QUIET = {
    "clip_visual_extractor.resblocks.*.attn.out_proj.weight": 0.1,
    "clip_visual_extractor.resblocks.*.mlp.c_proj.weight": 0.1,
}
"""Pattern of tensor names → factor for these tensors. `state_dict` uses QUIET only if `overrides` is None."""
TRAINING_CLASSES = 171
"""Number of classes in COCO-Stuff, the training set of SAN"""


def state_dict(variant: Variant, seed: int = 0, overrides: Mapping[str, np.ndarray] | None = None) -> dict[str, Tensor]:
    """Return fake values, float32, for all tensors of an official checkpoint.

    Tensors that inference does not use are included. `overrides` maps names of tensors to arrays, which replace the
    fake tensors of these names. If `overrides` is None, two steps make the network predict several labels. Tensors
    that match QUIET are multiplied by its factors. Three biases are shifted, so that queries and words have different
    outputs.
    """
    with torch.device("meta"):
        model = San(variant)
    scales = SCALES | (QUIET if overrides is None else {})
    state = {name: scaled(tensor(name, shape, seed), name, scales) for name, shape in shapes(model).items()}
    if overrides is None:
        model.load_state_dict(state, assign=True)
        _recentre(model.eval(), seed)
    state |= {name: torch.from_numpy(value) for name, value in (overrides or {}).items()}
    mask, loss_weight = UNUSED
    state[mask] = torch.full((variant.context, variant.context), -torch.inf).triu(1)
    state[loss_weight] = tensor(loss_weight, (TRAINING_CLASSES + 1,), seed)  # one more weight for "no object"
    return state


@torch.inference_mode()
def _recentre(model: San, seed: int) -> None:
    """Shift three biases, so that different queries and different words have different outputs."""
    # mask logits become negative on average; the mean embeddings of masks and of words become nearly zero
    images = torch.stack([model.preprocess(image)[0][:, :320, :320] for image in clouds(seed)])
    maps, tokens = model.clip_visual_extractor(model.clip_input(images), model.variant.fusion)
    queries, patches = model.side_adapter_network(images, maps)
    decoder, head, tower = model.side_adapter_network.mask_decoder, model.clip_rec_head, model.ov_classifier
    decoder.query_mlp.last()[1].sub_(decoder.query_mlp(queries).mean((0, 1)))
    pixel = decoder.pix_mlp(patches).mean((0, 2, 3))
    spread = decoder(queries, patches)[0].std()
    decoder.query_mlp.last()[1].sub_(2 * spread * pixel / pixel.square().sum())  # few masks at a pixel, not half
    bias = pool(decoder(queries, patches)[1], maps[0].shape[-2:])
    head.ln_post.bias.sub_(head.ln_post(head.sls_tokens(tokens, bias)).mean((0, 1)))
    recentre_words(tower)
