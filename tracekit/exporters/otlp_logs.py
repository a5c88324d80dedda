"""Log records of the standard library over OTLP, with the ids of the span in which they were made.

Severity: https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from threading import RLock, get_ident
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

from .._arguments import bounded_timeout
from .._configure import current_resource
from .._core.attributes import MISSING, clean, whole
from .._core.checks import check_int
from .._core.codecs import parse_hex
from .._core.outcome import exception_attributes
from .._core.records import Limits
from .._core.scopes import current_context
from .._exits import call_at_end_of_child
from .._version import __version__
from ._otlp.background import Background
from ._otlp.client import Client, Collector
from ._otlp.json import attributes_as_json, encode_json, value_as_json
from ._otlp.messages import LOGS, encode_message

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["OTLPLogHandler"]

_BATCH = 1024
_INTERVAL_S = 1.0
_FAREWELL_S = 3.0
_MAX_BODY = 16384  # characters of a message
_MAX_NS = (1 << 64) - 1
# The attributes of every record, and those that tracekit.integrations.logging adds.
_OURS = "trace_id span_id sampled service.name dd.trace_id dd.span_id dd.service dd.env dd.version"
_USUAL = {*logging.LogRecord("", 0, "", 0, "", None, None).__dict__, "asctime", "message", "taskName", *_OURS.split()}


class _Record(NamedTuple):
    """A log record with nothing of the program's: texts, numbers and cleaned attributes."""

    logger: str
    time_ns: int
    level: int
    level_name: str
    body: str
    attributes: dict[str, Any]
    dropped: int
    ids: dict[str, Any]  # of the span, in OTLP's JSON; empty outside of traces


