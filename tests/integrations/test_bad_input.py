"""Bad input of every kind against every integration: the program behaves as untraced, and nothing is held or leaked.

Each case runs a program twice, without and with tracing, and compares what the program and its peer saw.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from types import SimpleNamespace

import grpc
import httpx
import httpx2
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict
from yarl import URL

import tracekit
from tracekit.integrations import (
    _aiohttp_client,
    _aiohttp_server,
    _client,
    _grpc,
    _grpc_aio,
    asgi,
    http_client,
    http_server,
)
from tracekit.integrations import httpx as tracing_httpx
from tracekit.integrations import httpx2 as tracing_httpx2

from .peer import LAST, MORE, START, nothing_is_held, request_scope, websocket_scope

SECRET = "s3cr3t"
OURS = {"traceparent", "tracestate", "baggage"}


@pytest.fixture(autouse=True)
def undo():
    yield
    http_client.uninstrument()
    http_server.uninstrument()
    assert tracekit.current_span() is None


class Step:
    """A point at which a coroutine waits."""

    def __await__(self):
        yield


async def clean_up():
    """Wait, unless the coroutine is being closed: then it must not."""
    if not isinstance(sys.exception(), GeneratorExit):
        await Step()


class Thing:
    """An object of the program, which tracing must not keep."""


# ---- interrupted at each await


async def serve_asgi(traced, log, thing, scope=None):
    async def app(scope, receive, send):
        kept = thing
        try:
            log.append(await receive())
            with tracekit.span("work"):
                await send(START)
                await send(MORE)
            await send(LAST)
            await Step()
        finally:
            log.append(type(kept).__name__)

    async def receive():
        await Step()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        await Step()
        log.append(message)

    await (asgi.TraceMiddleware(app) if traced else app)(scope or request_scope(), receive, send)


async def serve_websocket(traced, log, thing):
    await serve_asgi(traced, log, thing, websocket_scope())


async def serve_lifespan(traced, log, thing):
    await serve_asgi(traced, log, thing, {"type": "lifespan"})


async def serve_aiohttp(traced, log, thing):
    async def handler(request):
        kept = thing
        with tracekit.span("work"):
            await Step()
            await Step()
        log.append(type(kept).__name__)
        return web.Response()

    request = make_mocked_request("GET", "/a")
    response = await (_aiohttp_server.Server().serve(request, handler) if traced else handler(request))
    log.append(response.status)


async def request_aiohttp(traced, log, thing):
    async def handler(request):
        kept = thing
        await Step()
        await Step()
        log.append(type(kept).__name__)
        return SimpleNamespace(status=200, version=None, connection=None)

    request = SimpleNamespace(method="GET", url=URL("http://shop.example/a"), headers=CIMultiDict())
    attempts = _aiohttp_client._Attempts(_client.Client())
    log.append((await (attempts(request, handler) if traced else handler(request))).status)


async def request_with(module, transport, traced, log, thing):
    class Body(module.AsyncByteStream):
        async def __aiter__(self):
            for _ in range(3):
                await Step()
                yield b"x"

        async def aclose(self):
            await clean_up()
            log.append("closed")

    class Slow(module.AsyncBaseTransport):
        async def handle_async_request(self, request):
            kept = thing
            await Step()
            log.append(type(kept).__name__)
            return module.Response(200, stream=Body())

    inner = Slow()
    response = await (transport(inner) if traced else inner).handle_async_request(
        module.Request("GET", "http://shop.example/a")
    )
    try:
        async for part in response.stream:
            log.append(part)
    finally:
        await response.stream.aclose()


async def request_httpx(traced, log, thing):
    await request_with(httpx, tracing_httpx.AsyncTraceTransport, traced, log, thing)


async def request_httpx2(traced, log, thing):
    await request_with(httpx2, tracing_httpx2.AsyncTraceTransport, traced, log, thing)


class Call:
    """The context of a call, as gRPC gives it to a handler."""

    def __init__(self, metadata=()):
        self.metadata = metadata

    def invocation_metadata(self):
        return self.metadata

    def peer(self):
        return "ipv4:127.0.0.1:50051"

    def code(self):
        return None

    def details(self):
        return ""

    def done(self):
        return False

    def is_active(self):
        return True

    def time_remaining(self):
        return 1.0

    def add_callback(self, callback):
        return True


async def traced_handler(handler):
    async def continuation(details):
        return handler

    interceptor = _grpc_aio.AioInterceptor(_grpc.Server())
    return await interceptor.intercept_service(continuation, SimpleNamespace(method="/shop.Shop/buy"))


async def serve_grpc(traced, log, thing):
    async def behavior(request, context):
        kept = thing
        with tracekit.span("work"):
            await Step()
            await Step()
        log.append(type(kept).__name__)
        return request

    handler = grpc.unary_unary_rpc_method_handler(behavior)
    handler = await traced_handler(handler) if traced else handler
    log.append(await handler.unary_unary(b"1", Call()))


async def serve_grpc_stream(traced, log, thing):
    async def behavior(request, context):
        kept = thing
        try:
            for _ in range(2):
                await Step()
                yield request
        finally:
            await clean_up()
            log.append(type(kept).__name__)

    handler = grpc.unary_stream_rpc_method_handler(behavior)
    handler = await traced_handler(handler) if traced else handler
    async for message in handler.unary_stream(b"1", Call()):
        log.append(message)
        await Step()


COROUTINES = [
    *(serve_asgi, serve_websocket, serve_lifespan, serve_aiohttp, serve_grpc, serve_grpc_stream),
    *(request_aiohttp, request_httpx, request_httpx2),
]


def finish(coroutine, step):
    """Make one step of *coroutine* and all that it needs to end after it; return the kind of its end."""
    try:
        step()
        for _ in range(20):
            coroutine.send(None)
    except BaseException as end:
        return type(end).__name__
    return "endless"


INTERRUPTIONS = {
    "cancelled": lambda one: finish(one, lambda: one.throw(asyncio.CancelledError())),
    "failed": lambda one: finish(one, lambda: one.throw(OSError("gone"))),
    "interrupted": lambda one: finish(one, lambda: one.throw(KeyboardInterrupt())),
}


def interrupted_at_each_await(program, interrupt, traced):
    """Return what happened in each run, interrupted one await later than the run before, up to the last one."""
    things, runs = [], []
    for steps in range(40):
        thing, log = Thing(), []
        things.append(weakref.ref(thing))
        coroutine = program(traced, log, thing)
        try:
            for _ in range(steps):
                coroutine.send(None)
        except StopIteration:
            runs.append(("done", log))
            break
        runs.append((interrupt(coroutine), log))
    else:
        pytest.fail("it never ended")
    coroutine = thing = None
    assert tracekit.current_span() is None
    return runs, things


@pytest.mark.parametrize("interruption", INTERRUPTIONS)
@pytest.mark.parametrize("program", COROUTINES, ids=lambda program: program.__name__)
def test_a_coroutine_interrupted_at_any_await_ends_as_without_tracing(exporter, program, interruption):
    bare, _ = interrupted_at_each_await(program, INTERRUPTIONS[interruption], traced=False)
    runs, things = interrupted_at_each_await(program, INTERRUPTIONS[interruption], traced=True)
    assert runs == bare
    assert len(runs) > 2
    assert nothing_is_held(things)


@pytest.mark.parametrize("program", COROUTINES, ids=lambda program: program.__name__)
def test_a_coroutine_dropped_at_any_await_leaves_nothing(exporter, program):
    bare, _ = interrupted_at_each_await(program, lambda one: one.close(), traced=False)
    runs, things = interrupted_at_each_await(program, lambda one: one.close(), traced=True)
    assert runs == bare
    assert nothing_is_held(things)


# ---- applications that break the protocol of ASGI


class Strict:
    """A server of ASGI that rejects messages out of order, as uvicorn does; its client leaves after *patience* parts."""

    def __init__(self, kind="http", patience=5):
        self.log, self.state, self.patience = [], {"http": "new", "websocket": "connecting"}[kind], patience

    async def receive(self):
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message):
        kind = message["type"]
        allowed = {
            ("new", "http.response.start"): "started",
            ("started", "http.response.body"): "started" if message.get("more_body") else "done",
            ("connecting", "websocket.accept"): "open",
            ("connecting", "websocket.close"): "done",
            ("open", "websocket.send"): "open",
            ("open", "websocket.close"): "done",
        }
        if (self.state, kind) not in allowed:
            raise RuntimeError(f"unexpected {kind}")
        self.state = allowed[self.state, kind]
        self.log.append(message)
        if len(self.log) > self.patience:
            raise OSError("the client has gone")


ACCEPT, TEXT, CLOSE = {"type": "websocket.accept"}, {"type": "websocket.send", "text": "a"}, {"type": "websocket.close"}
SENT = {
    "two starts": ("http", [START, START, LAST]),
    "no start": ("http", [LAST]),
    "nothing": ("http", []),
    "a start alone": ("http", [START]),
    "no last part": ("http", [START, MORE]),
    "after the end": ("http", [START, LAST, MORE, LAST]),
    "two responses": ("http", [START, LAST, START, LAST]),
    "no message": ("http", [START, None]),
    "no type": ("http", [{}]),
    "a websocket's": ("http", [ACCEPT]),
    "a response without end": ("http", [START, *[MORE] * 50]),
    "two accepts": ("websocket", [ACCEPT, ACCEPT]),
    "a text before the accept": ("websocket", [TEXT]),
    "a text after the close": ("websocket", [ACCEPT, CLOSE, TEXT]),
    "two closes": ("websocket", [CLOSE, CLOSE]),
    "a socket without end": ("websocket", [ACCEPT, *[TEXT] * 50]),
    "a response": ("websocket", [START]),
}


@pytest.mark.parametrize("catches", [False, True])
@pytest.mark.parametrize(("kind", "messages"), SENT.values(), ids=SENT)
def test_an_application_of_asgi_that_breaks_the_protocol_fails_as_without_tracing(exporter, kind, messages, catches):
    async def app(scope, receive, send):
        for message in messages:
            try:
                await send(message)
            except Exception:
                if not catches:
                    raise

    def outcome(app):
        server = Strict(kind)
        scope = request_scope() if kind == "http" else websocket_scope()
        return finish(one := app(scope, server.receive, server.send), lambda: one.send(None)), server.log

    assert outcome(asgi.TraceMiddleware(app)) == outcome(app)
    assert len(exporter.spans) == 1
    assert nothing_is_held()
