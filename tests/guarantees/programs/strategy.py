"""The strategy that draws programs."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from .generators import Finish, Generator, Step
from .handoffs import CALLS, CHANNELS, SPAWNS, Call, Send, Spawn, StartTask, Take, Task
from .model import MAX_NODES
from .nodes import (
    Cancel,
    CancelScope,
    Catch,
    Checkpoint,
    Close,
    Finally,
    Group,
    Look,
    Raise,
    Scoped,
    Start,
    Touch,
    Yield,
)
from .program import Program


@dataclass(frozen=True)
class Place:
    """What is known of a place in a program while it is drawn."""

    is_async: bool = True
    thread: str = "loop"
    can_yield: bool = False
    can_cancel: bool = False
    can_raise: bool = False
    is_in_group: bool = False
    blocks: int = 0  # of which Python takes 20 in a function
    depth: int = 0

    def inside(self, blocks=1, **changes):
        return replace(self, blocks=self.blocks + blocks, depth=self.depth + 1, **changes)

    def function(self, thread=None, is_async=False, **changes):
        changes = {"can_yield": False, **changes}
        return replace(self, thread=thread or self.thread, is_async=is_async, blocks=2, depth=self.depth + 1, **changes)


# How often each kind is drawn where it is possible.
WEIGHTS = {
    "look": 5,
    "span": 14,
    "checkpoint": 4,
    "labels": 3,
    "context": 3,
    "detached": 2,
    "given": 5,
    "open": 6,
    "start": 3,
    "close": 7,
    "touch": 3,
    "throw": 1,
    "catch": 2,
    "finally_": 2,
    "cancel": 10,
    "cancel_scope": 2,
    "group": 6,
    "call": 14,
    "spawn": 8,
    "task": 8,
    "start_task": 8,
    "send": 5,
    "take": 4,
    "generator": 5,
    "step": 45,
    "finish": 8,
    "steps": 30,
}
MAX_DEPTH = 12
NUMBERS = [st.integers(0, high) for high in range(400)]


@functools.cache
def _possible(place, has_generator):
    """Return the kinds of node that a place may have, each as often as its weight says."""
    left_out = set() if has_generator else {"step", "finish"}
    if place.depth >= MAX_DEPTH or place.blocks > 15:
        left_out |= {"call", "spawn", "task", "start_task", "send", "generator"}
    if place.blocks > 15:
        left_out |= {"span", "labels", "context", "detached", "given", "catch", "finally_", "cancel_scope", "group"}
    if not place.is_async:
        left_out |= {"checkpoint", "cancel_scope", "group", "start_task"}
    if not place.is_in_group:
        left_out |= {"start_task"}
    if place.thread != "loop":
        left_out |= {"task"}
    if not place.can_raise:
        left_out |= {"throw"}
    if not place.can_yield:
        left_out |= {"steps"}
    if not place.can_cancel or place.thread == "any":
        left_out |= {"cancel"}
    return [kind for kind, weight in WEIGHTS.items() if kind not in left_out for _ in range(weight)]


@functools.cache
def _ways(ways, place, backend):
    return [
        way
        for way in ways
        if place.thread in way.threads.split()
        and backend in way.backends.split()
        and (way.caller == "both" or place.is_async == (way.caller == "async"))
    ]


class Builder:
    """Draws the nodes of one program."""

    def __init__(self, draw, backend):
        self.draw, self.backend, self.left = draw, backend, MAX_NODES
        self.has_generator = False  # within reach

    def number(self, high=11):
        return self.draw(NUMBERS[high])

    def one_of(self, *choices):
        return choices[self.number(len(choices) - 1)]

    def body(self, place, length=None):
        """Draw nodes, *length* of them or so."""
        if length is None:
            length = 2.4 if place.depth < 4 else 1.6
        nodes = []
        while self.left > 0:
            kinds = _possible(place, self.has_generator)
            stops = int(len(kinds) / length) if nodes or place.depth else 0
            number = self.number(stops + len(kinds)) - stops
            if number <= 0:
                break
            nodes.append(self.node(place, kinds[number - 1]))
        return nodes

    def node(self, place, kind):
        self.left -= 1
        most = 12 if kind == "generator" else 50 // (1 + place.depth // 2)
        spared = max(0, self.left - most)
        self.left -= spared
        has_generator = self.has_generator
        if kind in {"spawn", "task", "start_task", "send", "generator"}:
            self.has_generator = False
        node = getattr(self, kind)(place)
        self.has_generator = has_generator or kind == "generator"
        self.left += spared
        return node

    def block(self, place, blocks=1):
        return self.body(place.inside(blocks))

    def look(self, place):
        return Look()

    def checkpoint(self, place):
        return Checkpoint(1 + self.number(2))

    def span(self, place):
        what = self.one_of("span", "span", "span", "span", "span", "root", "child of remote")
        return Scoped(what, 0, self.number(), self.block(place))

    def labels(self, place):
        return Scoped("labels", self.number(), 0, self.block(place))

    def context(self, place):
        return Scoped(self.one_of("remote", "nothing", "unsampled"), 0, 0, self.block(place))

    def detached(self, place):
        return Scoped("detached", 0, 0, self.block(place))

    def given(self, place):
        return Scoped(self.one_of("use", "child", "started"), self.number(), self.number(), self.block(place))

    def open(self, place):
        what = self.one_of("span", "labels", "use", "started", "remote", "detached", "nothing")
        return Scoped(what, self.number(), self.number(), None)

    def start(self, place):
        return Start(self.number(3) != 3)

    def close(self, place):
        return Close(self.number(5))

    def touch(self, place):
        return Touch(self.one_of("end()", "end()", 'set_attribute("a", 1)', 'add_event("e")'), self.number())

    def throw(self, place):
        return Raise()

    def catch(self, place):
        return Catch(self.block(replace(place, can_raise=True)))

    def finally_(self, place):
        return Finally(self.block(place), self.block(replace(place, can_yield=False, can_raise=True), 2))

    def cancel(self, place):
        return Cancel(self.number(3))

    def cancel_scope(self, place):
        return CancelScope(
            self.number(2) == 2, self.block(replace(place, can_yield=False, can_cancel=True, can_raise=True), 2)
        )

    def group(self, place):
        flavour = self.one_of("anyio", "aio", "named", "named", self.backend)
        is_region = self.number(2) == 2
        can_cancel = place.can_cancel or is_region
        inside = replace(place, can_yield=False, can_cancel=can_cancel, can_raise=True, is_in_group=True)
        return Group(flavour, is_region, self.block(inside, 3))

    def call(self, place):
        way = self.one_of(*_ways(tuple(CALLS), place, self.backend))
        thread = place.thread if way.runs_on == "same" else way.runs_on
        if thread == "blocking":
            thread = "thread" if place.thread in {"worker", "thread"} else "any"
        return Call(way, self.number(), self.body(place.function(thread, way.body == "async")))

    def spawn(self, place):
        ways = _ways(tuple(SPAWNS), place, self.backend)
        way = self.one_of(*ways)
        thread = place.thread if way.runs_on == "same" else way.runs_on
        inside = place.function(thread, way.body == "async", can_cancel=False, can_raise=True, is_in_group=False)
        return Spawn(way, self.number(), self.number(), self.body(inside))

    def task(self, place):
        how = self.one_of("start_soon", "start_soon", "start_soon", "to_thread", "detached")
        inside = place.function("worker" if how == "to_thread" else "loop", how != "to_thread", can_raise=True)
        return Task(how, self.number(3), self.number(), self.body(inside))

    def start_task(self, place):
        inside = place.function("loop", True, can_raise=True)
        return StartTask(self.number(3), self.number(), self.body(inside), self.body(inside))

    def send(self, place):
        names = [name for name, (_, where) in CHANNELS.items() if place.thread in where.split()]
        channel = self.one_of(*[name for name in names if name != "aio.Queue" or self.backend == "asyncio"])
        is_async = channel != "queue"
        inside = place.function(
            "loop" if is_async else "thread", is_async, can_cancel=False, can_raise=True, is_in_group=False
        )
        return Send(channel, self.number(1) == 1, self.body(inside))

    def take(self, place):
        return Take(self.one_of("snapshot", "sync", "async"))

    def generator(self, place):
        is_async = place.is_async and self.number(1) == 1
        inside = place.function(
            "loop" if is_async else "any", is_async, can_yield=True, can_cancel=False, can_raise=True
        )
        return Generator(self.one_of("traced", "stream"), is_async, self.body(inside, 4))

    def step(self, place):
        return Step(self.number(3), 1 + self.number(3), self.catches(place))

    def finish(self, place):
        return Finish(self.one_of("close", "drop", "throw"), self.number(3), self.catches(place))

    def catches(self, place):
        return not place.can_raise or self.number(1) == 0

    def steps(self, place):
        return Yield()


@st.composite
def programs(draw, backend):
    """Programs of up to ``MAX_NODES`` nodes for "asyncio" or "trio"."""
    builder = Builder(draw, backend)
    return Program(backend, builder.body(Place(), length=1 + builder.number(40)))
