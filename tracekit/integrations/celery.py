"""Celery: a producer span for each task that is sent, and a consumer span around each task that a worker runs.

    tracekit.integrations.celery.instrument()       # all applications
    tracekit.integrations.celery.instrument(app)    # or one

The context travels in the headers of the message, in the configured formats. A retry is sent by the task, so it is below
its span. Tasks that run eagerly are children of their caller. ``Ignore``, ``Reject``, ``Retry`` and exceptions that
``throws=`` of the task names are no errors. Pool processes that celery recycles export their spans before they end.

How it works: ``Celery.send_task()`` is patched, and workers report tasks by the signals ``task_prerun``,
``task_failure``, ``task_retry`` and ``task_postrun``. The span is a field of the task's request.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from celery import Celery, signals

from .. import Span, span
from ._http import report
from ._patch import Patches
from ._queue import Traced, carrier_of, process, send, set_error

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["instrument", "uninstrument"]

_FIELD: Final = "_tracekit_span"
_ERROR: Final = "_tracekit_error"
_SYSTEM: Final = "celery"
_ID: Final = "tracekit.integrations.celery"  # of the receivers of signals

_patches = Patches()
_traced = Traced(Celery, "Celery application")


def instrument(target: Celery | None = None, *, root: bool = False) -> None:
    """Trace the tasks of *target*, or of all applications. A second call changes nothing.

    With *root* a task begins a new trace, linked to its sender. Raises ``TypeError`` for other objects.
    """
    _traced.add(target, root)
    if not _patches.is_active:
        _patches.replace(Celery, "send_task", _send_task)
        for signal, receiver in _RECEIVERS.items():
            getattr(signals, signal).connect(receiver, weak=False, dispatch_uid=_ID)


def uninstrument(target: Celery | None = None) -> None:
    """Undo ``instrument(target)``."""
    if _traced.remove(target):
        _patches.restore()
        for signal in _RECEIVERS:
            getattr(signals, signal).disconnect(dispatch_uid=_ID)


def _send_task(original: Callable[..., Any]) -> Any:
    @functools.wraps(original)
    def send_task(app: Any, name: Any, *args: Any, **kwargs: Any) -> Any:
        if _traced.root_for(app) is None:
            return original(app, name, *args, **kwargs)
        try:
            queue = kwargs.get("queue") or kwargs.get("routing_key") or app.conf.task_default_queue
            queue = getattr(queue, "name", queue)
            ours = send(_SYSTEM, name, queue, kwargs.get("task_id"))
        except Exception as error:  # the task is sent without a span
            report(error)
            return original(app, name, *args, **kwargs)
        with ours:
            try:
                if carrier := carrier_of():
                    kwargs["headers"] = {**(kwargs.get("headers") or {}), **carrier}
            except Exception as error:
                report(error)
            return original(app, name, *args, **kwargs)

    return send_task


def _started(task: Any = None, task_id: Any = None, **_: Any) -> None:
    try:
        root = _traced.root_for(task.app)
        if root is None:
            return
        request = task.request
        if request.is_eager:
            ours = span(f"process {task.name}", kind="consumer", attributes={"messaging.system": _SYSTEM})
        else:
            delivery = request.delivery_info or {}
            # Workers merge the headers of the message into the request.
            ours = process(_SYSTEM, task.name, delivery.get("routing_key"), task_id, _carrier(request), root=root)
        if request.retries:
            ours.set_attribute("celery.retries", request.retries)
        request.__dict__[_FIELD] = ours
        ours.__enter__()
    except Exception as error:  # the task runs without a span
        report(error)


def _carrier(request: Any) -> dict[str, Any]:
    """Return the fields of *request* that are text: others are celery's."""
    own = request.__dict__
    headers = own.get("headers")
    merged = {**headers, **own} if isinstance(headers, dict) else own
    return {name: value for name, value in merged.items() if isinstance(value, str)}


def _failed(sender: Any = None, exception: Any = None, **_: Any) -> None:
    if isinstance(exception, BaseException) and not isinstance(exception, getattr(sender, "throws", None) or ()):
        _request_of(sender)[_ERROR] = exception


def _retried(sender: Any = None, reason: Any = None, **_: Any) -> None:
    ours = _request_of(sender).get(_FIELD)
    if isinstance(ours, Span):
        ours.add_event("retry", {"reason": type(getattr(reason, "exc", None) or reason).__name__})


def _ended(task: Any = None, state: Any = None, **_: Any) -> None:
    request = _request_of(task)
    ours, error = request.pop(_FIELD, None), request.pop(_ERROR, None)
    if not isinstance(ours, Span):
        return
    try:
        if isinstance(state, str):
            ours.set_attribute("celery.state", state)
        if error is not None:
            set_error(ours, error)
            ours.__exit__(type(error), error, error.__traceback__)
            return
    except Exception as failed:
        report(failed)
    ours.__exit__(None, None, None)


def _request_of(task: Any) -> dict[str, Any]:
    found: dict[str, Any] = getattr(getattr(task, "request", None), "__dict__", None) or {}
    return found


_RECEIVERS: Final = {"task_prerun": _started, "task_failure": _failed, "task_retry": _retried, "task_postrun": _ended}
