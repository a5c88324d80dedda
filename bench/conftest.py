"""Fixtures of every bench: both forms of the core, one recording tracer for each, and how ``pytest bench`` measures and prints."""

from __future__ import annotations

from typing import Any

import pytest

import tracekit
from tests.tools.forms import FORMS
from tracekit._core.buffer import buffer

from .contender_tracekit import NullExporter

# Defaults of this directory; the command line wins.
OPTIONS: dict[str, Any] = {
    "benchmark_group_by": "func",
    "benchmark_columns": ["min", "median", "iqr", "rounds", "iterations"],
    "benchmark_sort": "name",
    "benchmark_max_time": 0.2,
    "benchmark_min_rounds": 5,
    "benchmark_min_time": 0.0001,
    "benchmark_disable_gc": True,
    "benchmark_warmup": True,
    "benchmark_warmup_iterations": 1000,
}


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    given = [str(argument).partition("=")[0] for argument in config.invocation_params.args]
    for name, value in OPTIONS.items():
        if hasattr(config.option, name) and "--" + name.replace("_", "-") not in given:
            setattr(config.option, name, value)
    config.addinivalue_line("python_files", "bench_*.py")
    config.addinivalue_line("python_functions", "bench_*")


@pytest.fixture(params=FORMS)
def form(request):
    """The names of one form of the core, unconfigured, with nothing current."""
    form = FORMS[request.param]
    with form.context_scope(None):
        yield form


def _empty_when_half_full(buffer):
    """Have each span pay its share of emptying the buffer, at once: a thread would lag behind, and spans be dropped."""
    buffer.wake = lambda: len(buffer) > 1 and buffer.drain()


@pytest.fixture
def recording(form):
    """The form's module, recording every span."""
    form.set_tracer(form.Tracer(recording=True))
    form.buffer.is_open = True
    _empty_when_half_full(form.buffer)
    yield form
    form.set_tracer(form.Tracer())
    form.buffer.is_open = False
    form.buffer.wake = None
    form.buffer.reset()


@pytest.fixture
def configure():
    """``tracekit.configure``, on the active form, with an exporter that does nothing."""

    def configure(**settings):
        tracekit.configure(service="bench", exporter=NullExporter(), **settings)
        _empty_when_half_full(buffer)

    with tracekit.use_context(None):
        yield configure
    tracekit.configure()
