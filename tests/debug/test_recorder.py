"""The recorder: families, buckets, windows, samples, and their bounds; also where nothing is exported or sampled."""

import contextlib
import json
import os

import pytest

import tracekit
from tracekit import debug
from tracekit._configure import tracer_in_use
from tracekit.debug import _requests
from tracekit.debug._access import Gate, Visitor
from tracekit.debug._recorder import FAMILY, Recorder, recorder
from tracekit.debug._respond import respond
from tracekit.testing import MemoryExporter

MS = 1_000_000


def page(path, query="", kind="json"):
    visitor = Visitor("127.0.0.1", "GET", f"/debug/{path}", {"host": "localhost"})
    response = respond(Gate(), visitor, f"/{path}", f"{query}&format={kind}")
    assert response.status == 200, response.body
    return json.loads(response.body) if kind == "json" else response.body.decode()


def rows():
    tracekit.flush(60)
    return {row["family"]: row for row in page("requests")["families"]}


def request(name="GET /", ms=1, kind="server", **more):
    tracekit.span(name, kind=kind, start_ns=0, **more).end(ms * MS)


@pytest.fixture
def pages(exporter):
    debug.app()
    return exporter


def test_requests_are_counted_by_family_and_latency(pages):
    for ms in (1, 49, 50, 99, 100, 500, 1000, 10_000, 100_000):
        request(ms=ms)
    request("POST /", kind="client")
    request("job", kind="internal", attributes={FAMILY: "jobs"})
    found = rows()
    assert list(found) == ["client POST /", "jobs", "server GET /"]
    assert list(found["server GET /"]["buckets"].values()) == [9, 7, 5, 4, 4, 3, 2, 1]
    assert found["server GET /"]["latency"]["minute"]["count"] == 9


@pytest.mark.parametrize("kind", ["html", "text"])
def test_an_open_request_without_a_route_is_named_with_its_path(pages, kind):
    known = {"url.path": "/orders/7", "http.route": "/orders/{id}"}
    with (
        tracekit.span("GET", kind="server", attributes={"url.path": "/ha<ng"}),
        tracekit.detached(),
        tracekit.span("PUT", kind="server", attributes=known),
    ):
        shown = page("requests", "fam=server+GET&b=-1", kind)
        other = page("requests", "fam=server+PUT&b=-1", kind)
    assert ("GET /ha&lt;ng" if kind == "html" else "GET /ha<ng") in shown
    assert "/orders/7" not in other


@pytest.fixture
def open_requests(pages):
    """Six open requests whose routes are not known, on five paths, and one whose route is."""
    with contextlib.ExitStack() as stack:
        for path in ("/1", "/2", "/2", "/<3>", "/4", "/5"):
            stack.enter_context(tracekit.detached())
            stack.enter_context(tracekit.span("GET", kind="server", attributes={"url.path": path}))
        stack.enter_context(tracekit.detached())
        stack.enter_context(tracekit.span("GET /{n}", kind="server", attributes={"url.path": "/6"}))
        yield


def test_open_requests_without_a_route_are_shown_by_their_paths_in_one_family(open_requests):
    found = rows()
    assert [(family, found[family]["open"]) for family in found] == [("server GET", 6), ("server GET /{n}", 1)]
    titles = {"GET /1": 1, "GET /2": 2, "GET /<3>": 1, "GET /4": 1, "GET /5": 1}
    assert found["server GET"]["open_titles"] == titles
    assert "open_titles" not in found["server GET /{n}"]
    assert "\n    open: GET /1, GET /2 (2), GET /<3> …\n" in page("requests", kind="text")
    assert '<div class="paths">GET /1, GET /2 (2), GET /&lt;3&gt; …</div>' in page("requests", kind="html")
    traces = page("requests", "fam=server+GET&b=-1")["traces"]
    assert [trace["title"] for trace in traces] == ["GET /5", "GET /4", "GET /<3>", "GET /2", "GET /2", "GET /1"]
    (hidden,) = {trace["title"] for trace in page("requests", "fam=server+GET&b=-1&show_sensitive=0")["traces"]}
    assert hidden == "GET [redacted]"
    assert "GET /1" not in page("requests", "show_sensitive=0", "text")


def test_the_table_looks_at_a_bounded_number_of_open_requests(open_requests, monkeypatch):
    monkeypatch.setattr(_requests, "_TITLED", 2)
    assert rows()["server GET"]["open_titles"] == {"GET /1": 1, "GET /2": 1}


def test_errors_are_counted_and_sampled(pages):
    with pytest.raises(ValueError, match="x"), tracekit.span("GET /", kind="server"):
        raise ValueError("x")
    request()
    assert rows()["server GET /"]["errors"] == 1
    (trace,) = page("requests", "fam=server+GET+/&b=8")["traces"]
    assert (trace["status"], trace["description"]) == ("error", "error: ValueError: x")


