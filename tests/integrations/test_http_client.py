from __future__ import annotations

import contextlib
import gc
import http.client
import json
import re
import socket
import threading
import urllib.error
import urllib.request
import weakref
import xmlrpc.client

import botocore.awsrequest
import botocore.httpsession
import pytest
import requests
import urllib3

import tracekit
from tracekit.bridges import opentelemetry as bridge
from tracekit.integrations import _client, _http, _http_client_calls, http_client
from tracekit.testing import span_tree
from tracekit.wire import b3

from .http_servers import shop


@pytest.fixture(scope="module")
def port():
    with shop() as port:
        yield port


@pytest.fixture
def base(port):
    return f"http://127.0.0.1:{port}"


@pytest.fixture(autouse=True)
def instrumented(monkeypatch):
    monkeypatch.setattr(_http, "NOTICES", _http.Notices())
    http_client.instrument()
    yield
    http_client.uninstrument()


def by_http_client(url, headers):
    parts = urllib3.util.parse_url(url)
    with contextlib.closing(http.client.HTTPConnection(parts.host, parts.port)) as connection:
        connection.request("GET", parts.request_uri, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()


def by_urllib(url, headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def by_urllib3(url, headers):
    with urllib3.PoolManager() as pool:
        response = pool.request("GET", url, headers=headers, retries=False)
        return response.status, response.data


def by_requests(url, headers):
    response = requests.get(url, headers=headers, allow_redirects=False)
    return response.status_code, response.content


def by_botocore(url, headers):
    session = botocore.httpsession.URLLib3Session()
    with contextlib.closing(session):
        request = botocore.awsrequest.AWSRequest("GET", url, headers=headers).prepare()
        response = session.send(request)
        return response.status_code, response.content


WAYS = [by_http_client, by_urllib, by_urllib3, by_requests, by_botocore]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def way(request):
    return request.param


def sent(body):
    found = {}
    for name, value in json.loads(body):
        found.setdefault(name.lower(), []).append(value)
    return found


def test_each_library_has_a_client_span_and_sends_its_context(exporter, way, base):
    with tracekit.span("outer"), tracekit.use_labels(tenant="acme"):
        _, body = way(f"{base}/items/3?q=1&sig=s3cr3t", {"x": "y"})
    client_span, _ = exporter.spans
    assert span_tree(exporter.spans) == "outer\n  GET"
    assert client_span.kind == "client"
    headers = sent(body)
    assert headers["traceparent"] == [f"00-{client_span.context.trace_id}-{client_span.context.span_id}-03"]
    assert headers["baggage"] == ["tenant=acme"]
    assert headers["x"] == ["y"]
    assert dict(client_span.attributes) == {
        "http.request.method": "GET",
        "url.full": f"{base}/items/3?q=1&sig=REDACTED",
        "server.address": "127.0.0.1",
        "server.port": int(base.rpartition(":")[2]),
        "http.response.status_code": 200,
        "network.protocol.version": "1.1",
    }
    assert client_span.status.code == "unset"


@pytest.mark.parametrize("name", ["traceparent", "TraceParent"])
def test_stale_headers_are_replaced(exporter, way, base, name):
    _, body = way(base + "/", {name: f"00-{'1' * 32}-{'2' * 16}-01", "tracestate": "a=1", "baggage": "mine=1"})
    (span,) = exporter.spans
    assert sent(body)["traceparent"] == [f"00-{span.context.trace_id}-{span.context.span_id}-03"]
    assert "tracestate" not in sent(body)
    assert sent(body)["baggage"] == ["mine=1"]


@pytest.mark.parametrize("path", ["/chunked", "/close", "/status/204", "/status/304", "/"])
def test_the_span_ends_with_every_kind_of_body(exporter, way, base, path):
    way(base + path, {})
    (span,) = exporter.spans
    assert span.status.code == "unset"


@pytest.mark.parametrize("status", [404, 503])
def test_statuses_from_400_on_are_errors(exporter, way, base, status):
    assert way(f"{base}/status/{status}", {})[0] == status
    (span,) = exporter.spans
    assert span.status.code == "error"
    assert span.attributes["error.type"] == str(status)
    assert span.attributes["http.response.status_code"] == status


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/hang-up", "http.client.RemoteDisconnected"),
        ("/garbage", "http.client.BadStatusLine"),
        ("/chunked-cut", "IncompleteRead|ProtocolError"),
    ],
)
def test_an_error_of_the_connection_is_recorded_and_raised(exporter, way, base, path, error):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each library has its own
        way(base + path, {})
    assert not isinstance(caught.value, AttributeError | TypeError)
    spans = exporter.spans
    assert {span.status.code for span in spans} == {"error"}
    for span in spans:
        assert re.search(error, span.attributes["error.type"])
        assert [event.name for event in span.events] == ["exception"]


