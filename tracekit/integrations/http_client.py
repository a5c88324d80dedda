"""http.client: a client span for each request of the libraries above it: urllib.request, urllib3, requests, botocore.

    tracekit.integrations.http_client.instrument()

How it works: ``endheaders()`` starts the span, when request line and headers are in the connection's buffer, and adds
the context's headers there; ``getresponse()`` records the answer; the span ends when the body has been read, or when
the response is closed. The span is a field of the connection, then of the response, so tracing holds neither. It is
not current meanwhile, since the program's own code runs between the calls.

A library that sends a request again, after a redirect or an error, has a span for each. ``CONNECT``, which opens a
tunnel through a proxy, has none: its time is part of the request that needs it.
"""

from __future__ import annotations

import functools

# Not "import http.client": instrument() is called while the program imports that, before it is an attribute of http.
from http import client as http_client
from typing import Any, Final

from ._client import Client
from ._http_client_calls import close_connection_of, close_response_of, endheaders_of, getresponse_of, reader_of
from ._patch import Patches, check_whole

__all__ = ["instrument", "uninstrument"]

_READERS: Final = ("read", "read1", "readinto", "readline")

_patches = Patches()
_check = functools.partial(check_whole, "http.client", 'tracekit.instrument("http_client")')


def instrument(target: None = None, **options: Any) -> None:
    """Trace the requests of all connections; *options* are *propagate_to* and *redact*, see ``httpx.TraceTransport``.

    A second call changes nothing. Raises ``TypeError`` for any *target*, as other libraries make the connections, and
    for invalid options.
    """
    _check(target)
    if _patches.is_active:
        return
    client = Client(**options)
    _patches.replace(http_client.HTTPConnection, "endheaders", functools.partial(endheaders_of, client, _patches))
    _patches.replace(http_client.HTTPConnection, "getresponse", getresponse_of)
    _patches.replace(http_client.HTTPConnection, "close", close_connection_of)
    for name in _READERS:
        _patches.replace(http_client.HTTPResponse, name, reader_of)
    _patches.replace(http_client.HTTPResponse, "close", close_response_of)


def uninstrument(target: None = None) -> None:
    """Undo ``instrument()``."""
    _check(target)
    _patches.restore()
