"""Everything mode of Open-Vocabulary SAM: a grid of clicks finds regions, and each region gets class scores.

The mask generator is SAM's (Kirillov et al., 2023, §4). The decoder predicts no IoU, so regions are ranked by their
stability. The official code has no everything mode. Dimensions: K classes, n clicks.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ovss_ray.models.ovsam import inputs, naming
from ovss_ray.models.ovsam.inputs import Embedded
from ovss_ray.models.ovsam.naming import Named
from ovss_ray.models.ovsam.network import Ovsam
from ovss_ray.models.runtime import full_precision
from ovss_ray.models.sam_layers.fast_decoder import FastDecoder
from ovss_ray.models.sam_layers.generator import Encoded, Generator, Proposals
from ovss_ray.models.sam_layers.points import Settings
from ovss_ray.models.text import Classifier

REGIONS = 64
"""Maximum number of regions whose mask logits are in memory at a time.

For ovsam_rn50x16, the mask logits of 64 regions take 17 MB.
"""


class Everything(Generator):
    """Mask generator of an Open-Vocabulary SAM. The settings for predicted IoU and for crop layers have no effect."""

    def __init__(self, model: Ovsam, settings: Settings) -> None:
        self.model = model
        decoder = model.mask_decoder
        fast = FastDecoder(model.pe, decoder.mask_decoder, decoder.label_token, masks=1)
        super().__init__(fast, model.variant.pixels, model.device, model.precision, settings)

    @torch.inference_mode()
    def regions(self, seen: Sequence[Embedded]) -> list[Proposals]:
        """Return the regions of encoded images, the most stable first.

        Raises OvssError if the packed masks of an image exceed regions.BYTES.
        """
        places = [image.placed for image in seen]
        whole = [next(self.crops(i, place.size)) for i, place in enumerate(places)]
        necks = torch.cat([image.neck for image in seen])
        encoded = Encoded(necks, [place.resized for place in places], [place.scale for place in places])
        with full_precision(self.device):
            proposed = self.propose(whole, encoded)
        return [self.merge([part], place.size) for part, place in zip(proposed, places, strict=True)]

    def named(
        self, seen: Embedded, regions: Proposals, classes: Classifier, base: Tensor, novel: Tensor, top: int = 0
    ) -> Named:
        """Return the scores of an image's regions, and the `top` best classes of each region.

        `base` and `novel` (K,) bool mark the base classes and the novel classes, see head.ensemble.
        """
        parts = [
            naming.named(self.model, seen, block, classes, base, novel, top=top)
            for block in self._logits(seen, regions.points)
        ]
        return Named.joined([naming.empty(len(classes.classes), top), *parts])

    def _logits(self, seen: Embedded, points: np.ndarray) -> Iterator[Tensor]:
        """Yield the mask logits of the clicks `points` (n, 2), for at most REGIONS clicks at a time."""
        for begin in range(0, len(points), REGIONS):
            prompts = inputs.prompts(points[begin : begin + REGIONS], None, None, seen.placed)
            yield from self.model.masks([seen], [prompts])
