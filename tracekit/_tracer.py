"""``configure()`` and the life of the default tracer: flush, shutdown, statistics, exit, fork."""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from . import _propagation
from ._accel import Tracer, after_fork, current_context, set_tracer
from ._attributes import MISSING, clean
from ._current import use_context
from ._errors import clip
from ._records import Limits, Statistics
from ._sampling import AlwaysOff, AlwaysOn, Ratio, Sampler
from ._version import __version__

if TYPE_CHECKING:
    from ._accel import Span, SpanContext
    from ._pipeline import Pipeline
    from .wire import Format

__all__ = ["Exporter", "configure", "flush", "shutdown", "statistics"]

_pipeline: Pipeline | None = None
_in_use = Tracer()
_configured_in = 0  # the process that called configure() last


class Exporter(Protocol):
    """Where finished spans go. Both methods are called from one thread, never at the same time."""

    def export(self, spans: Sequence[Span]) -> None:
        """Take *spans*, at most 2048; raise where they could not be delivered: they are counted as failed."""

    def shutdown(self) -> None:
        """Release what the exporter holds; no call follows."""


def configure(
    *,
    service: str = "unknown_service",
    resource: Mapping[str, Any] | None = None,
    exporter: Exporter | None = None,
    sampler: AlwaysOn | AlwaysOff | Ratio | Sampler | None = None,
    formats: Sequence[Format] | None = None,
    limits: Limits | None = None,
    buffer_size: int = 16384,
    export_interval_s: float = 1.0,
) -> None:
    """Set up tracing for this process. Without it contexts propagate and nothing is recorded.

    The first call makes the trace current that ``TRACEPARENT``, ``TRACESTATE`` and ``BAGGAGE`` in the environment
    name, so that the program is part of the trace it was started by.

    Safe to call again: the earlier exporter first gets what it is owed, within 5 s; spans that are
    open go to the new one. *sampler* decides about new traces only (default: keep all). *formats* are
    read in order and all written (default: those that ``OTEL_PROPAGATORS`` names, or W3C). *buffer_size* counts finished spans that wait for
    export, at most *export_interval_s*; past it spans are dropped and counted.
    """
    if not isinstance(service, str):
        raise TypeError(f"service must be str, not {type(service).__name__}")
    if resource is not None and not isinstance(resource, Mapping):
        raise TypeError(f"resource must be a mapping, not {type(resource).__name__}")
    if isinstance(exporter, type):
        raise TypeError(f"exporter must be an instance, not the class {exporter.__name__}")
    if exporter is not None and not callable(getattr(exporter, "export", None)):
        raise TypeError(f"exporter must have export() and shutdown(), not {type(exporter).__name__}")
    if limits is not None and not isinstance(limits, Limits):
        raise TypeError(f"limits must be tracekit.Limits, not {type(limits).__name__}")
    for limit in limits or ():
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeError(f"limits must be ints, not {type(limit).__name__}")
        if not 0 <= limit <= 1 << 31:
            raise ValueError(f"limits must be 0 to {1 << 31}: {limit}")
    if isinstance(buffer_size, bool) or not isinstance(buffer_size, int):
        raise TypeError(f"buffer_size must be int, not {type(buffer_size).__name__}")
    if not 2 <= buffer_size <= 1 << 24:
        raise ValueError(f"buffer_size must be 2 to {1 << 24}: {buffer_size}")
    if isinstance(export_interval_s, bool) or not isinstance(export_interval_s, int | float):
        raise TypeError(f"export_interval_s must be a number, not {type(export_interval_s).__name__}")
    if not 0 < export_interval_s <= 3600:
        raise ValueError(f"export_interval_s must be above 0 and at most 3600: {export_interval_s}")
    global _configured_in
    chosen = _formats(formats)
    tracer = _tracer(sampler, exporter is not None, limits or Limits(), _resource(service, resource))
    _started().use(exporter, capacity=buffer_size, interval_s=export_interval_s, timeout_s=5.0)
    _propagation.use_formats(chosen)
    if not _configured_in:
        _join(_propagation.extract_environ(os.environ))
    _configured_in = os.getpid()
    _use(tracer)


def flush(timeout_s: float = 5.0) -> bool:
    """Export every span that has ended; return whether that was done within *timeout_s*."""
    return _started().flush(_seconds(timeout_s))


def shutdown(timeout_s: float = 5.0) -> bool:
    """Flush and close the exporter; return whether that was done within *timeout_s*. Runs at exit by itself."""
    return _started().shutdown(_seconds(timeout_s))


