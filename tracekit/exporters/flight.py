"""The flight recorder: the last seconds of this process, written to a file when something goes wrong.

How it works: an exporter in front of another one that keeps every span, sampled or not, in a bounded ring, and passes
the sampled ones on. A failed or slow request, a signal or ``dump()`` writes the ring, and the spans that are open, to a
new file that ``tracekit traces`` reads. Files are written in a thread: neither the program nor the export waits.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from .._arguments import check_exporter
from .._configure import flush
from .._core.checks import check_bool, check_int, nanoseconds
from .._core.records import Account
from .._core.span import open_spans, watch_spans
from .._export.notices import Notices, describe, log
from .._export.stand_ins import Discard
from .._export.threads import EXPORT_CONTEXT
from .._signals import go_on_after_dump
from ._front import Front
from .sqlite import SQLiteExporter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from .._core.span import Span
    from .._export.exporter import Exporter

__all__ = ["FlightRecorder"]

_MIN_BYTES: Final = 1 << 20
_BATCH: Final = 2048
_MAX_OPEN: Final = 10_000
_FLUSH_S: Final = 2.0
_END_S: Final = 5.0
_OURS: Final = re.compile(r"flight-\d{8}T\d{6}-\d+-\d+-[a-z]+\.db").fullmatch


class FlightRecorder(Front):
    """Keep the spans of the last *seconds*, sampled or not, and write them to a file when it matters.

    ``configure(exporter=FlightRecorder(OTLPExporter()))``: *exporter* gets the sampled spans as without the recorder, and
    contexts that are sent to other services stay sampled or not as the sampler decided; None exports nothing. The
    ring holds at most *max_spans*; spans that are open when a file is written are in it with the time so far and the
    attribute ``tracekit.open``.

    A file is written when a local root, a span whose parent is None or remote, ends with the status "error"
    (*on_error*) or takes longer than *slower_s*, but at most one in *min_interval_s*; when the signal *dump_on_signal*
    arrives, whose previous handler is called then, or its default action taken, except for SIGUSR1 and SIGUSR2; and by
    ``dump()``. Files are ``flight-TIME-PROCESS-NUMBER-REASON.db`` in *directory*, each at most *max_bytes* (at least
    1 MiB), for the owner alone; the oldest of more than *max_files* are deleted. ``tracekit traces list FILE`` reads them.

    Raises ``TypeError`` or ``ValueError`` for invalid arguments, and ``RuntimeError`` for *dump_on_signal* outside the
    main thread. Later failures are logged once per cause.
    """

    records_all = True  # configure() reads it

    def __init__(
        self,
        exporter: Exporter | None = None,
        *,
        seconds: float = 30.0,
        directory: str | os.PathLike[str] = ".",
        on_error: bool = True,
        slower_s: float | None = None,
        dump_on_signal: int | None = None,
        min_interval_s: float = 60.0,
        max_spans: int = 50_000,
        max_files: int = 10,
        max_bytes: int = 64 * 2**20,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        exporter = Discard() if exporter is None else exporter
        check_exporter(exporter)
        check_bool("on_error", on_error)
        check_int("max_spans", max_spans, 1)
        check_int("max_files", max_files, 1)
        check_int("max_bytes", max_bytes, _MIN_BYTES)
        self.exporter: Exporter = exporter
        self.seconds = seconds
        self.directory = os.path.abspath(os.fspath(directory))
        self.on_error = on_error
        self.slower_s = slower_s
        self.min_interval_s = min_interval_s
        self.max_spans = max_spans
        self.max_files = max_files
        self.max_bytes = max_bytes
        self._age_ns = nanoseconds("seconds", seconds)
        self._slow_ns = None if slower_s is None else nanoseconds("slower_s", slower_s)
        self._interval_ns = nanoseconds("min_interval_s", min_interval_s)
        self._clock = clock
        self._notices = Notices()
        self._is_started = False
        self._check_process()
        if dump_on_signal is not None:
            _handle(self, dump_on_signal)

    def __repr__(self) -> str:
        return f"FlightRecorder({self.exporter!r}, seconds={self.seconds})"

    def _forget(self) -> None:
        # For the ring; held for a few steps. Reentrant: a signal handler may interrupt its holder.
        self._lock = threading.RLock()
        self._is_writing = threading.Lock()  # one file at a time
        self._written_by = 0  # the thread that holds it
        self._ring: deque[tuple[int, list[Span]]] = deque()  # batches with the time of their arrival
        self._count = self._unsampled = self._failed = self._number = 0
        self._theirs = Account()
        self._last_ns: int | None = None  # of the last file that was written without a request for it
        self._thread: threading.Thread | None = None

    def export(self, spans: Sequence[Span]) -> None:
        """Keep *spans*, and pass on those that are sampled."""
        self._check_process()
        now_ns = self._clock()
        kept = list(spans)
        with self._lock:
            self._ring.append((now_ns, kept))
            self._count += len(kept)
            while len(self._ring) > 1 and (self._count > self.max_spans or now_ns - self._ring[0][0] > self._age_ns):
                self._count -= len(self._ring.popleft()[1])
        reason = ""
        sampled = []
        for span in kept:
            if span.context.sampled:
                sampled.append(span)
            parent = span.parent
            if not reason and (parent is None or parent.is_remote):
                reason = self._reason(span)
        if reason:
            self._trigger(reason, now_ns)
        self._unsampled += len(kept) - len(sampled)
        if sampled:
            self._hand_over(self.exporter, sampled)

    def _reason(self, root: Span) -> str:
        if self.on_error and root.status.code == "error":
            return "error"
        is_slow = self._slow_ns is not None and (root.end_ns or 0) - root.start_ns > self._slow_ns
        return "slow" if is_slow else ""

    def _trigger(self, reason: str, now_ns: int) -> None:
        if self._last_ns is not None and now_ns - self._last_ns < self._interval_ns:
            return
        self._last_ns = now_ns
        self._start(reason)

    def _start(self, reason: str) -> None:
        """Write a file in a thread, or, where none can be started, in the caller, unless that is a signal handler."""
        try:
            thread = threading.Thread(target=self._write, args=(reason,), name="tracekit-flight", daemon=True)
            EXPORT_CONTEXT.copy().run(thread.start)
        except Exception as error:  # no more threads, or the interpreter is exiting (CPython 3.12.0 and 3.12.1)
            if reason != "signal":
                self._write(reason)
            else:
                self._notices.say("warning", "thread", "flight recorder: no file was written: %s", describe(error))
        else:
            self._thread = thread

    def dump(self) -> str | None:
        """Write the ring and the open spans to a new file now; return its path.

        Finished spans that still wait for export are included. None means that there are no spans, or that writing
        failed.
        """
        self._check_process()
        flush(_FLUSH_S)
        return self._write("dump", wait_s=_END_S)

    def _write(self, reason: str, wait_s: float = 0.0) -> str | None:
        if self._written_by == threading.get_ident():  # by a signal handler: the file that it interrupts is enough
            return None
        if not self._is_writing.acquire(timeout=wait_s):
            return None
        self._written_by = threading.get_ident()
        try:
            return self._write_file(reason)
        except Exception as error:
            message = "flight recorder: no file was written: %s (reported once per cause)"
            self._notices.say("error", type(error), message, describe(error))  # its text names the file
            return None
        finally:
            self._written_by = 0
            self._is_writing.release()

    def _write_file(self, reason: str) -> str | None:
        if reason == "signal":
            flush(_FLUSH_S)
        with self._lock:
            batches: list[list[Any]] = [batch for _, batch in self._ring]
        batches.append(self._open())
        if not any(batches):
            return None
        self._number += 1
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        name = f"flight-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}-{self._number}-{reason}.db"
        path = os.path.join(self.directory, name)
        store = SQLiteExporter(path, max_bytes=self.max_bytes)
        count = 0
        try:
            for batch in batches:
                for start in range(0, len(batch), _BATCH):
                    store.export(batch[start : start + _BATCH])
                count += len(batch)
        except BaseException:
            store.shutdown()
            _delete(path)  # a full disk needs no useless files
            raise
        store.shutdown()
        level = "info" if reason == "dump" else "warning"  # the program knows about dump()
        log(level, "flight recorder: %d spans written to %s (%s)", count, path, reason)
        self._delete_old()
        return path

    def _open(self) -> list[Any]:
        taken: list[Span] = []
        while len(taken) < _MAX_OPEN and open_spans(taken, _BATCH):
            pass
        now_ns = time.time_ns()
        return [_OpenSpan(span, now_ns) for span in taken if not span.ended]

    def _delete_old(self) -> None:
        """Delete the oldest files of more than *max_files*; names that are not the recorder's are left alone."""
        names = sorted([name for name in os.listdir(self.directory) if _OURS(name)], key=self._age)
        for name in names[: -self.max_files]:
            _delete(os.path.join(self.directory, name))

    def _age(self, name: str) -> tuple[str, int, str]:
        _, moment, _, number, _ = name.split("-")
        return moment, int(number), name

    def start(self) -> None:
        """Start to list open spans, and start *exporter*, if it can."""
        if not self._is_started:
            self._is_started = True
            watch_spans(True)
        super().start()

    def account(self) -> Account:
        """Return the account of *exporter*, and the numbers of spans that it did not take and that are not sampled."""
        self._check_process()
        queued, failed, unsampled = self._ask_account(self.exporter)
        return Account(queued, failed + self._failed, unsampled + self._unsampled)

    def _finish(self) -> None:
        """Wait for a file that is being written."""
        thread = self._thread
        if thread is not None:
            thread.join(_END_S)
        # That thread ends at once where another one is writing.
        if self._written_by not in (0, threading.get_ident()) and self._is_writing.acquire(timeout=_END_S):
            self._is_writing.release()

    def shutdown(self) -> None:
        """Finish a file that is being written, and shut *exporter* down. The handler of the signal stays."""
        self._finish()
        if self._is_started:
            self._is_started = False
            watch_spans(False)
        self.exporter.shutdown()


