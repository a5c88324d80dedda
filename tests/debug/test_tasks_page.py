"""/debug/tasks and /debug/loop, the tree of tasks as text, and tasks on a signal."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from html.parser import HTMLParser

import anyio
import pytest

import tracekit
from tracekit import aio
from tracekit.aio import _tasks as aio_tasks
from tracekit.aio import _waits
from tracekit.aio._stacks import running_threads
from tracekit.debug import _dump, _loop, _task_text, _tasks, dump_on_signal
from tracekit.debug._view import Request, json_chunks

HOSTILE = '<script>alert("1")</script>\x1b[31m'


def request(**arguments):
    return Request(arguments, False, lambda: None)


def task(name, parent=None, **changes):
    return {
        "id": name,
        "name": name,
        "backend": "asyncio",
        "state": "waiting",
        "thread": "MainThread",
        "parent": parent,
        "group": "",
        "group_id": "",
        "span": None,
        "age_s": None,
        "seen_s": 0.0,
        "idle_s": None,
        "awaits": [{"function": "work", "file": "/srv/app/main.py", "line": 7}],
        "waits_for": "Future",
        "awaited_by": [],
        **changes,
    }


SPAN = {"name": "pay", "trace_id": "1" * 16, "span_id": "2" * 16, "age_s": 3.0, "has_ended": False}
TASKS = [
    task("MainThread", backend="thread"),
    task("quick", "MainThread", idle_s=0.5),
    task("owner", "MainThread"),
    task("child a", "owner", group="checkout", group_id="1", idle_s=9.0, span=SPAN),
    task("child b", "owner", group="trio.Nursery", group_id="2", state="ready", waits_for=""),
]


def test_tasks_are_a_tree_with_their_groups_and_the_longest_stuck_first():
    assert "\n".join(_task_text.lines(TASKS)) == textwrap.dedent(
        """\
        MainThread  waiting
        │    work (app/main.py:7)
        ├─ owner  waiting  waits for Future
        │  │    work (app/main.py:7)
        │  ├─ (checkout)
        │  │  └─ child a  waiting for at least 9.00 s  span pay 3.00 s trace 1111111111111111  waits for Future
        │  │          work (app/main.py:7)
        │  └─ (trio.Nursery)
        │     └─ child b  ready
        │             work (app/main.py:7)
        └─ quick  waiting for at least 500 ms  waits for Future
                work (app/main.py:7)"""
    )


ENDED = {**SPAN, "has_ended": True}
UNKNOWN = {**SPAN, "name": "", "age_s": None}


@pytest.mark.parametrize(
    ("known", "shown", "in_a_line"),
    [
        ({"age_s": 0.5, "seen_s": 0.2, "span": SPAN}, "500 ms", "age 500 ms"),
        ({"seen_s": 0.0}, "first look", ""),
        ({"seen_s": 2.0}, "at least 2.00 s", "age at least 2.00 s"),
        ({"seen_s": 2.0, "idle_s": 1.0}, "at least 2.00 s", "age at least 2.00 s"),
        ({"seen_s": 2.0, "idle_s": 2.0}, "at least 2.00 s", ""),
        ({"seen_s": 0.0, "span": SPAN}, "span 3.00 s", ""),
        ({"seen_s": 2.0, "span": SPAN}, "span 3.00 s", ""),
        ({"seen_s": 4.0, "span": SPAN}, "at least 4.00 s", "age at least 4.00 s"),
        ({"seen_s": 2.0, "span": ENDED}, "at least 2.00 s", "age at least 2.00 s"),
        ({"seen_s": 0.0, "span": ENDED}, "first look", ""),
        ({"seen_s": 2.0, "span": UNKNOWN}, "at least 2.00 s", "age at least 2.00 s"),
    ],
)
def test_an_age_that_is_not_known_is_that_of_the_span_or_a_lower_bound_and_says_so(known, shown, in_a_line):
    one = task("worker", **known)
    assert _task_text.age(one) == shown
    parts = _task_text.summary(one).split("  ")
    assert [part for part in parts if part.startswith("age ")] == ([in_a_line] if in_a_line else [])


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_column_of_ages_has_a_number_in_every_row_from_the_second_look_on(backend, monkeypatch, exporter):
    now = [10**9]
    monkeypatch.setattr(aio_tasks, "monotonic_ns", lambda: now[0])
    monkeypatch.setattr(aio_tasks, "_seen", {})  # threads that another test saw, at another clock
    # The module threading does not know those of pytest-xdist: each look is the first one for them.
    known = {thread.ident for thread in threading.enumerate()} | {None}
    monkeypatch.setattr(
        aio_tasks, "running_threads", lambda: {id: found for id, found in running_threads().items() if id in known}
    )

    async def main():
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever, name="sleeper")
            await anyio.wait_all_tasks_blocked()
            _tasks.PAGE.view(request())
            now[0] += 90 * 10**9
            view = _tasks.PAGE.view(request())
            group.cancel_scope.cancel()
            return "".join(view.html())

    rows = anyio.run(main, backend=backend).split('<tr class="row">')[1:]
    ages = [cells[2] for cells in (re.findall(r"<td>(.*?)</td>", row) for row in rows) if cells]
    assert len(ages) >= 3  # the thread, the main task and the sleeper
    assert set(ages) == {"at least 1m 30s"}


def test_a_list_has_the_longest_stuck_first():
    lines = list(_task_text.lines(TASKS, is_list=True))
    assert [line.split("  ")[0] for line in lines[:4:2]] == ["child a", "quick"]


def test_tasks_that_wait_for_each_other_are_shown():
    tasks = [task("a", "b", idle_s=1.0), task("b", "a", idle_s=2.0), task("c", "gone")]
    assert sum("main.py" in line for line in _task_text.lines(tasks)) == 3


@pytest.mark.parametrize("text", ["CHILD A", "checkout", "pay", "1111"])
def test_a_filter_finds_names_groups_spans_and_traces(text):
    assert [found["name"] for found in _task_text.matching(TASKS, text)] == ["child a"]


def test_a_filter_finds_functions():
    assert _task_text.matching(TASKS, "WORK") == TASKS
    assert _task_text.matching(TASKS, "nothing") == []


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on") or name == "style"]


def in_a_task(page, **arguments):
    """Return the three forms of a page while a task with a hostile name waits in a span with a hostile name."""

    async def work():
        with tracekit.span(HOSTILE):
            await anyio.sleep_forever()

    async def main():
        async with aio.create_task_group(HOSTILE) as group:
            group.start_soon(work, name=HOSTILE)
            await anyio.wait_all_tasks_blocked()
            view = page.view(request(**arguments))
            group.cancel_scope.cancel()
        return "".join(view.html()), "\n".join(view.text()), json.loads("".join(json_chunks(view.json(), lambda: None)))

    return anyio.run(main)


@pytest.mark.parametrize("view", ["tree", "list"])
def test_hostile_names_are_text_in_every_form(view, exporter):
    html, text, data = in_a_task(_tasks.PAGE, view=view, name="alert")
    tags = Tags()
    tags.feed(html)
    assert "script" not in tags.tags
    assert "&lt;script&gt;" in html
    assert "\x1b" not in html + text
    assert {found["name"] for found in data["tasks"]} >= {HOSTILE}
    assert {found["span"]["name"] for found in data["tasks"]} == {HOSTILE}
    assert data["count"] >= len(data["tasks"]) >= 2


def test_the_filter_is_shown_as_text(exporter):
    html, text, data = in_a_task(_tasks.PAGE, name='"><script>')
    assert 'value="&quot;&gt;&lt;script&gt;"' in html
    assert data["tasks"] == []
    assert text.startswith("0 of ")


def test_the_table_of_the_page_is_bounded(monkeypatch, exporter):
    monkeypatch.setattr(_tasks, "_SHOWN", 1)
    html, text, data = in_a_task(_tasks.PAGE, view="list")
    assert html.count('<tr class="row">') == 1
    assert "further tasks" in html
    assert text.count("\n") == 2 * data["count"]


def test_the_page_paces_itself():
    paces = []
    _tasks.PAGE.view(Request({}, False, lambda: paces.append(1)))
    assert paces


def test_the_page_of_loops_shows_watches_stalls_and_groups(monkeypatch):
    monkeypatch.setattr(_waits, "_tallies", {})

    async def main():
        with aio.watch_loop(1000) as watch:
            _waits.note_wait(HOSTILE, "task", 2_000_000)
            watch._turned(1_500_000_000)  # less than two thresholds: a stall that no look fell into
            view = _loop.PAGE.view(request())
            return "".join(view.html()), "\n".join(view.text()), view.json()

    html, text, data = asyncio.run(main())
    assert "1 stall of 1.00 s or more, 1.50 s in total" in text
    assert "2.00 ms (task), 2.00 ms, 1" in text
    tags = Tags()
    tags.feed(html)
    assert "script" not in tags.tags
    assert [loop["stalls"] for loop in data["loops"]] == [1]
    assert data["groups"][0]["worst_task"] == "task"
    json.dumps(data)


def test_without_a_watch_the_page_says_how():
    assert "tracekit.aio.watch_loop()" in "\n".join(_loop.PAGE.view(request()).text())


# ---- on a signal

PROGRAM = """
    import asyncio, signal, sys
    import tracekit, tracekit.debug

    tracekit.debug.dump_on_signal(signal.SIGUSR1, *sys.argv[1:])

    async def work():
        await asyncio.Event().wait()

    async def main():
        task = asyncio.create_task(work(), name="stuck")
        await asyncio.sleep(0)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        task.cancel()

    asyncio.run(main())
    """


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal here")
@pytest.mark.parametrize("target", ["stderr", "file"])
def test_a_signal_writes_the_tasks(target, tmp_path):
    path = tmp_path / "tasks.txt"
    os.mkfifo(path)  # so that reading it waits
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), *([str(path)] if target == "file" else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGUSR1)
            if target == "file":
                text = path.read_text()
            else:
                text = process.stderr.readline()
                while "stuck" not in text:
                    line = process.stderr.readline()
                    assert line
                    text += line
        finally:
            process.stdin.close()
        assert process.wait(60) == 0
    assert f"tracekit: tasks of process {process.pid}" in text
    assert "stuck  waiting" in text


def test_a_handler_of_the_program_is_called_too(monkeypatch, tmp_path):
    calls = []
    before = signal.signal(signal.SIGINT, lambda *arguments: calls.append(arguments[0]))
    try:
        dump_on_signal(signal.SIGINT, tmp_path / "tasks.txt")
        dump_on_signal(signal.SIGINT, tmp_path / "tasks.txt")  # replaces the first
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls == [signal.SIGINT]


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself most signals there")
def test_a_signal_that_ends_the_program_still_does_once_the_tasks_are_written(tmp_path):
    path = tmp_path / "tasks.txt"
    program = """
        import signal, sys, tracekit.debug

        tracekit.debug.dump_on_signal(signal.SIGTERM, sys.argv[1])
        signal.raise_signal(signal.SIGTERM)
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program), path], timeout=60)
    assert done.returncode == -signal.SIGTERM
    assert "tracekit: tasks of process" in path.read_text()


