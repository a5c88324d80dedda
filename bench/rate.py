"""Print how near ``Rate`` comes to its target at every kind of load: ``python -m bench.rate``; a few seconds.

A simulation: every new trace is one real ``Rate.sample()``, on a simulated clock. *kept* and *should* are traces a
second: the kept ones, and the lesser of load and target. The deviation is that of the ten seconds in a row that are
furthest off; if some of those have fewer traces than the target, the traces with which the others may make up for that
do not count.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, NamedTuple

from tracekit import Rate

if TYPE_CHECKING:
    from collections.abc import Callable

SETTLED_S = 2
WINDOW_S = 10


class Shape(NamedTuple):
    """A course of load, traces a second at a second; *change_s* is when it changes for good, *end_s* when it ends."""

    name: str
    target: float
    load: Callable[[float], float]
    end_s: int
    change_s: int = 0


def steady(load: float, target: float, end_s: int = 60) -> Shape:
    return Shape(f"steady {load:,}", target, lambda _: load, end_s)


def step(before: float, after: float, target: float, end_s: int) -> Shape:
    return Shape(f"{before:,} to {after:,}", target, lambda at_s: before if at_s < 10 else after, end_s, 10)


def sine(middle: float, target: float) -> Shape:
    swing = 0.9 * middle
    name = f"sine {middle - swing:,.0f} to {middle + swing:,.0f} in 20 s"
    return Shape(name, target, lambda at_s: middle + swing * math.sin(math.tau * at_s / 20), 60)


def bursts(base: float, burst: float, target: float) -> Shape:
    """A second of *burst* every ten."""
    return Shape(f"{base:,}, bursts of {burst:,}", target, lambda at_s: burst if at_s % 10 >= 9 else base, 60)


SHAPES = [
    *[steady(load, 10) for load in (1, 5, 9, 11, 20, 100, 1000)],
    steady(10_000, 10, 20),
    *[steady(load, 100) for load in (1, 50, 90, 110, 1000)],
    steady(10_000, 100, 20),
    steady(100_000, 100, 12),
    step(20, 20_000, 10, 25),
    step(20_000, 20, 10, 60),
    step(0.5, 500, 10, 60),
    step(500, 0.5, 10, 60),
    step(100, 100_000, 100, 22),
    step(10_000, 10, 100, 60),
    sine(500, 10),
    sine(5000, 100),
    bursts(20, 10_000, 10),
    bursts(150, 10_000, 100),
]


class Traffic:
    """New traces on a clock of their own: at even distances, or at random ones."""

    def __init__(self, per_second: float, *, at_random: bool = False, seed: int = 1) -> None:
        self.now_ns = 0
        self.at_random = at_random
        self.random = random.Random(seed)
        self.sampler = Rate(per_second, clock=lambda: self.now_ns)
        self.states: dict[str, int] = {}  # how many of those kept said what

    def run(self, load: float | Callable[[float], float], seconds: int) -> tuple[list[int], list[int]]:
        """Let traces come for *seconds*; return how many came, and how many of them were kept, in each second."""
        start_ns, came, kept = self.now_ns, [0] * seconds, [0] * seconds
        end_ns = start_ns + seconds * 1_000_000_000
        sample, bits, gap = self.sampler.sample, self.random.getrandbits, self.random.expovariate
        states = self.states
        while self.now_ns < end_ns:
            at_ns = self.now_ns - start_ns
            second = at_ns // 1_000_000_000
            came[second] += 1
            is_kept, state = sample(bits(56), "name", "internal", {})
            if is_kept:
                kept[second] += 1
                states[state] = states.get(state, 0) + 1
            rate = load(at_ns / 1e9) if callable(load) else load
            self.now_ns += int(1e9 * gap(rate)) if self.at_random else int(1e9 / rate)
        self.now_ns = end_ns
        return came, kept


class Course(NamedTuple):
    """What happened to a shape, from when it had settled on; a second's figures each."""

    target: float
    came: list[int]
    kept: list[int]

    @property
    def should(self) -> float:
        """How many should have been kept, if no second makes up for another."""
        return sum(min(count, self.target) for count in self.came)

    @property
    def deviation(self) -> float:
        """Of the ten seconds in a row that are furthest from what should be kept, as a share of that."""
        worst = 0.0
        for start in range(max(1, len(self.kept) - WINDOW_S + 1)):
            _, came, kept = window = Course(self.target, *(part[start : start + WINDOW_S] for part in self[1:]))
            least, most = window.should, min(sum(came), self.target * len(came))
            off = sum(kept) - min(most, max(least, sum(kept)))
            worst = max(worst, off / most if most else 0.0, key=abs)
        return worst


def follow(shape: Shape, *, at_random: bool = False, seed: int = 1) -> Course:
    """Let the traffic of *shape* come."""
    came, kept = Traffic(shape.target, at_random=at_random, seed=seed).run(shape.load, shape.end_s)
    first = shape.change_s + SETTLED_S
    return Course(shape.target, came[first:], kept[first:])


def main() -> None:
    print("| load a second | arrival | target | should | kept | deviation, at most |")
    print("|---|---|---:|---:|---:|---:|")
    for shape in SHAPES:
        for at_random in (False, True):
            course = follow(shape, at_random=at_random)
            seconds = len(course.kept)
            print(
                f"| {shape.name} | {'random' if at_random else 'even'} | {shape.target:g} "
                f"| {course.should / seconds:.2f} | {sum(course.kept) / seconds:.2f} | {course.deviation:+.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
