"""Checks of every request: Host, API key, client's address, origin and body size.

Answers get security headers for browsers.
"""

import asyncio
import hashlib
import ipaddress
import re
from collections.abc import Collection, MutableMapping, Sequence
from contextlib import suppress
from typing import Any

from fastapi import FastAPI, HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ovss_ray.config.limits import Limits
from ovss_ray.errors import OvssError
from ovss_ray.serve import refusal
from ovss_ray.serve.intake.keys import Quota, Ring
from ovss_ray.serve.refusal import Refused

PUBLIC = ("/v1/health", "/v1/ready", "/", "/docs")
"""Paths that need no API key: two for load balancers, the web page, and the description of the API"""
FILES = ("/page/static/", "/page/example/")
"""Path prefixes of the web page's files. Browsers fetch files without an API key, so the files need none"""
# In DNS rebinding, an attacker's host name has the address of this machine. The Host header shows that name.
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
"""Host names that the Host header may contain if no API key is set. The restriction prevents DNS rebinding"""
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[\w.-]+)(:\d{1,5})?", re.IGNORECASE)
"""Pattern of a Host header: a name or address and perhaps a port, but no user name"""
ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[\w.-]+)(:\d{1,5})?", re.IGNORECASE)
"""Pattern of an origin: scheme, host and perhaps a port"""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
PAGE = {
    **HEADERS,
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types lit-html",
    "Cache-Control": "no-cache",
}
"""Response headers of the web page. Browsers then load files from this service only, and run no inline scripts."""
EXPOSED = ["Location", "Retry-After", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", "X-Request-ID"]
"""Response headers that the scripts of a web page may read if the page's origin is in $OVSS_CORS_ORIGINS"""
SEVERAL = ("/v1/batch/", "/v1/jobs/")
"""Path prefixes of requests with several images. Each image counts against a quota, the request itself does not"""
DRAIN = 5.0
"""Maximum seconds for reading the rest of a refused request"""


def digest(key: str) -> bytes:
    """Return the SHA-256 of an API key, 32 bytes. The service stores this digest instead of the key."""
    return hashlib.sha256(key.encode()).digest()


def origins(text: str | None) -> tuple[str, ...]:
    """Return the web origins in `text`, the comma-separated value of $OVSS_CORS_ORIGINS.

    Raises OvssError if an entry is not an origin.
    """
    listed = tuple(origin.strip() for origin in (text or "").split(",") if origin.strip())
    for origin in listed:
        if not ORIGIN.fullmatch(origin):
            raise OvssError(
                f"OVSS_CORS_ORIGINS: {origin!r} is no origin. Write scheme, host and perhaps port, such as "
                "https://example.org:8443; separate several origins by commas"
            )
    return listed


def check_host(host: str, key: str | None) -> None:
    """Raise OvssError if a service without a key would listen on an address that other machines can reach."""
    if not key and not _loopback(host):
        raise OvssError(
            f"--host {host}: missing API key for a service that other machines can reach. Set OVSS_API_KEY to a long "
            "random string (openssl rand -hex 32), or listen on 127.0.0.1"
        )


def add(app: FastAPI, keys: Ring, limits: Limits, origins: Sequence[str]) -> None:
    """Add the checks to an application. `origins`: web origins whose pages may use the service (CORS)."""
    bodies = limits.waiting * limits.body
    app.add_middleware(Guard, keys=keys, body=limits.body, bodies=bodies, origins=origins)
    if origins:  # outside of the guard, since browsers send their preflight requests without a key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "X-Request-ID"],
            expose_headers=EXPOSED,
        )


