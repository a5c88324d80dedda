"""Trace ids in structlog's events: ``trace_id``, ``span_id``, ``sampled`` and ``service.name``.

``tracekit.instrument("structlog")`` adds them to every event, whatever processors are configured. ``TraceProcessor`` adds
them at its position among the processors.
"""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any

from structlog import BoundLoggerBase
from structlog.contextvars import get_contextvars

from ._log_fields import log_fields
from ._patch import Patches, check_whole

if TYPE_CHECKING:
    from collections.abc import MutableMapping

__all__ = ["TraceProcessor", "instrument", "uninstrument"]


class TraceProcessor:
    """A processor that adds the fields; *datadog* adds ``dd.trace_id`` and so on. Keys that the event has win.

    Without a current context it adds the service alone.
    """

    def __init__(self, *, datadog: bool = False) -> None:
        self._datadog = datadog

    def __call__(self, logger: Any, method_name: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Add the fields to *event_dict* and return it."""
        try:
            for key, value in _fields(self._datadog).items():
                event_dict.setdefault(key, value)
        except Exception:  # a custom mapping
            pass
        return event_dict


_OF_SERVICE = ("service.name", "dd.service", "dd.env", "dd.version")
_patches: Patches | None = None
_check = functools.partial(check_whole, "structlog", "TraceProcessor")


def instrument(target: None = None, *, datadog: bool = False) -> None:
    """Add the fields to every event of every logger, before its processors run.

    Keys that the event has, or that ``structlog.contextvars`` has bound, win.

    The hook point is ``BoundLoggerBase._process_event``, which structlog documents for wrapper classes: unlike the list
    of processors, ``structlog.configure()`` does not replace it. Calling it again changes *datadog* alone.

    Processors that look for the caller, such as ``CallsiteParameterAdder``, skip functions of modules whose names start
    with "structlog", so the replacement has globals with such a name.
    """
    global _patches
    _check(target)
    uninstrument()
    _patches = patches = Patches()

    def make(original: Any) -> Any:
        def process_event(self: Any, method_name: str, event: Any, event_kw: dict[str, Any]) -> Any:
            added = {}
            if patches.is_active:
                try:
                    # merge_contextvars() leaves the keys alone that an event has.
                    bound = {**get_contextvars(), **self._context}
                    added = {key: value for key, value in _fields(datadog).items() if key not in bound}
                except Exception:  # a wrapper class without a context
                    pass
            return original(self, method_name, event, {**added, **event_kw})

        of_structlog = {**globals(), "__name__": "structlog"}
        function = types.FunctionType(process_event.__code__, of_structlog, closure=process_event.__closure__)
        return functools.update_wrapper(function, original)

    patches.replace(BoundLoggerBase, "_process_event", make)


def uninstrument(target: None = None) -> None:
    """Undo ``instrument()``; a method that others have wrapped since stays in place, without effect."""
    global _patches
    _check(target)
    if _patches is not None:
        _patches.restore()
    _patches = None


def _fields(datadog: bool) -> dict[str, Any]:
    fields = log_fields(datadog)
    return fields if fields["trace_id"] else {key: fields[key] for key in fields if key.endswith(_OF_SERVICE)}
