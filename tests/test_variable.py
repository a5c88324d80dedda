"""The value of the one ContextVar: compiled, it is changed in place where no other Context can see that."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import random
import subprocess
import sys
import threading

import pytest

import tracekit
from tracekit._core.codecs import IMPLEMENTATION
from tracekit._core.free_threading import HAS_GIL
from tracekit._core.scopes import swap_scope

only_compiled = pytest.mark.skipif(
    IMPLEMENTATION == "plain" or not HAS_GIL,
    reason="the plain form, and C without the GIL, set the variable as others do",
)


def tree(context):
    """Return the id of the tree that holds the values of *context*, without keeping the tree."""
    return next(id(found) for found in gc.get_referents(context) if type(found).__name__ == "hamt")


def change(context):
    """Open and close a span in *context*, and tell whether it was changed in place."""
    before = tree(context)
    span = tracekit.span("changes")
    context.run(span.__enter__)
    after = tree(context)
    context.run(span.__exit__, None, None, None)
    return before == after


def used(others=()):
    """Return a Context in which a span was opened before, and *others* have values."""
    context = contextvars.Context()
    for other in others:
        context.run(other.set, other)
    change(context)
    return context


@only_compiled
def test_a_context_of_its_own_is_changed_in_place(exporter):
    assert change(used())


def test_a_copy_keeps_the_span_that_it_was_made_under(exporter):
    context = used()
    first, second = tracekit.span("first"), tracekit.span("second")
    context.run(first.__enter__)
    copy = context.run(contextvars.copy_context)
    assert not change(context)  # shared now
    context.run(second.__enter__)
    assert copy.run(tracekit.current_span) is first
    assert context.run(tracekit.current_span) is second
    context.run(second.__exit__, None, None, None)
    context.run(first.__exit__, None, None, None)


@pytest.mark.parametrize("count", [0, 1, 15, 40, 400])
def test_a_copy_that_has_changed_another_variable_keeps_the_span_too(exporter, count):
    """Copy and original share no tree then, but the nodes of it that the change did not copy."""
    others = [contextvars.ContextVar(f"other_{number}") for number in range(count + 1)]
    for other in others if count < 100 else others[:40]:
        context = used(others[:count])
        span, inner = tracekit.span("span"), tracekit.span("inner")
        context.run(span.__enter__)
        copy = context.run(contextvars.copy_context)
        copy.run(other.set, "changed")
        context.run(inner.__enter__)
        assert copy.run(tracekit.current_span) is span
        copy.run(tracekit.span("of the copy").__enter__)
        assert context.run(tracekit.current_span) is inner
        context.run(inner.__exit__, None, None, None)
        assert context.run(tracekit.current_span) is span
        context.run(span.__exit__, None, None, None)


@only_compiled
@pytest.mark.parametrize("count", [1, 15, 40, 400])
def test_it_is_changed_in_place_among_many_variables(exporter, count):
    assert change(used([contextvars.ContextVar(f"other_{number}") for number in range(count)]))


@only_compiled
def test_it_is_changed_in_place_again_once_no_copy_is_left(exporter):
    context = used()
    copy = context.copy()
    assert not change(context)  # from here on it has a tree of its own
    assert change(context)
    copy = context.copy()
    del copy
    assert change(context)


def test_whoever_walks_through_a_context_sees_it_as_it_was(exporter):
    context = used()
    outer = tracekit.span("outer")
    context.run(outer.__enter__)
    seen = iter(context.values())
    inner = tracekit.span("inner")
    context.run(inner.__enter__)
    (scope,) = [value for value in seen if type(value).__name__ == "Scope"]
    before = swap_scope(scope)
    assert tracekit.current_span() is outer
    swap_scope(before)
    context.run(inner.__exit__, None, None, None)
    context.run(outer.__exit__, None, None, None)


def test_random_contexts_see_their_own_span(exporter):
    """Contexts, copies, threads and other variables in any order, against a dict of what each Context opened last."""
    for seed in range(30):
        chance = random.Random(seed)
        others = [contextvars.ContextVar(f"other_{number}") for number in range(chance.choice([0, 1, 3, 20, 60]))]
        contexts = {0: contextvars.Context()}
        open_in = {0: []}
        for step in range(200):
            number = chance.randrange(len(contexts))
            context, spans = contexts[number], open_in[number]
            action = chance.random()
            if action < 0.35:
                span = tracekit.span("span")
                context.run(span.__enter__)
                spans.append((span, number))
            elif action < 0.6 and spans and spans[-1][1] == number:
                span, _ = spans.pop()
                if chance.random() < 0.2:  # another thread runs this Context
                    thread = threading.Thread(target=context.run, args=(span.__exit__, None, None, None))
                    thread.start()
                    thread.join()
                else:
                    context.run(span.__exit__, None, None, None)
            elif action < 0.75 and others:
                context.run(chance.choice(others).set, step)
            elif len(contexts) < 30:
                contexts[len(contexts)], open_in[len(open_in)] = context.run(contextvars.copy_context), list(spans)
            for other, one in contexts.items():
                expected = open_in[other][-1][0] if open_in[other] else None
                assert one.run(tracekit.current_span) is expected, (seed, step, other)


def test_tasks_keep_the_span_under_which_they_were_spawned(exporter):
    async def child(expected):
        assert tracekit.current_span() is expected
        with tracekit.span("child"):
            await asyncio.sleep(0)
        assert tracekit.current_span() is expected

    async def main():
        tasks = []
        with tracekit.span("outer"):
            for _ in range(20):
                with tracekit.span("inner") as inner:
                    tasks.append(asyncio.create_task(child(inner)))
            await asyncio.gather(*tasks)

    asyncio.run(main())


def test_values_that_were_replaced_are_released(exporter):
    def scopes():
        return sum(type(found).__name__ == "Scope" for found in gc.get_objects())

    context = used()
    before = scopes()
    for _ in range(100):
        with_two = tracekit.span("outer"), tracekit.span("inner")
        for span in with_two:
            context.run(span.__enter__)
        for span in reversed(with_two):
            context.run(span.__exit__, None, None, None)
    assert scopes() <= before + 2


class Reentrant:
    """Opens a span when it is deallocated, in the middle of the change that deallocates it."""

    def __init__(self, seen):
        self.seen = seen

    def __del__(self):
        with tracekit.span("in __del__") as span:
            self.seen.append(tracekit.current_span() is span)


def test_what_is_deallocated_by_a_change_may_change_it(exporter):
    seen = []

    def work():
        for _ in range(100):
            with tracekit.use_labels(tenant="a"), tracekit.span("outer"):
                holder = Reentrant(seen)
                with tracekit.span("inner") as span:
                    holder.span = span
                    del holder
                assert tracekit.current_span().name == "outer"

    contextvars.Context().run(work)
    assert seen == [True] * 100


def scope_of(context):
    """Return tracekit's variable and its value in *context*."""
    return next((variable, value) for variable, value in context.items() if variable.name == "tracekit_scope")


