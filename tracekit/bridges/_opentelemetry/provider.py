"""OpenTelemetry's ``TracerProvider`` over tracekit."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from opentelemetry import trace as _trace

from ... import _configure
from ..._arguments import bounded_timeout
from ..._core.log import log
from ..._core.records import NO_ATTRIBUTES, Instrumentation
from ..._foreign import ForeignSampler
from ..._forks import call_in_child
from ..._instrument import traced_twice
from ..._resource import renew
from .contexts import attributes_of, plain_attributes
from .processors import Processors, span_metrics
from .spans import keep_form, resource_of, sdk_class, text_of
from .tracer import OtelTracer, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..._core.records import Limits
    from ..._core.tracer import Tracer


class TracerProvider(_trace.TracerProvider):
    """OpenTelemetry's TracerProvider. Spans go to the exporter of ``tracekit.configure()`` and to the processors.

    Takes the SDK's arguments. *sampler* decides about new traces only. *id_generator* makes the ids of the whole process,
    those of ``tracekit.span()`` too, unless ``tracekit.configure()`` was given one. Other arguments of the SDK's are
    ignored, with one warning.
    """

    def __init__(
        self,
        sampler: Any = None,
        resource: Any = None,
        shutdown_on_exit: bool = True,
        active_span_processor: Any = None,
        id_generator: Any = None,
        span_limits: Any = None,
        *,
        meter_provider: Any = None,
        _tracer_configurator: Any = None,
        **ignored: Any,
    ) -> None:
        self._is_disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
        self._given_sampler = sampler
        self._given_resource = resource
        self._shuts_down_on_exit = shutdown_on_exit
        self._processors = Processors()
        self._tracers: dict[Any, OtelTracer] = {}
        self._covers_native = False
        self._configurator = _tracer_configurator
        self._reported_names: set[str | None] = set()
        self._settings = Settings()
        changes: dict[str, Any] = {"recording": True}
        if resource is not None:
            self._detected = _detected()
            _with_resources.add(self)
            changes["resource"] = given = attributes_of(getattr(resource, "attributes", None)) or {}
            keep_form(given, resource)
        if sampler is not None:
            changes["sampler"] = ForeignSampler(sampler)
        self._given_limits = span_limits
        bounds = _limits_in_environment() if span_limits is None else span_limits
        if bounds is not None:
            usual = _configure.tracer_in_use().limits
            changes["limits"], changes["parts"] = _limits_of(bounds, usual), _part_limits_of(bounds, usual)
        self._settings.changes = self._changes = changes
        self._given_generator = id_generator
        if id_generator is not None:
            _configure.use_generator(id_generator)
        names = sorted(name for name, value in ignored.items() if value is not None)
        if names:
            log("warning", "tracekit's TracerProvider ignores %s", ", ".join(names))
        self._given_processor = active_span_processor
        if active_span_processor is not None:
            self.add_span_processor(active_span_processor)
        self._metrics = span_metrics(meter_provider)
        if self._metrics is not None:
            self.add_span_processor(self._metrics)

    @property
    def resource(self) -> Any:
        """The resource that was given, or that of ``tracekit.configure()``."""
        given = self._given_resource
        return resource_of(_configure.tracer_in_use().resource) if given is None else given

    @property
    def sampler(self) -> Any:
        """The sampler that was given, or that of ``tracekit.configure()``."""
        given = self._given_sampler
        return _sampler_in_use(_configure.tracer_in_use()) if given is None else given

    @sampler.setter
    def sampler(self, sampler: Any) -> None:
        self._given_sampler = sampler
        self._change_or_report("sampler", ForeignSampler(sampler))

    @property
    def id_generator(self) -> Any:
        """The source of ids that was given, or one of random ids."""
        return _RandomIds() if self._given_generator is None else self._given_generator

    @id_generator.setter
    def id_generator(self, id_generator: Any) -> None:
        self._given_generator = id_generator
        _configure.use_generator(id_generator)

    # Fields of the SDK's provider that libraries read, and some write, although they are private.

    @property
    def _resource(self) -> Any:
        return self.resource

    @_resource.setter
    def _resource(self, resource: Any) -> None:
        self._given_resource = resource
        given = attributes_of(resource.attributes) or {}
        keep_form(given, resource)
        self._change_or_report("resource", given)

    @property
    def _span_limits(self) -> Any:
        given = self._given_limits
        return sdk_class("opentelemetry.sdk.trace", "SpanLimits")() if given is None else given

    @property
    def _active_span_processor(self) -> Any:
        return self._processors if self._given_processor is None else self._given_processor

    @_active_span_processor.setter
    def _active_span_processor(self, processor: Any) -> None:
        self._given_processor = processor
        self._processors._span_processors = ()
        if processor is not None:
            self.add_span_processor(processor)

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the tracer of a library; the same one for the same arguments."""
        if self._is_disabled:
            return _trace.NoOpTracer()
        items = plain_attributes(attributes)
        name, version, url = (
            "" if part is None else str.__str__(text_of(part))
            for part in (instrumenting_module_name, instrumenting_library_version, schema_url)
        )
        given = None if instrumenting_module_name is None else name
        if not given and given not in self._reported_names:
            self._reported_names.add(given)
            log("error", "get_tracer() was called without a name (%r)", given)
        if name.startswith("opentelemetry.instrumentation."):
            self._report_twice(name)
        key = (name, version, url, repr(sorted(items.items(), key=lambda item: item[0])))
        tracer = self._tracers.get(key)
        if tracer is None:
            library = Instrumentation(name, version, url, items or NO_ATTRIBUTES)
            if len(self._tracers) >= 4096:  # a program that makes tracers without end
                self._tracers.clear()
            tracer = self._tracers.setdefault(key, OtelTracer(library, self, self._settings, self._metrics))
            if self._configurator is not None:
                self._configure_tracer(tracer)
        return tracer

    def _report_twice(self, name: str) -> None:
        """Log that an instrumentor asks for a tracer of a library that tracekit traces: that cannot be told before."""
        library = None if name in self._reported_names else traced_twice(name)
        if library is not None:
            self._reported_names.add(name)
            message = (
                "%s is traced twice, because the program has called %s after tracekit.instrument(): call that alone, or "
                "tracekit.uninstrument(%r) before the instrumentor (reported once)"
            )
            log("warning", message, library, name, library)

    def _set_tracer_configurator(self, *, tracer_configurator: Any) -> None:
        """Ask *tracer_configurator* about every tracer, as the SDK's provider does: it turns some of them off."""
        self._configurator = tracer_configurator
        for tracer in list(self._tracers.values()):
            self._configure_tracer(tracer)

    def _configure_tracer(self, tracer: OtelTracer) -> None:
        try:
            tracer._set_tracer_config(self._configurator(tracer.instrumentation_scope))
        except Exception:
            log("exception", "the configurator of tracers failed; %r is enabled", tracer.instrumentation.name)
            tracer._set_tracer_config(None)

    def add_span_processor(self, span_processor: Any) -> None:
        """Call *span_processor* at the start and the end of every recorded span.

        It runs where the span starts and ends, as in OpenTelemetry, so a slow one slows the program; its exceptions are
        logged. The processors of the installed provider also get the spans of ``tracekit.span()``.
        """
        with Processors._lock:
            if not self._processors and self._shuts_down_on_exit:
                atexit.unregister(self._processors.shutdown)  # where a library has taken the others out
                atexit.register(self._processors.shutdown)
            self._processors.add_span_processor(span_processor)
            is_first = "hooks" not in self._changes and self._change("hooks", self._processors)
        if is_first:
            # Into the tracers in use, too: the end of a span that is open now is of interest to the processor.
            for tracer in list(self._tracers.values()):
                tracer._hook(self._processors)
        if self._covers_native and not self._is_disabled:
            _configure.use_hooks(self._processors)

    def cover_native_spans(self, covers: bool) -> None:
        """Have the processors called for the spans of ``tracekit.span()`` too, from now on, or no longer.

        The tracers of a provider that does so are the tracer in use: without exporters and processors, nothing is recorded.
        """
        self._settings.changes = {} if covers else self._changes
        self.hook_native_spans(covers)

    def hook_native_spans(self, hooks: bool) -> None:
        """Call the processors for the spans of ``tracekit.span()`` too, from now on, or no longer."""
        self._covers_native = hooks
        if self._processors and not self._is_disabled:
            _configure.use_hooks(self._processors if hooks else None)

    def _update_resource(self, resource: Any) -> None:
        """Merge *resource* into that of the spans from now on, as the SDK's provider does for configurators."""
        if self._given_resource is None:  # that of configure() is renewed there, and no longer the one in use here
            self._detected = {"process.pid": os.getpid(), **_configure.detected()}
            _with_resources.add(self)
        self._resource = self.resource.merge(resource)

    def _renew_resource(self) -> None:
        # Not by the SDK's detectors: they run in threads, which a hook of a fork must not start.
        before = dict(self.resource.attributes)
        renewed = renew(before, self._detected)
        if renewed != before:
            self._update_resource(type(self.resource)(renewed))
            self._detected = {key: renewed[key] for key in self._detected if key in renewed}

    def _change(self, key: str, value: Any) -> bool:
        """Change how the spans of this provider differ from the others; return whether its tracers follow that now."""
        with Processors._lock:
            is_followed = self._settings.changes is self._changes
            self._changes = {**self._changes, key: value}
            if is_followed:
                self._settings.changes = self._changes
        return is_followed

    def _change_or_report(self, key: str, value: Any) -> None:
        """Change that, or log that it has no effect on the spans of the installed provider."""
        if not self._change(key, value):
            log("warning", "the %s of the installed TracerProvider is that of tracekit.configure()", key)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Flush the processors and tracekit's exporter; return whether all was exported in time.

        *timeout_millis* is as for ``tracekit.flush()``, in milliseconds.
        """
        millis = bounded_timeout(timeout_millis, 30000, "timeout_millis")
        deadline = time.monotonic() + millis / 1000
        is_done = self._processors.force_flush(millis)
        return _configure.flush(max(0.0, deadline - time.monotonic())) and is_done

    def shutdown(self) -> None:
        """Shut the processors down and, where this provider is the installed one, tracekit's exporter."""
        atexit.unregister(self._processors.shutdown)
        self._processors.shutdown()
        if self._covers_native:
            _configure.shutdown()


