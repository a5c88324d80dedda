"""A pytest plugin that runs in the suites' environment: installs the bridge, and writes each test's outcome.

``TRACEKIT_SUITE_TRACER`` is "tracekit" or "sdk". ``TRACEKIT_SUITE_RESULTS`` is the file of the results, a JSON object a
line: ``["tests/test_a.py::test_b", "passed" | "failed" | "skipped"]``. A test with a failed subtest or teardown has a line
for that as well.
"""

from __future__ import annotations

import json
import os

if os.environ["TRACEKIT_SUITE_TRACER"] == "tracekit":
    import opentelemetry.sdk.trace as sdk

    import tracekit
    from tracekit.bridges import opentelemetry

    class Discarded:
        """An exporter, because tracekit records nothing for a program without exporters and span processors."""

        def export(self, spans):
            pass

        def shutdown(self):
            pass

    tracekit.configure(exporter=Discarded(), environ={})
    opentelemetry.install(replace_sdk=True)

    def pytest_runtest_setup(item):
        # Tests of the SDK reload its module, which would bring its provider back.
        sdk.TracerProvider = opentelemetry.TracerProvider


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        _write(report.nodeid, report.outcome)


def pytest_collectreport(report):
    if report.failed:
        _write(report.nodeid, "failed")


def _write(test, outcome):
    with open(os.environ["TRACEKIT_SUITE_RESULTS"], "a", encoding="utf-8") as results:
        print(json.dumps([test, outcome]), file=results)
