from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import weakref

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractMatchInfo

import tracekit
from tracekit.integrations import _aiohttp_server, _client, _http, _peers
from tracekit.integrations import aiohttp as integration
from tracekit.testing import span_tree
from tracekit.wire import b3

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(autouse=True)
def _nothing_left(monkeypatch):
    monkeypatch.setattr(_http, "NOTICES", _http.Notices())
    monkeypatch.setattr(_peers, "_notices", _peers.Notices())
    yield
    integration.uninstrument()


async def headers(request):
    return web.json_response({name.lower(): value for name, value in request.headers.items()})


async def to(request):
    raise web.HTTPFound(request.query_string)


async def status(request):
    return web.Response(status=int(request.match_info["code"]))


async def raises(request):
    raise {"404": web.HTTPNotFound, "503": web.HTTPServiceUnavailable, "error": ValueError, "late": TimeoutError}[
        request.match_info["name"]
    ]


async def stream(request):
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(3):
        with tracekit.span("part"):
            await response.write(b"part")
    await response.write_eof()
    return response


async def spliced(request):
    """Send the head of a response, and then do something else."""
    response = web.StreamResponse(status=202)
    await response.prepare(request)
    answer = {"error": ValueError, "404": web.HTTPNotFound, "nothing": lambda: None}
    answer |= {"503": lambda: web.Response(status=503), "204": lambda: web.Response(status=204)}
    found = answer[request.match_info["name"]]()
    if isinstance(found, Exception):
        raise found
    return found


async def continue_by_hand(request):
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def endless(request):
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x" * 1000)
        await asyncio.sleep(0.001)


async def cut(request):
    response = web.StreamResponse(headers={"content-length": "10"})
    await response.prepare(request)
    await response.write(b"x")
    request.transport.close()
    return response


async def echo(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data)
    return socket


async def big(request):
    return web.Response(body=b"x" * 3_000_000)


async def nothing(request):
    return None


def shop(*middlewares):
    app = web.Application(middlewares=middlewares)
    app.add_routes(
        [
            web.get("/headers", headers),
            web.get("/items/{id}", headers),
            web.route("*", "/to", to),
            web.get("/status/{code:[0-9]+}", status),
            web.get("/spliced/{name}", spliced),
            web.get("/raise/{name}", raises),
            web.get("/stream", stream),
            web.post("/continued/{code}", status, expect_handler=continue_by_hand),
            web.get("/endless", endless),
            web.get("/cut", cut),
            web.get("/echo", echo),
            web.get("/big", big),
            web.get("/nothing", nothing),
        ]
    )
    inner = web.Application()
    inner.add_routes([web.get("/deep/{id}", headers)])
    app.add_subapp("/sub/", inner)
    return app


