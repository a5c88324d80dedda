"""Span processors of OpenTelemetry as the hooks of a tracer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ..._arguments import bounded_timeout
from ..._core.log import log
from .spans import face

if TYPE_CHECKING:
    from ..._core.span import Span


class Processors:
    """The span processors of a provider, called in the order in which they were added.

    An exception of a processor is logged, once for each of its methods, and never reaches the program.
    """

    def __init__(self) -> None:
        self._span_processors: tuple[Any, ...] = ()  # as the SDK calls it: libraries read it although it is private
        self._reported: set[tuple[int, str]] = set()

    def __bool__(self) -> bool:
        return bool(self._span_processors)

    def add(self, processor: Any) -> None:
        """Call *processor* too from now on."""
        self._span_processors += (processor,)

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        """Call ``on_start``, for libraries that take this object for one processor."""
        for processor in self._span_processors:
            self._call(processor, "on_start", span, parent_context=parent_context)

    def on_end(self, span: Any) -> None:
        """Call ``on_end``, for libraries that take this object for one processor."""
        for processor in self._span_processors:
            self._call(processor, "on_end", span)

    def started(self, span: Span, parent: Any) -> None:
        """Call ``on_start``; *parent* is the OpenTelemetry Context that was given, or None."""
        self.on_start(face(span), parent)

    def ending(self, span: Span) -> None:
        """Call ``_on_ending``, which not every processor has; the span can still be changed."""
        for processor in self._span_processors:
            if hasattr(processor, "_on_ending"):
                self._call(processor, "_on_ending", face(span))

    def ended(self, span: Span) -> None:
        """Call ``on_end``."""
        self.on_end(face(span))

    def shutdown(self) -> None:
        """Shut all processors down."""
        for processor in self._span_processors:
            self._call(processor, "shutdown")

    def force_flush(self, timeout_millis: float = 30000) -> bool:
        """Flush all processors; return whether that was done in time. *timeout_millis* is as for the provider's."""
        deadline = time.monotonic() + bounded_timeout(timeout_millis, 30000, "timeout_millis") / 1000
        is_done = True
        for processor in self._span_processors:
            left = int((deadline - time.monotonic()) * 1000)
            if left <= 0:
                return False
            is_done = self._call(processor, "force_flush", left) is not False and is_done
        return is_done

    def _call(self, processor: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return getattr(processor, method)(*args, **kwargs)
        except Exception:
            key = (id(processor), method)
            if key not in self._reported:
                self._reported.add(key)
                log("exception", "%s.%s failed; further failures are not logged", type(processor).__name__, method)
            return False
