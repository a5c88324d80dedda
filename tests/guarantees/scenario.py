"""Scenarios, the backends that they run on, and the verdict on what a tracer made of one."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import importlib
import logging
import pkgutil
import sys
import textwrap
import threading
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio

from tests.tools.backends import BACKENDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from .drivers import Driver

__all__ = [
    "ALL",
    "ASYNCIO",
    "KEPT",
    "ROWS",
    "TRIO",
    "Scenario",
    "Verdict",
    "backends_here",
    "cases",
    "is_as_said",
    "load",
    "run",
    "scenario",
]

ROWS = {
    1: "Within one task, scopes closed in any order",
    2: "Spawning tasks",
    3: "Threads, and back",
    4: "Generators and async generators",
    5: "Queues and streams",
    6: "Detached work",
    7: "One result that many wait for",
    8: "Signals and finalizers",
    9: "Processes",
    10: "Responses that stream",
    11: "From the endpoint up to the middleware",
    12: "The end of a span",
    13: "How a span turned out",
    14: "Ids",
    15: "Tests that do not see each other",
    16: "Server spans and keep-alive connections",
    17: "Awaiting inside another Context",
}

KEPT = "kept"
HANGS_AFTER_S = 20.0  # of a busy machine, too, and shorter than SILENT_FOR_S


ALL = ("asyncio", "asyncio+uvloop", "asyncio+eager", "trio")
ASYNCIO = ALL[:3]
TRIO = ALL[3:]


def backends_here() -> tuple[str, ...]:
    """Return the backends that this Python, on this system, has."""
    return tuple(BACKENDS)


@dataclass(frozen=True, eq=False)
class Scenario:
    """One line of the table; see ``scenario()``."""

    body: Callable[[Driver], Awaitable[None]]
    row: int
    title: str
    expect: Tree
    backends: tuple[str, ...]
    actual: Tree | None
    instead: str

    @property
    def key(self) -> str:
        return f"{self.body.__module__.rpartition('.')[2]}.{self.body.__name__}"

    @property
    def is_guaranteed(self) -> bool:
        return not self.instead


def scenario(
    *, row: int, title: str, expect: str, backends: tuple[str, ...] = ALL, actual: str | None = None, instead: str = ""
) -> Callable[[Callable[[Driver], Awaitable[None]]], Scenario]:
    """Make an ``async def name(t)`` a scenario: *title* says what is done, in a line; see the package's docstring."""
    assert row in ROWS
    assert instead or actual is None, "say what to do instead"

    def make(body: Callable[[Driver], Awaitable[None]]) -> Scenario:
        return Scenario(
            body, row, title, Tree.parse(expect), backends, None if actual is None else Tree.parse(actual), instead
        )

    return make


def load() -> list[Scenario]:
    """Return the scenarios of every module of the package, by row."""
    found: list[Scenario] = []
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name.startswith("test_"):
            found += _of(vars(importlib.import_module(f"{__package__}.{module.name}")))
    return sorted(found, key=lambda one: one.row)


def _of(module: dict[str, Any]) -> list[Scenario]:
    return [value for value in module.values() if isinstance(value, Scenario)]


def cases(module: dict[str, Any]) -> Callable[[Scenario, str], None]:
    """Return the test of a module's scenarios, for tracekit, a case for each and each backend."""
    import pytest

    from .drivers import Tracekit

    params = [
        pytest.param(one, backend, id=f"{one.body.__name__}-{backend}")
        for one in _of(module)
        for backend in one.backends
        if backend in backends_here()
    ]

    @pytest.mark.parametrize(("one", "backend"), params)
    def test(one: Scenario, backend: str) -> None:
        verdict = run(one, backend, Tracekit())
        if not is_as_said(one, verdict):
            expected = one.expect if one.is_guaranteed else one.actual
            pytest.fail(
                f"{one.title}: {verdict.word}\n\n{verdict.tree}\n\nexpected:\n\n{expected}\n\n{verdict.detail}",
                pytrace=False,
            )

    return test


def is_as_said(one: Scenario, verdict: Verdict) -> bool:
    """Tell whether the verdict on tracekit is what the scenario promises."""
    if one.is_guaranteed:
        return verdict.word == KEPT
    return one.actual is None or (verdict.tree, verdict.noise) == (str(one.actual), "")


# ---- trees


class Node(NamedTuple):
    """A finished span, whoever made it."""

    name: str
    status: str = ""
    parent: int | str | None = None  # the parent's place in the list; "remote" or "?" where it is not there
    links: tuple[str, ...] = ()
    exceptions: tuple[str, ...] = ()  # the types that were recorded on it
    attributes: tuple[tuple[str, Any], ...] = ()


class Tree:
    """Finished spans as text in an order that does not depend on time: siblings by their own text."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.text = "\n".join(self._lines(None, 0))

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: str) -> Tree:
        nodes: list[Node] = []
        path: list[int] = []
        for line in textwrap.dedent(text).strip().splitlines():
            if not line.strip():
                continue
            depth = (len(line) - len(line.lstrip())) // 2
            assert depth <= len(path), f"indented by more than two: {line!r}"
            rest, *links = line.strip().split(" ~ ")
            rest, _, elsewhere = rest.partition(" <- ")
            name, _, status = rest.partition(" [")
            del path[depth:]
            nodes.append(Node(name, status.rstrip("]"), path[-1] if path else elsewhere or None, tuple(sorted(links))))
            path.append(len(nodes) - 1)
        return cls(nodes)

    def _lines(self, parent: int | None, depth: int) -> list[str]:
        blocks = []
        for place, node in enumerate(self.nodes):
            if node.parent == parent or (parent is None and isinstance(node.parent, str)):
                blocks.append(["  " * depth + _line(node), *self._lines(place, depth + 1)])
        return [line for block in sorted(blocks) for line in block]

    def facts(self) -> list[tuple[str, str | None, tuple[str, ...], str]]:
        """Return name, parent's name, links and status of each span."""
        return [
            (
                node.name,
                self.nodes[node.parent].name if isinstance(node.parent, int) else node.parent,
                node.links,
                node.status,
            )
            for node in self.nodes
        ]


