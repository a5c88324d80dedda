"""The pages in a real browser: headless Chromium, driven as a user would.

``make ui-test`` runs all of it, with the spans of a real ``tracekit demo``, axe-core's checks and new pictures for
docs/images/; ``make test`` leaves those out, and all where Chromium is not installed.
"""

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import expect

import tracekit
import tracekit.debug
from tracekit.exporters.sqlite import SQLiteExporter
from tracekit.ui.server import viewer

from .conftest import Running, pairs, span

pytestmark = [pytest.mark.one_form, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
IS_WHOLE = os.environ.get("TRACEKIT_UI_TEST") == "1"
AXE = os.environ.get("TRACEKIT_TEST_AXE")
MAX_PICTURE_BYTES = 150_000

HOSTILE = [
    "<script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "\"><svg onload=document.title='owned'>",
    "javascript:document.title='owned'",
    "{{constructor.constructor('document.title=1')()}}",
    "</title></style></textarea><b>bold</b>",
    "&lt;b&gt; &#60;b&#62;",
    "\u202eright to left \u2066isolated",
    "",
    "n" * 4000,
]


@pytest.fixture
def page(chromium):
    """A page in a profile of its own; a message on the console, or a request to another site, fails the test."""
    context = chromium.new_context(
        viewport={"width": 1360, "height": 820}, color_scheme="light", reduced_motion="reduce"
    )
    context.set_default_timeout(10_000)
    page = context.new_page()
    wrong, requested = [], []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: requested.append(request.url))
    page.expected_failures = 0
    yield page
    own = "/".join(page.url.split("/")[:3])
    context.close()
    assert [text for text in wrong if not text.startswith("Failed to load resource")] == []
    expected = page.expected_failures
    assert len(wrong) in (expected if isinstance(expected, range) else [expected]), wrong
    assert [url for url in requested if not url.startswith((own, "data:"))] == []


def names(page):
    return page.locator("tbody td.name a").all_inner_texts()


def shop(ui):
    """Send three traces: a good one of two services, one with an error, and a slow one."""
    ui.send(
        span("GET /cart", trace=1, id=1, start_ms=0, ms=40, attributes={"http.response.status_code": 200}),
        service="web",
    )
    ui.send(span("load", trace=1, id=2, parent=1, start_ms=5, ms=20), service="cart")
    ui.send(span("POST /checkout", trace=2, id=1, start_ms=1000, ms=90, status=2), service="web")
    ui.send(span("GET /slow", trace=3, id=1, start_ms=2000, ms=900), service="web")


def test_an_empty_store_says_how_to_send_spans(ui, page):
    page.goto(ui.url)
    page.get_by_text("No traces yet").wait_for()
    text = page.locator("main").inner_text()
    assert f"OTEL_EXPORTER_OTLP_ENDPOINT={ui.viewer.urls['http']}" in text
    assert "tracekit demo --db" in text
    ui.send(span("first"))
    page.get_by_role("link", name="first").wait_for()
    assert not page.get_by_text("No traces yet").is_visible()


def test_traces_appear_while_requests_run(ui, page):
    page.goto(ui.url)
    for trace in range(1, 6):
        ui.send(span(f"request {trace}", trace=trace, start_ms=trace))
        page.get_by_role("link", name=f"request {trace}").wait_for()
    assert names(page) == [f"request {trace}" for trace in range(5, 0, -1)]
    assert "5 received" in page.locator("#live").inner_text()
    ui.send(span("later", trace=5, id=2, parent=1))
    page.locator("tbody tr", has_text="request 5").locator("td", has_text="2").first.wait_for()


class HeldAnswer:
    """The first answer below *path*, read from the store at once and given to the page by ``let_go()``."""

    def __init__(self, page, path):
        self.held = []
        page.route(lambda url: path in url, self.hold)

    def hold(self, route):
        if self.held:
            route.continue_()
        else:
            self.held.append((route, route.fetch()))

    def wait(self, page):
        while not self.held:
            page.wait_for_timeout(10)

    def let_go(self):
        [(route, answer)] = self.held
        route.fulfill(response=answer)


