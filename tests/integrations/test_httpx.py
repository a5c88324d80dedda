from __future__ import annotations

import json
import socket
import sys

import anyio
import httpx
import pytest

import tracekit
from tracekit.integrations import _client, _http, _peers
from tracekit.integrations.asgi import TraceMiddleware
from tracekit.integrations.httpx import AsyncTraceTransport, TraceTransport
from tracekit.testing import span_tree
from tracekit.wire import jaeger, ottrace, w3c

from .servers import serve, spans_of

WAYS = ["sync", "asyncio", "trio"]
if sys.platform != "win32":
    WAYS.insert(2, "asyncio, uvloop")


async def shop(scope, receive, send):
    """Answer with the request's headers, or as the path names."""
    if scope["type"] == "lifespan":
        return
    _, name, *rest = scope["path"].split("/")
    headers = [(b"content-type", b"application/json")]
    status = 200
    if name == "status":
        status = int(rest[0])
    elif name == "redirect":
        status = 302
        headers.append((b"location", scope["query_string"]))
    if name != "hang":
        await send({"type": "http.response.start", "status": status, "headers": headers})
    if name in {"break", "drip"}:
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
    if name == "break":
        raise ConnectionError("mid-body")
    if name in {"drip", "hang"}:
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    seen = [(name.decode(), value.decode()) for name, value in scope["headers"]]
    await send({"type": "http.response.body", "body": json.dumps(seen).encode()})


@pytest.fixture(scope="module")
def port():
    with serve(shop) as port:
        yield port


@pytest.fixture
def base(port):
    return f"http://127.0.0.1:{port}"


class Sync:
    """Requests through httpx.Client."""

    def request(self, method, url, *, inner=None, propagate_to=None, redact=(), **options):
        transport = TraceTransport(inner, propagate_to=propagate_to, redact=redact)
        with httpx.Client(transport=transport, follow_redirects=True) as client:
            return client.request(method, url, **options)


class Async:
    """Requests through httpx.AsyncClient."""

    def __init__(self, backend):
        name, _, uvloop = backend.partition(", ")
        self.options = {"backend": name, "backend_options": {"use_uvloop": True} if uvloop else {}}

    def request(self, method, url, *, inner=None, propagate_to=None, redact=(), **options):
        async def main():
            transport = AsyncTraceTransport(inner, propagate_to=propagate_to, redact=redact)
            async with httpx.AsyncClient(transport=transport, follow_redirects=True) as client:
                return await client.request(method, url, **options)

        return anyio.run(main, **self.options)


@pytest.fixture(autouse=True)
def _nothing_logged(monkeypatch):
    monkeypatch.setattr(_peers, "_notices", _peers.Notices())


@pytest.fixture(params=WAYS)
def way(request):
    return Sync() if request.param == "sync" else Async(request.param)


def sent(response):
    """Return the request's headers as the server received them, by name."""
    found = {}
    for name, value in response.json():
        found.setdefault(name, []).append(value)
    return found


def test_a_request_has_a_client_span_and_carries_its_context(exporter, way, base):
    with tracekit.span("outer"), tracekit.use_labels(tenant="acme"):
        response = way.request("GET", f"{base}/items/3?q=1&sig=s3cr3t#fragment")
    client_span, _ = exporter.spans
    assert span_tree(exporter.spans) == "outer\n  GET"
    assert client_span.kind == "client"
    assert sent(response)["traceparent"] == [f"00-{client_span.context.trace_id}-{client_span.context.span_id}-03"]
    assert sent(response)["baggage"] == ["tenant=acme"]
    host, port = base.removeprefix("http://").split(":")
    assert dict(client_span.attributes) == {
        "http.request.method": "GET",
        "url.full": f"{base}/items/3?q=1&sig=REDACTED",
        "server.address": host,
        "server.port": int(port),
        "http.response.status_code": 200,
        "network.protocol.version": "1.1",
    }
    assert client_span.status.code == "unset"


def test_the_server_continues_the_clients_trace(exporter, way):
    with serve(TraceMiddleware(shop)) as port, tracekit.span("outer"):
        way.request("GET", f"http://127.0.0.1:{port}/")
        spans_of(exporter, 2)
    assert span_tree(exporter.spans) == "outer\n  GET\n    GET"
    assert {span.kind for span in exporter.spans} == {"internal", "client", "server"}


