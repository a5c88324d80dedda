"""Run test suites that others wrote, without and with ``instrument()``, and compare the outcome of each test.

    python -m tests.tools.foreign_suites NAME[=PATH] ... [PYTEST OPTIONS]

PATH is a checkout, or an unpacked source distribution, of the release that is installed. CPython's own tests are found
in the running interpreter, and trio's in its package; they need none. Hooks and logs make no spans, so with them each
test runs in one. A test that passes without tracing and fails with it runs once more: in some suites tests depend on time
or order, and are listed as unsteady if they then pass. Tests that compare a whole request or environment, or a whole line
of a log, with a literal see the headers or fields that tracing adds, so a test that still fails runs with spans and without
these. The others are different, and listed. Without a name, the packages that suites need besides are printed. Django's
PATH is its folder ``tests``.

Exit status 1 if a test is different, 2 if a run fails as a whole.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest


class Suite(NamedTuple):
    """A suite that pytest can run: what is instrumented, pytest's arguments, and more packages that it imports.

    *module* is the one to import, unless the suite has its name. *applications* are classes, "module:name", that no
    integration knows: their ``__call__`` is served with ``TraceMiddleware``, that of ASGI if it is a coroutine function.
    """

    integrations: tuple[str, ...]
    arguments: tuple[str, ...]
    needs: str = ""
    module: str = ""
    applications: tuple[str, ...] = ()


_DJANGO = ("asgi", "handlers", "wsgi", "servers", "builtin_server", "requests_tests", "middleware_exceptions")


def _cpythons(*names: str) -> tuple[str, ...]:
    """Return the arguments for CPython's tests of *names*, with the file in the name of each test."""
    return ("--rootdir=/", "--pyargs", *(f"test.test_{name}" for name in names))