@contextlib.asynccontextmanager
async def serve(app, **options):
    """Serve *app* and yield its URL."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, **options)
    await runner.setup()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    await web.SockSite(runner, listener).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        await runner.cleanup()


def run(test, *middlewares, **options):
    """Run ``test(session, base)`` against the shop, and collect what it leaves."""

    async def main():
        async with serve(shop(*middlewares)) as base, aiohttp.ClientSession(**options) as session:
            return await test(session, base)

    return asyncio.run(main())


def client(run_test, **options):
    return run(run_test, trace_configs=[integration.trace_config(**options)])


def server(run_test, **options):
    return run(run_test, integration.middleware(**options))


# The client


def test_a_request_has_a_client_span_and_sends_its_context(exporter):
    async def test(session, base):
        with tracekit.span("outer"), tracekit.use_labels(tenant="acme"):
            async with session.get(f"{base}/headers?q=1&sig=s3cr3t#fragment") as response:
                return base, await response.json()

    base, sent = client(test)
    span, _ = exporter.spans
    assert span_tree(exporter.spans) == "outer\n  GET"
    assert span.kind == "client"
    assert sent["traceparent"] == f"00-{span.context.trace_id}-{span.context.span_id}-03"
    assert sent["baggage"] == "tenant=acme"
    assert dict(span.attributes) == {
        "http.request.method": "GET",
        "url.full": f"{base}/headers?q=1&sig=REDACTED",
        "server.address": "127.0.0.1",
        "server.port": int(base.rpartition(":")[2]),
        "http.response.status_code": 200,
        "network.protocol.version": "1.1",
    }


def test_user_and_word_are_not_recorded(exporter):
    async def test(session, base):
        async with session.get(base.replace("//", "//user:s3cr3t@") + "/headers") as response:
            assert (await response.json())["authorization"].startswith("Basic")

    client(test)
    assert "s3cr3t" not in str(dict(exporter.spans[0].attributes))
    assert "user" not in exporter.spans[0].attributes["url.full"]


def test_stale_headers_are_replaced(exporter):
    async def test(session, base):
        stale = {"TraceParent": CALLER, "tracestate": "a=1", "baggage": "mine=1"}
        async with session.get(f"{base}/headers", headers=stale) as response:
            return await response.json()

    sent = client(test)
    assert exporter.spans[0].context.span_id in sent["traceparent"]
    assert "tracestate" not in sent
    assert sent["baggage"] == "mine=1"


def test_each_hop_of_a_redirect_has_a_sibling_span(exporter):
    async def test(session, base):
        with tracekit.span("outer"), tracekit.use_labels(tenant="acme"):
            other = base.replace("127.0.0.1", "localhost")
            async with session.post(f"{base}/to?{base}/to?{other}/headers") as response:
                return await response.json()

    sent = client(test, propagate_to=lambda host: host == "127.0.0.1")
    assert span_tree(exporter.spans) == "outer\n  POST\n  GET\n  GET"
    *hops, _ = exporter.spans
    assert [hop.attributes["http.response.status_code"] for hop in hops] == [302, 302, 200]
    assert [hop.attributes.get("http.request.resend_count") for hop in hops] == [None, 1, 2]
    assert sent["traceparent"] == f"00-{hops[2].context.trace_id}-{hops[2].context.span_id}-03"
    assert "baggage" not in sent


@pytest.mark.parametrize(("location", "spans"), [("", 1), ("other://x/", 1), ("http://[", 1)])
def test_a_redirect_to_nowhere_has_one_span(exporter, location, spans):
    async def answer(request):
        return web.Response(status=302, headers={"location": location} if location else {})

    async def main():
        app = web.Application()
        app.router.add_get("/", answer)
        async with serve(app) as base, aiohttp.ClientSession(trace_configs=[integration.trace_config()]) as session:
            with contextlib.suppress(aiohttp.ClientError, ValueError):
                async with session.get(base):
                    pass

    asyncio.run(main())
    assert len(exporter.spans) == spans
    assert exporter.spans[0].attributes["http.response.status_code"] == 302


def test_too_many_redirects_is_an_error_of_the_attempt_that_was_not_made(exporter):
    async def test(session, base):
        with pytest.raises(aiohttp.TooManyRedirects):
            await session.get(f"{base}/to?/to?/to?/headers", max_redirects=2)

    client(test)
    assert [span.status.code for span in exporter.spans] == ["unset", "unset", "error"]


@pytest.mark.parametrize("code", [204, 404, 503])
def test_statuses_from_400_on_are_errors_of_the_client(exporter, code):
    async def test(session, base):
        async with session.get(f"{base}/status/{code}"):
            pass

    client(test)
    (span,) = exporter.spans
    assert span.status.code == ("error" if code >= 400 else "unset")
    assert span.attributes["http.response.status_code"] == code


def test_raise_for_status_keeps_the_status(exporter):
    async def test(session, base):
        with pytest.raises(aiohttp.ClientResponseError):
            await session.get(f"{base}/status/404", raise_for_status=True)

    client(test)
    assert exporter.spans[0].attributes["http.response.status_code"] == 404
    assert exporter.spans[0].status.code == "error"


def test_an_error_of_connecting_is_recorded_and_raised(exporter):
    async def test(session, base):
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(f"http://127.0.0.1:{closed.getsockname()[1]}/")

    client(test)
    (span,) = exporter.spans
    assert span.status.code == "error"
    assert span.attributes["error.type"].endswith("ClientConnectorError")


def test_the_span_ends_with_the_body(exporter):
    async def test(session, base):
        async with session.get(f"{base}/big") as response:
            assert exporter.spans == []
            assert len(await response.read()) == 3_000_000
            assert len(exporter.spans) == 1

    client(test)
    assert exporter.spans[0].status.code == "unset"


def test_closing_an_endless_response_ends_the_span_without_an_error(exporter):
    async def test(session, base):
        async with session.get(f"{base}/endless") as response:
            await response.content.readany()
            assert exporter.spans == []
        assert exporter.spans[0].status.code == "unset"
        with pytest.raises(KeyError):
            async with session.get(f"{base}/endless"):
                raise KeyError("of the program")

    client(test)
    assert [span.status.code for span in exporter.spans] == ["unset", "unset"]


def test_a_body_that_is_cut_off_is_an_error(exporter):
    async def test(session, base):
        async with session.get(f"{base}/cut") as response:
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()

    client(test)
    (span,) = exporter.spans
    assert span.status.code == "error"
    assert span.attributes["error.type"].endswith("ClientPayloadError")


def test_a_timeout_while_reading_is_an_error(exporter):
    async def test(session, base):
        with pytest.raises(TimeoutError):
            async with session.get(f"{base}/endless", timeout=aiohttp.ClientTimeout(total=0.2)) as response:
                await response.read()

    client(test)
    assert exporter.spans[0].status.code == "error"


def test_a_request_cancelled_at_any_await_ends_its_span(exporter):
    async def test(session, base):
        for steps in range(1, 60):
            before = len(exporter.spans)

            async def fetch():
                async with session.get(f"{base}/stream") as response:
                    await response.read()

            task = asyncio.create_task(fetch())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                found = [span for span in exporter.spans[before:] if span.kind == "client"]
                assert len(found) <= 1
                assert all(span.status.code in ("cancelled", "unset") for span in found)
                if len(found) == 0:
                    assert steps == 1  # before the request began
            else:
                return

    client(test)
    gc.collect()
    assert "cancelled" in {span.status.code for span in exporter.spans}
    assert tracekit.statistics().open == 0


def test_a_websockets_span_is_its_handshake(exporter):
    async def test(session, base):
        async with session.ws_connect(f"{base}/echo") as websocket:
            assert [span.attributes["http.response.status_code"] for span in exporter.spans] == [101]
            await websocket.send_str("hi")
            assert (await websocket.receive()).data == "hi"

    client(test)
    assert len(exporter.spans) == 1


def test_connections_are_reused_and_nothing_is_held(exporter):
    async def test(session, base):
        ports = set()
        for _ in range(3):
            async with session.get(f"{base}/big") as response:
                ports.add(response.connection.transport.get_extra_info("sockname"))
                await response.read()
            held = weakref.ref(response)
            del response
            gc.collect()
            assert held() is None
        assert len(ports) == 1

    client(test)


def test_a_request_is_silent_under_a_client_span_for_the_same_host(exporter):
    async def test(session, base):
        attributes = {"http.request.method": "GET", "server.address": "127.0.0.1"}
        with tracekit.span("GET", kind="client", attributes=attributes):
            async with session.get(f"{base}/to?/headers") as response:
                return await response.json()

    assert "traceparent" not in client(test)
    assert span_tree(exporter.spans) == "GET"


# The server


def test_a_request_has_a_server_span_named_after_its_route(exporter):
    async def test(session, base):
        async with session.get(f"{base}/items/3?sig=s3cr3t", headers={"traceparent": CALLER}) as response:
            await response.read()
        return base

    base = server(test)
    (span,) = exporter.spans
    assert span.kind == "server"
    assert span.name == "GET /items/{id}"
    assert span.parent.span_id == "00f067aa0ba902b7"
    assert {name: value for name, value in span.attributes.items() if name != "user_agent.original"} == {
        "http.request.method": "GET",
        "url.path": "/items/3",
        "url.scheme": "http",
        "url.query": "sig=REDACTED",
        "network.protocol.version": "1.1",
        "server.address": "127.0.0.1",
        "server.port": int(base.rpartition(":")[2]),
        "client.address": "127.0.0.1",
        "network.peer.address": "127.0.0.1",
        "http.route": "/items/{id}",
        "http.response.status_code": 200,
    }


@pytest.mark.parametrize(
    ("name", "kind", "status"),
    [
        ("error", "ValueError", "error"),
        ("404", "aiohttp.web_exceptions.HTTPNotFound", "error"),
        ("503", "aiohttp.web_response.Response", "error"),
        ("nothing", "NoneType", "error"),
        ("204", None, "unset"),
    ],
)
def test_an_answer_after_the_head_of_another_one_is_not_recorded_as_the_clients(exporter, name, kind, status):
    async def test(session, base):
        host, port = base.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET /spliced/{name} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        return answer

    assert server(test).startswith(b"HTTP/1.1 202 ")
    (span,) = [span for span in exporter.spans if span.kind == "server"]
    assert (span.name, span.attributes.get("http.response.status_code")) == ("GET /spliced/{name}", None)
    assert (span.status.code, span.attributes.get("error.type")) == (status, kind)


@pytest.mark.parametrize(
    ("path", "name", "code", "status", "events"),
    [
        ("/sub/deep/3", "GET /sub/deep/{id}", 200, "unset", 0),
        ("/nowhere", "GET", 404, "unset", 0),
        ("/raise/404", "GET /raise/{name}", 404, "unset", 0),
        ("/raise/503", "GET /raise/{name}", 503, "error", 0),
        ("/raise/error", "GET /raise/{name}", 500, "error", 1),
        ("/raise/late", "GET /raise/{name}", 504, "error", 1),
        ("/status/500", "GET /status/{code}", 500, "error", 0),
        ("/status/404", "GET /status/{code}", 404, "unset", 0),
        ("/nothing", "GET /nothing", 500, "error", 0),
        ("/stream", "GET /stream", 200, "unset", 0),
    ],
)
def test_the_answer_is_recorded_as_the_client_gets_it(exporter, path, name, code, status, events):
    async def test(session, base):
        async with session.get(base + path) as response:
            await response.read()
            return response.status

    assert server(test) == code
    (span,) = [span for span in exporter.spans if span.kind == "server"]
    assert (span.name, span.attributes["http.response.status_code"]) == (name, code)
    assert (span.status.code, len(span.events)) == (status, events)


def test_the_status_after_a_programs_own_100_continue_is_recorded(exporter):
    async def test(session, base):
        async with session.post(f"{base}/continued/201", data=b"1", expect100=True) as response:
            return response.status

    assert server(test) == 201
    (span,) = [span for span in exporter.spans if span.kind == "server"]
    assert span.attributes["http.response.status_code"] == 201


def test_a_streams_parts_are_children(exporter):
    async def test(session, base):
        async with session.get(f"{base}/stream") as response:
            await response.read()

    server(test)
    assert span_tree(exporter.spans) == "GET /stream\n  part\n  part\n  part"


class Match(AbstractMatchInfo):
    """What a router of the program's own gives: no more than aiohttp uses."""

    apps, http_exception, current_app = (), None, None
    _apps = ()

    async def handler(self, request):
        return web.Response(status=201)

    async def expect_handler(self, request):
        return None

    def get_info(self):
        return {}

    def add_app(self, app): ...

    def freeze(self): ...


