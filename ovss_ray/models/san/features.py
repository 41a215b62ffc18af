"""SAN's features of photographs, and a cache of recent features that two stages of a worker share.

The stages are `tags` and `san`. If both have the same network, `san` reuses the features that `tags` computed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ovss_ray.structures.recent import Recent

KEPT = 1 << 27
"""Maximum bytes of cached features, on the network's device. The features of one photograph take about 1 MB"""


@dataclass(frozen=True)
class Features:
    """SAN's features of a batch of images, independent of the vocabulary."""

    mask_logits: Tensor
    """(B, Q, h, w) float32: logits of Q masks, on the side network's grid of h × w patches"""
    mask_embeddings: Tensor
    """(B, Q, D) float32: embeddings of the Q masks, with D channels and unit norm"""

    def __getitem__(self, row: int) -> "Features":
        """Return a copy of the features of one image, without the first axis."""
        # a view would keep the batch in memory
        return Features(self.mask_logits[row].clone(), self.mask_embeddings[row].clone())

    @property
    def nbytes(self) -> int:
        """Bytes of both tensors."""
        return self.mask_logits.nbytes + self.mask_embeddings.nbytes


class RecentFeatures:
    """Cache of one network's features of recent photographs. The key is the SHA-256 of a photograph's pixels."""

    def __init__(self) -> None:
        self._recent = Recent[Features](KEPT, lambda features: features.nbytes)

    @property
    def held(self) -> int:
        """Bytes of all cached features."""
        return self._recent.held

    def find(self, photographs: Sequence[np.ndarray]) -> Features | None:
        """Return the cached features of photographs (H, W, 3) uint8 as a batch; None if any is missing."""
        kept = [self._recent.kept(_key(photograph)) for photograph in photographs]
        rows = [features for features in kept if features]
        if len(rows) < len(kept):
            return None
        return Features(
            torch.stack([row.mask_logits for row in rows]), torch.stack([row.mask_embeddings for row in rows])
        )

    def add(self, photographs: Sequence[np.ndarray], features: Features) -> None:
        """Cache the features of a batch of photographs (H, W, 3) uint8."""
        for row, photograph in enumerate(photographs):
            self._recent.get(_key(photograph), lambda row=row: features[row])  # type: ignore[misc]


def _key(photograph: np.ndarray) -> str:
    content = hashlib.sha256(np.ascontiguousarray(photograph).data).hexdigest()
    return f"{photograph.shape} {photograph.dtype} {content}"
