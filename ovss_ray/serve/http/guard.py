"""Checks of every request: API key, client's address and body size. Answers get security headers for browsers."""

import asyncio
import hashlib
import hmac
import ipaddress
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ovss_ray.errors import OvssError
from ovss_ray.serve import refusal

PUBLIC = ("/v1/health", "/v1/ready", "/")
"""Paths that need no API key: two for load balancers, and the page, which asks the user for the key"""
FILES = ("/page/static/", "/page/example/")
"""Path prefixes of the web page's files, which need no API key, since browsers fetch them without one"""
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
"""Host names that the Host header of a request may contain if no API key is set.

A foreign web page cannot have such a host name. This protects against DNS rebinding."""
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
DRAIN = 5.0
"""Maximum seconds for reading the rest of a refused request"""


def digest(key: str) -> bytes:
    """Return the SHA-256 of an API key, 32 bytes. The service stores this digest instead of the key."""
    return hashlib.sha256(key.encode()).digest()


def check_host(host: str, key: str | None) -> None:
    """Raise OvssError if a service without a key would listen on an address that other machines can reach."""
    if not key and not _loopback(host):
        raise OvssError(
            f"--host {host}: missing API key for a service that other machines can reach. Set OVSS_API_KEY to a long "
            "random string (openssl rand -hex 32), or listen on 127.0.0.1"
        )


class Guard:
    """ASGI middleware that admits only requests with the API key. If no key is set, it admits only local requests."""

    def __init__(self, app: ASGIApp, key: bytes | None, body: int) -> None:
        self.app, self.key, self.body = app, key, body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the application, or refuse it with status 401, 403 or 413."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                is_page = scope["path"] == "/" or scope["path"].startswith(FILES)
                MutableHeaders(scope=message).update(PAGE if is_page else HEADERS)
            await send(message)

        try:
            self._admit(scope)
            counted = _Counted(receive, self.body, Headers(scope=scope))
        except HTTPException as failure:
            await _drain(receive, 2 * self.body)
            return await refusal.answer(failure)(scope, receive, send_with_headers)
        return await self.app(scope, counted, send_with_headers)

    def _admit(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self.key is None:
            if not _loopback((scope.get("client") or [""])[0]):
                raise HTTPException(
                    403,
                    "the service has no API key, so it accepts requests from its own machine only. Set OVSS_API_KEY "
                    "and start the service again",
                )
            name = headers.get("host", "").lower()
            if name.rpartition(":")[0] not in LOCAL_HOSTS and name not in LOCAL_HOSTS:
                raise HTTPException(
                    403,
                    f"invalid Host header: the service has no API key, so use {' or '.join(LOCAL_HOSTS)} in its URL",
                )
        elif scope["path"] not in PUBLIC and not scope["path"].startswith(FILES):
            scheme, _, key = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(digest(key.strip()), self.key):
                problem = "missing or wrong API key: send the header Authorization: Bearer KEY"
                raise HTTPException(401, problem, {"WWW-Authenticate": "Bearer"})


class _Counted:
    """Receiver of a request's body that counts its bytes.

    Raises HTTPException 413 if the header Content-Length or the counted number is above the limit.
    """

    def __init__(self, receive: Receive, most: int, headers: Headers) -> None:
        self.receive, self.most, self.got = receive, most, 0
        stated = headers.get("content-length", "")
        if stated.isdecimal() and int(stated[:20]) > most:
            raise self._refusal()

    async def __call__(self) -> MutableMapping[str, Any]:
        message = await self.receive()
        self.got += len(message.get("body", b""))
        if self.got > self.most:
            raise self._refusal()
        return message

    def _refusal(self) -> HTTPException:
        return HTTPException(413, f"the request body is too large; the limit is {self.most:,} bytes")


async def _drain(receive: Receive, most: int) -> None:
    """Read and discard up to `most` bytes of a body. Otherwise a client that is still sending might miss the answer."""
    received, more = 0, True
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN):
            while more and received <= most:
                message = await receive()
                received, more = received + len(message.get("body", b"")), message.get("more_body", False)


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
