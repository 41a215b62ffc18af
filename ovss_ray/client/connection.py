"""A connection to the service. It sends requests with the API key, repeats them, and raises errors for refusals."""

import os
import secrets
from collections.abc import Mapping
from typing import Any

import urllib3

from ovss_ray.errors import OvssError
from ovss_ray.serve import retries
from ovss_ray.serve.form import Fields

PATIENCE = 300.0
"""Seconds for which a request is repeated while the service is busy or restarts; a restart takes about a minute"""


class NotThere(OvssError):
    """Error for status 404: the service does not know the path or the job, or no longer caches the image."""


class DeadlinePassed(OvssError):
    """Error for a request whose computation takes too long for the service (option `limits.seconds` of the service)."""


class Running(OvssError):
    """Error for status 409: the job still runs, and the requested answer is not ready yet."""


KINDS: Mapping[int, type[OvssError]] = {404: NotThere, 409: Running}
"""HTTP status → class of the error"""


class Connection:
    """A connection to one service. It is thread-safe."""

    def __init__(self, address: str, key: str | None, patience: float, seconds: float) -> None:
        """Prepare a connection. The arguments are those of Client."""
        key = key or os.environ.get("OVSS_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.address, self.patience, self.seconds = address.rstrip("/"), patience, seconds
        self._http = urllib3.PoolManager(headers=headers, retries=False, maxsize=32)

    def send(
        self, method: str, path: str, fields: Fields | None = None, patience: float | None = None, once: bool = False
    ) -> bytes:
        """Send a request, and return the body of the answer.

        The service may be busy, be not reachable or report an internal error. The request is then repeated for up to
        `patience` seconds. If `patience` is None, the patience of the connection is used. If `once` is True, an
        Idempotency-Key is sent, so that the service executes the request only once.

        Raises NotThere, Running, DeadlinePassed, or OvssError for other errors.
        """
        address, patience = self.address + path, self.patience if patience is None else patience
        headers = {**self._http.headers, **({"Idempotency-Key": secrets.token_hex(16)} if once else {})}

        def attempt(seconds: float) -> urllib3.BaseHTTPResponse:
            return self._http.request(method, address, fields=fields, headers=headers, timeout=seconds, redirect=False)

        try:
            answer = retries.send(attempt, self.address, self.seconds, patience)
        except urllib3.exceptions.HTTPError as failure:
            raise OvssError(f"{self.address} does not answer: {failure}. Is `ovss serve` running there?") from failure
        if not 200 <= answer.status < 300:
            text = answer.data[:200].decode(errors="replace")
            raise error(address, answer.status, {"detail": text, **retries.refusal(answer.data)})
        return answer.data


def error(address: str, status: int, refusal: Mapping[str, Any]) -> OvssError:
    """Return the error for a refused request. `refusal`: the JSON document of the answer."""
    late = refusal.get("code") == retries.DEADLINE
    kind = DeadlinePassed if late else KINDS.get(status, OvssError)
    return kind(f"{address} answered {status}: {refusal.get('detail')}")
