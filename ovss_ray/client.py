"""A client for the service that `ovss serve` runs.

Its requests change nothing, so each may be sent again: when the service says that it is busy or not ready (429, 503;
its Retry-After is heeded), and when the connection is refused or lost. urllib3 does both, requests and retries with
growing pauses, and is there already, as Ray needs it.

    client = Client("http://127.0.0.1:8000")
    found = client.segment("street.jpg", ["road", "car", ["tree", "bush"]])
    found.labels  # (H, W) uint16: indices into the classes
    client.prompt("street.jpg", [(120, 80, 1)], classes=["road", "car"]).masks[0]  # what is there, (H, W) bool
"""

import base64
import hashlib
import io
import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import urllib3
from PIL import Image

from ovss_ray import files, images
from ovss_ray.columns import NONE
from ovss_ray.errors import OvssError
from ovss_ray.serve import rle
from ovss_ray.serve.answer import Answer, Output
from ovss_ray.serve.masks import Mask, Prompted, Regions

Photograph = str | Path | bytes | np.ndarray
"""The path or address of a JPEG, PNG or WebP, its bytes, or pixels (H, W, 3) uint8 RGB; grey and RGBA ones also work"""
FORMS = "the path of a file (str or Path), its bytes, or pixels (H, W, 3) uint8 RGB"
"""The forms of an image that are accepted, in the words of messages."""
Classes = Sequence[str | Sequence[str]]
"""A name each, or several of one class"""
Points = Sequence[tuple[float, float, int]]
"""x, y in pixels of the image as it is shown, and 1 on what is meant or 0 beside it"""
Fields = list[tuple[str, Any]]
"""Name and value, or (file name, bytes, kind), of each part of a form"""
AGAIN = (408, 429, 500, 502, 503, 504)
"""Answers after which it asks again: busy or not ready (429, 503); and what proxies say, Serve's own among them, when
the process behind them has died or does not answer."""
KNOWN = 1000
"""Images that the client remembers having sent, by their sha256."""


class NotThere(OvssError):
    """What was asked for is not there, such as an image that the service has forgotten."""


@dataclass(frozen=True)
class Segmentation:
    """What the service has found in an image."""

    labels: np.ndarray
    """(H, W) uint16: index of the class, or columns.NONE"""
    answer: Answer
    """the classes that were found, and how large they are; without the picture"""


Told = TypeVar("Told", Regions, Prompted)


@dataclass(frozen=True)
class Found(Generic[Told]):
    """Regions that the service has found, by itself or where somebody pointed."""

    masks: np.ndarray
    """(R, H, W) bool"""
    answer: Told
    """their boxes, areas, names and scores, in the same order"""