def test_a_scope_closed_in_a_copy_leaves_none_there(exporter):
    """Some libraries write the values of a copy back to the original, which is how they return changes of a worker."""
    context = used()
    span = tracekit.span("span")
    context.run(span.__enter__)
    copy = context.copy()
    copy.run(span.__exit__, None, None, None)
    assert scope_of(copy)[1] is None


def test_a_span_opened_and_closed_in_worker_threads_does_not_stay_current(exporter):
    sync_to_async = pytest.importorskip("asgiref.sync").sync_to_async

    async def main():
        span = tracekit.span("request")
        await sync_to_async(span.__enter__)()
        assert tracekit.current_span() is span
        await sync_to_async(span.__exit__)(None, None, None)
        assert tracekit.current_span() is None

    contextvars.Context().run(asyncio.run, main())  # no span of the test is under it


class Asks:
    """Asks for the current span when it is deallocated."""

    def __init__(self, seen, before=lambda: None):
        self.seen = seen
        self.before = before

    def __del__(self):
        self.before()
        self.seen.append(tracekit.current_span())


def end_threads(others, before=lambda: None):
    """Return the current span that finalizers see while threads end that have left a span open."""
    seen = []

    def work():
        for other in others:
            other.set(Asks(seen, before))
        tracekit.span("left open").__enter__()
        tracekit.current_span()

    for _ in range(5):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    del thread  # which may have the Context
    gc.collect()
    return seen


@pytest.mark.parametrize("count", [1, 40])
def test_a_finalizer_sees_no_span_of_the_context_that_its_thread_has_dropped(exporter, count):
    others = [contextvars.ContextVar(f"other_{number}") for number in range(count)]
    assert end_threads(others) == [None] * 5 * count


