"""OpenTelemetry's API on tracekit: libraries that are instrumented for it make tracekit's spans, in tracekit's traces.

    tracekit.configure(service="shop", exporter=...)
    tracekit.bridges.opentelemetry.install()

From then on ``opentelemetry.trace``, ``context``, ``baggage`` and ``propagate`` work on tracekit's spans, scopes, labels
and formats, and both APIs can be mixed. Needs ``tracekit-async[otel]``. docs/opentelemetry.md lists the differences to the SDK.
"""

from __future__ import annotations

import sys
from operator import attrgetter
from typing import Any

from opentelemetry import baggage as _baggage
from opentelemetry import context as _context
from opentelemetry import propagate as _propagate
from opentelemetry import trace as _trace
from opentelemetry.context.context import Context

from .. import _configure
from .._core.guard import acts_as, ask
from .._core.log import log
from .._export.threads import EXPORT_CONTEXT
from ._opentelemetry.entry import LazyRuntimeContext
from ._opentelemetry.processors import Processors
from ._opentelemetry.propagator import Propagator
from ._opentelemetry.provider import TracerProvider
from ._opentelemetry.replaced import Span
from ._opentelemetry.runtime import RUNTIME, RuntimeContext, attach, detach, get_current, set_baggage
from ._opentelemetry.spans import OtelSpan
from ._opentelemetry.tracer import OtelTracer, get_current_span, use_span

__all__ = ["OtelSpan", "OtelTracer", "Propagator", "RuntimeContext", "TracerProvider", "install", "uninstall"]

_api_set_tracer_provider: Any = getattr(_trace, "_set_tracer_provider", None)

# What install() replaced: a module, a name, ours and the one before.
_replaced: list[tuple[Any, str, Any, Any]] = []
_provider: TracerProvider | None = None
_programs_own: TracerProvider | None = None  # which the program has set since
_in_export: Any = None  # the token of the keys in the Context of tracekit's exporter


def install(replace_sdk: bool = False) -> TracerProvider:
    """Put tracekit under OpenTelemetry's API, and return the TracerProvider in use. Safe to call again.

    Works before and after libraries have got their tracers, and whichever provider was set before. *replace_sdk* also
    puts ``TracerProvider`` into ``opentelemetry.sdk.trace``, for programs that make their own and set it, and a ``Span``
    whose methods may be replaced. The SDK's own provider gets no spans of tracers that are made later, which is logged.
    """
    global _provider
    installed = _provider
    if installed is None:
        made = TracerProvider()
        before = getattr(_trace, "_TRACER_PROVIDER", None)
        with Processors._lock:  # which is held for no import: another thread may wait for it in one
            if _provider is None:
                _provider = made
                _put_in_place(made)
            installed = _provider
        if installed is made:
            _report_unused(before)
            made.cover_native_spans(True)
    if replace_sdk:
        import opentelemetry.sdk.trace as sdk

        with Processors._lock:
            # Another thread may have uninstalled it meanwhile.
            if _provider is not None and not any(module is sdk for module, *_ in _replaced):
                _replace(sdk, "TracerProvider", TracerProvider)
                _replace(sdk, "Span", Span)
    return _programs_own or installed


def _put_in_place(provider: TracerProvider) -> None:
    global _in_export
    earlier = getattr(_context, "_RUNTIME_CONTEXT", None)
    if not isinstance(earlier, LazyRuntimeContext | RuntimeContext):
        RUNTIME.fallback = earlier
    _replace(_context, "_RUNTIME_CONTEXT", RUNTIME)
    _replace(_trace, "_TRACER_PROVIDER", provider)
    if hasattr(_trace, "_TRACER_PROVIDER_SET_ONCE"):
        _replace(_trace._TRACER_PROVIDER_SET_ONCE, "_done", True)
    else:
        _warn_without("_TRACER_PROVIDER_SET_ONCE")
    _replace(_trace, "_set_tracer_provider", _set_tracer_provider)
    _replace(_propagate, "_HTTP_TEXT_FORMAT", Propagator())
    for function in attach, detach, get_current:
        _replace(_context, function.__name__, function)
    _replace(_baggage, "set_baggage", set_baggage)
    _replace(_trace, "use_span", use_span)
    _replace(_trace, "get_current_span", get_current_span)
    _in_export = EXPORT_CONTEXT.run(_suppress)