class Client:
    """Asks one service. It may be used by several threads."""

    def __init__(
        self, address: str = "http://127.0.0.1:8000", key: str | None = None, retries: int = 10, seconds: float = 60.0
    ) -> None:
        """`key` is $OVSS_API_KEY if it is not given; `seconds` are those of one try, of which there are more."""
        key = key or os.environ.get("OVSS_API_KEY")
        again = urllib3.Retry(
            total=retries,
            redirect=0,
            allowed_methods=None,  # all of them, POST too
            status_forcelist=AGAIN,
            backoff_factor=0.2,
            backoff_jitter=0.5,
            backoff_max=10,
            retry_after_max=30,
            raise_on_status=False,
        )
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.address = address.rstrip("/")
        self._http = urllib3.PoolManager(headers=headers, retries=again, timeout=seconds, maxsize=32)
        self._sent: OrderedDict[str, None] = OrderedDict()

    def segment(
        self, image: Photograph, classes: Classes | None = None, benchmark: str | None = None, model: str | None = None
    ) -> Segmentation:
        """Name every pixel of an image, by classes or by those of a benchmark. Raises OvssError with what is wrong."""
        answer = self._segment(image, classes, benchmark, model, "png")
        labels = images.decode_labels(_picture(answer.png), "the answer")
        return Segmentation(np.where(labels == answer.none, NONE, labels), answer.model_copy(update={"png": None}))

    def masks(
        self, image: Photograph, classes: Classes | None = None, benchmark: str | None = None, model: str | None = None
    ) -> Answer:
        """The same as masks in COCO's run lengths, one for each class that was found."""
        return self._segment(image, classes, benchmark, model, "rle")

    def polygons(
        self, image: Photograph, classes: Classes | None = None, benchmark: str | None = None, model: str | None = None
    ) -> Answer:
        """The same as outlines, with their holes, of each class that was found."""
        return self._segment(image, classes, benchmark, model, "polygons")

    def overlay(
        self, image: Photograph, classes: Classes | None = None, benchmark: str | None = None, model: str | None = None
    ) -> bytes:
        """The same as colours over the image: a PNG."""
        return _picture(self._segment(image, classes, benchmark, model, "overlay").overlay)

    def regions(
        self, image: Photograph, classes: Classes | None = None, benchmark: str | None = None, model: str | None = None,
        top: int = 3,
    ) -> Found[Regions]:  # fmt: skip
        """Everything that SAM proposes in an image, the largest first, with the `top` best names of each."""
        fields = [*_words(classes, benchmark, model), ("top", str(top)), _file(_bytes(image))]
        answer = Regions.model_validate_json(self._send("POST", "/v1/regions", fields))
        return Found(_masks(answer.regions, answer.height, answer.width), answer)

    def prompt(
        self, image: Photograph, points: Points = (), box: Sequence[float] | None = None,
        classes: Classes | None = None, benchmark: str | None = None, model: str | None = None, top: int = 3,
        multimask: bool | None = None,
    ) -> Found[Prompted]:  # fmt: skip
        """What somebody means who points at it, or draws a box x0 y0 x1 y1 around it: the likeliest mask first.

        The image is sent once; then it is named, and sent again only if the service does not hold it any more. Give it
        as bytes or a file: pixels are encoded anew for each question. Without classes masks have no names.
        """
        data = _bytes(image)
        name = hashlib.sha256(data).hexdigest()
        fields = [*_words(classes, benchmark, model), ("top", str(top))]
        pointed = [[float(x), float(y), int(label)] for x, y, label in points]
        fields += [("points", json.dumps(pointed))] if pointed else []
        fields += [("box", json.dumps(list(map(float, box))))] if box is not None else []
        fields += [("multimask", str(multimask).lower())] if multimask is not None else []
        answer = Prompted.model_validate_json(self._prompt(name, data, fields))
        return Found(_masks(answer.masks, answer.height, answer.width), answer)

    def models(self) -> dict[str, Any]:
        """What the service runs, and its limits."""
        return json.loads(self._send("GET", "/v1/models"))

    def ready(self) -> bool:
        """Whether the service can segment, asked once."""
        try:
            self._send("GET", "/v1/ready", retries=False)
        except OvssError:
            return False
        return True

    def _prompt(self, name: str, data: bytes, fields: Fields) -> bytes:
        """Ask by the image's name if it was sent before, else, or if it is gone, with the image itself."""
        if name in self._sent:
            with suppress(NotThere):
                return self._send("POST", "/v1/prompt", [*fields, ("image", name)])
        answer = self._send("POST", "/v1/prompt", [*fields, _file(data)])
        self._sent[name] = None
        while len(self._sent) > KNOWN:
            self._sent.popitem(last=False)
        return answer

    def _segment(
        self, image: Photograph, classes: Classes | None, benchmark: str | None, model: str | None, output: Output
    ) -> Answer:
        fields = [*_words(classes, benchmark, model), ("output", output), _file(_bytes(image))]
        return Answer.model_validate_json(self._send("POST", "/v1/segment", fields))

    def _send(self, method: str, path: str, fields: Fields | None = None, **options: Any) -> bytes:
        """The body of an answer. Raises OvssError for any other status than 200, NotThere for 404."""
        try:
            answer = self._http.request(method, self.address + path, fields=fields, **options)
        except urllib3.exceptions.HTTPError as failure:
            raise OvssError(f"{self.address} does not answer: {failure}. Is `ovss serve` running there?") from failure
        if answer.status != 200:
            kind = NotThere if answer.status == 404 else OvssError
            raise kind(f"{self.address}{path} answered {answer.status}: {_detail(answer.data)}")
        return answer.data


def _words(classes: Classes | None, benchmark: str | None, model: str | None) -> Fields:
    """What every question may say."""
    if isinstance(classes, str):
        raise OvssError(f"classes are a list of names, and this is one string: {classes!r}. Write [{classes!r}]")
    listed = [names if isinstance(names, str) else list(names) for names in classes or ()]
    # As JSON, a name may hold commas and brackets: nothing in it is taken for a list.
    written = json.dumps(listed, ensure_ascii=False) if listed else None
    fields = {"classes": written, "benchmark": benchmark, "model": model}
    return [(name, value) for name, value in fields.items() if value is not None]


def _file(data: bytes) -> tuple[str, Any]:
    return "image", ("image", data, "application/octet-stream")


def _masks(told: Sequence[Mask], height: int, width: int) -> np.ndarray:
    made = np.zeros((len(told), height, width), bool)
    for mask, one in zip(made, told, strict=True):
        mask[:] = rle.decode(one.rle.counts, (height, width))
    return made


def _bytes(image: Photograph) -> bytes:
    """Return the encoded image. Raises OvssError for a file that cannot be read, and for any other type."""
    if isinstance(image, str | Path):
        return files.read(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if not isinstance(image, np.ndarray):
        raise OvssError(f"an image is {FORMS}, and this is a {type(image).__name__}")
    try:
        if image.dtype not in (np.uint8, np.bool_) or not image.size:
            raise ValueError
        Image.fromarray(image).save(file := io.BytesIO(), "PNG", compress_level=1)
    except (TypeError, ValueError) as failure:
        raise OvssError(f"an image is {FORMS}, and this is an array {image.shape} {image.dtype}") from failure
    return file.getvalue()


def _picture(encoded: str | None) -> bytes:
    if encoded is None:
        raise OvssError("the answer has no picture. Is it a service of another version?")
    return base64.b64decode(encoded)


def _detail(body: bytes) -> str:
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
