"""The WSGI middleware and PEP 3333, without a server; ``test_wsgi_servers.py`` has servers and frameworks."""

from __future__ import annotations

import gc
import io
import threading
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest

import tracekit
from tracekit.integrations import _http, wsgi
from tracekit.integrations.wsgi import SPAN_KEY, TraceMiddleware
from tracekit.testing import span_tree
from tracekit.wire import b3

from .peer import SPAN_ID, TRACE_ID

CALLER = f"00-{TRACE_ID}-{SPAN_ID}-01"


def environ_of(**changes):
    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/items/3",
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "shop.example",
        "REMOTE_ADDR": "192.0.2.1",
        "REMOTE_PORT": "51234",
        "wsgi.url_scheme": "https",
    }
    return {**environ, **changes}


class Server:
    """The server's side: calls the app, iterates and closes."""

    def __init__(self):
        self.started = []
        self.body = []

    def start_response(self, *arguments):
        self.started.append(arguments)
        return self.body.append

    def run(self, app, **changes):
        result = app(environ_of(**changes), self.start_response)
        try:
            self.body.extend(result)
        finally:
            if hasattr(result, "close"):
                result.close()
        return b"".join(self.body)


def hello(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def chunks(environ, start_response):
    start_response("200 OK", [])
    for number in range(3):
        with tracekit.span(f"chunk {number}"):
            yield b"x"


def serve(app, **changes):
    return Server().run(TraceMiddleware(app), **changes)


def only(exporter):
    (span,) = exporter.spans
    return span


# The span


def test_a_request_is_a_child_of_its_caller_and_current_in_the_app(exporter):
    labels = []

    def app(environ, start_response):
        labels.append(dict(tracekit.current_labels()))
        with tracekit.span("work"):
            return hello(environ, start_response)

    with tracekit.span("around"):
        assert serve(app, HTTP_TRACEPARENT=CALLER, HTTP_BAGGAGE="tenant=acme") == b"hello"
        assert tracekit.current_span().name == "around"
    assert labels == [{"tenant": "acme"}]
    assert span_tree(exporter.spans[:2]) == "GET <- remote\n  work"
    assert exporter.spans[1].parent.span_id == SPAN_ID
    assert exporter.spans[1].kind == "server"


def test_a_span_around_the_middleware_is_never_the_parent(exporter):
    with tracekit.span("around"):
        serve(hello)
    assert span_tree(exporter.spans) in {"GET\naround", "around\nGET"}


def test_an_open_server_span_around_the_middleware_is_the_parent(exporter):
    with tracekit.span("around", kind="server") as around:
        serve(hello, HTTP_TRACEPARENT=CALLER)
        around.end()
        serve(hello, HTTP_TRACEPARENT=CALLER)
    assert span_tree(exporter.spans) == "around\n  GET\nGET <- remote"


def test_the_attributes_of_a_request(exporter):
    serve(
        hello,
        SCRIPT_NAME="/shop",
        PATH_INFO="/caf\xc3\xa9",
        QUERY_STRING="q=1&token=s3cr3t",
        HTTP_USER_AGENT="tests/1",
        HTTP_HOST="shop.example:8443",
    )
    assert only(exporter).attributes == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "url.scheme": "https",
        "url.path": "/shop/café",
        "url.query": "q=1&token=REDACTED",
        "user_agent.original": "tests/1",
        "server.address": "shop.example",
        "server.port": 8443,
        "client.address": "192.0.2.1",
        "network.peer.address": "192.0.2.1",
        "network.protocol.version": "1.1",
    }


@pytest.mark.parametrize("key", ["RAW_URI", "REQUEST_URI"])
def test_the_path_is_recorded_as_the_client_sent_it_if_the_server_keeps_that(exporter, key):
    serve(hello, **{key: "/items%2F3?q=1", "PATH_INFO": "/items/3"})
    assert only(exporter).attributes["url.path"] == "/items%2F3"


def test_an_unknown_method_is_other(exporter):
    serve(hello, REQUEST_METHOD="BREW")
    span = only(exporter)
    assert span.name == "HTTP"
    assert span.attributes["http.request.method"] == "_OTHER"
    assert span.attributes["http.request.method_original"] == "BREW"


