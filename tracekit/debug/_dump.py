"""The tasks of this process for readers outside it: on a signal as text, and for ``tracekit tasks --pid`` as JSON."""

from __future__ import annotations

import _thread
import json
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from .._export.notices import describe, log
from .._export.threads import Done
from .._signals import go_on_after_dump
from ..aio._tasks import snapshot
from ._task_text import as_json, lines

if TYPE_CHECKING:
    from types import FrameType

_END_S = 5.0


def dump_on_signal(number: int, path: str | os.PathLike[str] | None = None) -> None:
    """Write all tasks as text when signal *number* arrives: to stderr, or appended to the file *path*.

    A new file is made for its owner alone (0600), since it shows the names of spans. A Python handler of the signal that
    was installed before is called afterwards, or the default action taken, except for SIGUSR1 and SIGUSR2. The text is
    written by a thread, so a signal that does not end the program costs it no more than starting that.

    Raises ``RuntimeError`` outside the main thread, where Python cannot install handlers; ``ValueError`` for a signal
    that does not exist or cannot be handled.
    """
    import signal

    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"number must be an int such as signal.SIGUSR1, not {type(number).__name__}")
    target = None if path is None else os.fsdecode(path)
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("dump_on_signal() must be called in the main thread")
    try:
        previous = signal.getsignal(number)
        if isinstance(previous, _Dump):
            previous = previous.previous
        signal.signal(number, _Dump(target, previous))
    except (OSError, OverflowError, ValueError) as error:
        raise ValueError(f"signal {number} cannot be handled: {error}") from None


class _Dump:
    """The handler of a signal."""

    def __init__(self, path: str | None, previous: Any) -> None:
        self.path = path
        self.previous = previous
        self._done = Done()  # not set while the tasks are written
        self._done.set()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        # In a thread: the main thread may hold any lock at this moment, that of stderr among them. Thread.start() would
        # wait for the new thread, which may wait for a lock of threading that is held here.
        if self._done.is_set():
            done = self._done = Done()
            try:
                _thread.start_new_thread(self._write, (done,))
            except Exception as error:
                log("warning", "tasks could not be written: %s", describe(error))
                done.set()
        go_on_after_dump(number, self.previous, frame, self._wait)

    def _wait(self) -> None:
        self._done.wait(_END_S)

    def _write(self, done: Done) -> None:
        try:
            shown = "\n".join(lines(as_json(snapshot())))
            text = f"tracekit: tasks of process {os.getpid()}, {time.strftime('%Y-%m-%d %H:%M:%S')}\n{shown}\n"
            if self.path is None:
                sys.stderr.write(text)
                sys.stderr.flush()
            else:
                with open(self.path, "a", encoding="utf-8", errors="backslashreplace", opener=_opened) as file:
                    file.write(text)
        except Exception as error:
            log("warning", "tasks could not be written: %s", describe(error))
        finally:
            done.set()


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def write_json(path: str) -> None:
    """Write all tasks to the new file *path*, complete under its name or not at all."""
    answer = {"pid": os.getpid(), "tasks": as_json(snapshot())}
    partial = f"{path}.part"
    with open(partial, "x", encoding="utf-8") as file:
        json.dump(answer, file)
    os.replace(partial, path)
