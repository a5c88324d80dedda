"""Trace Starlette and FastAPI applications, all or single ones, without a change to the program.

``Starlette.__call__`` and ``FastAPI.__call__`` are replaced, once. The replacement calls the application's middleware,
which it keeps in the application's ``__dict__``: made for the one application by ``instrument(app)``, or at its first
request if all are traced. So it does not matter whether the application's own middleware has been built.
"""

from __future__ import annotations

import copy
import functools
import sys
from typing import TYPE_CHECKING, Any, Final

from .. import current_span
from ._asgi_scope import SPAN_KEY
from ._http import report
from ._patch import Patches

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["instrument", "uninstrument"]

_KEY: Final = "_tracekit"  # in the __dict__ of an application
_QUIET: Final = "_tracekit_quiet"  # in the __dict__ of FastAPI's telemetry
_MAX_ERRORS: Final = 8  # of an invalid request
_MAX_PLACE: Final = 128  # characters

_patches = Patches()
_patched: set[type] = set()
_default: Any = None  # the TraceMiddleware whose options hold for all applications
_objects = 0  # number of applications that are instrumented one by one


class _Installed:
    """The middleware of one application. *default* is the one that it was copied from, None for one of its own."""

    __slots__ = ("default", "middleware", "original")

    def __init__(self, default: Any, middleware: Any, original: Any) -> None:
        self.default = default
        self.middleware = middleware
        self.original = original  # the __call__ that the middleware calls; of another class, __call__ passes through


async def _no_app(scope: Any, receive: Any, send: Any) -> None:
    """Stand for the application in a middleware that is copied for each one."""


def instrument(middleware_class: Any, target: Any, options: Mapping[str, Any]) -> None:
    """Trace *target*, or all applications; ``asgi.instrument()`` documents it."""
    global _default, _objects
    middleware = middleware_class(_no_app, **options)
    middleware.has_lifespan = True
    if target is None:
        import starlette.applications  # noqa: F401

        _default = _default or middleware
    else:
        _check(target)
        installed = vars(target).get(_KEY)
        if installed is not None and installed.default is None:
            return
        vars(target)[_KEY] = _Installed(None, middleware, None)
        _objects += 1
    _patch()


def uninstrument(target: Any) -> None:
    """Undo ``instrument()`` with the same target."""
    global _default, _objects
    if target is None:
        _default = None
    else:
        _check(target)
        installed = vars(target).get(_KEY)
        if installed is None or installed.default is not None:
            return
        del vars(target)[_KEY]
        _objects -= 1
    if _default is None and not _objects:
        _patches.restore()
        _patched.clear()


def _check(target: Any) -> None:
    starlette = sys.modules.get("starlette.applications")
    if starlette is None or not isinstance(target, starlette.Starlette):
        raise TypeError(
            f"target must be a Starlette or FastAPI application, not {type(target).__name__}; put TraceMiddleware "
            "around other ASGI applications"
        )


def _patch() -> bool:
    """Replace what is not yet replaced of the frameworks that are imported; return whether there was anything."""
    before = len(_patched)
    for module, name in (("starlette.applications", "Starlette"), ("fastapi.applications", "FastAPI")):
        kind = getattr(sys.modules.get(module), name, None)
        if kind is None or kind in _patched:
            continue
        _patched.add(kind)
        if "__call__" in vars(kind):
            _patches.replace(kind, "__call__", _traced)
        if name == "FastAPI":
            exceptions = sys.modules.get("fastapi.exceptions")
            for error in ("RequestValidationError", "WebSocketRequestValidationError"):
                if hasattr(exceptions, error):
                    _patches.replace(getattr(exceptions, error), "__init__", _noted)
            telemetry = sys.modules.get("fastapi.telemetry._asgi")
            if telemetry is not None and hasattr(telemetry, "NativeTelemetry"):
                _patches.replace(telemetry.NativeTelemetry, "__call__", _without_tracing)
    return len(_patched) > before


def _traced(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def __call__(self: Any, scope: Any, receive: Any, send: Any) -> None:  # noqa: N807
        installed = self.__dict__.get(_KEY)
        if installed is None or installed.original is None or (installed.default or _default) is not _default:
            installed = _install(self, original, installed)
        if installed is None or installed.original is not original:
            await original(self, scope, receive, send)
        else:
            await installed.middleware(scope, receive, send)

    return __call__


def _install(app: Any, original: Callable[..., Any], installed: _Installed | None) -> _Installed | None:
    """Return what *app* is served with: the middleware of its own, or a copy of the one for all, or None."""
    if installed is None or installed.default is not None:
        if _default is None:
            return None
        installed = _Installed(_default, copy.copy(_default), None)
        # If FastAPI was imported after instrument(), the next request passes FastAPI.__call__ first.
        if not _patch():
            vars(app)[_KEY] = installed
        kind = type(_default)
        for middleware in getattr(app, "user_middleware", ()):
            if isinstance(middleware.cls, type) and issubclass(middleware.cls, kind):
                installed.original = _no_app  # the program's own middleware traces it
    if installed.original is None:
        installed.original = original
        installed.middleware.app = functools.partial(original, app)
    return installed


def _noted(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        original(self, *args, **kwargs)
        if not _patches.is_active:
            return
        try:
            span = current_span()
            if span is not None and span.is_recording:
                errors = self.errors()
                places = [
                    f"{'.'.join(map(str, error['loc']))}: {error['type']}"[:_MAX_PLACE]
                    for error in errors[:_MAX_ERRORS]
                ]
                span.add_event("validation_error", {"errors": len(errors), "places": places})
        except Exception as error:
            report(error)

    return __init__


def _without_tracing(original: Callable[..., Any]) -> Callable[..., Any]:
    """Have FastAPI's telemetry record metrics and logs alone for a request that has our span."""

    @functools.wraps(original)
    async def __call__(self: Any, **arguments: Any) -> None:  # noqa: N807
        try:
            if SPAN_KEY in arguments["scope"] and _patches.is_active:
                quiet = vars(self).get(_QUIET)
                if quiet is None:
                    quiet = copy.copy(self)
                    quiet.config = {**self.config, "tracing": False}
                    vars(self)[_QUIET] = quiet
                self = quiet
        except Exception as error:  # another version
            report(error)
        await original(self, **arguments)

    return __call__
