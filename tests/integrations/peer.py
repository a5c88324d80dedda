"""The other side in memory, for tests: ASGI as two lists of messages, and a connection as its octets."""

from __future__ import annotations

import gc
import io
from types import SimpleNamespace

import anyio
import anyio.lowlevel
import pytest

import tracekit

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


class Broken:
    """A value of a scope that cannot even be asked whether it is true, so that no attributes can be made."""

    def __bool__(self):
        raise RuntimeError("broken")


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


class Socket:
    """A connection in memory: *octets* are to be read, ``sent`` were written."""

    def __init__(self, octets=b""):
        self.octets, self.sent = octets, b""

    def makefile(self, *_, **__):
        return io.BytesIO(self.octets)

    def sendall(self, octets):
        self.sent += octets

    def close(self):
        pass


def answered(handler, octets):
    """Return what an ``http.server`` with this *handler* sends to a client that sends *octets*, and its ``server.got``."""
    connection = Socket(octets)
    server = SimpleNamespace(server_address=("127.0.0.1", 8000), got=[])
    try:
        handler(connection, ("192.0.2.1", 51234), server)
    except BaseException as error:
        return connection.sent, server.got, type(error), str(error)
    return connection.sent, server.got


def nothing_is_held(things=()):
    """Return whether no span is open and all weak references *things* are dead, at the latest after a collection."""
    for collect in (int, gc.collect):
        collect()
        if tracekit.statistics().open == 0 and all(thing() is None for thing in things):
            return True
    return False
