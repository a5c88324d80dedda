"""One trace on a page: a line, and its spans as a tree with elapsed times, events and attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .._render import duration, pairs, printable, span_tree
from ._view import REDACTED, Markup, attributes, markup, when

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .._core.records import Event
    from .._core.span import Span

_VALUE: Final = 200
_STACK: Final = "exception.stacktrace"
_STACK_LENGTH: Final = 4000


def title_of(root: Span, shows_sensitive: bool) -> str:
    """Return the name of *root*, and the path of a request whose route is not known, or not yet."""
    if " " in root.name:
        return root.name
    known = root.attributes
    path = known.get("url.path")
    if path is None or "http.route" in known:
        return root.name
    return f"{root.name} {attributes({'url.path': path}, _VALUE, shows_sensitive=shows_sensitive)['url.path']}"


class Shown:
    """A local trace as the page shows it: only its line if *spans* is empty."""

    def __init__(self, root: Span, spans: list[Span], left_out: int, now_ns: int, shows_sensitive: bool) -> None:
        self.root = root
        self.span_id = root.context.span_id
        self._spans = spans
        self._left_out = left_out
        self._now_ns = now_ns
        self._shows_sensitive = shows_sensitive
        self._end_ns = max([_end(span, now_ns) for span in [root, *spans]])

    def _description(self, span: Span) -> str:
        code, description = span.status
        if code == "unset":
            return ""
        if description and not self._shows_sensitive:
            description = REDACTED
        return f"{code}: {printable(description, _VALUE)}" if description else code

    def _values(self, mapping: Mapping[str, Any], limit: int = _VALUE) -> dict[str, Any]:
        return attributes(mapping, limit, shows_sensitive=self._shows_sensitive)

    def _line(self) -> list[str]:
        root = self.root
        state = "" if root.ended else "open"
        took = duration(_end(root, self._now_ns) - root.start_ns)
        sampled = "" if root.context.sampled else "not sampled"
        title = title_of(root, self._shows_sensitive)
        return [when(root.start_ns), took, title, state, self._description(root), sampled]

    def json(self, pace: Callable[[], None]) -> dict[str, Any]:
        """Return the trace as plain data."""
        pace()
        root, context = self.root, self.root.context
        ids = {"trace_id": context.trace_id, "span_id": context.span_id}
        title = printable(title_of(root, self._shows_sensitive))
        line = ids | {"title": title, "start_ns": root.start_ns, "sampled": context.sampled} | self._facts(root)
        if not self._spans:
            return line
        return line | {"spans_left_out": self._left_out, "spans": [self._span_json(span) for span in self._spans]}

    def _facts(self, span: Span) -> dict[str, Any]:
        return {
            "name": printable(span.name),
            "duration_ns": _end(span, self._now_ns) - span.start_ns,
            "is_open": not span.ended,
            "status": span.status.code,
            "description": self._description(span),
        }

    def _span_json(self, span: Span) -> dict[str, Any]:
        return self._facts(span) | {
            "span_id": span.context.span_id,
            "parent_id": None if span.parent is None else span.parent.span_id,
            "kind": span.kind,
            "after_ns": span.start_ns - self.root.start_ns,
            "attributes": self._values(span.attributes),
            "events": [
                {
                    "name": printable(event.name),
                    "after_ns": event.time_ns - self.root.start_ns,
                    "attributes": self._values(event.attributes, _STACK_LENGTH),
                }
                for event in span.events
            ],
        }

    def text(self) -> Iterator[str]:
        """Yield the line of the trace and, where it is expanded, those of its spans and events."""
        yield "  ".join([printable(word) for word in self._line() if word]) + f"  {self.root.context.trace_id}"
        base = self.root.start_ns
        for head, below, _, span in span_tree(self._spans):
            words = [
                f"{head}{printable(span.name)}",
                _took(span, self._now_ns),
                self._description(span),
                *pairs(self._values(span.attributes), _VALUE),
            ]
            yield f"{_after(span.start_ns - base)}  " + "  ".join([word for word in words if word])
            for event in span.events:
                shown = {key: value for key, value in event.attributes.items() if key != _STACK}
                words = [f"{below}· {printable(event.name)}", *pairs(self._values(shown), _VALUE)]
                yield f"{_after(event.time_ns - base)}  " + "  ".join(words)
        if self._left_out and self._spans:
            yield f"  ({self._left_out} spans discarded)"

    def html(self, link: str) -> Iterator[Markup]:
        """Yield the trace as HTML; *link* expands it."""
        words = self._line()
        yield markup(
            '<section class="trace {}"><p class="line"><time>{}</time> <span class="took">{}</span> '
            '<a href="{}">{}</a> <span class="state">{}</span> <span class="status">{}</span> '
            '<span class="state">{}</span> <code>{}</code></p>',
            self.root.status.code,
            *words[:2],
            link,
            *words[2:],
            self.root.context.trace_id,
        )
        if self._spans:
            yield Markup('<table class="spans"><tbody>')
            for head, below, _, span in span_tree(self._spans):
                yield self._span_html(head, span)
                for event in span.events:
                    yield self._event_html(below, event)
            yield Markup("</tbody></table>")
            if self._left_out:
                yield markup('<p class="note">{} spans discarded to bound memory</p>', self._left_out)
        yield Markup("</section>")

    def _span_html(self, head: str, span: Span) -> Markup:
        base, whole = self.root.start_ns, max(1, self._end_ns - self.root.start_ns)
        start = min(max(0, span.start_ns - base), whole)
        width = min(max(0, _end(span, self._now_ns) - span.start_ns), whole - start)
        return markup(
            '<tr class="span {}"><td class="after">{}</td><td class="bar"><svg viewBox="0 0 1000 10" '
            'preserveAspectRatio="none" aria-hidden="true"><rect x="{}" width="{}" height="10"/></svg></td>'
            '<td class="took">{}</td><td class="what"><span class="tree">{}</span><b>{}</b> {} {}{}</td></tr>',
            span.status.code if span.ended else f"{span.status.code} open",
            _after(span.start_ns - base),
            1000 * start // whole,
            max(3, 1000 * width // whole),
            _took(span, self._now_ns),
            head,
            span.name,
            markup('<span class="kind">{}</span>', span.kind) if span.kind != "internal" else "",
            markup('<span class="status">{}</span>', self._description(span)),
            self._attributes_html(span.attributes),
        )

    def _event_html(self, below: str, event: Event) -> Markup:
        shown = {key: value for key, value in event.attributes.items() if key != _STACK}
        stack: Any = event.attributes.get(_STACK, "")
        if stack and not self._shows_sensitive:
            stack = REDACTED
        lines = [printable(line, 500) for line in str(stack)[:_STACK_LENGTH].splitlines()]
        return markup(
            '<tr class="event"><td class="after">{}</td><td></td><td></td><td class="what"><span class="tree">{}</span>'
            "· {} {}{}</td></tr>",
            _after(event.time_ns - self.root.start_ns),
            below,
            event.name,
            self._attributes_html(shown),
            _stack_html(lines) if lines else "",
        )

    def _attributes_html(self, mapping: Mapping[str, Any]) -> Markup:
        found = [
            markup('<span class="attribute"><i>{}</i>={}</span> ', key, value)
            for key, value in self._values(mapping).items()
        ]
        return Markup("".join(found))


def _stack_html(lines: list[str]) -> Markup:
    shown = "\n".join([markup("{}", line) for line in lines])
    return Markup(f"<details><summary>stack</summary><pre>{shown}</pre></details>")


def _end(span: Span, now_ns: int) -> int:
    return span.end_ns or max(now_ns, span.start_ns)


def _took(span: Span, now_ns: int) -> str:
    return duration(_end(span, now_ns) - span.start_ns) + ("" if span.ended else " …")


def _after(ns: int) -> str:
    return f"{'+' if ns >= 0 else ''}{duration(ns)}".rjust(9)
