"""SAM: masks for the points, boxes and masks that somebody points with.

Kirillov et al., "Segment Anything", ICCV 2023, arXiv 2304.02643. An image is looked at once; each prompt then costs a
small decoder. Letters: B images, P prompts, M masks, H W pixels of an image, h w of what it is resized to, g side of
the embedding, D channels.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.errors import OvssError
from ovss_ray.models import checkpoint
from ovss_ray.models.photograph import rgb
from ovss_ray.models.sam_decoder import MaskDecoder, PromptEncoder, Prompts
from ovss_ray.models.sam_encoder import ImageEncoder
from ovss_ray.models.sam_masks import Frame, thresholded
from ovss_ray.models.sam_tiny_vit import UNUSED, TinyVitEncoder
from ovss_ray.models.sam_variants import VARIANTS, Size, Variant, resized_size

MEAN = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
STD = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
"""What the input is normalised by, for RGB in 0..255."""
WARM = 3
"""Times that a compiled encoder is run before it is used on a GPU: CUDA graphs are recorded in the second."""


@dataclass(frozen=True)
class Embedded:
    """An image that has been looked at, ready for any number of prompts."""

    embedding: Tensor
    """(1, D, g, g) float32"""
    resized: Size
    """h, w: its size inside the network's input"""
    size: Size
    """H, W"""


@dataclass(frozen=True)
class Answer:
    """Masks for a prompt, in the network's order."""

    masks: np.ndarray
    """(M, H, W) bool"""
    predicted_iou: np.ndarray
    """(M,) float32: how well the network thinks that each fits"""
    logits: np.ndarray
    """(M, 4 g, 4 g) float32; one of them may be given with the next prompt"""