def statistics() -> Statistics:
    """Return where every span of this process went."""
    return _started().statistics()


@contextlib.contextmanager
def lend(exporter: Exporter) -> Iterator[None]:
    """Inside ``with``, record every trace for *exporter*; then go on as before."""
    before = _in_use
    lent = Tracer(recording=True, limits=before.limits, resource=before.resource or _resource("test", None))
    with _started().lend(exporter):
        _use(lent)
        try:
            yield
        finally:
            if _in_use is lent:
                _use(before)


def tracer_in_use() -> Tracer:
    """Return what new spans are made by."""
    return _in_use


def record_for_parent(tracer: Tracer) -> None:
    """In a worker process: record with *tracer*, and keep what is recorded until it goes back with a result.

    Where the worker has called ``configure()`` itself, that stands.
    """
    if _configured_in != os.getpid():
        _started().hold()
        _use(tracer)


def _join(context: SpanContext | None) -> None:
    """Make *context*, which started this process, current from here on, unless something is."""
    if context is not None and current_context() is None:
        use_context(context).__enter__()


def _use(tracer: Tracer) -> None:
    global _in_use
    _in_use = tracer
    set_tracer(tracer)


def _seconds(timeout_s: float) -> float:
    if not isinstance(timeout_s, int | float):
        raise TypeError(f"timeout_s must be a number, not {type(timeout_s).__name__}")
    return timeout_s


def _formats(formats: Sequence[Format] | None) -> Sequence[Format]:
    if formats is None:
        return _formats_of_environment()
    if isinstance(formats, str) or not isinstance(formats, Sequence):
        raise TypeError(f"formats must be a sequence of formats, not {type(formats).__name__}")
    for format in formats:
        if not (hasattr(format, "read") and hasattr(format, "write") and hasattr(format, "fields")):
            raise TypeError(f"formats must hold formats such as w3c.TRACECONTEXT, not {type(format).__name__}")
    return tuple(formats)


def _formats_of_environment() -> Sequence[Format]:
    names = os.environ.get("OTEL_PROPAGATORS", "")
    if not names.strip():
        return _propagation.DEFAULT_FORMATS
    found, unknown = _propagation.formats_named(names)
    if unknown:
        import logging

        known = "the others" if found else "none"
        logging.getLogger("tracekit").warning(
            "OTEL_PROPAGATORS names %s, which tracekit does not know; %s used",
            ", ".join(map(clip, unknown))[:400],
            known,
        )
    return tuple(found)


def _tracer(
    sampler: AlwaysOn | AlwaysOff | Ratio | Sampler | None,
    recording: bool,
    limits: Limits,
    resource: Mapping[str, Any],
) -> Tracer:
    if sampler is None:
        sampler = AlwaysOn()
    # A subclass may have a sample() of its own.
    if isinstance(sampler, AlwaysOn | AlwaysOff | Ratio) and type(sampler) in (AlwaysOn, AlwaysOff, Ratio):
        return Tracer(
            recording=recording,
            threshold=sampler.threshold,
            state=sampler.state,
            limits=limits,
            resource=resource,
        )
    if isinstance(sampler, type) or not callable(getattr(sampler, "sample", None)):
        raise TypeError(f"sampler must be a sampler such as tracekit.Ratio(0.1), not {type(sampler).__name__}")
    return Tracer(recording=recording, sampler=sampler, limits=limits, resource=resource)


def _resource(service: str, attributes: Mapping[str, Any] | None) -> Mapping[str, Any]:
    resource: dict[str, Any] = {
        "service.name": service,
        "telemetry.sdk.name": "tracekit",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.version": __version__,
    }
    for key, value in (attributes or {}).items():
        if not isinstance(key, str):
            raise TypeError(f"resource must have str keys, not {type(key).__name__}")
        plain, _ = clean(value, Limits().value_length)
        if plain is not MISSING:
            resource[key] = plain
    return MappingProxyType(resource)


def _started() -> Pipeline:
    """Return this process's pipeline, made when it is first needed; a program that only propagates never imports it."""
    global _pipeline
    if _pipeline is None:
        from ._pipeline import Pipeline

        _pipeline = Pipeline()
        atexit.register(shutdown)
        _pipeline.finish_in_child()
    return _pipeline


def _after_fork() -> None:
    after_fork()
    if _pipeline is not None:
        _pipeline.after_fork()


if hasattr(os, "register_at_fork"):
    # Needed without configure() too: the random words drawn ahead must not be the parent's.
    os.register_at_fork(after_in_child=_after_fork)
