"""Oversized and malformed requests, statements and responses: the result is as without tracing, and no secret is recorded.

The servers and clients are the integrations' own, around an application or a transport in memory.
"""

from __future__ import annotations

import gc
import http.client
import tracemalloc
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace

import httpx
import httpx2
import pytest
import sqlalchemy as sa
from aiohttp.test_utils import make_mocked_request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict
from yarl import URL

import tracekit
from tracekit.integrations import _aiohttp_client, _aiohttp_server, _client, _grpc, asgi, http_client, http_server, wsgi
from tracekit.integrations import httpx as tracing_httpx
from tracekit.integrations import httpx2 as tracing_httpx2
from tracekit.integrations import sqlalchemy as tracing_sqlalchemy

from .peer import LAST, Socket, answered, at_once, request_scope, run

SECRET = "s3cr3t"
OURS = {"traceparent", "tracestate"}
CAPTURE = {"capture_request_headers": ["x-0", "authorization"], "capture_response_headers": ["x-0", "set-cookie"]}


@pytest.fixture(autouse=True)
def undo():
    yield
    http_client.uninstrument()
    http_server.uninstrument()
    assert tracekit.current_span() is None


def recorded(exporter):
    """Return all texts of the spans."""
    return repr([(one.name, dict(one.attributes), one.events, one.status, one.links) for one in exporter.spans])


# ---- one exchange with each server; returns the request that the application received, and its response


def with_asgi(traced, target, headers):
    got = []

    async def app(scope, receive, send):
        got.append((scope["raw_path"], scope["query_string"], scope["headers"]))
        await send({"type": "http.response.start", "status": 200, "headers": octets})
        await send(LAST)

    async def send(message):
        got.append(dict(message))

    octets = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    path, _, query = target.encode("latin-1").partition(b"?")  # as uvicorn does
    scope = request_scope(raw_path=path, path=path.decode("latin-1"), query_string=query, headers=octets)
    run((asgi.TraceMiddleware(app, **CAPTURE) if traced else app)(scope, at_once, send))
    return got


def with_wsgi(traced, target, headers):
    got = []

    def app(environ, start_response):
        got.append({name: value for name, value in environ.items() if name.startswith(("HTTP_", "PATH", "QUERY"))})
        start_response("200 OK", headers)
        return [b"hello"]

    path, _, query = target.partition("?")  # as wsgiref does
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": query, "SERVER_PROTOCOL": "HTTP/1.1"}
    environ.update({"wsgi.url_scheme": "http", "SERVER_NAME": "a", "SERVER_PORT": "80"})
    environ.update({f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers})
    result = (wsgi.TraceMiddleware(app, **CAPTURE) if traced else app)(
        environ, lambda status, sent: got.append((status, sent))
    )
    got.append(list(result))
    if traced:
        result.close()
    return got


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.got.append((self.path, self.headers.items()))
        self.send_response(200)
        for name, value in self.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_):
        pass

    def date_time_string(self, *_):
        return "now"


def with_http_server(traced, target, headers):
    if traced:
        http_server.instrument(**CAPTURE)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return answered(Handler, f"GET {target} HTTP/1.0\r\n{lines}\r\n".encode("latin-1"))


def with_aiohttp_server(traced, target, headers):
    async def handler(request):
        return request.raw_path, list(request.headers.items())

    transport = SimpleNamespace(get_extra_info=lambda name, default=None: default)
    request = make_mocked_request("GET", target, CIMultiDict(headers), transport=transport).clone(remote="192.0.2.1")
    request._match_info = SimpleNamespace(route=SimpleNamespace(resource=None))
    coroutine = _aiohttp_server.Server().serve(request, handler) if traced else handler(request)
    with pytest.raises(StopIteration) as end:
        coroutine.send(None)
    return end.value.value


# ---- and with each client: what the server got, less the headers that tracing adds


def without_ours(pairs):
    return [(name, value) for name, value in pairs if str(name).lower() not in OURS]


def with_module(module, transport, traced, target, headers):
    got = []

    def answer(request):
        got.append((str(request.url), without_ours(request.headers.items())))
        return module.Response(200, headers=request.headers)

    inner = module.MockTransport(answer)
    with module.Client(transport=transport(inner) if traced else inner) as client:
        octets = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        response = client.get(target if "://" in target else f"http://shop.example{target}", headers=octets)
    return got, response.status_code, without_ours(response.headers.items())


def with_httpx(*arguments):
    return with_module(httpx, tracing_httpx.TraceTransport, *arguments)


def with_httpx2(*arguments):
    return with_module(httpx2, tracing_httpx2.TraceTransport, *arguments)


