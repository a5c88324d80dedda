"""What an exporter is: the protocol between the pipeline and where finished spans go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._core.span import Span

__all__ = ["Exporter"]


class Exporter(Protocol):
    """Where finished spans go. Both methods are called from one thread, never at the same time.

    An exporter that holds spans for longer than a call may have more. ``flush(timeout_s)``, from the same
    thread, delivers them and tells whether it did. ``account()`` returns an ``Account`` of those that it took, and is asked after
    each call. ``start()`` is called by ``configure()`` and ``hurry()``, which says that the end is near and ``export()`` is to
    wait for nothing any more, by ``shutdown()``; neither may take time.
    """

    def export(self, spans: Sequence[Span]) -> None:
        """Take *spans*, a batch at most; raise where they could not be delivered: they are counted as failed."""

    def shutdown(self) -> None:
        """Release what the exporter holds; no call follows."""
