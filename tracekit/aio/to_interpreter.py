"""``anyio.to_interpreter``, whose jobs are children of the span current where ``run_sync`` was awaited.

The spans of a job come back with its result or exception; see ``tracekit.processes``. Needs Python 3.13.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, TypeVarTuple, Unpack

import anyio.to_interpreter
from anyio.to_interpreter import current_default_interpreter_limiter

from ..processes import pack

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio import CapacityLimiter

__all__ = ["current_default_interpreter_limiter", "run_sync"]

T = TypeVar("T")
Args = TypeVarTuple("Args")


async def run_sync(func: Callable[[Unpack[Args]], T], *args: *Args, limiter: CapacityLimiter | None = None) -> T:
    """Call *func* in a subinterpreter, as ``anyio.to_interpreter.run_sync`` does, as a child of the current span."""
    __tracebackhide__ = True
    run, packed = pack(func, *args)
    return await anyio.to_interpreter.run_sync(run, *packed, limiter=limiter)
