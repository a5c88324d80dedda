"""The pages' server: who may ask, the answers of the API, and the stream of events."""

import http.client
import json
import re
import sqlite3
import urllib.parse
from pathlib import Path

import pytest

import tracekit.ui
from tracekit.debug._access import names_loopback
from tracekit.ui import queries
from tracekit.ui.search import BadSearch, parse_search
from tracekit.ui.server import viewer
from tracekit.ui.store import SpanStore

from .conftest import Running, pairs, request, span

pytestmark = [pytest.mark.one_form, pytest.mark.slow]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A viewer of an empty store, for tests that change nothing."""
    with viewer(tmp_path_factory.mktemp("ui") / "spans.db", port=0, http_port=None, grpc_port=None) as running:
        yield Running(running)


STATIC = Path(tracekit.ui.__file__).parent / "static"


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, 200),
        ("HEAD", {}, 200),
        ("GET", {"Sec-Fetch-Site": "same-origin"}, 200),
        ("GET", {"Sec-Fetch-Site": "none"}, 200),
        ("GET", {"Host": "localhost:80"}, 200),
        ("GET", {"Host": "shop.localhost"}, 200),
        ("GET", {"Host": "[::1]:4319"}, 200),
        ("GET", {"Host": "evil.example"}, 403),
        ("GET", {"Host": "127.0.0.1.evil.example"}, 403),
        ("GET", {"Host": "localhost.evil.example:4319"}, 403),
        ("GET", {"Host": "10.0.0.1"}, 403),
        ("GET", {"Host": "[::1].evil.example"}, 403),
        ("GET", {"Sec-Fetch-Site": "cross-site"}, 403),
        ("GET", {"Sec-Fetch-Site": "same-site"}, 403),
        ("GET", {"Origin": "http://localhost:3000"}, 403),
        ("GET", {"Origin": "null"}, 403),
        ("POST", {}, 405),
        ("DELETE", {}, 405),
        ("OPTIONS", {"Origin": "http://evil.example"}, 405),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/", "/api/traces"])
def test_who_may_ask(shared, method, headers, status, path):
    answer = request(shared.url, method, path, headers=headers)
    assert answer.status == status
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'")
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "host", ["", "a" * 300, "127.0.0.1:x", "[::1", "localhost:80, localhost", "\u0661\u0662\u0667.0.0.1", "0.0.0.0"]
)
def test_no_name_of_loopback(host):
    assert not names_loopback(host)


def test_the_files_hold_no_inline_code_and_name_no_other_site():
    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8")
        for forbidden in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "style=",
            'onclick="',
            "javascript:",
        ):
            assert forbidden not in text, f"{path.name} has {forbidden}"
        sites = set(re.findall(r"(?:https?:)?//[\w.]+\.\w+", text)) - {"http://www.w3.org"}
        assert not sites, f"{path.name} names {sites}"
    assert not re.search(r"<script(?![^>]*src=)", (STATIC / "index.html").read_text(encoding="utf-8"))


def test_every_file_that_the_page_names_is_served(ui):
    page = ui.get("/").body.decode()
    for name in re.findall(r'(?:src|href)="([\w.]+)"', page):
        answer = ui.get(f"/{name}")
        assert answer.status == 200
        assert answer.headers["content-type"].startswith(("text/javascript", "text/css"))
    assert ui.get("/../pages.py").status == 404


def test_a_search_goes_on_where_it_stopped(ui):
    for trace in range(1, 8):
        ui.send(span(name="odd" if trace % 2 else "even", trace=trace))
    found, before = [], ""
    for _ in range(4):
        answer = ui.get(f"/api/traces?q=odd&limit=2{before}").json
        found += [int(trace["trace_id"], 16) for trace in answer["traces"]]
        if answer["next"] is None:
            break
        before = f"&before={answer['next']}"
    assert found == [7, 5, 3, 1]
    last = answer["last"]
    assert ui.get(f"/api/traces?after={last}").json["traces"] == []
    ui.send(span(trace=9))
    (new,) = ui.get(f"/api/traces?after={last}").json["traces"]
    assert int(new["trace_id"], 16) == 9


@pytest.mark.parametrize("text", ["shop", "service:x", "kind:client status:error", ">1s since:5m", "no.such=1", "k=*"])
def test_a_search_reads_spans_from_its_index_alone(tmp_path, text):
    # Rows are wide: reading all of those of a million spans takes seconds. A row is read if its terms fit.
    search = parse_search(text)
    SpanStore(tmp_path / "spans.db", max_bytes=1 << 20).close()
    connection = sqlite3.connect(tmp_path / "spans.db")
    try:
        terms = [term.partition(" AND (")[0] if "attributes" in term else term for term in search.conditions]
        statement = f"EXPLAIN QUERY PLAN SELECT id FROM spans INDEXED BY spans_to_search WHERE {' AND '.join(terms)}"
        count = sum([term.count("?") for term in terms])
        (plan,) = connection.execute(f"{statement} AND id < 9", search.parameters[:count]).fetchall()
    finally:
        connection.close()
    assert "USING COVERING INDEX spans_to_search" in plan[3]


@pytest.mark.parametrize("text", ["%", "_", "\\", "'", '"', "a%b_c", "' OR 1 --", "\ud800"])
def test_any_text_is_found_as_it_is_and_no_other(ui, text):
    clean = text.encode("utf-8", "replace").decode()
    ui.send(span(name=f"a{clean}z", attributes={"k": clean}), span(name="plain", id=2, attributes={"k": "plain"}))
    quoted = clean.replace("\\", "\\\\").replace('"', '\\"')
    for query in (f'"{quoted}"', f'k="{quoted}"'):
        (found,) = ui.get(f"/api/traces?q={urllib.parse.quote(query)}").json["traces"]
        assert found["spans"] == 2
    for query in (f'"{quoted}{quoted}x"', f'k="{quoted}x"', f'other="{quoted}"'):
        assert ui.get(f"/api/traces?q={urllib.parse.quote(query)}").json["traces"] == []


@pytest.mark.parametrize("query", ["ÄPFEL", "äpfel", "Äpfel kaufen", "name:ä", "žluť", "ŽLUŤ"])
def test_a_name_is_found_in_any_case_of_any_script(ui, query):
    ui.send(span(name="Äpfel KAUFEN: ŽluťouČký"), span(name="other", trace=2))
    found = ui.get(f"/api/traces?q={urllib.parse.quote(query)}").json["traces"]
    assert [trace["spans"] for trace in found] == [1]


def test_a_search_of_a_megabyte_is_rejected(ui):
    # uvicorn closes at 64 KiB of request line; the language has its own bound below that.
    assert ui.get("/api/traces?q=" + "a" * 1001).status == 400
    with pytest.raises(BadSearch):
        parse_search("k=" + "a" * (1 << 20))


def test_a_line_of_the_list(ui):
    ui.send(span("GET /", id=1, ms=100), span("inner", id=2, parent=1, start_ms=10, ms=20, status=2), service="web")
    ui.send(span("SELECT", id=3, parent=2, start_ms=12, ms=100), service="db")
    (line,) = ui.get("/api/traces").json["traces"]
    assert line.pop("start_ns").isdigit()
    assert line == {
        "trace_id": f"{1:032x}",
        "name": "GET /",
        "service": "web",
        "kind": "server",
        "calls": None,
        "has_root": True,
        "status": "error",
        "errors": 1,
        "spans": 3,
        "logs": 0,
        "services": [["web", 2], ["db", 1]],
        "duration_ns": 112_000_000,
    }


def test_the_line_of_a_clients_trace_has_the_operation_that_it_called(ui):
    ui.send(span("GET", id=1, ms=100) | {"kind": 3}, span("inner", id=2, parent=1, start_ms=10) | {"kind": 1})
    ui.send(span("GET /orders/{id}", id=3, parent=1, start_ms=20), service="orders")
    (line,) = ui.get("/api/traces").json["traces"]
    assert (line["name"], line["calls"]) == ("GET", "GET /orders/{id}")


def test_one_clock_that_is_an_hour_off_does_not_change_the_rates_of_the_map(ui):
    ui.send(*[span(trace=trace, start_ms=100 * trace, ms=5) for trace in range(1, 601)])
    for trace, start_ms in ((700, -3_600_000), (701, 3_600_000)):
        ui.send(span(trace=trace, start_ms=start_ms), service="skewed")
    found = ui.get("/api/map").json
    (shop,) = [service for service in found["services"] if service["name"] == "shop"]
    assert 55 < found["seconds"] < 65
    assert 9 < shop["per_s"] < 11


def test_a_trace_and_everything_about_a_span(ui):
    event = {"timeUnixNano": "0", "name": "paid", "attributes": []}
    link = {"traceId": "a" * 32, "spanId": "b" * 16}
    trace_id = ui.send(span(events=[event], links=[link], attributes={"n": 1}), resource={"host.name": "h1"})
    trace = ui.get(f"/api/traces/{trace_id}").json
    (listed,) = trace["spans"]
    assert (listed["start"], listed["end"], listed["has_events"], trace["is_cut"]) == (0, 10_000_000, 1, False)
    found = ui.get(f"/api/traces/{trace_id}/spans/{listed['id']}").json
    assert found["resource"]["host.name"] == "h1"
    assert found["links"][0]["trace_id"] == "a" * 32
    assert found["events"][0]["offset_ns"] == -int(found["start_ns"])
    assert found["attributes"] == {"n": 1}


def test_ints_that_javascript_rounds_are_text(ui):
    numbers = {"large": 2**53 + 1, "low": -(2**63), "safe": 2**53 - 1}
    exact = {"large": "9007199254740993", "low": "-9223372036854775808", "safe": 2**53 - 1}
    parts = {"attributes": pairs(numbers)}
    event, link = {"name": "paid", **parts}, {"traceId": "a" * 32, "spanId": "b" * 16, **parts}
    trace_id = ui.send(span(events=[event], links=[link], attributes=numbers), resource=numbers)
    record = {"traceId": trace_id, "spanId": f"{1:016x}", "body": {"arrayValue": {"values": [{"intValue": 2**63 - 1}]}}}
    body = {"resourceLogs": [{"scopeLogs": [{"logRecords": [{**record, **parts}]}]}]}
    assert ui.post(json.dumps(body).encode(), "application/json", "/v1/logs").status == 200
    (listed,) = ui.get(f"/api/traces/{trace_id}").json["spans"]
    found = ui.get(f"/api/traces/{trace_id}/spans/{listed['id']}").json
    (log,) = found["logs"]
    assert ui.get(f"/api/traces/{trace_id}/logs").json["logs"] == [log]
    assert log["body"] == [str(2**63 - 1)]
    assert all(held["attributes"] == exact for held in (found, *found["events"], *found["links"], log))
    assert found["resource"] == {"service.name": "shop", **exact}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/api/traces/{'0' * 32}", 404),
        ("/api/traces/%00", 404),
        (f"/api/traces/{1:032x}/spans/77", 404),
        (f"/api/traces/{2:032x}/spans/1", 404),
        (f"/api/traces/{1:032x}/spans/{10**30}", 404),
        (f"/api/traces/{1:032x}/spans/{'9' * 5000}", 404),
        (f"/api/traces/{1:032x}/spans/-1", 404),
        ("/api/traces?q=status:bad", 400),
        ("/api/traces?limit=-1", 400),
        ("/api/traces?before=" + "9" * 19, 400),
        (f"/api/compare?a={1:032x}&b=x", 400),
        (f"/api/compare?a={1:032x}&b={2:032x}", 404),
        ("/api/traces?limit=0", 200),
        ("/api/traces?before=0", 200),
        ("/nothing", 404),
    ],
)
def test_wrong_questions(ui, path, status):
    ui.send(span())
    assert ui.get(path).status == status


def test_the_map_has_calls_between_services_and_their_numbers(ui):
    for trace in range(1, 101):
        ui.send(span(trace=trace, id=1, ms=50), span(trace=trace, id=2, parent=1, ms=40), service="web")
        ui.send(span(trace=trace, id=3, parent=2, ms=trace, status=2 if trace <= 5 else 0), service="db")
    found = ui.get("/api/map").json
    (call,) = found["calls"]
    assert (call["from"], call["to"], call["count"], call["errors"]) == ("web", "db", 100, 5)
    assert [call[f"p{at}_ns"] // 10**6 for at in (50, 95, 99)] == [51, 96, 100]
    assert {service["name"]: service["count"] for service in found["services"]} == {"web": 100, "db": 100}


def test_the_first_spans_of_a_large_trace_and_the_newest_of_the_store_are_shown(ui, monkeypatch):
    monkeypatch.setattr(queries, "MAX_SPANS", 3)
    monkeypatch.setattr(queries, "_MAP_SPANS", 4)
    ui.send(span(trace=2, start_ms=1), service="old")
    ui.send(*[span(f"span {at}", id=at, start_ms=at) for at in range(5, 0, -1)], service="new")
    assert [one["name"] for one in ui.get(f"/api/traces/{1:032x}").json["spans"]] == ["span 1", "span 2", "span 3"]
    found = ui.get("/api/map").json
    assert {service["name"]: service["count"] for service in found["services"]} == {"new": 4}


def test_a_comparison_merges_spans_by_their_path(ui):
    ui.send(span("GET", trace=1, id=1, ms=10), *[span("SELECT", trace=1, id=at, parent=1, ms=2) for at in (2, 3)])
    ui.send(
        span("GET", trace=2, id=1, ms=30),
        span("SELECT", trace=2, id=2, parent=1),
        span("send", trace=2, id=3, parent=2),
    )
    rows = ui.get(f"/api/compare?a={1:032x}&b={2:032x}").json
    assert [(row["name"], row["depth"], row["counts"], [ns // 10**6 for ns in row["durations"]]) for row in rows] == [
        ("GET", 0, [1, 1], [10, 30]),
        ("SELECT", 1, [2, 1], [4, 10]),
        ("send", 2, [0, 1], [0, 10]),
    ]


def test_a_circle_of_parents_is_compared(ui):
    circle = ui.send(span("a", id=1, parent=2), span("b", id=2, parent=1), span("self", id=3, parent=3))
    rows = ui.get(f"/api/compare?a={circle}&b={circle}").json
    assert sorted(row["name"] for row in rows) == ["a", "b", "self"]


def test_the_page_is_told_of_new_spans(ui):
    connection = http.client.HTTPConnection(ui.url.removeprefix("http://"), timeout=15)
    connection.request("GET", "/api/live")
    response = connection.getresponse()
    assert response.getheader("content-type").startswith("text/event-stream")
    seen = []
    for stored in (0, 1):
        line = response.readline()
        while not line.startswith(b"data:"):
            line = response.readline()
        seen.append(json.loads(line[5:])["stored"])
        if not stored:
            ui.send(span())
    connection.close()
    assert seen == [0, 1]


def test_values_of_another_program_do_no_harm(ui):
    trace_id = ui.send(span())
    other = sqlite3.connect(ui.store.path)
    other.execute("UPDATE spans SET attributes = 'x', start_ns = 'soon', events = '[1]', service = x'ff'")
    other.commit()
    other.close()
    for path in ("/api/traces", f"/api/traces/{trace_id}", f"/api/traces/{trace_id}/spans/1", "/api/map"):
        answer = ui.get(path)
        assert answer.status in (200, 500)
        assert isinstance(answer.json, dict)
    ui.send(span(trace=2))
    assert ui.get(f"/api/traces/{2:032x}").status == 200
