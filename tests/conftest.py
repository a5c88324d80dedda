"""Fixtures that every test has: a clean slate, spans in memory, and both twins."""

from __future__ import annotations

import importlib
import sys

import pytest

import tracekit
from tracekit import _pure
from tracekit._current import _restore_context
from tracekit._labels import NO_LABELS, make_labels, parse_labels
from tracekit._tracestate import TraceState, make_state
from tracekit.testing import MemoryExporter

BACKENDS = [
    pytest.param(("asyncio", {}), id="asyncio"),
    pytest.param(("trio", {}), id="trio"),
]
if sys.platform != "win32":
    BACKENDS.insert(1, pytest.param(("asyncio", {"use_uvloop": True}), id="asyncio+uvloop"))


def _twins():
    twins = {"plain": _pure}
    try:
        twins["compiled"] = importlib.import_module("tracekit._speedups")
    except ModuleNotFoundError:  # a plain install, with one twin
        pass
    for name, twin in twins.items():
        if name != tracekit.IMPLEMENTATION:
            # The package has done so for the twin that it uses.
            twin.set_values(NO_LABELS, parse_labels, make_labels, TraceState, make_state, _restore_context)
    return [pytest.param(twin, id=name) for name, twin in twins.items()]


@pytest.fixture(params=_twins())
def twin(request):
    """The module of one twin; for what is a pure function or a value of its own."""
    return request.param


@pytest.fixture(params=BACKENDS)
def anyio_backend(request):
    return request.param


@pytest.fixture(autouse=True)
def _clean_slate():
    """Each test starts with nothing current and nothing configured."""
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
