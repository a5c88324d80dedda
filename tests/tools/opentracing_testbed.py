"""Run OpenTracing's testbed on tracekit.

    python -m tests.tools.opentracing_testbed PATH

PATH is a checkout of https://github.com/opentracing/opentracing-python, which is no part of this repository. Its tests
need the packages six, gevent and tornado beside this project's own. They make a MockTracer and read its finished spans;
here that name stands for a tracer of tracekit whose finished spans have a MockTracer's attributes.
"""

from __future__ import annotations

import os
import sys
import types
import unittest
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import opentracing.mocktracer

import tracekit
from tracekit.bridges.opentracing import SpanContext, Tracer
from tracekit.testing import MemoryExporter

PLATFORMS = ("threads", "gevent", "asyncio", "contextvars")  # tornado's are for releases before 6


class TestbedTracer(Tracer):
    """A tracer that returns its finished spans, as the testbed reads them."""

    def __init__(self, scope_manager=None):
        super().__init__(scope_manager)
        self.exporter = MemoryExporter()
        self.made = set()
        tracekit.configure(exporter=self.exporter, environ={})

    def start_span(self, *args, **kwargs):
        """Start a span, and remember it: tests leave tasks behind that make spans with their own tracer."""
        span = super().start_span(*args, **kwargs)
        self.made.add(span.context.span_id)
        return span

    def finished_spans(self):
        """Return the finished spans in order."""
        tracekit.flush()
        return [_read(span) for span in self.exporter.spans if SpanContext(span.context).span_id in self.made]


def _read(span):
    return SimpleNamespace(
        operation_name=span.name,
        context=SpanContext(span.context),
        parent_id=None if span.parent is None else SpanContext(span.parent).span_id,
        tags=dict(span.attributes),
        logs=span.events,
        start_time=span.start_ns / 1e9,
        finish_time=span.end_ns / 1e9,
    )


def _tests(suite: Iterable[object]):
    for item in suite:
        if isinstance(item, Iterable):
            yield from _tests(item)
        else:
            yield item


def main(path: str) -> int:
    """Run the testbed in the checkout at *path*, and return the exit status."""
    root = Path(path)
    folders = sorted(folder.name for folder in (root / "testbed").glob("test_*"))
    sys.path.append(os.fspath(root))
    opentracing.mocktracer.MockTracer = TestbedTracer
    TestbedTracer()  # before the tests import what it replaces
    # Not the package's own modules: opentracing itself is the installed one.
    package = types.ModuleType("testbed")
    package.__path__ = [os.fspath(root / "testbed")]
    sys.modules["testbed"] = package
    suite = unittest.TestSuite()
    for platform in PLATFORMS:
        for folder in folders:
            suite.addTests(unittest.defaultTestLoader.loadTestsFromName(f"testbed.{folder}.test_{platform}"))
    names = [test.id() for test in _tests(suite)]
    result = unittest.TextTestRunner(verbosity=1).run(suite)
    sys.stdout.write(f"{result.testsRun - len(result.failures) - len(result.errors)} of {len(names)} passed\n")
    return 0 if names and result.wasSuccessful() else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
