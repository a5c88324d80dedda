"""Event logs: the recent history of long-lived objects, such as connections, for the page ``/debug/events``.

The semantics are those of ``NewEventLog`` in golang.org/x/net/trace.
"""

from __future__ import annotations

import sys
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ._core.free_threading import HAS_GIL, indivisible
from ._core.guard import is_a, plain_text, type_name
from ._core.misuse import misused

if TYPE_CHECKING:
    from types import FrameType
    from typing import Self

_HEAD: Final = 49  # entries kept from the beginning ...
_TAIL: Final = 50  # ... and from the end; with the notice of those between them, 100 lines
_MAX_TEXT: Final = 4096
_MAX_NAME: Final = 200
_MAX_LOGS: Final = 10_000
_FRAMES: Final = 8

# By identity. A dict, because its values are copied in one step, while a WeakSet raises if another thread adds a log
# during an iteration.
_open: dict[int, weakref.ref[EventLog]] = {}
_unlisted = 0


class Entry(NamedTuple):
    """A line of an event log, not formatted yet; ``time_ns`` is Unix time."""

    time_ns: int
    format: str
    arguments: tuple[Any, ...]
    is_error: bool
    is_sensitive: bool

    def text(self) -> str:
        """Return the formatted line. Methods of the arguments cannot make it raise."""
        try:
            text = self.format % self.arguments if self.arguments else self.format
        except BaseException as error:  # from the program's __str__(); no request may end the thread
            text = f"{self.format} (formatting failed: {type_name(error)})"
        return plain_text(text, _MAX_TEXT)


class EventLog:
    """The recent history of one long-lived object. ``event_log()`` makes it; a context manager, or ``finish()`` it.

    No method raises, and each may be called from any thread. Arguments are formatted when a page is drawn: an argument
    that changes meanwhile is shown as it is then. A log that is garbage collected leaves the page as a finished one.
    """

    __slots__ = (
        *("__weakref__", "_head", "_tail", "discarded", "errors", "family", "is_finished", "last_error_ns"),
        *("stack", "start_ns", "title"),
    )

    def __init__(self, family: str, title: str, stack: tuple[tuple[str, int, str], ...]) -> None:
        self.family = family
        self.title = title
        self.stack = stack  # of the maker: file, line and function, innermost first
        self.start_ns = time.time_ns()
        self.errors = 0
        self.last_error_ns = 0
        self.discarded = 0
        self.is_finished = False
        self._head: list[Entry] = []
        self._tail: deque[Entry] = deque(maxlen=_TAIL)

    def printf(self, format: str, *arguments: Any, sensitive: bool = False) -> None:
        """Add the line ``format % arguments``; *sensitive* ones are shown only to visitors with that right."""
        self._add(format, arguments, False, sensitive)

    def errorf(self, format: str, *arguments: Any, sensitive: bool = False) -> None:
        """Add a line as ``printf()`` does, marked as an error."""
        self._add(format, arguments, True, sensitive)

    def finish(self) -> None:
        """Remove the log from the page. Later lines have no effect."""
        self.is_finished = True
        _open.pop(id(self), None)

    def entries(self) -> tuple[list[Entry], list[Entry]]:
        """Return the entries before and after those that were discarded."""
        return self._head[:], list(self._tail)

    def _add(self, format: Any, arguments: tuple[Any, ...], is_error: bool, is_sensitive: Any) -> None:
        if self.is_finished:
            return
        if type(format) is not str:
            if not is_a(format, str):
                misused(TypeError(f"format must be str, not {type_name(format)}"))
                return
            format = str.__str__(format)
        now_ns = time.time_ns()
        self._keep(Entry(now_ns, format[:_MAX_TEXT], arguments, is_error, is_sensitive is not False))

    def _keep(self, entry: Entry) -> Entry | None:
        """Keep *entry*, and return the one that it displaces: the caller frees it, as its arguments may run code."""
        if entry.is_error:
            self.errors += 1
            self.last_error_ns = entry.time_ns
        if len(self._head) < _HEAD:
            self._head.append(entry)
            return None
        displaced = None
        if len(self._tail) == _TAIL:
            self.discarded += 1
            displaced = self._tail.popleft()
        self._tail.append(entry)
        return displaced

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.finish()

    def __repr__(self) -> str:
        return f"<EventLog {self.family[:64]!a} {self.title[:64]!a} {'finished' if self.is_finished else 'open'}>"


if not HAS_GIL:
    EventLog._keep = indivisible(EventLog._keep)  # type: ignore[method-assign]


def event_log(family: str, title: str) -> EventLog:
    """Return a new event log of a long-lived object, shown at ``/debug/events`` until ``finish()``.

    *family* groups the rows of the page, such as "redis.Connection"; *title* names the object. A log keeps 100 lines:
    past that the middle ones are discarded and counted. At most 10,000 logs are listed at a time.
    """
    global _unlisted
    frame = sys._getframe(1) if hasattr(sys, "_getframe") else None
    log = EventLog(_name(family, "family"), _name(title, "title"), _stack(frame))
    if len(_open) < _MAX_LOGS:
        key = id(log)
        _open[key] = weakref.ref(log, lambda _: _open.pop(key, None))
    else:
        _unlisted += 1
    return log


def open_logs() -> tuple[list[EventLog], int]:
    """Return the open logs, oldest first, and the number of logs that were not listed since the start."""
    logs = list(filter(None, [reference() for reference in list(_open.values())]))
    return sorted(logs, key=lambda log: log.start_ns), _unlisted


def _name(value: Any, parameter: str) -> str:
    if not is_a(value, str):
        misused(TypeError(f"{parameter} must be str, not {type_name(value)}"))
        return ""
    return str.__str__(value)[:_MAX_NAME]


def _stack(frame: FrameType | None) -> tuple[tuple[str, int, str], ...]:
    frames: list[tuple[str, int, str]] = []
    while frame is not None and len(frames) < _FRAMES:
        frames.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return tuple(frames)
