# cython: nonecheck=True
"""OpenTelemetry's ``Tracer`` over tracekit, ``start_as_current_span()`` and ``use_span()``."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace as _trace
from opentelemetry.trace import INVALID_SPAN, SpanKind

from ..._core.context import Link
from ..._core.records import KINDS
from ..._core.span import ROOT, Span
from ...cython import binding, cclass, compiled, final, freelist, no_gc_clear
from .contexts import link_of
from .runtime import SPAN_KEY
from .spans import KIND_NAMES, OtelSpan, info_of, scope_of, sdk_class, text_of

if not compiled:
    from ..._core.guard import is_a
    from ..._core.interpreter import is_finalizing, lent
    from ..._core.scopes import SPAN, close_scope, current_context, current_span, make_scope, open_in_body
    from ..._core.span import start_with, tracer_in_use
    from .contexts import attributes_of, relabelled
    from .runtime import context_of, value_of
    from .spans import face, is_ours, leave, time_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.context.context import Context

    from ..._core.records import Instrumentation
    from ..._core.scopes import Scope
    from ..._core.tracer import Tracer

_INTERNAL: Final = KINDS[0]
_SPAN_KINDS: Final = tuple([kind for name in KINDS for kind, known in KIND_NAMES.items() if known == name])
_api_use_span: Final = _trace.use_span
_api_get_current_span: Final = _trace.get_current_span


@final
@binding(False)
@cclass
class Settings:
    """What distinguishes the tracers of a provider from the tracer in use; the provider replaces ``changes``."""

    if not compiled:
        changes: dict[str, Any]


@final
@binding(False)
@cclass
class OtelTracer:
    """OpenTelemetry's Tracer of one library."""

    if not compiled:
        instrumentation: Instrumentation
        _provider: Any
        _settings: Settings
        _metrics: Any
        _config: Any  # of the provider's configurator
        _is_off: bool
        _derived: tuple[Any, Any, Any]

    def __init__(self, library: Instrumentation, provider: Any, settings: Settings, metrics: Any = None) -> None:
        self.instrumentation = library
        self._provider = provider
        self._settings = settings
        self._metrics = metrics
        self._config = None
        self._is_off = False
        self._derived = (None, None, None)

    @property
    def instrumentation_scope(self) -> Any:
        """The library, in the SDK's class where it can be imported."""
        return scope_of(self)  # type: ignore[arg-type]

    @property
    def _instrumentation_scope(self) -> Any:
        return self.instrumentation_scope  # read by libraries although it is private

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return _tracer_class()

    @property
    def resource(self) -> Any:
        """The resource of the provider."""
        return self._provider.resource

    @property
    def sampler(self) -> Any:
        """The sampler of the provider."""
        return self._provider.sampler

    @property
    def id_generator(self) -> Any:
        """The source of ids of the provider."""
        return self._provider.id_generator

    @property
    def span_processor(self) -> Any:
        """The span processors of the provider, as one."""
        return self._provider._active_span_processor

    @property
    def instrumentation_info(self) -> Any:
        """The library as the SDK's deprecated class, which warns."""
        return info_of(self.instrumentation_scope)

    def _hook(self, hooks: Any) -> None:
        """Call *hooks* for the spans of this tracer from now on, the open ones included."""
        if self._derived[2] is not None:
            self._derived[2].hook(hooks)

    @property
    def _tracer_config(self) -> Any:
        if self._config is None:
            return sdk_class("opentelemetry.sdk.trace", "_TracerConfig")(is_enabled=True)
        return self._config

    def _set_tracer_config(self, config: Any) -> None:
        """Follow *config*, the SDK's ``_TracerConfig``, or None: a tracer that is off makes the invalid span."""
        self._is_off = config is not None and not config.is_enabled
        self._config = config

    def _is_enabled(self) -> bool:
        return not self._is_off

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Any = None,
        links: Sequence[Any] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> OtelSpan:
        """Start a span, child of *context*'s span or of the current one; the caller ends it."""
        if self._is_off:
            return INVALID_SPAN  # type: ignore[return-value]
        made = _start(self, name, context, kind, attributes, links, start_time)
        if not record_exception or not set_status_on_exception:
            made._records, made._sets = bool(record_exception), bool(set_status_on_exception)
        return made

    _start_span = start_span  # under a name that a proxy passes on

    def start_as_current_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Any = None,
        links: Sequence[Any] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> CurrentSpan:
        """Return a context manager in which a new span is current; it is also a decorator, of coroutine functions too."""
        if self._is_off:
            return _api_use_span(INVALID_SPAN)  # type: ignore[return-value]
        options = None
        if (
            context is not None
            or attributes is not None
            or links is not None
            or start_time is not None
            or kind is not _SPAN_KINDS[0]
        ):
            options = (context, kind, attributes, links, start_time)
        return _current_span(
            self, None, name, options, bool(record_exception), bool(set_status_on_exception), bool(end_on_exit)
        )


