"""The nodes that make, step and finish generators."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from .model import GeneratorVar, Raised, Region, pick
from .nodes import Node


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
