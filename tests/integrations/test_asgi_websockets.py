"""The middleware and websockets of ASGI, without a server."""

from __future__ import annotations

import contextlib

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from tracekit.integrations.asgi import TraceMiddleware

from .peer import (
    CALLER,
    SPAN_ID,
    Peer,
    at_once,
    run,
    websocket_scope,
)


def conversation(*messages, sends=()):
    async def app(scope, receive, send):
        for message in sends:
            await send(message)
        for _ in messages:
            await receive()

    return app, Peer(*messages)


ACCEPT = {"type": "websocket.accept"}
RECEIVE = {"type": "websocket.receive", "text": "x"}
SEND = {"type": "websocket.send", "text": "y"}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("sends", "receives", "status", "attributes"),
    [
        (
            [ACCEPT, SEND, SEND],
            [RECEIVE, {"type": "websocket.disconnect", "code": 1001}],
            "unset",
            {"websocket.close_code": 1001, "websocket.messages_received": 1, "websocket.messages_sent": 2},
        ),
        (
            [ACCEPT],
            [{"type": "websocket.disconnect", "code": 1006}],
            "unset",
            {"websocket.close_code": 1006, "websocket.messages_received": 0, "websocket.messages_sent": 0},
        ),
        (
            [ACCEPT, {"type": "websocket.close", "code": 4000}],
            [{"type": "websocket.disconnect", "code": 1006}],
            "unset",
            {"websocket.close_code": 4000, "websocket.messages_received": 0, "websocket.messages_sent": 0},
        ),
        (
            [{"type": "websocket.close"}],
            [],
            "unset",
            {"http.response.status_code": 403, "websocket.messages_received": 0, "websocket.messages_sent": 0},
        ),
        (
            [
                {"type": "websocket.http.response.start", "status": 503, "headers": []},
                {"type": "websocket.http.response.body", "body": b""},
            ],
            [],
            "error",
            {
                "error.type": "503",
                "http.response.status_code": 503,
                "websocket.messages_received": 0,
                "websocket.messages_sent": 0,
            },
        ),
    ],
    ids=["talk", "broken", "closed", "rejected", "denied"],
)
async def test_a_websocket_has_one_span_with_its_counts_and_close_code(exporter, sends, receives, status, attributes):
    app, peer = conversation(*receives, sends=sends)
    await TraceMiddleware(app)(websocket_scope(CALLER), peer.receive, peer.send)
    (span,) = exporter.spans
    assert (span.name, span.kind, span.parent.span_id) == ("WEBSOCKET", "server", SPAN_ID)
    assert span.status.code == status
    assert dict(span.attributes) == {
        "http.request.method": "GET",
        "url.path": "/items/3",
        "url.scheme": "wss",
        "server.address": "shop.example",
        "server.port": 443,
        "client.address": "192.0.2.1",
        "network.peer.address": "192.0.2.1",
        "network.protocol.version": "1.1",
        **attributes,
    }
    assert peer.sent == sends


@pytest.mark.anyio
async def test_a_websocket_whose_client_has_gone_during_a_send_is_cancelled(exporter):
    async def app(scope, receive, send):
        await send(ACCEPT)

    async def send(message):
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await TraceMiddleware(app)(websocket_scope(), None, send)
    assert exporter.spans[0].status == ("cancelled", "the client disconnected")


def test_a_websocket_is_named_after_its_route_and_its_exception_is_recorded(exporter):
    async def room(socket):
        await socket.accept()
        raise ValueError("boom")

    async def receive():
        return {"type": "websocket.connect"}

    app = TraceMiddleware(Starlette(routes=[WebSocketRoute("/items/{id}", room)]))
    with pytest.raises(ValueError, match="boom"):
        run(app(websocket_scope(), receive, at_once))
    (span,) = exporter.spans
    assert (span.name, span.status.code) == ("WEBSOCKET /items/{id}", "error")
    assert [event.name for event in span.events] == ["exception"]
    assert "http.response.status_code" not in span.attributes  # it was accepted


@pytest.mark.parametrize("raises", [False, True])
def test_a_websocket_that_is_never_answered_is_a_500(exporter, raises):
    async def app(scope, receive, send):
        if raises:
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom") if raises else contextlib.nullcontext():
        run(TraceMiddleware(app)(websocket_scope(), at_once, at_once))
    (span,) = exporter.spans
    assert (span.status.code, span.attributes["http.response.status_code"]) == ("error", 500)


def test_a_websocket_whose_app_raises_for_a_normal_close_is_no_error(exporter):
    async def app(scope, receive, send):
        await send(ACCEPT)
        raise WebSocketDisconnect(1000)

    with pytest.raises(WebSocketDisconnect):
        run(TraceMiddleware(app)(websocket_scope(), at_once, at_once))
    (span,) = exporter.spans
    assert (span.status.code, span.events) == ("unset", ())
    assert "error.type" not in span.attributes