def test_a_request_without_the_fields_of_this_version_is_served_without_a_span(exporter, caplog):
    async def handler(request):
        return web.Response(text="served")

    class Request(dict):
        path = "/"

    response = asyncio.run(integration.middleware()(Request(), handler))
    assert response.text == "served"
    assert exporter.spans == []
    assert "a request is not traced in full: AttributeError" in caplog.text


def test_a_router_whose_matches_have_no_route(exporter, monkeypatch):
    async def resolve(_router, _request):
        return Match()

    async def test(session, base):
        async with session.get(f"{base}/") as response:
            assert response.status == 201

    monkeypatch.setattr(web.UrlDispatcher, "resolve", resolve)
    integration.instrument()
    try:
        run(test)
    finally:
        integration.uninstrument()
    (span,) = [one for one in exporter.spans if one.kind == "server"]
    assert (span.name, span.attributes["http.response.status_code"]) == ("GET", 201)


def test_requests_on_one_connection_are_traces_of_their_own(exporter):
    async def test(session, base):
        with tracekit.span("around the server"):
            for _ in range(3):
                async with session.get(f"{base}/headers") as response:
                    await response.read()

    server(test)
    spans = [span for span in exporter.spans if span.kind == "server"]
    assert len({span.context.trace_id for span in spans}) == 3
    assert [span.parent for span in spans] == [None] * 3


