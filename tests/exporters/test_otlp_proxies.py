"""OTLP over HTTP through the proxy that the environment names, and endpoints that are written in unusual ways."""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import ssl
import struct
import threading

import pytest

from tracekit.exporters._otlp.client import Client
from tracekit.exporters.otlp import OTLPExporter

from .collector import Collector, Handler, Server, refuse
from .test_otlp import first_reason, free_port, made


class Forwarding(Server):
    """A proxy for POST with an absolute URL and for CONNECT; keeps each request's target and credentials.

    ``status`` other than 200 is the answer to CONNECT.
    """

    def __init__(self, status=200):
        self.seen: list[tuple[str, str, str | None]] = []
        proxy = self

        class Passing(Handler):
            def do_POST(self):
                proxy.seen.append((self.command, self.path, self.headers["Proxy-Authorization"]))
                host, _, rest = self.path.removeprefix("http://").partition("/")
                own = {name: value for name, value in self.headers.items() if not name.lower().startswith("proxy-")}
                connection = http.client.HTTPConnection(host)
                connection.request("POST", f"/{rest}", self.body(), own)
                answer = connection.getresponse()
                self.answer(answer.status, answer.read(), Content_Type="application/x-protobuf")
                connection.close()

            def do_CONNECT(self):
                proxy.seen.append((self.command, self.path, self.headers["Proxy-Authorization"]))
                self.send_response_only(status, None if status == 200 else "Not Here")
                self.end_headers()
                self.close_connection = True
                if status == 200:
                    host, port = self.path.split(":")
                    with socket.create_connection((host, int(port))) as target, contextlib.suppress(OSError):
                        relay(self.connection, target)

        super().__init__(Passing)
        self.address = f"127.0.0.1:{self.server_port}"


class Refusing(Handler):
    """Answers before the body was read, and closes, so the connection is reset."""

    def do_POST(self):
        self.answer(413)
        self.close_connection = True


def relay(one, other):
    """Pass octets both ways until one side closes."""
    while True:
        for ready in select.select([one, other], [], [])[0]:
            octets = ready.recv(65536)
            if not octets:
                return
            (other if ready is one else one).sendall(octets)


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def certificate(authority, tmp_path):
    path = tmp_path / "authority.pem"
    path.write_bytes(authority.cert_pem.bytes())
    return path


def send(exporter, times=2):
    for _ in range(times):
        exporter.export(made())
    exporter.shutdown()


@pytest.mark.parametrize("form", ["http://{}", "http://me:se%40cret@{}", "{}"])
def test_requests_go_through_the_proxy_of_the_environment(form, monkeypatch):
    with Collector() as collector, Forwarding() as proxy:
        monkeypatch.setenv("http_proxy", form.format(proxy.address))
        send(OTLPExporter(collector.url, environ={}))
        assert len(collector.spans) == 2
        credentials = "Basic bWU6c2VAY3JldA==" if "me:" in form else None
        assert proxy.seen == 2 * [("POST", collector.url, credentials)]
        assert all("proxy-authorization" not in headers for headers in collector.headers)


@pytest.mark.parametrize("form", ["http://{}", "http://me:se%40cret@{}"])
def test_tls_goes_through_a_tunnel_of_the_proxy(form, tls_collector, certificate, monkeypatch):
    with Forwarding() as proxy:
        monkeypatch.setenv("https_proxy", form.format(proxy.address))
        send(OTLPExporter(tls_collector.url, environ={}, certificate=certificate))
        assert len(tls_collector.spans) == 2
        target = tls_collector.url.removeprefix("https://").removesuffix("/v1/traces")
        # One connection for both requests; the credentials are the proxy's alone.
        assert proxy.seen == [("CONNECT", target, "Basic bWU6c2VAY3JldA==" if "me:" in form else None)]
        assert all("proxy-authorization" not in headers for headers in tls_collector.headers)


@pytest.mark.parametrize("names", ["127.0.0.1", "other.example:1, 127.0.0.1:{}"])
def test_no_proxy_names_hosts_without_one(names, monkeypatch):
    with Collector() as collector, Forwarding() as proxy:
        monkeypatch.setenv("http_proxy", proxy.address)
        monkeypatch.setenv("no_proxy", names.format(collector.server_port))
        send(OTLPExporter(collector.url, environ={}))
        assert (len(collector.spans), proxy.seen) == (2, [])


