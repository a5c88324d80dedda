"""``instrument()`` of httpx and httpx2: one implementation over either module, by client and by class."""

from __future__ import annotations

import asyncio
import contextlib
import json

import httpx
import httpx2
import pytest

import tracekit
from tracekit.integrations import _http
from tracekit.integrations import httpx as over_httpx
from tracekit.integrations import httpx2 as over_httpx2
from tracekit.testing import span_tree

from .http_servers import shop

PAIRS = {"httpx": (httpx, over_httpx), "httpx2": (httpx2, over_httpx2)}


@pytest.fixture(scope="module")
def port():
    with shop() as port:
        yield port


@pytest.fixture
def base(port):
    return f"http://127.0.0.1:{port}"


class Way:
    """One module, synchronous or not."""

    def __init__(self, name, is_async):
        self.module, self.integration = PAIRS[name]
        self.is_async = is_async
        self.transport = self.integration.AsyncTraceTransport if is_async else self.integration.TraceTransport
        self.http_transport = self.module.AsyncHTTPTransport if is_async else self.module.HTTPTransport

    def client(self, **options):
        return (self.module.AsyncClient if self.is_async else self.module.Client)(follow_redirects=True, **options)

    def get(self, client, url, **options):
        """Send one request and close *client*."""
        if not self.is_async:
            with client:
                return client.get(url, **options)

        async def main():
            async with client:
                return await client.get(url, **options)

        return asyncio.run(main())


@pytest.fixture(params=[(name, is_async) for name in PAIRS for is_async in (False, True)], ids=str)
def way(request):
    way = Way(*request.param)
    yield way
    way.integration.uninstrument()


def sent(response):
    return {name.lower(): value for name, value in json.loads(response.content)}


def check(exporter, response, count=1):
    spans = [span for span in exporter.spans if span.kind == "client"]
    assert len(spans) == count
    context = spans[-1].context
    assert sent(response)["traceparent"] == f"00-{context.trace_id}-{context.span_id}-03"
    assert "traceparent" not in response.request.headers
    return spans[-1]


def test_a_transport_sends_the_context(exporter, way, base):
    with tracekit.use_labels(tenant="acme"):
        response = way.get(way.client(transport=way.transport()), f"{base}/a?sig=1")
    span = check(exporter, response)
    assert sent(response)["baggage"] == "tenant=acme"
    assert span.attributes["url.full"] == f"{base}/a?sig=REDACTED"
    assert span.attributes["http.response.status_code"] == 200


def test_all_clients_are_traced_the_existing_ones_too(exporter, way, base):
    before = way.client()
    way.integration.instrument(redact=["ssn"])
    way.integration.instrument()
    check(exporter, way.get(before, f"{base}/"))
    span = check(exporter, way.get(way.client(), f"{base}/?ssn=1"), 2)
    assert span.attributes["url.full"].endswith("?ssn=REDACTED")
    way.integration.uninstrument()
    assert "traceparent" not in sent(way.get(way.client(), f"{base}/"))
    assert len(exporter.spans) == 2


def test_the_time_that_a_response_took_is_there(exporter, way, base):
    way.integration.instrument()
    response = way.get(way.client(), f"{base}/")
    check(exporter, response)
    assert response.elapsed.total_seconds() >= 0


class Body(httpx2.AsyncByteStream):
    """The body of a response, endless, or one that never begins."""

    def __init__(self, begins):
        self.begins = begins
        self.is_read = asyncio.Event()
        self.steps = []

    async def __aiter__(self):
        try:
            while True:
                self.is_read.set()
                if not self.begins:
                    await asyncio.Event().wait()
                yield b"x"
        finally:
            self.steps.append("generator")

    async def aclose(self):
        self.steps.append("body")


@pytest.fixture(params=["transport", "all"])
def client_of(request):
    """Return a client of httpx2 for a body, traced in one of two ways."""

    def make(body):
        inner = httpx2.MockTransport(lambda _: httpx2.Response(200, stream=body))
        if request.param == "transport":
            inner = over_httpx2.AsyncTraceTransport(inner)
        else:
            over_httpx2.instrument()
        return httpx2.AsyncClient(transport=inner)

    yield make
    over_httpx2.uninstrument()


def test_the_generator_that_httpx2_would_close_is_closed(exporter, client_of):
    async def main():
        body = Body(begins=True)
        async with client_of(body) as client, client.stream("GET", "http://shop.example/") as response:
            async with contextlib.aclosing(response.aiter_raw()) as parts:
                await anext(parts)
            assert body.steps == ["generator", "body"]

    asyncio.run(main())
    assert [span.status.code for span in exporter.spans] == ["unset"]


