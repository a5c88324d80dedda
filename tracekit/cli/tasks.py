"""``tracekit tasks``: the tasks of a running process and where they wait, from inside it or from its page."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Final

from .._render import encodable, printable
from ..debug._task_text import lines, matching, stuck_s
from .screen import ERROR, complain, print_json

if TYPE_CHECKING:
    import argparse

    from ..debug._task_text import Task

_MAX_ANSWER: Final = 64 << 20  # octets; 10,000 tasks take about 30 MiB
_POLL_S: Final = 0.02

# The process runs this. An error in it is the answer, and no name of it stays.
_SCRIPT: Final = """\
def _write_tasks():
    path = {path!r}
    try:
        from tracekit.debug._dump import write_json
        write_json(path)
    except BaseException as error:
        import os
        with open(path + ".error.part", "w", encoding="utf-8") as file:
            file.write(f"{{type(error).__name__}}: {{error}}")
        os.replace(path + ".error.part", path + ".error")
_write_tasks()
del _write_tasks
"""


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return its exit status."""
    try:
        timeout_s = arguments.timeout
        tasks = _fetch(arguments.url, timeout_s) if arguments.url else _attach(arguments.pid, timeout_s, arguments.wake)
    except (OSError, RuntimeError, ValueError) as error:
        complain(str(error))
        return ERROR
    if arguments.name:
        tasks = matching(tasks, arguments.name)
    if arguments.json:
        print_json(sorted(tasks, key=stuck_s, reverse=True) if arguments.list else tasks)
        return 0
    encoding = sys.stdout.encoding
    for line in lines(tasks, arguments.list):
        sys.stdout.write(encodable(line, encoding) + "\n")
    return 0


def _attach(pid: int, timeout_s: float, wake: bool) -> list[Task]:
    """Have the process *pid* write its tasks to a file, by PEP 768, and return them."""
    remote_exec = getattr(sys, "remote_exec", None)
    if remote_exec is None:
        raise RuntimeError(
            f"attaching needs Python 3.14 here and in the process, and this is {sys.version.partition(' ')[0]}: "
            "use --url with the address of tracekit.debug.serve(), or have the process call "
            "tracekit.debug.dump_on_signal()"
        )
    folder = tempfile.mkdtemp(prefix="tracekit-tasks-")  # of this user alone
    try:
        script, answer = os.path.join(folder, "script.py"), os.path.join(folder, "answer.json")
        with open(script, "w", encoding="utf-8") as file:
            file.write(_SCRIPT.format(path=answer))
        _hand_over(pid, folder, script)
        try:
            remote_exec(pid, script)
        except (OSError, RuntimeError) as error:
            raise RuntimeError(f"process {pid} cannot be attached to: {type(error).__name__}: {error}") from None
        if wake:
            _wake(pid)
        return _tasks_in(_await(pid, answer, timeout_s))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _hand_over(pid: int, folder: str, script: str) -> None:
    """Let the user of the process *pid* read and write *folder* and *script*; only root can."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        try:
            owner = os.stat(f"/proc/{pid}")
        except OSError:  # no /proc, or no such process, which remote_exec() reports
            return
        for path in (script, folder):  # the folder last: its owner may put a link to any file in the script's place
            os.chown(path, owner.st_uid, owner.st_gid)


def _wake(pid: int) -> None:
    """Stop and continue the process, so that the system call that its main thread waits in ends (signal(7))."""
    import signal

    try:
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(_POLL_S)
        finally:
            os.kill(pid, signal.SIGCONT)
    except (AttributeError, OSError) as error:
        raise RuntimeError(f"process {pid} cannot be woken: {type(error).__name__}: {error}") from None


def _await(pid: int, answer: str, timeout_s: float) -> bytes:
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(FileNotFoundError):
            return _read(answer, _MAX_ANSWER + 1)
        with contextlib.suppress(FileNotFoundError):
            error = _read(f"{answer}.error", 1600).decode("utf-8", "replace")[:400]
            raise RuntimeError(f"process {pid} failed to list its tasks: {printable(error)}")
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"process {pid} did not answer in {timeout_s:g} s: it answers when its main thread runs Python code "
                "next, so not while that waits in a system call or in C code (--wake interrupts a system call)"
            )
        time.sleep(_POLL_S)


def _read(path: str, limit: int) -> bytes:
    """Return the first *limit* octets of a file, not of a link or a FIFO that the process has put in its place."""
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with open(path, "rb", opener=lambda path, mode: os.open(path, mode | flags)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise RuntimeError(f"{path} is not a file")
        return file.read(limit)


def _fetch(url: str, timeout_s: float) -> list[Task]:
    """Return the tasks from the pages at *url*, the address that ``tracekit.debug.serve()`` has."""
    import http.client
    import urllib.request
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"the address must start with http:// or https://: {printable(url)}")
    if parts.path in ("", "/"):
        url = f"{parts.scheme}://{parts.netloc}/debug/"  # where serve() and TRACEKIT_DEBUG_PAGES have them
    address = f"{url.partition('?')[0].rstrip('/').removesuffix('/tasks')}/tasks?format=json"
    try:
        with urllib.request.urlopen(address, timeout=timeout_s) as response:
            return _tasks_in(response.read(_MAX_ANSWER + 1))
    except urllib.request.HTTPError as error:
        error.close()
        raise RuntimeError(f"{printable(address)}: {printable(str(error))}") from None
    except (OSError, http.client.HTTPException) as error:  # the latter: a bad port, or an answer that is not HTTP
        why = getattr(error, "reason", error)  # the error inside a URLError
        why = printable(str(getattr(why, "strerror", None) or why))
        raise RuntimeError(
            f"{printable(address)} cannot be reached: does the process serve tracekit.debug there? ({why})"
        ) from None


def _tasks_in(answer: bytes) -> list[Task]:
    if len(answer) > _MAX_ANSWER:
        raise ValueError(f"the answer is longer than {_MAX_ANSWER >> 20} MiB")
    try:
        tasks = json.loads(answer)["tasks"]
        list(lines(tasks))  # raises where it has another form
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        raise ValueError("the answer is not a list of tasks: is it tracekit's, of this version?") from None
    found: list[Task] = tasks
    return found
