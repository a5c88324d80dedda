"""The nodes that hand work on: what is waited for, what goes on by itself, items in queues."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass, replace

from .model import NOTHING, Frame, GeneratorVar, Handoff, Raised, Region, Scope, SpanVar, pick, plan_all
from .nodes import Node


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
        if self.way.name == "from_thread.run_sync" and at.world.backend == "asyncio":
            inside.outside = frame
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
        self.group = pick(self.of, groups) if at.has_anyio else None
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
        return at.thread in CHANNELS[self.channel][1].split() and (self.channel != "stream" or at.has_anyio)

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
