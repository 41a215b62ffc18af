"""SAN, the side adapter network: masks from a small network beside CLIP, names from CLIP itself.

Xu et al., "Side Adapter Network for Open-Vocabulary Semantic Segmentation", CVPR 2023, arXiv 2302.12242. Submodules and
parameters have the names of the official code (https://github.com/MendelXu/SAN), so that its checkpoints fit. Letters:
B batch, H W pixels of the photograph, Hp Wp of the padded input, h w of the grid of masks, N heads, Q queries, K
classes, D features.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray import text
from ovss_ray.errors import OvssError
from ovss_ray.models import checkpoint
from ovss_ray.models.clip import Block, ImageTower, TextTower
from ovss_ray.models.photograph import rgb
from ovss_ray.models.san_variants import VARIANTS, Size, Variant, padded_size, resized_size
from ovss_ray.models.semantic import Geometry, label_map
from ovss_ray.models.side_adapter import SideAdapter
from ovss_ray.vocabulary import Vocabulary

MEAN = torch.tensor([255 * value for value in (0.48145466, 0.4578275, 0.40821073)])[:, None, None]
STD = torch.tensor([255 * value for value in (0.26862954, 0.26130258, 0.27577711)])[:, None, None]
"""Of CLIP's training images, for RGB in 0..255; not rounded."""
TEXT = "ov_classifier."
"""The prefix of the text tower in a checkpoint."""
UNUSED = (TEXT + "attn_mask", "criterion.empty_weight")
"""Entries of official checkpoints that inference has no use for: a causal mask, and a weight of the training loss."""


@dataclass(frozen=True)
class Features:
    """What SAN sees in a batch of images, whatever the vocabulary."""

    mask_logits: Tensor
    """(B, Q, h, w) float32, at 1/16 of the padded input"""
    mask_embeddings: Tensor
    """(B, Q, D) float32, of unit norm"""


@dataclass(frozen=True)
class Prediction:
    """What SAN says of one photograph, given a vocabulary."""

    mask_logits: Tensor
    """(Q, h, w) float32"""
    class_logits: Tensor
    """(Q, K + 1) float32: 100 · cosine; the last column is "no object" """
    label_map: np.ndarray
    """(H, W) uint16: index of the class"""


