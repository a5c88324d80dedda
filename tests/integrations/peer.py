"""The server's side of ASGI as two lists of messages, for tests of the middleware."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER = (b"traceparent", f"00-{TRACE_ID}-{SPAN_ID}-01".encode())
UNSAMPLED = (b"traceparent", CALLER[1][:-2] + b"00")
LABELS = (b"baggage", b"tenant=acme")

START = {"type": "http.response.start", "status": 200, "headers": []}
MORE = {"type": "http.response.body", "body": b"x", "more_body": True}
LAST = {"type": "http.response.body", "body": b""}


def request_scope(*headers, **changes):
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "https",
        "path": "/items/3",
        "raw_path": b"/items/3",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"shop.example"), *headers],
        "client": ("192.0.2.1", 51234),
        "server": ("127.0.0.1", 8000),
    }
    return {**scope, **changes}


def websocket_scope(*headers, **changes):
    scope = request_scope(*headers, type="websocket", scheme="wss", subprotocols=[])
    del scope["method"]
    return {**scope, **changes}


class Peer:
    """The server's side: ``receive`` returns *messages* one by one, ``sent`` has those of the app."""

    def __init__(self, *messages):
        self.messages = list(messages) or [{"type": "http.request", "body": b"", "more_body": False}]
        self.sent = []

    async def receive(self):
        await anyio.lowlevel.checkpoint()
        return self.messages.pop(0) if self.messages else await anyio.sleep_forever()

    async def send(self, message):
        await anyio.lowlevel.checkpoint()
        self.sent.append(message)


async def answer(scope, receive, send):
    await send(START)
    await send(LAST)


def run(coroutine):
    """Run a coroutine that never waits."""
    with pytest.raises(StopIteration):
        coroutine.send(None)


async def at_once(*_):
    return {"type": "http.request", "body": b"", "more_body": False}
