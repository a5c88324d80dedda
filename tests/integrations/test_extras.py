"""Captured headers and hooks of the ASGI middleware."""

from __future__ import annotations

import anyio
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

import tracekit
from tracekit.integrations import _http
from tracekit.integrations._extras import extras
from tracekit.integrations._redaction import REDACTED
from tracekit.integrations.asgi import TraceMiddleware

from .peer import CALLER, LAST, MORE, START, UNSAMPLED, Peer, answer, at_once, request_scope, run, websocket_scope


def serve(app, scope, **options):
    run(TraceMiddleware(app, **options)(scope, at_once, at_once))


async def respond(scope, receive, send):
    headers = [(b"x-request-id", b"7"), (b"set-cookie", b"s3cr3t=1"), (b"set-cookie", b"s3cr3t=2")]
    await send({**START, "headers": headers})
    await send(LAST)


def headers_of(span):
    return {key: value for key, value in span.attributes.items() if ".header." in key}


def test_headers_are_recorded_on_request_alone(exporter):
    serve(respond, request_scope((b"x-shop", b"north")))
    assert headers_of(exporter.spans[0]) == {}


def test_named_headers_are_recorded_and_secrets_redacted(exporter):
    scope = request_scope((b"X-Shop", b"north"), (b"x-shop", b"\xe9"), (b"authorization", b"s3cr3t"), (b"x-pin", b"1"))
    serve(
        respond,
        scope,
        capture_request_headers=["X-Shop", "Authorization", "x-pin", "x-absent"],
        capture_response_headers=["Set-Cookie", "x-request-id"],
        redact=["x-pin"],
    )
    assert headers_of(exporter.spans[0]) == {
        "http.request.header.x-shop": ("north", "\xe9"),
        "http.request.header.authorization": (REDACTED,),
        "http.request.header.x-pin": (REDACTED,),
        "http.response.header.x-request-id": ("7",),
        "http.response.header.set-cookie": (REDACTED, REDACTED),
    }


def test_a_bomb_of_headers_is_bounded(exporter):
    scope = request_scope(*[(b"x-shop", b"y" * 10_000)] * 100, (b"x" * 100_000, b""), *[(b"x-late", b"")] * 10_000)
    serve(respond, scope, capture_request_headers=["x-shop"])
    (values,) = headers_of(exporter.spans[0]).values()
    assert values == ("y" * 1024,) * 8


@pytest.mark.parametrize("headers", [None, 5, [5], [(1, 2)], [(b"x-shop", None)], [(b"x-shop",)], object()])
def test_malformed_headers_are_left_to_server_and_app(exporter, headers):
    async def app(scope, receive, send):
        assert scope["headers"] is headers
        await send({**START, "headers": headers})
        await send(LAST)

    sent = Peer()
    scope = request_scope(headers=headers)
    anyio.run(
        TraceMiddleware(app, capture_request_headers=["x-shop"], capture_response_headers=["x-shop"]),
        scope,
        *([None, sent.send]),
    )
    assert sent.sent[0]["headers"] is headers
    assert len(exporter.spans) == 1


def test_response_headers_that_can_be_read_once_are_left_to_the_server(exporter):
    got = []

    async def app(scope, receive, send):
        await send({**START, "headers": iter([(b"x-shop", b"1")])})
        await send(LAST)

    async def send(message):
        got.extend(message.get("headers", ()))

    run(TraceMiddleware(app, capture_response_headers=["x-shop"])(request_scope(), at_once, send))
    assert got == [(b"x-shop", b"1")]


# Hooks


def test_the_hooks_get_span_scope_and_message(exporter):
    calls = []

    def on_request(span, scope):
        calls.append(("request", span, scope, tracekit.current_span()))
        span.set_attribute("shop", "north")

    def on_response(span, scope, message):
        calls.append(("response", span, scope, message))
        span.set_attribute("size", 3)

    scope = request_scope()
    serve(answer, scope, on_request=on_request, on_response=on_response)
    (span,) = exporter.spans
    assert [call[0] for call in calls] == ["request", "response"]
    assert all(call[1] is span and call[2] is scope for call in calls)
    assert calls[0][3] is span
    assert calls[1][3] is START
    assert (span.attributes["shop"], span.attributes["size"]) == ("north", 3)