_tracer_classes: dict[type, type] = {}  # by the class that they extend


def _tracer_class() -> type:
    """Return the class that an ``OtelTracer`` names as its own: one of the SDK's tracers, once the SDK is loaded.

    Wrappers call its methods with themselves in place of the tracer (openinference's ``OITracer``), which those of a
    compiled class reject.
    """
    kind = getattr(sys.modules.get("opentelemetry.sdk.trace"), "Tracer", None)
    base = kind if isinstance(kind, type) else _trace.Tracer
    made = _tracer_classes.get(base)
    if made is None:
        methods = {"start_span": _start_span_of, "start_as_current_span": _start_as_current_span_of}
        made = _tracer_classes[base] = type(base)("OtelTracer", (base,), {"__module__": __name__, **methods})
    return made


def _start_span_of(self: Any, *args: Any, **kwargs: Any) -> Any:
    return self._start_span(*args, **kwargs)


def _start_as_current_span_of(
    self: Any,
    name: str,
    context: Any = None,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Any = None,
    links: Any = None,
    start_time: int | None = None,
    record_exception: bool = True,
    set_status_on_exception: bool = True,
    end_on_exit: bool = True,
) -> Any:
    made = self.start_span(
        name, context, kind, attributes, links, start_time, record_exception, set_status_on_exception
    )  # a wrapper's
    return _trace.use_span(made, end_on_exit, record_exception, set_status_on_exception)


def _tracer_of(self: OtelTracer) -> Tracer:
    """Return the tracer in use with the changes of the provider and the library."""
    derived = self._derived
    in_use = tracer_in_use()
    changes = self._settings.changes
    if derived[0] is not in_use or derived[1] is not changes:
        derived = (in_use, changes, in_use.replace(instrumentation=self.instrumentation, **changes))
        self._derived = derived
    return derived[2]  # type: ignore[no-any-return]


def _start(
    self: OtelTracer, name: Any, context: Any, kind: Any, attributes: Any, links: Any, start_time: Any
) -> OtelSpan:
    tracer = _tracer_of(self)
    if type(name) is not str:
        name = str.__str__(text_of(name))
    span = start_with(
        tracer,
        name,
        _INTERNAL if kind is _SPAN_KINDS[0] else _kind_name(kind),
        None if attributes is None else attributes_of(attributes),
        () if links is None else _targets(links),
        None if context is None else _parent(context),
        None if start_time is None else time_of(start_time),
    )
    made = face(span)
    if tracer.hooks is not None and span._is_recorded:
        tracer.hooks.started(span, context)
    if self._metrics is not None:
        self._metrics.started(made, context)
    return made


def _kind_name(kind: Any) -> str:
    for number in range(5):
        if kind is _SPAN_KINDS[number]:
            return KINDS[number]
    return _INTERNAL


def _targets(links: Any) -> tuple[Link, ...]:
    try:
        found = [link_of(link) for link in links]
    except Exception:  # not a sequence
        return ()
    return tuple([Link(target[0], target[1]) for target in found if target is not None])


def _parent(context: Any) -> Any:
    """Return the parent that *context* names, with the labels in force here: a parent brings no baggage along."""
    given = value_of(context, SPAN_KEY) if is_a(context, dict) else None
    here = current_context()
    labels = None if here is None else here._labels
    if is_ours(given):
        made = given
        span = made.tracekit_span
        parent = span.context
        return span if parent._labels is labels else relabelled(parent, labels)
    parent = None if given is None else context_of(given)  # type: ignore[assignment]
    if parent is None:
        return ROOT if labels is None else relabelled(None, labels)
    return relabelled(parent, labels)


