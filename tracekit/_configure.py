"""``configure()`` and the life of the default tracer: flush, shutdown, statistics, exit, fork."""

from __future__ import annotations

import os
import sys
from _thread import RLock

from ._arguments import bounded_timeout, check_arguments, formats_of, names_right_keyword, sampler_of
from ._core import misuse
from ._core.context import set_ids
from ._core.scopes import context_scope, current_context
from ._core.span import after_fork, set_tracer
from ._core.stdlib import MappingProxyType
from ._core.tracer import Tracer
from ._forks import call_in_child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any, Literal, Never

    from ._arguments import OtelIds, OtelSampler
    from ._core.context import SpanContext
    from ._core.records import Limits, Statistics
    from ._core.span import Span
    from ._core.tracer import Hooks
    from ._environment import Environment
    from ._export.exporter import Exporter
    from ._export.pipeline import Pipeline
    from ._sampling import AlwaysOff, AlwaysOn, Ratio, Sampler
    from .wire import Format


_TIMEOUT_S = 5.0  # of flush() and shutdown(), and of the flush before another configure()

_pipeline: Pipeline | None = None
_configured = Tracer()
_hooks: Hooks | None = None
_in_use = _configured  # _configured with the hooks; records every trace if a tap asks for it
_is_disabled = False  # by the environment
_records_all = False  # for a tap
_generators: tuple[OtelIds | None, OtelIds | None] = None, None  # given to configure(), and to a bridge
_configured_in = 0  # the process that called configure() last
_detected: tuple[Tracer, Mapping[str, Any]] | None = None  # the one that configure() set, and its detected attributes
# One thread at a time changes these. Reentrant, and held for a few steps that run no user code: a signal handler or a
# finalizer may interrupt its holder.
_setting = RLock()


@names_right_keyword
def configure(
    *wrong: Never,
    service: str | None = None,
    resource: Mapping[str, Any] | None = None,
    exporter: Exporter | Literal["otlp", "sqlite", "console"] | None = None,
    sampler: AlwaysOn | AlwaysOff | Ratio | Sampler | OtelSampler | None = None,
    id_generator: OtelIds | None = None,
    formats: Sequence[Format | str] | None = None,
    limits: Limits | None = None,
    buffer_size: int | None = None,
    batch_size: int | None = None,
    export_interval_s: float | None = None,
    environ: Mapping[str, str] | None = None,
    strict: bool | None = None,
) -> None:
    """Set up tracing for this process. Without it contexts propagate and nothing is recorded.

    Arguments default to the ``OTEL_*`` variables of *environ* (default: ``os.environ``; ``{}`` for none), then to the
    values given here; docs/configuration.md lists them. An invalid variable is one warning, never an error.
    ``OTEL_SDK_DISABLED=true`` alone wins over arguments: nothing is recorded, contexts propagate.

    *service* is ``service.name`` of *resource* (default: "unknown_service"). *exporter* may be "otlp", "sqlite" or
    "console", which take their settings from *environ*; without one, nothing is recorded. *sampler* decides about new
    traces only (default: keep all); it and *id_generator* (default: random ids) may be OpenTelemetry's. *formats* are
    read in order and all written (default: W3C); names are those of ``OTEL_PROPAGATORS``. *limits* bound each span.
    With *strict*, wrong arguments on the program's path raise; otherwise each is left out and reported once.

    *buffer_size* finished spans (default: 16384, at most 2**24) wait for export, at most *export_interval_s* (default:
    1 s, at most 3600), and no more than as many again are being exported; further ones are dropped and counted. An
    exporter gets *batch_size* of them at once, at most *buffer_size* (default: 2048; in a request of OTLP in protocol
    buffers 8192, since they are encoded as they end, and at most half of *buffer_size*).

    The first call makes the trace current that ``TRACEPARENT``, ``TRACESTATE`` and ``BAGGAGE`` in the environment of
    the process name, so that the program joins the trace of its starter. Later calls first flush the previous exporter,
    for at most 5 s; spans that are open then go to the new one.

    Raises ``TypeError`` or ``ValueError`` for an invalid argument.
    """
    if wrong:
        raise TypeError("configure() takes keyword arguments only: configure(service='shop', exporter=...)")
    check_arguments(
        service, resource, exporter, id_generator, limits, buffer_size, batch_size, export_interval_s, environ, strict
    )
    if strict is not None:
        misuse.set_strict(strict)
    # Imported here: a library that makes spans never calls configure().
    from . import _propagation
    from ._distribution import warn_of_clash
    from ._environment import Environment, say
    from ._resource import detect, merged

    environment = Environment(environ)
    is_disabled = environment.is_disabled()
    chosen = environment.formats() if formats is None else formats_of(formats)
    decide = environment.sampler() if sampler is None else sampler_of(sampler)
    bounds = environment.limits() if limits is None else limits
    capacity = environment.buffer_size() if buffer_size is None else buffer_size
    batch = environment.batch_size(capacity) if batch_size is None else batch_size
    interval_s = environment.export_interval_s() if export_interval_s is None else export_interval_s
    named = {} if service is None else {"service.name": service}
    detected = detect(environment)
    attributes = merged(detected, environment.resource(), named, resource or {})
    # Last, when nothing can be wrong any more: it may open files and connections.
    if is_disabled:
        used = None
    elif exporter is None or isinstance(exporter, str):
        used = environment.exporter(exporter)
    else:
        used = exporter
    tracer = _tracer(decide, used, bounds, attributes)

    global _configured_in, _detected, _is_disabled
    _is_disabled = is_disabled
    _started().use(used, capacity=capacity, batch_size=batch, interval_s=interval_s, timeout_s=_TIMEOUT_S)
    _propagation.use_formats(chosen)
    if not _configured_in:
        warn_of_clash()
        _join(_propagation.extract_environ(os.environ))
    _configured_in = os.getpid()
    _use_ids(id_generator, _generators[1])
    with _setting:
        _use(tracer)
        _detected = tracer, detected
    if not is_disabled:
        _serve_pages(environment)
    say([*environment.wrong.values(), *_other_sdk()])