def with_http_client(traced, target, headers):
    if traced:
        http_client.instrument()
    connection = http.client.HTTPConnection("proxy.example", 3128)
    connection.sock = Socket(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
    connection.putrequest("GET", target, skip_host=True)
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    lines = [line for line in connection.sock.sent.split(b"\r\n") if not line.startswith(b"traceparent:")]
    return lines, response.status, response.read()


def with_aiohttp_client(traced, target, headers):
    async def handler(request):
        got = without_ours(request.headers.items())
        return SimpleNamespace(status=200, version=None, connection=None, headers=got)

    url = URL(target if "://" in target else f"http://shop.example{target}")
    request = SimpleNamespace(method="GET", url=url, headers=CIMultiDict(headers))
    attempts = _aiohttp_client._Attempts(_client.Client())
    with pytest.raises(StopIteration) as end:
        (attempts(request, handler) if traced else handler(request)).send(None)
    return str(request.url), end.value.value.headers


SERVERS = [with_asgi, with_wsgi, with_http_server, with_aiohttp_server]
CLIENTS = [with_httpx, with_httpx2, with_http_client, with_aiohttp_client]
ALL = pytest.mark.parametrize("exchange", SERVERS + CLIENTS, ids=lambda exchange: exchange.__name__)

BOMBS = {
    "10,000 headers": [(f"x-{number}", "a") for number in range(10_000)],
    "10,000 times one header": [("x-0", "a")] * 10_000,
    "1 MB in one header": [("x-0", "a" * 1_000_000)],
    "1 MB of labels": [("baggage", "a=1," * 250_000)],
    "1 MB of a traceparent": [("traceparent", "0" * 1_000_000)],
    "1 MB of a host": [("host", "a" * 1_000_000), ("user-agent", "a" * 1_000_000)],
    "10,000 traceparents": [("traceparent", f"00-{'1' * 32}-{'2' * 16}-01")] * 10_000,
    "other than Latin letters": [("x-0", "\xff\x80\xe9"), ("user-agent", "\xff" * 5000), ("host", "\xff")],
}


# http.server rejects more and longer ones, and httpx takes time that is quadratic in their number.
LIMITS = {with_http_server: (90, 60_000), with_httpx: (1000, None)}


@ALL
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_of_headers_arrives_as_without_tracing(exporter, caplog, exchange, bomb):
    most, longest = LIMITS.get(exchange, (None, None))
    headers = [(name, value[:longest]) for name, value in BOMBS[bomb][:most]]
    bare = exchange(False, "/a", [pair for pair in headers if exchange in SERVERS or pair[0] not in OURS])
    assert exchange(True, "/a", headers) == bare
    (span,) = exporter.spans
    assert len(recorded(exporter)) < 40_000
    assert all(len(str(value)) <= 8 * 1024 + 100 for value in span.attributes.values())
    assert caplog.records == []


TARGETS = [
    f"/a?token={SECRET}",
    f"/a?b=1&TOKEN={SECRET}&c=2",
    f"/a?b=1;api_key={SECRET}",
    f"/a?to%6Ben={SECRET}",
    f"/a?%74%6F%6B%65%6E={SECRET}&%74%6F%6B%65%6E={SECRET}",
    f"/a?token={SECRET}{SECRET * 10_000}",
    f"/a?{'x' * 1010}&token={SECRET}",
    f"/a?b=1#access_token={SECRET}",
    f"/a#access_token={SECRET}",
    f"http://user:{SECRET}@shop.example/a",
    f"http://user:{SECRET}@shop.example:8080/a?token={SECRET}#token={SECRET}",
    f"http://user:{SECRET}%40home@shop.example/a@b",
    f"http://{SECRET * 100}:{SECRET}@shop.example/a",
    f"http://user:{SECRET}@shop.example",
    f"http://user:{SECRET}@shop.example?token={SECRET}",
]


# PATH_INFO is decoded, so a fragment in it is not told from an encoded number sign.
CASES = [(one, target) for one in SERVERS + CLIENTS for target in TARGETS if one is not with_wsgi or target[2] != "#"]


@pytest.mark.parametrize(("exchange", "target"), CASES, ids=[f"{one.__name__} {target[:40]}" for one, target in CASES])
def test_secrets_in_a_url_are_not_recorded(exporter, exchange, target):
    bare = exchange(False, target, [("x-0", "a")])
    assert exchange(True, target, [("x-0", "a")]) == bare
    assert len(exporter.spans) == 1
    assert SECRET not in recorded(exporter)


@pytest.mark.parametrize("exchange", SERVERS, ids=lambda exchange: exchange.__name__)
def test_secrets_in_headers_are_not_recorded(exporter, exchange):
    headers = [("Host", f"{'u' * 300}:{SECRET}@shop.example"), ("Authorization", SECRET), ("Set-Cookie", SECRET)]
    assert exchange(True, "/a", headers) == exchange(False, "/a", headers)
    assert SECRET not in recorded(exporter)
    assert exporter.spans[0].attributes["server.address"] == "shop.example"


LINES = [
    *(
        b"GET ",
        b"/a",
        b" HTTP/1.1",
        b" HTTP/1.0",
        b" HTTP/0.9",
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"?token=s3cr3t",
        b"\xff",
        b"\0",
    ),
    *(
        b"Host: a",
        b"traceparent: ",
        b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01",
        b"http://user:s3cr3t@b",
        b": ",
        b"*",
    ),
    *(b"Connection: keep-alive", b"Expect: 100-continue", b"BREW ", b"HEAD ", b"#"),
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.sampled_from(LINES) | st.binary(max_size=9), max_size=12).map(b"".join), st.booleans())
def test_any_octets_are_answered_by_http_server_as_without_tracing(exporter, octets, has_line):
    exporter.clear()
    octets = (b"GET /a" if has_line else b"") + octets + b"\r\n\r\n"
    bare = answered(Handler, octets)
    http_server.instrument(**CAPTURE)
    try:
        assert answered(Handler, octets) == bare
    finally:
        http_server.uninstrument()
    assert tracekit.current_span() is None


