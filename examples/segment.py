"""Segment one image with class names of your own: `uv run python examples/segment.py [IMAGE NAME...]`.

Without arguments, a scene is drawn. `san_tiny` knows only the words of drawn scenes. For photographs, use
`ovss_ray.load_model("san_vit_b_16")`, which downloads 699 MB.
"""

import sys
from collections.abc import Sequence

import numpy as np
from PIL import Image

import ovss_ray
from ovss_ray.datasets import scenes

NAMES = ("sky", "wall", "grass", "spotted brown ring", "plain orange bow", "spotted yellow moon", "striped red star")
"""Class names for the drawn scene; two of them are not in it."""


def main(arguments: Sequence[str] = (), out: str = "labels.png") -> dict[str, float]:
    """Write the label map as a PNG file, and return the share of pixels of each class."""
    path, *names = arguments or ("", *NAMES)
    drawn, _ = scenes.of_address("held-out/validation/42")
    image = np.asarray(Image.open(path).convert("RGB")) if path else drawn.image  # (H, W, 3) uint8
    labels = ovss_ray.load_model("san_tiny").segment(image, names)  # (H, W) uint16: indices into the names
    Image.fromarray(labels).save(out)
    shares = {name: float((labels == index).mean()) for index, name in enumerate(names)}
    for name, share in shares.items():
        print(f"{share:6.1%}  {name}")
    return shares


if __name__ == "__main__":
    main(sys.argv[1:])
