"""``/debug/requests``: the requests of this process by family."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ._view import Markup, Page, Request

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PAGE"]


class _Requests:
    def json(self) -> dict[str, Any]:
        return {"families": []}

    def text(self) -> Iterator[str]:
        yield "no requests yet"

    def html(self) -> Iterator[Markup]:
        yield Markup("<p>no requests yet</p>")


def _view(_: Request) -> _Requests:
    return _Requests()


PAGE: Final = Page("requests", "Requests", "active and finished requests by family, latency and error", _view)