def test_a_trace_that_arrives_while_the_first_answer_is_on_its_way_appears(ui, page):
    first = HeldAnswer(page, "/api/traces?")
    page.goto(ui.url)
    first.wait(page)
    ui.send(span("meanwhile"))
    page.get_by_text("1 received").wait_for()
    first.let_go()
    page.get_by_role("link", name="meanwhile").wait_for()


def test_a_span_that_arrives_while_its_trace_is_on_its_way_appears(ui, page):
    trace_id = ui.send(span("GET /cart"))
    first = HeldAnswer(page, f"/api/traces/{trace_id}")
    page.goto(f"{ui.url}/#/trace/{trace_id}")
    first.wait(page)
    page.get_by_text("1 received").wait_for()
    ui.send(span("SELECT", id=2, parent=1, start_ms=1, ms=5))
    page.get_by_text("2 received").wait_for()
    first.let_go()
    page.get_by_text("SELECT").wait_for()


def test_a_trace_that_arrives_after_the_newest_was_deleted_appears(ui, page):
    ui.send(span("kept", trace=1))
    deleted = ui.send(span("deleted", trace=2, start_ms=1))
    page.goto(ui.url)
    page.get_by_role("link", name="deleted").wait_for()
    other = SQLiteExporter(ui.store.path)
    assert other.delete([deleted]) == 1
    other.shutdown()
    ui.send(span("next", trace=3, start_ms=2))
    page.get_by_role("link", name="next").wait_for()


def test_the_traces_of_a_new_store_at_the_path_replace_those_of_the_old_one(ui, page):
    for trace in range(1, 4):
        ui.send(span(f"old {trace}", trace=trace))
    page.goto(ui.url)
    page.get_by_role("link", name="old 3").wait_for()
    for suffix in ("", "-wal", "-shm"):
        os.unlink(f"{ui.store.path}{suffix}")
    page.goto(f"{ui.url}/#/?q=old")
    page.get_by_text("The store cannot be read").wait_for()
    page.get_by_text("no such file").wait_for()
    page.expected_failures = range(1, 4)  # the page asks again, perhaps before the store is there
    ui.send(span("gold", trace=4, start_ms=2))
    page.get_by_role("link", name="gold").wait_for()
    assert names(page) == ["gold"]


def test_more_traces_at_once_than_an_answer_has_leave_no_gap(ui, page):
    ui.send(span("before", trace=1))
    page.goto(ui.url)
    page.get_by_role("link", name="before").wait_for()
    ui.send(*[span(f"burst {trace}", trace=trace, start_ms=trace) for trace in range(2, 452)])
    page.get_by_role("link", name="burst 451").wait_for()
    expect(page.locator("tbody tr")).to_have_count(451)


def test_a_trace_that_arrives_after_its_page_was_opened_appears(ui, page):
    page.goto(f"{ui.url}/#/trace/{1:032x}")
    page.get_by_text("no such trace").wait_for()
    page.expected_failures = 1
    ui.send(span("other", trace=2))
    ui.send(span("GET /cart", trace=1))
    page.get_by_role("heading", name="GET /cart").wait_for()


def test_a_trace_that_grows_keeps_what_is_typed_and_folded(ui, page):
    trace_id = ui.send(
        span("root", id=1),
        span("folded", id=2, parent=1, start_ms=1),
        span("hidden", id=3, parent=2, start_ms=2),
        span("shown", id=4, parent=1, start_ms=3),
    )
    page.goto(f"{ui.url}/#/trace/{trace_id}")
    page.locator("[role=treeitem]", has_text="folded").click()
    page.keyboard.press("h")
    expect(page.locator(".row")).to_have_count(3)
    find = page.get_by_label("Find in this trace")
    find.click()
    page.keyboard.type("sho")
    ui.send(span("late", id=5, parent=1, start_ms=4))
    page.locator("[role=treeitem]", has_text="late").wait_for()
    expect(page.locator(".row")).to_have_count(4)
    page.keyboard.press("ArrowLeft")
    page.keyboard.type("u")
    assert find.input_value() == "shuo"


