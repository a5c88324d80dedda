"""Spans of queues of tasks, shared by their integrations.

A span of kind "producer" covers sending, and the carrier travels with the message. A span of kind "consumer" covers the
task. It is a child of the producer, as one message is one task; with *root*, for tasks that start long after, it begins
a new trace that is linked to the producer. A message without a context begins a new trace, too: the worker's own current
span is never the parent.

Conventions: https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
"""

from __future__ import annotations

import weakref
from typing import Any

from .. import ROOT, Span, extract, inject, span
from ._http import error_type, report

_MAX_NAME = 256  # characters kept of a task's name


class Traced:
    """The applications or brokers of *kind* whose tasks are traced, each with its option *root*."""

    def __init__(self, kind: type[Any], named: str) -> None:
        self._kind, self._named = kind, named
        self._all: bool | None = None
        self._some: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()

    def add(self, target: Any, root: bool) -> None:
        """Trace *target*, or all if it is None; the first *root* counts. Raises ``TypeError`` for other objects."""
        self._check(target)
        if target is not None:
            self._some.setdefault(target, root)
        elif self._all is None:
            self._all = root

    def remove(self, target: Any) -> bool:
        """Undo ``add(target)``, and return whether none is left. Raises ``TypeError`` for other objects."""
        self._check(target)
        if target is None:
            self._all = None
        else:
            self._some.pop(target, None)
        return self._all is None and not self._some

    def root_for(self, target: Any) -> bool | None:
        """Return the option *root* for the tasks of *target*, or None if they are not traced."""
        return self._some.get(target, self._all)

    def _check(self, target: object) -> None:
        if target is not None and not isinstance(target, self._kind):
            raise TypeError(f"target must be a {self._named}, not {type(target).__name__}")


def send(system: str, task: str, destination: str | None, message_id: str | None = None) -> Span:
    """Start the span of sending a message for *task*."""
    return _start("send", "producer", system, task, destination, message_id)


def process(
    system: str, task: str, destination: str | None, message_id: str | None, carrier: Any, *, root: bool = False
) -> Span:
    """Start the span of running *task*, whose message came with *carrier*, a mapping or None."""
    try:
        sender = extract(carrier) if carrier else None
    except Exception as error:
        report(error)
        sender = None
    links = (sender,) if root and sender is not None and sender.is_valid else ()
    parent = ROOT if root or sender is None else sender
    return _start("process", "consumer", system, task, destination, message_id, parent, links)


def carrier_of() -> dict[str, str]:
    """Return the current context in the configured formats, values that are text alone: not every queue takes octets."""
    carrier: dict[str, Any] = {}
    return {name: value for name, value in inject(carrier).items() if isinstance(value, str)}


def set_error(ours: Span, error: BaseException) -> None:
    """Record the class of *error* as ``error.type``."""
    if isinstance(error, Exception):
        ours.set_attribute("error.type", error_type(error))


def _start(
    operation: str,
    kind: Any,
    system: str,
    task: Any,
    destination: Any,
    message_id: Any,
    parent: Any = None,
    links: Any = (),
) -> Span:
    name = str(task)[:_MAX_NAME]
    attributes = {
        "messaging.system": system,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.task.name": name,
    }
    if isinstance(destination, str):
        attributes["messaging.destination.name"] = destination
    if isinstance(message_id, str):
        attributes["messaging.message.id"] = message_id
    return span(f"{operation} {name}", kind=kind, attributes=attributes, parent=parent, links=links)