class OTLPLogHandler(logging.Handler):
    """Send log records to the collector at *endpoint*; the path ``/v1/logs`` is added to a URL without a path.

    *collector* are the arguments of ``OTLPExporter`` but those of the spool: *headers*, *timeout_s*, *compression*,
    *certificate*, *client_certificate*, *client_key*, *protocol*, *insecure* and *environ*. Their defaults, and that of
    *endpoint*, are OpenTelemetry's variables (``OTEL_EXPORTER_OTLP_LOGS_ENDPOINT``, ``OTEL_EXPORTER_OTLP_ENDPOINT`` and
    so on). The resource is that of ``configure()``.

    The logging code never waits: the record is copied, within *limits*, to a queue of *capacity* records. A thread
    sends the queue once a second, and retries for *timeout_s*. Records that find the queue full, or that the collector
    does not take, are counted in ``dropped`` and ``failed``, and reported once in the log. ``extra=`` becomes
    attributes. Records of the sending thread itself are not sent. Text conversions of a record's values may log, too:
    these records are sent, but once, however often a value is converted.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        level: int | str = logging.NOTSET,
        capacity: int = 4096,
        limits: Limits = Limits(),  # noqa: B008 - immutable
        **collector: Unpack[Collector],
    ) -> None:
        self._client = Client("logs", endpoint, collector)
        self.endpoint = self._client.endpoint
        check_int("capacity", capacity, 1)
        self._capacity = capacity
        self._limits = limits
        self._begin()
        super().__init__(level)
        call_at_end_of_child(self, lambda handler: handler.flush(), is_last=True)  # without logging.shutdown()

    def _begin(self) -> None:
        # For the counts, held for one step. Reentrant: a signal handler may interrupt its holder.
        self._counting = RLock()
        self._queue: deque[_Record] = deque()
        self._has_hurried = False  # the thread, as the queue is half full
        self._background = Background(self._send_all, _INTERVAL_S, "tracekit-logs")
        # By thread: the record that is being copied and those that its values make meanwhile, each by its log call.
        self._copying: dict[int, dict[tuple[object, ...], logging.LogRecord]] = {}
        self.dropped = self.failed = 0
        self._waited = (0.0, 0.0)  # when a wait for the thread was last given up, and how long it was

    def _adopt(self) -> None:
        """Leave the queue to the parent, in the child of a fork."""
        if self._client.adopted():
            self._begin()

    def createLock(self) -> None:  # noqa: N802
        """Use no lock: a signal handler that logs must not wait for the code that it interrupted."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> Any:
        """Filter and queue *record*; never raises."""
        try:
            kept: Any = self.filter(record)
            if kept:
                self.emit(kept if isinstance(kept, logging.LogRecord) else record)
            return kept
        except Exception:  # of a filter
            self._adopt()
            self._lose()
            return False

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a copy of *record* for the sending thread."""
        background = self._background
        if background.served_by == get_ident():  # of the library that sends
            return
        try:
            self._adopt()
            if len(self._queue) >= self._capacity:
                with self._counting:
                    self.dropped += 1
                self._background.notify()  # where no thread could be started, it is tried again
                return
            copied = self._copy_once(record)
            if copied is None:
                return
            self._queue.append(copied)
            if 2 * len(self._queue) >= self._capacity and not self._has_hurried:
                self._has_hurried = True
                self._background.hurry()
            else:
                self._background.notify()
        except Exception:  # of the program's arguments and attributes
            self._lose()

    def _lose(self, count: int = 1) -> None:
        with self._counting:
            self.failed += count

    def _take(self, most: int) -> list[_Record]:
        """Take at most *most* records out of the queue."""
        taken: list[_Record] = []
        with contextlib.suppress(IndexError):  # no more: another thread may take records, too
            while len(taken) < most:
                taken.append(self._queue.popleft())
        return taken

    def _copy_once(self, record: logging.LogRecord) -> _Record | None:
        """Return a copy of *record*, or None if the same call logged it before, while another record is being copied.

        The formatter and the attributes convert an exception each; a ``__str__`` may also log the object itself.
        """
        arguments = record.args if isinstance(record.args, tuple) else (record.args,)
        text = record.msg if type(record.msg) is str else id(record.msg)
        made_by = (record.pathname, record.lineno, text, *[id(argument) for argument in arguments])
        thread = get_ident()
        seen = self._copying.get(thread)
        if seen is not None:
            if made_by in seen:
                return None
            seen[made_by] = record  # keeps the objects, so that no later ones have their ids
            return self._copy(record)
        self._copying[thread] = {made_by: record}
        try:
            return self._copy(record)
        finally:
            self._copying.pop(thread, None)  # the child of a fork has begun anew

    def _copy(self, record: logging.LogRecord) -> _Record:
        fields = record.__dict__
        text = self.format(record) if self.formatter is not None else record.getMessage()
        attributes: dict[str, Any] = {
            "code.file.path": record.pathname,
            "code.function.name": record.funcName,
            "code.line.number": record.lineno,
            "thread.id": record.thread,
            "thread.name": record.threadName,
        }
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            attributes |= exception_attributes(error, self._limits)
        kept: dict[str, Any] = {}
        dropped = 0
        extra = [(key, fields[key]) for key in [*fields] if key not in _USUAL]
        for key, value in (*attributes.items(), *extra):
            if value is None:
                continue
            plain, _ = clean(value, self._limits.value_length)
            if plain is MISSING or len(kept) >= self._limits.attributes:
                dropped += 1
            else:
                kept[str(key)] = plain
        return _Record(
            logger=str(record.name),
            time_ns=max(0, min(int(record.created * 1e9), _MAX_NS)),
            level=int(record.levelno),
            level_name=str(record.levelname),
            body=text[:_MAX_BODY],
            attributes=kept,
            dropped=dropped,
            ids=_ids(fields),
        )

    def _send_all(self) -> bool:
        """Send the queue; records that arrive meanwhile are left for the next call."""
        deadline = min(time.monotonic() + self._client.timeout_s, self._background.deadline)
        self._has_hurried = False
        for _ in range(len(self._queue) // _BATCH + 1):
            if batch := self._take(_BATCH):
                self._lose(self._client.deliver(batch, self._encode, deadline, "log records"))
        if self.dropped:
            message = "log records are dropped: the queue of %d is full (reported once)"
            self._client.notices.say("warning", "dropped", message, self._capacity)
        return bool(self._queue)

    def _encode(self, records: Sequence[_Record]) -> bytes:
        scopes: dict[str, list[dict[str, Any]]] = {}
        now = str(time.time_ns())
        for record in records:
            scopes.setdefault(record.logger, []).append(_message(record, now))
        request = {
            "resourceLogs": [
                {
                    "resource": {"attributes": attributes_as_json(current_resource())},
                    "scopeLogs": [
                        {"scope": {"name": whole(name), "version": __version__}, "logRecords": messages}
                        for name, messages in scopes.items()
                    ],
                }
            ]
        }
        return encode_json(request) if self._client.protocol == "http/json" else encode_message(request, LOGS)

    def flush(self, timeout_s: float = _FAREWELL_S) -> None:
        """Send the queue now, for at most *timeout_s*, which is as for ``tracekit.flush()``.

        ``logging.shutdown()`` calls this at the end of the program.
        """
        timeout_s = bounded_timeout(timeout_s, _FAREWELL_S)
        self._adopt()
        if self._queue and not self._background.flush(timeout_s):
            self._waited = time.monotonic(), timeout_s

    def close(self) -> None:
        """Send the queue, for at most 3 s and without waiting for retries, and close the connection.

        The 3 s include a ``flush()`` just before. Records that are left in the queue count as failed.
        """
        self._adopt()
        self._client.is_late.set()
        if self._queue or self._background.served_by:
            ended, waited_s = self._waited
            left_s = _FAREWELL_S - waited_s if time.monotonic() - ended < 1 else _FAREWELL_S
            if not self._background.close(max(0.0, left_s)):
                self._waited = time.monotonic(), _FAREWELL_S
                self._lose(len(self._take(len(self._queue))))
        self._client.close()
        super().close()


def _ids(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ids that the record already has, of the code that made it, or those current here."""
    trace_id, span_id = fields.get("trace_id"), fields.get("span_id")
    if type(trace_id) is str and type(span_id) is str:
        trace_id, span_id = trace_id.lower(), span_id.lower()
        if parse_hex(trace_id, 32) and parse_hex(span_id, 16):  # else they are the program's own, in another form
            return {"flags": int(fields.get("sampled") is True), "traceId": trace_id, "spanId": span_id}
    context = current_context()
    if context is None or not context.is_valid:
        return {}
    return {"flags": context.flags, "traceId": context.trace_id, "spanId": context.span_id}


def _message(record: _Record, now: str) -> dict[str, Any]:
    found = {
        "timeUnixNano": str(record.time_ns),
        "observedTimeUnixNano": now,
        "severityNumber": _severity(record.level),
        "severityText": whole(record.level_name),
        "body": value_as_json(record.body),
        "attributes": attributes_as_json(record.attributes),
    }
    if record.dropped:
        found["droppedAttributesCount"] = record.dropped
    return found | record.ids


def _severity(level: int) -> int:
    """Return OTLP's number: 1 to 4 are TRACE, 5 DEBUG, 9 INFO, 13 WARN, 17 ERROR, 21 to 24 FATAL."""
    if level < logging.DEBUG:
        return 1 if level > 0 else 0
    return min(24, level // 10 * 4 + 1 + level % 10 * 4 // 10)
