"""The automatic mask generator of SAM and MobileSAM, with the same results as the official code.

The official code is SamAutomaticMaskGenerator in the package segment-anything. Most of the generator is in
sam_layers/generator.py. Kirillov et al., 2023, §4 and appendix B.
"""

from collections.abc import Sequence

import numpy as np
import torch

from ovss_ray.models.photograph import rgb
from ovss_ray.models.runtime import full_precision, up
from ovss_ray.models.sam.decoder import MASKS
from ovss_ray.models.sam.network import Sam
from ovss_ray.models.sam.variants import resized_size
from ovss_ray.models.sam_layers import generator
from ovss_ray.models.sam_layers.fast_decoder import FastDecoder
from ovss_ray.models.sam_layers.generator import Crop, Encoded, Proposals
from ovss_ray.models.sam_layers.points import Settings

SEVERAL = MASKS - 1  # a click is ambiguous
"""Number of masks that the generator computes per click. A click is a prompt that consists of one point.

The decoder's first mask is left out, because it is for unambiguous prompts.
"""


class Generator(generator.Generator):
    """SAM's automatic mask generator. `batch` is the number of crops that the encoder processes at a time."""

    def __init__(self, model: Sam, settings: Settings | None = None, batch: int = 1) -> None:
        self.model, self.batch = model, batch
        super().__init__(fast_decoder(model), model.variant.pixels, model.device, model.precision, settings)

    @torch.inference_mode()
    def generate(self, images: Sequence[np.ndarray]) -> list[Proposals]:
        """Return the regions of images (H, W, 3) uint8 RGB: one Proposals per image.

        Grey and RGBA images also work. Raises ValueError for other arrays, and OvssError if the masks of an image take
        too much memory.
        """
        if isinstance(images, np.ndarray) and images.ndim < 4:  # its rows would pass for grey images
            problem = f"expected a list of images, got an array of shape {images.shape}"
            raise ValueError(f"{problem}. For one image, call generate([image])")
        images = [rgb(image) for image in images]
        todo = [crop for i, image in enumerate(images) for crop in self.crops(i, image.shape[:2])]
        proposed: list[list[Proposals]] = [[] for _ in images]
        for begin in range(0, len(todo), self.batch):
            batch = todo[begin : begin + self.batch]
            with full_precision(self.device):
                by_crop = self.propose(batch, self._encode(images, batch))
            for crop, proposals in zip(batch, by_crop, strict=True):
                proposed[crop.image].append(proposals)
        return [self.merge(parts, image.shape[:2]) for parts, image in zip(proposed, images, strict=True)]

    def _encode(self, images: Sequence[np.ndarray], batch: Sequence[Crop]) -> Encoded:
        cut = [images[crop.image][crop.box[1] : crop.box[3], crop.box[0] : crop.box[2]] for crop in batch]
        inputs = torch.stack([self.model.preprocess(np.ascontiguousarray(pixels)) for pixels in cut])
        resized = [resized_size(pixels.shape[0], pixels.shape[1], self.model.variant) for pixels in cut]
        scales = [(w / pixels.shape[1], h / pixels.shape[0]) for pixels, (h, w) in zip(cut, resized, strict=True)]
        return Encoded(self.model.encode(up(inputs, self.device)), resized, scales)


def fast_decoder(model: Sam) -> FastDecoder:
    """Return a FastDecoder with the weights of a Sam.

    For each prompt, the FastDecoder computes three masks: all masks of Sam.decode except the first. The FastDecoder is
    faster than Sam.decode.
    """
    decoder = model.mask_decoder
    return FastDecoder(model.prompt_encoder, decoder, decoder.iou_token, SEVERAL, decoder.iou_prediction_head)
