"""The services of each language, started at their first use and kept until the end."""

from __future__ import annotations

import contextlib
import os

import pytest

import tracekit
from tracekit.testing import MemoryExporter

from ..tools.builds import Missing
from .services import FORMATS, Ours, run

pytest.register_assert_rewrite("tests.interop.trips")

MUST = os.environ.get("TRACEKIT_INTEROP", "") not in ("", "0")  # set by `make interop`
# `make test` needs no other language: it runs the tests with OpenTelemetry Python alone.
collect_ignore = [] if MUST else ["test_bad_headers.py", "test_census.py", "test_chain.py", "test_net_trace.py"]


@pytest.fixture(scope="session")
def start():
    """Return a function that returns the hosts of a language's service, and skips the test where that is not installed."""
    running: dict[str, list[str]] = {}
    with contextlib.ExitStack() as stack:

        def hosts(language):
            if language not in running:
                try:
                    running[language] = stack.enter_context(run(language))
                except Missing as reason:
                    pytest.skip(f"{language}: {reason}")
            return running[language]

        yield hosts


@pytest.fixture(scope="session")
def ours():
    """The services of tracekit, in this process."""
    with Ours() as services:
        yield services


@pytest.fixture
def configured():
    """Return a function that configures tracekit for a format, and returns the exporter."""

    def configure(name="w3c", **settings):
        exporter = MemoryExporter()
        tracekit.configure(exporter=exporter, environ={}, **{"formats": FORMATS[name], **settings})
        return exporter

    return configure
