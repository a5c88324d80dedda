"""The demo's program once more, traced by OpenTelemetry: one of its traces, and the differences from tracekit's."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from .._distribution import install_hint
from .._render import Leaf, duration, printable, tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from ..exporters.sqlite import StoredSpan

PEER = ("opentelemetry.sdk", "opentelemetry.instrumentation.asgi", "opentelemetry.instrumentation.httpx")
_REQUESTS = 5
_TIMEOUT_S = 300
_PERIOD_S = 2  # between two signs of progress
_WIDTH = 40  # of the tree's column


class PeerSpan(NamedTuple):
    """A span as the peer's exporter wrote it; *service* is the process."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    service: str
    start_ns: int
    end_ns: int


def missing() -> str:
    """Return the first module of OpenTelemetry that is not installed, or ""."""
    for name in PEER:
        try:
            if find_spec(name) is None:
                return name
        except ModuleNotFoundError:  # of a parent
            return name
    return ""


def record(folder: Path, waiting: Callable[[int], object]) -> list[PeerSpan]:
    """Run the peer's processes, with a file in *folder*, and return their spans. Raises ``RuntimeError`` if they fail."""
    path = folder / "opentelemetry.jsonl"
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", f"{__package__}.peer", "client", str(path), str(_REQUESTS)]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        try:
            said = _stderr(process, waiting)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        said = [line for line in said if re.search(r"\w", line)]
        raise RuntimeError(said[-1].strip() if said else f"exit status {process.returncode}")
    with path.open(encoding="utf-8") as file:
        spans = [PeerSpan(**json.loads(line)) for line in file]
    if not spans:
        raise RuntimeError("it made no spans")
    return spans


def _stderr(process: subprocess.Popen[str], waiting: Callable[[int], object]) -> list[str]:
    """Return the lines that *process* wrote before it ended; call *waiting* with the seconds, every two of them."""
    for seconds in range(0, _TIMEOUT_S, _PERIOD_S):
        waiting(seconds)
        try:
            return process.communicate(timeout=_PERIOD_S)[1].splitlines()
        except subprocess.TimeoutExpired:
            pass
    raise RuntimeError(f"it took longer than {_TIMEOUT_S} s")


def compare(folder: Path, ours: list[StoredSpan], waiting: Callable[[int], object]) -> Iterator[str]:
    """Run the peer and give lines: the last of its traces, and how many spans have another parent than in *ours*.

    *waiting* is called with the seconds so far while the peer runs.
    """
    if name := missing():
        yield f"With OpenTelemetry installed, its trace of the same program is shown here: {install_hint('demo')}"
        yield f"(there is no {name})"
        return
    try:
        spans = record(folder, waiting)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        yield f"OpenTelemetry's run of the same program failed: {printable(str(error), 500)}"
        return
    yield from lines(spans, ours)


def lines(spans: list[PeerSpan], ours: Iterable[StoredSpan]) -> Iterator[str]:
    """Yield one trace of *spans* as a tree, and a summary of the differences from *ours*, a trace of tracekit."""
    wanted = _parents(ours)
    wrong = moved(spans, wanted)
    last = max(spans, key=lambda span: span.start_ns).trace_id
    trace = [span for span in spans if span.trace_id == last]
    yield "The same program, traced by OpenTelemetry, its SDK and its instrumentation of ASGI and httpx:"
    yield ""
    for branch in tree(Leaf(span.span_id, span.parent_id, span.start_ns, span) for span in trace):
        span = branch.span
        text = f"{branch.head}{printable(span.name, 60)}"
        mark = f"  <- not under {_name(wanted[_word(span)])}" if span.span_id in wrong else ""
        yield f"  {text:<{_WIDTH}} {span.service:<10} {duration(span.end_ns - span.start_ns):>8}{mark}"
    yield ""
    if not wrong:
        yield "Every span has the same parent as in tracekit's trace."
        return
    for (name, parent), count in Counter((_word(span), wanted[_word(span)]) for span in wrong.values()).items():
        longest_ns = max((span.end_ns - span.start_ns for span in spans if _word(span) == parent), default=0)
        yield f"{count} of {len(spans)} spans, {_name(name)}, are not under {_name(parent)}: it ended after {duration(longest_ns)}."


def moved(spans: list[PeerSpan], wanted: dict[str, str]) -> dict[str, PeerSpan]:
    """Return the spans, by id, whose parent is not the one that *wanted* has for their name."""
    names = {span.span_id: _word(span) for span in spans}
    return {
        span.span_id: span
        for span in spans
        if _word(span) in wanted and names.get(span.parent_id or "", "") != wanted[_word(span)]
    }


def _parents(spans: Iterable[StoredSpan]) -> dict[str, str]:
    """Return the parent's word of each word."""
    known = {span.span_id: span for span in spans}
    found = {}
    for span in known.values():
        parent = known.get(span.parent_id or "")
        found[_word(span)] = "" if parent is None else _word(parent)
    return found


def _word(span: PeerSpan | StoredSpan) -> str:
    """Return a span's process and name; of a request only the method, because tracers name them in different ways."""
    method, is_request, _ = span.name.partition(" ")
    return f"{span.service} {method} request" if is_request else f"{span.service} {span.name}"


def _name(word: str) -> str:
    """Return *word* without the process."""
    return word.partition(" ")[2] or "any span"
