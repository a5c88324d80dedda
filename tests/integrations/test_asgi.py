"""The middleware and the ASGI protocol, without a server; ``test_asgi_servers.py`` has real servers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http
import re
import weakref
from collections import UserDict
from pathlib import Path
from types import SimpleNamespace

import anyio
import anyio.lowlevel
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

import tracekit
from tracekit import AlwaysOff, Ratio
from tracekit._configure import use_hooks
from tracekit._core.free_threading import HAS_GIL
from tracekit._core.otlp import encode_spans
from tracekit.integrations._lifespan import LIFESPAN_KEY
from tracekit.integrations.asgi import SPAN_KEY, TraceMiddleware
from tracekit.testing import span_tree

from .peer import (
    CALLER,
    LABELS,
    LAST,
    MORE,
    SPAN_ID,
    START,
    TRACE_ID,
    UNSAMPLED,
    Broken,
    Peer,
    answer,
    at_once,
    request_scope,
    run,
    websocket_scope,
)

# Parent and trust


@pytest.mark.anyio
async def test_a_request_is_a_child_of_its_caller_and_current_in_the_app(exporter):
    async def app(scope, receive, send):
        with tracekit.span("work"):
            await answer(scope, receive, send)

    await TraceMiddleware(app)(request_scope(CALLER), None, Peer().send)
    assert span_tree(exporter.spans) == "GET <- remote\n  work"
    assert {span.context.trace_id for span in exporter.spans} == {TRACE_ID}
    server_span = exporter.spans[0]
    assert server_span.parent.span_id == SPAN_ID
    assert server_span.kind == "server"
    assert tracekit.current_span() is None


@pytest.mark.anyio
@pytest.mark.parametrize("trust", ["continue", "restart", "link", "ignore"])
async def test_a_span_current_around_the_middleware_is_never_the_parent(exporter, trust):
    with tracekit.use_labels(leaked="yes"), tracekit.span("of the request before") as leaked:
        labels = []

        async def app(scope, receive, send):
            labels.append(dict(tracekit.current_labels()))
            await answer(scope, receive, send)

        await TraceMiddleware(app, trust=trust)(request_scope(), None, Peer().send)
        assert tracekit.current_span() is leaked
    (server_span, _) = exporter.spans
    assert server_span.parent is None
    assert server_span.context.trace_id != leaked.context.trace_id
    assert labels == [{}]


@pytest.mark.parametrize(
    ("trust", "is_continued", "is_linked", "labels"),
    [
        ("continue", True, False, {"tenant": "acme"}),
        ("restart", False, True, {}),
        ("link", False, True, {"tenant": "acme"}),
        ("ignore", False, False, {}),
    ],
)
def test_trust_sets_how_the_callers_headers_are_used(exporter, trust, is_continued, is_linked, labels):
    found = []

    async def app(scope, receive, send):
        found.append(dict(tracekit.current_labels()))

    run(TraceMiddleware(app, trust=trust)(request_scope(CALLER, LABELS), at_once, at_once))
    (span,) = exporter.spans
    assert (span.context.trace_id == TRACE_ID) is is_continued
    assert (span.parent is not None) is is_continued
    assert [link.context.span_id for link in span.links] == ([SPAN_ID] if is_linked else [])
    assert found == [labels]


@pytest.mark.parametrize("trust", ["restart", "link"])
def test_without_a_caller_there_is_nothing_to_link_to(exporter, trust):
    run(TraceMiddleware(answer, trust=trust)(request_scope(LABELS), at_once, at_once))
    assert exporter.spans[0].links == ()


def test_the_sampler_decides_about_a_restarted_trace(exporter):
    run(TraceMiddleware(answer, trust="restart")(request_scope(UNSAMPLED), at_once, at_once))
    assert len(exporter.spans) == 1


@pytest.mark.parametrize("trust", ["continue", "restart", "link", "ignore"])
def test_routes_override_trust_for_all_paths_below_them(exporter, trust):
    others = {"continue": "ignore", "restart": "continue", "link": "restart", "ignore": "continue"}
    seen = []

    async def app(scope, receive, send):
        labels = dict(tracekit.current_labels())
        seen.append((tracekit.current_context().trace_id == TRACE_ID, labels, len(tracekit.current_span().links)))

    middleware = TraceMiddleware(app, trust=others[trust], routes={"/partner": trust})
    plain, chosen = TraceMiddleware(app, trust=others[trust]), TraceMiddleware(app, trust=trust)
    for path, like in (("/partner", chosen), ("/partner/3", chosen), ("/partners", plain), ("/", plain), (5, plain)):
        seen.clear()
        for one in (middleware, like):
            run(one(request_scope(CALLER, LABELS, path=path), at_once, at_once))
        assert seen[0] == seen[1], path
    assert len(exporter.spans) == 10


EXCLUDE = ["/health", "/internal/metrics/", re.compile(r"\.(css|js)$"), re.compile("^/static")]


@pytest.mark.parametrize("make", [request_scope, websocket_scope])
@pytest.mark.parametrize(
    ("path", "is_traced"),
    [
        ("/health", False),
        ("/health/", False),
        ("/health/live", False),
        ("/healthy", True),
        ("/api/health", True),
        ("/internal/metrics", True),
        ("/internal/metrics/", False),
        ("/internal/metrics/a", False),
        ("/a/b.css", False),
        ("/a/b.css/c", True),
        ("/statics", False),
        ("/", True),
        ("", True),
        (None, True),
        (5, True),
        ("/health/" + "x" * 5000, True),
    ],
)
def test_an_excluded_request_and_the_spans_inside_it_are_not_recorded(exporter, make, path, is_traced):
    sent = []

    async def app(scope, receive, send):
        with tracekit.span("work"):
            sent.append(tracekit.inject({}))
        await answer(scope, receive, send)

    messages = []

    async def send(message):
        messages.append(message)

    with tracekit.span("of the request before"):
        scope = make(CALLER, path=path)
        # The inner middleware excludes nothing, but respects the outer one.
        run(TraceMiddleware(TraceMiddleware(app), exclude=EXCLUDE)(scope, at_once, send))
    spans = [span for span in exporter.spans if span.name != "of the request before"]
    assert [span.name for span in spans] == (["work", spans[-1].name] if is_traced else [])
    assert (scope[SPAN_KEY] is not None) is is_traced
    assert messages == [START, LAST]
    (headers,) = sent
    assert bool(int(headers["traceparent"][-2:], 16) & 1) is is_traced
    assert (TRACE_ID in headers["traceparent"]) is is_traced


def documented_sampler():
    """Return the sampler of docs/sampling.md."""
    text = (Path(__file__).parents[2] / "docs/sampling.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^class OnlyWhatMatters:\n(?:(?:    .*)?\n)+", text, re.MULTILINE)
    names = {"Ratio": Ratio}
    exec(code, names)
    sampler = names["OnlyWhatMatters"]()
    sampler.others = AlwaysOff()  # instead of a random tenth
    return sampler


def test_the_sampler_of_the_documentation_works_under_the_middleware(exporter):
    tracekit.configure(exporter=exporter, sampler=documented_sampler())
    for path in ("/health", "/pay/3", "/items"):
        run(TraceMiddleware(answer)(request_scope(path=path, raw_path=path.encode()), at_once, at_once))
    assert [span.attributes["url.path"] for span in exporter.spans] == ["/pay/3"]


def test_a_sampler_gets_the_attributes_of_the_request(exporter):
    asked = []

    class Sampler:
        def sample(self, randomness, name, kind, attributes):
            asked.append((name, kind, dict(attributes)))
            return False, ""

    tracekit.configure(exporter=exporter, sampler=Sampler())
    scope = request_scope((b"user-agent", b"curl"), query_string=b"a=1&token=s3cr3t")
    run(TraceMiddleware(answer)(scope, at_once, at_once))
    run(TraceMiddleware(answer)(websocket_scope(), at_once, at_once))
    assert asked[0] == (
        "GET",
        "server",
        {
            "http.request.method": "GET",
            "url.path": "/items/3",
            "url.scheme": "https",
            "url.query": "a=1&token=REDACTED",
            "server.address": "shop.example",
            "server.port": 443,
            "client.address": "192.0.2.1",
            "network.peer.address": "192.0.2.1",
            "network.protocol.version": "1.1",
            "user_agent.original": "curl",
        },
    )
    assert asked[1][:2] == ("WEBSOCKET", "server")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"exclude": "/health"}, TypeError, "exclude must be an iterable of paths and patterns, not str"),
        ({"exclude": re.compile("a")}, TypeError, "exclude must be an iterable of paths and patterns, not Pattern"),
        ({"exclude": None}, TypeError, "exclude must be an iterable of paths and patterns, not NoneType"),
        ({"exclude": [5]}, TypeError, "exclude must hold str and re.Pattern[str], not int"),
        ({"exclude": [re.compile(b"a")]}, TypeError, "exclude must hold str and re.Pattern[str], not Pattern"),
        ({"exclude": ["health"]}, ValueError, "exclude must hold paths that start with a slash: 'health'"),
        ({"routes": {"/": None}}, TypeError, "trust must be str, not NoneType"),
        ({"redact": "ssn"}, TypeError, "redact must be an iterable of names, not str"),
        ({"app": None}, TypeError, "app must be an ASGI application, not NoneType"),
        ({"trust": None}, TypeError, "trust must be str, not NoneType"),
        ({"trust": "yes\n"}, ValueError, r"trust must be one of continue, restart, link, ignore: 'yes\n'"),
    ],
)
def test_invalid_arguments_are_errors(arguments, error, message):
    with pytest.raises(error) as caught:
        TraceMiddleware(**{"app": answer, **arguments})
    assert str(caught.value) == message


# Attributes and names


@pytest.mark.parametrize(
    ("scope", "name", "attributes"),
    [
        (
            request_scope((b"user-agent", b"httpx"), query_string=b"q=1&sig=s3cr3t"),
            "GET",
            {
                "http.request.method": "GET",
                "url.path": "/items/3",
                "url.scheme": "https",
                "url.query": "q=1&sig=REDACTED",
                "server.address": "shop.example",
                "server.port": 443,
                "client.address": "192.0.2.1",
                "network.peer.address": "192.0.2.1",
                "network.protocol.version": "1.1",
                "user_agent.original": "httpx",
                "http.response.status_code": 200,
            },
        ),
        (
            request_scope(headers=[], method="BREW", http_version="2", client=None),
            "HTTP",
            {
                "http.request.method": "_OTHER",
                "http.request.method_original": "BREW",
                "url.path": "/items/3",
                "url.scheme": "https",
                "server.address": "127.0.0.1",
                "server.port": 8000,
                "network.protocol.version": "2",
                "http.response.status_code": 200,
            },
        ),
        (
            request_scope(headers=[], method="get", server=None, client=None),
            "HTTP",
            {
                "http.request.method": "_OTHER",
                "http.request.method_original": "get",
                "url.path": "/items/3",
                "url.scheme": "https",
                "network.protocol.version": "1.1",
                "http.response.status_code": 200,
            },
        ),
        (
            {"type": "http"},
            "GET",
            {"http.request.method": "GET", "url.path": "", "url.scheme": "http", "http.response.status_code": 200},
        ),
        (
            request_scope(headers=[(b"host", b"[::1]:8000"), (b"user-agent", b"\xff" * 5000)], server=("/run/s", None)),
            "GET",
            {
                "http.request.method": "GET",
                "url.path": "/items/3",
                "url.scheme": "https",
                "server.address": "::1",
                "server.port": 8000,
                "client.address": "192.0.2.1",
                "network.peer.address": "192.0.2.1",
                "network.protocol.version": "1.1",
                "user_agent.original": "\xff" * 1024,
                "http.response.status_code": 200,
            },
        ),
    ],
)
def test_attributes_follow_the_http_conventions(exporter, scope, name, attributes):
    run(TraceMiddleware(answer)(scope, at_once, at_once))
    (span,) = exporter.spans
    assert span.name == name
    assert dict(span.attributes) == attributes
    assert span.dropped_attributes == 0


def attributes_of(exporter, **changes):
    run(TraceMiddleware(answer)(request_scope(**changes), at_once, at_once))
    return exporter.spans[-1].attributes


@pytest.mark.parametrize(
    ("host", "server", "client", "recorded"),
    [
        (b"x:99999", ("a", 70000), ("", 0), {"server.address": "x"}),  # beyond any port; a client without an address
        (b"x:0", ("a", -1), None, {"server.address": "x"}),
        (b"", ("a", 65536), ("", 1), {"server.address": "a"}),
        (b"", ("a", 65535), ("", 1), {"server.address": "a", "server.port": 65535}),
    ],
)
def test_only_real_ports_and_addresses_are_recorded(exporter, host, server, client, recorded):
    found = attributes_of(exporter, headers=[(b"host", host)], server=server, client=client)
    keys = {"server.address", "server.port", "client.address", "client.port", "network.peer.address"}
    assert {key: found[key] for key in found if key in keys} == recorded


@pytest.mark.parametrize(
    ("raw_path", "path", "recorded"),
    [
        (b"/a%2Fb%3Fc/%C3%BC", "/a/b?c/\u00fc", "/a%2Fb%3Fc/%C3%BC"),
        (b"/a?b=s3cr3t", "/a", "/a"),  # some servers include the query
        (b"/\xff", "/\ufffd", "/\xff"),
        (None, "/a b", "/a b"),
        ("/wrong", "/a", "/a"),
        (b"", "/a", ""),
    ],
)
def test_the_path_is_recorded_as_it_was_sent(exporter, raw_path, path, recorded):
    assert attributes_of(exporter, raw_path=raw_path, path=path)["url.path"] == recorded


@pytest.mark.parametrize(
    ("host", "server", "address", "port"),
    [
        (b"shop.example", ("127.0.0.1", 8000), "shop.example", 443),
        (b"shop.example:8443", ("127.0.0.1", 8000), "shop.example", 8443),
        (b"shop.example:65535", ("127.0.0.1", 8000), "shop.example", 65535),
        (b"shop.example:65536", ("127.0.0.1", 8000), "shop.example", 443),
        (b"shop.example:99999", ("127.0.0.1", 8000), "shop.example", 443),
        (b"shop.example:0", ("127.0.0.1", 8000), "shop.example", 443),
        (b"shop.example", ("/run/shop.sock", None), "shop.example", None),
        (b"shop.example", None, "shop.example", None),  # a Unix socket under uvicorn
        (b"shop.example:8443", ("/run/shop.sock", None), "shop.example", 8443),  # given by the client
        (b"", ("/run/shop.sock", None), "/run/shop.sock", None),
        (b"", ("127.0.0.1", 8000), "127.0.0.1", 8000),
        (b"", ("127.0.0.1", 0), "127.0.0.1", None),
        (b"", ("127.0.0.1", 65536), "127.0.0.1", None),
        (b"", ("127.0.0.1", True), "127.0.0.1", None),
        (b"", None, None, None),
    ],
)
def test_the_port_is_recorded_if_it_is_known_and_valid(exporter, host, server, address, port):
    attributes = attributes_of(exporter, headers=[(b"host", host)], server=server)
    assert (attributes.get("server.address"), attributes.get("server.port")) == (address, port)


@pytest.mark.parametrize(
    ("client", "address", "peer"),
    [
        (("192.0.2.1", 51234), "192.0.2.1", "192.0.2.1"),
        (["2001:db8::1", 51234], "2001:db8::1", "2001:db8::1"),
        (("198.51.100.7", 0), "198.51.100.7", None),  # from X-Forwarded-For, under uvicorn
        (("198.51.100.7",), "198.51.100.7", None),
        (("", 0), None, None),  # a Unix socket
        (("", 51234), None, None),
        (None, None, None),
    ],
)
def test_client_and_peer_are_recorded_if_they_are_known(exporter, client, address, peer):
    attributes = attributes_of(exporter, client=client)
    assert (attributes.get("client.address"), attributes.get("network.peer.address")) == (address, peer)


def test_secrets_in_a_query_are_redacted_and_names_can_be_added(exporter):
    scope = request_scope(query_string=b"page=2&token[]=s3cr3t&ssn=s3cr3t")
    run(TraceMiddleware(answer, redact=["SSN"])(scope, at_once, at_once))
    assert exporter.spans[0].attributes["url.query"] == "page=2&token[]=REDACTED&ssn=REDACTED"


@pytest.mark.parametrize(
    ("status", "code", "error_type"),
    [(200, "unset", None), (304, "unset", None), (404, "unset", None), (499, "unset", None), (500, "error", "500")],
)
def test_a_status_from_500_on_is_an_error(exporter, status, code, error_type):
    async def app(scope, receive, send):
        await send({**START, "status": status})
        await send(LAST)

    run(TraceMiddleware(app)(request_scope(), at_once, at_once))
    (span,) = exporter.spans
    assert span.status == (code, "")
    assert span.attributes.get("error.type") == error_type
    assert span.attributes["http.response.status_code"] == status


def test_the_span_is_named_after_the_route_that_the_app_chose(exporter):
    async def item(request):
        return PlainTextResponse("here")

    shop = [Route("/", item), Route("/items/{id:int}", item), Route("/pay", item, methods=["POST"])]
    app = TraceMiddleware(
        Starlette(
            routes=[
                *shop,
                Mount("/api", routes=shop),
                Mount("/of/{tenant}", routes=shop),
                Mount("/files", app=PlainTextResponse("file")),
                Host("{name}.shop.example", app=Starlette(routes=shop)),
            ]
        )
    )
    named = {}
    for host, path in [
        (b"a", "/"),
        (b"a", "/items/3"),
        (b"a", "/pay"),
        (b"a", "/nowhere"),
        (b"a", "/api/items/3"),
        (b"a", "/api/nowhere"),
        (b"a", "/of/items/items/3"),
        (b"a", "/of/4/items/4"),
        (b"a", "/files/a/b"),
        (b"eu.shop.example", "/items/3"),
    ]:
        run(app(request_scope(headers=[(b"host", host)], path=path), at_once, at_once))
        span = exporter.spans[-1]
        named[path] = span.name
        assert span.attributes.get("http.route", "") == span.name.removeprefix("GET").strip()
    assert named == {
        "/": "GET /",
        "/items/3": "GET /items/{id:int}",
        "/pay": "GET /pay",
        "/nowhere": "GET",
        "/api/items/3": "GET /api/items/{id:int}",
        "/api/nowhere": "GET /api",
        "/of/items/items/3": "GET /of/{tenant}/items/{id:int}",
        "/of/4/items/4": "GET /of/{tenant}/items/{id:int}",
        "/files/a/b": "GET /files",
    }


def test_a_mounts_parameters_are_not_part_of_the_name(exporter):
    async def item(request):
        return PlainTextResponse("here")

    file = PlainTextResponse("file")
    shop = [Route("/{item}", item), Mount("/files/{path_of}", file)]
    app = TraceMiddleware(
        Starlette(
            routes=[
                Mount("/of/{tenant}/files", file),
                Mount("/twice/{first}/{second}", routes=shop),
                Mount("/v{version}", routes=shop),
                Mount("/number/{number:int}", routes=shop),
                Mount("/path/{folder:path}/end", routes=shop),
            ]
        )
    )
    expected = {
        "/of/acme/files/a": "GET /of/{tenant}/files",
        "/twice/a/a/b": "GET /twice/{first}/{second}/{item}",
        "/twice/twice/a/b": "GET /twice/{first}/{second}/{item}",
        "/twice/a/b/files/c/d": "GET /twice/{first}/{second}/files/{path_of}",
        "/twice/a/b/no/where": "GET /twice/{first}/{second}",
        "/v2/b": "GET /v{version}/{item}",
        "/number/7/b": "GET /number/{number}/{item}",
        "/number/007/b": "GET",
        "/path/a/b/end/c": "GET /path/{folder}/end/{item}",
        "/path//end/c": "GET /path//end/{item}",
    }
    for path in expected:
        run(app(request_scope(path=path), at_once, at_once))
    assert dict(zip(expected, [span.name for span in exporter.spans], strict=True)) == expected


def serving(route, **changes):
    """Return an app that answers for *route*, and puts *changes* into the scope first."""

    async def app(scope, receive, send):
        scope.update(route=route, **changes)
        await answer(scope, receive, send)

    return app


def test_remembered_routes_name_each_request_rightly(exporter):
    routes = [SimpleNamespace(path=f"/{at}") for at in range(200)]
    requests = [(route, method) for route in (*routes, *routes) for method in ("GET", "POST", "GET")]
    middleware = TraceMiddleware(answer)
    for route, method in requests:
        middleware.app = serving(route)
        run(middleware(request_scope(method=method), at_once, at_once))
    assert [span.name for span in exporter.spans] == [f"{method} {route.path}" for route, method in requests]
    assert [span.attributes["http.route"] for span in exporter.spans] == [route.path for route, _ in requests]


def test_most_places_for_routes_are_used(exporter):
    """Objects of one size have addresses of a pattern."""

    class Remembered:
        path = "/items"

    routes = [Remembered() for _ in range(400)]
    middleware = TraceMiddleware(answer)
    for route in routes:
        run(middleware(request_scope(route=route), at_once, at_once))
    kept = [weakref.ref(route) for route in routes]
    del route, routes
    gc.collect()
    assert 32 < sum(route() is not None for route in kept) <= 64


def test_a_remembered_route_that_is_mounted_has_the_prefix_of_its_mount(exporter):
    route = SimpleNamespace(path="/{id}")
    middleware = TraceMiddleware(answer)
    mounts = [{}, {"app_root_path": "", "root_path": "/a"}, {}, {"app_root_path": "", "root_path": "/b"}]
    for mount in mounts:
        middleware.app = serving(route, path_params={}, **mount)
        run(middleware(request_scope(), at_once, at_once))
    assert [span.name for span in exporter.spans] == ["GET /{id}", "GET /a/{id}", "GET /{id}", "GET /b/{id}"]


def test_a_remembered_route_follows_the_name_that_the_app_gives(exporter):
    middleware = TraceMiddleware(answer)
    inner = serving(SimpleNamespace(path="/x"))
    for name in ("", "other", ""):

        async def app(scope, receive, send, name=name):
            if name:
                scope[SPAN_KEY].update_name(name)
            await inner(scope, receive, send)

        middleware.app = app
        run(middleware(request_scope(), at_once, at_once))
    assert [span.name for span in exporter.spans] == ["GET /x", "other /x", "GET /x"]


@pytest.mark.parametrize("more", [0, 1, 20])
@pytest.mark.parametrize("is_seen", [False, True])
def test_route_and_status_replace_those_of_the_app(exporter, more, is_seen):
    views = []

    async def app(scope, receive, send):
        span = scope[SPAN_KEY]
        if is_seen:
            views.append(span.attributes)
        for at in range(more):
            span.set_attribute(f"more.{at}", at)
        if more:
            span.set_attribute("http.route", "/theirs")
            span.set_attribute("http.response.status_code", 1)
        await serving(SimpleNamespace(path="/ours"))(scope, receive, send)

    run(TraceMiddleware(app)(request_scope(), at_once, at_once))
    (span,) = exporter.spans
    assert span.attributes["http.route"] == "/ours"
    assert span.attributes["http.response.status_code"] == 200
    assert len(list(span.attributes)) == len(set(span.attributes)) == 10 + more
    if HAS_GIL:  # without it, attributes are a copy
        assert all(dict(view) == dict(span.attributes) for view in views)


def test_route_and_status_keep_to_the_limits(exporter):
    for limits in (tracekit.Limits(attributes=9), tracekit.Limits(value_length=4)):
        tracekit.configure(exporter=exporter, limits=limits)
        run(TraceMiddleware(serving(SimpleNamespace(path="/ours")))(request_scope(), at_once, at_once))
    few, short = exporter.spans
    assert (len(few.attributes), few.dropped_attributes, few.attributes["http.route"]) == (9, 1, "/ours")
    assert short.attributes["http.route"] == "/our"


def test_a_route_of_any_length_is_cut_to_the_limit(exporter):
    """A mount's prefix is the client's text."""
    for route in ("/" * 1024, "/" * 4096, "/" * 4097, "/" * 4097):
        run(TraceMiddleware(serving(SimpleNamespace(path=route)))(request_scope(), at_once, at_once))
    assert [len(span.attributes["http.route"]) for span in exporter.spans] == [1024, 4096, 4096, 4096]
    assert [span.truncated_values for span in exporter.spans] == [0, 0, 1, 1]
    assert all(span.attributes["http.response.status_code"] == 200 for span in exporter.spans)


def test_route_and_status_replace_those_of_hooks(exporter):
    """A key that came twice would reach the exporter twice, while the view of the attributes has one."""

    class Hooks:
        def started(self, span, parent):
            span.set_attributes({"http.route": "/theirs", "http.response.status_code": 1})

        def ending(self, span): ...

        def ended(self, span): ...

    use_hooks(Hooks())
    try:
        run(TraceMiddleware(serving(SimpleNamespace(path="/ours")))(request_scope(), at_once, at_once))
    finally:
        use_hooks(None)
    octets = encode_spans(exporter.spans)
    assert [octets.count(key) for key in (b"http.route", b"http.response.status_code", b"/theirs")] == [1, 1, 0]


@pytest.mark.parametrize("change", [dict, lambda scope: dict(reversed(scope.items()))])
@pytest.mark.parametrize("spelled", [str, lambda key: "".join(list(key)), type("Key", (str,), {})])
def test_the_order_and_the_identity_of_the_keys_do_not_matter(exporter, change, spelled):
    plain = request_scope((b"user-agent", b"curl"), query_string=b"a=1")
    for scope in (plain, {spelled(key): value for key, value in change(plain).items()}, plain):
        run(TraceMiddleware(answer)(dict(scope), at_once, at_once))
    first, *others = [(span.name, dict(span.attributes)) for span in exporter.spans]
    assert others == [first, first]
    assert len(first[1]) == 11


class Text(str):
    """A text of another type than str."""

    __slots__ = ()


def turned(message):
    return dict(reversed(message.items()))


def spelled(message):
    return {Text(key): Text(value) if type(value) is str else value for key, value in message.items()}


@pytest.mark.parametrize("shape", [dict, turned, spelled, UserDict])
@pytest.mark.parametrize("status", [200, http.HTTPStatus.OK, 500, 10**30, 0, None, "200"])
@pytest.mark.parametrize(
    ("more", "last"),
    [
        ({"body": b"x", "more_body": True}, {"body": b""}),
        ({"body": b"x", "more_body": 1}, {"body": b"", "more_body": False}),
        ({"more_body": True}, {}),
        ({"trailers": False, "more_body": True}, {"body": b"", "more_body": None, "trailers": False}),
    ],
)
def test_messages_of_any_shape_are_observed(exporter, shape, status, more, last):
    open_after = []

    async def app(scope, receive, send):
        span = scope[SPAN_KEY]
        body = {"type": "http.response.body"}
        for message in ({"type": "http.response.start", "status": status}, body | more, body | more, body | last):
            await send(shape(message))
            open_after.append(not span.ended)

    run(TraceMiddleware(app)(request_scope(), at_once, at_once))
    (span,) = exporter.spans
    number = status if isinstance(status, int) and status else None
    has_failed = number is not None and number >= 500
    assert open_after == [True, True, True, has_failed]
    assert span.status.code == ("error" if has_failed else "unset")
    assert span.attributes.get("error.type") == (str(number) if has_failed else None)
    if number != 10**30:  # which no attribute holds
        assert span.attributes.get("http.response.status_code") == number


def test_a_malformed_value_costs_only_itself(exporter):
    plain = request_scope((b"user-agent", b"curl"), query_string=b"a=1")
    names = {
        "http_version": ["network.protocol.version"],
        "query_string": ["url.query"],
        "client": ["client.address", "network.peer.address"],
        "server": ["server.address", "server.port"],
    }
    run(TraceMiddleware(answer)(dict(plain), at_once, at_once))
    for key in names:
        run(TraceMiddleware(answer)({**plain, key: Broken()}, at_once, at_once))
    full, *others = [dict(span.attributes) for span in exporter.spans]
    for missing, found in zip(names.values(), others, strict=True):
        assert found == {name: value for name, value in full.items() if name not in missing}


def test_send_takes_its_message_by_name_too(exporter):
    sent = []

    async def peer(message):
        sent.append(message)

    async def app(scope, receive, send):
        for wrong in ((), (START, LAST)):
            with pytest.raises(TypeError):
                send(*wrong)
        with pytest.raises(TypeError):
            send(START, other=1)
        await send(message=START)
        await send(message=LAST)

    run(TraceMiddleware(app)(request_scope(), at_once, peer))
    assert sent == [START, LAST]
    assert exporter.spans[0].ended


def test_send_returns_none_whatever_the_server_returns(exporter):
    async def peer(message):
        return 5

    async def app(scope, receive, send):
        assert await send(START) is None
        assert await send(LAST) is None

    run(TraceMiddleware(app)(request_scope(), at_once, peer))
    assert exporter.spans[0].status.code == "unset"


@pytest.mark.parametrize("route", [None, object(), SimpleNamespace(path=None), SimpleNamespace(path=b"/"), "/items"])
def test_unknown_kinds_of_routes_are_ignored(exporter, route):
    async def app(scope, receive, send):
        scope["route"] = route
        await answer(scope, receive, send)

    run(TraceMiddleware(app)(request_scope(), at_once, at_once))
    assert exporter.spans[0].name == "GET"


# The end of the span


@pytest.mark.anyio
async def test_the_span_is_open_until_the_last_chunk_and_the_bodys_spans_are_its_children(exporter):
    ended = []

    async def app(scope, receive, send):
        span = scope[SPAN_KEY]
        await send(START)
        for _ in range(2):
            with tracekit.span("chunk"):
                await send(MORE)
            ended.append(span.ended)
        await send(LAST)
        ended.append(span.ended)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(later)

    async def later():
        with tracekit.span("background task"):
            await anyio.lowlevel.checkpoint()

    peer = Peer()
    await TraceMiddleware(app)(request_scope(), peer.receive, peer.send)
    assert ended == [False, False, True]
    assert peer.sent == [START, MORE, MORE, LAST]
    assert span_tree(exporter.spans) == "GET\n  chunk\n  chunk\n  background task"


@pytest.mark.parametrize(
    "last",
    [
        {"type": "http.response.pathsend", "path": "/a"},
        {"type": "http.response.zerocopysend", "file": 3},
        {"type": "http.response.body", "more_body": False},
    ],
)
def test_every_message_that_completes_a_response_ends_the_span(exporter, last):
    async def app(scope, receive, send):
        await send(START)
        await send(last)
        assert scope[SPAN_KEY].ended
        await send({"type": "http.response.trailers", "headers": []})

    run(TraceMiddleware(app)(request_scope(), at_once, at_once))
    assert span_tree(exporter.spans) == "GET"


def test_an_app_that_returns_before_its_response_is_complete_is_an_error(exporter):
    async def app(scope, receive, send):
        await send(START)
        await send(MORE)

    run(TraceMiddleware(app)(request_scope(), at_once, at_once))
    assert exporter.spans[0].status == ("error", "the app returned before its response was complete")


def test_an_exception_is_recorded_once_and_raised_unchanged(exporter):
    boom = ValueError("boom")

    async def app(scope, receive, send):
        with tracekit.span("work"):
            raise boom

    with pytest.raises(ValueError, match="boom") as caught:
        run(TraceMiddleware(app)(request_scope(), at_once, at_once))
    assert caught.value is boom
    assert caught.value.__context__ is None
    assert span_tree(exporter.spans) == "GET [error]\n  work [error]"
    assert [len(span.events) for span in exporter.spans] == [1, 0]
    (span,) = [span for span in exporter.spans if span.kind == "server"]
    assert span.status.description == "ValueError: boom"
    assert span.attributes["error.type"] == "ValueError"
    assert span.attributes["http.response.status_code"] == 500  # sent by the server, or by a layer around


def test_an_app_that_returns_without_an_answer_is_a_500_too(exporter):
    async def app(scope, receive, send):
        pass

    run(TraceMiddleware(app)(request_scope(), at_once, at_once))
    (span,) = exporter.spans
    assert span.status == ("error", "the app returned before its response was complete")
    assert span.attributes["http.response.status_code"] == 500


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exception_that_ends_the_process_or_task_is_no_500(exporter, error):
    async def app(scope, receive, send):
        raise error

    with pytest.raises(error):
        run(TraceMiddleware(app)(request_scope(), at_once, at_once))
    assert "http.response.status_code" not in exporter.spans[0].attributes


def test_an_exception_after_the_start_of_the_response_keeps_its_status(exporter):
    async def app(scope, receive, send):
        await send({**START, "status": http.HTTPStatus.CREATED})
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        run(TraceMiddleware(app)(request_scope(), at_once, at_once))
    (span,) = exporter.spans
    assert span.status.code == "error"
    assert span.attributes["http.response.status_code"] == 201
    assert type(span.attributes["http.response.status_code"]) is int


def test_an_unhandled_exception_inside_starlette_is_a_500(exporter):
    async def boom(request):
        raise ValueError("boom")

    app = Starlette(routes=[Route("/boom", boom)])
    app.add_middleware(TraceMiddleware)
    with pytest.raises(ValueError, match="boom"):
        run(app(request_scope(path="/boom", raw_path=b"/boom"), at_once, at_once))
    (span,) = exporter.spans
    assert (span.name, span.attributes["http.response.status_code"]) == ("GET /boom", 500)


def test_the_exception_that_caused_a_500_is_on_the_span(exporter):
    async def app(scope, receive, send):
        await send({**START, "status": 500})
        await send(LAST)
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        run(TraceMiddleware(app)(request_scope(), at_once, at_once))
    (span,) = exporter.spans
    assert [event.attributes["exception.message"] for event in span.events] == ["boom"]
    assert span.attributes["error.type"] == "ValueError"
    assert span.attributes["http.response.status_code"] == 500


def test_an_exception_after_a_complete_response_is_no_error_of_the_request(exporter):
    async def app(scope, receive, send):
        await answer(scope, receive, send)
        with tracekit.span("background task"):
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        run(TraceMiddleware(app)(request_scope(), at_once, at_once))
    assert span_tree(exporter.spans) == "GET\n  background task [error]"


def test_an_exception_that_ends_a_send_is_freed_when_it_was_handled(exporter):
    ended = []

    async def app(scope, receive, send):
        try:
            await send(START)
        except asyncio.CancelledError as error:
            ended.append(weakref.ref(error))
            raise

    async def send(message):
        await asyncio.Event().wait()

    async def serve():
        with contextlib.suppress(asyncio.CancelledError):
            await TraceMiddleware(app)(request_scope(), None, send)

    async def main():
        served = asyncio.ensure_future(serve())
        await asyncio.sleep(0)
        served.cancel()
        await served
        return ended[0]() is None

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(main())
    finally:
        gc.enable()


@pytest.mark.anyio
async def test_a_cancelled_request_is_cancelled_and_no_error(exporter):
    async def app(scope, receive, send):
        await send(START)
        tasks.cancel_scope.cancel()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(TraceMiddleware(app), request_scope(), None, Peer().send)
    (span,) = exporter.spans
    assert span.status.code == "cancelled"
    assert span.events == ()
    assert "error.type" not in span.attributes
    assert span.attributes["http.response.status_code"] == 200


@pytest.mark.anyio
async def test_a_disconnect_received_by_the_app_ends_the_span_as_cancelled(exporter):
    async def app(scope, receive, send):
        await send(START)
        assert (await receive())["type"] == "http.disconnect"
        assert scope[SPAN_KEY].ended
        with tracekit.span("clean up"):
            pass
        raise ConnectionError("as Starlette does for who was reading the body")

    peer = Peer({"type": "http.disconnect"})
    with pytest.raises(ConnectionError):
        await TraceMiddleware(app)(request_scope(), peer.receive, peer.send)
    assert span_tree(exporter.spans) == "GET [cancelled]\n  clean up"
    (span,) = [span for span in exporter.spans if span.kind == "server"]
    assert span.status.description == "the client disconnected"
    assert [event.name for event in span.events] == ["disconnect"]


@pytest.mark.anyio
@pytest.mark.parametrize("message", [START, MORE, LAST], ids=["start", "more", "last"])
async def test_a_failing_send_means_that_the_client_has_gone(exporter, message):
    async def app(scope, receive, send):
        await send(message)

    async def send(message):
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await TraceMiddleware(app)(request_scope(), None, send)
    (span,) = exporter.spans
    assert span.status.code == "cancelled"
    assert [event.name for event in span.events] == ["disconnect"]


@pytest.mark.anyio
async def test_a_disconnect_after_a_complete_response_is_ignored(exporter):
    disconnect = {"type": "http.disconnect"}
    received = []

    async def app(scope, receive, send):
        async with anyio.create_task_group() as tasks:

            async def listen():
                received.append(await receive())

            tasks.start_soon(listen)
            await send(START)
            await send(LAST)

    is_over = anyio.Event()

    async def receive():
        await is_over.wait()
        return disconnect

    async def send(message):
        if message is LAST:  # the server reports the disconnect before send() returns
            is_over.set()
            while not received:
                await anyio.lowlevel.checkpoint()

    await TraceMiddleware(app)(request_scope(), receive, send)
    assert received == [disconnect]
    assert span_tree(exporter.spans) == "GET"
    assert exporter.spans[0].events == ()


# Websockets


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


# Transparency


@pytest.mark.parametrize(
    "scope", [{"type": "lifespan", LIFESPAN_KEY: True}, {"type": "of tomorrow"}, {"type": None}, {"type": []}, {}]
)
def test_other_scopes_are_passed_on_unchanged(exporter, scope):
    seen = []

    async def app(*arguments):
        seen.extend(arguments)

    before = dict(scope)
    run(TraceMiddleware(app)(scope, at_once, answer))
    assert seen[0] is scope
    assert seen[1:] == [at_once, answer]
    assert scope == before
    assert exporter.spans == []


def test_the_channels_of_an_unrecorded_request_are_not_wrapped():
    seen = []

    async def app(scope, receive, send):
        seen.extend([receive, send, tracekit.current_context().trace_id])

    run(TraceMiddleware(app)(request_scope(CALLER), at_once, answer))
    assert seen == [at_once, answer, TRACE_ID]


def test_no_attributes_are_made_for_an_unsampled_request(exporter):
    seen = []

    async def app(scope, receive, send):
        seen.extend([receive, send, tracekit.current_context().sampled])

    run(TraceMiddleware(app)(request_scope(UNSAMPLED, scheme=Broken()), at_once, answer))
    assert seen == [at_once, answer, False]
    assert exporter.spans == []


def test_layers_around_find_the_span_in_the_scope(exporter):
    found = []

    async def outer(scope, receive, send):
        await TraceMiddleware(answer)(scope, receive, send)
        found.append(scope[SPAN_KEY])

    run(outer(request_scope(), at_once, at_once))
    assert found == exporter.spans


class Sealed(UserDict):
    """A server's own mapping that takes no key of another's."""

    def __setitem__(self, key, value):
        if key == SPAN_KEY:
            raise TypeError("sealed")
        super().__setitem__(key, value)


def test_a_scope_that_takes_no_key_is_served_without_tracing_and_the_span_ends(exporter):
    seen = []

    async def app(scope, receive, send):
        seen.append((scope["path"], tracekit.current_span(), receive, send))

    run(TraceMiddleware(app)(Sealed(request_scope(path="/a")), at_once, at_once))
    assert seen == [("/a", None, at_once, at_once)]
    (span,) = exporter.spans
    assert (span.name, span.status) == ("GET", tracekit.Status("unset"))


def test_a_second_middleware_inside_does_nothing(exporter):
    run(TraceMiddleware(TraceMiddleware(answer))(request_scope(CALLER), at_once, at_once))
    assert span_tree(exporter.spans) == "GET <- remote"


@pytest.mark.parametrize("mapping", [dict, UserDict])
def test_headers_that_can_be_read_only_once_still_reach_the_app(exporter, mapping):
    seen = []

    async def app(scope, receive, send):
        seen.extend(scope["headers"])

    headers = [CALLER, (b"host", b"shop.example")]
    run(TraceMiddleware(app)(mapping(request_scope(headers=iter(headers))), at_once, at_once))
    assert seen == headers
    assert exporter.spans[0].context.trace_id == TRACE_ID
    assert exporter.spans[0].attributes["server.address"] == "shop.example"


def test_a_hook_that_is_interrupted_leaves_no_span_current(exporter):
    def interrupted(span, scope):
        raise KeyboardInterrupt

    serving = TraceMiddleware(answer, on_request=interrupted)(request_scope(), at_once, at_once)
    with pytest.raises(KeyboardInterrupt):
        serving.send(None)
    assert tracekit.current_span() is None
    assert [span.name for span in exporter.spans] == ["GET"]