def _line(node: Node) -> str:
    line = node.name
    if node.status:
        line += f" [{node.status}]"
    if isinstance(node.parent, str):
        line += f" <- {node.parent}"
    return line + "".join(f" ~ {link}" for link in sorted(node.links))


# ---- verdicts


class Verdict(NamedTuple):
    """What a tracer made of a scenario: ``kept``, or in a word or two what went wrong."""

    word: str
    tree: str = ""
    noise: str = ""  # the part of the word that is not about the tree
    detail: str = ""


def judge(expected: Tree, actual: Tree) -> list[str]:
    """Return in words how the trees differ, the worst first."""
    if expected.text == actual.text:
        return []
    missing, extra = _differ(expected, actual, NAME)
    words = ["missing"] * bool(missing) + ["extra"] * bool(extra)
    unmet, met = _differ(expected, actual, NAME, PARENT)
    wanted_parents = dict(unmet)
    for name, parent in met:
        if (name,) in extra:
            continue
        if parent is None:
            words.append("lost")
        elif wanted_parents.get(name, "") is None:
            words.append("stuck")  # to what it should have been free of
        else:
            words.append("wrong parent")
    unlinked, linked = _differ(expected, actual, NAME, LINKS)
    if any(links and (name,) not in missing for name, links in unlinked):
        words.append("not linked")
    elif any(links and (name,) not in extra for name, links in linked):
        words.append("linked")
    wanted, got = _differ(expected, actual, NAME, STATUS)
    words += [f"shown as {status or 'success'}" for name, status in sorted(got) if name in dict(wanted)]
    return list(dict.fromkeys(words)) or ["wrong parent"]  # of the same name as the right one


NAME, PARENT, LINKS, STATUS = range(4)


def _differ(expected: Tree, actual: Tree, *fields: int) -> tuple[list[Any], list[Any]]:
    """Return what is in one tree and not in the other, looking at *fields* of ``Tree.facts()`` alone."""
    wanted, got = (
        Counter(tuple(fact[field] for field in fields) for fact in tree.facts()) for tree in (expected, actual)
    )
    return list(wanted - got), list(got - wanted)


def run(one: Scenario, backend: str, driver: Driver) -> Verdict:
    """Run a scenario on *backend* with the tracer of *driver*, and judge it."""
    name, options = BACKENDS[backend]
    noise: list[str] = []
    details: list[str] = []

    async def main() -> None:
        with anyio.move_on_after(HANGS_AFTER_S) as scope:
            await one.body(driver)
        if scope.cancelled_caught:
            noise.append("hangs")

    for thread in threading.enumerate():  # anyio's workers of an earlier loop still have its Context while they stop
        if getattr(thread, "stopping", False):
            thread.join(60)
    gc.collect()  # garbage of earlier tests, whose finalizers may warn or raise, is not this scenario's
    driver.begin(name)

    def heard() -> Tree:
        # In the scenario's Context: without the GIL, warnings are recorded for the Context.
        with _listening(noise, details):
            try:
                anyio.run(main, backend=name, backend_options=options)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                noise.append("raises")
                details.append("".join(traceback.format_exception(error)))
            gc.collect()
            return Tree(driver.nodes())

    tree = contextvars.Context().run(heard)
    noise += driver.unmet
    driver.finish()
    words = [*judge(one.expect, tree), *dict.fromkeys(noise)]
    return Verdict(", ".join(words) or KEPT, tree.text, ", ".join(dict.fromkeys(noise)), "\n".join(details))


@contextlib.contextmanager
def _listening(noise: list[str], details: list[str]) -> Iterator[None]:
    """Note what is logged, warned of, or raised where nobody can catch it."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno < logging.WARNING and not record.name.startswith("tracekit"):
                return
            # subprocess cleans up after a collected Popen, and may read the exit status of a worker before asyncio does.
            if record.name == "asyncio" and str(record.msg).startswith("Unknown child process"):
                return
            noise.append("logs")
            details.append(f"{record.name}: {self.format(record)}")

    def hear(args: Any) -> None:
        if args.exc_type is SystemExit:  # how a thread ends itself
            return
        noise.append("raises")
        details.append("".join(traceback.format_exception(args.exc_value)))

    root, ours = logging.getLogger(), logging.getLogger("tracekit")
    handler, level = Handler(), ours.level
    unraisable, in_thread = sys.unraisablehook, threading.excepthook
    sys.unraisablehook = threading.excepthook = hear
    root.addHandler(handler)
    ours.setLevel(logging.DEBUG)  # it logs nothing at all
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            # What Python, anyio or a peer will give up one day says nothing of the trace.
            for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning):
                warnings.simplefilter("ignore", category)
            yield
        for warning in caught:
            noise.append("warns")
            details.append(f"{warning.filename}:{warning.lineno}: {warning.message}")
    finally:
        root.removeHandler(handler)
        ours.setLevel(level)
        sys.unraisablehook, threading.excepthook = unraisable, in_thread