def test_a_paused_page_does_not_change_until_it_follows_again(ui, page):
    page.goto(ui.url)
    ui.send(span("before", trace=1))
    page.get_by_role("link", name="before").wait_for()
    page.keyboard.press("p")
    page.get_by_role("button", name="paused").wait_for()
    ui.send(span("during", trace=2, start_ms=5))
    page.get_by_role("button", name="paused · 1 new span").wait_for()
    assert names(page) == ["before"]
    page.keyboard.press("p")
    page.get_by_role("link", name="during").wait_for()


def test_hidden_pages_leave_the_connections_of_the_browser_to_others(ui, page):
    def hide(other, is_hidden):
        other.evaluate(
            "is => { Object.defineProperty(document, 'hidden', { value: is, configurable: true });"
            " document.dispatchEvent(new Event('visibilitychange')); }",
            is_hidden,
        )

    ui.send(span("first"))
    others = [page.context.new_page() for _ in range(7)]  # more than the connections of a browser to one server
    for other in others:
        other.goto(ui.url)
        other.get_by_role("link", name="first").wait_for()
        hide(other, True)
    page.goto(ui.url)
    page.get_by_role("link", name="first").wait_for()
    ui.send(span("second", trace=2))
    page.get_by_role("link", name="second").wait_for()
    hide(others[0], False)
    others[0].get_by_role("link", name="second").wait_for()


def test_a_search_is_a_link_and_a_bad_one_says_why(ui, page):
    shop(ui)
    page.goto(ui.url)
    page.get_by_role("link", name="GET /cart").wait_for()
    page.keyboard.press("/")
    page.keyboard.type("service:web >100ms")
    page.keyboard.press("Enter")
    expect(page.locator("tbody tr")).to_have_count(1)
    assert names(page) == ["GET /slow"]
    assert page.url.endswith("#/?q=service%3Aweb%20%3E100ms")
    page.goto(f"{ui.url}/#/?q=http.response.status_code%3D200")
    page.get_by_role("link", name="GET /cart").wait_for()
    assert page.locator("#search").input_value() == "http.response.status_code=200"
    page.goto(f"{ui.url}/#/?q=status:bad")
    page.get_by_text("status is one of unset, ok, error, cancelled").wait_for()
    page.goto(f"{ui.url}/#/?q=nothing.like.this")
    page.get_by_text("No trace fits").wait_for()
    page.expected_failures = 1


def test_the_list_is_sorted_and_opened_by_keyboard(ui, page):
    shop(ui)
    page.goto(ui.url)
    page.get_by_role("link", name="GET /cart").wait_for()
    assert names(page) == ["GET /slow", "POST /checkout", "GET /cart"]
    page.keyboard.press("s")
    assert names(page) == ["GET /slow", "POST /checkout", "GET /cart"]
    page.keyboard.press("s")
    assert names(page)[0] == "GET /cart"  # by number of spans
    page.get_by_role("button", name="Started").click()
    page.get_by_role("button", name="Started").click()
    assert names(page) == ["GET /cart", "POST /checkout", "GET /slow"]
    for key in "jjk":
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="GET /cart").wait_for()
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.locator("aside").get_by_role("heading", name="load").wait_for()
    assert page.url.endswith(f"#/trace/{1:032x}/{2:016x}")
    page.keyboard.press("Escape")
    assert page.locator("aside").is_hidden()
    page.keyboard.press("Escape")
    page.get_by_role("link", name="POST /checkout").wait_for()
    page.keyboard.press("?")
    page.get_by_role("heading", name="Keys and search").wait_for()
    page.keyboard.press("Escape")


