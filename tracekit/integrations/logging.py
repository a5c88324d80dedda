"""Trace ids in log records: ``trace_id``, ``span_id`` and ``sampled`` of the code that logs, on every record.

tracekit.integrations.logging.install()
logging.basicConfig(format="%(levelname)s %(trace_id)s %(span_id)s %(message)s")
"""

from __future__ import annotations

import logging
from typing import Any

from .. import current_context

__all__ = ["install", "uninstall"]

_NOTHING: dict[str, Any] = {"trace_id": "", "span_id": "", "sampled": False}


class _RecordFactory:
    """Wraps the previous record factory and, while ``is_active``, adds three attributes."""

    __slots__ = ("is_active", "previous")

    def __init__(self, previous: Any) -> None:
        self.previous = previous
        self.is_active = True

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record: logging.LogRecord = self.previous(*args, **kwargs)
        if self.is_active:
            try:
                record.__dict__.update(_fields())
            except Exception:  # a record without __dict__ is logged all the same
                pass
        return record


def _fields() -> dict[str, Any]:
    context = current_context()
    if context is None or not context.is_valid:
        return _NOTHING
    return {"trace_id": context.trace_id, "span_id": context.span_id, "sampled": context.sampled}


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
        given = {key: extra[key] for key in _NOTHING if key in extra} if extra else None
        if given:
            extra = {key: value for key, value in extra.items() if key not in given}
        record: logging.LogRecord = previous(self, name, level, fn, lno, msg, args, exc_info, func, extra, sinfo)
        if given:
            record.__dict__.update(given)
        return record

    return makeRecord


_factory: _RecordFactory | None = None
_maker: Any = None
_previous_maker: Any = None


def install() -> None:
    """Add the current ids to every log record: ``trace_id`` and ``span_id``, hex, and ``sampled``, a bool.

    Without a current context the ids are empty. They are read when the record is made, in the task or
    thread that logs, and stay the same wherever the record is handled. Values in ``extra=`` win.
    Calling it again has no effect, also if another record factory wraps this one.
    """
    global _factory, _maker, _previous_maker
    if _factory is not None and logging.getLogRecordFactory() is _factory:
        return
    uninstall()
    _factory = _RecordFactory(logging.getLogRecordFactory())
    logging.setLogRecordFactory(_factory)
    _previous_maker = logging.Logger.makeRecord
    _maker = _record_maker(_previous_maker)
    logging.Logger.makeRecord = _maker  # type: ignore[method-assign]


def uninstall() -> None:
    """Undo ``install()``; a factory that others have wrapped since stays in place, inactive."""
    global _factory, _maker, _previous_maker
    if _factory is not None:
        _factory.is_active = False
        if logging.getLogRecordFactory() is _factory:
            logging.setLogRecordFactory(_factory.previous)
    if _maker is not None and logging.Logger.makeRecord is _maker:
        logging.Logger.makeRecord = _previous_maker  # type: ignore[method-assign]
    _factory = _maker = _previous_maker = None
