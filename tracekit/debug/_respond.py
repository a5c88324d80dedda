"""Responses to requests for pages, for any server: checks, routes, formats, headers."""

from __future__ import annotations

import os
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode

from .._export.notices import Notices, describe
from .._render import printable
from . import _events, _loop, _requests, _tasks
from ._access import SECURITY_HEADERS, Access, Gate, Visitor
from ._view import Markup, Pace, Page, Request, json_chunks, markup

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ._view import View

# The table of pages; a page is one module with a ``PAGE``.
PAGES: Final[dict[str, Page]] = {page.name: page for page in (_requests.PAGE, _events.PAGE, _tasks.PAGE, _loop.PAGE)}

_HEADERS: Final = (*SECURITY_HEADERS, ("Cache-Control", "no-store"))
_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "json": "application/json",
    "text": "text/plain; charset=utf-8",
}
_STATIC: Final = {"debug.css": "css", "debug.js": "js"}
_MAX_QUERY: Final = 4096
_MAX_ARGUMENTS: Final = 32

_notices = Notices()
_files: dict[str, bytes] = {}


class Response(NamedTuple):
    """A response of HTTP; ``headers`` include Content-Length and Content-Type."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def respond(gate: Gate, visitor: Visitor, path: str, query: str) -> Response:
    """Return the response to *visitor* for *path*, which is "" or starts with "/", below the mount. Never raises."""
    try:
        access = gate.check(visitor)
        if not isinstance(access, Access):
            allowed = [("Allow", "GET, HEAD")] if access.status == 405 else []
            return _plain(access.status, access.reason, allowed)
        return _route(access, visitor, path, query)
    except Exception as error:  # a defect of a page must not reach the program
        _notices.say("error", type(error), "a debug page failed: %s (reported once per cause)", describe(error))
        return _plain(500, f"the page failed: {describe(error)}")


def _route(access: Access, visitor: Visitor, path: str, query: str) -> Response:
    """Return the page, static file or error that is at *path*."""
    if path == "":  # links are relative to the folder
        return _plain(308, "moved", [("Location", quote(visitor.path.rpartition("/")[2]) + "/")])
    name = path[1:]
    if name.startswith("static/"):
        return _static(name.removeprefix("static/"))
    page = _INDEX if name == "" else PAGES.get(name)
    if page is None:
        return _plain(404, "there is no such page")
    if len(query) > _MAX_QUERY:
        return _plain(414, f"the query must be at most {_MAX_QUERY} characters")
    arguments: dict[str, str] = {}
    try:
        for key, value in parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_ARGUMENTS):
            arguments.setdefault(key, value)
    except ValueError:
        return _plain(400, f"the query must have at most {_MAX_ARGUMENTS} arguments")
    shows_sensitive = access.sensitive is True and arguments.get("show_sensitive") != "0"
    request = Request(arguments, shows_sensitive, Pace())
    kind = arguments.get("format") or _preferred(visitor.headers.get("accept", ""))
    if kind not in ("html", "json", "text"):
        return _plain(400, "format must be html, json or text")
    view = page.view(request)
    chunks = [chunk.encode("utf-8", "replace") for chunk in _chunks(kind, page, view, request)]
    return _response(200, _TYPES[kind], b"".join(chunks))


class _Index:
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


_INDEX: Final = Page("", "tracekit", "all pages", lambda _: _Index())


def _preferred(accept: str) -> str:
    """Return the format for an ``Accept``: the first known type; HTML only where it is named, as browsers do."""
    known = {"text/html": "html", "application/json": "json", "text/plain": "text"}
    for item in accept[:1024].split(","):
        found = known.get(item.partition(";")[0].strip().lower())
        if found is not None:
            return found
    return "text"


def _chunks(kind: str, page: Page, view: View, request: Request) -> Iterable[str]:
    if kind == "json":
        yield from json_chunks(view.json(), request.pace)
    elif kind == "text":
        for line in view.text():
            request.pace()
            yield printable(line, 1 << 20)
            yield "\n"
    else:
        yield _head(page)
        for piece in view.html():
            request.pace()
            yield piece
        others = [f"?{urlencode({**request.arguments, 'format': other})}" for other in ("json", "text")]
        yield markup(
            '</main><footer>process {} · <a href="{}">JSON</a> · <a href="{}">text</a></footer></body></html>',
            os.getpid(),
            *others,
        )


def _head(page: Page) -> Markup:
    links = [
        markup(
            '<a href="{}"{}>{}</a>', other.name, Markup(' aria-current="page"' if other is page else ""), other.title
        )
        for other in PAGES.values()
    ]
    return markup(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>{} · tracekit</title>'
        '<link rel="stylesheet" href="static/debug.css"><link rel="icon" href="data:,">'
        '<script src="static/debug.js" defer></script></head>'
        '<body><header><a class="home" href="./">tracekit</a><nav>{}</nav></header><main><h1>{}</h1>',
        page.title,
        Markup("".join(links)),
        page.title,
    )


def _static(name: str) -> Response:
    if name not in _STATIC:
        return _plain(404, "there is no such file")
    if name not in _files:
        _files[name] = files(__package__).joinpath("static", name).read_bytes()
    return _response(200, _TYPES[_STATIC[name]], _files[name])


def _plain(status: int, line: str, more: Iterable[tuple[str, str]] = ()) -> Response:
    return _response(status, _TYPES["text"], f"{printable(line, 400)}\n".encode("utf-8", "replace"), more)


def _response(status: int, type: str, body: bytes, more: Iterable[tuple[str, str]] = ()) -> Response:
    return Response(status, [*_HEADERS, *more, ("Content-Type", type), ("Content-Length", str(len(body)))], body)