def test_the_configured_formats_are_read(exporter):
    tracekit.configure(exporter=exporter, formats=[b3.SINGLE])
    serve(hello, HTTP_B3=f"{TRACE_ID}-{SPAN_ID}-1", HTTP_TRACEPARENT=CALLER.replace(TRACE_ID, "1" * 32))
    assert only(exporter).context.trace_id == TRACE_ID


def test_an_excluded_request_has_no_spans_while_it_is_iterated_either(exporter):
    app = TraceMiddleware(chunks, exclude=["/health"])
    contexts = []

    def noting(environ, start_response):
        contexts.append(environ[SPAN_KEY])
        yield from chunks(environ, start_response)

    assert Server().run(app, PATH_INFO="/health/live") == b"xxx"
    assert Server().run(TraceMiddleware(noting, exclude=["/health"]), PATH_INFO="/health") == b"xxx"
    assert Server().run(TraceMiddleware(hello, exclude=["/health"]), PATH_INFO="/health") == b"hello"
    assert exporter.spans == []
    assert contexts == [None]


@pytest.mark.parametrize("inner", [{}, {"exclude": ["/items"]}])
def test_an_inner_middleware_does_nothing(exporter, inner):
    serve(TraceMiddleware(chunks, **inner))
    assert span_tree(exporter.spans) == "GET\n  chunk 0\n  chunk 1\n  chunk 2"


def test_an_unsampled_request_is_propagated(exporter):
    seen = []

    def app(environ, start_response):
        start_response("200 OK", [])
        seen.append(tracekit.inject({}))
        yield b"x"
        seen.append(tracekit.inject({}))

    serve(app, HTTP_TRACEPARENT=CALLER[:-1] + "0")
    assert [TRACE_ID in carrier["traceparent"] and carrier["traceparent"][-2:] for carrier in seen] == ["00", "00"]
    assert exporter.spans == []


# The iterable


def test_the_span_is_current_for_each_part_and_not_between(exporter):
    current = []

    def app(environ, start_response):
        start_response("200 OK", [])
        for _ in range(2):
            current.append(tracekit.current_span())
            yield b"x"

    environ = environ_of()
    result = TraceMiddleware(app)(environ, Server().start_response)
    assert tracekit.current_span() is None
    for _ in result:
        assert tracekit.current_span() is None
    assert not current[0].ended
    result.close()
    assert current == [environ[SPAN_KEY]] * 2
    assert only(exporter) is current[0]


def test_spans_that_stay_open_across_parts_are_children(exporter):
    assert serve(chunks) == b"xxx"
    assert span_tree(exporter.spans) == "GET\n  chunk 0\n  chunk 1\n  chunk 2"


def test_parts_may_be_made_in_another_thread(exporter):
    result = TraceMiddleware(chunks)(environ_of(), Server().start_response)
    iterator = iter(result)
    assert next(iterator) == b"x"
    thread = threading.Thread(target=lambda: (list(iterator), result.close()))
    thread.start()
    thread.join()
    assert span_tree(exporter.spans) == "GET\n  chunk 0\n  chunk 1\n  chunk 2"


class Parts:
    """An iterable that is no iterator, with a close."""

    def __init__(self, parts=(b"a", b"b")):
        self.parts = parts
        self.closed = 0

    def __iter__(self):
        with tracekit.span("iter"):
            return iter(self.parts)

    def close(self):
        self.closed += 1
        with tracekit.span("close"):
            pass


class Sized(Parts):
    def __len__(self):
        return 1


@pytest.mark.parametrize("kind", [Parts, Sized])
def test_an_iterable_is_closed_once_within_the_span(exporter, kind):
    parts = kind()

    def app(environ, start_response):
        start_response("200 OK", [])
        return parts

    result = TraceMiddleware(app)(environ_of(), Server().start_response)
    assert hasattr(result, "__len__") is hasattr(parts, "__len__")
    assert list(result) == [b"a", b"b"]
    result.close()
    assert parts.closed == 1
    assert span_tree(exporter.spans) == "GET\n  iter\n  close"
    assert exporter.spans[-1].kind == "server"


