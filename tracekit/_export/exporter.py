"""The exporter protocols: how the pipeline hands over finished spans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._core.records import Account
    from .._core.span import Span


class Exporter(Protocol):
    """A destination of finished spans. Both methods are called from one thread, never at the same time.

    An exporter that holds spans for longer than a call may also have the methods of ``HoldingExporter``.
    """

    def export(self, spans: Sequence[Span]) -> None:
        """Take *spans*, at most a batch; raise if they could not be delivered, and they are counted as failed."""

    def shutdown(self) -> None:
        """Release the exporter's resources; no call follows."""


class HoldingExporter(Exporter, Protocol):
    """An exporter that holds spans for longer than a call. Each of these methods is optional.

    An exception in one of them is logged and otherwise ignored.
    """

    def flush(self, timeout_s: float) -> bool:
        """Deliver the held spans within *timeout_s*; return whether that is done. In the thread of ``export``."""

    def account(self) -> Account:
        """Return the fate of the spans taken so far. Called in the thread of ``export``, after every other call.

        A result other than an ``Account`` of ints of at least 0 is ignored.
        """

    def start(self) -> None:
        """Prepare for the first spans. Called by ``configure()`` in its thread; must return at once."""

    def hurry(self) -> None:
        """Stop waiting for retries: the program ends. Called in any thread during ``export``; must return at once."""


class PreparingExporter(Exporter, Protocol):
    """An exporter that prepares spans, so that they can be freed, before it delivers many at once.

    ``export(spans)`` is the same as ``deliver([prepare(spans)])``. *prepared_export* is the exporter's own ``export``:
    where a subclass has another one, or the program has replaced that of the object or class, that is called instead.

    With a method ``encoder(batch_size)`` that returns an ``Encoder`` (``_core/otlp.py``), spans are encoded in the threads
    that end them, and ``prepare`` also gets runs of them.
    """

    @property
    def prepared_export(self) -> Callable[[Sequence[Span]], None]: ...

    def prepare(self, spans: Sequence[Span]) -> object:
        """Return *spans*, at most a batch, in another form, without waiting. Raise if they cannot be delivered."""

    def deliver(self, parcels: list[Any]) -> None:
        """Deliver the spans of *parcels*, a batch or fewer; raise if all are lost, and they are counted as failed."""