def test_stale_headers_are_replaced(exporter, way, base):
    stale = {"Traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "TraceState": "a=1"}
    response = way.request("GET", base, headers=stale)
    (span,) = exporter.spans
    assert sent(response)["traceparent"] == [f"00-{span.context.trace_id}-{span.context.span_id}-03"]
    assert "tracestate" not in sent(response)


def test_without_configure_the_context_is_sent_all_the_same(way, base):
    with tracekit.span("outer") as outer:
        response = way.request("GET", base)
    (parent,) = sent(response)["traceparent"]
    assert parent.split("-")[1] == outer.context.trace_id
    assert parent.split("-")[2] != outer.context.span_id


def test_each_hop_of_a_redirect_has_a_sibling_span(exporter, way, base):
    with tracekit.span("outer"):
        response = way.request("GET", f"{base}/redirect?{base}/redirect?{base}/")
    assert span_tree(exporter.spans) == "outer\n  GET\n  GET\n  GET"
    *hops, _ = exporter.spans
    assert [span.attributes["http.response.status_code"] for span in hops] == [302, 302, 200]
    assert [span.status.code for span in hops] == ["unset"] * 3
    assert sent(response)["traceparent"] == [f"00-{hops[2].context.trace_id}-{hops[2].context.span_id}-03"]


def test_a_redirect_to_another_host_carries_ids_but_no_labels(exporter, way, port):
    with tracekit.use_labels(tenant="acme"):
        response = way.request(
            "GET",
            f"http://127.0.0.1:{port}/redirect?http://localhost:{port}/",
            propagate_to=lambda host: host == "127.0.0.1",
        )
    assert sent(response)["host"] == [f"localhost:{port}"]
    assert "baggage" not in sent(response)
    _, second = exporter.spans
    assert sent(response)["traceparent"] == [f"00-{second.context.trace_id}-{second.context.span_id}-03"]


class Internet(httpx.MockTransport):
    """Any host: ``/to/URL`` redirects to that URL; ``seen`` has the headers that each host received."""

    def __init__(self):
        super().__init__(self.serve)
        self.seen = {}

    def serve(self, request):
        self.seen[request.url.host] = request.headers
        if request.url.path.startswith("/to/"):
            return httpx.Response(302, headers={"location": request.url.path.removeprefix("/to/")})
        return httpx.Response(200)


STATE = tracekit.SpanContext(
    "4bf92f3577b34da6a3ce929d0e0e4736",
    "00f067aa0ba902b7",
    1,
    state=tracekit.TraceState.parse("a=1"),
    labels=tracekit.Labels({"tenant": "acme"}),
)


@pytest.mark.parametrize("formats", [[w3c.TRACECONTEXT, w3c.BAGGAGE], [jaeger.JAEGER], [ottrace.OTTRACE]], ids=len)
def test_by_default_only_own_hosts_get_labels_in_every_format_and_redirect(exporter, way, formats, caplog):
    tracekit.configure(exporter=exporter, formats=formats)
    internet = Internet()
    urls = "http://127.0.0.1/to/http://stranger.example/to/http://warehouse/to/https://8.8.8.8/to/http://db.internal/"
    with tracekit.use_context(STATE):
        way.request("GET", urls, inner=internet)
    found = {
        host: any("acme" in value for value in headers.values()) for host, headers in sorted(internet.seen.items())
    }
    assert found == {
        "127.0.0.1": True,
        "8.8.8.8": False,
        "db.internal": True,
        "stranger.example": False,
        "warehouse": True,
    }
    for headers in internet.seen.values():
        assert formats[0].read(headers).trace_id == STATE.trace_id
        assert headers.get("tracestate", "a=1") == "a=1"
    assert [message.split(",")[0] for message in caplog.messages] == [
        "labels are not sent to stranger.example",
        "labels are not sent to 8.8.8.8",
    ]


def test_named_hosts_get_labels_too(exporter, way, monkeypatch):
    def found(propagate_to):
        internet = Internet()
        with tracekit.use_labels(tenant="acme"):
            way.request(
                "GET",
                "https://api.partner.example/to/https://other.example/",
                inner=internet,
                propagate_to=propagate_to,
            )
        return {host for host, headers in internet.seen.items() if headers.get("baggage") == "tenant=acme"}

    assert found(None) == set()
    assert found(["*.partner.example"]) == {"api.partner.example"}
    assert found(["other.example"]) == {"other.example"}
    assert found(["*"]) == {"api.partner.example", "other.example"}
    monkeypatch.setenv("TRACEKIT_PROPAGATE_TO", "*.partner.example")
    assert found(None) == {"api.partner.example"}


def test_a_baggage_header_of_the_program_is_sent_to_any_host(exporter, way):
    internet = Internet()
    with tracekit.use_labels(tenant="acme"):
        way.request("GET", "https://stranger.example/", inner=internet, headers={"baggage": "mine=1"})
    assert internet.seen["stranger.example"].get("baggage") == "mine=1"


def test_names_of_secret_query_parameters_can_be_added(exporter, way):
    way.request("GET", "https://shop.example/?ssn=s3cr3t&api%5Fkey=s3cr3t&page=2", inner=Internet(), redact=["SSN"])
    assert exporter.spans[0].attributes["url.full"].partition("?")[2] == "ssn=REDACTED&api%5Fkey=REDACTED&page=2"


def test_the_programs_request_is_not_changed(exporter, way, base):
    response = way.request("POST", base, content=b"body", headers={"x": "y"})
    assert "traceparent" in sent(response)
    assert "traceparent" not in response.request.headers
    assert response.request.content == b"body"
    assert sent(response)["content-length"] == ["4"]


@pytest.mark.parametrize("transport", [TraceTransport, AsyncTraceTransport])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"propagate_to": "a.example"}, TypeError, "propagate_to must be an iterable of host names or a function"),
        ({"propagate_to": ["https://a.example"]}, ValueError, "propagate_to must hold host names"),
        ({"redact": "ssn"}, TypeError, "redact must be an iterable of names"),
    ],
)
def test_invalid_arguments_are_errors(transport, arguments, error, message):
    with pytest.raises(error, match=message):
        transport(**arguments)


