"""Random programs: trees of work whose plan alone says what every span's parent must be.

    python -m tests.guarantees.programs --count 2000 --backend asyncio --statistics

A program is a tree of ``Node``; Hypothesis draws it, so that what fails shrinks. ``Program`` walks it once with a
model of scopes that knows nothing of tracekit ("innermost open scope of this task; what a task inherits at its spawn stays"), and
notes for each span parent, links and labels. Then the tree is written out as Python source, which is what runs,
and what is printed when it fails.

What makes a plan that no interleaving can change:

- A *chain* is one flow of control: a task and whatever it waits for, in other tasks and threads too. Only its own chain closes the
  scopes of a frame, or steps a generator. What is spawned and not awaited is a chain of its own.
- A *region* is the inside of what may be cancelled. What is in a region that was hit may be missing, never wrong; and nothing
  in it may change what outlives it.
- After a scope was closed from another Context, its opener asks tracekit once before a spawn that asks nothing by
  itself: the one case that is not guaranteed (ARCHITECTURE.md, "Scopes").
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import contextvars
import functools
import inspect
import linecache
import logging
import os
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from concurrent import futures
from dataclasses import dataclass, field, replace

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import trio
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import tracekit
from tracekit import aio, threads

BACKENDS = {"asyncio": ("asyncio", {}), "trio": ("trio", {})}
if sys.platform != "win32":
    BACKENDS["asyncio+uvloop"] = ("asyncio", {"use_uvloop": True})
if sys.version_info >= (3, 12):

    def _eager_loop():
        loop = asyncio.new_event_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        return loop

    BACKENDS["asyncio+eager"] = ("asyncio", {"loop_factory": _eager_loop})

MAX_NODES = 200


# ---- the model: what must be current, by the rules of GUARANTEES.md and nothing else


class Unknown:
    """What is current where a task has closed a scope that it inherited: something, but not that scope."""

    def __repr__(self):
        return "?"


UNKNOWN = Unknown()


@dataclass(eq=False)
class Scope:
    """One opening: of a span or remote context (*ids* is its name), of nothing, of labels, or of a link."""

    kind: str
    ids: str | Unknown | None = None
    labels: dict[str, str] | Unknown = field(default_factory=dict)
    link: str | Unknown | None = None
    sampled: bool | Unknown | None = None
    frame: Frame | None = None
    var: Var | None = None

    @property
    def is_valid(self):
        return self.ids is not None


NOTHING = Scope("nothing")
ANYTHING = Scope("context", UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)


class Frame:
    """One contextvars.Context, or a generator's body: what it opened, above what it inherited."""

    def __init__(self, inherited, chain, region):
        self.inherited, self.own, self.chain, self.region = tuple(inherited), [], chain, region
        self.regions = frozenset()  # those that a generator's body was stepped in
        self.is_carried = False
        self.is_unsettled = False  # another Context has closed what is in `own`

    def view(self):
        return (*self.inherited, *self.own)

    def current(self):
        """Return what a span or snapshot that is made here continues, as a scope."""
        view = self.view()
        if not view:
            return NOTHING
        for scope in reversed(view):
            if scope.kind != "labels":
                return replace(scope, labels=view[-1].labels, frame=None, var=None)
        return Scope("nothing", labels=view[-1].labels)

    def open(self, scope):
        scope.frame = self
        self.own.append(scope)
        return scope

    def close(self, scope):
        """Close *scope* from here, whoever opened it."""
        owner = scope.frame
        if owner is not self:
            owner.is_unsettled = True
            if scope in self.inherited:
                self.inherited = (ANYTHING,)
        if scope in owner.own:
            owner.own.remove(scope)


@dataclass(eq=False)
class Region:
    """What may be cancelled or broken off by an error elsewhere, and whether something does that."""

    is_hit: bool = False


@dataclass
class Expected:
    """What the plan says of one span, or of one look at what is current."""

    parent: str | Unknown | None
    labels: dict[str, str] | Unknown
    links: list[str | Unknown]
    sampled: bool | Unknown | None
    regions: frozenset[Region]

    @property
    def is_certain(self):
        return not any(region.is_hit for region in self.regions)


class Raised(Exception):
    """The plan has come to an exception."""


# ---- what the nodes of a program can name


@dataclass(eq=False)
class Var:
    """Something that another node may use, as ``run.<name>`` in the source if one does."""

    name: str
    is_used: bool = False

    @property
    def text(self):
        self.is_used = True
        return f"run.{self.name}"


@dataclass(eq=False)
class SpanVar(Var):
    scope: Scope = NOTHING  # to be opened, each time a new one
    is_entered: bool = True


@dataclass(eq=False)
class Handoff(Var):
    """A wrapped function, or a snapshot."""

    kind: str = ""  # "sync", "async", "snapshot"
    view: tuple[Scope, ...] = ()


@dataclass(eq=False)
class GroupVar(Var):
    flavour: str = "anyio"
    region: Region | None = None  # where it can be cancelled
    regions: frozenset[Region] = frozenset()
    lies_in: object = None
    is_root: bool = False


@dataclass(eq=False)
class CancelVar(Var):
    region: Region | None = None


class GeneratorVar(Var):
    """A generator of the program; its plan is a generator too, stepped alike."""

    def __init__(self, name, node, at):
        super().__init__(name, True)
        self.node = node
        self.frame = Frame((), at.chain, at.region)
        self.frame.regions = at.all_regions
        self.env = list(at.env)
        self.under = at.frame.current() if node.flavour == "stream" else None
        self.by = at
        self.plan = self._plan()
        self.is_dropped = False

    def _plan(self):
        at, frame = self.by, self.frame
        under = at.frame.current() if self.under is None else self.under
        span = at.world.start(self.name, under, at.all_regions | frame.regions)
        frame.inherited = at.frame.view() if self.under is None else (under,)
        frame.open(span.scope)
        thread = "loop" if self.node.is_async else "any"
        yield from plan_body(
            self.node.body,
            At(at.world, frame, self.env, groups=at.world.groups, thread=thread, is_async=self.node.is_async),
        )

    def may_step(self, at):
        return (
            not self.is_dropped
            and not self.plan.gi_running
            and self.frame.chain is at.chain
            and self.frame.region is at.region
            and (at.is_async or not self.node.is_async)
        )

    def stepped_by(self, at):
        self.by = at
        self.frame.regions |= at.all_regions
        self.frame.is_carried |= at.carried


@dataclass
class World:
    """One walk over a program."""

    backend: str
    names: Counter[str] = field(default_factory=Counter)
    spans: dict[str, Expected] = field(default_factory=dict)
    looks: dict[str, Expected] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    generators: list[GeneratorVar] = field(default_factory=list)
    groups: tuple[GroupVar, ...] = ()

    def are(self, links, planned):
        """Tell whether *links* are as *planned*; one to a span that is not sampled has no name."""
        if len(links) != len(planned):
            return False
        for link, name in zip(links, planned, strict=True):
            sampled = self.spans[name].sampled if name in self.spans else True
            if link != (name if sampled is True or link else ""):
                return False
        return True

    def name(self, letter):
        self.names[letter] += 1
        return f"{letter}{self.names[letter]}"

    def start(self, name, under, regions, links=()):
        """Note the start of a span that continues *under*; return it."""
        is_root = under.ids is None
        found = [scope.ids for scope in links if scope.ids is not None]
        if is_root and under.link is not None:
            found = [under.link, *found]
        elif under.ids is UNKNOWN:
            found.append(UNKNOWN)
        sampled = True if is_root else under.sampled
        self.spans[name] = Expected(under.ids, under.labels, found, sampled, regions)
        return SpanVar(name, scope=Scope("span", name, under.labels, None, sampled))


