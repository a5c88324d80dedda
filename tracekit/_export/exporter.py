"""What an exporter is: the protocol between the pipeline and where finished spans go."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Protocol

from .._core.records import Account

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._core.span import Span

__all__ = ["Exporter", "HoldingExporter", "account_of"]


class Exporter(Protocol):
    """Where finished spans go. Both methods are called from one thread, never at the same time.

    An exporter that holds spans for longer than a call, or sends them elsewhere later, may also have methods of
    ``HoldingExporter``.
    """

    def export(self, spans: Sequence[Span]) -> None:
        """Take *spans*, a batch at most; raise where they could not be delivered: they are counted as failed."""

    def shutdown(self) -> None:
        """Release what the exporter holds; no call follows."""


class HoldingExporter(Exporter, Protocol):
    """An exporter that holds spans for longer than a call. Each of these methods is optional.

    An exception in one of them is logged, and changes nothing else.
    """

    def flush(self, timeout_s: float) -> bool:
        """Deliver what is held, for at most *timeout_s*; return whether that is done. Called from the thread of ``export``."""

    def account(self) -> Account:
        """Return what became of the spans taken so far. Called after each other method, from the same thread.

        An answer that is no ``Account`` of ints from 0 up is ignored.
        """

    def start(self) -> None:
        """Prepare for the first spans. Called by ``configure()``, in its thread; must not take time."""

    def hurry(self) -> None:
        """Stop waiting for retries: the program ends. Called in any thread, while ``export`` may run; must not take time."""


def account_of(exporter: Exporter) -> Account:
    """Return the account that *exporter* gives, empty where it has none to give; raises if it is not of ints from 0 up."""
    account = getattr(exporter, "account", None)
    if account is None:
        return Account()
    numbers = [int.__int__(operator.index(number)) for number in Account(*account())]
    if min(numbers) < 0:
        raise ValueError(f"must be 0 or more: {min(numbers)}")
    return Account(*numbers)
