"""The client: a method for each kind of request."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Unpack

from ovss_ray.client import photographs, results, several
from ovss_ray.client.connection import PATIENCE, Connection, NotThere
from ovss_ray.client.photographs import Photograph
from ovss_ray.client.results import Found, Segmentation
from ovss_ray.client.several import Job
from ovss_ray.errors import OvssError
from ovss_ray.serve import form
from ovss_ray.serve.form import Classes, Fields, Points, Prompting
from ovss_ray.serve.http.answers import Answer, Output
from ovss_ray.serve.http.mask_answers import Prompted, Regions
from ovss_ray.serve.intake.job_state import JobState

REMEMBERED_DIGESTS = 1000
"""Maximum number of digests of sent images that the client remembers"""


class Client:
    """A client of one service. It is thread-safe."""

    def __init__(
        self, address: str = "http://127.0.0.1:8000", key: str | None = None, patience: float = PATIENCE,
        seconds: float = 60.0,
    ) -> None:  # fmt: skip
        """Prepare a client of the service at `address`. `key`: API key, by default $OVSS_API_KEY.

        The service may be busy, be not reachable or report an internal error. A request is then repeated for up to
        `patience` seconds. If `patience` is 0, each request is sent only once. `seconds`: timeout of each attempt.
        """
        self._connection = Connection(address, key, patience, seconds)
        self._sent: OrderedDict[str, None] = OrderedDict()

    def segment(
        self, image: Photograph, classes: Classes | None = None, benchmark: str | None = None, model: str | None = None,
        **more: Unpack[Prompting],
    ) -> Segmentation:  # fmt: skip
        """Return the label map of an image for the given classes, or for a benchmark's classes. Raises OvssError.

        If `classes` and `benchmark` are both None, the model itself finds the class names for the image. If the model
        cannot find class names, the service refuses the request. `more`: further options, see form.Prompting.
        """
        answer = self._segment(image, form.words(classes, benchmark, model, **more), "png")
        return results.segmentation(answer)

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
        """Return the outlines and the holes of each class that was found, as polygons. Raises OvssError."""
        return self._segment(image, form.words(classes, benchmark, model, **more), "polygons")

    def overlay(
        self, image: Photograph, classes: Classes | None = None, benchmark: str | None = None, model: str | None = None,
        **more: Unpack[Prompting],
    ) -> bytes:  # fmt: skip
        """Return a PNG of the image with the colours of the classes over it. Raises OvssError."""
        return results.picture(self._segment(image, form.words(classes, benchmark, model, **more), "overlay").overlay)

    def regions(
        self, image: Photograph, classes: Classes | None = None, benchmark: str | None = None, model: str | None = None,
        top: int = 3, ranked: int = 0,
    ) -> Found[Regions]:  # fmt: skip
        """Return the regions that the model proposes, largest first, each with its `top` most probable classes.

        The field `answer.ranking` of the result lists, for each class, the `ranked` regions with the highest
        probability of this class. If `ranked` is 0, `answer.ranking` is None. Raises OvssError.
        """
        fields = [*form.regions(classes, benchmark, model, top, ranked), form.file(photographs.encode(image))]
        return results.regions(Regions.model_validate_json(self._connection.send("POST", "/v1/regions", fields)))

    def prompt(
        self, image: Photograph, points: Points = (), box: Sequence[float] | None = None,
        classes: Classes | None = None, benchmark: str | None = None, model: str | None = None, top: int = 5,
        multimask: bool | None = None, base: Sequence[str] | None = None,
    ) -> Found[Prompted]:  # fmt: skip
        """Return the masks of the object at points or in a box (x0, y0, x1, y1), highest predicted IoU first.

        If `multimask` is True, SAM returns three masks. If `multimask` is False, SAM returns one mask. If `multimask`
        is None, the prompt decides: SAM returns three masks for a single point without a box, and one mask for any
        other prompt. Open-Vocabulary SAM ignores `multimask`, and always returns one mask.

        Each mask lists the `top` most probable of the requested classes. `base`: names of the classes that
        Open-Vocabulary SAM has seen in training. Other models ignore `base`. Raises OvssError.
        """
        # a path or bytes are faster than an array, which is encoded again for each prompt
        data = photographs.encode(image)
        name = hashlib.sha256(data).hexdigest()
        fields = [*form.words(classes, benchmark, model), ("top", str(top)), *form.question(points, box, multimask)]
        fields += [] if base is None else [("base", json.dumps(list(base)))]
        return results.prompted(Prompted.model_validate_json(self._prompt(name, data, fields)))

    def coco(
        self, image: Photograph, classes: Classes | None = None, benchmark: str | None = None, model: str | None = None,
        points: Points = (), box: Sequence[float] | None = None, multimask: bool | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Return a COCO document with the masks at points or in a box, as a dict for json.dump.

        Without points and box, the document has the masks of all regions. If `image` is a path or URL, `file_name` in
        the document is the last part of the path or URL. If `image` is bytes or an array, `file_name` is the sha256 of
        the sent bytes. `multimask`: see `prompt`. Raises OvssError.
        """
        data, question = photographs.encode(image), form.question(points, box, multimask)
        fields = [*form.words(classes, benchmark, model), ("output", "coco"), *question]
        fields += [("file_name", photographs.file_name(image))] if isinstance(image, str | Path) else []
        if question:
            answer = self._prompt(hashlib.sha256(data).hexdigest(), data, fields)
        else:
            answer = self._connection.send("POST", "/v1/regions", [*fields, form.file(data)])
        document: dict[str, Any] = json.loads(answer)
        return document

    def segment_batch(
        self, images: Sequence[Photograph], classes: Classes | None = None, benchmark: str | None = None,
        model: str | None = None, **more: Unpack[Prompting],
    ) -> list[Segmentation | OvssError]:  # fmt: skip
        """Send several images in one request. Return one label map per image, or an OvssError for a refused image.

        The service accepts at most 16 images, unless the option `limits.images` of the service has another value.
        Raises OvssError if the whole request is refused. Arguments: see `segment`.
        """
        sent, fields = photographs.encode_all(images), form.words(classes, benchmark, model, **more)
        return several.batch(self._connection, "segment", sent, fields, results.decode_segmentation)

    def regions_batch(
        self, images: Sequence[Photograph], classes: Classes | None = None, benchmark: str | None = None,
        model: str | None = None, top: int = 3, ranked: int = 0,
    ) -> list[Found[Regions] | OvssError]:  # fmt: skip
        """Send several images in one request. Return the regions of each image, or an OvssError for a refused image.

        Raises OvssError if the whole request is refused. Arguments: see `regions`.
        """
        fields = form.regions(classes, benchmark, model, top, ranked)
        return several.batch(
            self._connection, "regions", photographs.encode_all(images), fields, results.decode_regions
        )

    def segment_job(
        self, images: Sequence[Photograph], classes: Classes | None = None, benchmark: str | None = None,
        model: str | None = None, **more: Unpack[Prompting],
    ) -> Job[Segmentation]:  # fmt: skip
        """Send several images as a job, and return the job.

        The job yields a label map or an OvssError for each image, in order. Raises OvssError if the job is refused.
        """
        sent, fields = photographs.encode_all(images), form.words(classes, benchmark, model, **more)
        return several.begin(self._connection, "segment", sent, fields, results.decode_segmentation)

    def regions_job(
        self, images: Sequence[Photograph], classes: Classes | None = None, benchmark: str | None = None,
        model: str | None = None, top: int = 3, ranked: int = 0,
    ) -> Job[Found[Regions]]:  # fmt: skip
        """Send several images as a job, and return the job.

        The job yields regions or an OvssError for each image, in order. Raises OvssError if the job is refused.
        """
        fields = form.regions(classes, benchmark, model, top, ranked)
        return several.begin(
            self._connection, "regions", photographs.encode_all(images), fields, results.decode_regions
        )

    def job(self, identifier: str) -> Job[Segmentation] | Job[Found[Regions]]:
        """Return the job whose id is `identifier`. Another process may have begun the job.

        Raises NotThere if the service does not know the job, OvssError for other errors.
        """
        state = JobState.model_validate_json(self._connection.send("GET", f"/v1/jobs/{identifier}"))
        return Job(self._connection, state, results.decode)

    def models(self) -> dict[str, Any]:
        """Return the models of the service, and its limits. Raises OvssError."""
        models: dict[str, Any] = json.loads(self._connection.send("GET", "/v1/models"))
        return models

    def ready(self) -> bool:
        """Return whether the service is ready to segment. The request is not repeated."""
        try:
            self._connection.send("GET", "/v1/ready", patience=0.0)
        except OvssError:
            return False
        return True

    def _prompt(self, name: str, data: bytes, fields: Fields) -> bytes:
        """Send a prompt for the image file `data`, and return the body of the answer.

        `name`: SHA-256 of `data` in hex digits, under which the service caches the image. If this client has sent the
        image before, only `name` is sent. If the service no longer caches the image, the image is sent again.
        """
        if name in self._sent:
            with suppress(NotThere):  # the service no longer caches the image
                return self._connection.send("POST", "/v1/prompt", [*fields, ("image", name)])
        answer = self._connection.send("POST", "/v1/prompt", [*fields, form.file(data)])
        self._sent[name] = None
        while len(self._sent) > REMEMBERED_DIGESTS:
            self._sent.popitem(last=False)
        return answer

    def _segment(self, image: Photograph, words: Fields, output: Output) -> Answer:
        fields = [*words, ("output", output), form.file(photographs.encode(image))]
        return Answer.model_validate_json(self._connection.send("POST", "/v1/segment", fields))
