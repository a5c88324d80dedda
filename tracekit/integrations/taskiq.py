"""taskiq: a producer span for each task that is sent, and a consumer span around each task that a worker runs.

    tracekit.integrations.taskiq.instrument()          # all brokers
    tracekit.integrations.taskiq.instrument(broker)    # or one

The context travels in the labels of the message, in the configured formats. The span of a task covers its dependencies
and the middlewares' ``on_error``; it is current in a thread or process that a synchronous task runs in, as far as taskiq
copies the context there.

How it works: ``AsyncKicker`` prepares and sends messages, ``Receiver.run_task()`` runs them.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from taskiq import AsyncBroker
from taskiq.kicker import AsyncKicker
from taskiq.receiver import Receiver

from ._http import report
from ._patch import Patches
from ._queue import Traced, carrier_of, process, send, set_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from .. import Span

__all__ = ["instrument", "uninstrument"]

_SYSTEM: Final = "taskiq"

_patches = Patches()
_traced = Traced(AsyncBroker, "taskiq broker")


def instrument(target: AsyncBroker | None = None, *, root: bool = False) -> None:
    """Trace the tasks of *target*, or of all brokers. A second call changes nothing.

    With *root* a task begins a new trace, linked to its sender. Raises ``TypeError`` for other objects.
    """
    _traced.add(target, root)
    if not _patches.is_active:
        _patches.replace(AsyncKicker, "kiq", _kiq)
        _patches.replace(AsyncKicker, "_prepare_message", _prepare)
        _patches.replace(Receiver, "run_task", _run_task)


def uninstrument(target: AsyncBroker | None = None) -> None:
    """Undo ``instrument(target)``."""
    if _traced.remove(target):
        _patches.restore()


def _kiq(original: Callable[..., Any]) -> Any:
    @functools.wraps(original)
    async def kiq(kicker: Any, *args: Any, **kwargs: Any) -> Any:
        if _traced.root_for(kicker.broker) is None:
            return await original(kicker, *args, **kwargs)
        with send(_SYSTEM, kicker.task_name, None) as ours:
            task = await original(kicker, *args, **kwargs)
            if ours.is_recording:
                ours.set_attribute("messaging.message.id", getattr(task, "task_id", None) or "")
            return task

    return kiq


def _prepare(original: Callable[..., Any]) -> Any:
    @functools.wraps(original)
    def _prepare_message(kicker: Any, *args: Any, **kwargs: Any) -> Any:
        message = original(kicker, *args, **kwargs)
        if _traced.root_for(kicker.broker) is not None:
            try:
                message.labels.update(carrier_of())
            except Exception as error:  # the task is sent without its context
                report(error)
        return message

    return _prepare_message


def _run_task(original: Callable[..., Any]) -> Any:
    @functools.wraps(original)
    async def run_task(receiver: Any, target: Any, message: Any, *args: Any, **kwargs: Any) -> Any:
        root = _traced.root_for(receiver.broker)
        ours = None if root is None else _start(message, root)
        if ours is None:
            return await original(receiver, target, message, *args, **kwargs)
        with ours:
            result = await original(receiver, target, message, *args, **kwargs)
            error = getattr(result, "error", None)
            if isinstance(error, BaseException):
                set_error(ours, error)
                ours.__exit__(type(error), error, error.__traceback__)
            return result

    return run_task


def _start(message: Any, root: bool) -> Span | None:
    try:
        labels = {name: value for name, value in message.labels.items() if isinstance(value, str)}
        return process(_SYSTEM, message.task_name, None, message.task_id, labels, root=root)
    except Exception as error:  # the task runs without a span
        report(error)
        return None
