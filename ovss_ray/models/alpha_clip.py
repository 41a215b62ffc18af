"""AlphaCLIP: a CLIP that is told by a fourth channel which region it should look at.

Sun et al., "Alpha-CLIP: A CLIP Model Focusing on Wherever You Want", CVPR 2024, arXiv 2312.03818. A second patch
convolution reads the region's mask, and its result is added to that of the image; all else is CLIP (arXiv 2103.00020),
whose text tower is unchanged. Plain CLIP is here too: the same network without that convolution. An AlphaCLIP comes in
two files, the CLIP it was made of and its image tower. Letters: B regions in a forward pass, P pictures, n side of a
picture, R regions, K classes, D features.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray import regions, text
from ovss_ray.errors import OvssError
from ovss_ray.models import checkpoint, torchscript
from ovss_ray.models.alpha_clip_inputs import View, Viewer
from ovss_ray.models.alpha_clip_variants import VARIANTS, Look, Naming, Variant
from ovss_ray.models.alpha_clip_words import Classifier, classifier, embed
from ovss_ray.models.clip import ImageTower, TextTower
from ovss_ray.models.photograph import rgb
from ovss_ray.vocabulary import Vocabulary

BATCH = 64
"""Regions in one forward pass, at most, unless something else is asked for."""
VISUAL = "visual."
"""The prefix of the image tower in a CLIP."""
UNUSED = ("input_resolution", "context_length", "vocab_size")
"""Entries of OpenAI's archives that are no weights."""
EXTRACTOR, HEAD, WORDS = "clip_visual_extractor", "clip_rec_head", "ov_classifier"
"""A CLIP's parts in a SAN: its first blocks, its last ones, its text tower."""


class RegionTower(ImageTower):
    """CLIP's whole image tower, with AlphaCLIP's convolution for the region's mask if it has one."""

    def __init__(self, variant: Variant) -> None:
        super().__init__(variant.width, variant.heads, variant.layers, variant.patch, variant.grid, variant.stem)
        self.conv1_alpha = (
            nn.Conv2d(1, variant.width, variant.patch, variant.patch, bias=False) if variant.base else None
        )
        self.ln_post = nn.LayerNorm(variant.width)
        self.proj = nn.Parameter(torch.empty(variant.width, variant.embed))

    def look(self, pictures: Tensor, alphas: Tensor, which: Tensor) -> Tensor:
        """Pictures (P, 3, n, n), masks (B, 1, n, n), and which picture each mask belongs to, (B,) int64 → (B, D).

        The class token stands last, so that the last block can compute it alone.
        """
        patches = self.conv1(pictures)[which]
        if self.conv1_alpha is not None:
            patches = patches + self.conv1_alpha(alphas)
        size = patches.shape[-2:]
        first = self.class_embedding.to(patches.dtype).expand(len(which), 1, -1)
        positions = self.positions(size).roll(-1, 0)
        x = self.ln_pre(torch.cat([patches.flatten(2).transpose(1, 2), first], 1) + positions)
        *blocks, last = self.resblocks
        for block in blocks:
            x = block(x)
        return self.ln_post(last(x, _class_token)[:, 0]) @ self.proj


def _class_token(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q[:, :, -1:], k, v)


class Words(TextTower):
    """CLIP's text tower, without what SAN adds to it."""

    def __init__(self, variant: Variant) -> None:
        super().__init__(
            variant.text_vocabulary, variant.context, variant.text_width, variant.text_heads, variant.text_layers,
            variant.embed, variant.words,
        )  # fmt: skip
        del self.bg_embed


