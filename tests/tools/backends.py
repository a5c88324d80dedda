"""The event loops that this Python has here, by name, as anyio takes them."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

__all__ = ["ASYNCIO", "BACKENDS", "TRIO"]


def _eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    return loop


BACKENDS: dict[str, tuple[str, dict[str, Any]]] = {"asyncio": ("asyncio", {})}
if sys.platform != "win32":
    BACKENDS["asyncio+uvloop"] = ("asyncio", {"use_uvloop": True})
if sys.version_info >= (3, 12):
    BACKENDS["asyncio+eager"] = ("asyncio", {"loop_factory": _eager_loop})
BACKENDS["trio"] = ("trio", {})

*ASYNCIO, TRIO = [pytest.param(backend, id=name) for name, backend in BACKENDS.items()]
