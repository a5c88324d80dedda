"""The table "Is my span kept?" in docs/propagation.md, row by row: each hand-off, without and with the hooks."""

from __future__ import annotations

import asyncio
import contextvars
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import anyio.from_thread
import pytest
import trio

import tracekit
import tracekit.threads
from tracekit import aio

PAGE = (Path(__file__).parent.parent / "docs" / "propagation.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in row.strip("|").split("|")]
    for row in re.search(r"^## Is my span kept\?\n.*?^\|---.*?\n(.*?)\n\n", PAGE, re.DOTALL | re.MULTILINE)[
        1
    ].splitlines()
]


def work():
    tracekit.span("work").end()


async def awork():
    work()


async def started(*, task_status):
    task_status.started()
    work()


async def create_task():
    await asyncio.create_task(awork())


async def gather():
    await asyncio.gather(awork())


async def task_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(awork())


async def call_soon():
    done = asyncio.Event()
    asyncio.get_running_loop().call_soon(lambda: (work(), done.set()))
    await done.wait()


async def coroutine_threadsafe():
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(awork(), loop).result())


async def executor():
    await asyncio.get_running_loop().run_in_executor(None, work)


async def nursery_start_soon():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(awork)


async def nursery_start():
    async with trio.open_nursery() as nursery:
        await nursery.start(started)


async def anyio_start_soon():
    async with anyio.create_task_group() as group:
        group.start_soon(awork)


async def system_task():
    done = trio.Event()

    async def task():
        work()
        done.set()

    trio.lowlevel.spawn_system_task(task)
    await done.wait()


async def sync_soon():
    done = trio.Event()
    trio.lowlevel.current_trio_token().run_sync_soon(lambda: (work(), done.set()))
    await done.wait()


async def thread():
    started = threading.Thread(target=work)
    started.start()
    started.join()


async def timer():
    started = threading.Timer(0, work)
    started.start()
    started.join()


async def pool():
    with ThreadPoolExecutor() as threads:
        threads.submit(work).result()


BOTH = (asyncio.run, trio.run)
HAND_OFFS = {
    "asyncio.create_task()": (create_task, asyncio.run),
    "asyncio.gather()": (gather, asyncio.run),
    "asyncio.TaskGroup": (task_group, asyncio.run),
    "loop.call_soon()": (call_soon, asyncio.run),
    "nursery.start_soon()": (nursery_start_soon, trio.run),
    "nursery.start()": (nursery_start, trio.run),
    "task_group.start_soon()": (anyio_start_soon, *BOTH),
    "asyncio.to_thread()": (lambda: asyncio.to_thread(work), asyncio.run),
    "trio.to_thread.run_sync()": (lambda: trio.to_thread.run_sync(work), trio.run),
    "anyio.to_thread.run_sync()": (lambda: anyio.to_thread.run_sync(work), *BOTH),
    "asyncio.run_coroutine_threadsafe()": (coroutine_threadsafe, asyncio.run),
    "trio.from_thread.run()": (lambda: trio.to_thread.run_sync(trio.from_thread.run, awork), trio.run),
    "anyio.from_thread.run()": (lambda: anyio.to_thread.run_sync(anyio.from_thread.run, awork), *BOTH),
    "threading.Thread": (thread, *BOTH),
    "threading.Timer": (timer, *BOTH),
    "ThreadPoolExecutor.submit()": (pool, *BOTH),
    "loop.run_in_executor()": (executor, asyncio.run),
    "trio_token.run_sync_soon()": (sync_soon, trio.run),
    "trio.lowlevel.spawn_system_task()": (system_task, trio.run),
}


async def wrapped_thread():
    started = threading.Thread(target=tracekit.wrap(work))
    started.start()
    started.join()


async def own_thread():
    started = tracekit.threads.Thread(target=work)
    started.start()
    started.join()


async def wrapped_sync_soon():
    done = trio.Event()
    trio.lowlevel.current_trio_token().run_sync_soon(tracekit.wrap(lambda: (work(), done.set())))
    await done.wait()


async def system_task_in_a_copy():
    done = trio.Event()

    async def task():
        work()
        done.set()

    trio.lowlevel.spawn_system_task(task, context=contextvars.copy_context())
    await done.wait()


INSTEAD = {
    "tracekit.wrap()": [(wrapped_thread, asyncio.run), (wrapped_sync_soon, trio.run)],
    "tracekit.threads": [(own_thread, asyncio.run), (own_thread, trio.run)],
    "aio.run_in_executor()": [(lambda: aio.run_in_executor(None, work), asyncio.run)],
    "context=contextvars.copy_context()": [(system_task_in_a_copy, trio.run)],
}


def result(hand_off, run, exporter):
    """Return "kept" if the span of *hand_off* is a child of the one around it, and otherwise "lost"."""
    exporter.clear()

    async def request():
        with tracekit.span("request"):
            await hand_off()

    run(request) if run is trio.run else run(request())
    found = {span.name: span for span in exporter.spans}
    return "kept" if found["work"].parent == found["request"].context else "lost"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_hand_off_of_the_table_is_kept_or_lost_as_the_table_says(row, exporter):
    names, alone, hooked, _ = row
    hand_offs = re.findall(r"`([^`]+)`", names)
    assert hand_offs
    if getattr(sys.flags, "thread_inherit_context", 0) and "`threading.Thread`" in names:
        pytest.skip("threads inherit the Context of their start")
    for name in hand_offs:
        hand_off, *runs = HAND_OFFS[name]
        for run in runs:
            assert result(hand_off, run, exporter) == alone, name
            tracekit.install_hooks()
            try:
                assert result(hand_off, run, exporter) == hooked, name
            finally:
                tracekit.remove_hooks()


@pytest.mark.parametrize("call", INSTEAD)
def test_the_calls_of_the_last_column_keep_the_span(call, exporter):
    for hand_off, run in INSTEAD[call]:
        assert result(hand_off, run, exporter) == "kept"


def test_the_table_has_every_hand_off():
    assert {name for row in ROWS for name in re.findall(r"`([^`]+)`", row[0])} == set(HAND_OFFS)
    assert {name for row in ROWS for name in re.findall(r"`([^`]+)`", row[3])} == set(INSTEAD)
