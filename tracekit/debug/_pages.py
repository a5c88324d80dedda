"""The table of pages, and the index that lists them. A page is one module with a ``PAGE``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from . import _events, _loop, _requests, _tasks
from ._view import Markup, Page, Request, markup

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES: Final[dict[str, Page]] = {page.name: page for page in (_requests.PAGE, _events.PAGE, _tasks.PAGE, _loop.PAGE)}


class _Index:
    """The list of all pages."""

    def json(self) -> dict[str, Any]:
        return {"pages": [{"name": page.name, "title": page.title, "summary": page.summary} for page in PAGES.values()]}

    def text(self) -> Iterator[str]:
        for page in PAGES.values():
            yield f"{page.name:<12}{page.summary}"

    def html(self) -> Iterator[Markup]:
        yield Markup('<ul class="index">')
        for page in PAGES.values():
            yield markup('<li><a href="{}">{}</a> <span>{}</span></li>', page.name, page.title, page.summary)
        yield Markup("</ul>")


def _index(_: Request) -> _Index:
    return _Index()


INDEX: Final = Page("", "tracekit", "all pages", _index)