def test_a_client_that_goes_away_cancels_the_span(exporter):
    served = []

    @web.middleware
    async def outer(request, handler):
        try:
            return await handler(request)
        finally:
            served[0].set()

    async def test(session, base):
        served.append(asyncio.Event())
        async with session.get(f"{base}/endless") as response:
            await response.content.readany()
            response.close()
        await served[0].wait()

    run(test, outer, integration.middleware())
    (span,) = exporter.spans
    assert span.status == ("cancelled", "the client disconnected")
    assert [event.name for event in span.events] == ["disconnect"]
    assert span.name == "GET /endless"


def test_a_websockets_span_is_its_handler(exporter):
    async def test(session, base):
        async with session.ws_connect(f"{base}/echo") as websocket:
            await websocket.send_str("hi")
            assert (await websocket.receive()).data == "hi"
            assert exporter.spans == []

    server(test)
    (span,) = exporter.spans
    assert (span.name, span.attributes["http.response.status_code"]) == ("GET /echo", 101)


def test_excluded_paths_have_no_span_and_nothing_below(exporter):
    async def test(session, base):
        async with session.get(f"{base}/stream", headers={"traceparent": CALLER}) as response:
            await response.read()

    server(test, exclude=["/stream"])
    assert exporter.spans == []


@pytest.mark.parametrize(
    ("trust", "continues", "links"), [("continue", True, 0), ("restart", False, 1), ("ignore", False, 0)]
)
def test_trust_is_that_of_the_other_servers(exporter, trust, continues, links):
    async def test(session, base):
        async with session.get(f"{base}/headers", headers={"traceparent": CALLER}) as response:
            await response.read()

    server(test, trust=trust)
    (span,) = exporter.spans
    assert (span.context.trace_id == CALLER[3:35]) is continues
    assert len(span.links) == links