_HOOKS = ("threads", "subprocess")
_MAKE_NO_SPANS = {"threads", "logging", "structlog", "loguru"}
_WEB = ("tests", "-W", "ignore", "-c", "/dev/null", "--rootdir=.")  # -c drops options that need a coverage plugin
SUITES = {
    "starlette": Suite(("asgi",), ("tests",), "python-multipart itsdangerous"),
    "fastapi": Suite(
        ("asgi",),
        (
            "tests",
            "--ignore=tests/test_tutorial",
            "--ignore=tests/benchmarks",
            "--ignore=tests/test_prepare_release.py",
        ),
        "python-multipart itsdangerous dirty-equals inline-snapshot email-validator orjson pyjwt pwdlib sqlmodel"
        " pydantic-settings pydantic-extra-types",
    ),
    "flask": Suite(("wsgi",), ("tests", "--ignore=tests/test_cli.py")),
    "aiohttp": Suite(
        ("aiohttp",),
        # The parts that tracekit touches; without "fast", each test ends with a whole garbage collection.
        (*_WEB, "-k", "web or client or connector or run_app or tracing", "--aiohttp-fast"),
        "pytest-mock pytest-timeout re-assert blockbuster proxy.py freezegun isal zlib-ng brotli",
    ),
    "httpx": Suite(("httpx",), ("tests", "-W", "ignore"), "chardet"),
    "requests": Suite(("http_client",), ("tests", "-W", "ignore"), "pytest-httpbin pytest-mock"),
    "urllib3": Suite(("http_client",), ("test", "-W", "ignore"), "quart quart-trio PySocks"),
    "http.server": Suite(("http_server",), ("--pyargs", "test.test_httpservers", "test.test_socketserver")),
    "wsgiref": Suite(("http_server", "wsgi"), ("--pyargs", "test.test_wsgiref")),
    "http.client": Suite(
        ("http_client", "http_server"),
        ("--pyargs", "test.test_httplib", "test.test_urllib2", "test.test_urllib2_localnet", "test.test_urllib"),
    ),
    "anyio": Suite(
        _HOOKS,
        # Without the tests that give a pytest in a process three seconds.
        ("tests", "--ignore=tests/test_pytest_plugin.py"),
        "blockbuster psutil pytest-mock pytest-timeout",
    ),
    "trio": Suite(
        _HOOKS,
        # Its wheel has the tests. The marked ones look for all names with jedi, mypy and pylint.
        (
            *("-p", "trio._tests.pytest_plugin", "-m", "not redistributors_should_skip", "--skip-optional-imports"),
            *("--rootdir=/", "--pyargs", "trio._core._tests", "trio._tests"),
        ),
        "pyOpenSSL async_generator trustme",
    ),
    "uvloop": Suite(_HOOKS, ("tests",), "psutil pyOpenSSL"),
    "asyncio": Suite(_HOOKS, _cpythons("asyncio", "contextlib_async")),
    "contextvars": Suite(_HOOKS, _cpythons("context", "coroutines", "asyncgen", "generators", "gc", "weakref")),
    "threading": Suite(_HOOKS, _cpythons("threading", "threading_local", "thread", "threadsignals", "queue", "sched")),
    "concurrent.futures": Suite(_HOOKS, _cpythons("concurrent_futures")),
    "subprocess": Suite(_HOOKS, _cpythons("subprocess", "signal", "fork1")),
    "multiprocessing": Suite(_HOOKS, _cpythons("multiprocessing_fork")),
    "sys": Suite(
        _HOOKS,
        _cpythons(
            "sys_settrace", "sys_setprofile", "faulthandler", "atexit", "inspect", "functools", "unittest", "ssl"
        ),
    ),
    "logging": Suite(("logging",), ("-p", "no:logging", *_cpythons("logging"))),
    "xmlrpc": Suite(("http_server", "http_client"), ("--pyargs", "test.test_xmlrpc", "test.test_docxmlrpc")),
    "sqlalchemy": Suite(
        ("sqlalchemy",),
        (
            *("test/engine", "test/dialect/test_suite.py", "test/ext/asyncio", "--maxfail=0", "-rN"),
            *(f"test/sql/test_{name}.py" for name in ("resultset", "query", "returning", "insert_exec")),
            *(f"test/orm/test_{name}.py" for name in ("session", "transaction", "unitofwork", "unitofworkv2")),
            *("--db", "sqlite", "--db", "aiosqlite"),
        ),
    ),
    "django": Suite(
        ("asgi", "wsgi", "http_server"),
        (*_DJANGO, "-c", "/dev/null", "--rootdir=.", "-W", "ignore", "-o", "python_files=test*.py"),
    ),
    # In src/python/grpcio_tests, where grpc_tools.protoc has written the modules of src/proto/grpc/testing.
    "grpcio": Suite(
        ("grpc",),
        ("tests_aio/unit", "-o", "python_files=*_test.py", "--ignore=tests_aio/unit/outside_init_test.py"),
        "coverage grpcio-tools",
        module="grpc",
    ),
    "celery": Suite(
        ("celery",),
        ("t/unit/app", "t/unit/tasks", "t/unit/worker/test_request.py", "t/unit/worker/test_strategy.py"),
        "pytest-celery pytest-subtests pytest-click pytest-timeout pytest-order",
    ),
    "taskiq": Suite(
        ("taskiq",), ("tests", "--ignore=tests/opentelemetry"), "freezegun polyfactory orjson cbor2 msgpack"
    ),
    "mcp": Suite(
        ("asgi", "httpx2", "threads"),
        ("tests", *(f"--ignore=tests/{one}" for one in ("docs", "docs_src", "examples", "test_examples.py"))),
        "inline-snapshot dirty-equals pytest-examples pydantic-settings typer logfire coverage",
    ),
    "openai": Suite(
        ("httpx2", "threads"),
        (
            *(f"tests/test_{one}.py" for one in ("client", "streaming", "response", "legacy_response")),
            *("-o", "addopts=", "-p", "asyncio"),
        ),
        "inline-snapshot dirty-equals azure-identity griffe",
    ),
    "anthropic": Suite(
        ("httpx2", "threads"),
        (
            *(f"tests/test_{one}.py" for one in ("client", "streaming", "response", "middleware")),
            *("-o", "addopts=", "-p", "tests._alias_httpx", "-p", "asyncio"),
        ),
        "respx http-snapshot[httpx] inline-snapshot dirty-equals",
    ),
    "pytest-httpx": Suite(("httpx",), ("tests", "-p", "asyncio"), module="pytest_httpx"),
    "uvicorn": Suite(
        ("asgi", "httpx2"),
        ("tests", "-o", "addopts=", "--ignore=tests/supervisors", "--ignore=tests/benchmarks"),
        "a2wsgi wsproto httptools trustme watchfiles websockets",
        applications=("uvicorn.middleware.proxy_headers:ProxyHeadersMiddleware",),
    ),
    "hypercorn": Suite(
        ("asgi",),
        # Without the file whose tests wait for the end of a lifespan that no message ends: tracekit answers for the app.
        ("tests", "-o", "addopts=", "-p", "asyncio", "--ignore=tests/asyncio/test_lifespan.py"),
        "pytest-trio trio",
        applications=("hypercorn.app_wrappers:ASGIWrapper", "hypercorn.app_wrappers:WSGIWrapper"),
    ),
    "werkzeug": Suite(
        ("wsgi",),
        ("tests", "-m", "not dev_server"),
        "ephemeral-port-reserve cryptography watchdog pytest-timeout",
        applications=("werkzeug.wrappers.response:Response",),
    ),
    "quart": Suite(
        ("asgi",), ("tests", "-o", "addopts=", "-p", "asyncio"), "hypothesis", applications=("quart.app:Quart",)
    ),
    "respx": Suite(("httpx",), ("tests", "-o", "addopts=-p no:respx", "-p", "asyncio"), "starlette flask trio"),
    "structlog": Suite(("structlog", "logging"), ("tests", "-p", "asyncio"), "simplejson time-machine"),
    "loguru": Suite(("loguru",), ("tests",), "freezegun colorama pytest-mypy-plugins"),
    "arq": Suite(("arq",), ("tests", "-p", "asyncio"), "msgpack dirty-equals pytest-mock testcontainers"),
    "janus": Suite(_HOOKS, ("tests", "-p", "asyncio"), "pytest-asyncio"),
    "aiosqlite": Suite(_HOOKS, ("aiosqlite/tests/smoke.py", "aiosqlite/tests/perf.py")),
    "asgiref": Suite(_HOOKS, ("tests", "-p", "asyncio"), "pytest-asyncio"),
    "tornado": Suite(
        _HOOKS,
        tuple(f"tornado/test/{name}_test.py" for name in ("gen", "ioloop", "concurrent", "locks", "queues", "asyncio")),
    ),
    "huey": Suite(_HOOKS, ("huey/tests",)),
    "aiostream": Suite(_HOOKS, ("tests", "-o", "addopts=", "-p", "asyncio"), "pytest-asyncio"),
    "trio-websocket": Suite(_HOOKS, ("tests", "-o", "trio_mode=true"), "pytest-trio trustme", module="trio_websocket"),
    "httpcore": Suite(_HOOKS, ("tests", "-W", "ignore"), "pytest-httpbin"),
}
ALONE = [
    *("-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:tracekit", "-p", "no:asyncio", "-p", "no:ddtrace"),
    *("-p", "no:ddtrace.pytest_bdd", "-p", "no:ddtrace.pytest_benchmark", "-p", "no:benchmark"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # the suite's library is imported before pytest
]
_TITLES = ("suite", "instrumented", "passed without", "passed with", "compare headers or fields", "different")


class Failure(Exception):
    """A run that ended as a whole."""


def main(arguments: list[str]) -> int:
    """Run the suites, print a table, and return the exit status."""
    suites = [one.partition("=")[::2] for one in arguments if not one.startswith("-")]
    options = [one for one in arguments if one.startswith("-")]
    if not suites or any(name not in SUITES for name, _ in suites):
        print(f"usage: python -m tests.tools.foreign_suites {'|'.join(SUITES)}[=PATH] ... [PYTEST OPTIONS]")
        print(*(f"{name} needs {suite.needs}" for name, suite in SUITES.items() if suite.needs), sep="\n")
        return 2
    rows, status = [], 0
    for name, path in suites:
        try:
            row = compare(name, path, options)
        except Failure as failure:
            print(f"{name}: {failure}")
            status = 2
        else:
            rows.append(row)
            status = max(status, int(row[-1] != "0"))
    if rows:
        for row in (_TITLES, ("---", "---", "---:", "---:", "---:", "---:"), *rows):
            print(f"| {' | '.join(row)} |")
    return status


def compare(name: str, path: str, options: list[str]) -> tuple[str, ...]:
    """Run the suite *name* in the folder *path*, and return its row of the table. Raises ``Failure``."""
    untraced = run("untraced", name, path, options)
    traced = run("traced", name, path, options)
    worse = {test for test, outcome in untraced.items() if outcome == "passed" and traced.get(test) != "passed"}
    again = run("traced", name, path, options, worse)
    unsteady = {test for test in worse if again.get(test) == "passed"}
    without_headers = run("unpropagated", name, path, options, worse - unsteady)
    different = {test for test in worse - unsteady if without_headers.get(test) != "passed"}
    for kind, tests in (("unsteady", unsteady), ("different", different)):
        for test in sorted(tests):
            print(f"{name}, {kind}: {test}")
    return (
        f"{name} {_release_of(name)}",
        ", ".join(f"`{one}`" for one in SUITES[name].integrations),
        *(
            str(list(outcomes.values()).count("passed"))
            for outcomes in (untraced, traced | dict.fromkeys(unsteady, "passed"))
        ),
        str(len(worse - unsteady - different)),
        str(len(different)),
    )


def run(mode: str, name: str, path: str, options: list[str], only: set[str] | None = None) -> dict[str, str]:
    """Run a suite in a process, all of it or *only* some tests, and return the outcome of each. Raises ``Failure``."""
    if only is not None and not only:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report")
        report.write_text(json.dumps(None if only is None else sorted(only)))
        command = [sys.executable, __file__, mode, name, str(report), *options]
        done = subprocess.run(command, cwd=path or folder, capture_output=True, text=True, check=False)
        summary = (done.stdout.strip() or done.stderr.strip() or "no output").splitlines()[-1]
        found = json.loads(report.read_text())
    if done.returncode not in (0, 1) or not isinstance(found, dict) or not found["outcomes"]:
        raise Failure(f"{mode}: {summary}\n{done.stdout[-2000:]} {done.stderr[-2000:]}")
    print(f"{name}, {mode}: {summary}; {found['spans']} spans, {found['open']} of them open at the end", flush=True)
    if only is None and mode != "untraced" and not found["spans"]:
        raise Failure(f"{mode}: no span was made")
    if only is not None:
        print(done.stdout[-6000:])
    outcomes: dict[str, str] = found["outcomes"]
    return outcomes


def inside(mode: str, name: str, report: Path, options: list[str]) -> int:
    """Run the suite in this process, which starts as a script: a foreign suite may be called ``tests`` as well."""
    # The installed package, which may be compiled, and not the one beside the tests.
    importlib.import_module(SUITES[name].module or name)
    sys.path[0] = str(Path.cwd())
    suite = SUITES[name]
    plugins: list[object] = [Report(report), Django()] if name == "django" else [Report(report)]
    if mode != "untraced":
        plugins.append(Traced(suite, mode == "traced"))
    return int(pytest.main([*ALONE, *suite.arguments, *options], plugins=plugins))


class Report:
    """The plugin that selects tests, and writes their outcomes to a file as JSON."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.only = json.loads(path.read_text())
        self.outcomes: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items) -> None:
        if self.only is not None:
            items[:] = [item for item in items if item.nodeid in self.only]

    def pytest_runtest_logreport(self, report) -> None:
        outcome = "skipped" if hasattr(report, "wasxfail") else report.outcome
        before = self.outcomes.get(report.nodeid)
        if outcome == "failed" or before is None or (before == "passed" and outcome == "skipped"):
            self.outcomes[report.nodeid] = outcome

    def pytest_unconfigure(self) -> None:
        spans = still_open = 0
        if "tracekit" in sys.modules:
            import gc

            import tracekit

            gc.collect()
            spans, still_open = tracekit.statistics().started, tracekit.statistics().open
        found = {"outcomes": self.outcomes, "spans": spans, "open": still_open}
        self.path.write_text(json.dumps(found))


class Django:
    """The plugin that does what Django's runtests.py does before it collects tests."""

    def pytest_configure(self) -> None:
        os.environ.update(DJANGO_SETTINGS_MODULE="test_sqlite", TMPDIR=tempfile.gettempdir())
        importlib.import_module("runtests").setup_run_tests(0, None, None, [*_DJANGO])
        from django.test.runner import DiscoverRunner

        runner = DiscoverRunner(verbosity=0, interactive=False)
        runner.setup_test_environment()
        runner.setup_databases()


class Traced:
    """The plugin that instruments; it imports the libraries after pytest, which rewrites assertions in some."""

    def __init__(self, suite: Suite, propagates: bool) -> None:
        self.suite, self.propagates = suite, propagates

    def pytest_sessionstart(self) -> None:
        import tracekit
        from tracekit.testing import MemoryExporter

        tracekit.configure(exporter=MemoryExporter(), **({} if self.propagates else {"formats": []}))
        if not self.propagates:
            fields = importlib.import_module("tracekit.integrations._log_fields")
            fields.log_fields = lambda _: defaultdict(str)
        tracekit.flush()  # starts the exporting thread: celery's tests compare the threads before and after each
        for integration in self.suite.integrations:
            importlib.import_module(f"tracekit.integrations.{integration}").instrument()
        for application in self.suite.applications:
            module, _, name = application.partition(":")
            _serve_traced(getattr(importlib.import_module(module), name))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        if not _MAKE_NO_SPANS & {*self.suite.integrations}:
            return (yield)
        import tracekit

        if "loguru" in self.suite.integrations:  # whose tests begin with a new logger each
            importlib.import_module("tracekit.integrations.loguru").instrument()
        with tracekit.span(item.nodeid):
            return (yield)


def _serve_traced(kind: type) -> None:
    """Serve all applications of the class *kind* with ``TraceMiddleware``."""
    from tracekit.integrations import asgi, wsgi

    original = kind.__call__

    @functools.wraps(original)
    async def __call__(self, scope, receive, send, *more) -> None:  # noqa: N807
        # hypercorn's have arguments besides
        await asgi.TraceMiddleware(lambda *passed: original(self, *passed, *more))(scope, receive, send)

    @functools.wraps(original)
    def serve(self, environ, start_response):
        return wsgi.TraceMiddleware(functools.partial(original, self))(environ, start_response)

    kind.__call__ = __call__ if inspect.iscoroutinefunction(original) else serve


def _release_of(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"of CPython {platform.python_version()}"


if __name__ == "__main__":
    if sys.argv[1:2] in (["traced"], ["untraced"], ["unpropagated"]):
        sys.exit(inside(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4:]))
    sys.exit(main(sys.argv[1:]))
