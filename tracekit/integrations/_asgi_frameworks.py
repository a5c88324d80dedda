"""The patches of Starlette, FastAPI and Django for ``asgi.instrument()``."""

from __future__ import annotations

import copy
import functools
import sys
from typing import TYPE_CHECKING, Any, Final

from .. import current_span
from ._applications import Applications
from ._asgi_scope import SPAN_KEY
from ._http import report

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._patch import Patches

DJANGO: Final = "django.core.handlers.asgi"

_QUIET: Final = "_tracekit_quiet"  # in the __dict__ of FastAPI's telemetry
_MAX_ERRORS: Final = 8  # of an invalid request
_MAX_PLACE: Final = 128  # characters


def watch_django() -> None:
    """Call ``watch_django()`` of WSGI if Django is imported; its module is not loaded otherwise."""
    if "django.core.handlers.base" in sys.modules:
        from ._wsgi_frameworks import watch_django

        watch_django()


def _traced(applications: Applications, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def __call__(self: Any, scope: Any, receive: Any, send: Any) -> None:  # noqa: N807
        middleware = applications.find(self, original)
        if middleware is None:
            await original(self, scope, receive, send)
        else:
            await middleware(scope, receive, send)

    return __call__


def _patch(patches: Patches, kind: type) -> None:
    if kind.__name__ == "ASGIHandler":
        watch_django()
    if kind.__name__ == "OpenTelemetryMiddleware":
        patches.replace(kind, "__call__", functools.partial(_passed, patches))
    if kind.__name__ != "FastAPI":
        return
    exceptions = sys.modules.get("fastapi.exceptions")
    for name in ("RequestValidationError", "WebSocketRequestValidationError"):
        if error := getattr(exceptions, name, None):
            patches.replace(error, "__init__", functools.partial(_noted, patches))
    if telemetry := getattr(sys.modules.get("fastapi.telemetry._asgi"), "NativeTelemetry", None):
        patches.replace(telemetry, "__call__", functools.partial(_without_tracing, patches))


def _noted(patches: Patches, original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        original(self, *args, **kwargs)
        if not patches.is_active:
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


def _without_tracing(patches: Patches, original: Callable[..., Any]) -> Callable[..., Any]:
    """Have FastAPI's telemetry make no spans for tracekit for a request that has one; metrics and logs stay.

    Spans for another tracer provider stay, too.
    """

    @functools.wraps(original)
    async def __call__(self: Any, **arguments: Any) -> None:  # noqa: N807
        try:
            if patches.is_active and SPAN_KEY in arguments["scope"] and _is_ours(self.config["tracer_provider"]):
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


def _passed(patches: Patches, original: Callable[..., Any]) -> Callable[..., Any]:
    """Have Starlette's telemetry make no span for tracekit for a request that has one."""

    @functools.wraps(original)
    async def __call__(self: Any, scope: Any, receive: Any, send: Any) -> None:  # noqa: N807
        try:
            is_traced = patches.is_active and SPAN_KEY in scope and _is_ours(self._tracer_provider)
        except Exception as error:  # another version
            report(error)
            is_traced = False
        await (self.app(scope, receive, send) if is_traced else original(self, scope, receive, send))

    return __call__


def _is_ours(provider: Any) -> bool:
    if provider is None or type(provider).__name__ == "ProxyTracerProvider":  # which asks for the one in use
        provider = sys.modules["opentelemetry.trace"].get_tracer_provider()
    return type(provider).__module__.startswith("tracekit.")


APPLICATIONS: Final = Applications(
    "Starlette, FastAPI or Django (ASGIHandler)",
    (
        ("starlette.applications", "Starlette"),
        ("fastapi.applications", "FastAPI"),
        (DJANGO, "ASGIHandler"),
    ),
    _traced,
    _patch,
    (("starlette.middleware.opentelemetry", "OpenTelemetryMiddleware"),),
)