@final
@no_gc_clear  # for __dealloc__(); a cycle goes through a Context, or through an object of the program's
@freelist(64)
@binding(False)
@cclass
class CurrentSpan:
    """Makes a span current that it starts, or one that it is given: for ``with``, and as a decorator of functions.

    If it is deallocated while the span is current, it exits, as OpenTelemetry's own does.
    """

    if not compiled:
        __slots__ = (
            "_ends",
            "_given",
            "_made",
            "_name",
            "_options",
            "_outer",
            "_records",
            "_scope",
            "_sets",
            "_tracer",
        )

        _given: OtelSpan | None
        _made: OtelSpan | None  # while it is current
        _scope: Scope | None
        _outer: CurrentSpan | None  # the state before a second entry, until that one is left
        _tracer: Any  # None where a span is given
        _name: Any
        # Of start_span(), from the context to the start time, where one is not the default.
        _options: tuple[Any, ...] | None
        _records: bool
        _sets: bool
        _ends: bool

    def __enter__(self) -> OtelSpan:
        if self._scope is not None:
            _set_aside(self)
        made = self._given
        if made is None:
            options = self._options
            if options is None:
                made = _start(self._tracer, self._name, None, _SPAN_KINDS[0], None, None, None)
            else:
                made = _start(self._tracer, self._name, options[0], options[1], options[2], options[3], options[4])
            made._records, made._sets = self._records, self._sets
            scope = make_scope(SPAN, made.tracekit_span, made.tracekit_span.context, None)
        else:
            scope = _scope_of(made.tracekit_span)
        self._made, self._scope = made, scope
        open_in_body(scope)
        return made

    def __exit__(self, kind: Any, exc: BaseException | None, traceback: Any) -> None:
        made = self._made
        scope = self._scope
        outer = self._outer
        if outer is None:
            self._made = self._scope = None
        else:
            self._made, self._scope, self._outer = outer._made, outer._scope, outer._outer
            outer._made = outer._scope = outer._outer = None
        if made is None or scope is None:
            return
        span = made.tracekit_span
        close_scope(scope)
        try:
            if exc is not None:
                leave(made, exc, self._records, self._sets, False)
        finally:  # a signal handler may raise there
            if self._ends and type(made) is not OtelSpan:
                made.end()
            elif self._ends and not span._has_ended:
                span._end(None)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return _decorated(self, function)

    def __dealloc__(self) -> None:
        while self._scope is not None and not is_finalizing():
            self.__exit__(None, None, None)


if not compiled:

    def _finalize(self: CurrentSpan, is_finalizing: Callable[[], bool] = is_finalizing) -> None:
        # Not one made by CurrentSpan.__new__() alone, nor at the interpreter's end: modules may be empty by then.
        if hasattr(self, "_scope") and not is_finalizing():
            self.__dealloc__()

    CurrentSpan.__del__ = _finalize  # type: ignore[attr-defined]


def _current_span(
    tracer: Any, given: Any, name: Any, options: Any, records: bool, sets: bool, ends: bool
) -> CurrentSpan:
    current = CurrentSpan.__new__(CurrentSpan)
    if not compiled:
        current._made = current._scope = current._outer = None
    current._tracer, current._given, current._name, current._options = tracer, given, name, options
    current._records, current._sets, current._ends = records, sets, ends
    return current


def _again(current: CurrentSpan) -> CurrentSpan:
    return _current_span(
        current._tracer, current._given, current._name, current._options, current._records, current._sets, current._ends
    )


def _set_aside(current: CurrentSpan) -> None:
    """Keep the span and the scope of *current*, which is entered again inside itself, until it is left once."""
    outer = _again(current)
    outer._made, outer._scope, outer._outer = current._made, current._scope, current._outer
    current._outer = outer


class _Steps(contextlib.ContextDecorator):
    """Decorates generator functions as Python's own does for the SDK: from 3.15 on, the span lasts until the last step."""

    def __init__(self, current: CurrentSpan) -> None:
        self._current = current

    def _recreate_cm(self) -> Any:
        return _again(self._current)


def _decorated(current: CurrentSpan, function: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def traced_coroutine(*args: Any, **kwargs: Any) -> Any:
            with _again(current):
                return await function(*args, **kwargs)

        return traced_coroutine
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return _Steps(current)(function)

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with _again(current):
            return function(*args, **kwargs)

    return traced


def _scope_of(span: Span) -> Scope:
    """Return a scope, not yet open, in which *span* is current with the labels in force here."""
    here = current_context()
    return make_scope(SPAN, span, relabelled(span.context, None if here is None else here._labels), None)


def use_span(
    span: Any, end_on_exit: bool = False, record_exception: bool = True, set_status_on_exception: bool = True
) -> Any:
    """Return a context manager in which *span* is current; it is also a decorator.

    Takes the place of ``opentelemetry.trace.use_span()``, which does the same by ``attach()`` and a generator, and still
    handles the spans of other implementations.
    """
    if not is_ours(span):
        return _api_use_span(span, end_on_exit, record_exception, set_status_on_exception)
    return _current_span(
        None, span, None, None, bool(record_exception), bool(set_status_on_exception), bool(end_on_exit)
    )


def get_current_span(context: Any = None) -> Any:
    """Return the span of *context*, or the current one.

    Takes the place of ``opentelemetry.trace.get_current_span()``, which makes the whole Context of each scope for this.
    """
    if context is None:
        span = current_span()
        if type(span) is Span:
            native = span
            made = lent(native._face)
            if made is not None:
                return made
    return _api_get_current_span(context)


_trace.Tracer.register(OtelTracer)
