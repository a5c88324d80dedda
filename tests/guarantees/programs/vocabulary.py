"""What the source of a program is written in."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import threading
from concurrent import futures

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import trio

import tracekit
from tracekit import aio, threads


class Planned(Exception):
    """What a program raises on purpose."""


class _Planned:
    """Ends what the program raised on purpose, and what only happens because of a cancellation."""

    def __enter__(self):
        pass

    def __exit__(self, kind, exc, traceback):
        return isinstance(exc, Exception) and _is_planned(exc)


def _is_planned(exc):
    if isinstance(exc, ExceptionGroup):
        return all(map(_is_planned, exc.exceptions))
    # from_thread.run() in what was cancelled
    return isinstance(exc, Planned | futures.CancelledError)


planned = _Planned()


def call(function):
    return function()


async def call_async(function):
    return await function()


def remote(name, sampled=True):
    number, labels = int(name[1:]), tracekit.Labels({"remote": name})
    return tracekit.SpanContext(f"{number:032x}", f"{number:016x}", int(sampled), labels=labels, is_remote=True)


# What the source of a program is written in.
NAMES = {
    "aio": aio,
    "anyio": anyio,
    "asyncio": asyncio,
    "call": call,
    "call_async": call_async,
    "checkpoint": anyio.lowlevel.checkpoint,
    "contextvars": contextvars,
    "partial": functools.partial,
    "Planned": Planned,
    "planned": planned,
    "remote": remote,
    "suppress": contextlib.suppress,
    "threading": threading,
    "threads": threads,
    "tracekit": tracekit,
    "trio": trio,
}