def flush(timeout_s: float = _TIMEOUT_S) -> bool:
    """Export every span that has ended; return whether that was done within *timeout_s*.

    Never raises. 0, a negative number and nan do not wait; infinity waits until it is done. A *timeout_s* that is not a
    number is reported as misuse, and means 5 s.
    """
    timeout_s = bounded_timeout(timeout_s, _TIMEOUT_S)
    return _pipeline is None or _pipeline.flush(timeout_s)


def shutdown(timeout_s: float = _TIMEOUT_S) -> bool:
    """Flush and close the exporter; return whether that was done within *timeout_s*, which is as for ``flush()``.

    Called at exit. Never raises.
    """
    timeout_s = bounded_timeout(timeout_s, _TIMEOUT_S)
    return _pipeline is None or _pipeline.shutdown(timeout_s)


def statistics() -> Statistics:
    """Return where every span of this process went."""
    return _started().statistics()


def lend(exporter: Exporter) -> Iterator[None]:
    """Record every trace for *exporter*, yield once, then restore the former settings: for ``contextlib.contextmanager``."""
    from ._export.stand_ins import Instead
    from ._resource import merged

    before = _configured
    lent = Tracer(recording=True, limits=before.limits, resource=before.resource or merged({"service.name": "test"}))
    pipeline = _started()
    pipeline.flush(_TIMEOUT_S)
    owner = pipeline.exporter
    if owner is None:
        used = exporter
        pipeline.use(used)
    else:
        pipeline.exporter = used = Instead(exporter, owner)
    _use(lent)
    try:
        yield
    finally:
        if _configured is lent:
            _use(before)
        pipeline.flush(_TIMEOUT_S)
        if pipeline.exporter is not used:
            pass  # configure() was called meanwhile
        elif owner is None:
            pipeline.use(None)
        else:
            pipeline.exporter = owner


def tracer_in_use() -> Tracer:
    """Return the tracer of new spans."""
    return _in_use


def record_for_parent(tracer: Tracer, formats: Sequence[Format]) -> None:
    """In a worker process: use *formats*, record with *tracer*, and keep the spans until a result takes them back.

    A ``configure()`` of the worker wins.
    """
    if _configured_in != os.getpid():
        from . import _propagation

        _started().hold()
        _use(tracer)
        if _propagation.formats() != formats:
            _propagation.use_formats(formats)


def take_for_parent() -> list[Span]:
    """In a worker process: return the spans that go back with a result; they count as exported here."""
    return _started().take()


def _serve_pages(environment: Environment) -> None:
    """Serve the debug pages where the environment asks for them."""
    address = environment.debug_pages()
    if address is None:
        return
    import contextlib
    import importlib

    from ._environment import say
    from ._export.notices import describe
    from ._plugins import DEBUG_PAGES

    module, name = DEBUG_PAGES

    def serve() -> None:
        try:
            getattr(importlib.import_module(module), name)(*address)
        except Exception as error:  # the pages must not stop the program
            say([f"the debug pages are not served: {describe(error)}"])

    # tracekit run configures at the import of http.client, which may be one of http.server, which the pages need: another
    # thread waits for the end of that.
    if getattr(getattr(sys.modules.get("http.server"), "__spec__", None), "_initializing", False):
        from ._export.threads import start_thread

        with contextlib.suppress(Exception):  # no more threads
            start_thread(serve, "tracekit-debug")
    else:
        serve()


def _other_sdk() -> list[str]:
    """Return a line about OpenTelemetry's SDK if that traces this process too, beside tracekit."""
    provider = getattr(sys.modules.get("opentelemetry.trace"), "_TRACER_PROVIDER", None)
    if type(provider).__module__.partition(".")[0] != "opentelemetry" or not hasattr(provider, "add_span_processor"):
        return []
    return [
        "OpenTelemetry's SDK is active too: a request makes two traces that are not connected."
        " Call tracekit.bridges.opentelemetry.install() to have one"
    ]