def uninstall() -> None:
    """Put back what ``install()`` replaced, unless it was replaced again since."""
    global _in_export, _programs_own, _provider
    with Processors._lock:
        provider, own, token = _provider, _programs_own, _in_export
        _in_export = _programs_own = _provider = None
        while _replaced:
            module, name, ours, before = _replaced.pop()
            if getattr(module, name, None) is ours:
                setattr(module, name, before)
        if token is not None:
            EXPORT_CONTEXT.run(RUNTIME.detach, token)
    if own is not None:
        own.hook_native_spans(False)
    if provider is not None:
        provider.cover_native_spans(False)
        _configure.use_generator(None)


def _set_tracer_provider(tracer_provider: Any, log: bool) -> None:
    """Take the program's own ``TracerProvider`` in place of the installed one, once, unless that one has processors.

    Takes the place of the function behind ``opentelemetry.trace.set_tracer_provider()``. The processors of the program's
    own also get the spans of ``tracekit.span()``, and of the tracers that libraries have already. Any other provider gets
    no spans, which is logged.
    """
    global _programs_own
    own = _inner(tracer_provider)
    with Processors._lock:  # of two threads, one is the first
        installed = _provider
        is_in_use = installed is not None and getattr(_trace, "_TRACER_PROVIDER", None) is installed
        if is_in_use and tracer_provider is installed:
            return
        gives_way = is_in_use and isinstance(own, TracerProvider) and not getattr(installed, "_processors", None)
        gives_way = gives_way and _programs_own is None
        if gives_way:
            _programs_own = own
            _replace(_trace, "_TRACER_PROVIDER", tracer_provider)
    if installed is not None and gives_way:
        installed.hook_native_spans(False)
        own.hook_native_spans(True)
    else:
        _api_set_tracer_provider(tracer_provider, log)
        if own is not _programs_own:
            _report_unused(tracer_provider)


def _inner(provider: Any) -> Any:
    """Return *provider* or, if it is a proxy such as logfire's or Temporal's, the one with the processors behind it."""
    if _processor_of(provider) is None:
        for each in ask(lambda proxy: list(vars(proxy).values()), provider, ()):
            if acts_as(each, _trace.TracerProvider) and _processor_of(each) is not None:
                return each
    return provider


def _processor_of(provider: Any) -> Any:
    return ask(attrgetter("_active_span_processor"), provider)


def _report_unused(provider: Any) -> None:
    """Log that *provider*, which the program made, gets no spans, if it has processors that would wait for them."""
    if ask(attrgetter("_span_processors"), _processor_of(_inner(provider))):
        log(
            "warning",
            "the processors of the program's TracerProvider get no spans of tracers that are made now, because tracekit's "
            "is installed: call install(replace_sdk=True) before the program imports the SDK's, or give its exporter to "
            "tracekit.configure()",
        )


def _suppress() -> Any:
    """Have instrumentations leave the calls of an exporter alone, and return the token."""
    names = ("_SUPPRESS_INSTRUMENTATION_KEY", "_SUPPRESS_HTTP_INSTRUMENTATION_KEY")
    keys = [getattr(_context, name) for name in names if hasattr(_context, name)]
    return RUNTIME.attach(Context({**RUNTIME.get_current(), **dict.fromkeys(keys, True)}))


def _replace(module: Any, name: str, value: Any) -> None:
    """Set a name of OpenTelemetry's that is private, or warn that this version of it has none."""
    if not hasattr(module, name):
        _warn_without(name)
        return
    _replaced.append((module, name, value, getattr(module, name)))
    setattr(module, name, value)


def _warn_without(name: str) -> None:
    message = "opentelemetry has no %s: this version of its API is newer than tracekit %s knows, update tracekit"
    log("warning", message, name, sys.modules["tracekit"].__version__)
