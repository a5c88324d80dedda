"""A program: its nodes, planned once, and written out as source."""

from __future__ import annotations

import contextlib
import linecache

from .model import UNKNOWN, At, Frame, GroupVar, Raised, Region, World, Writer, plan_all
from .nodes import Look
from .vocabulary import NAMES


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
