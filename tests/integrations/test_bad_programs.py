"""Programs that break protocols, drop responses or have hooks that misbehave: they run as without tracing."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import io
import weakref
from http.server import BaseHTTPRequestHandler
from unittest import mock
from xmlrpc.server import SimpleXMLRPCDispatcher

import aiohttp
import grpc
import httpx
import httpx2
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

import tracekit
from tracekit.integrations import _aiohttp_server, _http, asgi, http_server, wsgi
from tracekit.integrations import aiohttp as tracing_aiohttp
from tracekit.integrations import grpc as tracing_grpc
from tracekit.integrations import httpx as tracing_httpx
from tracekit.integrations import httpx2 as tracing_httpx2

from .http_servers import shop
from .peer import answer, answered, at_once, nothing_is_held, request_scope, run
from .servers import until
from .test_grpc import serving

CAPTURE = {"capture_request_headers": ["x-0"], "capture_response_headers": ["x-0"]}


@pytest.fixture(autouse=True)
def undo():
    yield
    for integration in (http_server, tracing_aiohttp, tracing_grpc):
        integration.uninstrument()
    assert tracekit.current_span() is None


# ---- handlers of http.server that break HTTP


class Broken(BaseHTTPRequestHandler):
    way = ""

    def log_message(self, *_):
        pass

    def date_time_string(self, *_):
        return "now"

    def answer(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def do_GET(self):
        getattr(self, self.way)()

    def no_response(self):
        pass

    def a_body_alone(self):
        self.wfile.write(b"hello")

    def headers_without_end(self):
        self.send_response(200)
        self.send_header("a", "b")

    def two_responses(self):
        self.answer()
        self.answer()

    def headers_after_the_body(self):
        self.answer()
        self.send_header("a", "b")
        self.end_headers()

    def an_end_of_headers_alone(self):
        self.end_headers()

    def no_status(self):
        self.send_response(None)

    def a_status_of_text(self):
        self.send_response("200 OK")

    def a_huge_status(self):
        self.send_response(10**100)
        self.end_headers()

    def a_status_below_zero(self):
        self.send_response(-1)
        self.end_headers()

    def many_headers(self):
        self.send_response(200)
        for number in range(10_000):
            self.send_header(f"x-{number}", "\xff" * 100)
        self.end_headers()

    def a_header_without_colon(self):
        self._headers_buffer = [b"HTTP/1.0 200 OK\r\n", b"nonsense\r\n", b"\xff" * 1_000_000]
        self.end_headers()

    def an_exception_in_the_body(self):
        self.answer()
        raise ValueError("boom")

    def an_exit(self):
        raise SystemExit(3)

    def another_request(self):
        self.rfile = io.BytesIO(b"GET /b HTTP/1.0\r\n\r\n")
        self.way = "no_response"
        self.handle_one_request()

    def a_second_parsing(self):
        self.rfile = io.BytesIO(b"\r\n")
        self.parse_request()
        self.answer()

    def no_headers(self):
        del self.headers, self.command
        self.send_response(200)
        self.end_headers()


NOT_WAYS = ("_", "answer", "do_", "log_", "date_", "way")
WAYS = [name for name in vars(Broken) if not name.startswith(NOT_WAYS)]


@pytest.mark.parametrize("way", WAYS)
def test_a_handler_that_breaks_http_fails_as_without_tracing(exporter, way):
    handler = type("Handler", (Broken,), {"way": way})
    bare = answered(handler, b"GET /a HTTP/1.0\r\n\r\n")
    http_server.instrument(**CAPTURE)
    assert answered(handler, b"GET /a HTTP/1.0\r\n\r\n") == bare
    assert exporter.spans
    assert nothing_is_held()


# ---- calls of XML-RPC

CALLS = {
    "no name": b"<methodCall><params></params></methodCall>",
    "an empty name": b"<methodCall><methodName></methodName></methodCall>",
    "a name of 1 MB": b"<methodCall><methodName>" + b"a" * 1_000_000 + b"</methodName></methodCall>",
    "another name": b"<methodCall><methodName>\xc3\xa9</methodName></methodCall>",
    "a private name": b"<methodCall><methodName>__class__.__name__</methodName></methodCall>",
    "no XML": b"\xff" * 1000,
    "a response": b"<methodResponse><params></params></methodResponse>",
    "nothing": b"",
    "too few arguments": b"<methodCall><methodName>add</methodName></methodCall>",
}


@pytest.mark.parametrize("data", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("has_instance", [False, True])
def test_a_call_of_xmlrpc_that_is_none_is_answered_as_without_tracing(exporter, data, has_instance):
    def outcome():
        dispatcher = SimpleXMLRPCDispatcher()
        dispatcher.register_function(lambda a, b: a + b, "add")
        if has_instance:
            dispatcher.register_instance(object())
        with tracekit.span("POST", kind="server"):
            return dispatcher._marshaled_dispatch(data)

    bare = outcome()
    http_server.instrument()
    assert outcome() == bare
    assert len(exporter.spans) == 2


# ---- handlers of aiohttp that return no response


class Strange(web.Response):
    @property
    def status(self):
        raise RuntimeError("strange")


@pytest.mark.parametrize("made", [None, 5, "text", object, Strange, web.Response], ids=str)
def test_anything_that_a_handler_of_aiohttp_returns_is_returned(monkeypatch, exporter, made):
    async def handler(request):
        return value

    monkeypatch.setattr(_http, "NOTICES", _http.Notices())
    value = made() if isinstance(made, type) else made
    with pytest.raises(StopIteration) as end:
        _aiohttp_server.Server().serve(make_mocked_request("GET", "/a"), handler).send(None)
    assert end.value.value is value
    assert len(exporter.spans) == 1
    assert nothing_is_held()


# ---- responses that are dropped


class Parts:
    """A body without end, which tracing must not keep."""

    def __iter__(self):
        return self

    def __next__(self):
        return b"x" * 1000


class AsyncParts:
    def __aiter__(self):
        return self

    async def __anext__(self):
        return b"x" * 1000


@pytest.mark.parametrize("read", [0, 1, 100])
@pytest.mark.parametrize("module", [httpx, httpx2], ids=lambda module: module.__name__)
def test_a_response_without_end_that_is_dropped_leaves_nothing(exporter, module, read):
    tracing = {httpx: tracing_httpx, httpx2: tracing_httpx2}[module]

    def answer(request):
        body = (AsyncParts if "async" in request.url.path else Parts)()
        bodies.append(weakref.ref(body))
        return module.Response(200, content=body)

    bodies = []
    client = module.Client(transport=tracing.TraceTransport(module.MockTransport(answer)))
    parts = client.send(client.build_request("GET", "http://shop.example/"), stream=True).iter_bytes()
    for _ in range(read):
        next(parts)
    del parts

    async def main():
        client = module.AsyncClient(transport=tracing.AsyncTraceTransport(module.MockTransport(answer)))
        response = await client.send(client.build_request("GET", "http://shop.example/async"), stream=True)
        parts = response.aiter_bytes()
        for _ in range(read):
            await anext(parts)

    asyncio.run(main())
    assert len(bodies) == 2
    assert nothing_is_held(bodies)


@pytest.mark.slow
def test_a_response_of_aiohttp_that_is_dropped_leaves_nothing(exporter):
    async def main(base):
        async with aiohttp.ClientSession() as session:
            tracing_aiohttp.instrument(session)
            response = await session.get(f"{base}/close")
            dropped = weakref.ref(response)
            del response
            gc.collect()
            return dropped

    with shop() as port:
        dropped = asyncio.run(main(f"http://127.0.0.1:{port}"))
    assert nothing_is_held([dropped])
    assert [one.kind for one in exporter.spans] == ["client"]


@pytest.mark.slow
@pytest.mark.parametrize("is_config", [False, True])
def test_the_errors_of_aiohttp_that_name_a_url_are_recorded_without_its_secrets(exporter, is_config):
    async def main(base):
        configs = [tracing_aiohttp.trace_config()] if is_config else None
        async with aiohttp.ClientSession(raise_for_status=True, trace_configs=configs) as session:
            tracing_aiohttp.instrument(session)
            for path in ("status/404?", f"redirect?{base}/garbage?", "garbage?", "hang-up?"):
                with pytest.raises(aiohttp.ClientError):
                    await session.get(f"{base}/{path}token=s3cr3t#token=s3cr3t", max_redirects=2)

    with shop() as port:
        asyncio.run(main(f"http://user:s3cr3t@127.0.0.1:{port}"))
    assert len(exporter.spans) >= 5
    assert "s3cr3t" not in repr([(one.attributes, one.events, one.status) for one in exporter.spans])
    (event,) = next(one for one in exporter.spans if one.events and "/garbage" in one.attributes["url.full"]).events
    assert event.attributes["exception.message"].startswith("400, message=")
    assert "raise ClientResponseError" in event.attributes["exception.stacktrace"]


@pytest.mark.parametrize("is_config", [False, True])
def test_the_errors_of_aiohttp_before_a_request_is_sent_are_recorded_without_secrets(exporter, is_config):
    async def main(port):
        configs = [tracing_aiohttp.trace_config()] if is_config else None
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(trace_configs=configs, connector=connector) as session:
            tracing_aiohttp.instrument(session)
            base = f"http://127.0.0.1:{port}"
            with pytest.raises(aiohttp.NonHttpUrlRedirectClientError):
                await session.get(f"{base}/redirect?app://done?id=7&token=s3cr3t")
            with pytest.raises(aiohttp.ConnectionTimeoutError, match="s3cr3t"):
                await session.get(f"{base}/slow?token=s3cr3t", timeout=aiohttp.ClientTimeout(connect=1e-9))

    with shop() as port:
        asyncio.run(main(port))
    assert "s3cr3t" not in repr([(one.attributes, one.events, one.status) for one in exporter.spans])
    (last,) = [one for one in exporter.spans if "/slow" in one.attributes["url.full"]]
    assert last.attributes["error.type"] == "aiohttp.client_exceptions.ConnectionTimeoutError"
    assert last.status.description.endswith("/slow")


def echo(request, context):
    while True:
        yield request


@pytest.mark.slow
@pytest.mark.parametrize("is_async", [False, True])
def test_a_stream_of_grpc_that_is_dropped_leaves_nothing(exporter, is_async):
    def unary_stream(channel):
        return channel.unary_stream("/shop.Shop/unary_stream")(b"1")

    async def main(address):
        async with grpc.aio.insecure_channel(address) as channel:
            stream = unary_stream(channel)
            assert await stream.read() == b"1"
            del stream
            gc.collect()

    tracing_grpc.instrument()
    with serving(unary_stream=echo) as address:
        if is_async:
            asyncio.run(main(address))
        else:
            with grpc.insecure_channel(address) as channel:
                stream = unary_stream(channel)
                assert next(stream) == b"1"
                del stream
                gc.collect()
        until(lambda: len(exporter.spans) == 2)
    assert {one.status.code for one in exporter.spans} == {"cancelled"}
    assert nothing_is_held()


# ---- hooks


def opens_a_span(span, *_):
    tracekit.span("left open").__enter__()


def opens_labels(span, *_):
    tracekit.use_labels(tenant="acme").__enter__()


def ends_the_span(span, *_):
    span.end()


def leaves_the_span(span, *_):
    span.__exit__(None, None, None)


def writes_much(span, *_):
    span.update_name("x" * 10_000_000)
    for number in range(10_000):
        span.set_attribute(f"key {number}", "y" * 10_000)
        span.add_event("z" * 10_000)


def recurses(*_):
    def again():  # CPython 3.13.0 has no limit for functions with *args
        again()

    again()


def stops(span, *_):
    raise StopIteration


def stops_soon(span, *_):
    raise StopAsyncIteration


def has_no_memory(span, *_):
    raise MemoryError


HOOKS = [
    *(opens_a_span, opens_labels, ends_the_span, leaves_the_span, writes_much, recurses, stops, stops_soon),
    has_no_memory,
]


def serve_asgi(**hooks):
    sent = []

    async def send(message):
        sent.append(message)

    run((asgi.TraceMiddleware(answer, **hooks) if hooks else answer)(request_scope(), at_once, send))
    return sent


def serve_wsgi(**hooks):
    def app(environ, start_response):
        start_response("200 OK", [])
        yield b"hello"

    started = []
    result = (wsgi.TraceMiddleware(app, **hooks) if hooks else app)({}, lambda *arguments: started.append(arguments))
    sent = list(result)
    result.close()
    return started, sent


def serve_http(**hooks):
    if hooks:
        http_server.instrument(**hooks)
    return answered(type("Handler", (Broken,), {"way": "answer"}), b"GET /a HTTP/1.0\r\n\r\n")


@pytest.mark.parametrize("name", ["on_request", "on_response"])
@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.__name__)
@pytest.mark.parametrize("serve", [serve_asgi, serve_wsgi, serve_http], ids=lambda serve: serve.__name__)
def test_a_hook_that_misbehaves_changes_no_response_and_holds_nothing(monkeypatch, exporter, serve, hook, name):
    monkeypatch.setattr(_http, "NOTICES", _http.Notices())
    bare = serve()
    assert contextvars.Context().run(serve, **{name: hook}) == bare
    assert nothing_is_held()
    assert [one.name[:3] for one in exporter.spans if one.kind == "server"] in (["GET"], ["xxx"])


# ---- mocks

REPLACED = {
    "aiohttp": [(aiohttp.ClientSession, "_request")],
    "subprocess": [(asyncio, "create_subprocess_exec"), (asyncio, "create_subprocess_shell")],
}


def mocks_of(owner, name):
    with mock.patch.object(owner, name) as plain:
        pass
    with mock.patch.object(owner, name, autospec=True) as detailed:
        pass
    return type(plain).__name__, type(detailed).__name__


@pytest.mark.parametrize("library", REPLACED)
def test_a_mock_of_a_traced_function_is_as_without_tracing(library):
    """aioresponses is one, of ``ClientSession._request``."""
    before = [mocks_of(*place) for place in REPLACED[library]]
    tracekit.instrument(library)
    try:
        assert [mocks_of(*place) for place in REPLACED[library]] == before
    finally:
        tracekit.uninstrument(library)
    assert [mocks_of(*place) for place in REPLACED[library]] == before
