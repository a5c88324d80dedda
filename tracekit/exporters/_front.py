"""The parts that exporters in front of another exporter have in common."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .._arguments import bounded_timeout

if TYPE_CHECKING:
    from .._export.exporter import Exporter


class Front:
    """Passes calls on to ``exporter``, where that has the method, and begins anew in the child of a fork."""

    exporter: Exporter | None
    _pid = 0

    def _forget(self) -> None:
        """Reset all state: the parent process has its own spans, and locks may be held for ever."""
        raise NotImplementedError

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._forget()

    def start(self) -> None:
        """Start the exporter, if it can."""
        (getattr(self.exporter, "start", None) or _nothing)()

    def hurry(self) -> None:
        """Stop waiting for retries: hurry the exporter, if it can."""
        (getattr(self.exporter, "hurry", None) or _nothing)()

    def flush(self, timeout_s: float) -> bool:
        """Flush the exporter, if it can. *timeout_s* is as for ``tracekit.flush()``."""
        flush = getattr(self.exporter, "flush", None)
        return flush is None or bool(flush(bounded_timeout(timeout_s, 0.0)))


def _nothing() -> None:
    pass
