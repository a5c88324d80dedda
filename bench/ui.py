"""Print how long the pages of ``tracekit ui`` take on a store of 1,000,000 spans: answers of the API, and first paint.

``python -m bench.ui``. The answers are measured as a client sees them, the best of several; first paint is that of
headless Chromium, navigation until the first row of the list, in a fresh profile. A search without a hit is
answered in parts of at most 180 ms each: the first one and the whole are given.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

from tracekit.ui.server import viewer
from tracekit.ui.store import SpanStore

from .receiver import Batches

SEARCHES = (
    "",
    "checkout",
    "service:shop",
    "http.route=/checkout/{number}",
    ">1us status:unset",
    "service:none",
    "nothing is called so",
    "status:error",
    ">1h",
    "no.such=1",
    "http.route=/none",
    "http.route=/checkout/{number} service:shop >1h",
    "http.route=/checkout/{number} http.request.method=GET",
    "0123456789abcdef",
)


def fill(path: Path, spans: int) -> None:
    """Store so many spans."""
    batches = Batches()
    store = SpanStore(path, max_bytes=1 << 40)
    for _ in range(-(-spans // batches.spans)):
        store.put(batches.fresh())
    store.close()


def answer(url: str, path: str) -> tuple[float, dict[str, object]]:
    """Return the milliseconds of the best of three requests, and the last answer."""
    best, found = 1e9, b""
    for _ in range(3):
        begin = time.perf_counter()
        with urllib.request.urlopen(f"{url}/api/{path}") as response:
            found = response.read()
        best = min(best, (time.perf_counter() - begin) * 1000)
    return best, json.loads(found)


def whole(url: str, query: str) -> float:
    """Return the milliseconds of a search to the end of the store."""
    begin, before = time.perf_counter(), ""
    while True:
        with urllib.request.urlopen(f"{url}/api/traces?q={query}{before}") as response:
            found = json.loads(response.read())
        if found["next"] is None or found["traces"]:
            return (time.perf_counter() - begin) * 1000
        before = f"&before={found['next']}"


def paint(url: str, browser: str) -> list[float]:
    """Return the milliseconds from navigation to first contentful paint, and to the first row of the list."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        best = [1e9, 1e9]
        for _ in range(5):
            context = chromium.new_context()
            page = context.new_page()
            page.add_init_script(
                "new MutationObserver((_, all) => { if (document.querySelector('tbody tr')) {"
                " window.firstRow = performance.now(); all.disconnect(); } })"
                ".observe(document, {childList: true, subtree: true})"
            )
            page.goto(f"{url}/")
            page.locator("tbody tr").first.wait_for()
            found = page.evaluate(
                "new Promise(done => new PerformanceObserver(list => done("
                "[list.getEntriesByName('first-contentful-paint')[0].startTime, window.firstRow]"
                ")).observe({type: 'paint', buffered: true}))"
            )
            best = [min(pair) for pair in zip(best, found, strict=True)]
            context.close()
        chromium.close()
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spans", type=int, default=1_000_000)
    parser.add_argument("--path", type=Path, help="a store to measure, instead of a new one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.path or Path(folder, "spans.db")
        if not path.exists():
            fill(path, arguments.spans)
        with viewer(path, port=0, http_port=None, grpc_port=None, max_bytes=1 << 40) as running:
            url = running.urls["pages"]
            for search in SEARCHES:
                query = urllib.parse.quote(search)
                took, found = answer(url, f"traces?q={query}")
                line = f"search {search or '(all)':32} first answer {took:6.1f} ms, {len(found['traces'])} traces"
                print(line if found["traces"] else f"{line}, the whole store {whole(url, query):,.0f} ms")
            trace = answer(url, "traces?limit=1")[1]["traces"][0]["trace_id"]
            print(f"one trace {answer(url, f'traces/{trace}')[0]:.1f} ms, the map {answer(url, 'map')[0]:.0f} ms")
            browser = shutil.which("chromium") or shutil.which("google-chrome")
            if browser is None:
                print("first paint: not measured, no Chromium")
            else:
                first, row = paint(url, browser)
                print(f"first paint {first:.0f} ms, first row of the list {row:.0f} ms")


if __name__ == "__main__":
    main()