class AlphaClip(nn.Module):
    """Both towers, and what leads from an image, masks and names to logits."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        self.precision = "fp32"
        self.visual = RegionTower(variant)
        self.text = Words(variant)
        self.classifiers = text.Recent[Classifier](text.KEPT, lambda one: one.rows.nbytes + one.classes.nbytes)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.visual.proj.device

    def forward(self, pictures: Tensor, alphas: Tensor, which: Tensor) -> Tensor:
        """Pictures (P, 3, n, n), masks (B, 1, n, n), both normalised, and the picture of each mask (B,) → (B, D).

        Embeddings float32 of unit norm.
        """
        half = torch.autocast(pictures.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()
        with half:
            embeddings = self.visual.look(pictures, alphas, which)
        return F.normalize(embeddings.float(), dim=-1)

    def viewer(self, image: np.ndarray, look: Look) -> Viewer:
        """An image (H, W, 3) uint8 RGB, ready to be shown region by region. Raises ValueError (see photograph.rgb)."""
        return Viewer(rgb(image), look, self.variant.pixels, self.device)

    def embed(self, views: Iterable[View], batch: int = BATCH) -> Tensor:
        """Embed regions in full batches, whatever images they are of: (R, D) float32 of unit norm."""
        made = [self(*stacked(views)) for views in _batched(views, batch)]
        return torch.cat(made) if made else torch.empty(0, self.variant.embed, device=self.device)

    def classifier(self, vocabulary: Vocabulary, naming: Naming) -> Classifier:
        """The rows that regions are compared with; kept for the vocabularies used last."""

        def make() -> Classifier:
            return classifier(embed(self.text, vocabulary, naming), vocabulary, naming)

        return self.classifiers.get(f"{vocabulary.digest} {naming!r}", make)

    @torch.inference_mode()
    def classify(
        self, image: np.ndarray, masks: np.ndarray, vocabulary: Vocabulary | Iterable[str], batch: int = BATCH,
        **options: Any,
    ) -> Tensor:  # fmt: skip
        """Name regions: image (H, W, 3) uint8 RGB, masks (R, H, W) bool → logits (R, K) float32, 100 · cosine.

        Options are those of Look and Naming: fit, context, padding, background, marker, alpha, templates, synonyms.
        Raises OvssError for one that is not known, and for masks of another size than the image's; ValueError for
        what is no photograph (see photograph.rgb).
        """
        image = rgb(image)
        if masks.shape[1:] != image.shape[:2] or masks.dtype != bool:
            raise OvssError(
                f"the masks are {masks.dtype} {masks.shape}; wanted is bool (R, {image.shape[0]}, {image.shape[1]})"
            )
        look, naming = _options(options)
        boxes, bits = regions.pack(masks)
        embeddings = self.embed(self.viewer(image, look).views(boxes, regions.Masks(boxes, bits)), batch)
        return self.classifier(Vocabulary.of(vocabulary), naming)(embeddings)


def _options(options: dict[str, Any]) -> tuple[Look, Naming]:
    """Divide options among those that say how regions look and those that say how classes are named."""
    naming = {name: value for name, value in options.items() if name in Naming.model_fields}
    try:
        return Look(**{name: value for name, value in options.items() if name not in naming}), Naming(**naming)
    except ValidationError as failure:
        first = failure.errors()[0]
        known = ", ".join([*Look.model_fields, *Naming.model_fields])
        raise OvssError(f"{first['loc'][0]}={first['input']!r}: {first['msg']}. The options are {known}") from failure


def _batched(views: Iterable[View], batch: int) -> Iterator[list[View]]:
    stream = iter(views)
    return iter(lambda: list(islice(stream, batch)), [])


def stacked(views: Sequence[View]) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, each once, the regions' masks, and which picture belongs to which."""
    pictures = {id(view.picture): view.picture for view in views}
    order = {key: i for i, key in enumerate(pictures)}
    which = torch.tensor([order[id(view.picture)] for view in views])
    alphas = torch.stack([view.alpha for view in views])
    return torch.stack(list(pictures.values())), alphas, which.to(alphas.device)


def load(
    name: str, files: Sequence[Path], device: str = "cpu", precision: str = "fp32", variant: Variant | None = None
) -> AlphaClip:
    """Load an AlphaCLIP or CLIP for inference from the files that alpha_clip_variants.files lists.

    `variant` is for one that VARIANTS does not list. Raises OvssError for a file that is missing or does not fit.
    """
    if precision not in ("fp32", "bf16"):
        raise OvssError(f"precision {precision!r} is not known; write fp32 or bf16")
    variant = variant or VARIANTS[name]
    with torch.device("meta"):
        model = AlphaClip(variant)
    words, visual = _divided(_read(files[0]))
    if variant.base:
        visual = (visual if variant.partial else {}) | _named(_read(files[1]))
    checkpoint.fill(model.text, words, files[0], variant.base or name, {})
    checkpoint.fill(model.visual, visual, files[-1], name, _others(name))
    model.precision = precision
    if torch.device(device).type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return model.to(device)


def load_text(name: str, files: Sequence[Path], device: str = "cpu", variant: Variant | None = None) -> Words:
    """Load the text tower alone: all that a vocabulary's embedding needs."""
    variant = variant or VARIANTS[name]
    with torch.device("meta"):
        tower = Words(variant)
    words, _ = _divided(_read(files[0]))
    return checkpoint.fill(tower, words, files[0], variant.base or name, {}).to(device)


def _read(file: Path) -> checkpoint.State:
    """A state dict, or what OpenAI's TorchScript archive holds in its place."""
    state = torchscript.read(file) if torchscript.is_archive(file) else checkpoint.read(file)
    return {name: value for name, value in state.items() if name not in UNUSED}


def _divided(state: checkpoint.State) -> tuple[checkpoint.State, checkpoint.State]:
    """The text tower of a whole CLIP, and its image tower, by our names. The file may be that of a SAN."""
    if any(name.startswith(EXTRACTOR) for name in state):
        state = _of_san(state)
    words = {name: value for name, value in state.items() if not name.startswith(VISUAL)}
    return words, _named({name.removeprefix(VISUAL): value for name, value in state.items() if name not in words})


def _of_san(state: checkpoint.State) -> checkpoint.State:
    """The CLIP inside a SAN, by the names of a CLIP: the blocks of the head follow those of the extractor."""
    shallow = len({name.split(".")[2] for name in state if name.startswith(EXTRACTOR + ".resblocks.")})
    found = {}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        if part == HEAD and rest.startswith("resblocks."):
            _, number, inner = rest.split(".", 2)
            rest = f"resblocks.{shallow + int(number)}.{inner}"
        if part in (EXTRACTOR, HEAD):
            found[VISUAL + rest] = value
        elif part == WORDS and rest not in ("bg_embed", "attn_mask"):
            found[rest] = value
    return found


def _named(visual: checkpoint.State) -> checkpoint.State:
    """Entries of an official image tower by the names of ours; AlphaCLIP's attention has a linear layer of its own."""
    return {
        name.removeprefix("transformer.").replace("attn.in_proj.", "attn.in_proj_"): value
        for name, value in visual.items()
    }


def _others(name: str) -> dict[str, checkpoint.Shapes]:
    """Shapes of the entries of the other image towers, to tell a checkpoint that belongs to one of them."""
    with torch.device("meta"):
        return {other: checkpoint.shapes(RegionTower(variant)) for other, variant in VARIANTS.items() if other != name}
