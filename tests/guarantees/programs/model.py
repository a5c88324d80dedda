"""The model of a program: what must be current, by the rules of GUARANTEES.md and nothing else, and what its nodes can name."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field, replace

MAX_NODES = 200


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
    outside: Frame | None = None  # the frame of a call on the loop that no task makes

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

    @property
    def has_anyio(self):
        """Whether anyio can be called here: outside a task it looks for the loop's kind in the Context.

        The Context of a worker thread has none, and a capture of it can run a function in any task or thread.
        """
        return self.thread == "loop" and self.outside in (None, self.frame)

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
        changes = {"groups": self.world.groups, "cancels": (), "is_carried": False, "outside": None, **changes}
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