def test_a_deep_link_shows_the_span_with_everything(ui, page):
    event = {"timeUnixNano": "0", "name": "retried", "attributes": []}
    target = {"traceId": f"{7:032x}", "spanId": f"{8:016x}"}
    status = {"code": 2, "message": "Connection reset"}
    attributes = {"db.system.name": "postgresql", "rows": 12}
    ui.send(
        span("root", trace=1, id=1),
        span("query", trace=1, id=2, parent=1, events=[event], links=[target], attributes=attributes)
        | {"status": status},
    )
    page.goto(f"{ui.url}/#/trace/{1:032x}/{2:016x}")
    aside = page.locator("aside")
    aside.get_by_role("heading", name="query").wait_for()
    text = aside.inner_text()
    for expected in (
        "shop",
        "server",
        "error",
        "Connection reset",
        "db.system.name",
        "postgresql",
        "12",
        "retried",
        target["traceId"],
    ):
        assert expected in text
    assert aside.get_by_role("link").get_attribute("href") == f"#/trace/{7:032x}/{8:016x}"
    page.goto(f"{ui.url}/#/trace/{9:032x}")
    page.get_by_text("no such trace").wait_for()
    page.expected_failures = 1


def test_ten_thousand_spans_are_drawn_a_screen_at_a_time(ui, page):
    spans = [span("root", trace=1, id=1, ms=100_000)]
    spans += [
        span(f"step {id}", trace=1, id=id, parent=1 if id % 10 == 2 else id - 1, start_ms=id, ms=5)
        for id in range(2, 10_001)
    ]
    ui.send(*spans)
    page.goto(f"{ui.url}/#/trace/{1:032x}")
    rows = page.locator("[role=treeitem]")
    rows.first.wait_for()
    assert rows.count() < 100
    # Scrolling through all of it must not draw more than a screen at a time, nor keep what it has left.
    most = page.evaluate(
        """async () => {
          const scroller = document.querySelector(".waterfall");
          let most = 0;
          for (let step = 0; step <= 60; step++) {
            scroller.scrollTop = (scroller.scrollHeight * step) / 60;
            await new Promise(requestAnimationFrame);
            await new Promise(requestAnimationFrame);
            most = Math.max(most, document.querySelectorAll(".row").length);
          }
          return most;
        }"""
    )
    assert 20 < most < 100
    page.get_by_text("step 10000", exact=True).wait_for()
    page.keyboard.press("g")
    page.keyboard.press("h")
    expect(page.locator(".row")).to_have_count(1)
    page.keyboard.press("l")
    page.get_by_label("Find in this trace").fill("step 7777")
    page.keyboard.press("Enter")
    page.locator("aside").get_by_role("heading", name="step 7777").wait_for()


def test_a_circle_of_parents_and_a_missing_root_are_shown(ui, page):
    ui.send(
        span("a", id=1, parent=2),
        span("b", id=2, parent=1),
        span("self", id=3, parent=3),
        span("orphan", id=4, parent=99),
    )
    page.goto(f"{ui.url}/#/trace/{1:032x}")
    page.locator("[role=treeitem]").nth(3).wait_for()
    assert sorted(page.locator(".operation").all_inner_texts()) == ["a", "b", "orphan", "self"]


