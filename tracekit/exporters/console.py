"""The console exporter: each trace as a tree of text, once this process has finished its part of it."""

from __future__ import annotations

import os
import sys
from collections import OrderedDict
from typing import TYPE_CHECKING, TextIO

from .._core.checks import check_int
from .._core.records import Account
from .._export.notices import Notices
from .._render import Branch, duration, encodable, library_text, moment, pairs, plural, printable, span_tree
from ._front import Holder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .._core.records import Event
    from .._core.span import Span

__all__ = ["ConsoleExporter"]

_MAX_ATTRIBUTES = 12
_MAX_EVENTS = 8
_MAX_VALUE = 60
_BOLD, _DIM, _RED, _YELLOW, _CYAN = "1", "2", "31", "33", "36"


class ConsoleExporter(Holder):
    """Write a tree per trace to *stream*, standard error by default, when its local root has ended.

    A local root is a span without a parent in this process. Spans that end later are written as a separate late tree.
    Spans that wait for a parent are written by ``shutdown()``, or when more than *max_spans* wait, oldest trace first.
    One tree is one write, colored if the stream is a terminal and ``NO_COLOR`` is not set.

    ``export()`` does not raise. Spans that cannot be written, or are lost to a stream that fails, are counted in
    ``account()`` and logged once per cause.
    """

    def __init__(self, stream: TextIO | None = None, *, max_spans: int = 8192) -> None:
        if stream is not None and not callable(getattr(stream, "write", None)):
            raise TypeError(f"stream must have write(), not {type(stream).__name__}")
        check_int("max_spans", max_spans, 1)
        self.stream = stream
        self.max_spans = max_spans
        self._notices = Notices()
        self._check_process()

    def _forget(self) -> None:
        self._waiting: dict[str, list[Span]] = {}  # by trace, oldest first
        self._count = self._failed = 0
        self._written: OrderedDict[tuple[str, str], None] = OrderedDict()  # ids of written spans, oldest first

    def export(self, spans: Sequence[Span]) -> None:
        """Write the trees that are complete, and keep the other spans."""
        self._check_process()
        for span in spans:
            self._waiting.setdefault(span.context.trace_id, []).append(span)
        self._count += len(spans)
        for trace_id in dict.fromkeys([span.context.trace_id for span in spans]):
            for found, note in self._settle(trace_id):
                self._write(trace_id, found, note)
        while self._count > self.max_spans:
            self._give_up(next(iter(self._waiting)))

    def account(self) -> Account:
        """Return the numbers of spans that wait for a parent and that could not be written."""
        self._check_process()
        return Account(queued=self._count, failed=self._failed)

    def shutdown(self) -> None:
        """Write all spans that wait for a parent."""
        self._check_process()
        for trace_id in list(self._waiting):
            self._give_up(trace_id)

    def _settle(self, trace_id: str) -> list[tuple[list[Span], str]]:
        """Remove the complete trees of a trace, and return them, each with a note."""
        waiting = self._waiting[trace_id]
        children: dict[str, list[Span]] = {}
        tops: list[tuple[Span, str]] = []
        for span in waiting:
            parent = span.parent
            if parent is None or parent.is_remote:
                tops.append((span, ""))
            elif (trace_id, parent.span_id) in self._written:
                tops.append((span, "late"))
            else:
                children.setdefault(parent.span_id, []).append(span)
        left = {id(span): span for span in waiting}
        trees = []
        for top, note in tops:
            found: list[Span] = []
            below = [top]
            while below:
                span = below.pop()
                if left.pop(id(span), None) is not None:
                    found.append(span)
                    below += reversed(children.get(span.context.span_id, []))
            if found:  # else a span came twice
                trees.append((found, note))
        self._count -= len(waiting) - len(left)
        if left:
            self._waiting[trace_id] = list(left.values())
        else:
            del self._waiting[trace_id]
        return trees

    def _give_up(self, trace_id: str) -> None:
        spans = self._waiting.pop(trace_id)
        self._count -= len(spans)
        self._write(trace_id, spans, "parent not seen")

    def _write(self, trace_id: str, spans: list[Span], note: str) -> None:
        for span in spans:
            self._written[trace_id, span.context.span_id] = None
        while len(self._written) > self.max_spans:
            self._written.popitem(last=False)
        stream = sys.stderr if self.stream is None else self.stream
        if stream is None:  # a program without a console
            return
        try:
            paint = _paint if _has_color(stream) else _plain
            text = self._text(trace_id, spans, note, paint)
            stream.write(encodable(text, getattr(stream, "encoding", None)))
            flush = getattr(stream, "flush", None)
            if flush is not None:
                flush()
        except Exception as error:
            self._lose(error, len(spans))

    def _text(self, trace_id: str, spans: list[Span], note: str, paint: Callable[[str, str], str]) -> str:
        """Return the tree of *spans*, after removing those that cannot be written."""
        try:
            return "".join([f"{line}\n" for line in _lines(trace_id, spans, note, paint)])
        except Exception:
            good = []
            for span in spans:
                try:
                    list(_lines(trace_id, [span], note, paint))
                    good.append(span)
                except Exception as error:
                    self._lose(error, 1)
            if len(good) == len(spans):
                raise
            del spans[:]
            spans += good
            return self._text(trace_id, spans, note, paint) if good else ""

    def _lose(self, error: Exception, count: int) -> None:
        self._failed += count
        self._notices.lost(self, error, count)


