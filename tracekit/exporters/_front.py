"""The parts that exporters have in common: those that hold spans, and those in front of another exporter."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .._arguments import bounded_timeout
from .._export.intake import valid_account
from .._export.threads import keep

if TYPE_CHECKING:
    from .._core.records import Account
    from .._core.span import Span
    from .._export.exporter import Exporter
    from .._export.notices import Notices


class Holder:
    """An exporter that holds spans, and begins anew in the child of a fork."""

    _pid = 0

    def _forget(self) -> None:
        """Reset all state: the parent process has its own spans, and locks may be held for ever."""
        raise NotImplementedError

    def _check_process(self) -> None:
        """Reset all state if the process is another one than at the last call; the first call, the constructor's, makes it."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._forget()


class Front(Holder):
    """Passes calls on to ``exporter``, where that has the method."""

    exporter: Exporter | None
    _notices: Notices
    _failed: int  # spans that ``exporter`` did not take
    _theirs: Account  # the last valid one of ``exporter``

    def _hand_over(self, exporter: Exporter, spans: list[Span]) -> None:
        """Have *exporter* export *spans*, which have failed if it raises: the exporting thread must survive."""
        count = len(spans)  # the exporter may change the list
        try:
            exporter.export(spans)
        except BaseException as error:
            keep(error)
            self._failed += count
            self._notices.lost(exporter, error, count)

    def _ask_account(self, exporter: Exporter) -> Account:
        """Return the account of *exporter*, or the previous one if it is not valid."""
        self._theirs = valid_account(exporter, self._notices, self._theirs)
        return self._theirs

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
