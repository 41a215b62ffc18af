"""Small files that would become large, sent to a service here: `python -m tests.serve.bombs` tells the peaks."""

import asyncio
import json
import struct
import zlib

import numpy as np
from PIL import Image

from tests.serve.bright import picture, service
from tests.serve.fuzz import PATHS, ask, encoded, forget, memory

TAKEN = "png, 20 million grey pixels"
"""What is within the limits, and so shows that the peak is seen."""


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, extra: bytes = b"", data: bytes = b"") -> bytes:
    """A PNG that claims a size, with whatever chunks before its pixels."""
    header = chunk(b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT" + data) + chunk(b"IEND")


def chunk(content: bytes) -> bytes:
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))


def zeros(size: int) -> bytes:
    """So many zeros, compressed piece by piece."""
    packer, made = zlib.compressobj(9), []
    for _ in range(size // 1_000_000):
        made.append(packer.compress(bytes(1_000_000)))
    return b"".join([*made, packer.flush()])


def resized(data: bytes, width: int, height: int) -> bytes:
    """A JPEG whose frame header claims another size."""
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def lossless_webp(width: int, height: int) -> bytes:
    """The header of a lossless WebP that claims a size (WebP Lossless Bitstream Specification, 3)."""
    bits = (width - 1) | (height - 1) << 14
    body = b"\x2f" + struct.pack("<I", bits) + bytes(32)
    payload = b"WEBPVP8L" + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    return b"RIFF" + struct.pack("<I", len(payload)) + payload


def bombs() -> dict[str, bytes]:
    """Name → a small file."""
    small = Image.fromarray(picture())
    text = chunk(b"zTXtbomb\0\0" + zeros(300_000_000))
    frames = [Image.fromarray(np.full((500, 500, 3), k, np.uint8)) for k in range(200)]
    return {
        "png, 400 million grey pixels": png(20_000, 20_000, colour=0, data=zeros(400_000_000)),
        "png, 30,000 pixels wide": png(30_000, 30_000),
        "png, of two milliards a side": png(2_000_000_000, 2_000_000_000),
        "png, one row": png(2_000_000_000, 1),
        "jpeg, 65,500 pixels a side": resized(encoded(small, "JPEG"), 65_500, 65_500),
        "webp, 16,384 pixels a side": lossless_webp(16_384, 16_384),
        "jpeg, 10,000 scans": encoded(small, "JPEG") + b"\xff\xda" * 10_000,
        "png, 300 MB of text": png(32, 24, extra=text),
        "png, 300 MB of a profile": png(32, 24, extra=chunk(b"iCCPbomb\0\0" + zeros(300_000_000))),
        TAKEN: encoded(Image.new("L", (5000, 4000)), "PNG"),
        "gif, 200 frames": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
    }


async def run() -> dict[str, tuple[int, float]]:
    """Send each: name → status and MB above what it was before, at most."""
    app, files, told = service(), bombs(), {}
    for file in [encoded(Image.fromarray(picture()), kind) for kind in ("PNG", "JPEG", "WEBP")]:
        assert (await ask(app, "/v1/segment", PATHS["/v1/segment"], b"", file))[0] == 200
    for name, file in files.items():
        assert len(file) < 2_000_000, (name, len(file))
        forget()
        idle = memory("VmRSS")
        for path, query in PATHS.items():
            status, _ = await ask(app, path, query, b"", file)
        told[name] = status, memory("VmHWM") - idle
    return told


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run())))
