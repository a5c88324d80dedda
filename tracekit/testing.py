"""Helpers for tests: spans in memory, sequential ids, a clock set by hand, trees as text."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Self

from ._configure import flush, lend
from ._core.context import SpanContext, set_ids
from ._core.span import Span, set_clock

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["CountingIds", "FakeClock", "MemoryExporter", "recording", "span_tree"]

_PATIENCE_S = 60.0  # a busy machine makes a test slow, not wrong


class MemoryExporter:
    """Keep finished spans in ``spans``, in the order in which they ended. Reading it flushes first."""

    def __init__(self) -> None:
        self._spans: list[Span] = []  # without a lock, which a signal handler could find taken: each step is one
        self.is_shut_down = False

    @property
    def spans(self) -> list[Span]:
        """A new list of every span that has ended so far."""
        flush(_PATIENCE_S)
        # iter(): list() alone locks the list where there is no GIL, and a fork may leave the lock taken in the child
        return list(iter(self._spans))

    def __iter__(self) -> Iterator[Span]:
        return iter(self.spans)

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int) -> Span:
        return self.spans[index]

    def find(self, name: str) -> Span:
        """Return the one span called *name*; raise ``LookupError``, which lists the names, if there is none or several."""
        found = self.find_all(name)
        if len(found) == 1:
            return found[0]
        names = ", ".join(dict.fromkeys(repr(span.name) for span in self.spans)) or "no spans"
        raise LookupError(f"{len(found) or 'no'} spans are called {name!r}; there are {names}")

    def find_all(self, name: str) -> list[Span]:
        """Return the spans called *name*, in the order in which they ended."""
        return [span for span in self.spans if span.name == name]

    def roots(self) -> list[Span]:
        """Return the spans without a parent among those recorded."""
        spans = self.spans
        known = {span.context.span_id for span in spans}
        return [span for span in spans if span.parent is None or span.parent.span_id not in known]

    def children(self, parent: Span | str) -> list[Span]:
        """Return the spans whose parent is *parent*, a span or the name of one."""
        span_id = (self.find(parent) if isinstance(parent, str) else parent).context.span_id
        return [span for span in self.spans if span.parent is not None and span.parent.span_id == span_id]

    def names(self) -> list[str]:
        """Return the names, in the order in which the spans ended."""
        return [span.name for span in self.spans]

    def tree(self) -> str:
        """Return the spans as text, see ``span_tree()``."""
        return span_tree(self.spans)

    def clear(self) -> None:
        """Forget the spans that have ended so far."""
        flush(_PATIENCE_S)
        self._spans.clear()

    def export(self, spans: Sequence[Span]) -> None:
        """Keep *spans*."""
        self._spans.extend(spans)

    def shutdown(self) -> None:
        """Mark the exporter as shut down."""
        self.is_shut_down = True


@contextlib.contextmanager
def recording() -> Iterator[MemoryExporter]:
    """Inside ``with``, record every trace that begins there in memory; the exporter is restored afterwards.

    A trace that began before is recorded there if it was before.
    """
    exporter = MemoryExporter()
    with contextlib.contextmanager(lend)(exporter):
        yield exporter


class CountingIds:
    """Inside ``with``, trace ids and span ids are 1, 2, 3 … instead of random numbers."""

    def __init__(self) -> None:
        self._traces = self._spans = 0
        self._before: list[Any] = []

    def trace_id(self) -> int:
        """Return the next trace id."""
        self._traces += 1
        return self._traces

    def span_id(self) -> int:
        """Return the next span id."""
        self._spans += 1
        return self._spans

    def __enter__(self) -> Self:
        self._before.append(set_ids(self))
        return self

    def __exit__(self, *exc: object) -> None:
        set_ids(*self._before.pop())


class FakeClock:
    """Inside ``with``, the time of spans is *now_ns*, Unix nanoseconds, and moves only when ``tick()`` is called."""

    def __init__(self, now_ns: int = 1_700_000_000_000_000_000) -> None:
        self.now_ns = now_ns
        self._before: list[Any] = []

    def tick(self, seconds: float = 1.0) -> None:
        """Move the time forward."""
        self.now_ns += round(seconds * 1e9)

    def __enter__(self) -> Self:
        self._before.append(set_clock(lambda: self.now_ns))
        return self

    def __exit__(self, *exc: object) -> None:
        set_clock(self._before.pop())


def span_tree(spans: Iterable[Span]) -> str:
    """Return *spans* as text, a line each, children indented by two under their parent, in order of start.

    A status other than "unset" stands in brackets, a parent that is not among *spans* as ``<- its span id``
    (``<- remote`` where another process has it), and a link as ``~ name`` or ``~ span id``.
    """
    ordered = sorted(spans, key=lambda span: span.start_ns)
    known = {span.context.span_id: span for span in ordered}
    children: dict[str | None, list[Span]] = {}
    for span in ordered:
        parent = span.parent
        children.setdefault(parent.span_id if parent and parent.span_id in known else None, []).append(span)
    lines: list[str] = []
    waiting = [(span, 0) for span in reversed(children.get(None, []))]
    while waiting:
        span, depth = waiting.pop()
        lines.append("  " * depth + _line(span, known))
        # Taken out: where nothing is sampled, a span and its child have the same id.
        waiting += [(child, depth + 1) for child in reversed(children.pop(span.context.span_id, []))]
    return "\n".join(lines)


def _line(span: Span, known: dict[str, Span]) -> str:
    line = span.name if span.name.isprintable() else ascii(span.name)[1:-1]
    if span.status.code != "unset":
        line += f" [{span.status.code}]"
    if span.parent is not None and span.parent.span_id not in known:
        line += " <- remote" if span.parent.is_remote else f" <- {span.parent.span_id}"
    for link in span.links:
        line += f" ~ {_name(link.context, known)}"
    return line


def _name(context: SpanContext, known: dict[str, Span]) -> str:
    span = known.get(context.span_id)
    return context.span_id if span is None else span.name