def test_open_requests_are_counted_and_shown_oldest_of_all_newest_first(pages):
    spans = [tracekit.span("GET /", kind="server", attributes={"n": n}) for n in range(30)]
    child = tracekit.span("query", parent=spans[3])
    assert rows()["server GET /"]["open"] == 30
    found = page("requests", "fam=server+GET+/&b=-1&exp=1")
    assert [trace["spans"][0]["attributes"]["n"] for trace in found["traces"]] == list(range(19, -1, -1))
    assert [span["name"] for span in found["traces"][16]["spans"]] == ["GET /", "query"]
    assert found["traces"][16]["spans"][1]["is_open"]
    assert len(page("requests", "fam=server+GET+/&b=-1&n=25")["traces"]) == 25
    for span in [child, *spans]:
        span.end()
    assert rows()["server GET /"]["open"] == 0


def test_a_sample_has_its_spans_and_events_with_elapsed_times(pages):
    with tracekit.span("GET /", kind="server", start_ns=0) as root:
        child = tracekit.span("query", kind="client", start_ns=2 * MS, attributes={"rows": 3})
        child.add_event("row", {"n": 1}, time_ns=3 * MS)
        child.end(4 * MS)
        root.end(10 * MS)
    request("GET /other")
    tracekit.flush(60)
    (trace,) = page("requests", "fam=server+GET+/&b=0&exp=1")["traces"]
    first, second = trace["spans"]
    assert (first["name"], first["after_ns"], first["duration_ns"]) == ("GET /", 0, 10 * MS)
    assert (second["name"], second["after_ns"], second["duration_ns"]) == ("query", 2 * MS, 2 * MS)
    assert second["attributes"] == {"rows": 3}
    assert second["events"] == [{"name": "row", "after_ns": 3 * MS, "attributes": {"n": 1}}]
    text = page("requests", "fam=server+GET+/&b=0&exp=1", "text")
    assert "+2.00 ms  └─ query  2.00 ms  rows=3" in text
    assert "+3.00 ms        · row  n=1" in text


def test_only_one_trace_is_expanded_by_its_id(pages):
    for _ in range(3):
        request()
    tracekit.flush(60)
    traces = page("requests", "fam=server+GET+/&b=0")["traces"]
    assert not any("spans" in trace for trace in traces)
    one = traces[1]["span_id"]
    expanded = page("requests", f"fam=server+GET+/&b=0&trace={one}")["traces"]
    assert ["spans" in trace for trace in expanded] == [False, True, False]


def test_a_span_that_ends_after_its_root_is_found(pages):
    with tracekit.span("GET /", kind="server"):
        late = tracekit.span("background")
    tracekit.flush(60)
    late.end()
    tracekit.flush(60)
    (trace,) = page("requests", "fam=server+GET+/&b=0&exp=1")["traces"]
    assert [span["name"] for span in trace["spans"]] == ["GET /", "background"]


def test_two_local_roots_of_one_trace_are_two_requests(pages):
    outer = tracekit.span("outer", kind="server")
    incoming = tracekit.use_context(outer.context.replace(is_remote=True))
    with incoming, tracekit.span("inner", kind="server"), tracekit.span("below"):
        pass
    outer.end()
    found = rows()
    assert (found["server outer"]["buckets"]["0"], found["server inner"]["buckets"]["0"]) == (1, 1)
    (trace,) = page("requests", "fam=server+inner&b=0&exp=1")["traces"]
    assert [span["name"] for span in trace["spans"]] == ["inner", "below"]


def test_ten_samples_are_kept_for_each_bucket_newest_first(pages):
    for number in range(25):
        request(attributes={"n": number})
    tracekit.flush(60)
    found = page("requests", "fam=server+GET+/&b=0&exp=1")
    assert found["count"] == 25
    assert [trace["spans"][0]["attributes"]["n"] for trace in found["traces"]] == list(range(24, 14, -1))


def test_without_an_exporter_requests_are_shown_and_not_sampled():
    debug.app()
    before = tracekit.statistics()
    with tracekit.span("GET /", kind="server") as span:
        assert span.is_recording
        assert not span.context.sampled
        assert tracekit.inject({})["traceparent"].endswith("-02")
    assert rows()["server GET /"]["buckets"]["0"] == 1
    now = tracekit.statistics()
    assert (now.unsampled - before.unsampled, now.dropped - before.dropped) == (1, 0)
    recorder.stop()
    with tracekit.span("GET /") as span:
        assert not span.is_recording