@pytest.mark.parametrize(
    ("transport", "inner"),
    [(TraceTransport, httpx.AsyncHTTPTransport()), (AsyncTraceTransport, httpx.HTTPTransport()), (TraceTransport, 5)],
)
def test_an_inner_transport_of_the_wrong_type_is_an_error(transport, inner):
    with pytest.raises(TypeError, match=r"inner must be an httpx\.(Async)?BaseTransport"):
        transport(inner)


# How a request went


@pytest.mark.parametrize("status", [200, 204, 304, 400, 404, 500, 503])
def test_statuses_from_400_on_are_errors_of_the_client(exporter, way, base, status):
    way.request("GET", f"{base}/status/{status}")
    (span,) = exporter.spans
    assert span.status == ("error" if status >= 400 else "unset", "")
    assert span.attributes.get("error.type") == (str(status) if status >= 400 else None)
    assert span.attributes["http.response.status_code"] == status


@pytest.mark.parametrize(
    ("method", "url", "name", "attributes"),
    [
        (
            "get",
            "https://user:word@shop.example/a%20b?x=1&X-Amz-Signature=s3cr3t",
            "GET",
            {
                "http.request.method": "GET",
                "url.full": "https://shop.example/a%20b?x=1&X-Amz-Signature=REDACTED",
                "server.address": "shop.example",
                "server.port": 443,
            },
        ),
        (
            "BREW",
            "http://[::1]:8000#token=s3cr3t",
            "HTTP",
            {
                "http.request.method": "_OTHER",
                "http.request.method_original": "BREW",
                "url.full": "http://[::1]:8000/",
                "server.address": "::1",
                "server.port": 8000,
            },
        ),
        (
            "GET",
            "http://b\u00fccher.example/?" + "q" * 5000,
            "GET",
            {
                "http.request.method": "GET",
                "url.full": "http://xn--bcher-kva.example/?" + "q" * 1024,
                "server.address": "xn--bcher-kva.example",
                "server.port": 80,
            },
        ),
        (
            "GET",
            "other://shop.example?",
            "GET",
            {"http.request.method": "GET", "url.full": "other://shop.example/?", "server.address": "shop.example"},
        ),
    ],
)
def test_attributes_follow_the_http_conventions_and_hold_no_secrets(exporter, method, url, name, attributes):
    inner = httpx.MockTransport(lambda _: httpx.Response(200))
    TraceTransport(inner).handle_request(httpx.Request(method, url))
    (span,) = exporter.spans
    assert span.name == name
    assert dict(span.attributes) == {**attributes, "http.response.status_code": 200}


