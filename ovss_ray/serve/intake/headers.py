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
    """Make a class of PROTOCOLS close connections on which headers do not arrive in time.

    If the headers of the first request do not arrive, the connection is closed after `seconds`. If no further headers
    arrive, the connection is closed `seconds` to 2 · `seconds` after the previous answer.
    """
    inherited = protocol.connection_made

    def connection_made(self: Any, transport: asyncio.Transport) -> None:
        inherited(self, transport)
        # connections are checked only every `seconds`, so the limit for further requests is not exact
        self.loop.call_later(seconds, _look, self, None, seconds)

    protocol.connection_made = connection_made


def _look(connection: Any, before: object, seconds: float) -> None:
    """Close a connection that has been idle since the previous check. Otherwise, check again after `seconds`.

    `before` is the state of the connection at the previous check. If no request had arrived, `before` is None. If a
    request was in progress, `before` is BUSY. Otherwise, `before` is the last request, which had been answered.
    """
    transport, latest = connection.transport, connection.cycle
    if transport.is_closing() or transport.get_protocol() is not connection:
        return
    if latest is not None and not latest.response_complete:
        latest = BUSY
    elif latest is before:
        return transport.close()
    connection.loop.call_later(seconds, _look, connection, latest, seconds)