def _lines(trace_id: str, spans: list[Span], note: str, paint: Callable[[str, str], str]) -> Iterator[str]:
    first = min(spans, key=lambda span: span.start_ns)
    service = printable(str(first.resource.get("service.name", "")), _MAX_VALUE)
    words = [f"trace {trace_id}", service, moment(first.start_ns), plural(len(spans), "span"), note]
    yield paint(_DIM, "  ".join(word for word in words if word))
    for branch in span_tree(spans):
        yield from _span_lines(branch, paint)
    yield ""


def _span_lines(branch: Branch[Span], paint: Callable[[str, str], str]) -> Iterator[str]:
    span = branch.span
    line = paint(_DIM, branch.head) + paint(_BOLD, printable(span.name))
    line += "  " + paint(_CYAN, duration((span.end_ns or span.start_ns) - span.start_ns))
    if span.kind != "internal":
        line += f"  {span.kind}"
    code, description = span.status
    if code != "unset":
        text = f"{code}: {printable(description)}" if description else code
        line += "  " + paint(_RED if code == "error" else _YELLOW if code == "cancelled" else _DIM, text)
    if span.instrumentation is not None:
        name, version, *_ = span.instrumentation
        line += "  " + paint(_DIM, f"[{library_text(name, version, _MAX_VALUE)}]")
    for word in _some(pairs(span.attributes, _MAX_VALUE), _MAX_ATTRIBUTES):
        line += "  " + paint(_DIM, word)
    if span.links:
        line += f"  ~ {span.links[0].context.trace_id}"
        line += f" … {len(span.links) - 1} more" if len(span.links) > 1 else ""
    yield line
    yield from _some(
        [branch.below + _event(event, span.start_ns, paint) for event in span.events], _MAX_EVENTS, branch.below
    )


def _event(event: Event, start_ns: int, paint: Callable[[str, str], str]) -> str:
    line = f"+{duration(event.time_ns - start_ns)} {printable(event.name)}"
    # A stack trace is not readable on one line.
    shown = {key: value for key, value in event.attributes.items() if key != "exception.stacktrace"}
    return paint(_DIM, "  ".join([line, *_some(pairs(shown, _MAX_VALUE), _MAX_ATTRIBUTES)]))


def _some(texts: list[str], count: int, before: str = "") -> list[str]:
    return texts if len(texts) <= count else [*texts[:count], f"{before}… {len(texts) - count} more"]


def _has_color(stream: TextIO) -> bool:
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    isatty = getattr(stream, "isatty", None)
    return isatty is not None and isatty()


def _paint(color: str, text: str) -> str:
    return f"\x1b[{color}m{text}\x1b[0m" if text else ""


def _plain(_: str, text: str) -> str:
    return text
