"""Requests damaged in every way, to a service in this process: `python -m tests.serve.fuzz MANY [SEED]` tells of them.

It runs in a process of its own, so that a crash is seen as one, and the memory is that of the service alone.
"""

import asyncio
import ctypes
import gc
import io
import json
import random
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from fastapi import FastAPI
from PIL import Image

from ovss_ray.config.limits import Limits
from ovss_ray.serve.http import api
from ovss_ray.serve.http.admission import Model
from tests.serve.bright import MODEL, OUTLINER, WORDS, Toy, picture

TOGETHER = 32
"""Requests in hand at once."""
EXTREME = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
PATHS = {
    "/v1/segment": "classes=a&classes=b&output=rle",
    "/v1/regions": "classes=a&classes=b&model=outliner",
    "/v1/prompt": "points=[[1,1,1]]&model=outliner",
}
"""Where images are sent to, and what else is asked."""
ANSWERS = {200, 400, 404, 413, 415, 422}
"""What may be answered to a damaged request. 404: a prompt about an image that was never seen."""


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """A file of an image."""
    image.save(file := io.BytesIO(), kind, **options)
    return file.getvalue()


def originals() -> list[bytes]:
    """Good files of every kind, small, drawn here."""
    rng = np.random.default_rng(0)
    colours = Image.fromarray(picture(24, 32) // 2 + rng.integers(0, 99, (24, 32, 3), np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (17, 19)).astype(np.uint16))
    frames = {"save_all": True, "append_images": [colours.rotate(90), colours.rotate(180)], "duration": 50}
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "text " * 20
    return [
        encoded(colours, "JPEG", quality=90),
        encoded(colours, "JPEG", progressive=True, exif=exif, icc_profile=bytes(300)),
        encoded(colours.convert("CMYK"), "JPEG"),
        encoded(colours.convert("L"), "JPEG", optimize=True),
        encoded(colours, "PNG", exif=exif, dpi=(72, 72)),
        encoded(colours.convert("P"), "PNG", transparency=3),
        encoded(colours.convert("RGBA"), "PNG", icc_profile=bytes(300)),
        encoded(colours.convert("1"), "PNG"),
        encoded(deep, "PNG"),
        encoded(colours, "PNG", **frames),
        encoded(colours, "WEBP", quality=80, exif=exif),
        encoded(colours.convert("RGBA"), "WEBP", lossless=True),
        encoded(colours, "WEBP", **frames),
        encoded(colours, "GIF", **frames),
    ]


def cut(data: bytearray, rng: random.Random) -> bytes:
    return bytes(data[: rng.randrange(len(data))])


def flip(data: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def number(data: bytearray, rng: random.Random) -> bytes:
    """Another number somewhere, mostly in the beginning, such as another size."""
    size, order = rng.choice((1, 2, 4)), rng.choice(("big", "little"))
    place = rng.randrange(max(1, min(len(data), rng.choice((40, 200, len(data)))) - size))
    value = rng.choice((*EXTREME, rng.getrandbits(32))) & (256**size - 1)
    data[place : place + size] = value.to_bytes(size, order)
    return bytes(data)


def move(data: bytearray, rng: random.Random) -> bytes:
    """A piece that is repeated, left out or put elsewhere."""
    begin, end = sorted(rng.randrange(len(data)) for _ in range(2))
    piece, place = bytes(data[begin:end]), rng.randrange(len(data))
    if rng.random() < 0.5:
        del data[begin:end]
    data[place:place] = piece * rng.choice((0, 1, 1, 3))
    return bytes(data)


def honest(data: bytearray, rng: random.Random) -> bytes:
    """Another header or text in a PNG, with the checksums that it should have: so it is believed."""
    if not data.startswith(b"\x89PNG"):
        return number(data, rng)
    made, place = bytearray(data[:8]), 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        kind, body = bytes(data[place + 4 : place + 8]), bytearray(data[place + 8 : place + 8 + length])
        if body and (kind == b"IHDR" or rng.random() < 0.3):
            number(body, rng) if len(body) > 4 else flip(body, rng)
        if rng.random() < 0.1:
            kind = rng.choice(
                (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"fdAT")
            )
        made += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        place += 12 + length
    return bytes(made)


MUTATIONS: tuple[Callable[[bytearray, random.Random], bytes], ...] = (cut, flip, number, move, honest)


def mutated(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(MUTATIONS)(bytearray(data), rng) or b"\xff"
    return data


def request(files: list[bytes], rng: random.Random) -> tuple[str, str, bytes, bytes]:
    """Path, query, kind of the body, and the body: a damaged image, alone or in a form; or a damaged form."""
    path, query = rng.choice(list(PATHS.items()))
    image, way = rng.choice(files), rng.random()
    if way < 0.7:
        return path, query, b"application/octet-stream", mutated(image, rng)
    model = b"bright" if path == "/v1/segment" else b"outliner"
    parts = [(b'"classes"', b"a"), (b'"model"', model), (b'"image"; filename="x.png"', image)]
    parts += [(b'"points"', b"[[1, 1, 1], [2, 3, 0]]"), (b'"box"', b"[0, 0, 9, 9]")] if path == "/v1/prompt" else []
    body = b"".join(
        b"--B\r\nContent-Disposition: form-data; name=" + head + b"\r\n\r\n" + value + b"\r\n" for head, value in parts
    )
    return path, "", b"multipart/form-data; boundary=B", mutated(body + b"--B--\r\n", rng)


async def ask(app: FastAPI, path: str, query: str, kind: bytes, body: bytes) -> tuple[int, bytes]:
    """Status and body of an answer; what the application raises is raised."""
    headers = [(b"host", b"localhost"), (b"content-type", kind), (b"content-length", b"%d" % len(body))]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "", "headers": headers,
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    sent, told = [{"type": "http.request", "body": body, "more_body": False}], []

    async def receive() -> dict[str, Any]:
        return sent.pop() if sent else await asyncio.Event().wait() or {}

    async def send(message: dict[str, Any]) -> None:
        told.append(message)

    await app(scope, receive, send)
    return told[0]["status"], b"".join(one.get("body", b"") for one in told[1:])


async def run(many: int, seed: int) -> Counter[str]:
    """Send so many requests: path and status → how many; what must not be is raised."""
    toy, rng, files = Toy(), random.Random(seed), originals()
    app = api.build([Model(told, toy.send, WORDS) for told in (MODEL, OUTLINER)], Limits(waiting=2 * TOGETHER), None)
    answered: Counter[str] = Counter()
    for file in files[:-1]:
        assert (await ask(app, "/v1/segment", PATHS["/v1/segment"], b"", file))[0] == 200
    while answered.total() < many:
        asked = [request(files, rng) for _ in range(TOGETHER)]
        for one, (status, body) in zip(asked, await asyncio.gather(*[ask(app, *one) for one in asked]), strict=True):
            assert status in ANSWERS, (status, body, one)
            assert status == 200 or isinstance(json.loads(body)["detail"], str), (body, one)
            answered[f"{one[0]} {status}"] += 1
        toy.asked.clear()  # which keep all images
        toy.held.clear()
    return answered


def memory(name: str) -> float:
    """MB of this process: VmRSS now, VmHWM at most since the last `forget`."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(name))


def kept() -> float:
    """MB that this process really needs: what glibc only has not given back yet is given back first."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return memory("VmRSS")


def forget() -> None:
    """Let the peak begin anew (proc(5), clear_refs)."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def main(many: int, seed: int = 1) -> None:
    """Print what was answered, and the memory before and after, as JSON."""
    asyncio.run(run(many // 5, -seed))  # so that all is loaded, and every free list filled
    before = kept()
    answered = asyncio.run(run(many, seed))
    print(json.dumps({"answered": answered, "before": before, "after": kept()}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
