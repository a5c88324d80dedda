"""``anyio.to_process``, whose jobs are children of the span current where ``run_sync`` was awaited.

The spans of a job come back with its result or exception; see ``tracekit.processes``. A worker that is killed,
as one is by cancelling a call that is *cancellable*, loses the spans of its job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, TypeVarTuple, Unpack

import anyio.to_process
from anyio import BrokenWorkerProcess
from anyio.to_process import current_default_process_limiter

from .._core.scopes import current_span
from ..processes import _say_lost, pack

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio import CapacityLimiter

__all__ = ["current_default_process_limiter", "process_worker", "run_sync"]

T = TypeVar("T")
Args = TypeVarTuple("Args")


async def run_sync(
    func: Callable[[Unpack[Args]], T], *args: *Args, cancellable: bool = False, limiter: CapacityLimiter | None = None
) -> T:
    """Call *func* in a worker process, as ``anyio.to_process.run_sync`` does, as a child of the current span."""
    __tracebackhide__ = True
    run, packed = pack(func, *args)
    try:
        return await anyio.to_process.run_sync(run, *packed, cancellable=cancellable, limiter=limiter)
    except BrokenWorkerProcess:
        _say_lost(current_span())
        raise


def process_worker() -> None:
    """Run the jobs that arrive on standard input, as a worker of ``python -m anyio.to_process`` does."""
    anyio.to_process.process_worker()
