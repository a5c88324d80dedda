"""Who may see the pages: hosts, origins, methods, peers, ``auth=``; and that strangers' text is never markup."""

import json

import pytest

import tracekit
from tracekit import debug
from tracekit.debug._access import Access, Gate, Visitor
from tracekit.debug._respond import respond
from tracekit.testing import MemoryExporter

LOCAL = {"host": "127.0.0.1:6070"}


def get(path="/", query="", *, gate=None, client="127.0.0.1", method="GET", **headers):
    named = LOCAL | {name.replace("_", "-"): value for name, value in headers.items()}
    return respond(gate or Gate(), Visitor(client, method, f"/debug{path}", named), path, query)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:6070",
        "127.8.9.1",
        "localhost",
        "LOCALHOST:80",
        "localhost.:80",
        "app.localhost",
        "[::1]:6070",
    ],
)
def test_names_of_the_loopback_interface_are_ours(host):
    assert get(host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:6070",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "notlocalhost",
        "127.0.0.1:x",
        "[::1",
        "[::1]x",
        "10.0.0.1",
        "127.0.0.1@evil.example",
        "0.0.0.0",
        "a" * 10_000,
        "a." * 200 + "localhost",
        "localhost:\u0663",
        "127.0.0.1, evil.example",
    ],
)
def test_other_hosts_are_rejected(host):
    response = get(host=host)
    assert response.status == 403
    assert b"Host is not a name of this server" in response.body


def test_a_host_that_was_added_is_ours():
    gate = Gate(hosts=["Debug.Example.com"])
    assert get(gate=gate, host="debug.example.com:8443").status == 200
    assert get(gate=gate, host="example.com").status == 403
    assert get(gate=Gate(hosts=["a" * 255]), host="a" * 255).status == 200
    assert get(gate=Gate(hosts=["a" * 256]), host="a" * 256).status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", "x"])
def test_requests_from_other_sites_are_rejected(site):
    assert get(sec_fetch_site=site).status == 403
    assert get(sec_fetch_site="same-origin").status == get(sec_fetch_site="none").status == 200


@pytest.mark.parametrize(
    "origin", ["null", "http://evil.example", "http://127.0.0.1:8000", "", "http://127.0.0.1:6070/x"]
)
def test_requests_from_other_origins_are_rejected(origin):
    assert get(origin=origin).status == 403
    assert get(origin="http://127.0.0.1:6070").status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "get", ""])
def test_methods_that_could_change_something_are_rejected(method):
    response = get(method=method)
    assert (response.status, dict(response.headers)["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("client", ["10.0.0.1", "192.168.1.2", "8.8.8.8", "fe80::1%eth0", None, "", "testclient"])
def test_only_loopback_peers_see_the_pages(client):
    assert get(client=client).status == 403


@pytest.mark.parametrize("client", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
def test_loopback_peers(client):
    assert get(client=client).status == 200


@pytest.mark.parametrize("header", ["forwarded", "via", "x_forwarded_for", "x_forwarded_host", "x_real_ip"])
def test_behind_a_proxy_no_peer_is_local(header):
    assert get(**{header: "127.0.0.1"}).status == 403


def test_auth_decides_about_peers_and_sensitive_values():
    seen = []

    def auth(visitor):
        seen.append(visitor)
        return Access(True, visitor.headers.get("authorization") == "secret")

    with tracekit.event_log("family", "title") as log:
        log.printf("token %s", "12345", sensitive=True)
        shown = {}
        for key in ("secret", "other"):
            response = get("/events", "fam=family&exp=1", gate=Gate(auth), client="8.8.8.8", authorization=key)
            shown[key] = response.body.decode()
        hidden = get("/events", "fam=family&exp=1&show_sensitive=0", gate=Gate(auth), authorization="secret").body
    assert "token 12345" in shown["secret"]
    assert "12345" not in shown["other"]
    assert "[redacted]" in shown["other"]
    assert b"12345" not in hidden
    assert (seen[0].client, seen[0].method, seen[0].path) == ("8.8.8.8", "GET", "/debug/events")


def test_auth_is_not_asked_about_other_sites():
    def auth(visitor):
        raise AssertionError

    assert get(gate=Gate(auth), host="evil.example").status == 403


@pytest.mark.parametrize("answer", [False, None, 1, "yes", Access(False, True), (True, True), Access("yes")])
def test_anything_but_a_clear_yes_is_a_no(answer):
    assert get(gate=Gate(lambda _: answer)).status == 403
    assert get(gate=Gate(lambda _: True)).status == 200


def test_auth_that_raises_is_a_no_and_is_logged(caplog):
    def auth(visitor):
        raise KeyError("x")

    assert get(gate=Gate(auth)).status == 403
    assert "KeyError" in caplog.text


async def admit(_visitor):
    return True


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"auth": 1}, "auth must be callable, not int"),
        ({"auth": admit}, "auth must not be a coroutine function"),
        ({"hosts": "example.com"}, "hosts must be an iterable of names, not str"),
        ({"hosts": 1}, "hosts must be an iterable of names, not int"),
        ({"hosts": [b"x"]}, "hosts must hold str, not bytes"),
    ],
)
def test_a_wrong_argument_is_named(arguments, words):
    for make in (debug.app, debug.wsgi_app, debug.serve):
        with pytest.raises(TypeError, match=words):
            make(**arguments)


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("/", "", 200),
        ("/requests", "", 200),
        ("/nothing", "", 404),
        ("/requests/", "", 404),
        ("/static/debug.css", "", 200),
        ("/static/", "", 404),
        ("/static/../__init__.py", "", 404),
        ("/static/%2e%2e/__init__.py", "", 404),
        ("/requests", "format=xml", 400),
        ("/requests", "&".join(f"a{n}=1" for n in range(40)), 400),
        ("/requests", "a" * 5000, 414),
        ("/requests", "fam=nothing&b=99999999999&n=-1&exp=%ff%00", 200),
        ("/events", "fam=%ed%a0%80&b=x", 200),
    ],
)
def test_paths_and_arguments(path, query, status):
    response = get(path, query)
    assert response.status == status
    headers = dict(response.headers)
    assert headers["Content-Length"] == str(len(response.body))
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"


