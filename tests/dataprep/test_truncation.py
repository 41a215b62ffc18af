"""Whether files reach their end, in every format, from a few bytes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovss_ray.dataprep import truncation
from ovss_ray.errors import OvssError

WAYS = {
    "png": {},
    "jpg": {},
    "bmp": {},
    "gif": {},
    "webp": {"lossless": True},
    "jp2": {},
    "tif": {},
    "lzw.tif": {"compression": "tiff_lzw"},
    "deflate.tif": {"compression": "tiff_adobe_deflate"},
    "tiles.tif": {"compression": "tiff_lzw", "tiffinfo": {322: 16, 323: 16}},
}


def save(file: Path, **more: object) -> None:
    pixels = np.random.default_rng(0).integers(0, 9, (60, 73, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file, **more)


@pytest.mark.parametrize("ending", WAYS)
def test_a_whole_file_reaches_its_end_and_a_cut_one_does_not(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"a.{ending}"
    save(file, **WAYS[ending])
    assert truncation.reached(file)
    data = file.read_bytes()
    for left in (0, 3, 20, len(data) // 2, len(data) - 40):
        file.write_bytes(data[:left])
        assert not truncation.reached(file), f"{left} of {len(data)} bytes"


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "gif", "webp"])
def test_not_one_byte_may_be_missing(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"a.{ending}"
    save(file, **WAYS[ending])
    file.write_bytes(file.read_bytes()[:-1])
    assert not truncation.reached(file)


def test_what_is_not_known_is_left_to_whoever_reads_it_in_full(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("<html>not found</html>")
    assert not truncation.reached(tmp_path / "a.png")
    with pytest.raises(OvssError, match="cannot be read"):
        truncation.reached(tmp_path / "missing.png")