@pytest.mark.parametrize("kind", [list, tuple])
def test_the_length_of_a_list_is_kept(exporter, kind):
    def app(environ, start_response):
        start_response("200 OK", [])
        return kind([b"a", b"b"])

    result = TraceMiddleware(app)(environ_of(), Server().start_response)
    assert (len(result), list(result), result[0]) == (2, [b"a", b"b"], b"a")
    assert exporter.spans == []
    result.close()
    result.close()
    assert len(exporter.spans) == 1


@pytest.mark.parametrize("app", [hello, chunks])
@pytest.mark.parametrize("steps", [0, 1])
def test_a_result_that_the_server_drops_ends_the_span(exporter, app, steps):
    result = TraceMiddleware(app)(environ_of(), Server().start_response)
    if steps:
        next(iter(result))
    del result
    gc.collect()
    assert "server" in {span.kind for span in exporter.spans}
    assert tracekit.current_span() is None


def test_a_response_that_is_closed_before_its_end_is_cancelled(exporter):
    closed = []

    def endless(environ, start_response):
        start_response("200 OK", [])
        try:
            while True:
                yield b"x"
        finally:
            closed.append(tracekit.current_span())

    result = TraceMiddleware(endless)(environ_of(), Server().start_response)
    iterator = iter(result)
    for _ in range(1000):
        next(iterator)
    result.close()
    span = only(exporter)
    assert closed == [span]
    assert span.status.code == "cancelled"
    assert [event.name for event in span.events] == ["disconnect"]


@pytest.mark.parametrize("changes", [{"REQUEST_METHOD": "HEAD"}, {}])
def test_a_body_that_is_not_needed_is_no_disconnect(exporter, changes):
    def app(environ, start_response):
        start_response("200 OK" if changes else "304 Not Modified", [])
        yield b""
        yield b""

    result = TraceMiddleware(app)(environ_of(**changes), Server().start_response)
    next(iter(result))
    result.close()
    assert only(exporter).status.code == "unset"


# Errors


def status_of(span):
    return span.attributes.get("http.response.status_code"), span.status.code, span.attributes.get("error.type")


def test_an_app_that_raises_is_a_500(exporter):
    def app(environ, start_response):
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        serve(app)
    span = only(exporter)
    assert status_of(span) == (500, "error", "ValueError")
    assert [event.name for event in span.events] == ["exception"]
    assert tracekit.current_span() is None


@pytest.mark.parametrize(("parts", "status"), [(0, 500), (1, 200)])
def test_a_generator_that_raises_has_the_status_that_was_sent(exporter, parts, status):
    def app(environ, start_response):
        start_response("200 OK", [])
        yield from [b"x"] * parts
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        serve(app)
    assert status_of(only(exporter)) == (status, "error", "ValueError")


def test_a_status_from_500_on_is_an_error(exporter):
    def app(environ, start_response):
        start_response("503 Busy", [])
        return []

    serve(app)
    assert status_of(only(exporter)) == (503, "error", "503")


def test_a_404_is_no_error(exporter):
    def app(environ, start_response):
        start_response("404 Not Found", [])
        return []

    serve(app)
    assert status_of(only(exporter)) == (404, "unset", None)


def test_an_error_that_the_app_handles_with_exc_info_is_recorded(exporter):
    def app(environ, start_response):
        start_response("200 OK", [])
        try:
            raise ValueError("boom")
        except ValueError:
            import sys

            start_response("500 Oops", [], sys.exc_info())
        yield b"sorry"

    server = Server()
    assert server.run(TraceMiddleware(app)) == b"sorry"
    assert [len(arguments) for arguments in server.started] == [2, 3]
    span = only(exporter)
    assert status_of(span) == (500, "error", "ValueError")
    assert [event.name for event in span.events] == ["exception"]


def test_a_start_response_that_raises_keeps_the_status_that_was_sent(exporter):
    def start_response(status, headers, exc_info=None):
        if exc_info:
            raise exc_info[1]

    def app(environ, start_response):
        start_response("200 OK", [])
        yield b"x"
        error = ValueError("boom")
        start_response("500 Oops", [], (ValueError, error, None))

    result = TraceMiddleware(app)(environ_of(), start_response)
    with pytest.raises(ValueError, match="boom"):
        list(result)
    result.close()
    span = only(exporter)
    assert status_of(span) == (200, "error", "ValueError")
    assert len(span.events) == 1


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_an_error_while_closing_reaches_the_server(exporter, error):
    class Broken(Parts):
        def close(self):
            raise error

    def app(environ, start_response):
        start_response("200 OK", [])
        return Broken()

    with pytest.raises(error):
        serve(app)
    assert [span.name for span in exporter.spans] == ["iter", "GET"]
    assert exporter.spans[1].status.code == {ValueError: "error", SystemExit: "unset"}.get(error, "cancelled")
    assert tracekit.statistics().open == 0


