"""A client for the service that `ovss serve` runs.

All requests are idempotent. A request is repeated if the service is busy, not ready or faulty (429, 503, 500, …). It is
also repeated if the connection is refused or lost. After `patience` seconds, the client raises an error (see
serve/retries.py). A request that exceeded the service's time limit (504, code `deadline`) is not repeated.

    client = Client("http://127.0.0.1:8000")
    segmentation = client.segment("street.jpg", ["road", "car", ["tree", "bush"]])
    segmentation.labels  # (H, W) uint16: indices into the classes
    client.prompt("street.jpg", [(120, 80, 1)], classes=["road", "car"]).masks[0]  # object at the point, (H, W) bool
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
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar, Unpack
from urllib.parse import urlsplit

import numpy as np
import urllib3
from PIL import Image

from ovss_ray.errors import OvssError
from ovss_ray.io import files, images
from ovss_ray.serve import form, retries
from ovss_ray.serve.form import Classes, Fields, Points, Prompting
from ovss_ray.serve.http.answers import Answer, Output
from ovss_ray.serve.http.mask_answers import Mask, Prompted, Regions
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.masks import rle

Photograph = str | Path | bytes | np.ndarray
"""Path, URL or bytes of a JPEG, PNG or WebP, or pixels (H, W, 3) uint8 RGB. Grey and RGBA arrays also work."""
FORMS = "the path of a file (str or Path), its bytes, or pixels (H, W, 3) uint8 RGB"
"""Accepted types of an image, for error messages"""
PATIENCE = 300.0
"""Seconds for which a request is repeated while the service is busy or restarts; a restart takes about a minute"""
REMEMBERED_DIGESTS = 1000
"""Maximum number of digests of sent images that the client remembers"""


class NotThere(OvssError):
    """Error for status 404: the service does not know the requested path, or no longer caches the image."""


class DeadlinePassed(OvssError):
    """Error for a request that the service could not answer within its time limit, `limits.seconds`."""


@dataclass(frozen=True)
class Segmentation:
    """A label map from the service, and the classes in it."""

    labels: np.ndarray
    """(H, W) uint16: index of each pixel's class among the requested classes; columns.NONE for no class"""
    answer: Answer
    """the service's answer, with classes and areas; its field `png` is None, since `labels` replaces it"""


AnswerT = TypeVar("AnswerT", Regions, Prompted)


@dataclass(frozen=True)
class Found(Generic[AnswerT]):
    """Regions that the service has found, with or without a prompt."""

    masks: np.ndarray
    """(R, H, W) bool, one mask per region"""
    answer: AnswerT
    """boxes, areas, class names and scores of the masks, in the same order"""


