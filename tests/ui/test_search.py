"""The language of the search box."""

import json
import sqlite3

import pytest

from tracekit.exporters._sqlite.terms import joined, term
from tracekit.ui.search import BadSearch, parse_search

pytestmark = pytest.mark.one_form

NOW = 10**18
ROW = {
    "name": "GET /cart_1%",
    "service": "shop",
    "kind": "server",
    "status": "error",
    "start_ns": NOW - 60 * 10**9,
    "end_ns": NOW - 60 * 10**9 + 150 * 10**6,
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "attributes": '{"http.response.status_code":500,"q":"say \\"hi\\"","ok":true,"last":7}',
    "labels": '{"tenant":"blue"}',
    "resource": '{"host.name":"h1"}',
    "resource_id": 1,
}
ROW["terms"], ROW["bits"] = joined(
    [
        term(key, json.dumps(value, ensure_ascii=False))
        for column in ("attributes", "labels", "resource")
        for key, value in json.loads(ROW[column]).items()
    ]
)


def fits(text):
    search = parse_search(text, NOW)
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute(f"CREATE TABLE spans ({', '.join(ROW)})")
        connection.execute(f"INSERT INTO spans VALUES ({', '.join('?' * len(ROW))})", [*ROW.values()])
        connection.execute("CREATE TABLE resources AS SELECT 1 AS id, resource FROM spans")
        connection.execute("ALTER TABLE spans DROP COLUMN resource")
        where = " AND ".join(search.conditions) or "1"
        found = connection.execute(f"SELECT count(*) FROM spans WHERE {where}", search.parameters).fetchone() == (1,)
        return found and ROW["trace_id"].startswith(search.trace_id)
    finally:
        connection.close()


@pytest.mark.parametrize(
    "text",
    [
        "", "cart", "CART", "name:cart", '"GET /cart"', "_1%", "service:shop", 'service:"shop"', "kind:server", "status:error",
        ">100ms", ">=0.1s", "<151", "<1h >1us", "since:2m", "until:30s", "since:2001-09-08T00:00", "4bf92f35", "4BF92F3577",
        "trace:4b", "http.response.status_code=500", "ok=true", "last=7", "q=*", "tenant=blue", "host.name=h1",
        f"<{'9' * 400}", f"since:{'9' * 400}d", "since:1000-01-01", "until:9999-12-30",
        'q="say \\"hi\\""', "service:shop status:error >100ms tenant=blue cart",
    ],
)  # fmt: skip
def test_what_fits(text):
    assert fits(text)


@pytest.mark.parametrize(
    "text",
    [
        "basket", "cartx1", "service:sho", "kind:client", "status:ok", ">200ms", "<100ms", "since:30s", "until:2m", "4bf92f36",
        "http.response.status_code=50", "status_code=500", "ok=false", "tenant=blu", "nothing=*", "q=say", "cart basket",
        "hi=*", "'; DROP TABLE spans; --", f">{'9' * 400}", "until:1000-01-02", "since:9999-12-30",
    ],
)  # fmt: skip
def test_what_does_not_fit(text):
    assert not fits(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('"open', "a quote is not closed"),
        ("service:", "needs a value"),
        ("status:bad", "status is one of unset, ok, error, cancelled"),
        ("color:red", "unknown field 'color'"),
        (">soon", "not a duration: 'soon'"),
        (">", "not a duration"),
        ("since:yesterday", "not a time"),
        ("trace:xyz", "hexadecimal"),
        ("a " * 21, "at most 20 conditions"),
        ("a" * 1001, "at most 1000 characters"),
    ],
)
def test_a_bad_search_says_why(text, why):
    with pytest.raises(BadSearch, match=why):
        parse_search(text, NOW)


def test_an_address_is_a_word():
    assert parse_search("https://shop.example/cart", NOW).parameters == ("%https://shop.example/cart%",)
