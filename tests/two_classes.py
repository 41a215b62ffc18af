"""A small data set of two classes on disk, and a copy of it in a bucket."""

from pathlib import Path

import numpy as np
from PIL import Image

from ovss_ray.io import files


def write(folder: Path, bucket: str, images: int) -> None:
    """Write photographs and label files of random pixels, (16, 20 to 22), to a folder and to `bucket`/data."""
    generator = np.random.default_rng(0)
    for kind in ("photos", "labels"):
        (folder / kind).mkdir()
    for k in range(images):
        Image.fromarray(generator.integers(0, 256, (16, 20 + k % 3, 3), np.uint8)).save(folder / f"photos/i{k:02}.png")
        Image.fromarray(generator.integers(0, 2, (16, 20 + k % 3), np.uint8)).save(folder / f"labels/i{k:02}.png")
    (folder / "mine.yaml").write_text("images: photos/*.png\nlabels: labels/*.png\nclasses: [dark, bright]\n")
    for uri in files.walk(folder):
        files.write(uri.replace(str(folder), f"{bucket}/data"), files.read(uri))