def test_the_write_callable_sends(exporter):
    def app(environ, start_response):
        write = start_response("200 OK", [])
        write(b"a")
        write(b"b")
        return []

    assert serve(app) == b"ab"
    assert status_of(only(exporter)) == (200, "unset", None)


def test_a_client_that_is_gone_while_the_app_writes_is_a_disconnect(exporter):
    def start_response(*_):
        def write(data):
            raise ConnectionResetError

        return write

    def app(environ, start_response):
        start_response("200 OK", [])(b"x")

    with pytest.raises(ConnectionResetError):
        TraceMiddleware(app)(environ_of(), start_response)
    span = only(exporter)
    assert (span.status.code, span.attributes["http.response.status_code"]) == ("cancelled", 200)


# Files


def make_file(environ, start_response):
    start_response("200 OK", [])
    return environ["wsgi.file_wrapper"](io.BytesIO(b"abc"))


def test_a_wrapped_file_is_returned_as_it_is_and_its_close_ends_the_span(exporter):
    environ = environ_of(**{"wsgi.file_wrapper": FileWrapper})
    result = TraceMiddleware(make_file)(environ, Server().start_response)
    assert type(result) is FileWrapper
    file = result.filelike
    assert exporter.spans == []
    assert list(result) == [b"abc"]
    result.close()
    assert file.closed
    assert status_of(only(exporter)) == (200, "unset", None)


def test_a_file_wrapper_that_is_a_function_keeps_its_result(exporter):
    class Sent:
        __slots__ = ("file",)

    made = []

    def wrapper(file, size=0):
        made.append(Sent())
        return made[0]

    environ = environ_of(**{"wsgi.file_wrapper": wrapper})
    assert TraceMiddleware(make_file)(environ, Server().start_response) is made[0]
    assert len(exporter.spans) == 1


# Bad input


@pytest.mark.parametrize(
    "changes",
    [
        {"REQUEST_METHOD": None},
        {"REQUEST_METHOD": 5},
        {"SCRIPT_NAME": None},
        {"PATH_INFO": b"/x"},
        {"PATH_INFO": "/\u20ac"},
        {"QUERY_STRING": 5},
        {"HTTP_HOST": 5},
        {"HTTP_HOST": "x" * 100_000},
        {"SERVER_PORT": "y"},
        {"SERVER_NAME": []},
        {"SERVER_PROTOCOL": None},
        {"REMOTE_ADDR": 5},
        {"HTTP_USER_AGENT": 5},
        {"HTTP_TRACEPARENT": 5},
        {"HTTP_TRACEPARENT": "x" * 1_000_000},
        {"wsgi.url_scheme": []},
        {"RAW_URI": 5},
        {"werkzeug.request": 5},
        {"tracekit.route": 5},
        {5: 5},
    ],
    ids=str,
)
def test_a_malformed_environ_reaches_the_app_and_is_served(exporter, changes):
    environ = {**environ_of(), **changes}
    seen = []

    def app(environ, start_response):
        seen.append(environ)
        return hello(environ, start_response)

    server = Server()
    traced = TraceMiddleware(app, exclude=["/health"], routes={"/a": "link"}, capture_request_headers=["host"])
    result = traced(environ, server.start_response)
    assert list(result) == [b"hello"]
    result.close()
    assert seen == [environ]
    assert seen[0] is environ
    assert len(exporter.spans) == 1


@pytest.mark.parametrize("environ", [None, 5, object()])
def test_what_is_no_environ_reaches_the_app(exporter, environ):
    seen = []
    TraceMiddleware(lambda environ, _: seen.append(environ))(environ, None)
    assert seen == [environ]