_with_resources: weakref.WeakSet[TracerProvider] = weakref.WeakSet()  # those that were given one


def _detected() -> dict[str, Any]:
    """Return the attributes that tell this process from others, as the SDK's detectors have them."""
    detector = getattr(sys.modules.get("opentelemetry.sdk.resources"), "ServiceInstanceIdResourceDetector", None)
    try:
        found = {} if detector is None else dict(detector().detect().attributes)
    except Exception:  # another version
        found = {}
    return {"process.pid": os.getpid(), **found}


def _after_fork() -> None:
    """Give the resources of providers the attributes of this process, the child of a fork."""
    Processors._lock = threading.RLock()
    for provider in list(_with_resources):
        try:
            provider._renew_resource()
        except Exception:  # a resource of another kind
            log("exception", "a TracerProvider's resource is still that of the process that forked")


call_in_child(_after_fork)


class _RandomIds:
    """OpenTelemetry's IdGenerator over the operating system's random numbers."""

    def generate_trace_id(self) -> int:
        return int.from_bytes(os.urandom(16)) or 1

    def generate_span_id(self) -> int:
        return int.from_bytes(os.urandom(8)) or 1

    def is_trace_id_random(self) -> bool:
        return True


def _sampler_in_use(tracer: Tracer) -> Any:
    """Return the sampler of *tracer*: where a fixed ratio decides, the SDK's with that ratio, or None without the SDK."""
    if tracer.sampler is not None:
        return tracer.sampler
    try:
        from opentelemetry.sdk.trace import sampling
    except ImportError:
        return None
    if not tracer.threshold:
        return sampling.DEFAULT_ON
    return sampling.ParentBased(sampling.TraceIdRatioBased(1 - tracer.threshold / 2**56))


