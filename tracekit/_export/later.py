"""An exporter that is made when the first spans are exported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._core.records import Account
from .exporter import account_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._core.span import Span
    from .exporter import Exporter


class LaterExporter:
    """Makes its exporter with *make* in the thread that exports, before the first spans.

    ``tracekit run`` configures in the middle of an import of the program's. The exporter's own libraries may be half
    imported there: the thread that exports waits for such an import. A child of a fork makes its own exporter, unless the
    parent had one. While *make* returns None, spans count as failed.
    """

    def __init__(self, make: Callable[[], Exporter | None]) -> None:
        self._make = make
        self._exporter: Exporter | None = None

    def export(self, spans: Sequence[Span]) -> None:
        """Hand *spans* over."""
        if self._exporter is None:
            self._exporter = self._make()
            start = getattr(self._exporter, "start", None)
            if start is not None:
                start()
        if self._exporter is None:
            raise RuntimeError("there is no exporter")
        self._exporter.export(spans)

    def flush(self, timeout_s: float) -> bool:
        """Have the exporter deliver the spans that it holds."""
        flush = getattr(self._exporter, "flush", None)
        return True if flush is None else bool(flush(timeout_s))

    def account(self) -> Account:
        """Return the exporter's account."""
        return Account() if self._exporter is None else account_of(self._exporter)

    def hurry(self) -> None:
        """Have the exporter stop waiting for retries."""
        hurry = getattr(self._exporter, "hurry", None)
        if hurry is not None:
            hurry()

    def shutdown(self) -> None:
        """Close the exporter, if there is one."""
        if self._exporter is not None:
            self._exporter.shutdown()