def test_a_response_can_be_closed_while_another_task_reads_it(exporter, client_of):
    async def main():
        body = Body(begins=False)
        async with client_of(body) as client, client.stream("GET", "http://shop.example/") as response:
            reader = asyncio.create_task(response.aread())
            await body.is_read.wait()
            await response.aclose()
            assert body.steps == ["body"]
            reader.cancel()
            await asyncio.wait([reader])

    asyncio.run(main())
    assert len(exporter.spans) == 1


def test_the_choice_of_a_transport_is_unchanged_where_all_clients_are_traced(way):
    mounted = way.http_transport()
    client = way.client(mounts={"http://mounted.example": mounted})
    way.integration.instrument()
    assert client._transport_for_url(way.module.URL("http://mounted.example/")) is mounted
    assert client._transport_for_url(way.module.URL("http://other.example/")) is client._transport


def test_an_error_has_the_request_of_the_program(exporter, way):
    way.integration.instrument()
    with pytest.raises(way.module.ConnectError) as raised:
        way.get(way.client(), "http://127.0.0.1:9/")
    assert "traceparent" not in raised.value.request.headers
    (span,) = exporter.spans
    assert (span.status.code, span.attributes["error.type"]) == ("error", f"{way.module.__name__}.ConnectError")


def test_one_client_is_traced_and_no_other(exporter, way, base):
    client = way.client(mounts={"http://127.0.0.1": way.http_transport(), "all://none.example": None})
    way.integration.instrument(client, propagate_to=lambda _: False)
    way.integration.instrument(client)
    with tracekit.use_labels(tenant="acme"):
        response = way.get(client, f"{base}/")
    check(exporter, response)
    assert "baggage" not in sent(response)
    assert "traceparent" not in sent(way.get(way.client(), f"{base}/"))
    assert len(exporter.spans) == 1


def test_taking_tracing_from_one_client_restores_its_transports(exporter, way, base):
    client = way.client(mounts={"http://127.0.0.1": way.http_transport()})
    before = client._transport, list(client._mounts.values())
    way.integration.instrument(client)
    way.integration.uninstrument(client)
    assert (client._transport, list(client._mounts.values())) == before
    assert "traceparent" not in sent(way.get(client, f"{base}/"))


def test_the_programs_transport_stays(way):
    client = way.client(transport=way.transport())
    before = client._transport
    way.integration.instrument(client)
    way.integration.uninstrument(client)
    assert client._transport is before


def test_a_client_that_is_traced_twice_has_one_span(exporter, way, base):
    way.integration.instrument()
    check(exporter, way.get(way.client(transport=way.transport()), f"{base}/"))


def test_a_transport_around_a_traced_one_has_one_span(exporter, way, base):
    way.integration.instrument()
    inner = way.transport()

    class Outer(way.module.AsyncBaseTransport if way.is_async else way.module.BaseTransport):
        def handle_request(self, request):
            return inner.handle_request(request)

        async def handle_async_request(self, request):
            return await inner.handle_async_request(request)

        def close(self):
            inner.close()

        async def aclose(self):
            await inner.aclose()

    check(exporter, way.get(way.client(transport=Outer()), f"{base}/"))


def test_hops_are_siblings_and_labels_stay_with_their_host(exporter, way, port, base):
    way.integration.instrument(propagate_to=lambda host: host == "127.0.0.1")
    with tracekit.span("outer"), tracekit.use_labels(tenant="acme"):
        response = way.get(way.client(), f"{base}/redirect?http://localhost:{port}/")
    assert span_tree(exporter.spans) == "outer\n  GET\n  GET"
    assert "baggage" not in sent(response)


def test_the_programs_request_comes_back_with_what_a_transport_put_there(way):
    seen = []

    def answer(request):
        request.extensions["seen"] = True
        seen.append((request.content, request.headers["traceparent"]))
        request.headers["X-Request-ID"] = "7"
        request.headers["accept"] = "text/plain"
        del request.headers["user-agent"]
        return way.module.Response(200, request=request)

    client = way.client(transport=way.transport(way.module.MockTransport(answer)), headers={"TraceParent": "mine"})
    if way.is_async:

        async def main():
            async with client:
                return await client.post("http://shop.example/", content=b"body")

        response = asyncio.run(main())
    else:
        with client:
            response = client.post("http://shop.example/", content=b"body")
    assert seen[0][0] == b"body"
    assert response.request.extensions["seen"] is True
    headers = response.request.headers
    assert [headers.get(name) for name in ("x-request-id", "accept", "user-agent")] == ["7", "text/plain", None]
    assert headers["traceparent"] == "mine"
    assert headers.get_list("accept") == ["text/plain"]


