"""A deadline for the headers of requests, in the process of Ray Serve's HTTP proxy.

The proxy runs uvicorn, which has no such deadline. A client could hold a connection forever with half of the headers.
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
"""Placeholder for a request in progress"""


def begin() -> list[Any]:
    """Set the deadline for all connections of this process. Return [], since Ray Serve expects a list of middleware."""
    for path in PROTOCOLS:
        module, _, name = path.partition(".")
        with suppress(ImportError, AttributeError):
            limit(getattr(import_module(f"uvicorn.protocols.http.{module}"), name), HEADERS)
    return []


def limit(protocol: Any, seconds: float) -> None:
    """Change a class of PROTOCOLS so that it closes connections whose headers do not arrive in time.

    The headers of a connection's first request must arrive within `seconds`. The headers of each further request may
    take up to 2 · `seconds` after the previous answer. The limit is not exact, since connections are checked only every
    `seconds`.
    """
    inherited = protocol.connection_made

    def connection_made(self: Any, transport: asyncio.Transport) -> None:
        inherited(self, transport)
        self.loop.call_later(seconds, _look, self, None, seconds)

    protocol.connection_made = connection_made


def _look(connection: Any, before: object, seconds: float) -> None:
    """Close a connection if it has waited for headers since the previous check. Else check again after `seconds`.

    `before`: state of the connection at the previous check. The state is one of three: None before the first request;
    BUSY while a request is in progress; else the request that was answered last.

    If the state is still `before` and no request is in progress, the connection is closed.
    """
    transport, latest = connection.transport, connection.cycle
    if transport.is_closing() or transport.get_protocol() is not connection:
        return
    if latest is not None and not latest.response_complete:
        latest = BUSY
    elif latest is before:
        return transport.close()
    connection.loop.call_later(seconds, _look, connection, latest, seconds)
