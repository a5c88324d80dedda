"""OpenTelemetry's ``TracerProvider`` over tracekit."""

from __future__ import annotations

import atexit
import os
import time
from typing import TYPE_CHECKING, Any

from opentelemetry import trace as _trace

from ... import _configure
from ..._arguments import bounded_timeout
from ..._core.log import log
from ..._core.records import NO_ATTRIBUTES, Instrumentation
from .contexts import attributes_of, plain_attributes
from .metrics import span_metrics
from .processors import Processors
from .samplers import RandomIds, limits_in_environment, limits_of, part_limits_of, sampler_in_use, sampler_of
from .spans import keep_resource, resource_of, text_of
from .tracer import OtelTracer, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["TracerProvider"]


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
            changes["resource"] = given = attributes_of(getattr(resource, "attributes", None)) or {}
            keep_resource(given, resource)
        if sampler is not None:
            changes["sampler"] = sampler_of(sampler)
        bounds = limits_in_environment() if span_limits is None else span_limits
        if bounds is not None:
            usual = _configure.tracer_in_use().limits
            changes["limits"], changes["parts"] = limits_of(bounds, usual), part_limits_of(bounds, usual)
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
        return sampler_in_use(_configure.tracer_in_use()) if given is None else given

    @property
    def _active_span_processor(self) -> Any:
        # Read by libraries although it is private.
        return self._processors if self._given_processor is None else self._given_processor

    @property
    def id_generator(self) -> Any:
        """The source of ids that was given, or one of random ids."""
        return RandomIds() if self._given_generator is None else self._given_generator

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
        if instrumenting_module_name in ("", None) and instrumenting_module_name not in self._reported_names:
            self._reported_names.add(instrumenting_module_name)
            log("error", "get_tracer() was called without a name (%r)", instrumenting_module_name)
        items = plain_attributes(attributes)
        name, version, url = (
            "" if part is None else str.__str__(text_of(part))
            for part in (instrumenting_module_name, instrumenting_library_version, schema_url)
        )
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
        if not self._processors and self._shuts_down_on_exit:
            atexit.register(self._processors.shutdown)
        self._processors.add(span_processor)
        if "hooks" not in self._changes:
            # Into the tracers in use, too: the end of a span that is open now is of interest to the processor.
            changes = {**self._changes, "hooks": self._processors}
            if self._settings.changes is self._changes:
                self._settings.changes = changes
                for tracer in list(self._tracers.values()):
                    tracer._hook(self._processors)
            self._changes = changes
        if self._covers_native and not self._is_disabled:
            _configure.use_hooks(self._processors)

    def cover_native_spans(self, covers: bool) -> None:
        """Have the processors called for the spans of ``tracekit.span()`` too, from now on, or no longer.

        The tracers of a provider that does so are the tracer in use: without exporters and processors, nothing is recorded.
        """
        self._covers_native = covers
        self._settings.changes = {} if covers else self._changes
        if self._processors and not self._is_disabled:
            _configure.use_hooks(self._processors if covers else None)

    def give_way_to(self, other: TracerProvider) -> bool:
        """Have *other*'s processors called for the spans of ``tracekit.span()``, and return True; False if this one has some.

        Tracers of this provider remain the tracer in use, and so have *other*'s processors; those of *other* keep its
        resource and its sampler.
        """
        if self._processors:
            return False
        other._covers_native = True
        if other._processors and not other._is_disabled:
            _configure.use_hooks(other._processors)
        return True

    def _update_resource(self, resource: Any) -> None:
        """Merge *resource* into that of the spans from now on, as the SDK's provider does for configurators."""
        merged = self.resource.merge(resource)
        self._given_resource = merged
        given = attributes_of(merged.attributes) or {}
        keep_resource(given, merged)
        is_own = self._settings.changes is self._changes
        self._changes = {**self._changes, "resource": given}
        if is_own:
            self._settings.changes = self._changes

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
