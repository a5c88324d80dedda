"""The name and the attributes of the span of an ASGI request."""

from __future__ import annotations

import gc
import http
import weakref
from collections import UserDict
from types import SimpleNamespace

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route

import tracekit
from tracekit._configure import use_hooks
from tracekit._core.free_threading import HAS_GIL
from tracekit._core.otlp import encode_spans
from tracekit.integrations.asgi import SPAN_KEY, TraceMiddleware

from .peer import (
    LAST,
    START,
    Broken,
    answer,
    at_once,
    request_scope,
    run,
)


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