def test_a_body_cannot_stand_on_itself(exporter):
    class Body(httpx.SyncByteStream):
        def __iter__(self):
            yield b"whole"

    inner = httpx.MockTransport(lambda _: httpx.Response(200, stream=Body()))
    stream = TraceTransport(TraceTransport(inner)).handle_request(httpx.Request("GET", "http://shop.example")).stream
    with tracekit.span("other") as other, pytest.raises(TypeError, match="once"):
        stream.__init__(stream, other)
    unfinished = type(stream).__new__(type(stream))
    with pytest.raises(TypeError, match="once"):
        unfinished.__init__(unfinished, other)
    assert b"".join(stream) == b"whole"


def test_an_error_of_sending_is_recorded_and_raised(exporter, way):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(httpx.ConnectError) as caught:
            way.request("GET", f"http://127.0.0.1:{closed.getsockname()[1]}/")
    assert caught.value.request.method == "GET"
    (span,) = exporter.spans
    assert span.status.code == "error"
    assert span.attributes["error.type"] == "httpx.ConnectError"
    assert [event.attributes["exception.type"] for event in span.events] == ["httpx.ConnectError"]


def test_a_timeout_is_an_error(exporter, way, base):
    with pytest.raises(httpx.ReadTimeout):
        way.request("GET", f"{base}/hang", timeout=httpx.Timeout(20, read=0.05))
    assert exporter.spans[0].status.code == "error"
    assert exporter.spans[0].attributes["error.type"] == "httpx.ReadTimeout"


def test_an_error_of_reading_the_body_is_recorded_and_raised(exporter, way, base):
    with pytest.raises(httpx.RemoteProtocolError):
        way.request("GET", f"{base}/break")
    (span,) = exporter.spans
    assert span.status.code == "error"
    assert span.attributes["error.type"] == "httpx.RemoteProtocolError"
    assert span.attributes["http.response.status_code"] == 200
    assert len(span.events) == 1


def test_the_span_ends_with_the_body_and_is_not_current_while_it_is_read(exporter, base):
    with httpx.Client(transport=TraceTransport()) as client, tracekit.span("outer") as outer:
        response = client.send(client.build_request("GET", f"{base}/"), stream=True)
        assert tracekit.current_span() is outer
        assert exporter.spans == []
        for _ in response.iter_bytes():
            with tracekit.span("part"):
                pass
        assert exporter.spans[-1].name == "GET"
    assert span_tree(exporter.spans) == "outer\n  GET\n  part"


@pytest.mark.anyio
async def test_the_span_ends_with_the_body_and_is_not_current_while_it_is_awaited(exporter, base):
    async with httpx.AsyncClient(transport=AsyncTraceTransport()) as client:
        with tracekit.span("outer") as outer:
            async with client.stream("GET", f"{base}/") as response:
                assert tracekit.current_span() is outer
                assert exporter.spans == []
                async for _ in response.aiter_bytes():
                    with tracekit.span("part"):
                        pass
                assert exporter.spans[-1].name == "GET"
    assert span_tree(exporter.spans) == "outer\n  GET\n  part"


def test_closing_an_unread_response_ends_the_span_without_an_error(exporter, base):
    with httpx.Client(transport=TraceTransport()) as client:
        with client.stream("GET", f"{base}/drip"):
            assert exporter.spans == []
        with client.stream("GET", f"{base}/drip") as response:
            assert next(response.iter_raw()) == b"x"
    assert span_tree(exporter.spans) == "GET\nGET"


@pytest.mark.anyio
async def test_closing_an_unread_asynchronous_response_ends_the_span_without_an_error(exporter, base):
    async with httpx.AsyncClient(transport=AsyncTraceTransport()) as client, client.stream("GET", f"{base}/drip"):
        assert exporter.spans == []
    assert span_tree(exporter.spans) == "GET"


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/hang", "/drip"], ids=["while sent", "while read"])
async def test_a_cancelled_request_is_cancelled_and_its_connection_is_released(exporter, base, path):
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(transport=AsyncTraceTransport(httpx.AsyncHTTPTransport(limits=limits))) as client:
        async with anyio.create_task_group() as tasks:
            cancel = tasks.cancel_scope.cancel if path == "/hang" else None

            async def fetch():
                async with client.stream("GET", f"{base}{path}", extensions={"trace": watch}) as response:
                    async for _ in response.aiter_raw():
                        tasks.cancel_scope.cancel()

            async def watch(event, info):
                if cancel is not None and event == "http11.send_request_body.complete":
                    cancel()

            tasks.start_soon(fetch)
        (span,) = exporter.spans
        assert span.status.code == "cancelled"
        assert span.events == ()
        assert "error.type" not in span.attributes
        assert (await client.get(f"{base}/")).status_code == 200


