"""Processes without an event loop: pools whose jobs continue the trace and send back their spans, and ``environ()``.

How it works: ``pack()`` puts a carrier beside a job: the current context, the settings of recording, and the wire
formats. In the worker, the job runs in a fresh ``contextvars.Context`` in which that context is current, as a remote
one; the spans that end there wait in the worker's buffer. They are taken out when the worker pickles the job's result
or exception, so that pickle is their carrier: unpickling it in the parent hands them to the parent's exporter, and
gives the plain value or the original exception. A worker that calls ``tracekit.configure()`` keeps its spans and
exports them.

Spans that a worker has not sent are lost with it: those that are open, or that end after its last result, when it
exits, dies or is killed. Where a worker dies during a job, the span that submitted the job records that.

``multiprocessing.Process`` needs none of this: its child has its own pipeline, if it calls ``configure()`` or
was forked after that. ``target=tracekit.wrap(fn)`` continues the trace there.
"""

from __future__ import annotations

import concurrent.futures
import copyreg
import functools
import importlib
import io
import os
import pickle
import re
import sys
import weakref
from concurrent.futures.process import BrokenProcessPool
from contextvars import copy_context
from multiprocessing.process import parent_process
from multiprocessing.reduction import ForkingPickler
from types import FunctionType, MappingProxyType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

from ._configure import record_for_parent, statistics, take_for_parent, tracer_in_use
from ._core.buffer import buffer
from ._core.context import Link, SpanContext
from ._core.outcome import mark_recorded, outcome_of
from ._core.records import DEFAULT_LIMITS, Instrumentation, Limits, Status
from ._core.restore import restore_span
from ._core.scopes import current_span
from ._core.tracer import Tracer
from ._handoffs.by_hand import Place, at, detached, place
from ._propagation import DEFAULT_FORMATS, environ_of, formats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from multiprocessing.context import BaseContext

    from ._core.span import Span
    from .wire import Format

__all__ = ["ProcessPoolExecutor", "environ", "pack"]

P = ParamSpec("P")
R = TypeVar("R")

Recording: TypeAlias = "tuple[int, str, tuple[int, ...] | None]"  # threshold, state, limits if they are not the default
Settings: TypeAlias = "tuple[Recording | None, bytes | None]"  # and the formats, pickled

_lost_before: dict[int, int] = {}  # reported to the parent; by process, as a fork counts from 0


def environ(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a copy of *base*, or else of ``os.environ``, that names the current context: ``TRACEPARENT`` and so on.

    For ``subprocess.run(..., env=environ())``: a program that calls ``tracekit.configure()``, or any other that
    reads these variables, joins the trace.
    """
    return environ_of(os.environ if base is None else base)


class ProcessPoolExecutor(concurrent.futures.ProcessPoolExecutor):
    """A ``concurrent.futures.ProcessPoolExecutor`` whose jobs are children of the span current at their submission.

    Works with every start method, whenever the workers were started. The spans of a job come back with its result or
    exception. A custom sampler is not sent: a worker records every root. *initializer* belongs to no job:
    its spans are roots, linked to the context in which the pool is made, and come back with the worker's first result.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
    ) -> None:
        if callable(initializer):  # else it fails as it does without tracekit
            initializer = _Initializer(initializer, place())
        super().__init__(max_workers, mp_context, initializer, initargs, max_tasks_per_child=max_tasks_per_child)

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Call *fn* in a worker, as a child of the current span."""
        run, packed = pack(fn, *args, **kwargs)
        future = super().submit(run, *packed)
        span = current_span()
        if span is not None and span.is_recording:
            future.add_done_callback(functools.partial(_check, weakref.ref(span)))
        return future

    def map(
        self,
        fn: Callable[..., R],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        **options: Any,  # buffersize, from Python 3.14 on
    ) -> Iterator[R]:
        """Call *fn* for each item, as a child of the current span, in a separate Context."""
        fn = functools.partial(_inside, place(), fn)
        return super().map(fn, *iterables, timeout=timeout, chunksize=chunksize, **options)


def pack(fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> tuple[Callable[..., R], tuple[Any, ...]]:
    """Return a function and its arguments that call ``fn(*args, **kwargs)`` as a child of the current span.

    For pools that are not tracekit's, if they pickle jobs and results: ``pool.apply_async(*pack(fn, 1))`` of
    ``multiprocessing``, ``executor.submit(run, *packed)``.
    """
    return _run, ((place(), _settings()), fn, args, kwargs)


# ---- in the parent, for a job that is sent


def _settings() -> Settings | None:
    """Return this process's settings for a worker, pickled as small as possible; None if nothing is configured."""
    tracer = tracer_in_use()
    recording = None
    if tracer.recording:
        recording = tracer.threshold, tracer.state, None if tracer.limits == DEFAULT_LIMITS else tuple(tracer.limits)
    chosen = _pickled(formats())
    return (recording, chosen) if recording or chosen is not None else None