def test_two_traceparents_are_none(exporter):
    async def test(session, base):
        async with session.get(
            f"{base}/headers", headers=[("traceparent", CALLER), ("traceparent", CALLER)]
        ) as response:
            await response.read()

    server(test)
    assert exporter.spans[0].parent is None


def test_handlers_and_outer_middlewares_find_the_span(exporter):
    found = []

    @web.middleware
    async def inner(request, handler):
        found.append((request[integration.SPAN_KEY], tracekit.current_span()))
        return await handler(request)

    async def test(session, base):
        async with session.get(f"{base}/headers") as response:
            await response.read()

    run(test, integration.middleware(), inner, integration.middleware())
    ((given, current),) = found
    assert given is current is exporter.spans[0]
    assert len(exporter.spans) == 1


# instrument() and uninstrument()


async def fetch(session, base):
    async with session.get(f"{base}/headers") as response:
        return await response.json()


def test_all_sessions_and_applications_are_traced_the_existing_ones_too(exporter):
    async def test(session, base):
        integration.instrument(redact=["ssn"])
        integration.instrument()
        sent = await fetch(session, base)
        assert "traceparent" in sent
        integration.uninstrument()
        assert "traceparent" not in await fetch(session, base)
        assert session.trace_configs == []

    run(test)
    assert [span.kind for span in exporter.spans] == ["client"]  # the server has its handler already


def test_an_application_that_starts_later_is_traced_once_and_outermost(exporter):
    integration.instrument()

    @web.middleware
    async def failing(request, handler):
        raise KeyError("in a middleware")

    run(fetch_status := lambda session, base: _status(session, f"{base}/headers"), failing, integration.middleware())
    assert fetch_status
    assert span_tree(exporter.spans) == "GET [error]\n  GET /headers [error]"


async def _status(session, url):
    async with session.get(url) as response:
        return response.status