def _limits_of(given: Any, usual: Limits) -> Limits:
    """Return the SDK's ``SpanLimits`` as tracekit's, with *usual* for the ones that tracekit alone has.

    None, a number without a limit, is the largest that ``tracekit.configure()`` takes; a length without a limit is the
    usual one.
    """
    length = getattr(given, "max_span_attribute_length", None)
    return usual._replace(
        attributes=_count(getattr(given, "max_span_attributes", None)),
        events=_count(getattr(given, "max_events", None)),
        links=_count(getattr(given, "max_links", None)),
        value_length=usual.value_length if length is None else _count(length),
    )


def _part_limits_of(given: Any, usual: Limits) -> tuple[int, int, int]:
    """Return the limits of the SDK's ``SpanLimits`` on the attributes of an event, of a link, and on their length."""
    length = getattr(given, "max_attribute_length", None)
    return (
        _count(getattr(given, "max_event_attributes", None)),
        _count(getattr(given, "max_link_attributes", None)),
        usual.value_length if length is None else _count(length),
    )


def _limits_in_environment() -> Any:
    """Return the SDK's ``SpanLimits`` where its variables are set and it can be imported, else None.

    A variable that is set to an empty text means no limit there, unlike for ``tracekit.configure()``.
    """
    if not any(name.startswith("OTEL_") and name.endswith("_LIMIT") for name in os.environ):
        return None
    try:
        from opentelemetry.sdk.trace import SpanLimits

        return SpanLimits()
    except (ImportError, ValueError):  # no SDK, or a variable that holds no number
        return None


def _count(limit: Any) -> int:
    return max(0, min(limit, 1 << 31)) if isinstance(limit, int) else 1 << 31