def test_the_hooks_are_not_called_for_requests_that_are_not_recorded(exporter):
    calls = []
    options = {"on_request": lambda *_: calls.append(1), "on_response": lambda *_: calls.append(2)}
    serve(answer, request_scope(UNSAMPLED), **options)
    serve(answer, request_scope(path="/health"), exclude=["/health"], **options)
    assert calls == []
    serve(answer, request_scope(), **options)
    assert calls == [1, 2]


@pytest.mark.parametrize("kind", ["accept", "reject", "response"])
def test_the_hooks_of_a_websocket(exporter, kind):
    kinds = {
        "accept": {"type": "websocket.accept", "headers": [(b"x-shop", b"1")]},
        "reject": {"type": "websocket.close"},
        "response": {"type": "websocket.http.response.start", "status": 418, "headers": [(b"x-shop", b"1")]},
    }
    calls = []

    async def app(scope, receive, send):
        await send(kinds[kind])

    serve(
        app,
        websocket_scope(),
        on_request=lambda *_: calls.append("request"),
        on_response=lambda *arguments: calls.append(arguments[2]["type"]),
        capture_response_headers=["x-shop"],
    )
    assert calls == ["request"] if kind == "reject" else ["request", kinds[kind]["type"]]
    assert len(headers_of(exporter.spans[0])) == (kind != "reject")


@pytest.mark.parametrize("make", [request_scope, websocket_scope])
def test_a_hook_that_raises_is_reported_once_and_the_request_served(monkeypatch, exporter, caplog, make):
    monkeypatch.setattr(_http, "NOTICES", _http.Notices())

    class OddError(Exception):
        def __str__(self):
            raise ValueError

    def fail(*_):
        raise OddError

    async def accept(scope, receive, send):
        await send({"type": "websocket.accept"})

    app = answer if make is request_scope else accept
    options = {"on_request": fail, "on_response": fail}
    for _ in range(3):
        sent = Peer()
        anyio.run(TraceMiddleware(app, **options), make(CALLER), None, sent.send)
        assert sent.sent[0] == (START if app is answer else {"type": "websocket.accept"})
    assert len([record for record in caplog.records if "OddError" in record.message]) == 1
    assert len(exporter.spans) == 3


def test_a_hook_may_end_the_span(exporter):
    serve(respond, request_scope(), on_response=lambda span, *_: span.end())
    assert len(exporter.spans) == 1


def test_a_response_that_never_ends_calls_the_hook_once(exporter):
    calls = []

    async def endless(scope, receive, send):
        await send(START)
        for _ in range(1000):
            await send(MORE)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        serve(endless, request_scope(), on_response=lambda *_: calls.append(1))
    assert calls == [1]


@pytest.mark.parametrize(
    "options",
    [
        {"capture_request_headers": "x-shop"},
        {"capture_request_headers": 5},
        {"capture_response_headers": [b"x-shop"]},
        {"on_request": 5},
        {"on_request": at_once},
        {"on_response": Peer().send},
        {"on_response": TraceMiddleware(answer)},
    ],
)
def test_invalid_options_are_rejected(options):
    with pytest.raises(TypeError, match=next(iter(options))):
        TraceMiddleware(answer, **options)


def test_options_that_are_all_off_cost_nothing():
    assert extras(None, (), [], None, None) is None


def test_starlette_headers_are_recorded(exporter):
    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse("x", headers={"X-Request-Id": "7"}))])
    traced = TraceMiddleware(app, capture_request_headers=["user-agent"], capture_response_headers=["x-request-id"])
    TestClient(traced).get("/")
    assert headers_of(exporter.spans[0]) == {
        "http.request.header.user-agent": ("testclient",),
        "http.response.header.x-request-id": ("7",),
    }
