"""SAN, the side adapter network: masks from a small network next to CLIP, classes from CLIP itself.

Xu et al., "Side Adapter Network for Open-Vocabulary Semantic Segmentation", CVPR 2023, arXiv 2302.12242. Submodules and
parameters have the names of the official code (https://github.com/MendelXu/SAN), so official checkpoints fit.

Dimensions: B batch, H W pixels of the photograph, Hp Wp of the padded input, h w mask grid, N heads; Q queries,
K classes, D features.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.models import checkpoint, photograph, runtime, text
from ovss_ray.models.clip import Block, ImageTower, TextTower, text_sizes
from ovss_ray.models.photograph import Size, rgb
from ovss_ray.models.runtime import int8
from ovss_ray.models.san.features import Features, RecentFeatures
from ovss_ray.models.san.side_adapter import SideAdapter
from ovss_ray.models.san.variants import VARIANTS, Variant
from ovss_ray.models.semantic import Geometry, label_map
from ovss_ray.structures.recent import Recent
from ovss_ray.structures.vocabulary import Vocabulary

TOWERS = ("side_adapter_network", "clip_visual_extractor", "clip_rec_head")
"""Submodules that are image transformers. With precision int8, their linear layers compute with 8-bit integers."""
TEXT = "ov_classifier."
"""Prefix of the text tower's parameter names in a checkpoint"""
UNUSED = (TEXT + "attn_mask", "criterion.empty_weight")
"""Entries of official checkpoints that inference does not use: the text tower's causal mask, and loss weights"""


@dataclass(frozen=True)
class Prediction:
    """SAN's prediction for one photograph and a vocabulary."""

    mask_logits: Tensor
    """(Q, h, w) float32: logits of Q masks, on the side network's grid of h × w patches"""
    class_logits: Tensor
    """(Q, K + 1) float32: cosine of mask embedding and class embedding, multiplied by CLIP's logit scale

    The last column is "no object"."""
    label_map: np.ndarray
    """(H, W) uint16: each pixel's class, as an index into the vocabulary"""


class RecognitionHead(nn.Module):
    """The last blocks of CLIP's image tower, which compute an embedding per mask.

    Each mask has its own token, which the paper calls an SLS token. An SLS token begins as a copy of CLIP's class
    token. The mask's embedding is computed from the SLS token after the last block.
    """

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        deep = variant.layers - variant.shallow
        self.resblocks = nn.ModuleList(Block(variant.width, variant.heads) for _ in range(deep))
        self.ln_post = nn.LayerNorm(variant.width)
        self.proj = nn.Parameter(torch.empty(variant.width, variant.embed))

    def forward(self, tokens: Tensor, bias: Tensor) -> Tensor:
        """Return the unit-norm embedding of each mask, (B, Q, D).

        `tokens` (B, 1 + h'·w', width) are CLIP's class token and the h' × w' patch tokens. Each mask gets a copy of the
        class token, called an SLS token. `bias` (B, N, Q, h', w') is added to the attention scores of the SLS tokens
        in N heads.
        """
        return F.normalize(self.ln_post(self.sls_tokens(tokens, bias)) @ self.proj, dim=-1)

    def sls_tokens(self, tokens: Tensor, bias: Tensor) -> Tensor:
        """Return the SLS tokens (B, Q, width) after the last block. `tokens` and `bias` are as in `forward`.

        An SLS token attends only to itself and to the patches.
        """
        # in the official code, SLS tokens also attend to the class token and to each other, with weights of nearly zero
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
    """Return the attention mask among SLS tokens, (B, N, Q, Q): 0 on the diagonal, -inf elsewhere."""
    queries = bias.shape[2]
    hidden = torch.full((queries, queries), -torch.inf, device=bias.device, dtype=bias.dtype).fill_diagonal_(0)
    return hidden.expand(*bias.shape[:2], -1, -1)


class Words(TextTower):
    """CLIP's text tower, and a learned embedding for "no object"."""

    def __init__(self, variant: Variant) -> None:
        super().__init__(**text_sizes(variant))
        self.bg_embed = nn.Parameter(torch.empty(1, variant.embed))

    def classifier(self, embeddings: Tensor) -> Tensor:
        """Return the classifier (K + 1, D) of K classes with embeddings (K, D). The last row is "no object".

        Rows are normalised, then multiplied by the logit scale.
        """
        rows = torch.cat([embeddings, self.bg_embed])
        return F.normalize(rows, dim=-1) * self.logit_scale.exp()


