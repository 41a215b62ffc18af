"""Decoding photographs: Pillow, as ovss_ray.io.images does it, against decoders that are said to be faster.

A decoder could be the default only if its pixels are the same: the numbers of a benchmark hang on them. From bytes in
memory to (H, W, 3) uint8 RGB each.
"""

import importlib.util
import io
import os
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from ovss_ray.io import images
from perf import pictures
from perf.timing import interleaved, ratio, show, spread, titled

Decoder = Callable[[bytes], np.ndarray]
NEEDS = {"opencv": "cv2", "simplejpeg": "simplejpeg", "PyTurboJPEG": "turbojpeg", "torchvision": "torchvision"}
"""Decoder → the module that it needs."""
JPEG_ONLY = ("simplejpeg", "PyTurboJPEG")


def measure(rounds: int, drawn: bool) -> None:
    """Print the table, and which decoders are missing."""
    found, missing = decoders()
    table = titled(
        "Decoding: Pillow's time against others'",
        *("files", "decoder", "ms an image", "times Pillow's rate", "largest difference", "pixels that differ"),
    )
    for kind, files in photographs(drawn).items():
        ours: Decoder = lambda data: images.decode(data, "photograph")  # noqa: E731 - one of several sides
        sides = {"Pillow": ours} | {k: v for k, v in found.items() if kind == "JPEG" or k not in JPEG_ONLY}
        times = interleaved({name: _over(files, decoder) for name, decoder in sides.items()}, rounds)
        expected = [ours(data) for data in files]
        for name, decoder in sides.items():
            differences = list(_differences(expected, map(decoder, files)))
            largest, share = max(one for one, _ in differences), np.mean([some for _, some in differences])
            speed = ratio(times["Pillow"], times[name])
            milliseconds = spread(1e3 * times[name] / len(files))
            table.add_row(f"{len(files)} {kind}", name, milliseconds, speed, str(largest), f"{share:.2%}")
    show(table, f"Not installed, so not measured: {', '.join(missing) or 'none'}.")


def decoders() -> tuple[dict[str, Decoder], list[str]]:
    """Those that work here by name, and the names of those that do not."""
    made = {"opencv": _opencv, "simplejpeg": _simplejpeg, "PyTurboJPEG": _turbojpeg, "torchvision": _torchvision}
    here = {name: make for name, make in made.items() if importlib.util.find_spec(NEEDS[name])}
    return {name: make() for name, make in here.items()}, sorted(set(made) - set(here))


def photographs(drawn: bool) -> dict[str, list[bytes]]:
    """Kind → files: real ones where they lie beside the project, else drawn ones."""
    jpegs = [] if drawn else sorted(pictures.REAL.rglob("*.jpg"))
    pngs = [] if drawn else sorted(pictures.REAL.glob("CamVid/val/*.png"))[::10]
    return {
        "JPEG": [file.read_bytes() for file in jpegs] or [_encoded("JPEG", seed) for seed in range(3)],
        "PNG": [file.read_bytes() for file in pngs] or [_encoded("PNG", seed) for seed in range(3)],
    }


def _encoded(kind: str, seed: int) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pictures.photograph((512, 683), seed)).save(sink, kind)
    return sink.getvalue()


def _over(files: list[bytes], decoder: Decoder) -> Callable[[], object]:
    return lambda: [decoder(data) for data in files]


def _differences(expected: list[np.ndarray], found: Iterator[np.ndarray]) -> Iterator[tuple[int, float]]:
    """For each image the largest difference of a value, and the share of pixels that differ."""
    for one, other in zip(expected, found, strict=True):
        assert one.shape == other.shape, "the decoders differ in the size of an image"
        apart = np.abs(one.astype(np.int16) - other)
        yield int(apart.max()), float((apart.max(-1) > 0).mean())


def _opencv() -> Decoder:
    import cv2

    cv2.setNumThreads(int(os.environ["OMP_NUM_THREADS"]))
    return lambda data: cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def _simplejpeg() -> Decoder:
    import simplejpeg

    return lambda data: simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False)


def _turbojpeg() -> Decoder:
    import turbojpeg

    decoder = turbojpeg.TurboJPEG()
    return lambda data: decoder.decode(data, pixel_format=turbojpeg.TJPF_RGB)


def _torchvision() -> Decoder:
    import torch
    from torchvision.io import ImageReadMode, decode_image

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    def decode(data: bytes) -> np.ndarray:
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return decode_image(encoded, ImageReadMode.RGB).permute(1, 2, 0).contiguous().numpy()

    return decode
