"""The types that a page is made of, and HTML that cannot contain markup of a stranger."""

from __future__ import annotations

import html
import json
import math
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from .._render import moment, printable, value_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_BUSY_NS: Final = 500_000
_PAUSE_S: Final = 50e-6
_MAX_TEXT: Final = 4096
_SMALL: Final = 16
REDACTED: Final = "[redacted]"
_SPECIAL: Final = re.compile("[&<>\"']").search


class Pace:
    """Gives the interpreter to other threads again and again while a page is drawn.

    Without it a thread that computes keeps the interpreter for ``sys.getswitchinterval()``, 5 ms, each time.
    """

    def __init__(self) -> None:
        self._since = time.perf_counter_ns()

    def __call__(self) -> None:
        """Pause for a moment if 0.5 ms have passed since the last pause."""
        if time.perf_counter_ns() - self._since > _BUSY_NS:
            time.sleep(_PAUSE_S)  # 0 would not do: CPython may take the interpreter again before a waiting thread
            self._since = time.perf_counter_ns()


class Request(NamedTuple):
    """One request for a page. ``arguments`` are those of the URL, the first of each name, at most 32."""

    arguments: Mapping[str, str]
    shows_sensitive: bool  # else the page shows "[redacted]" in place of values that were marked sensitive
    pace: Callable[[], None]  # to be called between items

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """Return the argument *name* as a number between *low* and *high*, or *default* where it is none."""
        text = self.arguments.get(name, "")
        is_number = text.isascii() and text.isdigit() and len(text) < 10
        return min(max(int(text), low), high) if is_number else default

    def flag(self, name: str) -> bool:
        """Return whether the argument *name* is set, and not to 0 or false."""
        return self.arguments.get(name, "").lower() not in ("", "0", "false")


class View(Protocol):
    """The content of a page, a snapshot. Its methods may be slow if they call ``Request.pace`` between items."""

    def json(self) -> Mapping[str, Any]:
        """Return the content as plain data: dict, list, an iterator in place of a long list, str, int, float, bool, None."""

    def text(self) -> Iterable[str]:
        """Yield the lines of a page of text."""

    def html(self) -> Iterable[Markup]:
        """Yield the pieces of the page's ``<main>``."""


class Page(NamedTuple):
    """A page at ``/debug/NAME``; ``view`` takes the snapshot. See ``_respond.py`` for the table of all pages."""

    name: str
    title: str
    summary: str  # one line for the index
    view: Callable[[Request], View]


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def _escaped(value: object) -> str:
    if type(value) is Markup:
        return value
    text = value if type(value) is str else str(value)
    text = printable(text, _MAX_TEXT)
    return text if _SPECIAL(text) is None else html.escape(text)


def markup(template: str, *values: object) -> Markup:
    """Return the HTML *template* with each ``{}`` replaced by a value: ``Markup`` unchanged, all else escaped.

    Attribute values in the template need double quotes.
    """
    return Markup(template.format(*[_escaped(value) for value in values]))


def link_cell(class_: str, link: str, count: int) -> Markup:
    """Return a cell of a table with the number of items that *link* shows; 0 is none."""
    if not count:
        return markup('<td class="{} none">0</td>', class_)
    return markup('<td class="{}"><a href="{}">{}</a></td>', class_, link, f"{count:,}")


def headline(name: str, title: str, link: str, is_expanded: bool) -> Markup:
    """Return the heading of a list of traces or logs; *link* expands or collapses all of them."""
    return markup(
        '<h2>{}</h2><p class="note">{} · <a href="{}">{}</a></p>',
        name,
        title,
        link,
        "collapse all" if is_expanded else "expand all",
    )


def calls(places: Iterable[Mapping[str, Any]]) -> Markup:
    """Return a list of *places*, the fields of ``aio.Place`` each."""
    items = [
        markup("<li>{} <span>{}:{}</span></li>", place["function"], place["file"], place["line"]) for place in places
    ]
    return markup("<ol>{}</ol>", Markup("".join(items)))


def when(ns: int) -> str:
    """Return the time of the day with milliseconds."""
    return f"{moment(ns)}.{ns // 1_000_000 % 1000:03d}"


def attributes(mapping: Mapping[str, Any], limit: int = 400, *, shows_sensitive: bool = True) -> dict[str, Any]:
    """Return span attributes as JSON holds them. Without *shows_sensitive*, only numbers and booleans are shown."""
    found = {}
    for key, value in list(mapping.items()):
        is_shown = shows_sensitive or value is None or isinstance(value, bool | int | float)
        found[printable(key, 200)] = plain(value, limit) if is_shown else REDACTED
    return found


def plain(value: Any, limit: int = 400) -> Any:
    """Return an attribute value as JSON holds it; values of other types become text of at most *limit* characters."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    return printable(value, limit) if isinstance(value, str) else value_text(value, limit)


def json_chunks(value: Any, pace: Callable[[], None]) -> Iterator[str]:
    """Yield *value* as JSON in small pieces, so that the interpreter is never busy for long."""
    yield from _pieces(value, pace, json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode)
    yield "\n"


def _pieces(value: Any, pace: Callable[[], None], encode: Callable[[Any], str]) -> Iterator[str]:
    if isinstance(value, Iterator):
        is_small, ends = False, "[]"
    elif isinstance(value, list):
        is_small, ends = len(value) <= _SMALL and not any(map(_is_nested, value)), "[]"
    else:
        is_small, ends = not isinstance(value, dict) or not any(map(_is_nested, value.values())), "{}"
    if is_small:
        pace()
        yield encode(value).replace("<", "\\u003c")  # no markup, even if sniffed as HTML
        return
    yield ends[0]
    for at, item in enumerate(value):
        yield "," if at else ""
        if ends == "{}":
            yield encode(item).replace("<", "\\u003c") + ":"
        yield from _pieces(value[item] if ends == "{}" else item, pace, encode)
    yield ends[1]


def _is_nested(value: Any) -> bool:
    return isinstance(value, dict | list | Iterator)