@pytest.mark.parametrize("exchange", SERVERS, ids=lambda exchange: exchange.__name__)
def test_the_hosts_that_clients_name_are_not_kept(exporter, exchange):
    def serve(count):
        for number in range(count):
            exchange(True, "/a", [("host", f"{number}" + "a" * 50_000), ("user-agent", "a" * 50_000)])
        exporter.clear()

    serve(1)
    tracemalloc.start()
    try:
        serve(40)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()


# ---- calls of gRPC


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_of_metadata_is_served_and_sent(exporter, caplog, bomb):
    metadata = BOMBS[bomb]
    context = SimpleNamespace(invocation_metadata=lambda: metadata, peer=lambda: f"ipv4:{SECRET * 1000}:1")
    with _grpc.Server().start("/shop.Shop/buy", context):
        pass
    channel = SimpleNamespace(_target="shop.example:50051")
    client_span, sent = _grpc.Method(_grpc.Client(), channel, "/shop.Shop/buy").start(metadata)
    _grpc.end(client_span)
    assert without_ours(sent) == without_ours(metadata)
    assert [one.kind for one in exporter.spans] == ["server", "client"]
    assert len(recorded(exporter)) < 10_000
    assert caplog.records == []


# ---- statements


STATEMENTS = {
    "10 MB in one literal": (f"SELECT 1 WHERE '{SECRET * 1_700_000}' = 'a'", {}),
    "10 MB of literals": ("SELECT 1 WHERE 'a' IN (" + f"'{SECRET}'," * 30_000 + "'b')" + " " * 10_000_000, {}),
    "10 MB of a comment": (f"SELECT /* {SECRET * 1_700_000} */ 1", {}),
    "10 MB without an end": (f"SELECT '{SECRET * 1_700_000}", {}),
    "10 MB of nonsense": ("\x00\ud7ff'\"`[" * 1_600_000, {}),
    "10 MB of parentheses": ("SELECT " + "(" * 10_000_000, {}),
    "10 MB as a parameter": ("SELECT length(:a)", {"a": SECRET * 1_700_000}),
    "a parameter that fails": ("INSERT INTO items VALUES (:a)", {"a": SECRET}),
    "other than Latin letters": ("SELECT '\u20ac\U0001f600' AS \u20ac", {}),
    "nothing": ("", {}),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_out_of_bounds_is_executed_as_without_tracing(exporter, caplog, name):
    def outcome():
        engine = sa.create_engine("sqlite://")
        if traced:
            tracing_sqlalchemy.instrument(engine)
        with engine.connect() as connection:
            connection.execute(sa.text("CREATE TABLE items (name TEXT UNIQUE)"))
            connection.execute(sa.text("INSERT INTO items VALUES (:a)"), {"a": SECRET})
            try:
                statement, parameters = STATEMENTS[name]
                if not parameters:
                    return connection.exec_driver_sql(statement).all()
                return connection.execute(sa.text(statement), parameters).all()
            except sa.exc.SQLAlchemyError as error:
                return type(error), str(error)
            finally:
                connection.close()
                engine.dispose()

    traced = False
    bare = outcome()
    traced = True
    assert outcome() == bare
    assert len(exporter.spans) == 3
    # The message of an exception is the database's: here SQLite's repeats a word of the statement.
    assert SECRET not in repr([(one.name, dict(one.attributes)) for one in exporter.spans])
    assert len(recorded(exporter)) < 60_000
    assert caplog.records == []