@pytest.mark.parametrize("result", [None, 5, [5], "text", {}, object()])
def test_an_app_that_breaks_the_protocol_fails_as_without_tracing(exporter, result):
    def app(environ, start_response):
        return result

    def outcome(app):
        try:
            return list(app(environ_of(), Server().start_response))
        except Exception as error:
            return type(error), str(error)

    assert outcome(TraceMiddleware(app)) == outcome(app)
    gc.collect()
    assert len(exporter.spans) == 1


@pytest.mark.parametrize("arguments", [(), (None, None), ("", []), ("abc", []), (200, []), ("200 OK",)])
def test_a_malformed_start_response_reaches_the_server(exporter, arguments):
    def app(environ, start_response):
        start_response(*arguments)
        return []

    server = Server()
    server.run(TraceMiddleware(app, on_response=lambda *_: None, capture_response_headers=["x"]))
    assert server.started == [arguments]
    assert len(exporter.spans) == 1


def test_headers_and_hooks(exporter):
    calls = []
    options = {
        "on_request": lambda *arguments: calls.append(arguments),
        "on_response": lambda *arguments: calls.append(arguments),
        "capture_request_headers": ["X-Shop", "authorization", "content-type"],
        "capture_response_headers": ["Content-Type"],
    }
    environ = environ_of(HTTP_X_SHOP="north", HTTP_AUTHORIZATION="s3cr3t", CONTENT_TYPE="a/b")
    TraceMiddleware(hello, **options)(environ, Server().start_response).close()
    span = only(exporter)
    headers = [("Content-Type", "text/plain")]
    assert calls == [(span, environ), (span, environ, "200 OK", headers)]
    assert {key: value for key, value in span.attributes.items() if ".header." in key} == {
        "http.request.header.x-shop": ("north",),
        "http.request.header.authorization": ("REDACTED",),
        "http.request.header.content-type": ("a/b",),
        "http.response.header.content-type": ("text/plain",),
    }


def test_hooks_that_raise_are_reported_once(monkeypatch, exporter, caplog):
    monkeypatch.setattr(_http, "NOTICES", _http.Notices())

    def fail(*_):
        raise ZeroDivisionError

    app = TraceMiddleware(hello, on_request=fail, on_response=fail)
    for _ in range(3):
        assert Server().run(app) == b"hello"
    assert len(caplog.records) == 1
    assert len(exporter.spans) == 3


def test_an_error_of_tracing_is_reported_once_and_the_request_served(monkeypatch, exporter, caplog):
    def broken(*_, **__):
        raise RuntimeError("tracing is broken")

    monkeypatch.setattr(_http, "NOTICES", _http.Notices())
    monkeypatch.setattr(wsgi, "attributes_of", broken)
    for _ in range(2):
        assert serve(hello) == b"hello"
    assert len(caplog.records) == 1


@pytest.mark.parametrize("app", [5, None, "app"])
def test_what_cannot_be_called_is_rejected(app):
    with pytest.raises(TypeError, match="WSGI application"):
        TraceMiddleware(app)


@pytest.mark.filterwarnings("ignore::Warning:wsgiref")
@pytest.mark.parametrize("app", [hello, lambda *arguments: iter(hello(*arguments))])
def test_the_protocol_is_kept_on_both_sides(exporter, app):
    environ = {}
    setup_testing_defaults(environ)
    result = validator(TraceMiddleware(validator(app)))(environ, lambda *_: print)
    assert list(result) == [b"hello"]
    result.close()
    assert len(exporter.spans) == 1


def test_memory_does_not_grow_with_requests(exporter):
    app = TraceMiddleware(chunks)
    for _ in range(10):
        Server().run(app)
    gc.collect()
    gc.disable()
    try:
        Server().run(app)
        assert gc.collect() == 0  # no cycles: a request is freed when its server drops it
    finally:
        gc.enable()


def test_an_iterable_whose_attributes_cannot_be_asked_for_is_served(exporter):
    class Body:
        def __init__(self):
            self.parts = iter([b"x", b"y"])

        def __getattr__(self, name):
            raise RuntimeError(name)

        def __iter__(self):
            return self.parts

    def app(environ, start_response):
        start_response("200 OK", [])
        return Body()

    result = TraceMiddleware(app)(environ_of(), Server().start_response)
    assert [*result] == [b"x", b"y"]
