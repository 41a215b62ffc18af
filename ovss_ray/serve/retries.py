"""Repetition of failed requests by the client, with random delays and up to a time limit.

If the service restarts within the time limit, no request is lost. Random delays prevent the return of all clients in
the same second.
"""

import itertools
import json
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import urllib3

STATUSES = (408, 429, 500, 502, 503, 504)
"""HTTP status codes after which a request is repeated, since the cause may be temporary"""
DEADLINE = "deadline"
"""Value of `code` in a refusal if the computation took too long. The client does not repeat the request."""
INTERNAL = "internal"
"""Value of `code` in a refusal if an error occurred in the service itself. The client makes at most TRIES attempts."""
TRIES = 3
"""Maximum number of attempts if every attempt is refused with the code INTERNAL"""
FIRST, LONGEST = 0.2, 10.0
"""Maximum random delay in seconds before attempts 2, 3, 4, …: FIRST, 2 · FIRST, 4 · FIRST, …, up to LONGEST"""
RETRY_AFTER = 30.0
"""Maximum seconds that the client waits because of the header Retry-After"""
NOTICE = 3.0
"""Seconds after which the client logs a warning if the service is not reachable or not deployed yet"""
LOG = logging.getLogger("ovss_ray.client")

Attempt = Callable[[float], urllib3.BaseHTTPResponse]
"""Function that sends a request once. Its argument is the timeout in seconds."""


def send(attempt: Attempt, address: str, seconds: float, patience: float) -> urllib3.BaseHTTPResponse:
    """Send a request until an answer is final (see `final`) or the time is over. Return the last answer.

    - `attempt`: function that sends the request once
    - `address`: address of the service, for the log
    - `patience`: seconds after the first attempt in which further attempts may begin; 0: a single attempt
    - `seconds`: timeout of an attempt

    A further attempt must not outlast `patience`, so the timeout of a further attempt is shortened if necessary. A
    timeout is never shortened to less than 1 second.

    Raises urllib3's HTTPError if the last attempt had no answer.
    """
    begun, warned = time.monotonic(), False
    for number in itertools.count():
        left = patience - (time.monotonic() - begun)
        answer = failure = None
        try:
            answer = attempt(min(seconds, max(1.0, left)) if number else seconds)
        except urllib3.exceptions.HTTPError as error:
            failure = error
        pause = delay(answer, number)
        spent = time.monotonic() - begun
        if spent + pause > patience or (answer and final(answer.status, answer.data, number)):
            break
        # until the service is deployed, Ray Serve answers 404
        if (answer is None or answer.status == 404) and spent > NOTICE and not warned:
            reason = failure if answer is None else f"status 404: {answer.data[:80]!r}"
            LOG.warning("no service at %s yet (%s); trying again for %.0f s", address, reason, patience - spent)
            warned = True
        time.sleep(pause)
    if answer is None:
        assert failure
        raise failure
    return answer


def final(status: int, body: bytes, number: int) -> bool:
    """Return whether the answer to attempt `number`, counted from 0, is final, so that no further attempt is made."""
    if 200 <= status < 300:
        return True
    document = refusal(body)
    if status == 404:
        return "detail" in document  # else Ray Serve runs, and the service is not deployed yet
    return not passing(status, document, number)


def passing(status: int, document: Mapping[str, Any], number: int) -> bool:
    """Return whether the client should repeat a refused request, since the cause may be temporary.

    `status`: HTTP status of the refusal. `document`: JSON of the refusal. `number`: number of the refused attempt. The
    number of the first attempt is 0.
    """
    if document.get("code") == INTERNAL:
        return number + 1 < TRIES
    return status in STATUSES and document.get("code") != DEADLINE


def delay(answer: urllib3.BaseHTTPResponse | None, number: int) -> float:
    """Return the seconds to wait after attempt `number`, counted from 0: Retry-After plus a random delay.

    The random delay is the "full jitter" of Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    later = 0.0
    if answer is not None:
        try:
            later = urllib3.Retry().get_retry_after(answer) or 0.0
        except urllib3.exceptions.InvalidHeader:
            later = 0.0
    return min(later, RETRY_AFTER) + random.uniform(0, min(LONGEST, FIRST * 2 ** min(number, 10)))


def refusal(body: bytes) -> dict[str, Any]:
    """Return the JSON object in the body of a refusal. If the body is not a JSON object, return {}."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