class San(nn.Module):
    """The whole network. Its state dict has the entries of the official checkpoints, except UNUSED."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        self.precision = "fp32"
        self.side_adapter_network = SideAdapter(variant)
        self.clip_visual_extractor = ImageTower(
            variant.width, variant.heads, variant.shallow, variant.patch, variant.grid, variant.stem
        )
        self.clip_rec_head = RecognitionHead(variant)
        self.ov_classifier = Words(variant)
        self.classifiers = Recent[Tensor](text.KEPT, lambda rows: rows.nbytes)
        self.recent: RecentFeatures | None = None

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return self.ov_classifier.logit_scale.device

    @runtime.in_full_precision
    def forward(self, images: Tensor) -> Features:
        """Return the Features of images (B, 3, Hp, Wp) float32. Each image is a result of `preprocess`.

        Do not pad results of different sizes to a common size: padding takes part in attention.
        """
        with runtime.autocast(images.device, self.precision):
            maps, tokens = self.clip_visual_extractor(self.clip_input(images), self.variant.fusion)
            queries, patches = self.side_adapter_network(images, maps)
        masks, bias = self.side_adapter_network.mask_decoder(queries.float(), patches.float())
        pooled = pool(bias, maps[self.variant.fusion[-1]].shape[-2:])
        with runtime.autocast(images.device, self.precision):
            embeddings = self.clip_rec_head(tokens, pooled)
        return Features(masks, F.normalize(embeddings.float(), dim=-1))

    def share(self) -> None:
        """Cache the features of recent photographs from now on, so that two stages with this network can share them."""
        self.recent = self.recent or RecentFeatures()

    def features(self, photographs: Sequence[np.ndarray]) -> Features:
        """Return the Features of photographs (H, W, 3) uint8 RGB, as one batch.

        The photographs must have the same padded size (Hp, Wp). After a call of `share`, the Features of recent
        photographs are cached.
        """
        if self.recent and (kept := self.recent.find(photographs)):
            return kept
        inputs = torch.stack([self.preprocess(photograph)[0] for photograph in photographs])
        computed: Features = self(inputs.to(self.device))
        if self.recent:
            self.recent.add(photographs, computed)
        return computed

    def clip_input(self, images: Tensor) -> Tensor:
        """Resize padded images (B, 3, Hp, Wp) for CLIP. Return images with the sides Hp and Wp times Variant.ratio.

        The resize is bilinear, without antialiasing. Sides are rounded down.
        """
        # each channel is resized as a separate image, so that the result does not depend on torch's number of threads
        planes = images.flatten(0, 1)[:, None]
        # scale_factor, not size: samples are exactly 1 / ratio pixels apart
        shrunk = F.interpolate(planes, scale_factor=self.variant.ratio, mode="bilinear", align_corners=False)
        return shrunk[:, 0].unflatten(0, images.shape[:2])

    def preprocess(self, image: np.ndarray) -> tuple[Tensor, Size]:
        """Return the network input (3, Hp, Wp) float32 of a photograph, and the size of the resized photograph.

        `image` is (H, W, 3) uint8 RGB. Grey and RGBA arrays also work. Raises ValueError for other arrays (see
        photograph.rgb). The resized photograph is padded on the right and at the bottom. The returned size does not
        include the padding.
        """
        image = rgb(image)
        placed = self.geometry(image)
        pixels = photograph.resized(image, placed.resized)
        return photograph.padded(pixels, photograph.CLIP, placed.padded), placed.resized

    def geometry(self, image: np.ndarray) -> Geometry:
        """Return the mapping of the mask grid to a photograph (H, W, 3)."""
        return photograph.geometry(image, self.variant)

    @runtime.in_full_precision
    def classifier(self, vocabulary: Vocabulary) -> Tensor:
        """Return the classifier (K + 1, D) of a vocabulary. The last row is "no object".

        Rows are normalised, then multiplied by the logit scale. Recent results are cached.
        """
        return self.classifiers.get(
            vocabulary.digest, lambda: classifier(self.ov_classifier, vocabulary, text.embed_cached)
        )

    def labels(self, masks: Tensor, logits: Tensor, image: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
        """Return the label map (H, W) uint16 of a photograph.

        `masks` (Q, h, w) are mask logits, and `logits` (Q, K + 1) are class logits. `image` is the photograph, but
        only its shape is used. A label is an index into `vocabulary`. If several classes have the same prompts, only
        the first of these classes occurs in the label map.
        """
        labels = label_map(masks, class_probabilities(logits), self.geometry(image))
        return text.first_of_equal(vocabulary)[labels]

    @torch.inference_mode()
    @runtime.in_full_precision
    def predict(self, image: np.ndarray, vocabulary: Vocabulary | Iterable[str]) -> Prediction:
        """Return the Prediction for a photograph (H, W, 3) uint8 RGB and a vocabulary.

        Grey and RGBA arrays also work. Raises ValueError if `image` is anything else (see photograph.rgb).
        """
        image = rgb(image)
        vocabulary = Vocabulary.of(vocabulary)
        features = self(self.preprocess(image)[0][None].to(self.device))
        logits = features.mask_embeddings[0] @ self.classifier(vocabulary).T
        labels = self.labels(features.mask_logits[0], logits, image, vocabulary)
        return Prediction(features.mask_logits[0], logits, labels)

    def segment(self, image: np.ndarray, vocabulary: Vocabulary | Iterable[str]) -> np.ndarray:
        """Return the label map (H, W) uint16 of a photograph (H, W, 3): indices of classes. See `predict`."""
        return self.predict(image, vocabulary).label_map


def pool(bias: Tensor, size: Iterable[int]) -> Tensor:
    """Return the attention bias (B, N, Q, h, w) max-pooled to CLIP's grid, (B, N, Q, h', w')."""
    return F.adaptive_max_pool2d(bias.flatten(1, 2), tuple(size)).unflatten(1, bias.shape[1:3])


