"""httpx: one client span per request sent, and the context in its headers; by clients or by transports.

    tracekit.integrations.httpx.instrument()          # all clients, those that exist already included
    tracekit.integrations.httpx.instrument(client)    # one
    client = httpx.Client(transport=TraceTransport())
    client = httpx.AsyncClient(transport=AsyncTraceTransport(httpx.AsyncHTTPTransport(retries=2)))

Each hop of a redirect is a separate request, so its span is a sibling of the first. The span is current until the
response's headers have arrived. It ends when the body has been read, or when the response is closed. Options such as
``verify``, ``http2``, ``limits`` and ``proxy`` are arguments of the ``inner`` transport, not of the client.

A span is one call of the client's transport. A transport that sends a request several times, such as one that retries,
has a span for each if a ``TraceTransport`` is its inner transport.
"""

from __future__ import annotations

from typing import Any

import httpx

from ._httpx import AsyncTransport, Library, SyncTransport

__all__ = ["AsyncTraceTransport", "TraceTransport", "instrument", "uninstrument"]

_library = Library(httpx)


class TraceTransport(SyncTransport, httpx.BaseTransport):
    """Send requests through *inner* (default: ``httpx.HTTPTransport()``), each in a client span.

    Every host gets ids and tracestate, in the configured formats. Labels are sent only to loopback and private
    addresses, to names without a dot or under ``.internal``, ``.local``, ``.localhost`` and ``.svc``, and to the hosts
    in *propagate_to*: exact names, ``*.example.com`` for all names below ``example.com``, or ``*``. The default is
    ``TRACEKIT_PROPAGATE_TO``, names separated by commas. A function of the host's name replaces all of these. Each hop
    of a redirect is checked.

    Values of query parameters that denote secrets are redacted; *redact* adds names. Statuses from 400 on are errors.
    """


class AsyncTraceTransport(AsyncTransport, httpx.AsyncBaseTransport):
    """Send requests through *inner* (default: ``httpx.AsyncHTTPTransport()``), each in a client span.

    Arguments are those of ``TraceTransport``. The span of a cancelled request has the status "cancelled".
    """


_library.bind(TraceTransport, AsyncTraceTransport)


def instrument(target: httpx.Client | httpx.AsyncClient | None = None, **options: Any) -> None:
    """Trace the requests of *target*, or of all clients; *options* are *propagate_to* and *redact*.

    A second call changes nothing. Raises ``TypeError`` for other objects, and for invalid options.
    """
    _library.instrument(target, **options)


def uninstrument(target: httpx.Client | httpx.AsyncClient | None = None) -> None:
    """Undo ``instrument(target)``."""
    _library.uninstrument(target)