def test_hostile_text_is_text(ui, page):
    for trace, text in enumerate(HOSTILE, 1):
        event = {"timeUnixNano": "0", "name": text, "attributes": []}
        hostile = span(text, trace=trace, events=[event], traceState=text[:100], attributes={text: text})
        child = span(text, trace=trace, id=2, parent=1, status=2)
        ui.send(
            hostile, child | {"status": {"code": 2, "message": text}}, service=text or "none", resource={text: text}
        )
        ui.send(span("called", trace=trace, id=3, parent=2), service="callee")
    page.goto(ui.url)
    expect(page.locator("tbody tr")).to_have_count(len(HOSTILE))
    assert HOSTILE[0] in names(page)
    for trace, text in enumerate(HOSTILE, 1):
        page.goto(f"{ui.url}/#/trace/{trace:032x}/{1:016x}")
        expect(page.locator("aside h2")).to_have_text(text or "(no name)")
    page.goto(f"{ui.url}/#/map")
    page.locator(".node").first.wait_for()
    page.goto(f"{ui.url}/#/compare/{1:032x}/{2:032x}")
    page.locator("table.compare tbody tr").first.wait_for()
    for link, answer in (
        (f"trace/{HOSTILE[1]}", "no such trace"),
        (f"?q={HOSTILE[2]}", "This search cannot be understood"),
        (f"compare/{HOSTILE[1]}/x", "That did not work"),
        ("trace/%E0%A4%A", "no such trace"),
        (HOSTILE[0], "right to left"),
    ):
        page.evaluate("hash => { location.hash = `#/${hash}` }", link)
        expect(page.locator("main")).to_contain_text(answer)
    page.expected_failures = 6  # of the addresses above, three by the comparison
    assert page.title() != "owned"
    assert page.locator("main script, main img, main b, main svg[onload]").count() == 0


def test_log_records_are_text_at_their_spans_and_lead_to_them(ui, page):
    trace_id = ui.send(span("outer", id=1, ms=50), span("inner", id=2, parent=1, start_ms=5))
    trace = {"trace_id": trace_id, "start_ns": 0}
    for id, body in ((1, "fine"), (2, HOSTILE[1])):
        log(ui, trace, {"start": 0, "span_id": f"{id:016x}"}, 17, "ERROR", body)
    page.goto(f"{ui.url}/#/trace/{trace_id}")
    page.locator("[role=treeitem]", has_text="inner").click()
    expect(page.locator("aside .log-body")).to_have_text(HOSTILE[1])
    assert page.locator("aside img").count() == 0
    page.keyboard.press("o")
    expect(page.locator("aside .log-body")).to_have_text(["fine", HOSTILE[1]])
    page.locator("aside .log button", has_text="outer").click()
    expect(page.locator("aside h2")).to_have_text("outer")
    expect(page.locator("aside .log-body")).to_have_text("fine")
    log(ui, trace, {"start": 0, "span_id": f"{1:016x}"}, 9, "INFO", "late")
    expect(page.locator("aside .log-body")).to_have_text(["late", "fine"])


def test_the_map_leads_to_a_search_and_two_traces_are_compared(ui, page):
    shop(ui)
    page.goto(f"{ui.url}/#/map")
    page.locator(".node", has_text="cart").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    assert page.locator("#search").input_value() == "service:cart"
    page.goto(f"{ui.url}/#/")
    expect(page.locator("tbody tr")).to_have_count(3)
    for key in "jcjc":
        page.keyboard.press(key)
    page.get_by_role("heading", name="Compare").wait_for()
    page.get_by_text("only in B").wait_for()
    assert f"#/compare/{3:032x}/{2:032x}" in page.url


def test_the_chart_keeps_its_dots_beside_its_labels(ui, page):
    ui.send(*[span(f"request {trace}", trace=trace, start_ms=trace, ms=trace) for trace in range(1, 9)])
    page.goto(ui.url)
    expect(page.locator("tbody tr")).to_have_count(8)
    labels = [label.bounding_box()["x"] for label in page.locator(".picture > span").all()]
    dots = page.locator(".dot").evaluate_all("dots => dots.map(dot => dot.getBoundingClientRect().right)")
    assert max(dots) < min(labels)