def class_probabilities(logits: Tensor) -> Tensor:
    """Return class probabilities (…, K) from logits (…, K + 1), whose last column is "no object".

    The softmax is over all K + 1 columns. Then the last column is dropped.
    """
    return logits.softmax(-1)[..., :-1]


@torch.inference_mode()
def classifier(tower: Words, vocabulary: Vocabulary, embed: text.Embed | None = None) -> Tensor:
    """Return SAN's classifier (K + 1, D) float32 of a vocabulary. The last row is "no object".

    Rows are normalised, then multiplied by the logit scale. If `embed` is None, text.embed embeds the names.
    """
    with runtime.full_precision(tower.bg_embed.device):
        rows = (embed or text.embed)(tower, text.whole_names(vocabulary), text.templates(vocabulary, "vild"))
        return tower.classifier(rows)


def load(
    name: str, files: Sequence[Path], device: str = "cpu", precision: str = "fp32", variant: Variant | None = None
) -> San:
    """Load a SAN for inference from its official checkpoint, the only element of `files`.

    If `variant` is None, the sizes are VARIANTS[name]. Raises OvssError if the checkpoint is missing or does not fit.
    """
    precision = runtime.checked_precision(precision)
    with torch.device("meta"):
        model = San(variant or VARIANTS[name])
    (file,) = files
    checkpoint.fill(model, checkpoint.read(file, ignore=UNUSED), file, name, _others(name))
    model.precision = precision
    return int8.placed(model, device, precision, TOWERS)


def load_text(name: str, files: Sequence[Path], device: str = "cpu", variant: Variant | None = None) -> Words:
    """Load only the text tower of an official checkpoint, to embed vocabularies."""
    with torch.device("meta"):
        tower = Words(variant or VARIANTS[name])
    (file,) = files
    state = checkpoint.read(file, ignore=UNUSED)
    part = {key.removeprefix(TEXT): value for key, value in state.items() if key.startswith(TEXT)}
    return checkpoint.fill(tower, part, file, name, {}).to(device)


def _others(name: str) -> dict[str, checkpoint.Shapes]:
    """Return the tensor shapes of each network in VARIANTS except `name`, as {network: {tensor: shape}}."""
    # if a file does not fit the network `name`, the shapes show which other network the file fits
    with torch.device("meta"):
        return {other: checkpoint.shapes(San(variant)) for other, variant in VARIANTS.items() if other != name}