def test_a_finalizer_that_sets_a_variable_while_its_thread_ends_does_not_see_a_freed_scope(exporter):
    """CPython has the freed value of a variable in its cache then, and compares only the thread and the Context's version."""
    others = [contextvars.ContextVar(f"other_{number}") for number in range(40)]
    seen = end_threads(others, lambda: others[0].set(0))
    assert {span.name for span in seen if span is not None} <= {"left open"}
    assert len(seen) == 200


COLLECTED_INSIDE_A_SET = """
import contextvars, gc
import tracekit
from tracekit.testing import recording

variables = [contextvars.ContextVar(f"other_{number}") for number in range(40)]

DECORATOR
def steps():
    with tracekit.span("inner"):
        yield

class Cycle:
    def __init__(self):
        self.itself, self.steps = self, steps()
        next(self.steps)

def work(threshold):
    for variable in variables:
        variable.set("before")
    gc.collect()
    Cycle()
    copy = contextvars.copy_context()  # so that the scope cannot be changed in place
    variables[0].set("after")
    gc.set_threshold(threshold)
    gc.enable()
    variables[1].set("after")
    gc.disable()
    return [variable.get() for variable in variables]

gc.disable()
with recording() as exporter:
    for number in range(400):
        seen = contextvars.Context().run(work, 1 + number % 40)
        assert seen == ["after"] * 2 + ["before"] * 38
    gc.collect()
    assert {span.status.code for span in exporter.spans} == {"cancelled"}
"""


@pytest.mark.skipif(IMPLEMENTATION == "plain" and sys.version_info < (3, 12), reason="the plain form cannot tell")
@pytest.mark.parametrize("decorator", ["", "@tracekit.traced"])
def test_a_generator_that_is_collected_while_a_variable_is_set_leaves_the_values_where_they_are(decorator):
    program = COLLECTED_INSIDE_A_SET.replace("DECORATOR", decorator)
    environment = {"PYTHONMALLOC": "debug", **os.environ}  # freed memory is overwritten
    run = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr


class Named(str):
    """A name with a chosen hash: CPython combines it with the address of a ContextVar to the hash of that."""

    chosen = 0
    __slots__ = ()

    def __hash__(self):
        return Named.chosen


def neighbor(variable, bits):
    """Return a ContextVar that has the lowest *bits* of 32 bits in common with *variable*, by which the tree is ordered."""

    def reduced(number):
        return (number ^ number >> 32) & 0xFFFFFFFF

    word = (1 << 64) - 1
    for _ in range(1000):
        wanted = reduced(hash(variable) & word) ^ (1 << bits & 0xFFFFFFFF)
        name = Named("near")
        probe = contextvars.ContextVar(name)
        address = id(probe)
        Named.chosen = wanted ^ reduced((address >> 4 | address << 60) & word)
        del probe  # the next one is allocated in its place
        found = contextvars.ContextVar(name)
        if id(found) == address:
            return found
    raise AssertionError("no ContextVar was allocated in the place of the one before")


@only_compiled
@pytest.mark.skipif(sys.maxsize < 1 << 32, reason="the hash has 64 bits")
@pytest.mark.skipif(os.environ.get("PYTHONMALLOC") == "malloc", reason="the sanitizers keep freed memory from reuse")
def test_it_is_changed_in_place_at_any_depth_but_with_a_variable_of_the_same_hash(exporter):
    variable, _ = scope_of(used())
    for bits in range(32):
        context = used([neighbor(variable, bits)])
        assert change(context), bits
    others = [neighbor(variable, bits) for bits in range(32)]
    context = used(others)
    assert change(context)
    token = context.run(neighbor(variable, 32).set, "same hash")
    assert not change(context)
    span = tracekit.span("span")
    context.run(span.__enter__)
    assert context.run(tracekit.current_span) is span
    context.run(token.var.reset, token)
    assert context.run(tracekit.current_span) is span
    context.run(span.__exit__, None, None, None)
    assert change(context)


@only_compiled
def test_the_interpreter_ends_with_spans_in_the_variable():
    program = "import tracekit; tracekit.span('a').__enter__(); tracekit.span('b').__enter__()"
    assert subprocess.run([sys.executable, "-c", program], check=False, capture_output=True).returncode == 0
