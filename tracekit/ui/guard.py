"""Who may send requests to servers on the loopback interface.

Every page in a browser of the same machine reaches them, so ``Host`` must be a name of loopback (DNS rebinding gives a
stranger's name to 127.0.0.1), and ``Origin`` and ``Sec-Fetch-Site`` must not name another site.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["SECURITY_HEADERS", "Guard", "headers_of", "is_local_origin", "is_loopback"]

_MAX_HOST = 255
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
SECURITY_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]


class Guard:
    """ASGI middleware for pages that change nothing: checks each request, and adds the headers of safety."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on requests of this site, and reject others."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # a WebSocket has no such header as Sec-Fetch-Site, and no use here
            await send({"type": "websocket.close", "code": 1008})
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *SECURITY_HEADERS]}
            await send(message)

        status, reason = self.check(scope)
        if status == 200:
            await self.app(scope, receive, guarded)
            return
        start = {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]}
        await guarded(start)
        await send({"type": "http.response.body", "body": f"{reason}\n".encode()})

    def check(self, scope: Scope) -> tuple[int, str]:
        """Return 200, or the status and the reason of a rejection."""
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "only GET and HEAD: the pages change nothing"
        headers = headers_of(scope)
        host = headers.get("host", "")
        if not is_loopback(host):
            return 403, "Host is not a name of this machine: open the page as localhost"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return 403, "the request comes from another site"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return 403, "the request comes from another origin"
        return 200, ""


def headers_of(scope: Scope) -> dict[str, str]:
    """Return the headers by name in lower case; of repeated ones the values joined, which no check accepts."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def is_loopback(host: str) -> bool:
    """Return whether *host*, a value of ``Host``, is an address or a name of the loopback interface."""
    if not host or len(host) > _MAX_HOST:
        return False
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            return False
        port = port[1:]
    else:
        name, _, port = host.partition(":")
    if port and not (port.isascii() and port.isdigit()):
        return False
    name = name.lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_local_origin(origin: str) -> bool:
    """Return whether *origin* is a page that this machine serves."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and is_loopback(parts.netloc)
