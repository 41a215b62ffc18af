"""What stands before every request: who may ask, how much may be sent, and headers that keep browsers careful."""

import asyncio
import hashlib
import hmac
import ipaddress
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ovss_ray.errors import OvssError

PUBLIC = ("/v1/health", "/v1/ready", "/")
"""Paths that need no key: they tell a load balancer, and nobody anything else; the page, which asks for the key."""
FILES = ("/page/static/", "/page/example/")
"""What the page is made of lies below these: it is the same everywhere, and browsers fetch it without a key."""
HERE = ("localhost", "127.0.0.1", "[::1]")
"""What a service without a key may be called in the address: a web page elsewhere cannot make itself one of these."""
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
"""The page may load what comes with it, and talk to this service: no script or style in the text, no other address."""
DRAIN = 5.0
"""Seconds in which the rest of a refused request is still read."""


def digest(key: str) -> bytes:
    """What is kept of a key: enough to know it again."""
    return hashlib.sha256(key.encode()).digest()


def check_host(host: str, key: str | None) -> None:
    """Raise OvssError if a service would listen where others reach it and has no key."""
    if not key and not _loopback(host):
        raise OvssError(
            f"--host {host}: other machines could use the service, so it needs a key. Set OVSS_API_KEY to a long "
            "random word, such as `openssl rand -hex 32` prints, or listen on 127.0.0.1"
        )


class Guard:
    """ASGI middleware. With a key's digest only who sends the key is let in, without one only this machine."""

    def __init__(self, app: ASGIApp, key: bytes | None, body: int) -> None:
        self.app, self.key, self.body = app, key, body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with 401, 403 or 413."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def careful(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = scope["path"] == "/" or scope["path"].startswith(FILES)
                MutableHeaders(scope=message).update(PAGE if own else HEADERS)
            await send(message)

        try:
            self._admit(scope)
            counted = _Counted(receive, self.body, Headers(scope=scope))
        except HTTPException as refusal:
            await _drain(receive, 2 * self.body)
            answer = JSONResponse({"detail": refusal.detail}, refusal.status_code, refusal.headers)
            return await answer(scope, receive, careful)
        return await self.app(scope, counted, careful)

    def _admit(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self.key is None:
            if not _loopback((scope.get("client") or [""])[0]):
                raise HTTPException(403, "this service has no key (OVSS_API_KEY), and so answers its own machine only")
            name = headers.get("host", "").lower()
            if name.rpartition(":")[0] not in HERE and name not in HERE:
                raise HTTPException(403, f"without a key this service is called {' or '.join(HERE)}")
        elif scope["path"] not in PUBLIC and not scope["path"].startswith(FILES):
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(digest(given.strip()), self.key):
                raise HTTPException(401, "send the header Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})


class _Counted:
    """Receives the parts of a body; raises HTTPException 413 for one that is too long, be it stated or not."""

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
        return HTTPException(413, f"the body of a request has {self.most:,} bytes at most")


async def _drain(receive: Receive, most: int) -> None:
    """Read a body that nobody wants, within bounds: who is still sending might not see the answer."""
    got, more = 0, True
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN):
            while more and got <= most:
                message = await receive()
                got, more = got + len(message.get("body", b"")), message.get("more_body", False)


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
