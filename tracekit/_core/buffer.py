"""The buffer in which finished spans wait for the pipeline's thread."""

from __future__ import annotations

from ..cython import binding, cclass, compiled, final
from .free_threading import HAS_GIL, indivisible
from .stdlib import deque

if not compiled:
    from .free_threading import (
        WITHOUT_GIL,
        allow,
        alone,
        count_of,
        drained,
        end_one,
        keep,
        reset_records,
        share,
        start_one,
        waiting,
    )

    # Not a function in Python: at the recursion limit, its call would raise. This one raises where memory is missing.
    cannot_append: Any = deque.append


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


@final
@binding(False)
@cclass
class Buffer:
    """Finished spans that wait for export: bounded, and counted from start to drain.

    At most ``capacity`` spans wait here, and at most twice as many wait here or were ``taken`` and are not settled.
    ``wake`` is called without arguments when a span arrives while ``is_asleep``, which becomes False, and when a span
    arrives behind ``mark`` waiting ones.

    Compiled and without the GIL, each thread has its own spans and counts (``free_threading.pxd``), and adds spans
    beside others as far as it was allowed to.
    """

    if not compiled:
        __slots__ = (
            "_spans",
            "capacity",
            "dropped",
            "ended",
            "is_asleep",
            "is_open",
            "mark",
            "passed",
            "started",
            "taken",
            "unsampled",
            "wake",
        )

    def __init__(self) -> None:
        self.capacity = 16384
        self.mark = self.capacity >> 1
        self.is_open = False
        self.wake: Callable[[], object] | None = None
        self._spans: Any = [] if compiled else deque()
        self.reset()

    def reset(self) -> Any:
        """Reset every count, forget every span and ``wake``; return the spans.

        The caller drops them when the reset is complete: weak references to spans have callbacks, which may end spans.
        """
        spans = self._spans
        if WITHOUT_GIL:
            spans = drained()
            reset_records()
        fresh: Any = [] if compiled else deque()
        self._spans = fresh
        self.wake = None
        self.is_asleep = True
        self.started = self.ended = self.dropped = self.unsampled = self.passed = self.taken = 0
        return spans

    def start(self) -> None:
        """Count a span that has started; with the GIL, adding to ``started`` does the same."""
        if WITHOUT_GIL:
            start_one()
        else:
            self.started += 1

    def end(self, span: Any, is_recorded: bool) -> None:
        """Count *span*, which has ended, and keep it if it was recorded and there is room."""
        if WITHOUT_GIL:
            if not end_one(span, is_recorded, self.is_open and not self.is_asleep):
                alone()
                self._end_alone(span)
            return
        self.ended += 1
        if not is_recorded:
            self.unsampled += 1
            return
        count = len(self._spans)
        if count >= self.capacity or count + self.taken >= 2 * self.capacity or not self.is_open:
            self.dropped += 1
            if self.is_asleep:  # the exporting thread is gone, or could not be started
                self._wake()
            return
        if cannot_append(self._spans, span):  # there is no memory
            self.dropped += 1
            return
        if self.is_asleep or count == self.mark:
            self._wake()

    def _end_alone(self, span: Any) -> None:
        count = waiting()
        room = min(self.capacity, 2 * self.capacity - self.taken)
        if count >= room or not self.is_open:
            self.ended += 1
            self.dropped += 1
            if self.is_asleep:
                self._wake()
            return
        keep(span)
        # Threads add spans up to the mark, then up to the capacity. The pipeline may have changed both while it slept.
        allow(min(self.mark, room) if count < self.mark else room, self.is_asleep)
        if self.is_asleep or count == self.mark:
            self._wake()

    def _wake(self) -> None:
        if self.wake is None:
            return
        self.is_asleep = False
        try:
            self.wake()
        except BaseException as error:
            self.is_asleep = True  # the next span calls it again
            if not isinstance(error, (RecursionError, MemoryError)):
                raise

    def processed(self) -> None:
        """Count a span that has ended as passed: span processors alone have got it, as there is no exporter."""
        self.ended += 1
        self.passed += 1

    def lose(self, count: int) -> None:
        """Count *count* recorded spans that were lost in another process."""
        self.started += count
        self.ended += count
        self.dropped += count

    def drain(self) -> list[Any]:
        """Take out every span."""
        # First: it may collect garbage, and a finalizer may drain this buffer.
        fresh: list[Any] = []
        if not compiled:
            # Not by a new deque: another thread may be between reading this one and appending to it.
            for _ in range(len(self._spans)):
                try:
                    fresh.append(self._spans.popleft())
                except IndexError:  # another thread drains it too
                    break
            return fresh
        spans: list[Any] = drained() if WITHOUT_GIL else self._spans
        self._spans = fresh
        return spans

    def take(self) -> list[Any]:
        """Take out every span, to be settled."""
        spans = self.drain()
        self.taken += len(spans)
        if WITHOUT_GIL:
            allow(0, True)  # takes back the room that threads have got, with which they would pass the mark unseen
        return spans

    def settle(self, count: int) -> None:
        """Count *count* spans as taken no longer."""
        self.taken -= count

    def counts(self) -> tuple[int, int, int, int, int]:
        """Return started, ended, dropped, unsampled and waiting, of one moment."""
        if WITHOUT_GIL:
            return (
                self.started + count_of(0),
                self.ended + count_of(1),
                self.dropped,
                self.unsampled + count_of(2),
                waiting(),
            )
        return self.started, self.ended, self.dropped, self.unsampled, len(self._spans)

    def __len__(self) -> int:
        if WITHOUT_GIL:
            count: int = waiting()
            return count
        return len(self._spans)


if not compiled and not HAS_GIL:
    for _name in ("reset", "start", "end", "lose", "drain", "take", "settle", "counts"):
        setattr(Buffer, _name, indivisible(getattr(Buffer, _name)))

_buffer = Buffer()
buffer = _buffer
if WITHOUT_GIL:
    share(_buffer)
