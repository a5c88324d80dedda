"""Blocks of the documents that are for other tools, run with these: other tracers, pandas and DuckDB, Prometheus, the Collector.

``make docs-peers`` installs and builds them, and fails where one is missing. Elsewhere each test runs if its packages are
installed, and otherwise says so.
"""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tracekit
from tracekit import metrics
from tracekit.exporters.sqlite import SQLiteExporter
from tracekit.testing import MemoryExporter

from .tools import builds, migration
from .tools.ports import free_port

pytestmark = [pytest.mark.one_form, pytest.mark.slow]

ROOT = Path(__file__).parent.parent
# A Python with the packages, and permission to build programs in Go.
PEERS = os.environ.get("TRACEKIT_TEST_PEERS", "")
PYTHON = PEERS or sys.executable


def block(page, language):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return found


@functools.cache
def has(*modules):
    program = f"import importlib.util as u; print(all(u.find_spec(name) for name in {modules}))"
    return subprocess.run([PYTHON, "-c", program], capture_output=True, text=True, timeout=60).stdout == "True\n"


def need(*modules):
    if not has(*modules):
        (pytest.fail if PEERS else pytest.skip)(f"needs {', '.join(modules)}: make docs-peers installs them")


@functools.cache
def program(folder):
    """Return the program in Go of *folder*, built the first time."""
    if not PEERS:
        pytest.skip("built by make docs-peers alone, which takes minutes")
    try:
        return builds.golang(ROOT / "tests" / "tools" / folder)
    except builds.Missing as reason:
        pytest.skip(f"{reason}, and this needs it")


def spans_of(half, section, python):
    command = [python, "-W", "ignore", "-m", "tests.tools.migration", half, section]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


MODULES = {
    "OpenTelemetry": "opentelemetry.sdk",
    "OpenTracing": "jaeger_client",
    "logfire": "logfire",
    "Sentry": "sentry_sdk",
    "ddtrace": "ddtrace",
}


@pytest.mark.parametrize("section", migration.BEFORE)
def test_the_code_after_a_migration_makes_the_trace_of_the_code_before(section):
    need(MODULES[section])
    before = spans_of("before", section, PYTHON)
    assert before == spans_of("after", section, sys.executable)
    assert before["spans"]


def test_the_code_for_pandas_and_duckdb_reads_a_store(tmp_path):
    need("pandas", "duckdb")
    tracekit.configure(service="shop", exporter=SQLiteExporter(tmp_path / "traces.db"))
    for name, durations_ms in (("GET /cart", range(1, 101)), ("GET /", [1])):
        for duration in durations_ms:
            tracekit.span(name, start_ns=10**18).end(10**18 + duration * 1_000_000)
    tracekit.shutdown()
    code = block("store.md", "text")
    code = re.sub(
        r"^(frame\.groupby.*)",
        r"print(\1.loc['GET /cart', ['count', '50%', '95%']].tolist())",
        code,
        flags=re.MULTILINE,
    )
    code = re.sub(r"^(duckdb\.sql.*)", r"print(\1.fetchall())", code, flags=re.MULTILINE)
    done = subprocess.run([PYTHON, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    described, quantiles = done.stdout.splitlines()
    assert json.loads(described) == pytest.approx([100, 50.5e6, 95.05e6])
    assert quantiles == "[('GET /cart', 95.05), ('GET /', 1.0)]"


@pytest.mark.parametrize("openmetrics", [False, True])
def test_the_queries_for_prometheus_answer_with_what_was_measured(openmetrics):
    promql = program("promql")
    tracekit.configure(service="shop", exporter=metrics.RedMetrics(MemoryExporter()))
    kind = metrics.OPENMETRICS if openmetrics else metrics.PROMETHEUS
    scrapes = []
    for at in range(15, 316, 15):  # three requests before each scrape, one of which fails; 30 ms each
        for status in (200, 200, 500):
            attributes = {"http.request.method": "GET", "http.route": "/cart", "http.response.status_code": status}
            if status == 500:
                attributes["error.type"] = "500"
            span = tracekit.span("GET /cart", kind="server", attributes=attributes, start_ns=10**18)
            span.end(10**18 + 30_000_000)
        tracekit.flush()
        scrapes.append({"at": at, "type": kind, "text": metrics.prometheus(openmetrics=openmetrics)})
    queries = block("metrics.md", "promql").splitlines()
    done = subprocess.run(
        [promql], input=json.dumps({"scrapes": scrapes, "queries": queries}), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    requests, errors, p95 = json.loads(done.stdout)
    assert [one["metric"] for one in (*requests, *errors, *p95)] == [{"http_route": "/cart"}] * 3
    assert requests[0]["value"] == pytest.approx(3 / 15)
    assert errors[0]["value"] == pytest.approx(1 / 15)
    assert 0.025 < p95[0]["value"] <= 0.05  # the bucket of 30 ms


def test_the_commands_for_a_collector_start_one_that_the_doctor_reaches(tmp_path):
    collector = program("collector")
    start, ask = block("OPERATIONS.md", "sh").splitlines()
    http, grpc = free_port(), free_port()
    (tmp_path / "otelcol-contrib").symlink_to(collector)
    environ = {
        **os.environ,
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "COLLECTOR_HTTP": f"127.0.0.1:{http}",
        "COLLECTOR_GRPC": f"127.0.0.1:{grpc}",
        "COLLECTOR_FILE": str(tmp_path / "spans.jsonl"),
    }
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(["bash", "-c", f"exec {start}"], cwd=ROOT, env=environ, stdout=log, stderr=log) as process,
    ):
        try:
            deadline = time.monotonic() + 60
            while b"Everything is ready" not in (tmp_path / "log").read_bytes():
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.05)
            ask = ask.replace("tracekit", f"{sys.executable} -m tracekit", 1).replace(":4318", f":{http}")
            done = subprocess.run(["bash", "-c", ask], cwd=ROOT, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stdout + done.stderr
            assert f"127.0.0.1:{http}" in done.stdout
        finally:
            process.send_signal(signal.SIGTERM)
