"""What a hand-off costs with tracekit, beside the same without: tasks, threads, items, steps of generators, memory."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

import tracekit
from tracekit import aio

from .contender_tracekit import record
from .measure import Subject, runner
from .rows import BARE, OURS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterator

__all__ = ["bytes_of", "subjects"]

_TASKS = 50

_GROUP = f"""
async with create_task_group({{}}) as group:
    for _ in range({_TASKS}):
        group.start_soon(nothing)
"""


async def _nothing() -> None:
    pass


def _return() -> None:
    pass


def _endless() -> Generator[None, None, None]:
    while True:
        yield


async def _endless_async() -> AsyncGenerator[None, None]:
    while True:
        yield


@contextmanager
def _request() -> Iterator[None]:
    with tracekit.span("request"):
        yield


def _group(create: Any, name: str = "") -> Subject:
    names = {"create_task_group": create, "nothing": _nothing}
    return _subject(_GROUP.format(name), names, chunk=4, units=_TASKS)


def _subject(statement: str, names: dict[str, Any], **options: Any) -> Subject:
    return Subject(statement, names, _request, tracekit.flush, in_task=True, **options)


def _thread(run_sync: Any) -> Subject:
    return _subject("await run_sync(function)", {"run_sync": run_sync, "function": _return}, chunk=50)


def _stream(create: Any) -> Subject:
    send, receive = create(1)
    names = {"send": send.send_nowait, "receive": receive.receive_nowait, "_keep": (send, receive)}
    return _subject("send(1); receive()", names)


def subjects() -> dict[str, dict[str, Subject]]:
    """Return, by row, the same work with tracekit and without; tracekit records all the while."""
    record()
    return {
        "group": {OURS: _group(aio.create_task_group), BARE: _group(anyio.create_task_group)},
        "named_group": {OURS: _group(aio.create_task_group, "'group'"), BARE: _group(anyio.create_task_group)},
        "to_thread": {OURS: _thread(aio.to_thread.run_sync), BARE: _thread(anyio.to_thread.run_sync)},
        "item": {
            OURS: _stream(aio.create_memory_object_stream),
            BARE: _stream(anyio.create_memory_object_stream),
        },
        "step": {
            OURS: _subject("next(steps)", {"steps": tracekit.traced(_endless)()}),
            BARE: _subject("next(steps)", {"steps": _endless()}),
        },
        "async_step": {
            OURS: _subject("await anext(steps)", {"steps": tracekit.traced(_endless_async)()}),
            BARE: _subject("await anext(steps)", {"steps": _endless_async()}),
        },
    }


def bytes_of(key: str, count: int) -> dict[str, float]:
    """Return how many bytes each of *count* tasks or ticks of the row *key* holds, with tracekit and without."""
    record()
    run = {"live_task": _live_tasks, "tick": _ticks}[key]
    return {name: runner().run(run(count, is_traced=name == OURS)) for name in (BARE, OURS)}


@contextmanager
def _span(is_traced: bool) -> Iterator[None]:
    if not is_traced:
        yield
        return
    with tracekit.span("request", attributes={"url.path": "/orders", "url.query": "q" * 100}):
        yield


async def _live_tasks(count: int, *, is_traced: bool) -> float:
    """Start each task under a parent that ends at once, and see what they hold while they live on."""
    release = asyncio.Event()

    async def live() -> None:
        await release.wait()

    async def start() -> list[asyncio.Task[None]]:
        tasks = []
        for number in range(count):
            with _span(is_traced):
                tasks.append(asyncio.create_task(live()))
            if number % 10_000 == 0:
                tracekit.flush()
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        tracekit.flush()
        return tasks

    before = _allocated()
    tasks = await start()
    held = _allocated() - before
    tracemalloc.stop()
    release.set()
    await asyncio.gather(*tasks)
    return held / count


async def _ticks(count: int, *, is_traced: bool) -> float:
    """Let a callback reschedule itself, each time under another span, and return the bytes left of each."""
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    def tick(left: int) -> None:
        with _span(is_traced):
            if left:
                loop.call_soon(tick, left - 1)
            else:
                done.set()

    async def ticks(count: int) -> None:
        done.clear()
        loop.call_soon(tick, count)
        await done.wait()
        tracekit.flush()

    _allocated()
    await ticks(count)  # freelists fill once
    before = _allocated()
    await ticks(count)
    held = _allocated() - before
    tracemalloc.stop()
    return max(held, 0) / count


def _allocated() -> int:
    gc.collect()
    if not tracemalloc.is_tracing():
        tracemalloc.start()
    return tracemalloc.get_traced_memory()[0]