def test_a_body_that_is_cut_off_is_an_error_even_where_the_library_raises_none(exporter, way, base):
    with contextlib.suppress(http.client.HTTPException, requests.RequestException, urllib3.exceptions.HTTPError):
        way(f"{base}/short", {})
    (span,) = exporter.spans
    assert span.status.code == "error"
    assert "IncompleteRead" in span.attributes["error.type"]


def test_a_connection_that_fails_is_an_error(exporter):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            by_http_client(f"http://127.0.0.1:{closed.getsockname()[1]}/", {})
    (span,) = exporter.spans
    assert span.attributes["error.type"] == "ConnectionRefusedError"


def test_each_hop_of_a_redirect_has_a_sibling_span(exporter, base):
    with tracekit.span("outer"):
        response = requests.get(f"{base}/redirect?{base}/redirect?{base}/")
    assert span_tree(exporter.spans) == "outer\n  GET\n  GET\n  GET"
    *hops, _ = exporter.spans
    assert [hop.attributes["http.response.status_code"] for hop in hops] == [302, 302, 200]
    assert sent(response.content)["traceparent"] == [f"00-{hops[2].context.trace_id}-{hops[2].context.span_id}-03"]


def test_each_retry_has_a_span(exporter, base):
    with urllib3.PoolManager() as pool:
        response = pool.request(
            "GET", f"{base}/status/503", retries=urllib3.Retry(2, status_forcelist=[503], raise_on_status=False)
        )
    assert response.status == 503
    assert [span.attributes["http.response.status_code"] for span in exporter.spans] == [503, 503, 503]


def test_connections_are_reused(exporter, base, port):
    with (
        tracekit.span("outer") as outer,
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection,
    ):
        socks = set()
        for path in ["/", "/chunked", "/status/204", "/"]:
            connection.request("GET", path)
            socks.add(connection.sock)
            connection.getresponse().read()
    assert len(socks) == 1
    # A response that an earlier test left unread may end its span at any time: when it is collected.
    assert len([span for span in exporter.spans if span.parent == outer.context]) == 4


def test_a_body_read_in_parts_ends_the_span_with_the_last(exporter, port):
    def take(read):
        before = len(exporter.spans)
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
            connection.request("GET", "/chunked")
            response = connection.getresponse()
            assert read(response)
            assert len(exporter.spans) == before
            while read(response):
                pass
            assert len(exporter.spans) == before + 1

    take(lambda response: response.read(3))
    take(lambda response: response.read1(3))
    take(lambda response: response.readinto(bytearray(3)))
    take(lambda response: response.readline())


def test_a_request_without_a_response_is_cancelled(exporter, port):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/")
    connection.close()
    (span,) = exporter.spans
    assert span.status == ("cancelled", "the connection was closed before the response")
    assert _http_client_calls.FIELD not in vars(connection)


@pytest.mark.parametrize("close_of", [_http_client_calls.close_connection_of, _http_client_calls.close_response_of])
def test_a_thread_that_closes_what_another_one_has_just_closed_raises_nothing(close_of):
    class Taken(dict):
        def __contains__(self, key):  # the other thread has it before the next step
            return True

    class Closed:
        __dict__ = property(lambda self: Taken())

    assert close_of(lambda closed: "closed")(Closed()) == "closed"


def test_closing_an_unread_response_ends_the_span_without_an_error(exporter, base):
    response = urllib.request.urlopen(f"{base}/")
    assert exporter.spans == []
    response.close()
    assert exporter.spans[0].status.code == "unset"


def test_the_error_that_a_request_is_made_after_is_not_its_own(exporter, base):
    try:
        raise ConnectionError("the mirror")
    except ConnectionError:
        requests.get(f"{base}/chunked")  # urllib3 closes the response while the error is handled
    (span,) = exporter.spans
    assert span.status.code == "unset"


