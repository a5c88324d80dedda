"""The pytest plugin: every test starts with nothing current; in strict mode its spans are checked afterwards.

Strict mode applies to tests with ``@pytest.mark.tracekit``, and to all under ``--tracekit-strict`` or with
``tracekit_strict = true`` in pytest's configuration. Fixture ``spans``: the spans that the test has recorded.
"""

from __future__ import annotations

import functools
from contextlib import ExitStack, contextmanager
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

import pytest

from ._core.scopes import current_scope, swap_scope

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from ._testing.leaks import Watch
    from .testing import MemoryExporter

__all__ = [
    "pytest_addoption",
    "pytest_configure",
    "pytest_fixture_setup",
    "pytest_runtest_call",
    "pytest_runtest_makereport",
    "pytest_runtest_protocol",
    "pytest_runtest_setup",
    "pytest_runtest_teardown",
    "spans",
]

_MARK = "tracekit"
_LINES = 100


class _Running:
    """The running test: the scope around it, and its observer in strict mode."""

    def __init__(self, item: pytest.Item) -> None:
        self.watch: Watch | None = None
        self.passes = True
        self._allowed = _allowed(item)
        self._exits = ExitStack()
        self._exits.callback(swap_scope, swap_scope(None))
        if _is_strict(item):
            from ._core import misuse
            from ._testing.leaks import Watch

            self._exits.callback(misuse.set_strict, misuse.set_strict(True))
            self.watch = self._exits.enter_context(Watch(str(item.config.rootpath)))
            self.record()

    def record(self) -> None:
        """Record spans, unless they already are: only recorded spans have links."""
        from ._configure import tracer_in_use
        from .testing import recording

        if self.watch is not None and not tracer_in_use().recording:
            self._exits.enter_context(recording())

    def report(self) -> str:
        """Return the findings about the test's spans as text, empty if there are none, and end spans left open."""
        if self.watch is None:
            return ""
        found = self.watch.findings(self._allowed)
        if not found:
            return ""
        from ._render import printable
        from .testing import span_tree

        # An id may occur twice: an unsampled span has the id of its unsampled parent, and a test may number ids.
        own = [span for span in self.watch.spans if span.parent is None or span.parent.span_id != span.context.span_id]
        spans = {span.context.span_id: span for span in own}.values()
        tree = [printable(line) for line in span_tree(spans).split("\n") if line]
        running = [f"the {thread} is still running" for thread in self.watch.threads()]
        if "open" not in self._allowed:
            self.watch.end_open()
        head = f"tracekit: {', '.join(dict(found))}"
        lines = [line for _, line in found]
        return "\n".join([head, *_cut(lines), *_cut(running), "", "the test's spans:", *_cut(tree)])

    def close(self) -> None:
        """Restore everything."""
        self._exits.close()


