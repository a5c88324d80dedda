"""httpx2, the successor of httpx: one client span per request sent, and the context in its headers.

The same as ``tracekit.integrations.httpx``, for the clients and transports of httpx2.
"""

from __future__ import annotations

from typing import Any

import httpx2

from ._httpx import AsyncTransport, Library, SyncTransport

__all__ = ["AsyncTraceTransport", "TraceTransport", "instrument", "uninstrument"]

_library = Library(httpx2)


class TraceTransport(SyncTransport, httpx2.BaseTransport):
    """Send requests through *inner* (default: ``httpx2.HTTPTransport()``), each in a client span.

    The arguments are those of ``tracekit.integrations.httpx.TraceTransport``.
    """


class AsyncTraceTransport(AsyncTransport, httpx2.AsyncBaseTransport):
    """Send requests through *inner* (default: ``httpx2.AsyncHTTPTransport()``), each in a client span.

    The arguments are those of ``tracekit.integrations.httpx.TraceTransport``.
    """


_library.bind(TraceTransport, AsyncTraceTransport)


def instrument(target: httpx2.Client | httpx2.AsyncClient | None = None, **options: Any) -> None:
    """Trace the requests of *target*, or of all clients; *options* are *propagate_to* and *redact*.

    A second call changes nothing. Raises ``TypeError`` for other objects, and for invalid options.
    """
    _library.instrument(target, **options)


def uninstrument(target: httpx2.Client | httpx2.AsyncClient | None = None) -> None:
    """Undo ``instrument(target)``."""
    _library.uninstrument(target)