def test_connections_are_reused(exporter, base):
    with httpx.Client(transport=TraceTransport()) as client:
        ports = {client.get(f"{base}/").extensions["network_stream"].get_extra_info("client_addr") for _ in range(3)}
    assert len(ports) == 1
    assert span_tree(exporter.spans) == "GET\nGET\nGET"


@pytest.mark.anyio
async def test_asynchronous_connections_are_reused(exporter, base):
    async with httpx.AsyncClient(transport=AsyncTraceTransport()) as client:
        ports = {
            (await client.get(f"{base}/")).extensions["network_stream"].get_extra_info("client_addr") for _ in range(3)
        }
    assert len(ports) == 1
    assert span_tree(exporter.spans) == "GET\nGET\nGET"


@pytest.mark.anyio
async def test_50_concurrent_requests_each_send_their_own_context(exporter, base):
    found = {}

    async def fetch(client, number):
        with tracekit.span(f"job {number}"):
            found[number] = sent(await client.get(f"{base}/"))["traceparent"]

    async with httpx.AsyncClient(transport=AsyncTraceTransport()) as client, anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(fetch, client, number)
    spans = exporter.spans
    assert len(spans) == 100
    jobs = {span.context.span_id: span for span in spans if span.kind == "internal"}
    for span in spans:
        if span.kind == "client":
            job = int(jobs[span.parent.span_id].name.split()[1])
            assert found[job][0].split("-")[1:3] == [span.context.trace_id, span.context.span_id]


# Inner transports


