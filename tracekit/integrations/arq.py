"""arq: a producer span for each job that is enqueued, and a consumer span around each job that a worker runs.

    tracekit.integrations.arq.instrument()    # before the worker is made

arq has no headers, so the context is one more entry of the job's data, ``tracekit``, in the configured formats. Workers
without tracekit ignore it. ``Retry`` and ``RetryJob`` are no errors.

How it works: ``ArqRedis.enqueue_job()`` and the functions that write and read a job's data are patched; and a worker
gets its functions wrapped when it is made, so that the span sees their own exceptions.
"""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import pickle
from typing import TYPE_CHECKING, Any, Final

import arq.connections
import arq.worker

from ._http import report
from ._patch import Patches, check_whole
from ._queue import carrier_of, process, send, set_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from .. import Span

__all__ = ["instrument", "uninstrument"]

_SYSTEM: Final = "arq"
_ENTRY: Final = "tracekit"  # of the data of a job

_patches = Patches()
_check = functools.partial(check_whole, "arq", 'tracekit.instrument("arq")')
_options: dict[str, Any] = {}
# The carrier of the job that this task runs: arq reads a job's data, and calls its function, in one task and its child.
_carrier: contextvars.ContextVar[Any] = contextvars.ContextVar("tracekit_arq", default=None)


def instrument(target: None = None, *, root: bool = False) -> None:
    """Trace all jobs of workers that are made from now on. A second call changes nothing.

    With *root* a job begins a new trace, linked to its sender. Raises ``TypeError`` for any *target*.
    """
    _check(target)
    if _patches.is_active:
        return
    _options["root"] = root
    _patches.replace(arq.connections.ArqRedis, "enqueue_job", _enqueue_job)
    _patches.replace(arq.connections, "serialize_job", _serialize_job)
    _patches.replace(arq.worker, "deserialize_job_raw", _deserialize_job)
    _patches.replace(arq.worker.Worker, "__init__", _init)


def uninstrument(target: None = None) -> None:
    """Undo ``instrument()``."""
    _check(target)
    _patches.restore()


def _enqueue_job(original: Callable[..., Any]) -> Any:
    @functools.wraps(original)
    async def enqueue_job(redis: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        if not _patches.is_active:
            return await original(redis, function, *args, **kwargs)
        queue = kwargs.get("_queue_name") or redis.default_queue_name
        with send(_SYSTEM, function, queue, kwargs.get("_job_id")) as ours:
            job = await original(redis, function, *args, **kwargs)
            if job is not None and ours.is_recording:
                ours.set_attribute("messaging.message.id", job.job_id)
            return job

    return enqueue_job


def _serialize_job(original: Callable[..., Any]) -> Any:
    @functools.wraps(original)
    def serialize_job(*args: Any, serializer: Any = None, **kwargs: Any) -> Any:
        write = pickle.dumps if serializer is None else serializer

        def with_context(data: Any) -> Any:
            carrier = carrier_of() if _patches.is_active else None
            return write({**data, _ENTRY: carrier} if carrier else data)

        return original(*args, serializer=with_context, **kwargs)

    return serialize_job


def _deserialize_job(original: Callable[..., Any]) -> Any:
    @functools.wraps(original)
    def deserialize_job_raw(*args: Any, deserializer: Any = None, **kwargs: Any) -> Any:
        read = pickle.loads if deserializer is None else deserializer

        def with_context(octets: Any) -> Any:
            data = read(octets)
            carrier = data.get(_ENTRY) if isinstance(data, dict) else None
            _carrier.set(carrier if isinstance(carrier, dict) else None)
            return data

        return original(*args, deserializer=with_context, **kwargs)

    return deserialize_job_raw


def _init(original: Callable[..., Any]) -> Any:
    @functools.wraps(original)
    def __init__(worker: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        original(worker, *args, **kwargs)
        try:
            if _patches.is_active:
                worker.functions = {name: _traced(worker, function) for name, function in worker.functions.items()}
        except Exception as error:  # the worker runs untraced
            report(error)

    return __init__


def _traced(worker: Any, function: Any) -> Any:
    coroutine = function.coroutine

    @functools.wraps(coroutine)
    async def run(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        ours = _start(worker, function.name, ctx) if _patches.is_active else None
        if ours is None:
            return await coroutine(ctx, *args, **kwargs)
        retry: BaseException | None = None
        with ours:
            try:
                return await coroutine(ctx, *args, **kwargs)
            except (arq.worker.Retry, arq.worker.RetryJob) as error:
                ours.add_event("retry")
                retry = error
            except BaseException as error:
                set_error(ours, error)
                raise
        try:
            raise retry
        finally:
            retry = None  # whose traceback refers to this frame

    return dataclasses.replace(function, coroutine=run)


def _start(worker: Any, name: str, ctx: Any) -> Span | None:
    try:
        ours = process(_SYSTEM, name, worker.queue_name, ctx.get("job_id"), _carrier.get(), root=_options["root"])
        if ctx.get("job_try", 1) > 1:
            ours.set_attribute("arq.job_try", ctx["job_try"])
        return ours
    except Exception as error:  # the job runs without a span
        report(error)
        return None
