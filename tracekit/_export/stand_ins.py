"""Exporters in place of the configured one: for taps alone, until it is made, and while spans are lent to a test."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from .._core.records import Account

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._core.span import Span
    from .exporter import Exporter


class Discard:
    """The exporter where none is configured but taps are: spans count as sampled out."""

    def __init__(self) -> None:
        self._count = 0

    def export(self, spans: Sequence[Span]) -> None:
        """Discard *spans*."""
        self._count += len(spans)

    def account(self) -> Account:
        """Return the number of discarded spans."""
        return Account(unsampled=self._count)

    def shutdown(self) -> None:
        """Do nothing."""


class LaterExporter:
    """Stands for the exporter that *make* returns: the thread that exports calls it before the first spans, or *at_once*.

    ``tracekit run`` configures in the middle of an import of the program's. The exporter's own libraries may be half
    imported there: the thread that exports waits for such an import. The pipeline puts the exporter in the place of this
    one. A child of a fork makes its own exporter, unless the parent had one. While *make* returns None, spans count as
    failed.
    """

    def __init__(self, make: Callable[[], Exporter | None], *, at_once: bool = False) -> None:
        self.make = make
        self.at_once = at_once

    def export(self, spans: Sequence[Span]) -> None:
        """Raise: *spans* are for the exporter."""
        raise RuntimeError("there is no exporter")

    def shutdown(self) -> None:
        """Do nothing: no exporter was made."""


class Instead:
    """Passes spans to *exporter*; the account and the shutdown stay those of *owner*."""

    def __init__(self, exporter: Exporter, owner: Exporter) -> None:
        self.export = exporter.export
        self.shutdown = owner.shutdown
        for name in ("account", "hurry"):
            if hasattr(owner, name):
                setattr(self, name, getattr(owner, name))


def account_of(exporter: Exporter) -> Account:
    """Return the checked account of *exporter*, an empty one without the method; raise if it is not valid."""
    account = getattr(exporter, "account", None)
    if account is None:
        return Account()
    numbers = [int.__int__(operator.index(number)) for number in Account(*account())]
    if min(numbers) < 0:
        raise ValueError(f"must be 0 or more: {min(numbers)}")
    return Account(*numbers)