class Inner(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """A transport that records its calls and answers with *stream*."""

    def __init__(self, stream=None):
        self.stream = stream
        self.calls = []

    def handle_request(self, request):
        with tracekit.span("inside"):
            self.calls.append(request.content)
        return httpx.Response(200, stream=self.stream) if self.stream else httpx.Response(200, content=b"made")

    async def handle_async_request(self, request):
        return self.handle_request(request)

    def __enter__(self):
        self.calls.append("enter")
        return self

    def __exit__(self, *_):
        self.calls.append("exit")

    def close(self):
        self.calls.append("close")

    async def __aenter__(self):
        return self.__enter__()

    async def __aexit__(self, *_):
        self.__exit__()

    async def aclose(self):
        self.close()


class BrokenStream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that raises when it is read or closed."""

    def __init__(self, at):
        self.at = at

    def __iter__(self):
        yield b"x"
        if self.at == "read":
            raise httpx.ReadError("gone")

    async def __aiter__(self):
        for part in self:
            yield part

    def close(self):
        if self.at == "close":
            raise httpx.CloseError("gone")

    async def aclose(self):
        self.close()


def test_an_inner_transport_runs_inside_the_client_span_and_can_read_the_content(exporter, way):
    inner = Inner()
    assert way.request("POST", "https://shop.example/", inner=inner, content=b"body").content == b"made"
    assert inner.calls == ["enter", b"body", "exit"]
    assert span_tree(exporter.spans) == "POST\n  inside"


def test_a_body_that_cannot_be_read_is_recorded_once(exporter, way):
    with pytest.raises(httpx.ReadError):
        way.request("GET", "https://shop.example/", inner=Inner(BrokenStream("read")))
    (span,) = [span for span in exporter.spans if span.kind == "client"]
    assert span.attributes["error.type"] == "httpx.ReadError"
    assert len(span.events) == 1


def test_a_body_that_cannot_be_closed_is_recorded(exporter):
    request = httpx.Request("GET", "https://shop.example/")
    inner = Inner(BrokenStream("close"))
    with pytest.raises(httpx.CloseError):
        TraceTransport(inner).handle_request(request).close()

    async def main():
        await (await AsyncTraceTransport(inner).handle_async_request(request)).aclose()

    with pytest.raises(httpx.CloseError):
        anyio.run(main)
    spans = [span for span in exporter.spans if span.kind == "client"]
    assert [span.attributes["error.type"] for span in spans] == ["httpx.CloseError"] * 2


def test_closing_reaches_the_inner_transport():
    inner = Inner()
    TraceTransport(inner).close()
    anyio.run(AsyncTraceTransport(inner).aclose)
    assert inner.calls == ["close", "close"]


def test_a_generated_body_is_sent_once(exporter, base):
    with httpx.Client(transport=TraceTransport()) as client:
        response = client.post(f"{base}/", content=iter([b"a", b"b"]))
    assert sent(response)["transfer-encoding"] == ["chunked"]
    assert sent(response)["traceparent"]


def test_an_error_of_tracing_is_logged_once_and_the_request_is_sent(monkeypatch, caplog, exporter, way, base):
    def broken(*_, **__):
        raise RuntimeError("tracing is broken")

    monkeypatch.setattr(_http, "NOTICES", _http.Notices())
    monkeypatch.setattr(_client, "is_port", broken)
    for _ in range(2):
        assert way.request("GET", base).status_code == 200
    assert [record.name for record in caplog.records if record.levelname == "WARNING"] == ["tracekit"]


def test_no_labels_are_sent_if_propagate_to_raises(exporter, way, base):
    with tracekit.use_labels(tenant="acme"):
        response = way.request("GET", base, propagate_to=lambda _: 1 // 0)
    assert "baggage" not in sent(response)
    assert "traceparent" in sent(response)
    assert span_tree(exporter.spans) == "GET"


# Invalid responses of an inner transport


class Answers(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Answers with *response*, of any type."""

    def __init__(self, response):
        self.response = response

    def handle_request(self, request):
        return self.response

    async def handle_async_request(self, request):
        return self.response


def both_ways(make):
    """Return, for both transports, the inner transport's response, made by *make*, and the one handed on."""
    request = httpx.Request("GET", "https://shop.example/")
    given, given_async = make(), make()
    with pytest.raises(StopIteration) as done:
        AsyncTraceTransport(Answers(given_async)).handle_async_request(request).send(None)
    return (given, TraceTransport(Answers(given)).handle_request(request)), (given_async, done.value.value)


def made(**changes):
    response = httpx.Response(200, stream=httpx.ByteStream(b"made"))
    for name, value in changes.items():
        setattr(response, name, value)
    return response


@pytest.mark.parametrize(
    "make",
    [
        lambda: None,
        lambda: 5,
        object,
        lambda: made(status_code="200"),
        lambda: made(status_code=None),
        lambda: made(extensions=None),
        lambda: made(extensions={"http_version": []}),
        lambda: made(extensions={"http_version": "HTTP/1.1"}),
        lambda: made(stream=[b"made"]),
        lambda: made(stream=None),
    ],
)
def test_an_invalid_response_is_handed_on_unchanged_and_the_span_ends(exporter, make):
    for given, found in both_ways(make):
        assert found is given
        stream = getattr(found, "stream", None)
        if isinstance(stream, httpx.SyncByteStream):
            stream.close()
        elif isinstance(stream, httpx.AsyncByteStream):
            anyio.run(stream.aclose)
    assert len(exporter.spans) == 2


def test_a_stream_of_the_other_kind_is_an_error_of_httpx(exporter):
    class OnlyAsync(httpx.AsyncByteStream):
        async def __aiter__(self):
            yield b"x"

    client = httpx.Client(transport=TraceTransport(Answers(made(stream=OnlyAsync()))))
    with client, pytest.raises(AssertionError):
        client.get("https://shop.example/")
    assert span_tree(exporter.spans) == "GET"


def test_an_error_of_iterating_the_body_is_recorded_and_raised(exporter):
    class Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
        def __iter__(self):
            raise ValueError("broken")

        def __aiter__(self):
            raise ValueError("broken")

    (_, found), (_, found_async) = both_ways(lambda: made(stream=Broken()))
    with pytest.raises(ValueError, match="broken"):
        iter(found.stream)
    with pytest.raises(ValueError, match="broken"):
        aiter(found_async.stream)
    assert [span.attributes["error.type"] for span in exporter.spans] == ["ValueError"] * 2


class HostileMeta(type):
    def __getattribute__(cls, name):
        if name in {"__qualname__", "__module__"}:
            raise RuntimeError("hostile")
        return super().__getattribute__(name)


def test_an_error_whose_class_has_no_name_is_raised_unchanged(exporter, monkeypatch):
    monkeypatch.setattr(_http, "NOTICES", _http.Notices())
    hostile = HostileMeta("Hostile", (Exception,), {})()

    class Failing(httpx.BaseTransport, httpx.AsyncBaseTransport):
        def handle_request(self, request):
            raise hostile

        async def handle_async_request(self, request):
            raise hostile

    request = httpx.Request("GET", "https://shop.example/")
    for send in (
        lambda: TraceTransport(Failing()).handle_request(request),
        lambda: AsyncTraceTransport(Failing()).handle_async_request(request).send(None),
    ):
        with pytest.raises(type(hostile)) as caught:
            send()
        assert caught.value is hostile
    assert len(exporter.spans) == 2