def test_one_session_is_traced_and_no_other(exporter):
    async def test(session, base):
        configs = session.trace_configs
        integration.instrument(session, redact=["ssn"])
        integration.instrument(session)
        assert configs == []
        assert "traceparent" in await fetch(session, base)
        async with aiohttp.ClientSession() as other:
            assert "traceparent" not in await fetch(other, base)
        integration.uninstrument(session)
        assert "traceparent" not in await fetch(session, base)

    run(test)
    assert len(exporter.spans) == 1


def test_a_session_of_its_own_stays_traced_when_all_others_are_not(exporter):
    async def test(session, base):
        integration.instrument()
        await fetch(session, base)
        integration.instrument(session)
        integration.uninstrument()
        assert "traceparent" in await fetch(session, base)

    run(test)
    assert len(exporter.spans) == 2


def test_a_session_with_a_configuration_of_ours_has_one_span(exporter):
    integration.instrument()
    client(fetch)
    assert [span.kind for span in exporter.spans] == ["server", "client"]


def test_one_application_is_traced_until_it_is_not(exporter):
    async def main():
        app = shop()
        integration.instrument(app, exclude=["/status"])
        integration.instrument(app)
        async with serve(app) as base, aiohttp.ClientSession() as session:
            await fetch(session, base)
            integration.uninstrument(app)  # it runs
            await fetch(session, base)
        app = shop()
        integration.instrument(app)
        integration.uninstrument(app)
        assert list(app.middlewares) == []

    asyncio.run(main())
    assert [span.name for span in exporter.spans] == ["GET /headers"]


def test_uninstrument_puts_back_exactly_what_there_was():
    before = aiohttp.ClientSession._request, web.Application._handle
    integration.instrument()
    assert before != (aiohttp.ClientSession._request, web.Application._handle)
    integration.uninstrument()
    assert before == (aiohttp.ClientSession._request, web.Application._handle)


@pytest.mark.parametrize("call", [integration.instrument, integration.uninstrument])
def test_other_objects_are_type_errors(call):
    with pytest.raises(TypeError, match=r"target must be an aiohttp\.ClientSession"):
        call(5)


@pytest.mark.parametrize("options", [{"redact": "ssn"}, {"trust": 5}, {"no_such": 1}, {"propagate_to": "a"}])
def test_invalid_options_are_errors_and_nothing_is_patched(options):
    before = aiohttp.ClientSession._request, web.Application._handle
    with pytest.raises(TypeError):
        integration.instrument(**options)
    assert before == (aiohttp.ClientSession._request, web.Application._handle)


# Bad input


@pytest.mark.parametrize("broken", ["is_port", "inject", "names"])
def test_an_error_of_tracing_is_logged_once_and_the_request_is_sent(exporter, monkeypatch, caplog, broken):
    def fail(*_, **__):
        raise RuntimeError("tracing is broken")

    async def test(session, base):
        for _ in range(2):
            assert await fetch(session, base)

    tracekit.configure(exporter=exporter, formats=[b3.SINGLE])  # the names of the W3C fields are known
    monkeypatch.setattr(_client, broken, fail)
    client(test)
    assert [record.name for record in caplog.records if record.levelname == "WARNING"] == ["tracekit"]


def test_an_error_of_tracing_is_logged_once_and_the_request_is_served(exporter, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("tracing is broken")

    async def test(session, base):
        for _ in range(2):
            assert await fetch(session, base)

    monkeypatch.setattr(_aiohttp_server, "_attributes_of", fail)
    server(test)
    assert [record.name for record in caplog.records if record.levelname == "WARNING"] == ["tracekit"]


def test_a_trace_configuration_of_the_program_that_raises_is_the_programs(exporter):
    async def bad(*_):
        raise KeyError("of the program")

    async def test(session, base):
        with pytest.raises(KeyError):
            await session.get(f"{base}/big")

    for signal in ("on_request_start", "on_request_end"):
        config = aiohttp.TraceConfig()
        getattr(config, signal).append(bad)
        run(test, trace_configs=[integration.trace_config(), config])
    assert [span.status.code for span in exporter.spans] == ["error", "unset"]  # the second had its answer