def test_a_response_that_is_not_ready_keeps_its_span(exporter, port):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("GET", "/1")
        first = connection.getresponse()
        first.read(first.length - 1)  # the last octet is buffered: to read it takes nothing of the second answer
        connection.request("GET", "/2")
        with pytest.raises(http.client.ResponseNotReady):
            connection.getresponse()
        first.read()
        connection.getresponse().read()
    assert [span.attributes["url.full"][-2:] for span in exporter.spans] == ["/1", "/2"]


def test_tracing_holds_neither_connection_nor_response(exporter, port):
    gc.disable()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/")
        response = connection.getresponse()
        held = [weakref.ref(connection), weakref.ref(response)]
        response.close()
        connection.close()
        del response, connection
        assert [reference() for reference in held] == [None, None]
    finally:
        gc.enable()


def test_a_response_that_is_dropped_unread_ends_its_span(exporter, port):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/")
    connection.getresponse()
    connection.close()
    gc.collect()
    assert len(exporter.spans) == 1


# Proxies


def test_a_request_through_a_proxy_names_the_server_and_no_user(exporter, base, port):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection, tracekit.use_labels(a="b"):
        connection.request("GET", "http://user:s3cr3t@stranger.example:81/a?token=s3cr3t#s3cr3t")
        headers = sent(connection.getresponse().read())
    (span,) = exporter.spans
    assert span.attributes["url.full"] == "http://stranger.example:81/a?token=REDACTED"
    assert (span.attributes["server.address"], span.attributes["server.port"]) == ("stranger.example", 81)
    assert "baggage" not in headers
    assert "traceparent" in headers


def test_a_tunnel_has_no_span_and_its_request_names_the_server(exporter, port):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.set_tunnel("stranger.example", 8443)
        connection.request("GET", "/a")
        connection.getresponse().read()
    (span,) = exporter.spans
    assert span.attributes["url.full"] == "http://stranger.example:8443/a"


# No span


def test_a_request_is_silent_under_a_client_span_for_the_same_host(exporter, base, port):
    attributes = {"http.request.method": "GET", "server.address": "127.0.0.1"}
    with tracekit.span("GET", kind="client", attributes=attributes):
        _, body = by_requests(f"{base}/", {"traceparent": "theirs"})
        _, other = by_requests(f"http://localhost:{port}/", {})
    assert sent(body)["traceparent"] == ["theirs"]
    assert "traceparent" in sent(other)
    assert span_tree(exporter.spans) == "GET\n  GET"


def test_a_client_span_of_the_programs_own_is_no_reason_for_silence(exporter, base):
    with tracekit.span("call", kind="client"):
        by_requests(f"{base}/", {})
    assert span_tree(exporter.spans) == "call\n  GET"


@pytest.mark.parametrize("key", ["suppress_instrumentation", "suppress_http_instrumentation"])
def test_a_suppressed_request_has_no_span_and_no_headers(exporter, way, base, key):
    from opentelemetry import context

    bridge.install()
    try:
        token = context.attach(context.set_value(key, True))
        try:
            _, body = way(f"{base}/", {})
        finally:
            context.detach(token)
    finally:
        bridge.uninstall()
    assert exporter.spans == []
    assert "traceparent" not in sent(body)


def test_without_configure_the_context_is_sent_all_the_same(way, base):
    with tracekit.span("outer") as outer:
        _, body = way(f"{base}/", {})
    assert sent(body)["traceparent"][0].split("-")[1] == outer.context.trace_id


# Bad input


class Hostile(str):
    __slots__ = ()

    def __str__(self):
        raise RuntimeError("hostile")

    __repr__ = __format__ = __str__


def test_hostile_text_is_sent_as_without_tracing(exporter, port):
    def answers():
        with contextlib.closing(http.client.HTTPConnection(Hostile("127.0.0.1"), port)) as connection:
            connection.request("GET", "/a", headers={"x": Hostile("y")})
            return sent(connection.getresponse().read())["x"]

    traced = answers()
    http_client.uninstrument()
    assert answers() == traced == ["y"]


