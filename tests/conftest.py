"""Fixtures that every test has: a clean slate, spans in memory, and both twins."""

from __future__ import annotations

import os

import pytest

import tracekit
from tracekit import _environment
from tracekit.testing import MemoryExporter

from .backends import BACKENDS
from .vectors import TWINS

pytest.register_assert_rewrite("tests.wire.vector_files")

# What is configured around the tests, here and in the processes that they start, is no part of them.
for name in [
    name
    for name in os.environ
    if name.startswith("OTEL_") or name in {"TRACEKIT_PROPAGATE_TO", "TRACEKIT_SQLITE_PATH", "TRACEKIT_SPOOL"}
]:
    del os.environ[name]


@pytest.fixture(params=[pytest.param(twin, id=name) for name, twin in TWINS.items()])
def twin(request):
    """The module of one twin; for what is a pure function or a value of its own."""
    return request.param


@pytest.fixture(params=[pytest.param(backend, id=name) for name, backend in BACKENDS.items()])
def anyio_backend(request):
    return request.param


@pytest.fixture(autouse=True)
def _clean_slate():
    """Each test starts with nothing current and nothing configured, and nothing said."""
    _environment._said.clear()
    tracekit.configure()
    with tracekit.use_context(None):
        yield
    tracekit.configure()


@pytest.fixture
def exporter():
    """Tracing is configured, and every finished span is in ``exporter.spans``."""
    memory = MemoryExporter()
    tracekit.configure(service="test", exporter=memory)
    return memory