@dataclass(eq=False)
class At:
    """Where in a program its plan is: in which frame, on which thread, inside which groups."""

    world: World
    frame: Frame
    env: list[object]
    groups: tuple[GroupVar, ...] = ()
    cancels: tuple[CancelVar, ...] = ()
    regions: frozenset[Region] = frozenset()
    inside: Region | None = None  # the innermost region that this frame has entered itself
    thread: str = (
        "loop"  # "loop"; "worker": of the loop's; "thread": any other; "any": unknown, or the loop waits for it
    )
    is_async: bool = True
    is_carried: bool = False  # inside a run_in_context() in this task

    @property
    def chain(self):
        return self.frame.chain

    @property
    def region(self):
        return self.inside or self.frame.region

    @property
    def all_regions(self):
        return self.regions | self.frame.regions

    @property
    def carried(self):
        return self.is_carried or self.frame.is_carried

    def named(self, kind, where=lambda _: True):
        return [var for var in self.env if isinstance(var, kind) and where(var)]

    def start(self, name, under=None, links=()):
        return self.world.start(name, self.frame.current() if under is None else under, self.all_regions, links)

    def enter(self, region):
        """Return the same place inside *region*, from which no name gets out."""
        return replace(self, env=list(self.env), inside=region, regions=self.regions | {region})

    def joined(self, frame=None, **changes):
        """Return the inside of something that is waited for; in a Context of its own, with a *frame*."""
        if frame is None:
            return replace(self, **changes)
        frame.regions = self.all_regions
        return replace(self, frame=frame, inside=None, **changes)

    def apart(self, frame, **changes):
        """Return the inside of something that goes on by itself."""
        frame.chain, frame.region = object(), Region()
        frame.regions = self.all_regions | changes.pop("regions", frozenset())
        changes = {"groups": self.world.groups, "cancels": (), "is_carried": False, **changes}
        return replace(self, frame=frame, env=list(self.env), inside=None, regions=frozenset(), **changes)

    def copy(self):
        return Frame(self.frame.view(), self.chain, self.region)


class Writer:
    """Python source, line by line."""

    def __init__(self):
        self.lines = []
        self._indent = 0

    def __call__(self, line):
        self.lines.append("    " * self._indent + line)

    @contextlib.contextmanager
    def block(self, head, when=True):
        if not when:
            yield
            return
        self(f"{head}:")
        self._indent += 1
        before = len(self.lines)
        yield
        if len(self.lines) == before:
            self("pass")
        self._indent -= 1

    def body(self, nodes):
        for node in nodes:
            if node.is_alive:
                node.write(self)

    @contextlib.contextmanager
    def function(self, name, is_async, arguments=""):
        with self.block(f"{'async ' * is_async}def {name}({arguments})"):
            yield


# ---- the nodes


def plan_body(nodes, at):
    for node in nodes:
        if node.can(at):
            node.is_alive = True
            at.world.kinds[node.label] += 1
            yield from node.plan(at) or ()


def plan_all(nodes, at):
    """Plan a body that does not yield."""
    for _ in plan_body(nodes, at):
        raise AssertionError("a yield outside of a generator")


def pick(number, candidates):
    return candidates[number % len(candidates)] if candidates else None


@dataclass(eq=False)
class Node:
    """A piece of a program. *of* says which of the things that it could be about, in whichever order they come."""

    is_alive = False

    @property
    def label(self):
        return type(self).__name__.lower()

    def can(self, at):
        """Tell whether this makes sense here, and choose what it is about."""
        return True

    def plan(self, at):
        """Walk the model over this node; a generator where the body may yield."""

    def write(self, out):
        """Write it as source."""


@dataclass(eq=False)
class Look(Node):
    def plan(self, at):
        self.name = at.world.name("k")
        now = at.frame.current()
        at.world.looks[self.name] = Expected(now.ids, now.labels, [], now.sampled, at.all_regions)

    def write(self, out):
        out(f'run.look("{self.name}")')


@dataclass(eq=False)
class Checkpoint(Node):
    count: int

    def can(self, at):
        return at.is_async

    def write(self, out):
        for _ in range(self.count):
            out("await checkpoint()")


