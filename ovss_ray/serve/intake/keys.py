"""API keys with quotas, and the headers that tell clients how much of a quota is left."""

import hashlib
import hmac
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from ovss_ray.errors import OvssError
from ovss_ray.structures.settings import Settings

WINDOW = 60.0
"""Length of a window in seconds. A quota is the maximum number of requests of an API key in one window.

The first request after the end of a window begins a new window."""
EXAMPLE = "alice: {sha256: 9f86…, per_minute: 60}"


class Key(Settings):
    """Entry of a file of API keys. An entry has the SHA-256 and the quota of a key, but not the key itself."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """SHA-256 of the key in hexadecimal, as `printf %s KEY | sha256sum` prints it"""
    per_minute: Annotated[int, Field(ge=1)] | None = None
    """largest number of POST requests in a minute; None: no limit"""


KEYS = TypeAdapter(dict[str, Key])
"""Validator of the content of a file of API keys. The content is a dict: name of a user → Key"""


def read(file: str | None) -> tuple[Key, ...]:
    """Return the keys in the YAML file at the path `file`. If the path is None or empty, return no keys.

    Raises OvssError if the file cannot be read, is invalid, or has no keys.
    """
    if not file:
        return ()
    try:
        keys = tuple(KEYS.validate_python(yaml.safe_load(Path(file).read_text(encoding="utf-8")) or {}).values())
    except (OSError, ValueError, yaml.YAMLError, ValidationError) as failure:
        reason = failure.strerror if isinstance(failure, OSError) else "it must have one key per line"
        raise OvssError(f"OVSS_API_KEYS: cannot read {file}: {reason}. Example of a line: {EXAMPLE}") from failure
    if not keys:
        raise OvssError(f"OVSS_API_KEYS: {file} has no keys. Add one per line, such as {EXAMPLE}")
    return keys


@dataclass
class Quota:
    """Counter of the requests of an API key in the current window (see WINDOW)."""

    limit: int
    clock: Callable[[], float] = time.monotonic
    used: int = 0
    begun: float = field(default=float("-inf"))

    def take(self) -> bool:
        """Count a request and return True. If the limit is reached, return False and do not count the request."""
        if self.clock() - self.begun >= WINDOW:
            self.used, self.begun = 0, self.clock()
        if self.used >= self.limit:
            return False
        self.used += 1
        return True

    def headers(self) -> dict[str, str]:
        """Return three headers of an IETF draft: RateLimit-Limit, RateLimit-Remaining and RateLimit-Reset.

        The value of RateLimit-Reset is the number of seconds until the window ends.
        """
        left = max(0.0, self.begun + WINDOW - self.clock())
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.limit - self.used),
            "RateLimit-Reset": str(int(left) + 1),
        }


class Ring:
    """All API keys that a service accepts. A service without keys accepts only requests from the local machine."""

    def __init__(self, key: bytes | None = None, keys: Iterable[Key] = ()) -> None:
        """Store the accepted API keys.

        `key`: the SHA-256 of an API key without a quota, as 32 bytes; or None. `keys`: entries of further API keys.
        """
        self._quotas: dict[bytes, Quota | None] = {} if key is None else {key: None}
        for further in keys:
            self._quotas[bytes.fromhex(further.sha256)] = Quota(further.per_minute) if further.per_minute else None

    def __bool__(self) -> bool:
        """Return whether there are any keys."""
        return bool(self._quotas)

    def find(self, key: str) -> tuple[bool, Quota | None]:
        """Return whether a key is accepted, and the quota of the key.

        If the key has no quota or is not accepted, the second value is None.
        """
        digest = hashlib.sha256(key.encode()).digest()
        # compared with all keys, so that the duration reveals nothing about the keys
        matches = [known for known in self._quotas if hmac.compare_digest(digest, known)]
        return bool(matches), self._quotas[matches[0]] if matches else None