class _OpenSpan:
    """A span that is open, as the store takes it: it ends now."""

    def __init__(self, span: Span, now_ns: int) -> None:
        self._span = span
        self.end_ns = max(now_ns, span.start_ns)
        self.attributes = {**span.attributes, "tracekit.open": True}

    def __getattr__(self, name: str) -> Any:
        if name == "_span":  # not set: an object that copy() made
            raise AttributeError(name)
        return getattr(self._span, name)


def _handle(recorder: FlightRecorder, number: int) -> None:
    """Install a handler of the signal *number* that has a file written, and goes on as without it."""
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"dump_on_signal must be a signal such as signal.SIGUSR1, not {type(number).__name__}")
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("dump_on_signal needs the main thread, in which Python installs handlers")

    def handle(number: int, frame: FrameType | None) -> None:
        recorder._check_process()
        recorder._start("signal")
        go_on_after_dump(number, previous, frame, recorder._finish)

    try:
        previous = signal.getsignal(number)
        signal.signal(number, handle)
    except (OSError, OverflowError, ValueError) as error:
        raise ValueError(f"dump_on_signal: signal {number} cannot be handled: {error}") from None


def _delete(path: str) -> None:
    for suffix in ("", "-wal", "-shm"):
        try:
            os.unlink(path + suffix)
        except FileNotFoundError:  # another process may delete, too
            pass