def test_few_new_rows_are_marked_and_a_list_of_new_ones_is_not(ui, page):
    ui.send(span("first", trace=1))
    page.goto(ui.url)
    page.get_by_role("link", name="first").wait_for()
    ui.send(span("second", trace=2, start_ms=1))
    expect(page.locator("tbody tr", has_text="second")).to_contain_class("fresh")
    ui.send(*[span(f"more {trace}", trace=trace, start_ms=trace) for trace in range(3, 15)])
    expect(page.locator("tbody tr")).to_have_count(14)
    assert page.locator("tr.fresh").count() == 0


def test_the_times_of_a_narrow_waterfall_have_one_line(ui, page):
    page.set_viewport_size({"width": 480, "height": 800})
    trace_id = ui.send(span("import", ms=59_990))
    page.goto(f"{ui.url}/#/trace/{trace_id}")
    page.locator("[role=treeitem]").wait_for()
    boxes = [tick.bounding_box() for tick in page.locator(".ticks span:visible").all()]
    assert len(boxes) >= 2
    assert all(box["height"] < 24 for box in boxes)
    assert all(a["x"] + a["width"] < b["x"] for a, b in pairwise(boxes))


def test_the_theme_is_kept(ui, page):
    page.goto(ui.url)
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.keyboard.press("t")
    dark = page.evaluate(ground)
    assert light != dark
    page.reload()
    assert page.evaluate(ground) == dark


@pytest.mark.parametrize("name", ["requests", "events", "tasks", "loop"])
def test_debug_pages_fit_into_a_narrow_window(page, name):
    server = tracekit.debug.serve(port=0)
    tracekit.configure(service="shop", environ={})
    log = tracekit.event_log("redis.Connection", "10.0.0.1:6379")
    try:
        page.set_viewport_size({"width": 400, "height": 800})
        with tracekit.span("GET /orders/{id}/and/a/long/route/of/an/application", kind="server"):
            page.goto(server.url + name)
            page.locator("main h1").wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") <= 400
            highest = page.evaluate(
                "Math.max(0, ...[...document.querySelectorAll('tbody tr')].map(row => row.offsetHeight))"
            )
            assert highest < 120
    finally:
        log.finish()
        server.close()
        tracekit.shutdown(60)


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The store that a real ``tracekit demo`` has written."""
    if not IS_WHOLE:
        pytest.skip("make ui-test runs the demo")
    path = tmp_path_factory.mktemp("demo") / "demo.db"
    command = [sys.executable, "-m", "tracekit", "demo", "--db", str(path), "--requests", "60"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    with viewer(path, port=0, http_port=0, grpc_port=None) as running:
        ui = Running(running)
        for trace in ui.get("/api/traces").json["traces"]:
            spans = ui.get(f"/api/traces/{trace['trace_id']}").json["spans"]
            (found,) = [span for span in spans if span["name"] == "reserve" and span["service"] == "storefront"]
            log(ui, trace, found, 9, "INFO", "asking the warehouse for 3 items")
            log(ui, trace, found, 13, "WARNING", "stock of tea is low")
        yield ui


def log(ui, trace, span, severity, level, body):
    """Send a log record of *span*."""
    record = {
        "timeUnixNano": str(int(trace["start_ns"]) + span["start"] + 100_000 * severity),
        "severityNumber": severity,
        "severityText": level,
        "traceId": trace["trace_id"],
        "spanId": span["span_id"],
        "body": {"stringValue": body},
        "attributes": pairs({"warehouse.aisle": 7}),
    }
    scope_logs = [{"scope": {"name": "storefront.orders"}, "logRecords": [record]}]
    resource = {"attributes": pairs({"service.name": "storefront"})}
    body = {"resourceLogs": [{"resource": resource, "scopeLogs": scope_logs}]}
    assert ui.post(json.dumps(body).encode(), "application/json", path="/v1/logs").status == 200


PAGES = ["list", "trace", "map", "compare", "help"]


def show(page, ui, name):
    """Open the page *name* with the demo's traces."""
    traces = ui.get("/api/traces").json["traces"]
    first, second = sorted([traces[0]["trace_id"], traces[-1]["trace_id"]])
    address = {"trace": f"#/trace/{first}", "map": "#/map", "compare": f"#/compare/{first}/{second}"}.get(name, "#/")
    page.goto(f"{ui.url}/{address}")
    wanted = {
        "trace": "[role=treeitem]",
        "map": ".node",
        "compare": "table.compare",
        "list": "tbody tr",
        "help": "tbody tr",
    }
    page.locator(wanted[name]).first.wait_for()
    if name == "trace":
        page.locator("[role=treeitem]", has_text="reserve").first.click()
        page.locator("aside h2").wait_for()
    if name == "help":
        page.keyboard.press("?")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_serious(demo, page, name, theme):
    if AXE is None:
        pytest.skip("TRACEKIT_TEST_AXE does not name axe-core's axe.min.js: make ui-test fetches it")
    page.emulate_media(color_scheme=theme)
    show(page, demo, name)
    page.evaluate(Path(AXE).read_text(encoding="utf-8"))  # not through the page, whose policy forbids it
    found = page.evaluate("axe.run().then(found => found.violations)")
    serious = [
        f"{violation['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for violation in found
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"][:3]
    ]
    assert serious == []


