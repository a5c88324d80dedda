"""Trace ids in log records: ``trace_id``, ``span_id``, ``sampled`` and ``service.name`` on every record.

tracekit.instrument("logging")
logging.basicConfig(format="%(levelname)s %(trace_id)s %(span_id)s %(message)s")
"""

from __future__ import annotations

import functools
import logging
from typing import Any

from ._log_fields import DATADOG_NAMES, NAMES, log_fields
from ._patch import Patches, check_whole

__all__ = ["instrument", "uninstrument"]

_ALL = frozenset((*NAMES, *DATADOG_NAMES))


class _RecordFactory:
    """Wraps the previous record factory and, while ``is_active``, adds the fields."""

    __slots__ = ("datadog", "is_active", "previous")

    def __init__(self, previous: Any, datadog: bool) -> None:
        self.previous = previous
        self.datadog = datadog
        self.is_active = True

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record: logging.LogRecord = self.previous(*args, **kwargs)
        if self.is_active:
            try:
                for key, value in log_fields(self.datadog).items():
                    record.__dict__.setdefault(key, value)
            except Exception:  # a record without __dict__ is logged all the same
                pass
        return record


def _record_maker(previous: Any) -> Any:
    """Return a ``Logger.makeRecord`` that accepts our names in ``extra=``, which *previous* rejects."""

    def makeRecord(  # noqa: N802
        self: logging.Logger,
        name: str,
        level: int,
        fn: str,
        lno: int,
        msg: object,
        args: Any,
        exc_info: Any,
        func: str | None = None,
        extra: Any = None,
        sinfo: str | None = None,
    ) -> logging.LogRecord:
        given = {key: extra[key] for key in extra if key in _ALL} if extra else None
        if given:
            extra = {key: value for key, value in extra.items() if key not in given}
        record: logging.LogRecord = previous(self, name, level, fn, lno, msg, args, exc_info, func, extra, sinfo)
        if given:
            record.__dict__.update(given)
        return record

    return makeRecord


_factory: _RecordFactory | None = None
_patches = Patches()
_check = functools.partial(check_whole, "logging", 'tracekit.instrument("logging")')


def instrument(target: None = None, *, datadog: bool = False) -> None:
    """Add the current ids and the service to every log record; *datadog* adds ``dd.trace_id`` and so on.

    ``trace_id`` and ``span_id`` are hex, ``sampled`` is a bool, ``service.name`` is that of ``configure()``. Without a
    current context the ids are empty. They are read when the record is made, in the task or thread that logs, and stay the same
    wherever the record is handled. Values in ``extra=``, and those of a record factory that was set before, win.

    Calling it again has no effect, also if another record factory wraps this one, except for another *datadog*.
    """
    global _factory
    _check(target)
    if _factory is not None and logging.getLogRecordFactory() is _factory and _factory.datadog == datadog:
        return
    uninstrument()
    _factory = _RecordFactory(logging.getLogRecordFactory(), datadog)
    logging.setLogRecordFactory(_factory)
    _patches.replace(logging.Logger, "makeRecord", _record_maker)


def uninstrument(target: None = None) -> None:
    """Undo ``instrument()``; a factory that others have wrapped since stays in place, inactive."""
    global _factory
    _check(target)
    if _factory is not None:
        _factory.is_active = False
        if logging.getLogRecordFactory() is _factory:
            logging.setLogRecordFactory(_factory.previous)
        _factory = None
    _patches.restore()