class Sam(nn.Module):
    """The whole network. Its state dict is that of the official checkpoints."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        self.precision = "fp32"
        self.sizes: list[int] = []
        tiny = variant.tiny_vit
        self.image_encoder = TinyVitEncoder(variant, tiny) if tiny else ImageEncoder(variant)
        self.prompt_encoder = PromptEncoder(variant)
        self.mask_decoder = MaskDecoder(variant)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.prompt_encoder.no_mask_embed.weight.device

    def computing(self) -> torch.autocast:
        """What the encoder, and the decoder of automatic masks, are computed in: bfloat16 or nothing special."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def compile_for(self, images: int, mode: str = "default") -> float:
        """Compile the encoder for so many images at a time; return the seconds that it took.

        From then on images are encoded in groups of a size that has been compiled, filled up with zeros, which cost as
        much: another size would be compiled anew, in the middle of the work. `mode` is torch.compile's. Raises
        OvssError if this machine cannot compile.
        """
        if images in self.sizes:
            return 0.0
        begun = time.perf_counter()
        if not self.sizes:
            self.image_encoder.compile(dynamic=False, mode=mode)
        self.sizes = sorted({*self.sizes, images})
        empty = torch.zeros(images, 3, self.variant.pixels, self.variant.pixels, device=self.device)
        try:
            with torch.inference_mode():
                for _ in range(WARM if self.device.type == "cuda" else 1):
                    self.encode(empty)
        except RuntimeError as failure:
            raise OvssError(
                f"the image encoder cannot be compiled for {images} images here: {str(failure).strip()}. It takes "
                "compilers of C and C++ (the package g++) and memory; or leave the option compile out"
            ) from failure
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - begun

    def encode(self, images: Tensor) -> Tensor:
        """Images as `preprocess` makes them, (B, 3, pixels, pixels) float32 → embeddings (B, D, g, g) float32."""
        if not self.sizes:
            return self._encode(images)
        parts = []
        for some in images.split(self.sizes[-1]):
            size = next(size for size in self.sizes if size >= len(some))
            filled = F.pad(some, (0, 0, 0, 0, 0, 0, 0, size - len(some)))
            parts.append(self._encode(filled)[: len(some)].clone())  # a CUDA graph writes into the same memory again
        return torch.cat(parts)

    def _encode(self, images: Tensor) -> Tensor:
        with self.computing():
            return self.image_encoder(images).float()

    def decode(self, embeddings: Tensor, prompts: Prompts, which: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """All four masks of each prompt (sam_decoder.MASKS), and how well they are thought to fit.

        `embeddings` (B, D, g, g), `which` (P,) int64 the image of each prompt, not needed if there is but one.
        Returns logits (P, 4, 4 g, 4 g) and predicted IoU (P, 4).
        """
        image = embeddings.expand(len(prompts.points), -1, -1, -1) if which is None else embeddings[which]
        encoder = self.prompt_encoder
        return self.mask_decoder(image + encoder.dense(prompts), encoder.tokens(prompts), encoder.positions())

    def preprocess(self, image: np.ndarray) -> Tensor:
        """An image (H, W, 3) uint8 RGB → the network's input (3, pixels, pixels) float32.

        Resized by PIL's bilinear filter, normalised, and padded with zeros on the right and at the bottom. Raises
        ValueError for what is no photograph (see photograph.rgb).
        """
        image = rgb(image)
        height, width = resized_size(image.shape[0], image.shape[1], self.variant)
        resized = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        made = torch.zeros(3, self.variant.pixels, self.variant.pixels)
        made[:, :height, :width] = (torch.from_numpy(resized).permute(2, 0, 1) - MEAN) / STD
        return made

    @torch.inference_mode()
    def embed(self, image: np.ndarray) -> Embedded:
        """Look at an image (H, W, 3) uint8 RGB; grey and RGBA are taken too. Raises ValueError (see photograph.rgb)."""
        image = rgb(image)
        size = image.shape[0], image.shape[1]
        found = self.encode(self.preprocess(image)[None].to(self.device))
        return Embedded(found, resized_size(*size, self.variant), size)

    @torch.inference_mode()
    def predict(
        self,
        image: Embedded | np.ndarray,
        points: Sequence[Sequence[float]] | np.ndarray | None = None,
        labels: Sequence[int] | np.ndarray | None = None,
        box: Sequence[float] | np.ndarray | None = None,
        mask: np.ndarray | None = None,
        multimask: bool = True,
    ) -> Answer:
        """Masks for one prompt: three, or with multimask=False one, for prompts that can mean but one thing.

        `points` (n, 2) are x and y in pixels of the image, each with a label, 1 on what is meant or 0 beside it; `box`
        is x0 y0 x1 y1; `mask` (4 g, 4 g) logits of an earlier answer. Raises OvssError if they are not so. An image
        that is not embedded yet is embedded first (see `embed`).
        """
        seen = image if isinstance(image, Embedded) else self.embed(image)
        prompts = self._prompts(seen, points, labels, box, mask)
        masks, fit = self.decode(seen.embedding, prompts)
        chosen = slice(1, None) if multimask else slice(0, 1)
        frame = Frame(4 * self.variant.grid, self.variant.pixels, seen.resized, seen.size, self.device)
        full = thresholded(masks[0, chosen], frame)
        return Answer(full, fit[0, chosen].cpu().numpy(), masks[0, chosen].cpu().numpy())

    def _prompts(
        self,
        image: Embedded,
        points: Sequence[Sequence[float]] | np.ndarray | None,
        labels: Sequence[int] | np.ndarray | None,
        box: Sequence[float] | np.ndarray | None,
        mask: np.ndarray | None,
    ) -> Prompts:
        """One prompt, its coordinates in pixels of the input. Raises OvssError."""
        side = 4 * self.variant.grid
        if points is None and box is None and mask is None:
            raise OvssError("a prompt is empty; give points with labels, a box, a mask, or several of them")
        if (points is None) != (labels is None):
            raise OvssError("points and labels go together: one label per point, 1 on what is meant, 0 beside it")
        scale = np.array(image.resized[::-1]) / np.array(image.size[::-1])
        where = None if points is None else _numbers("points", points, (-1, 2)) * scale
        what = None if labels is None else _numbers("labels", labels, (-1,))
        if where is not None and what is not None and (len(where) != len(what) or not np.isin(what, (0, 1)).all()):
            raise OvssError(f"{len(where)} points have the labels {what.tolist()}; give each a 1 or a 0")
        corners = None if box is None else _numbers("box", box, (4,)).reshape(2, 2) * scale
        earlier = None if mask is None else _numbers("mask", mask, (side, side))[None]
        given = (
            None if x is None else torch.from_numpy(x)[None].to(self.device) for x in (where, what, corners, earlier)
        )
        coordinates, signs, boxes, masks = given
        return Prompts.of(coordinates, signs, boxes, None if masks is None else masks.float())


def _numbers(what: str, given: object, shape: tuple[int, ...]) -> np.ndarray:
    """A part of a prompt as finite float64 of a shape; -1 stands for any number but none. Raises OvssError."""
    try:
        found = np.asarray(given, np.float64)
    except (TypeError, ValueError) as failure:
        raise OvssError(f"{what}: {given!r} are not numbers") from failure
    fits = found.ndim == len(shape) and all(n == m or (m < 0 < n) for n, m in zip(found.shape, shape, strict=True))
    if not fits or not np.isfinite(found).all():
        wanted = " × ".join("n" if n < 0 else str(n) for n in shape)
        raise OvssError(f"{what}: wanted {wanted} finite numbers, found an array of {found.shape}")
    return found


def load(name: str, weights: Path, device: str = "cpu", precision: str = "fp32", variant: Variant | None = None) -> Sam:
    """Load a SAM for inference from an official checkpoint; `variant` is for one that VARIANTS does not list."""
    if precision not in ("fp32", "bf16"):
        raise OvssError(f"precision {precision!r} is not known; write fp32 or bf16")
    with torch.device("meta"):
        model = Sam(variant or VARIANTS[name])
        others = {other: checkpoint.shapes(Sam(one)) for other, one in VARIANTS.items() if other != name}
    checkpoint.fill(model, checkpoint.read(weights, UNUSED), weights, name, others)
    model.precision = precision
    if torch.device(device).type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return model.to(device)
