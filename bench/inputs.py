"""What every contender is fed: the same headers, labels, attributes and application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACESTATE = "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"
BAGGAGE = "tenant=acme,region=eu-west-1,plan=gold"
LABELS = {"tenant": "acme", "region": "eu-west-1", "plan": "gold"}

EIGHT_LABELS = {"baggage": ",".join(f"key-{number}=value%20number%20{number}" for number in range(8))}
EIGHT = {f"key-{number}": f"value number {number}" for number in range(8)}

BATCH = 512  # how many spans OpenTelemetry hands to its exporter at once

PARENT_ONLY = {"traceparent": TRACEPARENT}
PARENT_AND_STATE = {"traceparent": TRACEPARENT, "tracestate": TRACESTATE}
LABELS_ONLY = {"baggage": BAGGAGE}
REQUEST = {
    "host": "shop.example.com",
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "accept-encoding": "gzip, deflate, br",
    "accept-language": "en-US,en;q=0.5",
    "connection": "keep-alive",
    "cookie": "session=0f5c7a; theme=dark",
    "traceparent": TRACEPARENT,
    "tracestate": TRACESTATE,
    "baggage": BAGGAGE,
}

HTTP_SCOPE: dict[str, Any] = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.3"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/items/42",
    "raw_path": b"/items/42",
    "query_string": b"page=2",
    "root_path": "",
    "headers": [
        (name.encode(), value.encode()) for name, value in REQUEST.items() if name not in {"tracestate", "baggage"}
    ],
    "client": ("127.0.0.1", 50312),
    "server": ("127.0.0.1", 8000),
}


def attributes_of(number: int) -> dict[str, Any]:
    """Return the five attributes of the span with this number; one of the values is its own."""
    return {
        "http.request.method": "GET",
        "url.path": f"/items/{number}",
        "http.response.status_code": 200,
        "server.address": "shop.example.com",
        "retry.delay": 0.25,
    }


def application() -> Callable[..., Awaitable[None]]:
    """Return the application that the middleware is put around: one route, a few bytes of text."""
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def item(_: Any) -> PlainTextResponse:
        return PlainTextResponse("ok")

    return Starlette(routes=[Route("/items/{number:int}", item)])


WSGI_ENVIRON: dict[str, Any] = {
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/items/42",
    "RAW_URI": "/items/42?page=2",
    "QUERY_STRING": "page=2",
    "SERVER_NAME": "127.0.0.1",
    "SERVER_PORT": "8000",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REMOTE_ADDR": "127.0.0.1",
    "REMOTE_PORT": "50312",
    "wsgi.url_scheme": "http",
    **{
        f"HTTP_{name.upper().replace('-', '_')}": value
        for name, value in REQUEST.items()
        if name not in {"tracestate", "baggage"}
    },
}


def wsgi_application(_environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """Answer with a few bytes of text: the application that the WSGI middleware is put around."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]


def serve_wsgi(app: Callable[..., Any]) -> None:
    """Do a server's part for one request."""
    result = app(dict(WSGI_ENVIRON), lambda *_: None)
    for _ in result:
        pass
    if hasattr(result, "close"):
        result.close()


async def receive() -> dict[str, Any]:
    """Give the request's body: none."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: dict[str, Any]) -> None:
    """Take the response."""