def test_spans_that_are_not_sampled_are_shown_and_do_not_reach_the_exporter(exporter):
    tracekit.configure(exporter=exporter, sampler=tracekit.AlwaysOff())
    debug.app()
    with tracekit.span("GET /", kind="server"), tracekit.span("child"):
        pass
    assert rows()["server GET /"]["buckets"]["0"] == 1
    assert exporter.spans == []
    assert page("requests", "fam=server+GET+/&b=0&rtraced=1")["traces"] == []
    (trace,) = page("requests", "fam=server+GET+/&b=0")["traces"]
    assert trace["sampled"] is False


def test_with_unsampled_false_only_sampled_requests_are_recorded(exporter):
    tracekit.configure(exporter=exporter, sampler=tracekit.AlwaysOff())
    debug.app(unsampled=False)
    with tracekit.span("GET /") as span:
        assert not span.is_recording
    assert rows() == {}


def test_configure_keeps_the_pages(exporter):
    debug.app()
    tracekit.configure(exporter=exporter)
    request()
    tracekit.configure()
    request()
    assert rows()["server GET /"]["buckets"]["0"] == 2
    assert len(exporter.spans) == 1


def test_a_disabled_sdk_records_nothing():
    debug.app()
    tracekit.configure(environ={"OTEL_SDK_DISABLED": "true"})
    with tracekit.span("GET /") as span:
        assert not span.is_recording
    assert not tracer_in_use().records_all


def test_the_windows_move():
    now = 0
    mine = Recorder(lambda: now)
    memory = MemoryExporter()
    tracekit.configure(exporter=memory)
    request()
    tracekit.flush(60)
    sums = {}
    for seconds in (0, 59, 60, 3599, 3600):
        now = 0
        mine.forget()
        mine.take(memory.spans)
        (family,) = mine.families.values()
        now_ns = seconds * 10**9
        sums[seconds] = [sum(counts.sums(now_ns)) for counts in (family.minute, family.hour, family.total)]
    assert sums == {0: [1, 1, 1], 59: [1, 1, 1], 60: [0, 1, 1], 3599: [0, 1, 1], 3600: [0, 0, 1]}


def spans(count, *, roots, name="GET /", memory=None):
    """Return finished spans: *roots* local roots with *count* children each."""
    memory = MemoryExporter()
    tracekit.configure(exporter=memory)
    for number in range(roots):
        with tracekit.span(name.format(number), kind="server"):
            for _ in range(count):
                tracekit.span("child").end()
    tracekit.flush(60)
    return memory.spans


def test_a_large_trace_loses_its_middle():
    mine = Recorder()
    mine.take(spans(1000, roots=1))
    (family,) = mine.families.values()
    (trace,) = family.rings[0]
    assert (len(trace.spans), trace.left_out, mine.pending, mine.kept) == (200, 800, 0, 200)


def test_samples_are_bounded_in_spans():
    mine = Recorder(max_spans=25)
    mine.take(spans(10, roots=5, name="GET /{}"))
    held = [len(trace.spans) for family in mine.families.values() for trace in family.rings[0]]
    assert held == [0, 0, 0, 10, 10]
    assert (mine.kept, mine.trimmed) == (20, 30)
    left_out = [trace.left_out for family in mine.families.values() for trace in family.rings[0]]
    assert left_out == [10, 10, 10, 0, 0]


def test_samples_that_leave_their_ring_are_not_counted_any_more():
    mine = Recorder()
    mine.take(spans(2, roots=30))
    assert mine.kept == 20


def test_spans_whose_root_does_not_come_are_bounded():
    mine = Recorder(max_pending=10)
    everything = spans(3, roots=8)
    mine.take([span for span in everything if span.parent is not None])
    assert mine.pending <= 10
    assert mine.pending + mine.evicted == 24
    assert sum([len(mine.waiting_below(parent)) for parent in everything if parent.parent is None]) == mine.pending


def test_families_are_bounded():
    mine = Recorder()
    mine.take(spans(0, roots=300, name="GET /{}"))
    assert len(mine.families) == 257
    assert mine.families["", "(other families)"].buckets[0] == 44


def test_a_tap_that_raises_costs_the_exporter_nothing(pages, caplog, monkeypatch):
    def take(batch):
        raise ZeroDivisionError("x")

    tracekit._configure.add_tap(take, records_all=False)
    try:
        request()
        tracekit.flush(60)
    finally:
        tracekit._configure.remove_tap(take)
    assert len(pages.spans) == 1
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_the_child_of_a_fork_shows_its_own_requests(pages):
    request("parent's")
    tracekit.flush(60)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            request("child's")
            os.write(writing, ",".join(rows()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with os.fdopen(reading) as stream:
        assert stream.read() == "server child's"
    assert list(rows()) == ["server parent's"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_fork_while_requests_are_recorded_does_not_block_the_export_of_the_child(pages):
    with recorder.lock:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                request("child's")
                status = not tracekit.flush(15)
            finally:
                os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
