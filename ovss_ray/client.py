"""A client for the service that `ovss serve` runs.

Its requests change nothing, so each may be sent again: when the service says that it is busy or not ready (429, 503;
its Retry-After is heeded), and when the connection is refused or lost. urllib3 does both, requests and retries with
growing pauses, and is there already, as Ray needs it.

    client = Client("http://127.0.0.1:8000")
    found = client.segment(Path("street.jpg"), ["road", "car", ["tree", "bush"]])
    found.labels  # (H, W) uint16: indices into the classes
"""

import base64
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import urllib3
from PIL import Image

from ovss_ray import images
from ovss_ray.columns import NONE
from ovss_ray.errors import OvssError
from ovss_ray.serve.answer import Answer, Output

Photograph = bytes | Path | np.ndarray
"""A JPEG, PNG or WebP as it is, its file, or its pixels (H, W, 3) uint8 RGB"""
Classes = Sequence[str | Sequence[str]]
"""A name each, or several of one class"""


@dataclass(frozen=True)
class Segmentation:
    """What the service has found in an image."""

    labels: np.ndarray
    """(H, W) uint16: index of the class, or columns.NONE"""
    answer: Answer
    """the classes that were found, and how large they are; without the picture"""


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
            status_forcelist=(429, 503),
            backoff_factor=0.2,
            backoff_jitter=0.5,
            backoff_max=10,
            retry_after_max=30,
            raise_on_status=False,
        )
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.address = address.rstrip("/")
        self._http = urllib3.PoolManager(headers=headers, retries=again, timeout=seconds, maxsize=32)

    def segment(self, image: Photograph, classes: Classes | None = None, benchmark: str | None = None) -> Segmentation:
        """Name every pixel of an image, by classes or by those of a benchmark. Raises OvssError with what is wrong."""
        answer = self._ask(image, classes, benchmark, "png")
        labels = images.decode_labels(_picture(answer.png), "the answer")
        return Segmentation(np.where(labels == answer.none, NONE, labels), answer.model_copy(update={"png": None}))

    def masks(self, image: Photograph, classes: Classes | None = None, benchmark: str | None = None) -> Answer:
        """The same as masks in COCO's run lengths, one for each class that was found."""
        return self._ask(image, classes, benchmark, "rle")

    def overlay(self, image: Photograph, classes: Classes | None = None, benchmark: str | None = None) -> bytes:
        """The same as colours over the image: a PNG."""
        return _picture(self._ask(image, classes, benchmark, "overlay").overlay)

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

    def _ask(self, image: Photograph, classes: Classes | None, benchmark: str | None, output: Output) -> Answer:
        if isinstance(classes, str):
            raise OvssError(f"classes are a list of names, and this is one string: {classes!r}. Write [{classes!r}]")
        told = [one if isinstance(one, str) else "\t".join(one) for one in classes or ()]
        fields: list[tuple[str, Any]] = [("image", ("image", _bytes(image), "application/octet-stream"))]
        fields += [("classes", one) for one in told]
        fields += [("benchmark", benchmark)] if benchmark is not None else []
        return Answer.model_validate_json(self._send("POST", "/v1/segment", [*fields, ("output", output)]))

    def _send(self, method: str, path: str, fields: Any = None, **options: Any) -> bytes:
        try:
            answer = self._http.request(method, self.address + path, fields=fields, **options)
        except urllib3.exceptions.HTTPError as failure:
            raise OvssError(f"{self.address} does not answer: {failure}. Is `ovss serve` running there?") from failure
        if answer.status != 200:
            raise OvssError(f"{self.address}{path} answered {answer.status}: {_detail(answer.data)}")
        return answer.data


def _bytes(image: Photograph) -> bytes:
    if isinstance(image, np.ndarray):
        Image.fromarray(image).save(file := io.BytesIO(), "PNG", compress_level=1)
        return file.getvalue()
    return image.read_bytes() if isinstance(image, Path) else image


def _picture(encoded: str | None) -> bytes:
    if encoded is None:
        raise OvssError("the answer has no picture. Is it a service of another version?")
    return base64.b64decode(encoded)


def _detail(body: bytes) -> str:
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
