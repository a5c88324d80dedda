"""Fixtures of every test: a clean slate, spans in memory, both implementations; and the tests that one pass is enough for.

``make test`` runs the suite twice, with the compiled implementation and with the plain one. Tests marked ``one_form`` are
the same in both passes, so the plain pass deselects them: see ``ONE_FORM``.
"""

from __future__ import annotations

import fnmatch
import gc
import logging
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest

import tracekit
from tracekit import _environment
from tracekit._core import misuse
from tracekit.testing import MemoryExporter

from .tools.accounts import statistics
from .tools.backends import ASYNCIO, TRIO
from .tools.forms import FORMS, Form
from .tools.pipeline import Gate, end

pytest.register_assert_rewrite("tests.wire.vector_files")

# Each run has the same examples, and one that a busy machine delays is no failure.
hypothesis.settings.register_profile("tracekit", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("tracekit")

# What is configured around the tests, here and in the processes that they start, is no part of them.
for name in [
    name
    for name in os.environ
    if name.startswith("OTEL_")
    or name in {"TRACEKIT_DEBUG_PAGES", "TRACEKIT_PROPAGATE_TO", "TRACEKIT_SQLITE_PATH", "TRACEKIT_SPOOL"}
    or name in {"FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"}
]:
    del os.environ[name]

# A script that starts the tests in its background has them ignore Ctrl-C, and with them the processes that they interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A wrong argument is a mistake of the tests, here and in their processes, unless a test is about that.
os.environ["TRACEKIT_STRICT"] = "1"
misuse.set_strict(True)


# Files whose tests run in the compiled pass alone, by path, and the reason: what each tests has one source that is not
# compiled, or surrounds code whose own tests run in both forms, or is compared in both forms by the tests themselves.
# Spans, scopes, hand-offs, carriers and propagation run in both passes. Cases parametrized with a ``Form``, such as those
# of the fixture ``form``, or with the name of one as ``form``, are marked one by one. test_passes.py checks each "is not
# compiled" and each file named here.
_EXPORTERS = (
    "exporters/ is not compiled, and reads finished spans through public properties; exporters/test_otlp_encoding.py, the "
    "encoding, runs in both"
)
_COMMANDS = "cli/ is not compiled"
_BOTH = "drives both forms in one process, or compares them"
_FORMATS = ("cloudtrace", "datadog", "environ", "grpc_bin", "jaeger", "ottrace", "seed_header", "server_timing", "xray")
ONE_FORM = {
    "bridges/test_distro.py": "bridges/_opentelemetry/distro.py is not compiled",
    "debug/test_access.py": "who may see pages; of them debug/test_recorder.py and debug/test_open_spans.py run in both",
    "debug/test_event_logs.py": "_event_logs.py is not compiled",
    "debug/test_servers.py": "servers around the pages; debug/test_recorder.py and debug/test_open_spans.py run in both",
    "debug/test_tasks_page.py": "debug/_tasks.py is not compiled; aio/test_tasks.py and aio/test_watch.py run in both",
    "exporters/test_[!o]*.py": _EXPORTERS,
    "exporters/test_otlp.py": _EXPORTERS,
    "exporters/test_otlp_[!e]*.py": _EXPORTERS,
    "exporters/test_outbox.py": _EXPORTERS,
    "guarantees/test_scenario.py": "the judgment of trees, not the tracer",
    "integrations/test_asgi_servers.py": "real servers around the middleware: integrations/test_asgi.py runs in both",
    "integrations/test_ends.py": "real servers and processes: test_signals.py and test_tracer.py run in both",
    "integrations/test_foreign_suites.py": (
        "tests of other projects, in processes: integrations/test_wsgi.py and integrations/test_http_server.py run in both"
    ),
    "integrations/test_databases.py": (
        "real servers: integrations/test_sqlalchemy.py and bridges/test_opentelemetry.py run in both"
    ),
    "integrations/test_loguru.py": "integrations/loguru.py is not compiled",
    "integrations/test_messages.py": "integrations/messages.py is not compiled",
    "integrations/test_queues.py": "integrations/_queue.py is not compiled",
    "integrations/test_sql.py": "integrations/_sql.py is not compiled",
    "integrations/test_structlog.py": "integrations/structlog.py is not compiled",
    "integrations/test_subprocess.py": "integrations/subprocess.py is not compiled",
    "integrations/test_wsgi_servers.py": "real servers around the middleware: integrations/test_wsgi.py runs in both",
    "interop/*": "headers of other libraries, read as those of wire/test_vectors.py, whose cases are of both forms",
    "test_api_fuzz.py": "hostile objects against the compiled modules: the plain form has no memory to corrupt",
    "test_bench.py": "the benches measure both forms",
    "test_cli*.py": _COMMANDS,
    "test_compiled.py": "reads the generated C",
    "test_conform.py": "cli/ is not compiled, and demo/ is not compiled",
    "test_demo.py": "demo/ is not compiled",
    "test_english.py": "reads sources",
    "test_environment.py": "_environment.py is not compiled",
    "test_examples.py": "programs, in processes, of what other tests run in both",
    "test_fuzz.py": _BOTH,
    "test_header.py": _COMMANDS,
    "test_metrics.py": "metrics.py is not compiled",
    "test_pytest_plugin.py": "pytest in separate processes; pytest_plugin.py is not compiled",
    "test_span_forms.py": _BOTH,
    "test_stack.py": "_core/stack.py is not compiled",
    "test_structure.py": "reads sources and the documents",
    "test_forms.py": _BOTH,
    "test_wire_forms.py": _BOTH,
    **{
        f"wire/test_{name}.py": f"wire/{name}.py is not compiled; wire/test_vectors.py has cases of both forms"
        for name in _FORMATS
    },
}
# Files that ``make test-fast`` leaves out, and the reason. It leaves out cases of the plain form, too.
SLOW = dict.fromkeys(
    [
        "aio/test_to_process.py",
        "exporters/test_[!c]*.py",
        "integrations/test_aiohttp.py",
        "integrations/test_asgi_servers.py",
        "integrations/test_databases.py",
        "integrations/test_ends.py",
        "integrations/test_foreign_suites.py",
        "integrations/test_grpc.py",
        "integrations/test_http_server.py",
        "integrations/test_queues.py",
        "integrations/test_subprocess.py",
        "integrations/test_wsgi_servers.py",
        "integrations/test_http_client.py",
        "integrations/test_httpx.py",
        "integrations/test_httpx_instrument.py",
        "interop/*",
        "test_bench.py",
        "test_cli*.py",
        "test_conform.py",
        "test_demo.py",
        "test_environ.py",
        "test_examples.py",
        "test_header.py",
        "test_memory_safety.py",
        "test_processes.py",
        "test_pytest_plugin.py",
        "test_signals.py",
        "test_structure.py",
    ],
    "servers and processes",
) | dict.fromkeys(
    [
        "guarantees/*",
        "integrations/test_forced.py",
        "test_api_fuzz.py",
        "test_fuzz.py",
        "test_sampling.py",
        "test_scope_model.py",
        "test_span_forms.py",
        "test_stack.py",
        "test_stress.py",
        "test_tracer.py",
        "test_forms.py",
        "test_wire_forms.py",
        "wire/test_limits.py",
    ],
    "many examples, or long waits",
)
_TESTS = Path(__file__).parent


def _matches(path, patterns):
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _forms_of(item):
    """Return the forms that are parameters of the test, and the one that its parameter ``form`` names."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    named = [form for name, form in FORMS.items() if params.get("form") == name]
    return [value for value in params.values() if isinstance(value, Form)] + named


def pytest_collection_modifyitems(items):
    for item in items:
        path = item.path.relative_to(_TESTS).as_posix()
        forms = _forms_of(item)
        if forms or _matches(path, ONE_FORM):
            item.add_marker("one_form")
        is_plain = FORMS["plain"] in forms and len(FORMS) > 1
        if is_plain:
            item.add_marker("plain")
        if is_plain or _matches(path, SLOW):
            item.add_marker("slow")


def pytest_ignore_collect(collection_path, config):
    """Import no file whose tests are all deselected, which takes seconds."""
    if not collection_path.is_relative_to(_TESTS):
        return None
    path = collection_path.relative_to(_TESTS).as_posix()
    left_out = {"not one_form": ONE_FORM, "not slow": SLOW}
    return any(_matches(path, files) for mark, files in left_out.items() if mark in config.option.markexpr) or None


@pytest.fixture(scope="module", autouse=True)
def _frozen(request):
    """Exempt what is there before a module's tests from garbage collection.

    Many tests collect. With thousands of items, and the libraries that earlier tests imported, that took 0.4 s each.
    """
    if len(request.session.items) > 500:
        gc.collect()
        gc.freeze()


@pytest.fixture
def lenient(monkeypatch):
    """Wrong arguments are reported, as outside tests."""
    monkeypatch.setattr(misuse, "_seen", set())
    before = misuse.set_strict(False)
    yield
    misuse.set_strict(before)


@pytest.fixture
def nothing_is_logged(caplog):
    """Fail the test if anything was logged during its call."""
    yield
    assert not caplog.get_records("call")


@pytest.fixture(scope="module")
def workers_find_the_tests():
    """Processes that start meanwhile can import ``tests``, for the jobs in ``tests/tools/jobs.py``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(_TESTS.parent)
        yield


@pytest.fixture
def every_span_is_accounted_for(caplog):
    """Fail the test if the statistics do not add up after it, or if tracekit logged anything during its call."""
    yield
    tracekit.flush(60)
    statistics()
    assert [record for record in caplog.get_records("call") if record.name.startswith("tracekit")] == []


@pytest.fixture
def gate():
    """A hanging exporter, in use, in the middle of exporting one span."""
    gate = Gate()
    tracekit.configure(exporter=gate, buffer_size=8, export_interval_s=0.01)
    end(1, "in flight")
    assert gate.entered.wait(20)
    yield gate
    gate.release.set()


@pytest.fixture
def delivery_clock(monkeypatch):
    """The clock by which a hand-off measures how long an item waited; a test sets its ``now_ns``."""
    clock = SimpleNamespace(now_ns=0)
    monkeypatch.setattr("tracekit._handoffs.delivery.monotonic_ns", lambda: clock.now_ns)
    return clock


@pytest.fixture(params=[pytest.param(form, id=name) for name, form in FORMS.items()])
def form(request):
    """The modules of one implementation, for pure functions and values."""
    return request.param


@pytest.fixture(params=[*ASYNCIO, TRIO])
def anyio_backend(request):
    return request.param


@pytest.fixture(autouse=True)
def _clean_slate():
    """Each test starts with nothing current and nothing configured, and nothing said."""
    _environment._logged.clear()
    tracekit.configure()
    # Servers and workers of other packages set up logging when they run inside a test.
    logger, root = logging.getLogger("tracekit"), logging.root
    logger.disabled, logger.propagate, root.manager.disable = False, True, 0
    logger.setLevel(logging.NOTSET)
    root.setLevel(logging.WARNING)
    with tracekit.use_context(None):
        yield
    tracekit.configure()


@pytest.fixture
def exporter():
    """Tracing is configured, and every finished span is in ``exporter.spans``."""
    memory = MemoryExporter()
    tracekit.configure(service="test", exporter=memory)
    return memory
