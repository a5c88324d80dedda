"""Run a test suite that others wrote, untraced and with ``instrument()`` on, and print what fails only with tracing.

    python -m tests.tools.foreign_suites NAME [PATH] [PYTEST ARGUMENTS]

PATH is a checkout, or an unpacked source distribution, of the release that is installed. CPython's own tests are found
in the running interpreter and need none. Tests that fail with tracing run a third time with spans but without headers:
some compare a whole request with a literal. Without a name, the packages that suites need besides are printed.
Exit status 1 if a test fails only with tracing, 2 if a run fails as a whole.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple


class Suite(NamedTuple):
    """A suite that pytest can run: what is instrumented, pytest's arguments, and more packages that it imports."""

    integrations: tuple[str, ...]
    arguments: tuple[str, ...]
    needs: str = ""


SUITES = {
    "httpx": Suite(("httpx",), ("tests", "-W", "ignore"), "chardet"),
    "aiohttp": Suite(
        ("aiohttp",),
        # The tests of the parts that tracekit touches; -c drops the project's options, which need a coverage plugin.
        ("tests", "-W", "ignore", "-c", "/dev/null", "--rootdir=.", "-k", "web or client or connector or run_app"),
        "pytest-mock pytest-timeout re-assert blockbuster proxy.py",
    ),
    "requests": Suite(("http_client",), ("tests", "-W", "ignore"), "pytest-httpbin pytest-mock"),
    "starlette": Suite(("asgi",), ("tests",)),
    "fastapi": Suite(
        ("asgi",),
        (
            "tests",
            "--ignore=tests/test_tutorial",
            "--ignore=tests/benchmarks",
            "--ignore=tests/test_prepare_release.py",
        ),
    ),
    "flask": Suite(("wsgi",), ("tests", "--ignore=tests/test_cli.py")),
    "http.server": Suite(("http_server",), ("--pyargs", "test.test_httpservers", "test.test_socketserver")),
    "wsgiref": Suite(("http_server", "wsgi"), ("--pyargs", "test.test_wsgiref")),
    "http.client": Suite(
        ("http_client", "http_server"),
        ("--pyargs", "test.test_httplib", "test.test_urllib2", "test.test_urllib2_localnet", "test.test_urllib"),
    ),
    "xmlrpc": Suite(("http_server",), ("--pyargs", "test.test_xmlrpc", "test.test_docxmlrpc")),
}
ALONE = [
    *("-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", "-p", "no:tracekit", "-p", "no:asyncio", "-p", "no:ddtrace"),
    *("-p", "no:ddtrace.pytest_bdd", "-p", "no:ddtrace.pytest_benchmark", "-p", "no:benchmark"),
]


def main(arguments: list[str]) -> int:
    """Run the suite twice and return the exit status."""
    if not arguments or arguments[0] not in SUITES:
        print(f"usage: python -m tests.tools.foreign_suites {'|'.join(SUITES)} [PATH] [PYTEST ARGUMENTS]")
        print(*(f"{name} needs {suite.needs}" for name, suite in SUITES.items() if suite.needs), sep="\n")
        return 2
    with tempfile.TemporaryDirectory() as empty:
        return compare(arguments[0], (arguments[1:2] or [empty])[0], arguments[2:])


def compare(name: str, path: str, more: list[str]) -> int:
    """Run the suite *name* in the folder *path*, untraced and traced, and return the exit status."""
    runs: list[set[str]] = []
    for mode in ("untraced", "traced", "unpropagated"):
        if len(runs) == 2 and not runs[1] - runs[0]:
            break
        command = [sys.executable, __file__, mode, name, *more]
        done = subprocess.run(command, cwd=path, capture_output=True, text=True, check=False)
        failed = set(re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE))
        summary = (done.stdout.strip() or done.stderr.strip() or "no output").splitlines()
        spans = re.findall(r"^\d+ spans$", done.stdout, re.MULTILINE)
        print(f"{name}, {mode}: {summary[-1]}", *spans)
        if done.returncode not in (0, 1) or "passed" not in summary[-1] or spans == ["0 spans"]:
            print(done.stdout[-2000:], done.stderr[-2000:])
            return 2
        runs.append(failed)
    only = runs[1] - runs[0]
    still = sorted(only & runs[-1])
    if only - set(still):
        print(f"{len(only - set(still))} compare the headers that are sent with a literal, and pass with formats=[]")
    print("\n".join(still) if still else "nothing fails with tracing that passes without")
    return 1 if still else 0


def inside(mode: str, name: str, more: list[str]) -> int:
    """Run the suite in this process, which starts as a script: a foreign suite may be called ``tests`` as well."""
    sys.path[0] = str(Path.cwd())
    import pytest

    suite = SUITES[name]
    status = pytest.main(
        [*ALONE, *suite.arguments, *more], plugins=[] if mode == "untraced" else [Traced(suite, mode == "traced")]
    )
    return int(status)


class Traced:
    """The plugin that instruments; it imports the libraries after pytest, which rewrites assertions in some."""

    def __init__(self, suite: Suite, propagates: bool) -> None:
        self.suite, self.propagates = suite, propagates

    def pytest_sessionstart(self) -> None:
        import tracekit
        from tracekit.testing import MemoryExporter

        tracekit.configure(exporter=MemoryExporter(), **({} if self.propagates else {"formats": []}))
        for integration in self.suite.integrations:
            importlib.import_module(f"tracekit.integrations.{integration}").instrument()

    def pytest_terminal_summary(self, terminalreporter) -> None:
        import tracekit

        terminalreporter.write_line(f"{tracekit.statistics().started} spans")


if __name__ == "__main__":
    if sys.argv[1:2] in (["traced"], ["untraced"], ["unpropagated"]):
        sys.exit(inside(sys.argv[1], sys.argv[2], sys.argv[3:]))
    sys.exit(main(sys.argv[1:]))