def test_an_unknown_method_is_other(exporter, port):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("BREW", "*")
        connection.getresponse().read()
    (span,) = exporter.spans
    assert span.name == "HTTP"
    assert span.attributes["http.request.method_original"] == "BREW"
    assert span.attributes["url.full"] == f"http://127.0.0.1:{port}/*"


def test_a_bomb_of_headers_is_sent_whole(exporter, port):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.putrequest("GET", "/" + "p" * 50_000)
        for number in range(90):
            connection.putheader(f"x-{number}", "v" * 500)
        connection.endheaders()
        assert connection.getresponse().status == 200
    assert len(exporter.spans) == 1


@pytest.mark.parametrize("broken", ["is_port", "inject", "names"])
def test_an_error_of_tracing_is_logged_once_and_the_request_is_sent(exporter, way, base, monkeypatch, caplog, broken):
    def fail(*_, **__):
        raise RuntimeError("tracing is broken")

    tracekit.configure(exporter=exporter, formats=[b3.SINGLE])  # the names of the W3C fields are known
    monkeypatch.setattr(_client, broken, fail)
    for _ in range(2):
        assert way(f"{base}/", {})[0] == 200
    assert [record.name for record in caplog.records if record.levelname == "WARNING"] == ["tracekit"]


def test_a_response_class_of_the_programs_own_is_answered_as_without_tracing(exporter, port):
    class Strange:
        def __init__(self, *_, **__):
            self.will_close = True

        def begin(self):
            pass

    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.response_class = Strange
    connection.request("GET", "/")
    assert type(connection.getresponse()) is Strange
    assert len(exporter.spans) == 1


def test_an_interrupted_request_is_cancelled(exporter, port, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    connection = http.client.HTTPConnection("127.0.0.1", port)
    monkeypatch.setattr(connection, "send", interrupt)
    with pytest.raises(KeyboardInterrupt):
        connection.request("GET", "/")
    connection.close()
    assert [span.status.code for span in exporter.spans] == ["cancelled"]


# instrument() and uninstrument()


def test_uninstrument_puts_back_exactly_what_there_was(exporter, base):
    names = [*http_client._READERS, "close"]
    traced = [getattr(http.client.HTTPResponse, name) for name in names]
    http_client.instrument()  # changes nothing
    assert [getattr(http.client.HTTPResponse, name) for name in names] == traced
    http_client.uninstrument()
    assert not any(hasattr(getattr(http.client.HTTPResponse, name), "__wrapped__") for name in names)
    assert not hasattr(http.client.HTTPConnection.endheaders, "__wrapped__")
    by_requests(f"{base}/", {})
    assert exporter.spans == []
    http_client.uninstrument()


def test_a_request_that_is_open_when_tracing_is_taken_out_is_answered(exporter, port):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("GET", "/")
        http_client.uninstrument()
        assert connection.getresponse().read()


@pytest.mark.parametrize("call", [http_client.instrument, http_client.uninstrument])
def test_an_object_is_a_type_error(call):
    with pytest.raises(TypeError, match=r"http\.client is instrumented as a whole"):
        call(http.client.HTTPConnection("127.0.0.1"))


def test_options_reach_the_spans(exporter, base):
    http_client.uninstrument()
    http_client.instrument(redact=["ssn"], propagate_to=lambda _: False)
    with tracekit.use_labels(a="b"):
        _, body = by_requests(f"{base}/?ssn=1", {})
    assert "baggage" not in sent(body)
    assert exporter.spans[0].attributes["url.full"].endswith("?ssn=REDACTED")


def test_invalid_options_are_errors_and_nothing_is_patched():
    http_client.uninstrument()
    with pytest.raises(TypeError, match="redact must be"):
        http_client.instrument(redact="ssn")
    assert not hasattr(http.client.HTTPConnection.endheaders, "__wrapped__")


def test_xmlrpc_is_carried_too(exporter, base):
    with pytest.raises(Exception):  # noqa: PT011 - this server's answer is JSON
        xmlrpc.client.ServerProxy(f"{base}/rpc").ping()
    assert [span.name for span in exporter.spans] == ["POST"]


def test_threads_have_their_own_spans(exporter, base):
    def work(number):
        with tracekit.span(f"job {number}"):
            by_requests(f"{base}/", {})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(span_tree(exporter.spans).splitlines()) == sorted([*[f"job {n}" for n in range(8)], *["  GET"] * 8])
