"""``/debug/requests``: the requests of this process by family, open and finished, with counts, latencies and samples.

The arguments of the URL are those of golang.org/x/net/trace: ``fam`` is a family, ``b`` a bucket (-1 open, 0 to 7 by
latency, 8 errors, 9 to 11 the latencies of the last minute, hour and in total), ``exp=1`` expands the traces, ``rtraced=1``
leaves out those that are not sampled. ``n`` is the number of open traces to show, ``trace`` the span id of one to expand.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from .._render import duration, printable
from ._recorder import BOUNDS_NS, Trace, all_open_spans, family_of, recorder
from ._traces import Shown, title_of
from ._view import Markup, Page, Request, headline, link_cell, markup

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .._core.span import Span
    from ._recorder import Counts, Family
    from ._view import View

_OPEN: Final = -1
_ERRORS: Final = len(BOUNDS_NS)
_LATENCIES: Final = {"minute": "the last minute", "hour": "the last hour", "total": "total"}
_LAST: Final = _ERRORS + len(_LATENCIES)
_SHOWN: Final = 20
_TITLED: Final = 100  # open requests of a family, the oldest, that a row of the table looks at
_TITLES: Final = 3
_MOST: Final = 1000
_NAMES: Final = ("≥ 0", "≥ 50 ms", "≥ 100 ms", "≥ 200 ms", "≥ 500 ms", "≥ 1 s", "≥ 10 s", "≥ 100 s", "errors")


class _Open:
    """The open spans of one moment: local roots by family, oldest first, and all others by the id of their parent."""

    def __init__(self, request: Request) -> None:
        spans, self.is_cut = all_open_spans(request.pace)
        self.roots: dict[tuple[str, str], list[Span]] = {}
        self.below: dict[bytes, list[Span]] = {}
        sampled_only = request.flag("rtraced")
        for at, span in enumerate(spans):
            if not at & 255:
                request.pace()
            parent = span.parent
            if parent is not None and not parent.is_remote:
                self.below.setdefault(parent.id, []).append(span)
            elif not sampled_only or span.context.sampled:
                self.roots.setdefault(family_of(span), []).append(span)


def _text(key: tuple[str, str]) -> str:
    """Return the name of a family on the page and in URLs."""
    return printable(f"{key[0]} {key[1]}".lstrip())


def _link(**arguments: object) -> str:
    return f"requests?{urlencode(arguments)}"


def _titles(roots: list[Span], shows_sensitive: bool) -> list[tuple[str, int]]:
    """Return the titles of the oldest open requests that say more than the name of their family, and their numbers.

    A server's span is named by its method alone until its route is known.
    """
    counts: dict[str, int] = {}
    for root in roots[:_TITLED]:
        title = title_of(root, shows_sensitive)
        if title != root.name:
            counts[title] = counts.get(title, 0) + 1
    return list(counts.items())


def _shown(titles: list[tuple[str, int]]) -> str:
    named = [f"{printable(title, 80)} ({count})" if count > 1 else printable(title, 80) for title, count in titles]
    return ", ".join(named[:_TITLES]) + (" …" if len(named) > _TITLES else "")


class _Families:
    """The table of the families of requests: open ones, buckets of finished ones, and latencies."""

    def __init__(self, request: Request) -> None:
        opened = _Open(request)
        with recorder.lock:
            families = list(recorder.families.values())
            self._memory = recorder.kept, recorder.pending, recorder.trimmed, recorder.evicted
        known = {family.key: family for family in families}
        self._is_cut = opened.is_cut
        self._rtraced = request.flag("rtraced")
        self._titles = {key: _titles(roots, request.shows_sensitive) for key, roots in opened.roots.items()}
        self._rows: list[tuple[tuple[str, str], int, Family | None]] = [
            (key, len(opened.roots.get(key, ())), known.get(key)) for key in sorted({*known, *opened.roots}, key=_text)
        ]

    def _note(self) -> str:
        kept, pending, trimmed, evicted = self._memory
        return (
            f"memory: samples hold {kept:,} of at most {recorder.max_spans:,} spans ({trimmed:,} discarded), "
            f"{pending:,} of at most {recorder.max_pending:,} wait for their parent ({evicted:,} discarded)"
        )

    def json(self) -> dict[str, Any]:
        families = []
        for key, count, family in self._rows:
            row: dict[str, Any] = {"family": _text(key), "open": count}
            if titles := self._titles.get(key):
                row["open_titles"] = {printable(title): number for title, number in titles}
            if family is not None:
                row["buckets"] = dict(zip(map(str, BOUNDS_NS), family.buckets, strict=True))
                row["errors"] = family.errors
                row["latency"] = {name: _summary(_sums(family, name)) for name in _LATENCIES}
            families.append(row)
        kept, pending, trimmed, evicted = self._memory
        memory = {"spans": kept, "max_spans": recorder.max_spans, "discarded": trimmed}
        waiting = {"spans": pending, "max_spans": recorder.max_pending, "discarded": evicted}
        return {"families": families, "samples": memory, "waiting": waiting, "is_cut": self._is_cut}

    def text(self) -> Iterator[str]:
        yield f"{'family':<40} {'open':>7} " + " ".join([f"{name:>9}" for name in _NAMES]) + "   p50, p99 of the hour"
        for key, count, family in self._rows:
            cells = [0] * len(_NAMES) if family is None else [*family.buckets, family.errors]
            line = f"{printable(_text(key), 40):<40} {count:>7} " + " ".join([f"{cell:>9}" for cell in cells])
            if family is not None:
                found = _summary(_sums(family, "hour"))
                line += f"   {duration(found['p50_ns'])}, {duration(found['p99_ns'])}"
            yield line
            if titles := self._titles.get(key):
                yield f"    open: {_shown(titles)}"
        yield ""
        yield self._note()

    def html(self) -> Iterator[Markup]:
        if not self._rows:
            yield Markup('<p class="empty">No request has been recorded yet.</p>')
        else:
            yield Markup('<table class="families"><thead><tr><th scope="col">Family</th><th scope="col">Open</th>')
            for name in _NAMES:
                yield markup('<th scope="col">{}</th>', name)
            for window in _LATENCIES:
                yield markup('<th scope="col">p50 · p99, {}</th>', window)
            yield Markup("</tr></thead><tbody>")
            for key, count, family in self._rows:
                yield self._row(key, count, family)
            yield Markup("</tbody></table>")
        if self._is_cut:
            yield Markup('<p class="note">There are more open spans than are counted here.</p>')
        yield markup('<p class="note">{}</p>', self._note())

    def _row(self, key: tuple[str, str], count: int, family: Family | None) -> Markup:
        name = _text(key)
        more = {"rtraced": "1"} if self._rtraced else {}
        kind = markup('<span class="kind">{}</span> ', key[0]) if key[0] else ""
        titles = self._titles.get(key)
        paths = markup('<div class="paths">{}</div>', _shown(titles)) if titles else ""
        cells = [markup('<tr><th scope="row">{}{}{}</th>', kind, key[1], paths)]
        counts = [count, *([0] * len(_NAMES) if family is None else [*family.buckets, family.errors])]
        for bucket, number in enumerate(counts, _OPEN):
            class_ = "open" if bucket == _OPEN else "errors" if bucket == _ERRORS else "bucket"
            cells.append(link_cell(class_, _link(fam=name, b=bucket, **more), number))
        for at, window in enumerate(_LATENCIES, _ERRORS + 1):
            found = None if family is None else _summary(_sums(family, window))
            shown = f"{duration(found['p50_ns'])} · {duration(found['p99_ns'])}" if found and found["count"] else "-"
            cells.append(markup('<td class="latency"><a href="{}">{}</a></td>', _link(fam=name, b=at), shown))
        return Markup("".join([*cells, "</tr>"]))


class _Bucket:
    """The traces of one *bucket* of the family *name*: open ones, or the samples of finished ones."""

    def __init__(self, request: Request, name: str, bucket: int) -> None:
        self._request = request
        self._name, self._bucket = name, bucket
        self._expands, self._one = request.flag("exp"), request.arguments.get("trace", "")
        sampled_only = request.flag("rtraced")
        opened = _Open(request)
        self._now_ns = time.time_ns()
        self._count = 0
        traces: list[Trace] = []
        is_open = bucket == _OPEN
        if is_open:
            roots = next((roots for key, roots in opened.roots.items() if _text(key) == name), [])
            self._count = len(roots)
            traces += [Trace(root) for root in roots[: request.number("n", _SHOWN, 1, _MOST)]]
        else:
            with recorder.lock:
                found = [family for key, family in recorder.families.items() if _text(key) == name]
                for family in found[:1]:
                    traces = [trace for trace in family.rings[bucket] if not sampled_only or trace.root.context.sampled]
                    self._count = family.errors if bucket == _ERRORS else family.buckets[bucket]
        traces.reverse()
        self._traces: list[Shown] = []
        for trace in traces:
            request.pace()
            is_expanded = self._expands or trace.root.context.span_id == self._one
            spans = _spans(trace, opened) if is_expanded else []
            self._traces.append(Shown(trace.root, spans, trace.left_out, self._now_ns, request.shows_sensitive))

    def json(self) -> dict[str, Any]:
        return {
            "family": printable(self._name),
            "bucket": self._bucket,
            "count": self._count,
            # One at a time: the objects of all would start a long collection of garbage.
            "traces": (trace.json(self._request.pace) for trace in self._traces),
        }

    def text(self) -> Iterator[str]:
        yield f"{self._name}: {self._title()}"
        for trace in self._traces:
            yield ""
            yield from trace.text()

    def html(self) -> Iterator[Markup]:
        toggle = _link(fam=self._name, b=self._bucket, exp=0 if self._expands else 1)
        yield headline(self._name, self._title(), toggle, self._expands)
        link = _link(fam=self._name, b=self._bucket)
        for trace in self._traces:
            yield from trace.html(f"{link}&trace={trace.span_id}")

    def _title(self) -> str:
        kind = "open" if self._bucket == _OPEN else _NAMES[self._bucket]
        return f"{len(self._traces)} of {self._count:,}, {kind}, newest first"


class _Latency:
    """The histogram of the latencies of the family *name* in a *window*, a key of ``_LATENCIES``."""

    def __init__(self, name: str, window: str) -> None:
        self._name, self._window = name, window
        with recorder.lock:
            found = [_sums(family, window) for key, family in recorder.families.items() if _text(key) == name]
        self._sums = found[0] if found else [0]

    def json(self) -> dict[str, Any]:
        bounds = [{"below_ns": 1000 << at, "count": count} for at, count in enumerate(self._sums)]
        return {"family": printable(self._name), "window": self._window, **_summary(self._sums), "histogram": bounds}

    def _rows(self) -> Iterator[tuple[str, int]]:
        filled = [at for at, count in enumerate(self._sums) if count]
        for at in range(filled[0], filled[-1] + 1) if filled else ():
            yield f"{duration(0 if at == 0 else 500 << at)} to {duration(1000 << at)}", self._sums[at]

    def _title(self) -> str:
        found = _summary(self._sums)
        quantiles = ", ".join([f"{name} {duration(found[f'{name}_ns'])}" for name in ("p50", "p95", "p99")])
        return f"{found['count']:,} in {_LATENCIES[self._window]}: {quantiles}"

    def text(self) -> Iterator[str]:
        yield f"{self._name}: {self._title()}"
        for name, count in self._rows():
            yield f"{name:>24} {count:>9}"

    def html(self) -> Iterator[Markup]:
        yield markup('<h2>{}</h2><p class="note">{}</p><table class="histogram">', self._name, self._title())
        most = max([1, *self._sums])
        for name, count in self._rows():
            yield markup(
                '<tr><th scope="row">{}</th><td class="bucket">{}</td><td class="bar"><svg viewBox="0 0 1000 10" '
                'preserveAspectRatio="none" aria-hidden="true"><rect width="{}" height="10"/></svg></td></tr>',
                name,
                f"{count:,}",
                1000 * count // most,
            )
        yield Markup("</table>")


def _spans(trace: Trace, opened: _Open) -> list[Span]:
    """Return the spans of *trace*: its own, those that ended later, and those that are open."""
    spans = [trace.root, *trace.spans]
    known = {id(span) for span in spans}
    with recorder.lock:
        for span in spans:  # which grows
            if len(spans) > _MOST:
                break
            for child in [*recorder.waiting_below(span), *opened.below.get(span.context.id, ())]:
                if id(child) not in known:
                    known.add(id(child))
                    spans.append(child)
    return spans


def _sums(family: Family, window: str) -> list[int]:
    counts: Counts = getattr(family, window)
    return counts.sums(time.monotonic_ns())


def _summary(sums: Iterable[int]) -> dict[str, int]:
    """Return the number of requests, and the upper bounds of three quantiles, which are at most twice too high."""
    slots = list(sums)
    count = sum(slots)
    found = {"count": count}
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        rank, seen, at = share * count, 0, 0
        while at < len(slots) - 1 and seen + slots[at] < rank:
            seen += slots[at]
            at += 1
        # Between the bounds of the slot, in proportion.
        low = 0 if at == 0 else 500 << at
        found[f"{name}_ns"] = int(low + ((1000 << at) - low) * (rank - seen) / slots[at]) if count and slots[at] else 0
    return found


def _view(request: Request) -> View:
    name = request.arguments.get("fam")
    if name is None:
        return _Families(request)
    text = request.arguments.get("b", "0")
    bucket = _OPEN if text == "-1" else request.number("b", 0, 0, _LAST)
    if bucket > _ERRORS:
        return _Latency(name, list(_LATENCIES)[bucket - _ERRORS - 1])
    return _Bucket(request, name, bucket)


PAGE: Final = Page("requests", "Requests", "open and finished requests by family, latency and error", _view)