_running = pytest.StashKey[_Running | None]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--tracekit-strict``."""
    text = "fail every test whose spans are left open, used after their end, or part of no trace (tracekit)"
    parser.getgroup("tracekit").addoption("--tracekit-strict", action="store_true", default=False, help=text)
    parser.addini("tracekit_strict", text, type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark."""
    text = "tracekit(allow=()): fail the test if its spans leak; allow is a set of open, ended-twice, late-write, late-child, root"
    config.addinivalue_line("markers", text)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Restore everything, also after an interrupted test."""
    try:
        return (yield)
    finally:
        _close(item.config)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    """Start the test, fixtures included, with nothing current; reject invalid arguments to the ``tracekit`` mark."""
    item.config.stash[_running] = _Running(item)
    result = yield
    # Last: without the setup of other plugins, their teardown fails. Not in the collection: an error in a process
    # of pytest-xdist is not shown.
    wrong = _wrong(item)
    if wrong:
        pytest.fail(wrong, pytrace=False)
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(request: pytest.FixtureRequest) -> Generator[None, Any, Any]:
    """Keep the scopes of a fixture that several tests share out of the test that runs first."""
    if request.scope == "function":
        return (yield)
    running = request.config.stash.get(_running, None)
    watch = None if running is None else running.watch
    held = swap_scope(None)
    if watch is not None:
        watch.is_paused = True
    try:
        return (yield)
    finally:
        if watch is not None:
            watch.is_paused = False
        swap_scope(held)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Keep scopes that the test leaves open out of the next test, which may run in the same task."""
    running = item.config.stash.get(_running, None)
    if running is not None and running.watch is not None:
        running.record()  # a fixture may have called configure()
        running.watch.begin()
    with _alone(item, running):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    """Check the spans after the teardown of the last fixture; findings are reported beside any other failure."""
    running = item.config.stash.get(_running, None)
    if running is None:
        return (yield)
    try:
        result = yield
    except BaseException:
        running.passes = False
        raise
    finally:
        report = running.report()
        if report and not running.passes:
            item.add_report_section("teardown", "spans", report)
        _close(item.config)
    if report and running.passes:
        pytest.fail(report, pytrace=False)
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record whether the test failed, as expected or not."""
    report = yield
    running = item.config.stash.get(_running, None)
    if running is not None and (report.failed or hasattr(report, "wasxfail")):
        running.passes = False
    return report


@pytest.fixture
def spans() -> Iterator[MemoryExporter]:
    """The spans that have ended since this fixture was set up: ``spans.spans``, or iterate. Every new trace is recorded.

    The exporter that the project has configured gets none of them, and stays open.
    """
    from .testing import recording

    with recording() as exporter:
        yield exporter


def _close(config: pytest.Config) -> None:
    running = config.stash.get(_running, None)
    config.stash[_running] = None
    if running is not None:
        running.close()


def _is_strict(item: pytest.Item) -> bool:
    config = item.config
    if config.getoption("tracekit_strict") or config.getini("tracekit_strict"):
        return True
    return item.get_closest_marker(_MARK) is not None


def _wrong(item: pytest.Item) -> str:
    """Return the error in the marks of *item*; empty if there is none."""
    for mark in item.iter_markers(_MARK):
        from ._testing.leaks import FINDINGS

        words = mark.kwargs.get("allow", ())
        if mark.args or set(mark.kwargs) - {"allow"} or not isinstance(words, set | frozenset | list | tuple):
            return "pytest.mark.tracekit takes allow={...} and nothing else"
        for word in words:
            if word not in FINDINGS:
                return f"allow of pytest.mark.tracekit must hold {', '.join(FINDINGS)}, not {word!r:.64}"
    return ""


def _allowed(item: pytest.Item) -> set[str]:
    """Return the findings that the marks of *item* allow."""
    if _wrong(item):
        return set()
    return {word for mark in item.iter_markers(_MARK) for word in mark.kwargs.get("allow", ())}


@contextmanager
def _alone(item: pytest.Item, running: _Running | None) -> Iterator[None]:
    """Inside ``with``, have the coroutine function of *item* leave the Context that it runs in as it was."""
    if not isinstance(item, pytest.Function):
        yield
        return
    # Hypothesis calls an inner function, and plugins for async tests put theirs there.
    inner = getattr(item.obj, "hypothesis", None)
    holder, name = (inner, "inner_test") if hasattr(inner, "inner_test") else (item, "obj")
    function = getattr(holder, name)
    if not iscoroutinefunction(function):
        yield
        return
    setattr(holder, name, _leaving_nothing(function, None if running is None else running.watch))
    try:
        yield
    finally:
        setattr(holder, name, function)


def _leaving_nothing(function: Callable[..., Any], watch: Watch | None) -> Callable[..., Any]:
    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        before = current_scope()
        if watch is not None:
            watch.begin()
        try:
            return await function(*args, **kwargs)
        finally:
            swap_scope(before)

    return call


def _cut(lines: list[str]) -> list[str]:
    return lines if len(lines) <= _LINES else [*lines[:_LINES], f"… and {len(lines) - _LINES} more"]
