"""OpenTelemetry's ``Tracer`` and ``TracerProvider`` over tracekit."""

from __future__ import annotations

import atexit
import functools
import inspect
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry import trace as _trace
from opentelemetry.trace import SpanKind

from ... import _configure
from ..._core.context import Link, face_of_context, set_context_face
from ..._core.labels import NO_LABELS
from ..._core.log import log
from ..._core.records import NO_ATTRIBUTES, Instrumentation
from ..._core.scopes import current_context
from ..._core.span import ROOT, span_scope, start_span
from .contexts import attributes_of, link_of, plain_attributes, relabelled
from .processors import Processors
from .runtime import SPAN_KEY, span_of
from .samplers import RandomIds, limits_of, sampler_in_use, sampler_of
from .spans import KIND_NAMES, OtelSpan, face, keep_resource, leave, resource_of, scope_of, text_of, time_of

if TYPE_CHECKING:
    from opentelemetry.context.context import Context

    from ..._core.tracer import Tracer

__all__ = ["OtelTracer", "TracerProvider"]

_Links = Sequence[Any] | None
_NO_CHANGES: dict[str, Any] = {}


class OtelTracer(_trace.Tracer):
    """OpenTelemetry's Tracer of one library."""

    def __init__(self, library: Instrumentation, provider: TracerProvider) -> None:
        self.instrumentation = library
        self._provider = provider
        self._derived: tuple[Any, Any, Any] = (None, None, None)

    @property
    def instrumentation_scope(self) -> Any:
        """The library, in the SDK's class where it can be imported."""
        return scope_of(self)  # type: ignore[arg-type]

    _instrumentation_scope = instrumentation_scope  # read by libraries although it is private

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        kind = getattr(sys.modules.get("opentelemetry.sdk.trace"), "Tracer", None)
        return kind if isinstance(kind, type) else type(self)

    @property
    def resource(self) -> Any:
        """The resource of the provider."""
        return self._provider.resource

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Any = None,
        links: _Links = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> OtelSpan:
        """Start a span, child of *context*'s span or of the current one; the caller ends it."""
        tracer = self._tracer()
        span = start_span(
            tracer,
            text_of(name),
            KIND_NAMES[kind] if isinstance(kind, SpanKind) else "internal",
            attributes_of(attributes),
            _targets(links) if links else (),
            None if context is None else _parent(context),
            time_of(start_time),
        )
        made = face(span)
        if not record_exception or not set_status_on_exception:
            made.records_exception, made.sets_status = bool(record_exception), bool(set_status_on_exception)
        if tracer.hooks is not None and span.is_recording:
            tracer.hooks.started(span, context)
        return made

    def start_as_current_span(  # type: ignore[override]
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Any = None,
        links: _Links = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> CurrentSpan:
        """Return a context manager in which a new span is current; it is also a decorator, of coroutine functions too."""
        arguments = (
            name,
            context,
            kind,
            attributes,
            links,
            start_time,
            record_exception,
            set_status_on_exception,
        )
        return CurrentSpan(self, arguments, bool(end_on_exit))

    def _tracer(self) -> Tracer:
        made_from, changed_by, derived = self._derived
        in_use = _configure.tracer_in_use()
        changes = self._provider.changes()
        if made_from is not in_use or changed_by is not changes:
            derived = in_use.replace(instrumentation=self.instrumentation, **changes)
            self._derived = in_use, changes, derived
        made: Tracer = derived
        return made


def _targets(links: Any) -> tuple[Link, ...]:
    try:
        found = [link_of(link) for link in links]
    except Exception:  # not a sequence
        return ()
    return tuple([Link(target, attributes) for target, attributes in filter(None, found)])


def _parent(context: Any) -> Any:
    """Return the parent that *context* names, with the labels in force here: a parent brings no baggage along."""
    span, parent = span_of(context.get(SPAN_KEY)) if isinstance(context, dict) else (None, None)
    here = current_context()
    labels = None if here is None else here.labels or None
    if parent is None:
        return ROOT if labels is None else relabelled(None, labels)
    if (parent.labels or None) is labels:
        return parent if span is None else span
    copy = parent.replace(labels=NO_LABELS if labels is None else labels)
    set_context_face(copy, face_of_context(parent))
    return copy


class CurrentSpan:
    """Starts a span and makes it current: for ``with``, and as a decorator for every call of a function."""

    __slots__ = ("_arguments", "_ends", "_face", "_scope", "_tracer")

    def __init__(self, tracer: OtelTracer, arguments: tuple[Any, ...], ends: bool) -> None:
        self._tracer = tracer
        self._arguments = arguments  # of start_span()
        self._ends = ends

    def __enter__(self) -> OtelSpan:
        self._face = self._tracer.start_span(*self._arguments)
        self._scope: Any = span_scope(self._face.tracekit_span)
        self._scope.__enter__()
        return self._face

    def __exit__(self, kind: Any, exc: BaseException | None, traceback: Any) -> None:
        started = self._face
        span = started.tracekit_span
        self._scope.__exit__(None, None, None)
        if exc is not None:
            leave(span, exc, records=started.records_exception, sets_status=started.sets_status)
        if self._ends and not span.ended:
            span.end()

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def traced_coroutine(*args: Any, **kwargs: Any) -> Any:
                with CurrentSpan(self._tracer, self._arguments, self._ends):
                    return await function(*args, **kwargs)

            return traced_coroutine

        @functools.wraps(function)
        def traced(*args: Any, **kwargs: Any) -> Any:
            with CurrentSpan(self._tracer, self._arguments, self._ends):
                return function(*args, **kwargs)

        return traced


class TracerProvider(_trace.TracerProvider):
    """OpenTelemetry's TracerProvider. Spans go to the exporter of ``tracekit.configure()`` and to the processors.

    Takes the SDK's arguments. *sampler* decides about new traces only. *id_generator* and other arguments of the SDK's
    are ignored, with one warning.
    """

    def __init__(
        self,
        sampler: Any = None,
        resource: Any = None,
        shutdown_on_exit: bool = True,
        active_span_processor: Any = None,
        id_generator: Any = None,
        span_limits: Any = None,
        **ignored: Any,
    ) -> None:
        self._is_disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
        self._given_sampler = sampler
        self._given_resource = resource
        self._shuts_down_on_exit = shutdown_on_exit
        self._processors = Processors()
        self._tracers: dict[Any, OtelTracer] = {}
        self._covers_native = False
        # Spans are recorded and have the hooks from the start: their end is of interest to a processor added meanwhile.
        self._changes: dict[str, Any] = {"recording": True, "hooks": self._processors}
        if resource is not None:
            self._changes["resource"] = given = attributes_of(getattr(resource, "attributes", None)) or {}
            keep_resource(given, resource)
        if sampler is not None:
            self._changes["sampler"] = sampler_of(sampler)
        if span_limits is not None:
            self._changes["limits"] = limits_of(span_limits, _configure.tracer_in_use().limits)
        names = sorted(name for name, value in {"id_generator": id_generator, **ignored}.items() if value is not None)
        if names:
            log("warning", "tracekit's TracerProvider ignores %s", ", ".join(names))
        self._given_processor = active_span_processor
        if active_span_processor is not None:
            self.add_span_processor(active_span_processor)

    @property
    def resource(self) -> Any:
        """The resource that was given, or that of ``tracekit.configure()``."""
        given = self._given_resource
        return resource_of(_configure.tracer_in_use().resource) if given is None else given

    @property
    def sampler(self) -> Any:
        """The sampler that was given, or that of ``tracekit.configure()``."""
        given = self._given_sampler
        return sampler_in_use(_configure.tracer_in_use()) if given is None else given

    @property
    def _active_span_processor(self) -> Any:
        # Read by libraries although it is private.
        return self._processors if self._given_processor is None else self._given_processor

    @property
    def id_generator(self) -> RandomIds:
        """A source of random ids."""
        return RandomIds()

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> _trace.Tracer:
        """Return the tracer of a library; the same one for the same arguments."""
        if self._is_disabled:
            return _trace.NoOpTracer()
        items = plain_attributes(attributes)
        name, version, url = (
            str(part or "") for part in (instrumenting_module_name, instrumenting_library_version, schema_url)
        )
        key = (name, version, url, repr(sorted(items.items(), key=lambda item: item[0])))
        tracer = self._tracers.get(key)
        if tracer is None:
            library = Instrumentation(name, version, url, items or NO_ATTRIBUTES)
            tracer = self._tracers.setdefault(key, OtelTracer(library, self))
        return tracer

    def add_span_processor(self, span_processor: Any) -> None:
        """Call *span_processor* at the start and the end of every recorded span.

        It runs where the span starts and ends, as in OpenTelemetry, so a slow one slows the program; its exceptions are
        logged. The processors of the installed provider also get the spans of ``tracekit.span()``.
        """
        if not self._processors and self._shuts_down_on_exit:
            atexit.register(self._processors.shutdown)
        self._processors.add(span_processor)
        if self._covers_native and not self._is_disabled:
            _configure.use_hooks(self._processors)

    def cover_native_spans(self, covers: bool) -> None:
        """Have the processors called for the spans of ``tracekit.span()`` too, from now on, or no longer."""
        self._covers_native = covers
        if self._processors and not self._is_disabled:
            _configure.use_hooks(self._processors if covers else None)

    def changes(self) -> dict[str, Any]:
        """Return the settings in which this provider's tracers differ from the tracer in use.

        A provider that covers the native spans has none: without exporters and processors, nothing is recorded.
        """
        return _NO_CHANGES if self._covers_native else self._changes

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Flush the processors and tracekit's exporter; return whether all was exported in time."""
        deadline = time.monotonic() + timeout_millis / 1000
        is_done = self._processors.force_flush(timeout_millis)
        return _configure.flush(max(0.0, deadline - time.monotonic())) and is_done

    def shutdown(self) -> None:
        """Shut the processors down and, where this provider is the installed one, tracekit's exporter."""
        atexit.unregister(self._processors.shutdown)
        self._processors.shutdown()
        if self._covers_native:
            _configure.shutdown()
