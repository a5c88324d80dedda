"""Scopes of many tasks at random, against the one-line model "innermost open scope of this task"."""

from __future__ import annotations

import contextvars

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import tracekit


class Node:
    def __init__(self, scope, kind, owner, labels, span=None, ids=None):
        self.scope, self.kind, self.owner, self.labels, self.span, self.ids = scope, kind, owner, labels, span, ids
        self.is_open = True


class Task:
    """One contextvars.Context, and what must be current in it: what it opened, above what it inherited."""

    def __init__(self, context, inherited):
        self.context, self.inherited, self.own = context, inherited, []

    def view(self):
        return [*self.inherited, *self.own]

    def ids(self):
        for node in reversed(self.view()):
            if node.kind != "labels":
                return node.ids
        return None

    def span(self):
        for node in reversed(self.view()):
            if node.kind != "labels":
                return node.span
        return None

    def labels(self):
        view = self.view()
        return view[-1].labels if view else {}


class ScopeMachine(RuleBasedStateMachine):
    """Scopes opened and closed in any order, in and from several Contexts, against "innermost open scope of this task"."""

    @initialize()
    def start(self):
        self.tasks = [Task(contextvars.Context(), [])]
        self.nodes = []
        self.counter = 0

    def task(self, number):
        return self.tasks[number % len(self.tasks)]

    def open(self, task, scope, kind, labels, span=None, ids=None):
        task.context.run(scope.__enter__)
        node = Node(scope, kind, task, labels, span, ids)
        task.own.append(node)
        self.nodes.append(node)

    @rule(at=st.integers(0, 5))
    def open_span(self, at):
        task = self.task(at)
        span = task.context.run(tracekit.span, "s")
        parent = task.ids()
        assert (span.parent and span.parent.id) == parent
        assert span.context.labels == task.labels()
        self.open(task, span, "span", task.labels(), span, span.context.id)

    @rule(at=st.integers(0, 5))
    def open_context(self, at):
        self.counter += 1
        context = tracekit.SpanContext("c" * 32, f"{self.counter:016x}", 1, is_remote=True)
        self.open(self.task(at), tracekit.use_context(context), "context", {}, None, context.id)

    @rule(at=st.integers(0, 5))
    def open_nothing(self, at):
        self.open(self.task(at), tracekit.use_context(None), "context", {})

    @rule(at=st.integers(0, 5), key=st.sampled_from("ab"))
    def open_labels(self, at, key):
        self.counter += 1
        task = self.task(at)
        added = {key: str(self.counter)}
        self.open(task, tracekit.use_labels(added), "labels", {**task.labels(), **added})

    @rule(at=st.integers(0, 5))
    def close_innermost(self, at):
        task = self.task(at)
        if task.own:
            self.close(task.own[-1], task)

    @rule(which=st.integers(0, 30), at=st.integers(0, 5))
    def close_any(self, which, at):
        still_open = [node for node in self.nodes if node.is_open]
        if still_open:
            node = still_open[which % len(still_open)]
            self.close(node, node.owner if at == 0 else self.task(at))

    def close(self, node, task):
        task.context.run(node.scope.__exit__, None, None, None)
        node.is_open = False
        node.owner.own.remove(node)
        if task is not node.owner and node in task.inherited:
            # It closed what others opened. Something under it takes its place there: what, is not promised.
            context = task.context.run(tracekit.current_context)
            was_innermost = task.view()[-1] is node
            assert not was_innermost or node.ids is None or context is None or context.id != node.ids
            self.tasks.remove(task)

    @rule(at=st.integers(0, 5))
    def spawn(self, at):
        task = self.task(at)
        if len(self.tasks) < 6:
            self.tasks.append(Task(task.context.run(contextvars.copy_context), task.view()))

    @invariant()
    def what_is_current_is_the_innermost_open_scope_of_each_task(self):
        for task in getattr(self, "tasks", ()):
            context = task.context.run(tracekit.current_context)
            ids = task.ids()
            assert (context.id if context is not None and context.is_valid else None) == ids
            assert task.context.run(tracekit.current_span) is task.span()
            assert task.context.run(tracekit.current_labels) == task.labels()
            if not task.view():
                assert context is None


TestScopesOfManyTasks = ScopeMachine.TestCase
TestScopesOfManyTasks.settings = settings(
    max_examples=300, stateful_step_count=40, deadline=None, derandomize=True, database=None
)
