"""The spool of an exporter: an outbox, and the thread that empties it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .._sqlite.errors import StoreError
from .sender import report_unusable

if TYPE_CHECKING:
    from ..._export.notices import Notices
    from .outbox import Outbox
    from .requests import Request
    from .sender import Sender

_IDLE = 10.0  # after a failure, the spool rests this many times as long as the failure took


class Spool:
    """Requests wait in *outbox* until *sender* has sent them."""

    def __init__(self, outbox: Outbox, sender: Sender, notices: Notices) -> None:
        self.outbox = outbox
        self.sender = sender
        self._notices = notices
        self._evicted = -1  # spans that the outbox had evicted at the last put
        self._again = 0.0  # its next use after a failure, on the monotonic clock

    def put(self, request: Request) -> bool:
        """Keep *request*; return False while the file cannot be used."""
        if time.monotonic() < self._again:
            return False
        begin = time.monotonic()
        try:
            evicted = self._put(request)
        except StoreError as error:
            report_unusable(self.outbox, error, self._notices)
            now = time.monotonic()
            self._again = now + _IDLE * (now - begin)
            return False
        if evicted > self._evicted >= 0:
            message = "the spool is full: its oldest spans are dropped (reported once; `tracekit spool %s` counts all)"
            self._notices.say("warning", "evicted", message, self.outbox.path)
        self._evicted = evicted
        self.sender.wake()
        return True

    def _put(self, request: Request) -> int:
        body, spans, content_type, encoding = request
        try:
            return self.outbox.put(body, spans=spans, content_type=content_type, content_encoding=encoding)
        except StoreError as error:
            if not (error.is_damaged and report_unusable(self.outbox, error, self._notices)):
                raise
        return self.outbox.put(body, spans=spans, content_type=content_type, content_encoding=encoding)

    def close(self, timeout_s: float) -> None:
        """Send while that succeeds, for at most *timeout_s*; the other batches stay in the file."""
        self.sender.close(timeout_s)
        self.outbox.close()
