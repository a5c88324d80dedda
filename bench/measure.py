"""Measure contenders in turn, so that they share the machine's noise.

One measurement of a subject is a row of chunks: its statement again and again, until the clock
has counted one slice. The needs of the work stand around each chunk, untimed: a parent span
before it, and the drain of the queue after it. Contenders take turns within a round (A B C, A B C, ...),
and each one's figure is its best round. The loop costs about 1 ns for each statement and is not subtracted.

The clock is the CPU time of the process, all its threads together: other programs on the machine do not
count, and no row waits for anything.

The garbage collector is off inside a chunk and runs between rounds, untimed, for all contenders alike:
its cost is charged to none. That favors those that allocate the most objects that it tracks.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import textwrap
import tracemalloc
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import repeat
from time import process_time_ns
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["Budget", "Subject", "best", "bytes_held", "compile_loop", "interleave"]

UNROLLED = 10


class Budget(NamedTuple):
    """How long to measure: processes, rounds, slices; for work that is slow to set up, repetitions and their size."""

    processes: int
    rounds: int
    slice_s: float
    repeats: int
    growth_chunk: int


@dataclass
class Subject:
    """One contender's way to do the work of a row.

    ``statement`` is timed, and stands for ``units`` of the work; ``names`` are its variables.
    ``around`` is entered around a chunk, ``after`` runs behind it; neither is timed. At most ``chunk``
    statements stand in a chunk. ``items``, where there is one, makes as many fresh inputs, untimed, and
    each statement finds its own under ``item``. ``in_task`` runs the chunk in an asyncio task.
    """

    statement: str
    names: Mapping[str, Any]
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    after: Callable[[], object] = lambda: None
    chunk: int = 500
    units: int = 1
    items: Callable[[int], Sequence[Any]] | None = None
    in_task: bool = False
    run: Callable[[Iterable[Any]], Any] = field(init=False)

    def __post_init__(self) -> None:
        self.unrolled = UNROLLED if self.items is None and self.chunk >= UNROLLED else 1
        self.run = compile_loop(self.statement, self.names, unrolled=self.unrolled, in_task=self.in_task)

    def time(self, slice_s: float) -> float:
        """Return nanoseconds for each unit of work, of one slice."""
        spent = count = 0
        while not count or spent < slice_s * 1e9:
            # A separate Context: no contender's ContextVars are in another's.
            spent += contextvars.Context().run(self._time_chunk)
            count += self.chunk * self.units
        return spent / count

    def _time_chunk(self) -> int:
        loops = self.chunk // self.unrolled
        items = repeat(None, loops) if self.items is None else self.items(loops)
        with self.around():
            gc.disable()
            try:
                elapsed = (
                    runner().run(self.run(items), context=contextvars.copy_context())
                    if self.in_task
                    else self.run(items)
                )
            finally:
                gc.enable()
        self.after()
        return elapsed


def runner(made: list[asyncio.Runner] = []) -> asyncio.Runner:  # noqa: B006
    """Return the event loop's runner, one for all that runs in tasks."""
    if not made:
        made.append(asyncio.Runner())
    return made[0]


def compile_loop(
    statement: str, names: Mapping[str, Any], *, unrolled: int = 1, in_task: bool = False
) -> Callable[[Iterable[Any]], Any]:
    """Return a function of an iterable that runs *statement* for each item and returns the nanoseconds that took.

    *names* are its local variables. *unrolled* times in a row, so that the loop weighs little.
    """
    parameters = "".join(f", {name}={name}" for name in names)
    body = textwrap.indent(textwrap.dedent(statement).strip() + "\n", " " * 8) * unrolled
    source = (
        f"{'async ' if in_task else ''}def run(items, clock=clock{parameters}):\n"
        f"    begin = clock()\n    for item in items:\n{body}    return clock() - begin\n"
    )
    namespace: dict[str, Any] = {**names, "clock": process_time_ns}
    exec(source, namespace)
    return namespace["run"]


def interleave(subjects: Mapping[str, Subject], budget: Budget) -> dict[str, list[float]]:
    """Return each subject's nanoseconds per unit, round by round; the first round, a warm-up, is left out."""
    rounds: dict[str, list[float]] = {name: [] for name in subjects}
    gc.collect()
    gc.freeze()  # or each collection below goes through all that was ever imported
    for index in range(budget.rounds + 1):
        for name, subject in subjects.items():
            elapsed = subject.time(budget.slice_s if index else budget.slice_s / 10)
            if index:
                rounds[name].append(elapsed)
        gc.collect()
    return rounds


def best(rounds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return each subject's best round."""
    return {name: min(values) for name, values in rounds.items()}


def bytes_held(hold: Callable[[int], object], count: int) -> float:
    """Return how many bytes each of the *count* things that *hold* makes and keeps takes, as tracemalloc counts."""
    hold(count)  # caches and freelists that fill once are not part of any span
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        held = hold(count)
        gc.collect()
        size = tracemalloc.get_traced_memory()[0] - before
        del held
    finally:
        tracemalloc.stop()
    return size / count