def _pickled(chosen: Sequence[Format]) -> bytes | None:
    """Return *chosen* as octets, made once for all jobs; None for the default and for values that cannot be pickled."""
    if tuple(chosen) == DEFAULT_FORMATS:
        return None
    try:
        return pickle.dumps(tuple(chosen))
    except Exception:  # a custom format
        return None


# ---- in the worker


def _use(settings: Settings | None) -> Tracer:
    """Apply *settings*, unless the worker has called ``configure()`` itself."""
    recording, chosen = settings or (None, None)
    tracer = _tracer(recording)
    record_for_parent(tracer, _formats(chosen))
    return tracer


@functools.lru_cache(maxsize=8)
def _tracer(recording: Recording | None) -> Tracer:
    if recording is None:
        return Tracer()
    threshold, state, limits = recording
    return Tracer(recording=True, threshold=threshold, state=state, limits=Limits(*limits or ()))


@functools.lru_cache(maxsize=8)
def _formats(pickled: bytes | None) -> Sequence[Format]:
    try:
        found: Sequence[Format] = DEFAULT_FORMATS if pickled is None else pickle.loads(pickled)
    except Exception:  # custom, and not importable here
        found = DEFAULT_FORMATS
    return found


class _Initializer:
    """A pool's initializer and where the pool was made; records as the parent does when the worker starts."""

    def __init__(self, function: Callable[..., object], place: Place, settings: Any = ()) -> None:
        self.function = function
        self.place = place
        self.settings = settings  # empty: not pickled, so that a fork's own are the parent's

    def __reduce__(self) -> Any:
        return _Initializer, (self.function, self.place, _settings())

    def __call__(self, /, *args: Any) -> None:
        _use(_settings() if self.settings == () else self.settings)
        # Not in a separate Context: the program may set variables here that its jobs read.
        with at(self.place), detached():
            self.function(*args)