PICTURES = [("list", "light"), ("trace", "dark"), ("map", "light"), ("compare", "dark")]


@pytest.mark.parametrize(("name", "theme"), PICTURES)
def test_pictures_for_the_documents(demo, page, name, theme, tmp_path):
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": 1200, "height": 640})
    show(page, demo, name)
    expect(page.locator("#live")).to_contain_class("on")
    keep(page, tmp_path / f"ui-{name}.png")


@pytest.mark.skipif(not IS_WHOLE, reason="make ui-test makes pictures")
@pytest.mark.parametrize(
    ("name", "theme", "query"),
    [
        ("requests", "light", ""),
        ("requests-open", "dark", "requests?fam=server+GET+/orders/{id}&b=-1&exp=1"),
        ("events", "light", "events?fam=redis.Connection&exp=1"),
        ("tasks", "dark", ""),
        ("loop", "light", ""),
    ],
)
def test_pictures_of_the_debug_pages(page, name, theme, query, tmp_path):
    server = tracekit.debug.serve(port=0)
    tracekit.configure(service="shop", environ={})
    connection = tracekit.event_log("redis.Connection", "10.0.0.1:6379")
    connection.printf("connected to %s", "10.0.0.1:6379")
    connection.errorf("no answer for %d s", 5)
    try:
        for number in range(40):
            with tracekit.span(f"GET /{('orders/{id}', 'carts/{id}')[number % 2]}", kind="server") as served:
                with tracekit.span("SELECT orders", kind="client", attributes={"db.system.name": "postgresql"}):
                    pass
                if number % 10 == 7:
                    served.set_status("error", "no stock")
        tracekit.flush(60)
        with tracekit.span("GET /orders/{id}", kind="server", attributes={"http.route": "/orders/{id}"}) as served:
            served.add_event("cache miss", {"key": "order:7"})
            with tracekit.span("SELECT orders", kind="client"):
                page.emulate_media(color_scheme=theme)
                page.set_viewport_size({"width": 1200, "height": 640})
                page.goto(server.url + (query or name))
                page.locator("main h1").wait_for()
                if name == "tasks":
                    page.reload()  # the second look shows ages and last steps
                    page.locator("main h1").wait_for()
                keep(page, tmp_path / f"debug-{name}.png")
    finally:
        connection.finish()
        server.close()
        tracekit.shutdown(60)


def keep(page, picture):
    """Take a picture of *page*, and copy it to where ``make ui-test`` wants it."""
    page.screenshot(path=picture)
    assert 5_000 < picture.stat().st_size < MAX_PICTURE_BYTES
    target = os.environ.get("TRACEKIT_UI_PICTURES")
    if target:
        shutil.copy(picture, Path(target) / picture.name)
