"""Sizes of images that are resized to fit into SAM's square input. No torch is imported here."""

Size = tuple[int, int]
"""H, W in pixels."""


def fitted(height: int, width: int, pixels: int) -> Size:
    """Return the size (h, w) of a resized image, whose longer side becomes `pixels`.

    The float operations have the order of the official code, so that rounding agrees.
    """
    scale = pixels * 1.0 / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
