"""How long the store takes to answer: ``python -m bench.store``, a store of 100,000 traces and 500,000 spans.

Writing it takes half a minute; ``--traces`` sets another number, ``--db`` keeps it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import tracekit
from tracekit.exporters.sqlite import SQLiteExporter, SQLiteReader

SEARCHES = {
    "the newest 20": {},
    "a name": {"name": "/items/7"},
    "errors": {"status": "error"},
    "an attribute of one trace in 100": {"attributes": {"http.response.status_code": "500"}},
    "an attribute of one trace": {"attributes": {"number": "77"}},
    "the 20 slowest": {"sort": "duration"},
    "no trace matches": {"service": "none"},
}


def fill(path: Path, traces: int) -> None:
    """Write *traces* traces of five spans."""
    tracekit.configure(
        service="shop", exporter=SQLiteExporter(path, max_bytes=1 << 32), environ={}, buffer_size=1 << 17
    )
    for number in range(traces):
        attributes = {"http.response.status_code": 200 if number % 100 else 500, "number": number}
        with tracekit.span(f"GET /items/{number % 50}", kind="server", attributes=attributes) as root:
            for _ in range(4):
                tracekit.span("step", attributes={"part": 1}).end()
            if not number % 100:
                root.set_status("error")
        if not number % 10_000:
            tracekit.flush(60)
    tracekit.shutdown(60)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.store", description=__doc__)
    parser.add_argument("--traces", type=int, default=100_000)
    parser.add_argument("--db", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.db or Path(folder) / "traces.db"
        if not path.exists():
            fill(path, arguments.traces)
        print(f"| {arguments.traces:,} traces, search for | found | ms |\n|---|---|---|")
        with SQLiteReader(path) as reader:
            for name, search in SEARCHES.items():
                took_s = []
                for _ in range(3):
                    start_s = time.perf_counter()
                    found = reader.traces(limit=20, **search)
                    took_s.append(time.perf_counter() - start_s)
                print(f"| {name} | {len(found)} | {min(took_s) * 1000:.1f} |", flush=True)


if __name__ == "__main__":
    main()
