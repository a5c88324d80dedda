"""The patches of Flask and Django for ``wsgi.instrument()``, and that of Django for the name of its route."""

from __future__ import annotations

import functools
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from ._applications import Applications
from ._http import report
from ._patch import Patches
from ._wsgi_environ import ROUTE_KEY

if TYPE_CHECKING:
    from collections.abc import Callable

_django: Final = Patches()


def watch_django() -> None:
    """Have Django note the route of a request in its environ or scope, for good; if it is not imported, do nothing."""
    if not _django.is_active:
        _watch(_django)


def _watch(patches: Patches) -> None:
    kind = getattr(sys.modules.get("django.core.handlers.base"), "BaseHandler", None)
    if kind is not None:
        patches.replace(kind, "resolve_request", _noting)


def _noting(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def resolve_request(self: Any, request: Any) -> Any:
        match = original(self, request)
        try:
            route = match.route if match.route.startswith("/") else f"/{match.route}"
            scope = getattr(request, "scope", None)  # of ASGI
            if scope is None:
                request.META[ROUTE_KEY] = route
            else:
                scope.setdefault("route", SimpleNamespace(path=route))  # as Starlette leaves one
        except Exception as error:  # another version
            report(error)
        return match

    return resolve_request


def _traced(applications: Applications, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def __call__(self: Any, environ: Any, start_response: Any) -> Any:  # noqa: N807
        middleware = applications.find(self, original)
        if middleware is None:
            return original(self, environ, start_response)
        return middleware(environ, start_response)

    return __call__


def _patch(patches: Patches, kind: type) -> None:
    if kind.__name__ == "WSGIHandler":
        _watch(patches)


APPLICATIONS: Final = Applications(
    "Flask or Django (WSGIHandler)",
    (("flask.app", "Flask"), ("django.core.handlers.wsgi", "WSGIHandler")),
    _traced,
    _patch,
)