def test_the_mount_without_a_slash_is_redirected_into_itself():
    response = respond(Gate(), Visitor("127.0.0.1", "GET", "//evil.example", LOCAL), "", "")
    assert (response.status, dict(response.headers)["Location"]) == (308, "evil.example/")


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/html,application/xhtml+xml", "text/html"),
        ("application/json", "application/json"),
        ("*/*", "text/plain"),
        ("", "text/plain"),
        ("image/png, text/html;q=0.5", "text/html"),
        ("," * 100_000, "text/plain"),
    ],
)
def test_the_format_follows_accept(accept, kind):
    assert dict(get(accept=accept).headers)["Content-Type"].startswith(kind)
    assert dict(get(query="format=json", accept=accept).headers)["Content-Type"] == "application/json"


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></main><svg onload=alert(1)>",
    "javascript:alert(1)",
    "&lt;script&gt;",
    "\x00\x1b[31m\u202e\u2066\r\n\ud800",
    "{0.__class__}{}%s%n",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_as_text(text):
    tracekit.configure(exporter=MemoryExporter())
    debug.wsgi_app()
    stuck = tracekit.span(text, attributes={text: text})
    with tracekit.span(text, kind="server", attributes={text: text, "n": [text, {text: text}]}) as span:
        span.add_event(text, {text: text})
        span.set_status("error", text)
        span.record_exception(ValueError(text))
        with tracekit.span("child"):
            pass
    log = tracekit.event_log(text, text)
    log.printf(text)
    log.errorf("%s", text)
    tracekit.flush(60)
    from urllib.parse import urlencode

    pages = [("/requests", {}), ("/events", {}), ("/events", {"fam": text, "exp": 1})]
    pages += [("/requests", {"fam": f"server {text}", "b": bucket, "exp": 1}) for bucket in (0, 8, 11)]
    pages += [("/requests", {"fam": f"internal {text}", "b": -1, "exp": 1})]
    for path, arguments in pages:
        query = urlencode(arguments, errors="surrogatepass")
        body = get(path, query, accept="text/html").body.decode()
        for bad in ("<script>alert", "<img", "<svg onload", "onmouseover='", "\x1b", "\u202e", "\x00"):
            assert bad not in body, (path, arguments)
        assert body.count("<script") == 1
        found = get(path, query, accept="application/json")
        assert b"<" not in found.body
        json.loads(found.body)
        lines = get(path, query, accept="text/plain").body.decode()
        assert "".join(lines.split("\n")).isprintable()
    stuck.end()
    log.finish()


def test_without_the_right_to_sensitive_values_texts_are_redacted():
    tracekit.configure(exporter=MemoryExporter())
    debug.wsgi_app()
    with tracekit.span("request", kind="server", attributes={"user": "ann@example", "count": 7, "ok": True}) as span:
        span.set_status("error", "ann@example")
        span.record_exception(ValueError("ann@example"))
        span.add_event("seen", {"who": ["ann@example"], "size": 3})
    tracekit.flush(60)
    for kind in ("text/html", "text/plain", "application/json"):
        body = get("/requests", "fam=server+request&exp=1", gate=Gate(lambda _: True), accept=kind).body.decode()
        assert "ann@example" not in body
        assert "[redacted]" in body
        assert "request" in body
        full = get("/requests", "fam=server+request&exp=1", accept=kind).body.decode()
        assert "ann@example" in full


def test_a_page_that_fails_is_an_answer_and_a_line_in_the_log(caplog, monkeypatch):
    from tracekit.debug import _respond, _view

    def view(request):
        raise ZeroDivisionError("x")

    monkeypatch.setitem(_respond.PAGES, "broken", _view.Page("broken", "Broken", "", view))
    assert get("/broken").status == 500
    assert "ZeroDivisionError" in caplog.text
