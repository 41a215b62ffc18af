"""Requests with several images. All answers come in one response, or one by one from a job of the service."""

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

from ovss_ray.client.connection import Connection, Running, error
from ovss_ray.errors import OvssError
from ovss_ray.serve import form, retries
from ovss_ray.serve.form import Fields
from ovss_ray.serve.intake.job_state import JobState

Kind = Literal["segment", "regions"]
ResultT = TypeVar("ResultT")
Decode = Callable[[Any], ResultT]
"""Function that converts the service's answer for one image to a result. The answer is parsed JSON."""


def batch(
    connection: Connection, kind: Kind, images: Sequence[bytes], fields: Fields, decode: Decode[ResultT]
) -> list[ResultT | OvssError]:
    """Send several images in one request. Return the result or the error of each image.

    If the service refuses an image for a temporary reason, such as high load, only this image is sent again. Images
    are sent again for up to `connection.patience` seconds. Raises OvssError if the whole request is refused.
    """
    results: dict[int, ResultT | OvssError] = {}
    begun = time.monotonic()
    for number in itertools.count():
        waiting = [index for index in range(len(images)) if index not in results]
        left = max(0.0, connection.patience - (time.monotonic() - begun))
        sent = [*fields, *(form.file(images[index]) for index in waiting)]
        entries = json.loads(connection.send("POST", f"/v1/batch/{kind}", sent, left))["answers"]
        pause = retries.delay(None, number)
        over = time.monotonic() - begun + pause > connection.patience
        for index, entry in zip(waiting, entries, strict=True):
            if over or not retries.passing(entry["status"], entry["answer"], number):
                results[index] = _result(connection, entry, decode)
        if len(results) == len(images):
            break
        time.sleep(pause)
    return [results[index] for index in range(len(images))]


class Job(Generic[ResultT]):
    """Several images that the service processes in the background.

    Iterate over a job to get the results in the order of the images. For a refused image, an OvssError is yielded. Each
    iteration begins with the first image.
    """

    id: str
    """name of the job, with which `Client.job` finds it again"""
    images: int
    """number of images"""

    def __init__(self, connection: Connection, state: JobState, decode: Decode[ResultT]) -> None:
        self.id, self.images = state.id, state.images
        self._connection, self._decode = connection, decode

    def state(self) -> JobState:
        """Return the number of answered images, and whether the job still runs.

        Raises NotThere if the service no longer knows the job, OvssError for other errors.
        """
        return JobState.model_validate_json(self._connection.send("GET", f"/v1/jobs/{self.id}"))

    def __iter__(self) -> Iterator[ResultT | OvssError]:
        """Yield the result or the error of each image. See `results`."""
        return self.results()

    def results(self, seconds: float | None = None) -> Iterator[ResultT | OvssError]:
        """Yield the result or the error of each image, in the order of the images.

        `seconds`: longest wait for all images together; None: no limit. Raises NotThere if the service does not know
        the job. Raises OvssError if the wait exceeds `seconds`, or if a request fails.
        """
        begun, number = time.monotonic(), 0
        while number < self.images:
            try:
                body = self._connection.send("GET", f"/v1/jobs/{self.id}/result?first={number}")
            except Running as failure:
                if seconds is not None and time.monotonic() - begun > seconds:
                    raise OvssError(
                        f"job {self.id}: {number} of {self.images} images were answered within {seconds:g} s. The job "
                        f"still runs. Call results() with larger `seconds`, or end the job with cancel()"
                    ) from failure
                continue
            for entry in json.loads(body)["answers"]:
                number += 1
                yield _result(self._connection, entry, self._decode)

    def cancel(self) -> None:
        """End the job if it still runs, and delete its answers.

        Raises NotThere if the service does not know the job.
        """
        self._connection.send("DELETE", f"/v1/jobs/{self.id}")


def begin(
    connection: Connection, kind: Kind, images: Sequence[bytes], fields: Fields, decode: Decode[ResultT]
) -> Job[ResultT]:
    """Send several images as a job, and return the job. Raises OvssError if the service refuses the job."""
    sent = [*fields, *map(form.file, images)]
    state = JobState.model_validate_json(connection.send("POST", f"/v1/jobs/{kind}", sent, once=True))
    return Job(connection, state, decode)


def _result(connection: Connection, entry: Mapping[str, Any], decode: Decode[ResultT]) -> ResultT | OvssError:
    """Return the result or the error of one image, from its entry in an answer for several images."""
    if entry["status"] != 200:
        return error(connection.address, entry["status"], entry["answer"])
    return decode(entry["answer"])
