"""SAM: masks from prompts, which are points, boxes or masks.

Kirillov et al., "Segment Anything", ICCV 2023, arXiv 2304.02643.

Dimensions: B images, P prompts, M masks, H W pixels of an image, h w of the resized image; g side of the
embedding, D channels.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.errors import OvssError
from ovss_ray.models import checkpoint, runtime
from ovss_ray.models.photograph import IMAGENET, padded, resized, rgb
from ovss_ray.models.runtime import int8
from ovss_ray.models.sam.decoder import MaskDecoder
from ovss_ray.models.sam.encoder import ImageEncoder
from ovss_ray.models.sam.tiny_vit import UNUSED, TinyVitEncoder
from ovss_ray.models.sam.variants import VARIANTS, Variant, resized_size
from ovss_ray.models.sam_layers.frame import Frame, thresholded
from ovss_ray.models.sam_layers.prompts import PromptEncoder, Prompts
from ovss_ray.models.sam_layers.sizes import Size

TOWERS = ("image_encoder",)
"""Submodules that are image transformers. With precision int8, their linear layers compute with 8-bit integers."""
WARM = 3
"""Number of warm-up runs of a compiled encoder on a GPU.

The first run compiles the encoder. In modes with CUDA graphs, the second run records the graphs, and the third run
replays the graphs.
"""


@dataclass(frozen=True)
class Embedded:
    """An encoded image, ready for any number of prompts."""

    embedding: Tensor
    """(1, D, g, g) float32: output of the image encoder"""
    resized: Size
    """h, w: size of the image inside the network's input"""
    size: Size
    """H, W: size of the image"""

    @property
    def nbytes(self) -> int:
        """Bytes of the embedding."""
        return self.embedding.nbytes


@dataclass(frozen=True)
class Answer:
    """Masks for a prompt, in the order of the decoder's outputs, not sorted by predicted IoU."""

    masks: np.ndarray
    """(M, H, W) bool: masks of the image's size"""
    predicted_iou: np.ndarray
    """(M,) float32: predicted IoU of each mask"""
    logits: np.ndarray
    """(M, 4 g, 4 g) float32: logits of each mask; to refine a mask, pass its logits to Sam.predict"""


