"""``opentelemetry-instrument --distro tracekit``: configures tracekit, installs the bridge, loads the instrumentations."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

RUN = "from opentelemetry.instrumentation.auto_instrumentation import run; run()"
PROGRAM = """
import sqlite3
from opentelemetry import trace
import tracekit
with tracekit.span("native"), trace.get_tracer("shop").start_as_current_span("api"):
    sqlite3.connect(":memory:").cursor().execute("SELECT 1")
print(type(trace.get_tracer_provider()).__module__.partition(".")[0])
"""


def _instrument(*arguments, **variables):
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments, sys.executable, "-c", PROGRAM],
        env={**os.environ, "OTEL_SERVICE_NAME": "shop", "OTEL_TRACES_EXPORTER": "console", **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout, done.stderr


def test_the_distribution_that_is_named_is_used():
    out, tree = _instrument("--distro", "tracekit")
    assert out == "tracekit\n"
    lines = [line for line in tree.splitlines() if any(name in line for name in ("native", "api", "SELECT"))]
    assert [line.strip(" └─").split("  ")[0] for line in lines] == ["native", "api", "SELECT"]
    assert "shop" in tree


def test_a_distribution_that_is_not_named_is_not_used():
    assert _instrument()[0] == "opentelemetry\n"