def _join(context: SpanContext | None) -> None:
    """Make *context*, which started this process, current from here on, unless something is current already."""
    if context is not None and current_context() is None:
        context_scope(context).__enter__()


def use_hooks(hooks: Hooks | None) -> None:
    """Call *hooks* for every span of the tracer in use and of later ones, and record for them; None removes them."""
    global _hooks
    with _setting:
        _hooks = hooks
        _use(_configured)


def add_tap(take: Callable[[Sequence[Span]], object], *, records_all: bool) -> None:
    """Call *take* with every batch of finished spans, in the exporting thread, also where no exporter is configured.

    With *records_all*, spans of traces that are not sampled are recorded for it; they do not reach the exporter.
    """
    global _records_all
    pipeline = _started()
    taps = pipeline.taps
    with _setting:
        if take not in taps.taps:
            taps.taps += (take,)
    if pipeline.exporter is None:
        pipeline.use(None)
    with _setting:
        _records_all = _records_all or records_all
        _use(_configured)


def remove_tap(take: Callable[[Sequence[Span]], object]) -> None:
    """Undo ``add_tap()``; where no tap is left, recording is as ``configure()`` set it."""
    global _records_all
    pipeline = _started()
    with _setting:
        pipeline.taps.taps = left = tuple([other for other in pipeline.taps.taps if other != take])
        if not left:
            _records_all = False
            _use(_configured)
    if not left and pipeline.exporter is None:
        pipeline.use(None)


def _use(tracer: Tracer) -> None:
    global _configured, _in_use
    with _setting:
        _configured = tracer
        _in_use = tracer if _hooks is None else tracer.replace(recording=True, hooks=_hooks)
        if _records_all and not _is_disabled:
            _in_use = _in_use.replace(records_all=True)
        if _in_use.records_all:
            _started().taps.may_be_unsampled = True
        set_tracer(_in_use)


def use_generator(generator: OtelIds | None) -> None:
    """Take ids from *generator*, which a bridge was given, unless ``configure()`` is given one; None undoes that."""
    _use_ids(_generators[0], generator)


def _use_ids(given: OtelIds | None, bridged: OtelIds | None) -> None:
    """Take ids from the first of the two; without one, from the operating system if an earlier one supplied them."""
    global _generators
    before, _generators = _generators, (given, bridged)
    generator = bridged if given is None else given
    if generator is not None:
        from ._foreign import ForeignIds

        ids = ForeignIds(generator)
        set_ids(ids, ids.are_random)
    elif before != (None, None):
        set_ids(None)


def _tracer(
    sampler: AlwaysOn | AlwaysOff | Ratio | Sampler,
    exporter: Exporter | None,
    limits: Limits,
    resource: Mapping[str, Any],
) -> Tracer:
    from ._sampling import AlwaysOff, AlwaysOn, Ratio

    decision: dict[str, Any] = {"sampler": sampler}
    # A subclass may override sample().
    if isinstance(sampler, AlwaysOn | AlwaysOff | Ratio) and type(sampler) in (AlwaysOn, AlwaysOff, Ratio):
        decision = {"threshold": sampler.threshold, "state": sampler.state}
    records_all = getattr(exporter, "records_all", False) is True
    return Tracer(recording=exporter is not None, records_all=records_all, limits=limits, resource=resource, **decision)


def current_resource() -> Mapping[str, Any]:
    """Return the resource that ``configure()`` set; an empty one before."""
    return _configured.resource


def _started() -> Pipeline:
    """Return this process's pipeline, made when it is first needed; a program that only propagates never imports it."""
    global _pipeline
    if _pipeline is None:
        from ._exits import call_at_end_of_child, call_at_exit
        from ._export.pipeline import Pipeline

        made = Pipeline()
        with _setting:
            if _pipeline is None:  # otherwise a signal handler or another thread has made it
                _pipeline = made
        if _pipeline is made:
            call_at_exit(shutdown)
            call_at_end_of_child(made, lambda pipeline: pipeline.shutdown(_TIMEOUT_S))
    return _pipeline


def _after_fork() -> None:
    global _setting
    _setting = RLock()
    parents_spans = after_fork()
    if _pipeline is not None:
        _pipeline.after_fork()
    if _detected is not None and _detected[0] is _configured:
        _renew_resource(_configured, _detected[1])
    del parents_spans  # now that callbacks of weak references to them find the child's state


def detected() -> Mapping[str, Any]:
    """Return the attributes of the resource in use that were detected, and not given."""
    return {} if _detected is None or _detected[0] is not _configured else _detected[1]


def _renew_resource(tracer: Tracer, detected: Mapping[str, Any]) -> None:
    """Give the child of a fork its own process id and instance."""
    global _detected
    from ._resource import renew

    renewed = renew(tracer.resource, detected)
    own = tracer.replace(resource=MappingProxyType(renewed))
    _use(own)
    _detected = own, {key: renewed[key] for key in detected if key in renewed}


# Needed without configure() too: the random words drawn ahead must not be the parent's.
call_in_child(_after_fork)