class Sam(nn.Module):
    """The whole SAM network. Its state dict has the entries of the official checkpoints."""

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
        """Return the device of the weights."""
        return self.prompt_encoder.no_mask_embed.weight.device

    def computing(self) -> torch.autocast:
        """Return the autocast context in which the image encoder runs.

        If `precision` is "bf16", torch computes in bfloat16 inside the context. Otherwise the context has no effect.
        """
        return runtime.autocast(self.device, self.precision)

    def compile_for(self, images: int, mode: str = "default") -> float:
        """Compile the image encoder for batches of `images` images. Return the seconds that compilation took.

        Afterwards, a smaller batch takes as long as a full batch. `mode` is the `mode` of torch.compile. Raises
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
                f"the image encoder cannot be compiled for {images} images here: {str(failure).strip()}. Install a C++ "
                "compiler (the package g++), free some memory, or leave out the option `compile`"
            ) from failure
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - begun

    @runtime.in_full_precision
    def encode(self, images: Tensor) -> Tensor:
        """Return embeddings (B, D, g, g) float32 of a batch of images.

        `images` (B, 3, pixels, pixels) float32 are stacked results of `preprocess`. `pixels` is `variant.pixels`.
        """
        if not self.sizes:
            return self._encode(images)
        parts = []
        for batch in images.split(self.sizes[-1]):
            size = next(size for size in self.sizes if size >= len(batch))
            # Without padding, torch would compile again for each new batch size.
            filled = F.pad(batch, (0, 0, 0, 0, 0, 0, 0, size - len(batch)))
            parts.append(self._encode(filled)[: len(batch)].clone())  # a CUDA graph writes into the same memory again
        return torch.cat(parts)

    def _encode(self, images: Tensor) -> Tensor:
        with self.computing():
            return self.image_encoder(images).float()

    def decode(self, embeddings: Tensor, prompts: Prompts, which: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return logits (P, 4, 4 g, 4 g) and predicted IoU (P, 4) of each prompt's four masks.

        `embeddings` are (B, D, g, g). `which` (P,) int64 is the index of each prompt's image. If `which` is None, B
        must be 1.
        """
        image = embeddings.expand(len(prompts.points), -1, -1, -1) if which is None else embeddings[which]
        encoder = self.prompt_encoder
        return self.mask_decoder(image + encoder.dense(prompts), encoder.tokens(prompts), encoder.positions())

    def preprocess(self, image: np.ndarray) -> Tensor:
        """Resize, normalise and pad an image (H, W, 3) uint8 RGB. Return (3, pixels, pixels) float32.

        `pixels` is `variant.pixels`. Grey and RGBA images also work. Raises ValueError for other arrays (see
        photograph.rgb).
        """
        image = rgb(image)
        size = resized_size(image.shape[0], image.shape[1], self.variant)
        return padded(resized(image, size), IMAGENET, (self.variant.pixels, self.variant.pixels))

    @torch.inference_mode()
    def embed(self, image: np.ndarray) -> Embedded:
        """Return the encoding of an image (H, W, 3) uint8 RGB, for any number of prompts.

        Grey and RGBA images also work. Raises ValueError for other arrays (see photograph.rgb).
        """
        image = rgb(image)
        size = image.shape[0], image.shape[1]
        embedding = self.encode(self.preprocess(image)[None].to(self.device))
        return Embedded(embedding, resized_size(*size, self.variant), size)

    @torch.inference_mode()
    @runtime.in_full_precision
    def predict(
        self,
        image: Embedded | np.ndarray,
        points: Sequence[Sequence[float]] | np.ndarray | None = None,
        labels: Sequence[int] | np.ndarray | None = None,
        box: Sequence[float] | np.ndarray | None = None,
        mask: np.ndarray | None = None,
        multimask: bool = True,
    ) -> Answer:
        """Return three masks, the alternatives for an ambiguous prompt. If `multimask` is False, return one mask.

        A single click is ambiguous: it may mean an object or a part. For unambiguous prompts, such as a box, set
        `multimask` to False. `image` is the result of `embed`, or an image that `embed` accepts.

        - `points` (n, 2): x and y in pixels of the image
        - `labels` (n,): 1 for a point inside the object, 0 for a point outside
        - `box` (4,): x0 y0 x1 y1 in pixels of the image
        - `mask` (4 g, 4 g): logits of one mask of an earlier Answer

        Raises OvssError for an invalid prompt.
        """
        seen = image if isinstance(image, Embedded) else self.embed(image)
        prompts = self._prompts(seen, points, labels, box, mask)
        masks, fit = self.decode(seen.embedding, prompts)
        selected = slice(1, None) if multimask else slice(0, 1)
        frame = Frame(4 * self.variant.grid, self.variant.pixels, seen.resized, seen.size, self.device)
        full = thresholded(masks[0, selected], frame)
        return Answer(full, fit[0, selected].cpu().numpy(), masks[0, selected].cpu().numpy())

    def _prompts(
        self,
        image: Embedded,
        points: Sequence[Sequence[float]] | np.ndarray | None,
        labels: Sequence[int] | np.ndarray | None,
        box: Sequence[float] | np.ndarray | None,
        mask: np.ndarray | None,
    ) -> Prompts:
        """Return one prompt as Prompts with P = 1.

        The coordinates of points and box are converted from pixels of the image to pixels of the network's input.
        Raises OvssError if the prompt is invalid.
        """
        side = 4 * self.variant.grid
        if points is None and box is None and mask is None:
            raise OvssError("empty prompt; pass points with labels, a box, a mask, or several of them")
        if (points is None) != (labels is None):
            raise OvssError(
                "expected both points and labels, or neither: pass one label per point, 1 inside the object, 0 outside"
            )
        scale = np.array(image.resized[::-1]) / np.array(image.size[::-1])
        where = None if points is None else _numbers("points", points, (-1, 2)) * scale
        what = None if labels is None else _numbers("labels", labels, (-1,))
        if where is not None and what is not None and (len(where) != len(what) or not np.isin(what, (0, 1)).all()):
            raise OvssError(f"{len(where)} points have the labels {what.tolist()}. Pass one label per point, 1 or 0")
        corners = None if box is None else _numbers("box", box, (4,)).reshape(2, 2) * scale
        earlier = None if mask is None else _numbers("mask", mask, (side, side))[None]
        tensors = (
            None if x is None else torch.from_numpy(x)[None].to(self.device) for x in (where, what, corners, earlier)
        )
        coordinates, signs, boxes, masks = tensors
        return Prompts.of(coordinates, signs, boxes, None if masks is None else masks.float())


def _numbers(what: str, values: object, shape: tuple[int, ...]) -> np.ndarray:
    """Return `values` as a float64 array. Raises OvssError if `values` are not finite numbers of this `shape`.

    In `shape`, −1 stands for any length above 0.
    """
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as failure:
        raise OvssError(f"{what}: expected numbers, found {values!r}") from failure
    fits = array.ndim == len(shape) and all(n == m or (m < 0 < n) for n, m in zip(array.shape, shape, strict=True))
    if not fits:
        wanted = " × ".join("n" if n < 0 else str(n) for n in shape)
        raise OvssError(f"{what}: expected {wanted} finite numbers, got an array of shape {array.shape}")
    if not np.isfinite(array).all():
        raise OvssError(f"{what}: expected finite numbers, found NaN or infinity")
    return array


def load(
    name: str, files: Sequence[Path], device: str = "cpu", precision: str = "fp32", variant: Variant | None = None
) -> Sam:
    """Load a SAM for inference from a checkpoint with the official names.

    `files` has one path. If `variant` is None, the network has the sizes VARIANTS[name]. Raises OvssError if the
    checkpoint is missing or does not fit the network.
    """
    precision = runtime.checked_precision(precision)
    with torch.device("meta"):
        model = Sam(variant or VARIANTS[name])
        others = {other: checkpoint.shapes(Sam(sizes)) for other, sizes in VARIANTS.items() if other != name}
    (file,) = files
    checkpoint.fill(model, checkpoint.read(file, UNUSED), file, name, others)
    model.precision = precision
    return int8.placed(model, device, precision, TOWERS)
