"""Cache of encoded images, so that only the first prompt for an image runs the encoder. No torch is imported here."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from ovss_ray.structures.recent import Recent


class Encoding(Protocol):
    """The encoding of an image: one or several maps, on CPU or GPU."""

    @property
    def nbytes(self) -> int:
        """Bytes of all maps."""


Maps = TypeVar("Maps", bound=Encoding)


@dataclass(frozen=True)
class Seen:
    """A cached image, and its encoding."""

    image: np.ndarray
    """(H, W, 3) uint8 RGB"""
    embedded: Any


class WithImages:
    """Mixin with a cache of images and their encodings, for stages that predict masks from prompts."""

    def cache(self, memory: int) -> None:
        """Create the cache of images and encodings, with a limit of `memory` bytes.

        If the cache exceeds the limit, the least recently used images are evicted, together with their encodings. The
        newest image is never evicted, even if the newest image alone exceeds the limit.
        """
        self.seen: Recent[Seen] = Recent(memory, lambda seen: seen.image.nbytes + seen.embedded.nbytes)

    def kept(self) -> Mapping[str, int]:
        """Return {"images": bytes}: the size of the cache of images and encodings."""
        return {"images": self.seen.held}

    def image(self, name: str) -> np.ndarray | None:
        """Return the image (H, W, 3) uint8 RGB with the key `name`. If the image is not cached, return None."""
        seen = self.seen.kept(name)
        return seen.image if seen else None

    def encoded(self, image: np.ndarray, name: str | None, encode: Callable[[np.ndarray], Maps]) -> Maps:
        """Return the encoding of an image (H, W, 3). If the encoding is not cached, `encode` computes it.

        The cache key is `name`, or `hashed(image)` if `name` is None.
        """
        # A copy is cached: the image may be in shared memory, which Ray could not free.
        maps: Maps = self.seen.get(name or hashed(image), lambda: Seen(image.copy(), encode(image))).embedded
        return maps


def hashed(image: np.ndarray) -> str:
    """Return the cache key of an image (H, W, 3) that has no name.

    The key consists of the image's shape and the SHA-256 of the image's pixels.
    """
    return f"{image.shape} {hashlib.sha256(image.tobytes()).hexdigest()}"
