"""What ``aio.watch_loop()`` and ``aio.tasks()`` cost: a table.

    python -m bench.live_tasks

The watch is measured as processor time of a process whose loop idles, and of one whose loop turns without a pause, with
and without it; the difference per second of real time is its cost. Nothing of it runs where it is off. ``tasks()`` is
measured per task.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time

import anyio
import trio

import tracekit
from tracekit import aio
from tracekit.testing import MemoryExporter

__all__ = ["rows"]

SECONDS = 2.0
ROUNDS = 3


async def _idle(is_watched: bool) -> float:
    """Return the processor time in seconds that an idle loop takes per second."""
    watch = aio.watch_loop(100) if is_watched else None
    begin, begin_cpu = time.perf_counter(), time.process_time()
    await anyio.sleep(SECONDS)
    used = (time.process_time() - begin_cpu) / (time.perf_counter() - begin)
    if watch is not None:
        watch.stop()
    return used


async def _busy(is_watched: bool) -> float:
    """Return the processor time in seconds that a turn of a loop takes which does nothing else."""
    watch = aio.watch_loop(100) if is_watched else None
    begin_cpu = time.process_time()
    for _ in range(100_000):
        await anyio.lowlevel.checkpoint()
    used = (time.process_time() - begin_cpu) / 100_000
    if watch is not None:
        watch.stop()
    return used


def _run(backend: str, function: object, is_watched: bool) -> float:
    if backend == "trio":
        return trio.run(function, is_watched)
    options = {"use_uvloop": True} if backend == "uvloop" else {}
    return anyio.run(function, is_watched, backend="asyncio", backend_options=options)


async def _look(count: int) -> float:
    """Return the seconds that ``tasks()`` takes for one of *count* tasks."""

    async def inner() -> None:
        await asyncio.sleep(3600)

    async def outer() -> None:
        with tracekit.span("work"):
            await inner()

    tasks = [asyncio.create_task(outer()) for _ in range(count)]
    await asyncio.sleep(0)
    aio.tasks()  # imports, and the first look
    begin = time.perf_counter()
    aio.tasks()
    used = (time.perf_counter() - begin) / count
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return used


def _in_process(name: str) -> float:
    done = subprocess.run([sys.executable, "-m", "bench.live_tasks", name], capture_output=True, text=True, check=True)
    return float(done.stdout)


def _measure(name: str) -> float:
    tracekit.configure(exporter=MemoryExporter())
    kind, backend, watched = name.split(":")
    if kind == "look":
        return asyncio.run(_look(int(backend)))
    return _run(backend, _idle if kind == "idle" else _busy, watched == "on")


def rows() -> list[tuple[str, str]]:
    """Return the rows of the table: a name and its value with a unit."""

    def median(name: str) -> float:
        return statistics.median([_in_process(name) for _ in range(ROUNDS)])

    found = []
    for backend in ("asyncio", "uvloop", "trio"):
        on, off = median(f"idle:{backend}:on"), median(f"idle:{backend}:off")
        found.append((f"watch_loop(100), {backend}, idle", f"{(on - off) * 1e6:.0f} µs a second"))
        on, off = median(f"busy:{backend}:on"), median(f"busy:{backend}:off")
        found.append(
            (f"watch_loop(100), {backend}, a turn (without it {off * 1e9:.0f} ns)", f"{(on - off) * 1e9:.0f} ns")
        )
    for count in (100, 10_000):
        look_us = median(f"look:{count}:") * 1e6
        found.append((f"tasks() of {count} tasks, for each", f"{look_us:.1f} µs"))
    return found


def main() -> None:
    """Measure, and print the table; with a name, measure one in this process."""
    if len(sys.argv) > 1:
        print(_measure(sys.argv[1]))
        return
    for name, value in rows():
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
