"""Trees, durations and untrusted text for a terminal, shared by the console exporter and the command line."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ._core.span import Span

T = TypeVar("T")

_ASCII = str.maketrans("├└│─…━╸╺·µ✓✗⊘≈", "|`|-~=-- uvxc~")
_VALUE_DEPTH = 4
_VALUE_ITEMS = 16


class Leaf(NamedTuple, Generic[T]):
    """A span, and the values that ``tree()`` needs of it."""

    span_id: str
    parent_id: str | None
    start_ns: int
    span: T


class Branch(NamedTuple, Generic[T]):
    """A span in its tree: the prefix of its line, the prefix of further lines about it, and its depth."""

    head: str
    below: str
    depth: int
    span: T


def tree(leaves: Iterable[Leaf[T]], *, levels: int = 12) -> Iterator[Branch[T]]:
    """Yield every span once, children after their parent, in order of start; a span whose parent is missing is a root.

    Cyclic parents and duplicate ids are shown too. Beyond *levels* the level is a number, not drawn.
    """
    ordered = sorted(leaves, key=lambda leaf: leaf.start_ns)
    known = {leaf.span_id for leaf in ordered}
    children: dict[str | None, list[int]] = {}
    for at, leaf in enumerate(ordered):
        children.setdefault(leaf.parent_id if leaf.parent_id in known else None, []).append(at)
    seen = [False] * len(ordered)
    # Every span is tried as a root in the end: a cycle is reachable from no root.
    for root in [*children.get(None, ()), *range(len(ordered))]:
        waiting = [(root, "", "", 0)]
        while waiting:
            at, head, base, depth = waiting.pop()
            if seen[at]:
                continue
            seen[at] = True
            leaf = ordered[at]
            below = [child for child in children.get(leaf.span_id, ()) if not seen[child]]
            yield Branch(head, base + ("│  " if below else "   "), depth, leaf.span)
            for child in reversed(below):
                is_last = child == below[-1]
                if depth < levels:
                    guides = base + ("└─ " if is_last else "├─ "), base + ("   " if is_last else "│  ")
                else:
                    guides = f"{base}└+{depth + 1 - levels} ", base
                waiting.append((child, *guides, depth + 1))


def span_tree(spans: Iterable[Span]) -> Iterator[Branch[Span]]:
    """Yield *spans* of one trace as ``tree()`` does."""
    return tree(
        [
            Leaf(span.context.span_id, None if span.parent is None else span.parent.span_id, span.start_ns, span)
            for span in spans
        ]
    )


def duration(ns: int) -> str:
    """Return *ns* nanoseconds in the unit that suits them, in at most seven characters for less than 100 days."""
    if ns < 0:
        return f"-{duration(-ns)}"
    if ns < 1000:
        return f"{ns} ns"
    for unit, size in (("µs", 1e3), ("ms", 1e6), ("s", 1e9)):
        number = ns / size
        if number < (59.995 if unit == "s" else 999.5):
            return f"{number:.{2 if number < 9.995 else 1 if number < 99.95 else 0}f} {unit}"
    seconds = round(ns / 1e9)
    if seconds < 3600:
        return f"{seconds // 60}m {seconds % 60:02d}s"
    if seconds < 86400:
        return f"{seconds // 3600}h {seconds // 60 % 60:02d}m"
    return f"{seconds // 86400}d {seconds // 3600 % 24:02d}h"


def duration_of_s(seconds: float) -> str:
    """Return *seconds* as ``duration()`` does."""
    return duration(round(seconds * 1e9))


def moment(ns: int, format: str = "%H:%M:%S") -> str:
    """Return the local time of *ns* Unix nanoseconds."""
    try:
        return time.strftime(format, time.localtime(ns // 1_000_000_000))
    except (OverflowError, ValueError, OSError):  # a program may have set any time
        return "no time"


def plural(count: int, noun: str) -> str:
    """Return *count* and *noun*, with an "s" unless there is one."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def printable(text: str, limit: int = 200) -> str:
    """Return *text* on one line, cut at *limit*, with the characters that control a terminal escaped."""
    if len(text) > limit:
        text = f"{text[: limit - 1]}…"
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() else char.encode("unicode_escape").decode() for char in text])


def cells(text: str) -> int:
    """Return the width of *text* in a terminal, in columns."""
    if text.isascii():
        return len(text)
    return sum(map(_cells, text))


def _cells(char: str) -> int:
    return 0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, width: int) -> str:
    """Return *text* shortened to *width* columns, and filled up to them."""
    taken = cells(text)
    if taken > width:
        kept, taken = [], 1
        for char in text:
            taken += _cells(char)
            if taken > width:
                taken -= _cells(char)
                break
            kept.append(char)
        text = "".join(kept) + "…"
    return text + " " * (width - taken)


def encodable(text: str, encoding: str | None) -> str:
    """Return *text* as a stream of *encoding* can write it: box characters in ASCII, other characters escaped."""
    encoding = encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)
    return text


def pairs(attributes: Mapping[str, Any], limit: int = 80) -> list[str]:
    """Return *attributes* as printable ``key=value``, a value cut to *limit* characters."""
    return [f"{printable(key, 80)}={value_text(value, limit)}" for key, value in attributes.items()]


def library_text(name: str, version: str, limit: int = 200) -> str:
    """Return the library that made a span, with its version, on one line."""
    return printable(f"{name} {version}" if version else name, limit)


def value_text(value: Any, limit: int = 80, depth: int = _VALUE_DEPTH) -> str:
    """Return an attribute's *value*, printable and cut to about *limit* characters; quoted only if necessary."""
    if isinstance(value, str):
        text = printable(value, limit)
        special = ' "' if depth == _VALUE_DEPTH else ' ",:[]{}'
        if text and not any(char in special for char in text):
            return text
        return '"' + text.replace('"', '\\"') + '"'
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        # Python refuses to write very long ints in decimal.
        return str(value) if value.bit_length() <= 64 else printable(hex(value), limit)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, bytes):
        return printable(value[:limit].hex(), limit) or "(no bytes)"
    if depth == 0:
        return "…"
    if isinstance(value, Mapping):
        items = [
            f"{printable(str(key), 80)}: {value_text(item, limit, depth - 1)}" for key, item in _some(value.items())
        ]
        return "{" + _joined(items, len(value), limit) + "}"
    if isinstance(value, Sequence):
        return "[" + _joined([value_text(item, limit, depth - 1) for item in _some(value)], len(value), limit) + "]"
    return f"<{type(value).__name__}>"


def _some(values: Iterable[T]) -> list[T]:
    return list(islice(values, _VALUE_ITEMS))


def _joined(items: list[str], count: int, limit: int) -> str:
    if count > len(items):
        items.append("…")
    text = ", ".join(items)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
