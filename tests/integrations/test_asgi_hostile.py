"""The middleware and invalid input, and errors inside the middleware."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import re
import sys
from types import MappingProxyType, SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount

import tracekit
from tracekit._core.span import mapping_of
from tracekit.integrations import _http
from tracekit.integrations._asgi_scope import attributes_of
from tracekit.integrations.asgi import TraceMiddleware

from ..tools.pipeline import Discard
from .peer import CALLER, LABELS, LAST, START, Broken, answer, at_once, request_scope, run, websocket_scope

HOSTILE = {
    "headers": [
        None,
        5,
        "traceparent",
        b"traceparent",
        object(),
        [None],
        [()],
        [(b"host",)],
        [(b"host", None), (b"user-agent", 7)],
        [("traceparent", CALLER[1].decode(), 3)],
        [(b"host", bytearray(b"x"))],
        [(b"traceparent", b"\xff\xfe\x00")],
        [CALLER, CALLER],
        [CALLER, (b"traceparent", b" ")],
        [(b"traceparent", CALLER[1] + b"\0")],
        [(b"tracestate", b"a=1")] * 33,
        [(b"x" * 100_000, b"y" * 100_000)] * 10,
        [(b"user-agent", b"\xff" * 100_000), (b"host", b"[" * 100_000)],
    ],
    "method": [None, b"GET", 5, [], "", "G\nET", "X" * 100_000],
    "path": [None, b"/", 5, [], "/\ud800", "/" * 100_000],
    "query_string": [None, "a=1", 5, b"\xff&sig=\xfe", b"&" * 100_000],
    "scheme": [None, 5, [], b"http", "gopher"],
    "server": [None, (), ("a",), 5, "ab", [None, None], ({}, {})],
    "client": [None, (), 5, [None], "ab", ({}, {})],
    "http_version": [None, 5, b"1.1", []],
    "root_path": [None, 5, b""],
    "app_root_path": [None, 5, b"", "/longer"],
    "path_params": [None, 5, {None: None}],
    "route": [None, 5, SimpleNamespace(path="/a"), SimpleNamespace(path=5)],
}


@pytest.mark.parametrize("make", [request_scope, websocket_scope])
@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in HOSTILE.items() for value in values])
def test_a_hostile_scope_is_served_and_starts_a_new_trace(exporter, caplog, make, key, value):
    seen = []

    async def app(scope, receive, send):
        seen.append(scope)
        await answer(scope, receive, send)

    scope = make(**{key: value})
    run(TraceMiddleware(app)(scope, at_once, at_once))
    assert len(seen) == 1
    (span,) = exporter.spans
    assert span.parent is None
    assert span.context.is_valid
    assert caplog.records == []
    assert all(len(str(value)) <= 4096 for value in span.attributes.values())


def test_no_redaction_costs_the_query_alone():
    """Called by hand: compiled, a method of None was a crash."""
    attributes = attributes_of({"query_string": b"a=1", "path": "/a"}, [], True, "GET", None)
    assert mapping_of(attributes) == {"http.request.method": "GET", "url.path": "/a", "url.scheme": "http"}


@pytest.mark.parametrize("key", sorted(request_scope()))
def test_a_scope_without_a_key_is_served(exporter, key):
    scope = request_scope(CALLER)
    del scope[key]
    run(TraceMiddleware(answer)(scope, at_once, at_once))
    assert len(exporter.spans) == (key != "type")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(
                st.sampled_from([b"traceparent", b"tracestate", b"baggage", b"host", b"user-agent"]), st.binary()
            ),
            st.one_of(st.sampled_from([CALLER[1], b"a=1,b=2"]), st.binary()),
        )
    ),
    st.binary(),
)
def test_any_header_bytes_are_served(exporter, headers, query):
    exporter.clear()
    sent = []

    async def send(message):
        sent.append(message)

    run(TraceMiddleware(answer)(request_scope(headers=headers, query_string=query), at_once, send))
    assert sent == [START, LAST]
    assert len(exporter.spans) == 1


class Raising(dict):
    """A message or a scope whose methods raise."""

    def _raise(self, *_):
        raise RuntimeError("hostile")

    __getitem__ = __contains__ = get = items = _raise


class RaisingBool:
    def __bool__(self):
        raise RuntimeError("hostile")


MESSAGES = [
    None,
    5,
    [],
    {},
    {"type": None},
    {"type": []},
    {"type": b"http.response.start"},
    {"type": "of tomorrow"},
    {"type": "http.response.start"},
    {"type": "http.response.start", "status": None},
    {"type": "http.response.start", "status": "200"},
    {"type": "http.response.start", "status": -1},
    {"type": "http.response.start", "status": 10**100},
    {"type": "http.response.body", "more_body": RaisingBool()},
    {"type": "http.disconnect"},
    {"type": "websocket.http.response.start"},
    {"type": "websocket.close", "code": "1000"},
    {"type": "websocket.close", "code": 10**100},
    {"type": "websocket.disconnect", "code": None},
    {"type": "websocket.disconnect"},
    Raising(),
]


@pytest.mark.parametrize("make", [request_scope, websocket_scope])
@pytest.mark.parametrize("message", MESSAGES)
def test_any_message_is_passed_on_unchanged_in_both_directions(exporter, make, message):
    sent, received = [], []

    async def app(scope, receive, send):
        received.append(await receive())
        await send(message)

    async def send(message):
        sent.append(message)

    async def receive():
        return message

    run(TraceMiddleware(app)(make(), receive, send))
    assert [id(one) for one in sent + received] == [id(message)] * 2
    assert len(exporter.spans) == 1


@pytest.mark.parametrize("make", [request_scope, websocket_scope])
@pytest.mark.parametrize("error", [OSError("gone"), ValueError("no")], ids=repr)
@pytest.mark.parametrize("message", MESSAGES)
def test_the_servers_own_error_for_a_message_reaches_the_app(exporter, make, error, message):
    caught = []

    async def app(scope, receive, send):
        for channel in (lambda: send(message), receive):
            try:
                await channel()
            except Exception as one:
                caught.append(one)

    async def broken(*_):
        raise error

    run(TraceMiddleware(app)(make(), broken, broken))
    assert caught == [error] * 2


class HostileMeta(type):
    def __getattribute__(cls, name):
        if name in {"__qualname__", "__module__"}:
            raise RuntimeError("hostile")
        return super().__getattribute__(name)


class HostileStr(Exception):
    def __str__(self):
        raise RuntimeError("hostile")


@pytest.mark.parametrize("make", [request_scope, websocket_scope])
@pytest.mark.parametrize("error", [HostileStr(), HostileMeta("Hostile", (Exception,), {})()])
def test_any_exception_of_the_app_is_raised_unchanged(monkeypatch, exporter, make, error):
    monkeypatch.setattr(_http, "NOTICES", _http.Notices())

    async def app(scope, receive, send):
        raise error

    with pytest.raises(type(error)) as caught:
        run(TraceMiddleware(app)(make(), at_once, at_once))
    assert caught.value is error
    (span,) = exporter.spans
    assert span.attributes["http.response.status_code"] == 500


@pytest.mark.parametrize(
    "scope", [None, 5, [], "http", object(), Raising(type="http"), MappingProxyType({"type": "http"})]
)
def test_an_invalid_scope_reaches_the_app(exporter, scope):
    seen = []

    async def app(scope, receive, send):
        seen.append(scope)

    for options in ({}, {"exclude": ["/"], "routes": {"/": "ignore"}}):
        run(TraceMiddleware(app, **options)(scope, at_once, at_once))
    assert [id(one) for one in seen] == [id(scope)] * 2


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in HOSTILE.items() for value in values])
def test_a_hostile_scope_is_served_with_every_option(exporter, key, value):
    seen = []

    async def app(scope, receive, send):
        seen.append(scope)

    options = {"exclude": ["/health", re.compile("x")], "routes": {"/a": "restart"}, "redact": ["a"]}
    tracekit.configure(exporter=exporter, sampler=tracekit.Ratio(0.5))
    run(TraceMiddleware(app, **options)(request_scope(**{key: value}), at_once, at_once))
    assert len(seen) == 1


@pytest.mark.parametrize("scope", [request_scope(CALLER), request_scope()])
def test_an_error_of_tracing_is_logged_once_and_the_request_is_served(monkeypatch, caplog, exporter, scope):
    monkeypatch.setattr(_http, "NOTICES", _http.Notices())
    peer = []

    async def send(message):
        peer.append(message)

    for _ in range(2):
        run(TraceMiddleware(answer)({**scope, "scheme": Broken()}, at_once, send))
    assert peer == [START, LAST] * 2
    assert exporter.spans == []
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_custom_format_that_raises_starts_a_new_trace(exporter):
    class Broken:
        name, fields = "broken", ("broken",)

        def read(self, carrier):
            raise RuntimeError("broken")

        def write(self, context, carrier):
            raise RuntimeError("broken")

    tracekit.configure(exporter=exporter, formats=[Broken()])
    run(TraceMiddleware(answer)(request_scope(CALLER), at_once, at_once))
    assert exporter.spans[0].parent is None


def test_memory_does_not_grow_with_10000_requests():
    tracekit.configure(exporter=Discard())

    async def app(scope, receive, send):
        with tracekit.span("work"):
            await answer(scope, receive, send)

    async def failing(scope, receive, send):
        raise ValueError("boom")

    good, bad = TraceMiddleware(Starlette(routes=[Mount("/items", app=app)])), TraceMiddleware(failing)

    def serve(count):
        for number in range(count):
            headers = [CALLER, LABELS, (b"host", b"%d.example" % number), (b"user-agent", b"%d" % number)]
            run(good(request_scope(*headers), at_once, at_once))
            if number % 100 == 0:
                tracekit.flush(60)
                with pytest.raises(ValueError, match="boom"):
                    run(bad(request_scope(), at_once, at_once))
        tracekit.flush(60)
        gc.collect()
        return len(gc.get_objects()), sys.getallocatedblocks()

    objects, blocks = serve(1_000)  # fills caches and free lists
    objects, blocks = serve(1_000)
    objects_after, blocks_after = serve(10_000)
    assert objects_after - objects < 100
    assert blocks_after - blocks < 1_000


async def _exchange(send, use):
    """Serve a recorded request with an app that passes what ``send()`` returns to *use*."""

    async def app(scope, receive, send):
        await send(START)
        await use(send(LAST))

    await TraceMiddleware(app)(request_scope(), at_once, send)


def test_send_may_run_as_a_task(exporter):
    async def send(message):
        await asyncio.sleep(0)

    async def use(sending):
        await asyncio.create_task(sending)

    asyncio.run(_exchange(send, use))
    assert [span.status.code for span in exporter.spans] == ["unset"]


def test_a_cancelled_send_is_cancelled_in_the_server(exporter):
    cancelled = []

    async def send(message):
        try:
            await asyncio.sleep(3600 if message is LAST else 0)
        except asyncio.CancelledError:
            cancelled.append(message)
            raise

    async def use(sending):
        task = asyncio.create_task(sending)
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(_exchange(send, use))
    assert cancelled == [LAST]
    assert [span.status.code for span in exporter.spans] == ["cancelled"]


def test_an_error_thrown_into_send_that_the_server_handles_ends_the_span(exporter):
    async def send(message):
        with contextlib.suppress(ValueError):
            await asyncio.sleep(0)

    async def use(sending):
        assert sending.send(None) is None
        with pytest.raises(StopIteration):
            sending.throw(ValueError())
        with pytest.raises(RuntimeError, match="already awaited"):
            sending.send(None)

    asyncio.run(_exchange(send, use))
    assert [span.status.code for span in exporter.spans] == ["unset"]


@pytest.mark.parametrize(
    "step", [lambda sending: sending.send(None), lambda sending: sending.throw(ConnectionResetError())]
)
def test_a_client_that_has_gone_while_send_waits_is_a_disconnect(exporter, step):
    async def send(message):
        if message is LAST:
            await asyncio.sleep(0)
            raise ConnectionResetError

    async def use(sending):
        sending.send(None)
        with pytest.raises(ConnectionResetError):
            step(sending)

    asyncio.run(_exchange(send, use))
    assert [span.status.code for span in exporter.spans] == ["cancelled"]


def test_a_closed_send_closes_the_servers(exporter):
    closed = []

    async def send(message):
        try:
            await asyncio.sleep(0)
        except GeneratorExit:
            closed.append(message)
            raise

    async def use(sending):
        sending.send(None)
        sending.close()

    asyncio.run(_exchange(send, use))
    assert closed == [LAST]


def test_a_send_that_returns_another_awaitable_is_awaited(exporter):
    def send(message):
        return asyncio.get_running_loop().create_task(asyncio.sleep(0))

    async def use(sending):
        await sending

    asyncio.run(_exchange(send, use))
    assert [span.status.code for span in exporter.spans] == ["unset"]


async def _rejected(sending):
    with pytest.raises(ValueError, match="rejected"):
        await sending


async def _rejected_after_a_step(sending):
    sending.send(None)
    with pytest.raises(ValueError, match="rejected"):
        sending.throw(ValueError("rejected"))


async def _thrown_before_the_first_step(sending):
    with pytest.raises(OSError, match="thrown"):
        sending.throw(OSError("thrown"))


async def _closed(sending):
    sending.close()


FAILED = {"type": "http.response.start", "status": 500}


@pytest.mark.parametrize("is_coroutine", [True, False])
@pytest.mark.parametrize("use", [_rejected, _rejected_after_a_step, _thrown_before_the_first_step, _closed])
@pytest.mark.parametrize(
    "messages",
    [
        [(FAILED, False), (START, True), (LAST, True)],
        [(LAST, False), (START, True), (LAST, True)],
        [(START, True), (FAILED, False), (LAST, True)],
        [(START, True), (LAST, False), (LAST, True)],
    ],
)
def test_a_message_that_is_not_sent_is_not_the_answer(exporter, is_coroutine, use, messages):
    async def reject(message):
        await asyncio.sleep(0)
        raise ValueError("rejected")

    def send(message):
        make = at_once if sent.pop(0) else reject
        return make(message) if is_coroutine else Later(make, message)

    async def app(scope, receive, send):
        for message, is_sent in messages:
            assert not exporter.spans
            sending = send(message)
            await (sending if is_sent else use(sending))

    sent = [is_sent for _, is_sent in messages]
    asyncio.run(TraceMiddleware(app)(request_scope(), at_once, send))
    (span,) = exporter.spans
    assert (span.attributes["http.response.status_code"], span.status.code) == (200, "unset")


class Later:
    def __init__(self, make, message):
        self.make = make
        self.message = message

    def __await__(self):
        return self.make(self.message).__await__()


def test_a_send_that_is_awaited_twice_keeps_the_status(exporter):
    async def send(message):
        await asyncio.sleep(0)

    async def app(scope, receive, send):
        sending = send(START)
        await sending
        with pytest.raises(RuntimeError, match="already awaited"):
            await sending
        await send(LAST)

    asyncio.run(TraceMiddleware(app)(request_scope(), at_once, send))
    (span,) = exporter.spans
    assert span.attributes["http.response.status_code"] == 200