@dataclass(eq=False)
class Scoped(Node):
    """Something current, inside ``with`` or, without a body, until somebody closes it."""

    what: str
    of: int
    link: int
    body: list[Node] | None

    @property
    def label(self):
        return f"{'open' if self.body is None else 'with'} {self.what}"

    def can(self, at):
        if self.body is None and at.inside is not None:
            return False  # whether it is open outside would be a matter of luck
        if self.body is None and self.what == "span" and at.frame.current().sampled is False:
            return False  # nobody sees it, so it opens no scope
        if self.what in {"child", "use"}:
            self.target = pick(self.of, at.named(SpanVar))
        elif self.what == "started":
            self.target = pick(
                self.of, at.named(SpanVar, lambda var: not var.is_entered and var.scope.sampled is not False)
            )
        else:
            return True
        return self.target is not None

    def plan(self, at):
        now = at.frame.current()
        self.links = []
        if self.what in {"span", "child", "child of remote", "root"}:
            self.name = at.world.name("s")
            if self.link % 4 == 1:
                self.links = [var for var in [pick(self.link // 4, at.named(SpanVar))] if var is not None]
            under = None
            if self.what == "child":
                under = self.target.scope
            elif self.what == "child of remote":
                self.remote = at.world.name("r")
                under = _remote(self.remote)
            elif self.what == "root":
                under = NOTHING
            self.var = at.start(self.name, under, [var.scope for var in self.links])
            scope = replace(self.var.scope)
        elif self.what in {"use", "started"}:
            self.target.is_entered = True
            scope = replace(self.target.scope)
            self.var = self.target if self.what == "started" else Var(at.world.name("u"))
        elif self.what == "labels":
            self.name = at.world.name("l")
            self.var = Var(self.name)
            self.key = "abc"[self.of % 3]
            labels = UNKNOWN if now.labels is UNKNOWN else {**now.labels, self.key: self.name}
            scope = Scope("labels", labels=labels, sampled=now.sampled)
        elif self.what == "detached":
            self.var = Var(at.world.name("d"))
            scope = Scope("link", link=now.ids)
        else:
            self.var = Var(at.world.name("n" if self.what == "nothing" else "r"))
            scope = Scope("nothing")
            if self.what != "nothing":
                scope = _remote(self.var.name, self.what != "unsampled")
        scope.var = self.var
        if self.body is None:
            self.var.is_used = True
        at.frame.open(scope)
        if self.what != "started" and isinstance(self.var, SpanVar):
            at.env.append(self.var)
        at.env.append(scope)
        if self.body is None:
            return
        try:
            yield from plan_body(self.body, at)
        finally:
            at.frame.close(scope)

    def expression(self):
        if self.what in {"span", "child", "child of remote", "root"}:
            parent = {
                "span": lambda: "",
                "root": lambda: ", parent=tracekit.ROOT",
                "child": lambda: f", parent={self.target.text}",
                "child of remote": lambda: f', parent=remote("{self.remote}")',
            }[self.what]()
            links = f", links=[{self.links[0].text}]" if self.links else ""
            return f'tracekit.span("{self.name}"{parent}{links})'
        if self.what == "labels":
            return f'tracekit.use_labels({self.key}="{self.name}")'
        return {
            "use": lambda: f"tracekit.use_span({self.target.text})",
            "nothing": lambda: "tracekit.use_context(None)",
            "remote": lambda: f'tracekit.use_context(remote("{self.var.name}"))',
            "unsampled": lambda: f'tracekit.use_context(remote("{self.var.name}", False))',
            "detached": lambda: "tracekit.detached()",
        }[self.what]()

    def write(self, out):
        if self.what == "started":
            entered = self.target.text
        else:
            entered = self.expression()
            if self.var.is_used:
                out(f"{self.var.text} = {entered}")
                entered = self.var.text
        if self.body is None:
            out(f"{entered}.__enter__()")
            return
        with out.block(f"with {entered}"):
            out.body(self.body)


def _remote(name, sampled=True):
    return Scope("context", name, {"remote": name}, None, sampled)


@dataclass(eq=False)
class Start(Node):
    """A span that is not entered here; one that nobody holds ends at once, as abandoned."""

    is_held: bool

    def plan(self, at):
        self.var = at.start(at.world.name("s"))
        self.var.is_entered = False
        if self.is_held:
            at.env.append(self.var)

    def write(self, out):
        out(f'{f"{self.var.text} = " if self.is_held else ""}tracekit.span("{self.var.name}")')


@dataclass(eq=False)
class Close(Node):
    """A scope closed by hand, in any order, from wherever its chain is."""

    of: int

    def can(self, at):
        scopes = at.named(
            Scope,
            # Unsampled spans share one scope: nobody sees their order.
            lambda scope: (
                scope.frame.chain is at.chain and scope.frame.region is at.region and scope.sampled in (True, None)
            ),
        )
        self.target = pick(self.of, scopes[::-1])
        if self.target is None:
            return False
        self.where = "here" if self.target.frame is at.frame else "from elsewhere"
        return True

    @property
    def label(self):
        return f"close {self.target.kind} {self.where}"

    def plan(self, at):
        at.frame.close(self.target)

    def write(self, out):
        out(f"{self.target.var.text}.__exit__(None, None, None)")


@dataclass(eq=False)
class Touch(Node):
    """A span ended, or written to, by whoever has it."""

    method: str
    of: int

    def can(self, at):
        self.target = pick(self.of, at.named(SpanVar))
        return self.target is not None

    @property
    def label(self):
        return f"span.{self.method.partition('(')[0]}"

    def write(self, out):
        out(f"{self.target.text}.{self.method}")


@dataclass(eq=False)
class Raise(Node):
    def plan(self, at):
        raise Raised

    def write(self, out):
        out("raise Planned")


@dataclass(eq=False)
class Catch(Node):
    body: list[Node]

    def plan(self, at):
        with contextlib.suppress(Raised):
            yield from plan_body(self.body, at)

    def write(self, out):
        with out.block("with planned"):
            out.body(self.body)


@dataclass(eq=False)
class Finally(Node):
    """Work on the way out: of an exception, a cancellation, a generator's end."""

    body: list[Node]
    final: list[Node]

    def plan(self, at):
        try:
            yield from plan_body(self.body, replace(at, env=list(at.env), inside=Region()))
        finally:
            with contextlib.suppress(Raised):
                plan_all(self.final, replace(at, env=list(at.env), inside=Region()))

    def write(self, out):
        with out.block("try"):
            out.body(self.body)
        with out.block("finally"), out.block("with planned"):
            out.body(self.final)


@dataclass(eq=False)
class Yield(Node):
    def plan(self, at):
        yield

    def write(self, out):
        out("yield")


# ---- cancellation and task groups


@dataclass(eq=False)
class CancelScope(Node):
    is_late: bool
    body: list[Node]

    def can(self, at):
        return at.is_async

    def plan(self, at):
        self.var = CancelVar(at.world.name("x"), region=Region(self.is_late))
        inside = at.enter(self.var.region)
        inside.cancels = (*at.cancels, self.var)
        with contextlib.suppress(Raised):
            plan_all(self.body, inside)

    def write(self, out):
        scope = "anyio.move_on_after(0)" if self.is_late else "anyio.CancelScope()"
        with out.block("with planned"), out.block(f"with {scope} as {self.var.text}"):
            out.body(self.body)


@dataclass(eq=False)
class Cancel(Node):
    of: int

    def can(self, at):
        self.thread = at.thread
        self.target = pick(self.of, at.cancels) if at.thread != "any" else None
        return self.target is not None

    @property
    def label(self):
        return f"cancel from {self.thread}"

    def plan(self, at):
        self.target.region.is_hit = True

    def write(self, out):
        cancel = f"run.cancel({self.target.text})"
        if self.thread == "worker":
            cancel = f"aio.from_thread.run_sync(run.cancel, {self.target.text})"
        elif self.thread == "thread":
            cancel = f"run.portal.call(run.cancel, {self.target.text})"
        out(cancel)


GROUPS = {
    "anyio": "anyio.create_task_group()",
    "aio": "aio.create_task_group()",
    "named": 'aio.create_task_group("{name}")',
    "asyncio": "asyncio.TaskGroup()",
    "trio": "trio.open_nursery()",
}


@dataclass(eq=False)
class Group(Node):
    """A task group; one that may be cancelled, by a node or by an error, is a region."""

    flavour: str
    is_region: bool
    body: list[Node]
    catches = False

    @property
    def label(self):
        return f"group {self.flavour}{' that may be cancelled' * self.is_region}"

    def can(self, at):
        return at.is_async

    def plan(self, at):
        region = Region() if self.is_region else None
        inside = replace(at) if region is None else at.enter(region)
        self.var = GroupVar(at.world.name("g"), True, self.flavour, region, inside.all_regions, inside.region)
        inside.groups = (*at.groups, self.var)
        if region is not None and self.flavour != "asyncio":
            inside.cancels = (*at.cancels, CancelVar(self.var.name, region=region))
        scope = at.frame.open(replace(at.start(self.var.name).scope)) if self.flavour == "named" else None
        try:
            plan_all(self.body, inside)
        except Raised:
            if region is None:
                self.catches = True
            else:
                region.is_hit = True
        if scope is not None:
            at.frame.close(scope)

    def write(self, out):
        group = GROUPS[self.flavour].format(name=self.var.name)
        with (
            out.block("with planned", self.is_region),
            out.block(f"async with {group} as {self.var.text}"),
            out.block("with planned", self.catches),
        ):
            out.body(self.body)


# ---- work elsewhere that is waited for


@dataclass(frozen=True)
class Way:
    """One way to run a function elsewhere: *source* with ``{f}``, the function, and ``{of}``, what it needs."""

    name: str
    source: str
    caller: str = "both"  # "async" or "sync"
    body: str = "sync"
    frame: str = "copy"  # "same", "fresh", "given": a span is current in it, "handoff"
    backends: str = "asyncio trio"
    threads: str = "loop callback worker thread any"  # that it works on
    runs_on: str = "same"
    settles: bool = False  # asks tracekit what is current, at the spawn
    catches: bool = False  # an exception stays there


def _new_context(**kwargs):
    return Way(frame="given", settles=True, **kwargs)


CALLS = [
    Way("call", "{f}()", frame="same"),
    Way("traced", "{f}()", frame="same"),
    Way("copy_context().run", "contextvars.copy_context().run({f})"),
    Way("run in an empty Context", "run.empty.copy().run({f})", frame="fresh"),
    _new_context(name="new_context().run", source="tracekit.new_context({of}).run({f})"),
    Way("wrap", "{of}({f})", frame="handoff", settles=True),
    Way("snapshot.run", "{of}.run({f})", frame="handoff", settles=True),
    Way("aio.to_thread", "await aio.to_thread.run_sync({f}, limiter=run.limiter)", "async", runs_on="worker"),
    Way("anyio.to_thread", "await anyio.to_thread.run_sync({f}, limiter=run.limiter)", "async", runs_on="worker"),
    Way("asyncio.to_thread", "await asyncio.to_thread({f})", "async", backends="asyncio", runs_on="thread"),
    Way("trio.to_thread", "await trio.to_thread.run_sync({f})", "async", backends="trio", runs_on="thread"),
    Way(
        "aio.run_in_executor",
        "await aio.run_in_executor(run.pool, {f})",
        "async",
        backends="asyncio",
        runs_on="thread",
        settles=True,
    ),
    Way("submit().result()", "run.pool.submit({f}).result()", "sync", runs_on="blocking", settles=True),
    Way("Thread.join", "run.in_thread({f})", "sync", runs_on="blocking", settles=True, catches=True),
    Way("from_thread.run_sync", "aio.from_thread.run_sync({f})", "sync", threads="worker", runs_on="loop"),
    Way("portal.call of a function", "run.portal.call({f})", "sync", threads="worker thread", runs_on="loop"),
    Way("await", "await {f}()", "async", "async", frame="same"),
    Way("traced coroutine", "await {f}()", "async", "async", frame="same"),
    Way("create_task", "await asyncio.create_task({f}())", "async", "async", backends="asyncio"),
    Way("gather", "await asyncio.gather({f}())", "async", "async", backends="asyncio"),
    Way("wait_for", "await asyncio.wait_for({f}(), 60)", "async", "async", frame="wait_for", backends="asyncio"),
    Way("group of one", "await run.in_group({f})", "async", "async"),
    Way("run_in_context copy", "await aio.run_in_context(contextvars.copy_context(), {f})", "async", "async"),
    Way("run_in_context fresh", "await aio.run_in_context(run.empty.copy(), {f})", "async", "async", "fresh"),
    _new_context(
        name="run_in_context given",
        source="await aio.run_in_context(tracekit.new_context({of}), {f})",
        caller="async",
        body="async",
    ),
    _new_context(
        name="create_task(context=)",
        source="await asyncio.create_task({f}(), context=tracekit.new_context({of}))",
        caller="async",
        body="async",
        backends="asyncio",
    ),
    Way("wrap of a coroutine function", "await {of}({f})", "async", "async", "handoff", settles=True),
    Way("from_thread.run", "aio.from_thread.run({f})", "sync", "async", threads="worker", runs_on="loop"),
    Way("portal.call", "run.portal.call({f})", "sync", "async", threads="worker thread", runs_on="loop"),
    Way(
        "run_coroutine_threadsafe().result()",
        "asyncio.run_coroutine_threadsafe({f}(), run.loop).result()",
        "sync",
        "async",
        backends="asyncio",
        threads="worker thread",
        runs_on="loop",
    ),
]
CARRIES = {"run_in_context copy", "run_in_context fresh", "run_in_context given", "wrap of a coroutine function"}
STARTS_TASK = {"create_task", "gather", "group of one", "create_task(context=)", "portal.call"}
UNSHIELDED = {"asyncio.to_thread", "aio.run_in_executor"}  # their caller may be cancelled while the thread still runs


class Elsewhere(Node):
    """What calls and spawns have in common."""

    way: Way
    of: int
    catches = False

    @property
    def label(self):
        return self.way.name

    def can(self, at):
        way = self.way
        if at.thread not in way.threads.split() or at.world.backend not in way.backends.split():
            return False
        if way.name == "from_thread.run" and at.world.backend == "trio" and at.carried:
            return False  # trio makes the task that waits for the thread run it, inside the wrong Context
        if way.caller != "both" and at.is_async != (way.caller == "async"):
            return False
        self.target = None
        if way.frame == "given":
            self.target = pick(self.of, at.named(SpanVar))
        elif way.frame == "handoff":
            kind = "snapshot" if "snapshot" in way.name else way.body
            self.target = pick(self.of, at.named(Handoff, lambda var: var.kind == kind))
        else:
            return True
        return self.target is not None

    def frame(self, at):
        """Return the frame that the body has for itself, or None if it is the caller's."""
        kind = self.way.frame
        if kind == "same" or (kind == "wait_for" and sys.version_info >= (3, 12)):
            return None
        self.settles = at.frame.is_unsettled and not self.way.settles
        if kind == "fresh":
            return Frame((), at.chain, at.region)
        if kind == "handoff":
            return Frame(self.target.view, at.chain, at.region)
        frame = at.copy()
        if kind == "given":
            frame.open(replace(self.target.scope))
        elif kind == "detached":
            now = at.frame.current()
            frame.inherited = (Scope("link", link=now.ids),)
        return frame

    settles = False

    def settle(self, out):
        if self.settles:
            out("tracekit.current_context()")


@dataclass(eq=False)
class Call(Elsewhere):
    """Work in another task, thread or Context, or just a function, which the caller waits for."""

    way: Way
    of: int
    body: list[Node]

    def plan(self, at):
        self.name = at.world.name("c")
        frame = self.frame(at)
        thread = at.thread if self.way.runs_on == "same" else self.way.runs_on
        if thread == "blocking":
            thread = "thread" if at.thread in {"worker", "thread"} else "any"
        is_carried = self.way.name in CARRIES or (at.carried and self.way.name not in STARTS_TASK)
        inside = at.joined(frame, thread=thread, is_async=self.way.body == "async", is_carried=is_carried)
        scope = at.frame.open(replace(at.start(self.name).scope)) if "traced" in self.way.name else None
        try:
            plan_all(self.body, inside)
        except Raised:
            self.catches = self.way.catches
            if not self.catches:
                raise
        finally:
            if scope is not None:
                at.frame.close(scope)

    def write(self, out):
        if "traced" in self.way.name:
            out(f'@tracekit.traced("{self.name}")')
        with out.function(self.name, self.way.body == "async"), out.block("with planned", self.catches):
            out.body(self.body)
        self.settle(out)
        with out.block("with anyio.CancelScope(shield=True)", self.way.name in UNSHIELDED):
            out(self.way.source.format(f=self.name, of=self.target and self.target.text))


# ---- work that goes on by itself


SPAWNS = [
    Way(
        "create_task, not awaited",
        "run.keep(asyncio.create_task({f}()))",
        body="async",
        backends="asyncio",
        threads="loop callback",
    ),
    Way(
        "run_coroutine_threadsafe",
        "asyncio.run_coroutine_threadsafe({f}(), run.loop)",
        body="async",
        backends="asyncio",
        runs_on="loop",
    ),
    Way(
        "portal.start_task_soon",
        "run.portal.start_task_soon({f})",
        "sync",
        "async",
        threads="worker thread",
        runs_on="loop",
    ),
    Way(
        "create_task of a wrapped function",
        "run.keep(asyncio.create_task({of}({f})))",
        body="async",
        frame="handoff",
        backends="asyncio",
        threads="loop callback",
        settles=True,
    ),
    Way(
        "create_task(context=), not awaited",
        "run.keep(asyncio.create_task({f}(), context=tracekit.new_context({of})))",
        body="async",
        frame="given",
        backends="asyncio",
        threads="loop callback",
        settles=True,
    ),
    Way("call_soon", "run.loop.call_soon({f})", backends="asyncio", threads="loop callback", runs_on="callback"),
    Way("call_later", "run.loop.call_later(0, {f})", backends="asyncio", threads="loop callback", runs_on="callback"),
    Way("call_soon_threadsafe", "run.loop.call_soon_threadsafe({f})", backends="asyncio", runs_on="callback"),
    Way(
        "run_sync_soon of a wrapped function",
        "run.token.run_sync_soon(tracekit.wrap({f}))",
        backends="trio",
        runs_on="loop",
        settles=True,
    ),
    Way("submit", "run.pool.submit({f})", runs_on="thread", settles=True),
    Way("map", "run.pool.map(call, [{f}])", runs_on="thread", settles=True),
    Way("submit to a wrapped executor", "run.wrapped_pool.submit({f})", runs_on="thread", settles=True),
    Way("submit of a wrapped function", "run.plain_pool.submit(tracekit.wrap({f}))", runs_on="thread", settles=True),
    Way(
        "submit of snapshot.run",
        "run.plain_pool.submit({of}.run, {f})",
        frame="handoff",
        runs_on="thread",
        settles=True,
    ),
    Way("Thread", "threads.Thread(target={f}).start()", runs_on="thread", settles=True),
    Way("Timer", "threads.Timer(0, {f}).start()", runs_on="thread", settles=True),
    Way(
        "plain Thread of a wrapped function",
        "threading.Thread(target=tracekit.wrap({f})).start()",
        runs_on="thread",
        settles=True,
    ),
    Way(
        "aio.run_in_executor, not awaited",
        "run.keep(aio.run_in_executor(run.pool, {f}))",
        backends="asyncio",
        threads="loop callback",
        runs_on="thread",
        settles=True,
    ),
]


def _move_generator(at, inside, number):
    """Let what is spawned have one of the generators here."""
    generator = pick(number // 2, at.named(GeneratorVar, lambda var: var.may_step(at))) if number % 2 else None
    if generator is not None:
        generator.frame.chain, generator.frame.region = inside.chain, inside.region


@dataclass(eq=False)
class Spawn(Elsewhere):
    """Work that nobody waits for but the program's end."""

    way: Way
    of: int
    take: int
    body: list[Node]

    def plan(self, at):
        self.name = at.world.name("t")
        thread = at.thread if self.way.runs_on == "same" else self.way.runs_on
        inside = at.apart(self.frame(at), thread=thread, is_async=self.way.body == "async")
        _move_generator(at, inside, self.take)
        with contextlib.suppress(Raised):
            plan_all(self.body, inside)

    def write(self, out):
        out("@run.hold")
        with out.function(self.name, self.way.body == "async"):
            out.body(self.body)
        self.settle(out)
        out(self.way.source.format(f=self.name, of=self.target and self.target.text))


@dataclass(eq=False)
class Task(Elsewhere):
    """A task of a group around here, started from wherever the group is at hand."""

    how: str  # "start_soon", "detached", "to_thread"
    of: int
    take: int
    body: list[Node]

    @property
    def label(self):
        return f"{self.how} in {'the outermost group' if self.group.is_root else self.group.flavour}"

    def can(self, at):
        groups = [
            group for group in at.groups[::-1] if self.how != "to_thread" or group.flavour not in {"named", "asyncio"}
        ]
        self.group = pick(self.of, groups) if at.thread == "loop" else None
        return self.group is not None

    def plan(self, at):
        self.name = at.world.name("t")
        self.way = Way(self.how, "", frame="detached" if self.how == "detached" else "copy")
        frame = self.frame(at)
        self.settles = at.frame.is_unsettled and self.group.flavour != "named" and self.how != "detached"
        inside = at.apart(
            frame,
            regions=self.group.regions,
            groups=at.groups[: at.groups.index(self.group) + 1],
            cancels=tuple(var for var in at.cancels if var.region in self.group.regions),
            thread="worker" if self.how == "to_thread" else "loop",
            is_async=self.how != "to_thread",
        )
        _move_generator(at, inside, self.take)
        if self.group.flavour == "named":
            frame.open(inside.start(self.name).scope)
        try:
            plan_all(self.body, inside)
        except Raised:
            if self.group.region is None:
                self.catches = True
            else:
                self.group.region.is_hit = True

    def write(self, out):
        if self.group.is_root:
            out("@run.hold")
        catches = self.catches and not self.group.is_root
        with out.function(self.name, self.how != "to_thread"), out.block("with planned", catches):
            out.body(self.body)
        self.settle(out)
        group = self.group.text
        if self.how == "detached":
            out(f'aio.spawn_detached({group}, {self.name}, name="{self.name}")')
        elif self.how == "to_thread":
            arguments = f"{self.name}, limiter=run.limiter"
            out(f"{group}.start_soon(partial(aio.to_thread.run_sync, {arguments}))")
        elif self.group.flavour == "asyncio":
            out(f"{group}.create_task({self.name}())")
        else:
            out(f'{group}.start_soon({self.name}, name="{self.name}")')


@dataclass(eq=False)
class StartTask(Elsewhere):
    """``await group.start()``: its caller waits for what comes before ``started()``, and not for what comes after."""

    of: int
    take: int
    body: list[Node]
    after: list[Node]

    @property
    def label(self):
        return f"start in {'the outermost group' if self.group.is_root else self.group.flavour}"

    def can(self, at):
        groups = [group for group in at.groups[::-1] if group.flavour != "asyncio" and not group.is_root]
        self.group = pick(self.of, groups) if at.thread == "loop" and at.is_async else None
        return self.group is not None

    def plan(self, at):
        self.name = at.world.name("t")
        self.way = Way("start", "")
        frame = self.frame(at)
        self.settles = at.frame.is_unsettled and self.group.flavour != "named"
        if self.group.lies_in is not at.region:
            frame.region = Region()  # either could be cancelled without the other
        groups = at.groups[: at.groups.index(self.group) + 1]
        cancels = tuple(var for var in at.cancels if var.region in self.group.regions)
        before = at.joined(frame, groups=groups, cancels=cancels, env=list(at.env), is_carried=False)
        frame.regions |= self.group.regions
        if self.group.flavour == "named":
            frame.open(before.start(self.name).scope)
        self.catches_before = False
        try:
            plan_all(self.body, before)
        except Raised:
            self.catches_before = True
        inside = replace(before)
        frame.chain, frame.region, inside.inside = object(), Region(), None
        _move_generator(at, inside, self.take)
        try:
            plan_all(self.after, inside)
        except Raised:
            if self.group.region is None:
                self.catches = True
            else:
                self.group.region.is_hit = True

    def write(self, out):
        with out.function(self.name, True, "task_status"):
            with out.block("with planned", self.catches_before):
                out.body(self.body)
            out("task_status.started()")
            with out.block("with planned", self.catches):
                out.body(self.after)
        self.settle(out)
        out(f'await {self.group.text}.start({self.name}, name="{self.name}")')


CHANNELS = {
    "queue": ("run.queue.put", "loop callback worker thread any"),
    "stream": ("run.stream.send_nowait", "loop"),
    "aio.Queue": ("run.aio_queue.put_nowait", "loop callback"),
}


@dataclass(eq=False)
class Send(Node):
    """An item for a worker that was started by whoever sent the first one, and what the worker does with it."""

    channel: str
    is_root: bool
    body: list[Node]

    @property
    def label(self):
        return f"item in a {self.channel}, as {'root' if self.is_root else 'child'}"

    def can(self, at):
        return at.thread in CHANNELS[self.channel][1].split()

    def plan(self, at):
        self.name = at.world.name("i")
        now = at.frame.current()
        frame = Frame((), None, None)
        is_async = self.channel != "queue"
        inside = at.apart(frame, thread="loop" if is_async else "thread", is_async=is_async)
        if self.is_root:
            under, links = NOTHING, [now]
        else:
            under, links = (now if now.ids is not None else Scope("nothing", labels=now.labels)), []
        frame.open(inside.start(self.name, under, links).scope)
        with contextlib.suppress(Raised):
            plan_all(self.body, inside)

    def write(self, out):
        out("@run.hold")
        with (
            out.function(self.name, self.channel != "queue", "delivery"),
            out.block(f'with delivery.span("{self.name}"{", root=True" * self.is_root})'),
        ):
            out.body(self.body)
        out(f"{CHANNELS[self.channel][0]}({self.name})")


@dataclass(eq=False)
class Take(Node):
    """A snapshot or wrapped function, for whoever comes later."""

    kind: str

    @property
    def label(self):
        return "capture" if self.kind == "snapshot" else "wrap"

    def plan(self, at):
        self.var = Handoff(at.world.name("w"), False, self.kind, at.frame.view())
        at.env.append(self.var)

    def write(self, out):
        taken = {"snapshot": "capture()", "sync": "wrap(call)", "async": "wrap(call_async)"}[self.kind]
        if self.var.is_used:
            out(f"{self.var.text} = tracekit.{taken}")


# ---- generators


@dataclass(eq=False)
class Generator(Node):
    flavour: str  # "traced" or "stream"
    is_async: bool
    body: list[Node]

    @property
    def label(self):
        return f"{'async ' * self.is_async}generator, {self.flavour}"

    def can(self, at):
        return at.is_async or not self.is_async

    def plan(self, at):
        self.var = GeneratorVar(at.world.name("y"), self, at)
        at.env.append(self.var)
        at.world.generators.append(self.var)

    def write(self, out):
        name = self.var.name
        if self.flavour == "traced":
            out(f'@tracekit.traced("{name}")')
        with (
            out.function(name, self.is_async),
            out.block(f'with run.watched("{name}")', self.is_async and self.var.is_dropped),
        ):
            out("if False: yield")
            out.body(self.body)
        made = f"{name}()" if self.flavour == "traced" else f'tracekit.stream({name}(), name="{name}")'
        out(f"{self.var.text} = {made}")


@dataclass(eq=False)
class Step(Node):
    of: int
    count: int
    catches: bool

    @property
    def label(self):
        kind = "async step" if self.target.node.is_async else "step"
        return f"{kind} by {self.by}"

    def can(self, at):
        self.target = pick(self.of, at.named(GeneratorVar, lambda var: var.may_step(at))[::-1])
        if self.target is None:
            return False
        self.by = "the same" if self.target.by.frame is at.frame else f"another, {at.thread}"
        return True

    def plan(self, at):
        self.target.stepped_by(at)
        with contextlib.suppress(Raised if self.catches else ()):
            for _ in range(self.count):
                next(self.target.plan, None)

    def write(self, out):
        step = "await anext" if self.target.node.is_async else "next"
        with out.block("with planned", self.catches):
            for _ in range(self.count):
                out(f"{step}({self.target.text}, None)")


@dataclass(eq=False)
class Finish(Node):
    """The end of a generator before its time: closed, thrown into, or forgotten."""

    how: str
    of: int
    catches: bool

    @property
    def label(self):
        return f"{'async ' * self.target.node.is_async}generator: {self.how}"

    def can(self, at):
        may_drop = at.world.backend == "asyncio"  # trio warns of an async generator that nobody closes
        self.target = pick(
            self.of,
            at.named(
                GeneratorVar,
                lambda var: var.may_step(at) and (self.how != "drop" or may_drop or not var.node.is_async),
            )[::-1],
        )
        return self.target is not None

    def plan(self, at):
        generator = self.target
        generator.stepped_by(at)
        if self.how == "close":
            generator.plan.close()
        elif self.how == "throw":
            with contextlib.suppress(StopIteration, *[Raised] * self.catches):
                generator.plan.throw(Raised())
        else:
            generator.is_dropped = True
            if generator.node.is_async:
                generator.frame.chain, generator.frame.region = object(), Region()
            generator.plan.close()

    def write(self, out):
        generator, is_async = self.target.text, self.target.node.is_async
        if self.how == "close":
            out(f"await {generator}.aclose()" if is_async else f"{generator}.close()")
        elif self.how == "throw":
            with (
                out.block("with planned", self.catches),
                out.block(f"with suppress(Stop{'Async' * is_async}Iteration)"),
            ):
                out(f"await {generator}.athrow(Planned())" if is_async else f"{generator}.throw(Planned())")
        elif is_async:
            out(f'run.drop("{self.target.name}")')
        else:
            out(f"del {generator}")


# ---- programs


class Program:
    """A tree of nodes, what is expected of it, and its source."""

    def __init__(self, backend, body):
        self.backend = backend
        self.body = body
        self.world = world = World(backend)
        world.groups = (GroupVar("root", True, is_root=True),)
        frame = Frame((), object(), Region())
        at = At(world, frame, [], groups=world.groups)
        with contextlib.suppress(Raised):
            plan_all(body, at)
        left_open = list(frame.own)
        for scope in left_open:
            frame.close(scope)
        last = Look()
        plan_all([last], at)
        self.generators = [generator.name for generator in world.generators]
        for generator in world.generators:
            generator.plan.close()
        for _ in range(2):  # only the end of it shows what is referred to in the beginning
            out = Writer()
            with out.function("program", True, "run"):
                with out.block("with planned"):
                    out.body(body)
                for scope in left_open:
                    out(f"{scope.var.text}.__exit__(None, None, None)")
                out.body([last])
        self.source = "\n".join(out.lines) + "\n"

    def __repr__(self):
        return f"Program on {self.backend}:\n{self.source}"

    @property
    def function(self):
        """What the source defines."""
        if self._function is None:
            names = {}
            linecache.cache["<program>"] = len(self.source), None, self.source.splitlines(keepends=True), "<program>"
            exec(compile(self.source, "<program>", "exec"), NAMES, names)
            self._function = names["program"]
        return self._function

    _function = None

    def tree(self):
        """Return the planned spans as text."""
        lines = []

        def add(parent, depth):
            for name, span in self.world.spans.items():
                if span.parent == parent:
                    links = "".join(f" ~ {link}" for link in span.links)
                    labels = f" {span.labels}" if span.labels else ""
                    lines.append(f"{'  ' * depth}{name}{links}{labels}{'' if span.is_certain else ' (maybe)'}")
                    add(name, depth + 1)

        for parent in [None, UNKNOWN, *(f"r{n + 1}" for n in range(self.world.names["r"]))]:
            if isinstance(parent, str):
                lines.append(parent)
            add(parent, 0 if parent is None else 1)
        return "\n".join(lines)

    @property
    def is_certain(self):
        """Whether every span must be there, whatever the interleaving."""
        return all(span.is_certain for span in self.world.spans.values())


# ---- the strategy


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


# ---- running them


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


class Run:
    """One run of a program: what its source calls ``run``."""

    def __init__(self, runner):
        self._runner = runner
        self.pool, self.wrapped_pool, self.plain_pool = runner.pools
        self.limiter = runner.limiter
        self.looks = {}
        self._lock = threading.Lock()
        self._working = 0
        self._idle = threading.Event()
        self._idle.set()
        self._kept = set()
        self._watched, self._dropped = set(), set()
        self._stream = self._queue = self._aio_queue = None

    # What it waits for

    def _begin(self):
        with self._lock:
            self._working += 1
            self._idle.clear()

    def _done(self):
        with self._lock:
            self._working -= 1
            if not self._working:
                self._idle.set()

    def give_up(self):
        self._idle.set()

    def state(self):
        return f"waiting for {self._working} that nobody else waits for\n" + "\n".join(self._runner.noise.heard)

    def hold(self, function):
        """Return *function*, for whose one call the program's end waits; it swallows what was raised on purpose."""
        self._begin()
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def held(*args):
                try:
                    with planned:
                        await function(*args)
                finally:
                    self._done()
        else:

            @functools.wraps(function)
            def held(*args):
                try:
                    with planned:
                        function(*args)
                finally:
                    self._done()

        return held

    def keep(self, future):
        self._kept.add(future)

    @contextlib.contextmanager
    def watched(self, name):
        self._watched.add(name)
        try:
            yield
        finally:
            self._watched.remove(name)
            if name in self._dropped:
                self._done()

    def drop(self, name):
        """Forget an async generator; the loop closes it, and the program's end waits for that."""
        if name in self._watched:
            self._dropped.add(name)
            self._begin()
        delattr(self, name)

    # Hand-offs that take more than a line

    async def in_group(self, function):
        async with anyio.create_task_group() as group:
            group.start_soon(function)

    def in_thread(self, function):
        thread = threads.Thread(target=function)
        thread.start()
        thread.join()

    def cancel(self, scope):
        getattr(scope, "cancel_scope", scope).cancel()

    def look(self, name):
        self.looks[name] = tracekit.current_context()

    # Channels, each with a worker that whoever sends first starts

    @property
    def stream(self):
        if self._stream is None:
            self._stream, receive = aio.create_memory_object_stream(1000)
            self.root.start_soon(self._receive, receive)
        return self._stream

    async def _receive(self, receive):
        with receive:
            async for delivery in receive.deliveries():
                await delivery.item(delivery)

    @property
    def queue(self):
        with self._lock:
            if self._queue is None:
                self._queue = threads.Queue()
                self._worker = threading.Thread(target=tracekit.wrap(self._work), args=(self._queue,))
                self._worker.start()
        return self._queue

    def _work(self, queue):
        while (delivery := queue.get_delivery()).item is not None:
            delivery.item(delivery)

    @property
    def aio_queue(self):
        if self._aio_queue is None:
            self._aio_queue = aio.Queue()
            self.keep(asyncio.create_task(self._work_async(self._aio_queue)))
        return self._aio_queue

    async def _work_async(self, queue):
        while (delivery := await queue.get_delivery()).item is not None:
            await delivery.item(delivery)

    # The run itself

    async def main(self, program):
        self.empty = contextvars.copy_context()  # not Context(): anyio keeps in it which library it is on
        if program.backend == "asyncio":
            self.loop = asyncio.get_running_loop()
        else:
            self.token = trio.lowlevel.current_trio_token()
        async with anyio.from_thread.BlockingPortal() as self.portal, anyio.create_task_group() as self.root:
            await program.function(self)
            await self._wait()
            for name in program.generators:
                await self._finish(getattr(self, name, None))
            await self._wait()
            if self._stream is not None:
                self._stream.close()
            if self._queue is not None:
                self._queue.put(None)
                self._worker.join()
            if self._aio_queue is not None:
                self._aio_queue.put_nowait(None)
        for future in self._kept:
            await future
        for value in vars(self).values():
            if isinstance(value, tracekit.Span):
                value.end()
        assert tracekit.current_context() is None, "something is still current at the end"

    async def _wait(self):
        if not self._idle.is_set():
            await anyio.to_thread.run_sync(self._idle.wait, limiter=self.limiter)

    async def _finish(self, generator):
        with planned:
            if hasattr(generator, "aclose"):
                await generator.aclose()
            elif generator is not None:
                generator.close()


class Exporter:
    """Keeps what has ended."""

    def __init__(self):
        self.spans = []

    def export(self, spans):
        self.spans += spans

    def shutdown(self):
        pass


class Noise(logging.Handler):
    """What should not be there: log records, warnings, errors that nobody could catch."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.heard = []

    def emit(self, record):
        if record.levelno >= logging.WARNING or record.name.startswith("tracekit"):
            self.heard.append(f"{record.name}: {record.getMessage()}")
            if record.exc_info:
                self.heard.append("".join(traceback.format_exception(*record.exc_info)))

    def unraisable(self, unraisable):
        error = unraisable.exc_value
        self.heard.append(f"unraisable in {unraisable.object!r}: {''.join(traceback.format_exception(error))}")

    def in_thread(self, args):
        self.heard.append(f"in a thread: {''.join(traceback.format_exception(args.exc_value))}")


class Runner:
    """Runs programs on one backend, in one event loop that they share; ``with`` it."""

    def __init__(self, backend):
        self.backend = backend
        self.kinds = Counter()
        self.programs = self.nodes = self.spans = self.missing = 0

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        name, options = BACKENDS[self.backend]
        self.exporter = Exporter()
        tracekit.configure(service="programs", exporter=self.exporter)
        self.stack.callback(tracekit.configure)
        plain = futures.ThreadPoolExecutor(MAX_NODES + 50)
        self.pools = threads.ThreadPoolExecutor(MAX_NODES + 50), threads.wrap_executor(plain), plain
        self.stack.enter_context(self.pools[0])
        self.stack.enter_context(plain)
        self.portal = self.stack.enter_context(anyio.from_thread.start_blocking_portal(name, options))
        self.limiter = self.portal.call(anyio.CapacityLimiter, MAX_NODES + 50)
        self.noise = Noise()
        logging.getLogger().addHandler(self.noise)
        self.stack.callback(logging.getLogger().removeHandler, self.noise)
        for module, hook, own in (
            (sys, "unraisablehook", self.noise.unraisable),
            (threading, "excepthook", self.noise.in_thread),
        ):
            self.stack.callback(setattr, module, hook, getattr(module, hook))
            setattr(module, hook, own)
        return self

    def __exit__(self, *exc):
        self.stack.__exit__(*exc)

    def check(self, program):
        """Run *program* twice; raise AssertionError, with its source, where it does not do as planned."""
        first, second = self.run(program), self.run(program)
        wrong = [*first.wrong, *second.wrong]
        for name in first.found.keys() & second.found.keys():
            if first.found[name] != second.found[name]:
                wrong.append(f"{name} is not the same twice: {first.found[name]}, {second.found[name]}")  # noqa: PERF401
        if wrong:
            raise AssertionError("\n".join([*dict.fromkeys(wrong), "", repr(program), "planned:", program.tree()]))
        if not program.world.kinds.keys() - {"look"}:
            return
        self.programs += 1
        self.kinds += program.world.kinds
        self.spans += len(first.found)
        self.missing += len(program.world.spans) - len(first.found)

    def run(self, program):
        tracekit.flush(20)
        self.exporter.spans.clear()
        self.noise.heard.clear()
        before = tracekit.statistics()
        run = Run(self)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            contextvars.Context().run(self._run, run, program)
            assert tracekit.flush(20)
        outcome = Outcome(program, run, self.exporter.spans)
        now = tracekit.statistics()
        counts = tracekit.Statistics(*[new - old for new, old in zip(now, before, strict=True)])
        recorded = len(self.exporter.spans)
        if (
            (counts.ended, counts.open, counts.exported) != (counts.started, 0, recorded)
            or counts.ended != recorded + counts.unsampled
            or (program.is_certain and counts.started != len(program.world.spans))
        ):
            outcome.wrong.append(f"{counts} for {recorded} spans of {len(program.world.spans)} planned")
        outcome.wrong += [f"warned: {warning.message}" for warning in warned]
        outcome.wrong += self.noise.heard
        return outcome

    def _run(self, run, program):
        future = self.portal.start_task_soon(run.main, program)
        try:
            future.result(20)
        except TimeoutError:
            future.cancel()
            run.give_up()
            raise AssertionError(f"hangs, {run.state()}\n{program!r}") from None
        except BaseException as error:
            raise AssertionError("\n".join([*_leaves(error), "", repr(program)])) from None


def _leaves(error):
    """Return the errors in *error*, each with the last lines of its traceback."""
    if isinstance(error, BaseExceptionGroup):
        return [line for inner in error.exceptions for line in _leaves(inner)]
    return ["raised " + "".join(traceback.format_exception(error, limit=-3))]


class Outcome:
    """What a run recorded, by name, and where that is not as planned."""

    def __init__(self, program, run, spans):
        world = program.world
        self.wrong = []
        self.found = {}
        by_id = {span.context.span_id: span.name for span in spans}
        by_id.update({remote(f"r{n + 1}").span_id: f"r{n + 1}" for n in range(world.names["r"])})
        traces = {span.name: span.context.trace_id for span in spans}
        traces.update({f"r{n + 1}": remote(f"r{n + 1}").trace_id for n in range(world.names["r"])})
        roots = {}
        for span in spans:
            if span.name in self.found:
                self.wrong.append(f"{span.name} was recorded twice")
            parent = span.parent and by_id.get(span.parent.span_id, span.parent.span_id)
            links = [by_id.get(link.context.span_id, "") for link in span.links]
            labels = dict(span.context.labels)
            self.found[span.name] = parent, labels, links
            expected = world.spans.get(span.name)
            if expected is None:
                self.wrong.append(f"{span.name} was not planned")
                continue
            if expected.sampled is False:
                self.wrong.append(f"{span.name} is not sampled, but was recorded")
            self.compare(span.name, expected, parent, labels)
            if UNKNOWN not in expected.links and not world.are(links, expected.links):
                self.wrong.append(f"{span.name} is linked to {links}, not {expected.links}")
            if parent is None:
                if traces[span.name] in roots:
                    self.wrong.append(f"{span.name} and {roots[traces[span.name]]} are roots of one trace")
                roots[traces[span.name]] = span.name
            elif traces.get(parent) != traces[span.name]:
                self.wrong.append(f"{span.name} is in another trace than its parent {parent}")
        for name, expected in world.spans.items():
            if name not in self.found and expected.is_certain and expected.sampled is True:
                self.wrong.append(f"{name} is missing")
        for name, context in run.looks.items():
            expected = world.looks[name]
            ids = by_id.get(context.span_id) if context is not None and context.is_valid else None
            labels = {} if context is None else dict(context.labels)
            if expected.sampled is UNKNOWN and context is not None and not context.sampled:
                pass
            elif expected.sampled is not False:
                self.compare(f"what is current at {name}", expected, ids, labels)
            elif context is None or context.sampled:
                self.wrong.append(f"what is current at {name} is {context}, not what is not sampled")
        for name, expected in world.looks.items():
            if name not in run.looks and expected.is_certain:
                self.wrong.append(f"{name} is missing")

    def compare(self, name, expected, parent, labels):
        if expected.parent not in (parent, UNKNOWN):
            self.wrong.append(f"{name}: parent is {parent}, not {expected.parent}")
        if expected.labels not in (labels, UNKNOWN):
            self.wrong.append(f"{name}: labels are {labels}, not {expected.labels}")


def check_programs(runner, numbers):
    """Check the programs of these numbers: on one backend, of one version of this file, a number is always the same program.

    Each is a run of Hypothesis for itself, as one run of many programs would vary few of them again and again.
    """
    for number in numbers:
        check = given(program=programs(BACKENDS[runner.backend][0]))(runner.check)
        check = settings(
            max_examples=2,  # the first is always the empty program
            deadline=None,
            database=None,
            print_blob=False,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )(check)
        try:
            seed(number)(check)()
        except BaseException as error:
            error.add_note(f"program {number} on {runner.backend}")
            raise


def main(count=2000, backends=None, *, statistics=False, first=None):
    """Check *count* random programs on each of *backends*; return how many backends failed."""
    failed = 0
    for backend in backends or BACKENDS:
        number = int.from_bytes(os.urandom(3)) * 1000 if first is None else first
        print(f"{backend}: programs {number} to {number + count - 1}", file=sys.stderr)
        with Runner(backend) as runner:
            try:
                check_programs(runner, _told(range(number, number + count), runner))
            except Exception as error:
                failed += 1
                print("".join(traceback.format_exception_only(error)), file=sys.stderr)
        print(
            f"{backend}: {runner.programs} programs, {runner.spans:,} spans as planned"
            f" ({runner.missing:,} more were cancelled before they began)",
            file=sys.stderr,
        )
        if statistics:
            for kind, times in runner.kinds.most_common():
                print(f"{times:9,} {kind}", file=sys.stderr)
    return failed


def _told(numbers, runner):
    began = time.monotonic()
    for done, number in enumerate(numbers):
        if done and done % 100 == 0:
            print(f"  {done} in {time.monotonic() - began:.0f} s, {runner.spans:,} spans", file=sys.stderr)
        yield number


def _options():
    parser = argparse.ArgumentParser(prog="python -m tests.guarantees.programs", description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=2000, help="how many programs a backend")
    parser.add_argument("--backend", choices=BACKENDS, action="append", help="this one alone; may be given again")
    parser.add_argument("--first", type=int, metavar="N", help="the number of the first program; random by default")
    parser.add_argument("--statistics", action="store_true", help="say how often each kind of node ran")
    return parser.parse_args()


if __name__ == "__main__":
    options = _options()
    sys.exit(main(options.count, options.backend, statistics=options.statistics, first=options.first))