def _run(carrier: tuple[Place, Any], fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    where, settings = carrier
    tracer = _use(settings)
    try:
        value = _inside(where, fn, *args, **kwargs)
    except BaseException as error:
        _hide_frame(error)
        if _has_news(tracer):
            _attach(error, where.trace_id if isinstance(where, SpanContext) else "")
        raise
    return _Value(value) if _has_news(tracer) and not _is_shared(value) else value


def _is_shared(value: object) -> bool:
    """Return whether interpreters share *value*, and pickle may not: its spans come with the next result."""
    if type(value) is not FunctionType:
        return type(value) is memoryview
    if sys.version_info < (3, 14):
        return False
    interpreters: Any = importlib.import_module("concurrent.interpreters")
    return bool(interpreters.get_current() != interpreters.get_main())


def _inside(where: Place, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call *fn* in a new Context in which *where* is current."""
    fresh = copy_context()
    scope = at(where)
    fresh.run(scope.__enter__)
    try:
        return fresh.run(fn, *args, **kwargs)
    except BaseException as error:
        _hide_frame(error)
        raise
    finally:
        fresh.run(scope.__exit__, None, None, None)


def _hide_frame(error: BaseException) -> None:
    """Remove the caller's frame from the traceback, which the pool sends as text; a bare ``raise`` adds none."""
    traceback = error.__traceback__
    error.with_traceback(traceback and traceback.tb_next)


def _has_news(tracer: Tracer) -> bool:
    """Tell whether there is something to send, and the worker has not called ``configure()`` itself."""
    return tracer_in_use() is tracer and bool(len(buffer) or _lost())


def _lost() -> int:
    return statistics().dropped - _lost_before.get(os.getpid(), 0)


class _Value:
    """The result of a job; pickling it in the worker takes the worker's spans along, and it unpickles as the result."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _with_spans(self.value, protocol)


def _attach(error: BaseException, trace_id: str = "") -> None:
    """Make *error* carry the worker's spans when the worker pickles it, and unpickle as itself.

    If spans of the trace *trace_id* have recorded it, no span of it in the parent will.
    """
    if type(error) not in copyreg.dispatch_table:  # which goes before: then the next result takes them
        # Past whatever __setattr__ the exception has.
        object.__setattr__(error, "__reduce_ex__", functools.partial(_reduce_error, error, trace_id))


def _reduce_error(error: BaseException, trace_id: str, protocol: int) -> Any:
    object.__delattr__(error, "__reduce_ex__")
    return _with_spans(error, protocol, "" if outcome_of(error, trace_id, 0).errors else trace_id)


def _with_spans(outcome: Any, protocol: int, recorded_in: str = "") -> Any:
    # In separate bytes: a result that cannot be pickled, or unpickled in the parent, costs no spans.
    pickled = io.BytesIO()
    try:
        (pickle.Pickler if parent_process() is None else ForkingPickler)(pickled, protocol).dump(outcome)
    except Exception as error:
        _attach(error)  # the worker catches it, and sends it instead
        raise
    return _open, (_Spans(), pickled.getvalue(), recorded_in)


class _Spans:
    """The spans of this worker's buffer, taken when this is pickled; unpickling passes them to the exporter there."""

    def __reduce__(self) -> Any:
        lost = _lost()
        _lost_before[os.getpid()] = statistics().dropped
        return _receive, ([_values(span) for span in take_for_parent()], lost)


def _values(span: Span) -> tuple[Any, ...]:
    return (
        span.context,
        span.parent,
        span.name,
        span.kind,
        span.start_ns,
        span.end_ns,
        dict(span.attributes) or None,
        [(event.name, event.time_ns, dict(event.attributes) or None) for event in span.events] or None,
        [(link.context, dict(link.attributes)) for link in span.links] or None,
        tuple(span.status),
        (span.dropped_attributes, span.dropped_events, span.dropped_links, span.truncated_values),
        None if span.instrumentation is None else (*span.instrumentation[:3], dict(span.instrumentation.attributes)),
    )


# ---- in the parent, for a result that arrives: in the pool's thread or the event loop, so that nothing may be raised


def _open(_: None, pickled: bytes, recorded_in: str) -> Any:
    outcome = pickle.loads(pickled)
    if recorded_in and isinstance(outcome, BaseException):
        for error in outcome_of(outcome, recorded_in, 0).errors:
            mark_recorded(error, recorded_in)
    return outcome


_instrumentations: dict[str, Instrumentation] = {}


def _instrumentation(fields: tuple[Any, ...]) -> Instrumentation:
    """Return the same object for the same *fields*: exporters group spans by it."""
    if len(_instrumentations) >= 4096:  # a program that makes tracers without end
        _instrumentations.clear()
    return _instrumentations.setdefault(repr(fields), Instrumentation(*fields))


def _receive(spans: list[Any], lost: int) -> None:
    buffer.lose(lost)
    for values in spans:
        try:
            *start, links, status, dropped, library = values
            links = [Link(context, MappingProxyType(attributes)) for context, attributes in links or ()] or None
            instrumentation = None if library is None else _instrumentation(library)
            restored = (*start, links, Status(*status), dropped, instrumentation)
            restore_span(*restored)
        except Exception:
            buffer.lose(1)


def _check(submitted_by: weakref.ref[Span], future: Future[Any]) -> None:
    error = None if future.cancelled() else future.exception()
    if isinstance(error, BrokenProcessPool):
        _say_lost(submitted_by(), error)


def _say_lost(span: Span | None, error: BaseException | None = None) -> None:
    """Record on *span*, once, that a worker died with the spans of its jobs, which cannot be counted."""
    if span is not None and not any(event.name == "spans lost" for event in span.events):
        attributes: dict[str, Any] = {"reason": "worker process died"}
        cause = "" if error is None else str(error.__cause__)[:1000]
        code = re.search(r"exit code (-?\d{1,10})\b", cause)  # since Python 3.15
        if code is not None:
            attributes["process.exit.code"] = int(code[1])  # negative: the number of a signal
        span.add_event("spans lost", attributes)