def test_a_proxy_that_refuses_the_tunnel_is_named(monkeypatch):
    with Forwarding(407) as proxy:
        monkeypatch.setenv("https_proxy", proxy.address)
        said = first_reason(OTLPExporter("https://127.0.0.1:4318", environ={}))
    assert said == "https://127.0.0.1:4318/v1/traces: the proxy answered 407 Not Here: check https_proxy and no_proxy"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_away_is_a_collector_that_cannot_be_reached(scheme, monkeypatch):
    port = free_port()
    monkeypatch.setenv(f"{scheme}_proxy", f"127.0.0.1:{port}")
    said = first_reason(OTLPExporter(f"{scheme}://192.0.2.1/v1/traces", environ={}))
    assert f" through the proxy 127.0.0.1:{port} cannot be reached: is it running? (Connection refused)" in said


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "https://127.0.0.1:3128", "http://"])
def test_other_kinds_of_proxies_are_refused(proxy, monkeypatch):
    monkeypatch.setenv("http_proxy", proxy)
    said = first_reason(OTLPExporter("http://127.0.0.1:4318", environ={}))
    assert said.endswith("http_proxy must be a URL such as http://proxy:3128")


def test_a_refusal_before_the_body_was_read_is_understood():
    with Server(Refusing) as server:
        client = Client("traces", server.url, {"environ": {}})
        answer = client.send(bytes(30 << 20), "application/x-protobuf", "", 60)
        client.close()
    assert (answer.outcome, answer.is_too_large) == ("refused", True)