class Client:
    """A client of one service. It is thread-safe."""

    def __init__(
        self, address: str = "http://127.0.0.1:8000", key: str | None = None, patience: float = PATIENCE,
        seconds: float = 60.0,
    ) -> None:  # fmt: skip
        """Prepare a client of the service at `address`. `key`: API key, by default $OVSS_API_KEY.

        `patience`: seconds for which a request is repeated; 0: it is sent once. `seconds`: timeout of each attempt.
        """
        key = key or os.environ.get("OVSS_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.address, self.patience, self.seconds = address.rstrip("/"), patience, seconds
        self._http = urllib3.PoolManager(headers=headers, retries=False, maxsize=32)
        self._sent: OrderedDict[str, None] = OrderedDict()

    def segment(
        self, image: Photograph, classes: Classes | None = None, benchmark: str | None = None, model: str | None = None,
        **more: Unpack[Prompting],
    ) -> Segmentation:  # fmt: skip
        """Return the label map of an image for the given classes or those of a benchmark. Raises OvssError.

        With neither, the words that the model finds in the image are used (`answer.words`). `more`: see form.Prompting.
        """
        answer = self._segment(image, form.words(classes, benchmark, model, **more), "png")
        labels = images.decode_labels(_picture(answer.png), "the answer")
        return Segmentation(np.where(labels == answer.none, NONE, labels), answer.model_copy(update={"png": None}))

    def masks(
        self, image: Photograph, classes: Classes | None = None, benchmark: str | None = None, model: str | None = None,
        **more: Unpack[Prompting],
    ) -> Answer:  # fmt: skip
        """Return one mask per class that was found, in COCO's run-length encoding. Raises OvssError."""
        return self._segment(image, form.words(classes, benchmark, model, **more), "rle")

    def polygons(
        self, image: Photograph, classes: Classes | None = None, benchmark: str | None = None, model: str | None = None,
        **more: Unpack[Prompting],
    ) -> Answer:  # fmt: skip
        """Return the polygons of each class that was found, with their holes. Raises OvssError."""
        return self._segment(image, form.words(classes, benchmark, model, **more), "polygons")

    def overlay(
        self, image: Photograph, classes: Classes | None = None, benchmark: str | None = None, model: str | None = None,
        **more: Unpack[Prompting],
    ) -> bytes:  # fmt: skip
        """Return a PNG of the image with the colours of the classes over it. Raises OvssError."""
        return _picture(self._segment(image, form.words(classes, benchmark, model, **more), "overlay").overlay)

    def regions(
        self, image: Photograph, classes: Classes | None = None, benchmark: str | None = None, model: str | None = None,
        top: int = 3, ranked: int = 0,
    ) -> Found[Regions]:  # fmt: skip
        """Return the regions that the model proposes, largest first, each with its `top` most probable classes.

        `ranked`: number of regions in the ranking of each class, in `answer.ranking`; 0: no ranking. Raises OvssError.
        """
        fields = [*form.words(classes, benchmark, model), ("top", str(top)), form.file(_bytes(image))]
        fields += [("ranked", str(ranked))] if ranked else []
        answer = Regions.model_validate_json(self._send("POST", "/v1/regions", fields))
        return Found(_masks(answer.regions, answer.height, answer.width), answer)

    def prompt(
        self, image: Photograph, points: Points = (), box: Sequence[float] | None = None,
        classes: Classes | None = None, benchmark: str | None = None, model: str | None = None, top: int = 5,
        multimask: bool | None = None, base: Sequence[str] | None = None,
    ) -> Found[Prompted]:  # fmt: skip
        """Return the masks of the object at points or in a box (x0, y0, x1, y1), highest predicted IoU first.

        The image is sent once. Later prompts send only its digest, unless the service no longer caches the image. A
        path or bytes are faster than an array, which is encoded for each prompt. Without classes or a benchmark, masks
        have no class names. Open-Vocabulary SAM also returns the probabilities of its two branches, in the fields
        `head` and `clip` of each name. `base`: class names in the training of Open-Vocabulary SAM. Raises OvssError.
        """
        data = _bytes(image)
        name = hashlib.sha256(data).hexdigest()
        fields = [*form.words(classes, benchmark, model), ("top", str(top)), *form.question(points, box, multimask)]
        fields += [] if base is None else [("base", json.dumps(list(base)))]
        answer = Prompted.model_validate_json(self._prompt(name, data, fields))
        return Found(_masks(answer.masks, answer.height, answer.width), answer)

    def coco(
        self, image: Photograph, classes: Classes | None = None, benchmark: str | None = None, model: str | None = None,
        points: Points = (), box: Sequence[float] | None = None, multimask: bool | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Return a COCO document for json.dump: the masks for points or a box, or all regions without a prompt.

        The document names the image by the file name of a path or URL, else by its sha256. Raises OvssError.
        """
        data, question = _bytes(image), form.question(points, box, multimask)
        fields = [*form.words(classes, benchmark, model), ("output", "coco"), *question]
        fields += [("file_name", _file_name(image))] if isinstance(image, str | Path) else []
        if question:
            answer = self._prompt(hashlib.sha256(data).hexdigest(), data, fields)
        else:
            answer = self._send("POST", "/v1/regions", [*fields, form.file(data)])
        document: dict[str, Any] = json.loads(answer)
        return document

    def models(self) -> dict[str, Any]:
        """Return the models of the service, and its limits. Raises OvssError."""
        models: dict[str, Any] = json.loads(self._send("GET", "/v1/models"))
        return models

    def ready(self) -> bool:
        """Return whether the service is ready to segment. The request is not repeated."""
        try:
            self._send("GET", "/v1/ready", patience=0.0)
        except OvssError:
            return False
        return True

    def _prompt(self, name: str, data: bytes, fields: Fields) -> bytes:
        """Send a prompt, and return the body of the answer.

        If the client has sent the image before, it first sends only the digest. If the service no longer caches the
        image, the client sends the image again.
        """
        if name in self._sent:
            with suppress(NotThere):
                return self._send("POST", "/v1/prompt", [*fields, ("image", name)])
        answer = self._send("POST", "/v1/prompt", [*fields, form.file(data)])
        self._sent[name] = None
        while len(self._sent) > REMEMBERED_DIGESTS:
            self._sent.popitem(last=False)
        return answer

    def _segment(self, image: Photograph, words: Fields, output: Output) -> Answer:
        fields = [*words, ("output", output), form.file(_bytes(image))]
        return Answer.model_validate_json(self._send("POST", "/v1/segment", fields))

    def _send(self, method: str, path: str, fields: Fields | None = None, patience: float | None = None) -> bytes:
        """Send a request, and return the body of the answer. `patience`: see `Client`; default: `self.patience`.

        Raises NotThere for status 404, DeadlinePassed if the service's time limit was exceeded, OvssError for other
        errors.
        """
        address, patience = self.address + path, self.patience if patience is None else patience

        def attempt(seconds: float) -> urllib3.BaseHTTPResponse:
            return self._http.request(method, address, fields=fields, timeout=seconds, redirect=False)

        try:
            answer = retries.send(attempt, self.address, self.seconds, patience)
        except urllib3.exceptions.HTTPError as failure:
            raise OvssError(f"{self.address} does not answer: {failure}. Is `ovss serve` running there?") from failure
        if answer.status != 200:
            late = retries.field(answer.data, "code") == retries.DEADLINE
            kind = DeadlinePassed if late else NotThere if answer.status == 404 else OvssError
            detail = retries.field(answer.data, "detail") or answer.data[:200].decode(errors="replace")
            raise kind(f"{address} answered {answer.status}: {detail}")
        return answer.data


def _file_name(address: str | Path) -> str:
    """Return the file name of a path, or of a URL without its query, at most 255 characters."""
    text = str(address)
    return PurePosixPath(urlsplit(text).path if "://" in text else text.replace("\\", "/")).name[:255]


def _masks(encoded_masks: Sequence[Mask], height: int, width: int) -> np.ndarray:
    masks = np.zeros((len(encoded_masks), height, width), bool)
    for mask, encoded in zip(masks, encoded_masks, strict=True):
        mask[:] = rle.decode(encoded.rle.counts, (height, width))
    return masks


def _bytes(image: Photograph) -> bytes:
    """Return the bytes of an image file. An array is encoded as PNG.

    Raises OvssError for an unreadable file or an unsupported type.
    """
    if isinstance(image, str | Path):
        return files.read(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if not isinstance(image, np.ndarray):
        raise OvssError(f"an image must be {FORMS}; got {type(image).__name__}")
    try:
        if image.dtype not in (np.uint8, np.bool_) or not image.size:
            raise ValueError
        Image.fromarray(image).save(file := io.BytesIO(), "PNG", compress_level=1)
    except (TypeError, ValueError) as failure:
        raise OvssError(f"an image must be {FORMS}; got an array {image.shape} {image.dtype}") from failure
    return file.getvalue()


def _picture(encoded: str | None) -> bytes:
    if encoded is None:
        raise OvssError("the service's answer has no image. Install the same version of ovss_ray as the service has")
    return base64.b64decode(encoded)