class Guard:
    """ASGI middleware that admits or refuses each request.

    If the service has API keys, a request needs a valid API key. Requests for public paths need no API key.

    If the service has no API key, the guard refuses three kinds of requests:

    - requests from other machines
    - requests whose Host header is not a name of the local machine, such as localhost
    - requests from web pages of other origins, except the origins in `origins`
    """

    def __init__(self, app: ASGIApp, keys: Ring, body: int, bodies: int, origins: Collection[str] = ()) -> None:
        """Prepare the checks. `keys`: accepted API keys. `body`: maximum bytes of the body of a request.

        `bodies`: maximum bytes of the bodies of all requests in progress. `origins`: web origins whose pages may send
        requests, in addition to the service's own page.
        """
        self.app, self.keys, self.body, self.origins = app, keys, body, origins
        self.room = _Room(bodies)  # otherwise, many slow senders could fill the memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the application, or refuse it with status 400, 401, 403, 413 or 429."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        quota: Quota | None = None

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                is_page = scope["path"] in ("/", "/docs") or scope["path"].startswith(FILES)
                MutableHeaders(scope=message).update(PAGE if is_page else HEADERS)
                if quota:
                    MutableHeaders(scope=message).update(quota.headers())
            await send(message)

        try:
            quota = self._admit(scope)
            if quota and scope["method"] == "POST" and not scope["path"].startswith(SEVERAL) and not quota.take():
                later = {"Retry-After": quota.headers()["RateLimit-Reset"]}
                reason = f"the quota of this key is used up: {quota.limit} requests per minute. Try again later"
                raise Refused(429, reason, "quota", later)
            counted = _Counted(receive, self.body, Headers(scope=scope), self.room)
        except HTTPException as failure:
            if not await _drain(receive, 2 * self.body):
                failure.headers = {**(failure.headers or {}), "Connection": "close"}
            return await refusal.answer(failure, scope)(scope, receive, send_with_headers)
        try:
            return await self.app(scope, counted, send_with_headers)
        finally:
            self.room.held -= counted.got

    def _admit(self, scope: Scope) -> Quota | None:
        """Return the quota of a request's API key. If no API key is needed, or the key has no quota, return None.

        Raises HTTPException 400 for a missing, repeated or malformed Host header, and 401 for a missing or wrong API
        key. A service without an API key accepts only requests from its own machine; for others, HTTPException 403 is
        raised.
        """
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) > 1 or (not hosts and scope["http_version"] == "1.1") or not all(map(HOST.fullmatch, hosts)):
            raise HTTPException(400, "missing, repeated or malformed Host header. Send one, such as localhost:80")
        if not self.keys:
            if not _loopback((scope.get("client") or [""])[0]):
                raise HTTPException(
                    403,
                    "the service has no API key, so it accepts requests only from the machine on which it runs. "
                    "Set OVSS_API_KEY and start the service again",
                )
            name = headers.get("host", "").lower()
            if name.rpartition(":")[0] not in LOCAL_HOSTS and name not in LOCAL_HOSTS:
                raise HTTPException(
                    403,
                    "invalid Host header: a service without an API key can only be reached as "
                    f"{' or '.join(LOCAL_HOSTS)}. Change the host in the URL of the request",
                )
            if headers.get("origin") not in self.origins and _foreign(scope, headers, name):
                raise Refused(
                    403,
                    "the request comes from a web page of another origin. To allow this origin, set OVSS_CORS_ORIGINS "
                    "to the origin, such as https://example.org, and start the service again",
                    "foreign_origin",
                )
        elif scope["path"] not in PUBLIC and not scope["path"].startswith(FILES):
            scheme, _, key = headers.get("authorization", "").partition(" ")
            accepted, quota = self.keys.find(key.strip())
            if scheme.lower() == "bearer" and accepted:
                return quota
            problem = "missing or wrong API key: send the header Authorization: Bearer KEY"
            raise HTTPException(401, problem, {"WWW-Authenticate": "Bearer"})
        return None


class _Room:
    """Number of bytes of all request bodies in memory, and its maximum."""

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0


class _Counted:
    """Receiver of a request's body. The receiver counts the bytes of the body.

    `room` counts the bytes of the bodies of all requests. Raises HTTPException 413 if the body of this request exceeds
    `most` bytes. Raises HTTPException 429 if the bodies of all requests together exceed `room.most` bytes.
    """

    def __init__(self, receive: Receive, most: int, headers: Headers, room: _Room) -> None:
        self.receive, self.most, self.room, self.got = receive, most, room, 0
        stated = headers.get("content-length", "")
        if stated.isdecimal() and int(stated[:20]) > most:
            raise self._refusal()

    async def __call__(self) -> MutableMapping[str, Any]:
        message = await self.receive()
        size = len(message.get("body", b""))
        self.got += size
        self.room.held += size
        if self.got > self.most:
            raise self._refusal()
        if self.room.held > self.room.most:
            reason = "too many requests: their bodies fill the memory. Try again later"
            raise HTTPException(429, reason, {"Retry-After": "1", "Connection": "close"})
        return message

    def _refusal(self) -> HTTPException:
        return HTTPException(413, f"the request body is too large; the limit is {self.most:,} bytes")


def _foreign(scope: Scope, headers: Headers, host: str) -> bool:
    """Return whether a web page of another origin sent the request.

    If a user opens "/" by a link on a web page of another origin, the result is False. `host`: the Host header in
    lower case.
    """
    link = scope["path"] == "/" and scope["method"] in ("GET", "HEAD") and headers.get("sec-fetch-mode") == "navigate"
    # browsers set Sec-Fetch-Site and Origin, and web pages cannot change them
    if headers.get("sec-fetch-site") == "cross-site" and not link:
        return True
    return any(origin.lower().rpartition("://")[2] != host for origin in headers.getlist("origin"))


async def _drain(receive: Receive, most: int) -> bool:
    """Read and discard up to about `most` bytes of a body, within DRAIN seconds. Return whether the body has ended."""
    # if the rest were not read, a client that is still sending might miss the answer
    received, more = 0, True
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN):
            while more and received <= most:
                message = await receive()
                received, more = received + len(message.get("body", b"")), message.get("more_body", False)
    return not more


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