def test_over_tls_a_collector_that_closes_while_it_is_sent_to_is_tried_again(authority, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Server(Refusing, tls=context) as server:
        client = Client("traces", server.url, {"environ": {}, "certificate": certificate})
        answer = client.send(bytes(30 << 20), "application/x-protobuf", "", 60)
        client.close()
    # The reset may have overtaken the answer; it is no fault of TLS, which would lose the spans at once.
    assert answer.is_too_large or (answer.outcome == "later" and not answer.is_lasting), answer


@pytest.mark.parametrize("password", ["se/cret", "se#cret", "se?cret", "se\u2100cret", "se\udc80cret"])
def test_no_message_has_a_part_of_a_proxys_password(password, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://user:{password}@127.0.0.1:3128")
    said = first_reason(OTLPExporter("http://127.0.0.1:9", environ={}))
    assert said == "http://127.0.0.1:9/v1/traces: http_proxy must be a URL such as http://proxy:3128"


def test_no_message_has_the_query_or_the_password_of_the_endpoint():
    said = first_reason(OTLPExporter(f"http://me:pw@127.0.0.1:{free_port()}/v1/traces?token=secret", environ={}))
    assert "cannot be reached" in said
    assert not any(word in said for word in ("me:", "pw", "secret"))


@pytest.mark.parametrize("form", ["http://me:secret@{}", "me:secret@{}", "other://me:secret@{}/collector"])
def test_no_message_has_the_password_of_a_target_of_grpc(form):
    endpoint = form.format(f"127.0.0.1:{free_port()}")
    said = first_reason(OTLPExporter(endpoint, protocol="grpc", insecure=True, environ={}, timeout_s=0.2))
    assert not any(word in said for word in ("me:", "secret")), said


def test_no_message_has_the_query_or_the_password_of_a_redirect():
    location = "https://me:pw@collector.example/v1/traces?token=secret"
    with Collector(refuse(308, Location=location)) as collector:
        sender = OTLPExporter(f"{collector.url}?token=secret", environ={})
        said = sender.probe(made()[0]).reason
        sender.shutdown()
    assert said.endswith(": set the endpoint to https://...@collector.example/v1/traces")


def test_hosts_are_written_for_the_proxy_as_dns_has_them(monkeypatch):
    with Forwarding(502) as proxy:
        monkeypatch.setenv("https_proxy", proxy.address)
        for host in ("bücher.example", "[::1]:4318", "collector.example."):
            first_reason(OTLPExporter(f"https://{host}/v1/traces", environ={}))
        targets = [target for _, target, _ in proxy.seen]
    assert targets == ["xn--bcher-kva.example:443", "[::1]:4318", "collector.example:443"]


def test_a_dot_at_the_end_of_a_host_is_no_part_of_its_certificate(authority, certificate, monkeypatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with Collector(tls=context) as collector:
        asked = []
        own = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", collector.server_port))
        monkeypatch.setattr(
            "tracekit.exporters._otlp.connections.socket.getaddrinfo", lambda host, *_: asked.append(host) or [own]
        )
        url = collector.url.replace("127.0.0.1", "localhost.")
        send(OTLPExporter(url, environ={}, certificate=certificate))
        assert len(collector.spans) == 2
        assert asked == ["localhost."]


def test_all_addresses_of_a_host_share_the_time(monkeypatch):
    """The first one answers nothing: its queue of connections is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, Collector() as collector:
        waiting = []
        for _ in range(4):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(full.getsockname())
        own = ("127.0.0.1", collector.server_port)
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in (full.getsockname(), own)]
        monkeypatch.setattr("tracekit.exporters._otlp.connections.socket.getaddrinfo", lambda *_: found)
        client = Client("traces", "http://collector.example", {"environ": {}})
        answer = client.send(b"", "application/x-protobuf", "", 4)
        client.close()
        for one in waiting:
            one.close()
    assert answer.outcome == "taken"


def test_an_address_of_a_family_that_the_system_lacks_is_passed_over(monkeypatch):
    with Collector() as collector:
        own = ("127.0.0.1", collector.server_port)
        found = [(family, socket.SOCK_STREAM, 0, "", own) for family in (4096, socket.AF_INET)]
        monkeypatch.setattr("tracekit.exporters._otlp.connections.socket.getaddrinfo", lambda *_: found)
        send(OTLPExporter("http://collector.example", environ={}))
        assert len(collector.spans) == 2


def test_an_early_hint_is_no_answer():
    def hinting(handler, _):
        handler.wfile.write(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n")
        handler.answer(200)

    with Collector(hinting, hinting) as collector:
        send(OTLPExporter(collector.url, environ={}))
        assert len(collector.clients) == 1


def test_the_status_of_a_long_error_page_is_understood():
    class Lost(Handler):
        def do_POST(self):
            self.body()
            self.answer(404, b"x" * 1_000_000, Content_Type="text/html")

    with Server(Lost) as server:
        client = Client("traces", server.url, {"environ": {}})
        answer = client.send(b"", "application/x-protobuf", "", 60)
        client.close()
    assert (answer.outcome, "answered 404" in answer.reason) == ("refused", True)


def test_a_reset_during_the_handshake_is_named():
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def reset():
            for _ in range(2):
                connection, _ = listening.accept()
                connection.recv(1)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()

        thread = threading.Thread(target=reset)
        thread.start()
        client = Client("traces", f"https://127.0.0.1:{listening.getsockname()[1]}", {"environ": {}})
        answers = [client.send(b"", "application/x-protobuf", "", 60) for _ in range(2)]
        client.close()
        thread.join()
    assert all("closes the connection, or does not speak HTTP" in answer.reason for answer in answers), answers


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x03\x00\x7a\x02\x00", b"\x15\x03\x03\x00\x02\x02\x50"])
def test_a_handshake_that_breaks_off_is_tried_again(said):
    """As that of a proxy that restarts: at once, in the middle, or with the alert for an internal error."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def break_off():
            connection, _ = listening.accept()
            connection.recv(65536)
            connection.sendall(said)
            connection.close()

        thread = threading.Thread(target=break_off)
        thread.start()
        client = Client("traces", f"https://127.0.0.1:{listening.getsockname()[1]}", {"environ": {}})
        answer = client.send(b"", "application/x-protobuf", "", 60)
        client.close()
        thread.join()
    assert "TLS failed (4317 is the port of OTLP/gRPC)" in answer.reason
    assert (answer.outcome, answer.is_lasting) == ("later", False)


def test_an_endpoint_of_version_6_and_with_an_unusual_path():
    try:
        listening = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 on loopback")
    lines = []
    with listening:
        port = listening.getsockname()[1]
        sender = OTLPExporter(f"http://[::1]:{port}/ä%20b/v1/traces?key=ü", environ={}, timeout_s=60)

        def answer():
            connection, _ = listening.accept()
            with connection, connection.makefile("rb") as reader:
                head = list(iter(reader.readline, b"\r\n"))
                lines.extend(head)
                size = next(int(line.split(b":")[1]) for line in head if line.lower().startswith(b"content-length"))
                reader.read(size)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        send(sender, 1)
        thread.join()
    assert lines[0] == b"POST /%C3%A4%20b/v1/traces?key=%C3%BC HTTP/1.1\r\n"
    assert f"Host: [::1]:{port}\r\n".encode() in lines