def test_headers_of_another_type_that_a_transport_sets_are_no_error(monkeypatch, exporter, way, caplog):
    monkeypatch.setattr(_http, "NOTICES", _http.Notices())

    def answer(request):
        request.headers = {}
        return way.module.Response(200)

    client = way.client(transport=way.transport(way.module.MockTransport(answer)))
    assert way.get(client, "http://shop.example/").status_code == 200
    assert [span.name for span in exporter.spans] == ["GET"]
    assert "AttributeError" in caplog.text


@pytest.mark.parametrize("whole", [False, True])
def test_a_body_that_a_transport_has_read_can_be_read_and_sent_again(way, whole):
    """As MockTransport, and transports that cache or repeat requests, leave it."""

    def answer(request):
        assert request.content == b"ab"
        if request.url.path == "/moved":
            return way.module.Response(307, headers={"location": "/here"})
        raise way.module.ConnectError("no such host")

    inner = way.module.MockTransport(answer)
    if whole:
        way.integration.instrument()
    client = way.client(transport=inner if whole else way.transport(inner))

    async def body():
        for part in (b"a", b"b"):
            yield part

    def send():
        if way.is_async:
            asyncio.run(client.post("http://shop.example/moved", content=body()))
        else:
            client.post("http://shop.example/moved", content=iter([b"a", b"b"]))

    with pytest.raises(way.module.ConnectError) as caught:
        send()
    assert caught.value.request.content == b"ab"
    assert "traceparent" not in caught.value.request.headers


def test_an_error_is_recorded(exporter, way, base):
    way.integration.instrument()
    with pytest.raises(way.module.RemoteProtocolError):
        way.get(way.client(), f"{base}/hang-up")
    (span,) = exporter.spans
    assert span.status.code == "error"
    assert span.attributes["error.type"].endswith("RemoteProtocolError")


@pytest.mark.parametrize("integration", [over_httpx, over_httpx2])
@pytest.mark.parametrize("target", [5, httpx.Response(200), "httpx"])
def test_other_objects_are_type_errors(integration, target):
    for call in (integration.instrument, integration.uninstrument):
        with pytest.raises(TypeError, match="target must be an httpx"):
            call(target)


def test_a_client_of_the_other_module_is_a_type_error():
    with httpx.Client() as client, pytest.raises(TypeError, match=r"target must be an httpx2\.Client"):
        over_httpx2.instrument(client)


@pytest.mark.parametrize("integration", [over_httpx, over_httpx2])
def test_invalid_options_are_errors_and_nothing_is_patched(integration):
    module = PAIRS[integration.__name__.rpartition(".")[2]][0]
    before = module.Client._send_single_request
    with pytest.raises(TypeError, match="redact must be"):
        integration.instrument(redact="ssn")
    with module.Client() as client, pytest.raises(TypeError, match="redact must be"):
        integration.instrument(client, redact="ssn")
    assert module.Client._send_single_request is before


@pytest.mark.parametrize("name", list(PAIRS))
def test_a_request_cancelled_at_any_await_ends_its_span(exporter, name):
    module, integration = PAIRS[name]

    finished = []

    class Body(module.AsyncByteStream):
        async def __aiter__(self):
            for _ in range(3):
                await asyncio.sleep(0)
                yield b"x"
            finished.append(True)

        async def aclose(self):
            await asyncio.sleep(0)

    class Slow(module.AsyncBaseTransport):
        async def handle_async_request(self, request):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return module.Response(200, stream=Body())

    async def main():
        total = None
        for steps in range(20):
            async with module.AsyncClient(transport=integration.AsyncTraceTransport(Slow())) as client:
                before = len(exporter.spans)
                finished.clear()
                task = asyncio.create_task(client.get("http://shop.example/"))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    if steps:
                        (span,) = exporter.spans[before:]
                        assert span.status.code == ("unset" if finished else "cancelled")
                else:
                    total = steps
                    break
        assert total is not None
        assert total > 5
        assert exporter.spans[-1].status.code == "unset"

    asyncio.run(main())
