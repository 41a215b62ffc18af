"""A deadline for the headers of requests to Ray Serve's HTTP proxy. The proxy runs uvicorn, which has no such deadline.

Ray Serve calls `begin` in each new proxy of a cluster that `ovss serve` starts (see ray_internals.SERVING).
"""

import asyncio
from contextlib import suppress
from importlib import import_module
from typing import Any

HEADERS = 30.0
"""Seconds in which the headers of a request must arrive"""
PROTOCOLS = ("httptools_impl.HttpToolsProtocol", "h11_impl.H11Protocol")
"""Classes of uvicorn that read requests; the first one needs the package httptools"""
BUSY = object()
"""Value of the parameter `before` of `_look` if a request was in progress"""


def begin() -> list[Any]:
    """Set the deadline for all connections of this process. Return [], since Ray Serve expects a list of middleware."""
    for path in PROTOCOLS:
        module, _, name = path.partition(".")
        with suppress(ImportError, AttributeError):
            limit(getattr(import_module(f"uvicorn.protocols.http.{module}"), name), HEADERS)
    return []


def limit(protocol: Any, seconds: float) -> None:
    """Make `protocol`, a class of PROTOCOLS, close connections on which the headers of a request do not arrive in time.

    If the headers of the first request do not arrive, the connection is closed after `seconds`. After an answer, the
    connection stays open for the next request. If the headers of this request do not arrive, the connection is closed.
    This happens between `seconds` and 2 · `seconds` after the answer.
    """
    inherited = protocol.connection_made

    def connection_made(self: Any, transport: asyncio.Transport) -> None:
        inherited(self, transport)
        # connections are checked only every `seconds`, so the limit for further requests is not exact
        self.loop.call_later(seconds, _look, self, None, seconds)

    protocol.connection_made = connection_made


def _look(connection: Any, before: object, seconds: float) -> None:
    """Close a connection that has been idle since the previous check. Otherwise, check again after `seconds`.

    `before` is the state of the connection at the previous check:

    - None: no request has arrived on the connection
    - BUSY: a request is in progress
    - another object: all requests are answered, and the object is the last request

    If the state is BUSY or has changed since the previous check, the connection is not idle.
    """
    transport, latest = connection.transport, connection.cycle
    if transport.is_closing() or transport.get_protocol() is not connection:
        return
    if latest is not None and not latest.response_complete:
        latest = BUSY
    elif latest is before:
        return transport.close()
    connection.loop.call_later(seconds, _look, connection, latest, seconds)
