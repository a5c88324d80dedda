"""``/debug/events``: event logs of long-lived objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ._view import Markup, Page, Request

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PAGE"]


class _Events:
    def json(self) -> dict[str, Any]:
        return {"families": []}

    def text(self) -> Iterator[str]:
        yield "no event logs yet"

    def html(self) -> Iterator[Markup]:
        yield Markup("<p>no event logs yet</p>")


def _view(_: Request) -> _Events:
    return _Events()


PAGE: Final = Page("events", "Events", "event logs of long-lived objects: connections, workers", _view)