class RecognitionHead(nn.Module):
    """The last blocks of CLIP's image tower, in which one token per mask (SLS) looks where the side network says."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        deep = variant.layers - variant.shallow
        self.resblocks = nn.ModuleList(Block(variant.width, variant.heads) for _ in range(deep))
        self.ln_post = nn.LayerNorm(variant.width)
        self.proj = nn.Parameter(torch.empty(variant.width, variant.embed))

    def forward(self, tokens: Tensor, bias: Tensor) -> Tensor:
        """CLIP's tokens (B, 1 + h'·w', width), pooled bias (B, N, Q, h', w') → embeddings (B, Q, D) of unit norm."""
        return F.normalize(self.ln_post(self.sls_tokens(tokens, bias)) @ self.proj, dim=-1)

    def sls_tokens(self, tokens: Tensor, bias: Tensor) -> Tensor:
        """Carry the SLS tokens, copies of the class token at first, through the blocks → (B, Q, width).

        Class and patch tokens run as in plain CLIP. An SLS token sees itself and, with its bias, the patches: the
        official additive mask hides all else behind -100, here -inf. The last block computes the SLS tokens alone.
        """
        seen, queries = tokens.shape[1], bias.shape[2]
        x = torch.cat([tokens, tokens[:, :1].expand(-1, queries, -1)], 1)
        mask = torch.cat([bias.flatten(3), _itself(bias)], -1)

        def sls(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            asking, patches_and_sls = q[:, :, seen:], slice(1, None)
            return F.scaled_dot_product_attention(
                asking, k[:, :, patches_and_sls], v[:, :, patches_and_sls], attn_mask=mask.to(q.dtype)
            )

        def plain_then_sls(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            plain = F.scaled_dot_product_attention(q[:, :, :seen], k[:, :, :seen], v[:, :, :seen])
            return torch.cat([plain, sls(q, k, v)], 2)

        *blocks, last = self.resblocks
        for block in blocks:
            x = block(x, plain_then_sls)
        return last(x, sls)


def _itself(bias: Tensor) -> Tensor:
    """The part of the mask that lets an SLS token see itself and no other one: (B, N, Q, Q), 0 and -inf."""
    queries = bias.shape[2]
    hidden = torch.full((queries, queries), -torch.inf, device=bias.device, dtype=bias.dtype).fill_diagonal_(0)
    return hidden.expand(*bias.shape[:2], -1, -1)


class San(nn.Module):
    """The whole network. Its state dict is that of the official checkpoints, less the entries of UNUSED."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        self.precision = "fp32"
        self.side_adapter_network = SideAdapter(variant)
        self.clip_visual_extractor = ImageTower(
            variant.width, variant.heads, variant.shallow, variant.patch, variant.grid, variant.stem
        )
        self.clip_rec_head = RecognitionHead(variant)
        self.ov_classifier = text_tower(variant)
        self.classifiers = text.Recent[Tensor](text.KEPT, lambda rows: rows.nbytes)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.ov_classifier.logit_scale.device

    def forward(self, images: Tensor) -> Features:
        """Images as `preprocess` makes them, (B, 3, Hp, Wp) float32, all of one size → Features.

        Images that differ in size must not be padded to a common one: the padding takes part in attention.
        """
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            maps, tokens = self.clip_visual_extractor(self.clip_input(images), self.variant.fusion)
            queries, patches = self.side_adapter_network(images, maps)
        masks, bias = self.side_adapter_network.mask_decoder(queries.float(), patches.float())
        pooled = pool(bias, maps[self.variant.fusion[-1]].shape[-2:])
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            embeddings = self.clip_rec_head(tokens, pooled)
        return Features(masks, F.normalize(embeddings.float(), dim=-1))

    def clip_input(self, images: Tensor) -> Tensor:
        """Shrink padded images for CLIP: bilinear without antialiasing, sampled at steps of exactly 1 / ratio.

        The colours are resized as images of their own: for three channels and one thread torch has another kernel,
        which rounds the places of samples differently, by up to 3e-5 in its result at a ratio of 0.7.
        """
        planes = images.flatten(0, 1)[:, None]
        shrunk = F.interpolate(planes, scale_factor=self.variant.ratio, mode="bilinear", align_corners=False)
        return shrunk[:, 0].unflatten(0, images.shape[:2])

    def preprocess(self, image: np.ndarray) -> tuple[Tensor, Size]:
        """A photograph (H, W, 3) uint8 RGB → the network's input (3, Hp, Wp) float32, and its size inside that.

        Resized by PIL's bilinear filter, normalised, and padded with zeros on the right and at the bottom. Raises
        ValueError for what is no photograph (see photograph.rgb).
        """
        image = rgb(image)
        placed = self.geometry(image)
        height, width = placed.resized
        pixels = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        made = torch.zeros(3, *placed.padded)
        inner = made[:, :height, :width]
        inner.copy_(torch.from_numpy(pixels).permute(2, 0, 1)).sub_(MEAN).div_(STD)
        return made, (height, width)

    def geometry(self, image: np.ndarray) -> Geometry:
        """How the masks of a photograph (H, W, 3) lie on it."""
        size = (image.shape[0], image.shape[1])
        return Geometry(padded_size(*size, self.variant), resized_size(*size, self.variant), size)

    def classifier(self, vocabulary: Vocabulary) -> Tensor:
        """The rows (K + 1, D) that mask embeddings are multiplied with; kept for the vocabularies used last."""
        return self.classifiers.get(vocabulary.digest, lambda: classifier(self.ov_classifier, vocabulary))

    def labels(self, masks: Tensor, logits: Tensor, image: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
        """Mask logits (Q, h, w) and class logits (Q, K + 1) of a photograph (H, W, 3) → label map (H, W) uint16.

        Classes with the same prompts tie everywhere but for rounding; the first of them stands for all.
        """
        prompts = [prompt.lower() for prompt in prompts_of(vocabulary)]
        first = np.array([prompts.index(prompt) for prompt in prompts], np.uint16)
        return first[label_map(masks, class_probabilities(logits), self.geometry(image))]

    @torch.inference_mode()
    def predict(self, image: np.ndarray, vocabulary: Vocabulary | Iterable[str]) -> Prediction:
        """Masks, their classes and the label map of a photograph (H, W, 3) uint8 RGB, given classes or plain names.

        Grey and RGBA are taken too. Raises ValueError for what is no photograph (see photograph.rgb).
        """
        image = rgb(image)
        vocabulary = Vocabulary.of(vocabulary)
        features = self(self.preprocess(image)[0][None].to(self.device))
        logits = features.mask_embeddings[0] @ self.classifier(vocabulary).T
        labels = self.labels(features.mask_logits[0], logits, image, vocabulary)
        return Prediction(features.mask_logits[0], logits, labels)

    def segment(self, image: np.ndarray, vocabulary: Vocabulary | Iterable[str]) -> np.ndarray:
        """The label map (H, W) uint16 of a photograph: indices into the vocabulary's classes. See `predict`."""
        return self.predict(image, vocabulary).label_map


def pool(bias: Tensor, size: Iterable[int]) -> Tensor:
    """Bring the attention bias (B, N, Q, h, w) to CLIP's grid by adaptive max pooling → (B, N, Q, h', w')."""
    return F.adaptive_max_pool2d(bias.flatten(1, 2), tuple(size)).unflatten(1, bias.shape[1:3])


def class_probabilities(logits: Tensor) -> Tensor:
    """Class logits (…, K + 1) → (…, K): softmax over all columns, then "no object" is left out, not renormalised."""
    return logits.softmax(-1)[..., :-1]


def text_tower(variant: Variant) -> TextTower:
    """The part of a SAN that reads words, by itself."""
    return TextTower(
        variant.text_vocabulary,
        variant.context,
        variant.text_width,
        variant.text_heads,
        variant.text_layers,
        variant.embed,
        variant.words,
    )


@torch.inference_mode()
def classifier(tower: TextTower, vocabulary: Vocabulary) -> Tensor:
    """Embed a vocabulary for SAN: rows (K + 1, D) float32, the last one "no object", the temperature included."""
    return tower.classifier(text.embed(tower, prompts_of(vocabulary), text.TEMPLATES["vild"]))


def prompts_of(vocabulary: Vocabulary) -> list[str]:
    """What SAN puts into its templates for each class: all its names, joined by commas ("building, edifice").

    So does the official code with the names of a data set, which it strips and otherwise takes as they are.
    """
    return [", ".join(name.strip() for name in names) for names in vocabulary.classes]


def load(name: str, weights: Path, device: str = "cpu", precision: str = "fp32", variant: Variant | None = None) -> San:
    """Load a SAN for inference from an official checkpoint; `variant` is for one that VARIANTS does not list.

    Nothing is initialised first: the module is built without memory and takes over the tensors of the file.
    """
    if precision not in ("fp32", "bf16"):
        raise OvssError(f"precision {precision!r} is not known; write fp32 or bf16")
    with torch.device("meta"):
        model = San(variant or VARIANTS[name])
    checkpoint.fill(model, checkpoint.read(weights, ignore=UNUSED), weights, name, _others(name))
    model.precision = precision
    if torch.device(device).type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return model.to(device)


def load_text(name: str, weights: Path, device: str = "cpu", variant: Variant | None = None) -> TextTower:
    """Load the text tower alone from an official checkpoint: all that a vocabulary's embedding needs."""
    with torch.device("meta"):
        tower = text_tower(variant or VARIANTS[name])
    state = checkpoint.read(weights, ignore=UNUSED)
    part = {key.removeprefix(TEXT): value for key, value in state.items() if key.startswith(TEXT)}
    return checkpoint.fill(tower, part, weights, name, {}).to(device)


def _others(name: str) -> dict[str, checkpoint.Shapes]:
    """Shapes of the entries of the other variants, to tell a checkpoint that belongs to one of them."""
    with torch.device("meta"):
        return {other: checkpoint.shapes(San(variant)) for other, variant in VARIANTS.items() if other != name}
