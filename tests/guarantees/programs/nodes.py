"""The nodes that need no other task or thread: scopes, spans, errors, cancellation and task groups."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

from .model import (
    NOTHING,
    UNKNOWN,
    CancelVar,
    Expected,
    GroupVar,
    Raised,
    Region,
    Scope,
    SpanVar,
    Var,
    pick,
    plan_all,
    plan_body,
)


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
        if self.body is None and self.what == "span" and at.frame.current().sampled not in (True, None):
            return False  # nobody sees it, so it opens no scope, or may open none
        if self.what in {"child", "use"}:
            self.target = pick(self.of, at.named(SpanVar))
        elif self.what == "started":
            self.target = pick(
                self.of, at.named(SpanVar, lambda var: not var.is_entered and var.scope.sampled in (True, None))
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