def test_a_second_signal_waits_for_the_text_of_the_first(monkeypatch, tmp_path):
    may_write, path = threading.Event(), tmp_path / "tasks.txt"
    monkeypatch.setattr(_dump, "snapshot", lambda: may_write.wait(60) and [])
    handler = _dump._Dump(str(path), None)
    handler(signal.SIGTERM, None)
    first = handler._done
    handler(signal.SIGTERM, None)
    assert handler._done is first
    assert not first.is_set()
    may_write.set()
    handler._wait()
    assert path.read_text().count("tracekit: tasks of process") == 1


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_new_file_is_for_its_owner_alone(tmp_path):
    path = tmp_path / "tasks.txt"
    umask = os.umask(0)
    try:
        _dump._Dump(str(path), None)._write(_dump.Done())
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    _dump._Dump(str(path), None)._write(_dump.Done())
    assert path.stat().st_mode & 0o777 == 0o644
    assert path.read_text().count("tracekit: tasks of process") == 2


def test_wrong_signals_are_errors():
    with pytest.raises(TypeError, match="must be an int"):
        dump_on_signal("SIGUSR1")
    with pytest.raises(ValueError, match="signal 12345 cannot be handled"):
        dump_on_signal(12345)
    if hasattr(signal, "SIGKILL"):
        with pytest.raises(ValueError, match="cannot be handled"):
            dump_on_signal(signal.SIGKILL)


def test_in_another_thread_it_is_a_runtime_error():
    async def main():
        await asyncio.to_thread(dump_on_signal, signal.SIGINT)

    with pytest.raises(RuntimeError, match="in the main thread"):
        asyncio.run(main())
