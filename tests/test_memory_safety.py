"""Programs of public calls that crashed the compiled form once; each runs in a process of its own."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap

import pytest

import tracekit

COMPILED = tracekit.IMPLEMENTATION == "compiled"
PRELUDE = """
import contextvars, gc, sys, threading, tracekit

def place(variable):
    digits = hash(variable) & 0xFFFF_FFFF_FFFF_FFFF
    return (digits ^ digits >> 32) & 31

def neighbor(variable):
    "Return a new variable at the same place in the first level of a Context's tree."
    made = (contextvars.ContextVar(f"neighbor {number}") for number in range(1_000_000))
    return next(candidate for candidate in made if place(candidate) == place(variable))
"""


def run(program, prelude=PRELUDE):
    """Run *program*, in a thread with a small stack if it defines ``main``, and return what it printed."""
    epilogue = """
if "main" in globals():
    threading.stack_size(256 * 1024)
    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
print("done")
"""
    result = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", prelude + textwrap.dedent(program) + epilogue],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"exit code {result.returncode}\n{result.stderr}"
    assert result.stderr == ""
    return result.stdout


def test_a_span_returns_to_the_copy_that_replaced_its_scope():
    assert run(
        """
        for _ in range(200):
            outer, span = tracekit.span("outer"), tracekit.span("span")
            outer.__enter__()
            span.__enter__()
            task = contextvars.copy_context()
            task.run(span.__enter__)
            outer.__exit__(None, None, None)  # replaces the scope of span
            task.run(span.__exit__, None, None, None)
            del task
            assert tracekit.current_span() is span
            span.__exit__(None, None, None)
            assert tracekit.current_span() is None
        """
    )


def test_a_span_returns_to_no_scope_that_was_closed():
    assert run(
        """
        outer, span = tracekit.span("outer"), tracekit.span("span")
        outer.__enter__()
        span.__enter__()
        tasks = [contextvars.copy_context() for _ in range(3)]
        for task in tasks:
            task.run(span.__enter__)
        outer.__exit__(None, None, None)
        for task in tasks:
            task.run(span.__exit__, None, None, None)
        span.__exit__(None, None, None)
        span.__exit__(None, None, None)
        assert tracekit.current_span() is None
        del tasks, task, outer, span
        gc.collect()
        assert tracekit.statistics().open == 0
        """
    )


def test_an_asyncio_child_may_enter_the_span_of_its_parent():
    assert run(
        """
        import asyncio

        async def child(span, entered, leave):
            with span:
                entered.set()
                await leave.wait()

        async def parent():
            for _ in range(50):
                entered, leave = asyncio.Event(), asyncio.Event()
                outer, span = tracekit.span("outer"), tracekit.span("span")
                outer.__enter__()
                span.__enter__()
                task = asyncio.create_task(child(span, entered, leave))
                await entered.wait()
                outer.__exit__(None, None, None)
                leave.set()
                await task
                del task
                await asyncio.sleep(0)  # the loop still holds the task, and with it the copy of the context
                span.__exit__(None, None, None)
                assert tracekit.current_span() is None

        asyncio.run(parent(), debug=False)
        """
    )


def test_a_context_that_is_deallocated_leaves_an_outer_opening_of_its_span_in_place():
    assert run(
        """
        with tracekit.span("span") as span:
            task = contextvars.copy_context()
            task.run(span.__enter__)
            del task
            gc.collect()  # a scope of the plain form is in a cycle with its Context
            assert tracekit.current_span() is span
        assert tracekit.current_span() is None
        """
    )


@pytest.mark.parametrize("count", [200_000 if COMPILED else 20_000])
def test_a_long_chain_of_openings_of_one_span_is_deallocated_without_recursion(count):
    assert run(
        f"""
        def main():
            def enter():
                span = tracekit.span("span")
                for _ in range({count}):
                    span.__enter__()
            contextvars.Context().run(enter)
        """
    )


@pytest.mark.parametrize("count", [300_000 if COMPILED else 20_000])
def test_a_long_chain_of_replaced_scopes_is_deallocated_without_recursion(count):
    assert run(
        f"""
        def main():
            tasks = []
            def enter():
                under = [tracekit.span("under").__enter__() for _ in range({count})]
                tracekit.span("top").__enter__()
                while under:
                    tasks.append(contextvars.copy_context())  # keeps the scope that the next exit replaces
                    under.pop().__exit__(None, None, None)
            contextvars.Context().run(enter)
            while tasks:  # the newest first: in the end each replaced scope keeps the next one alone
                tasks.pop()
        """
    )


@pytest.mark.parametrize("count", [100_000 if COMPILED else 5_000])
def test_labels_may_be_opened_any_number_of_times(count):
    assert run(
        f"""
        def main():
            def enter():
                with tracekit.span("span") as span:
                    for _ in range({count}):
                        tracekit.use_labels(tenant="acme").__enter__()
                    assert tracekit.current_span() is span
            contextvars.Context().run(enter)
        """
    )


def test_objects_are_not_made_without_the_functions_that_fill_them():
    assert run(
        """
        scope = type(tracekit.use_context(None))
        for kind in (tracekit.Span, scope):
            try:
                made = kind.__new__(kind)
            except TypeError:
                continue
            for name in dir(made):  # the plain form's object has no fields yet
                try:
                    getattr(made, name)
                except AttributeError:
                    pass
        """
    )


@pytest.mark.skipif(not COMPILED and sys.version_info < (3, 12), reason="the plain form cannot tell that 3.11 collects")
def test_a_reading_in_a_gc_callback_does_not_change_what_is_being_set():
    assert run(
        """
        others = [contextvars.ContextVar(f"other{number}") for number in range(200)]

        class Finalized:
            def __init__(self):
                self.itself = self
            def __del__(self):
                tracekit.current_span()

        def main():
            for variable in others:
                variable.set(object())
            elsewhere = contextvars.copy_context()
            look = lambda phase, about: tracekit.current_span()
            gc.callbacks.append(look)
            gc.set_threshold(1, 1, 1)
            for number in range(2000):
                span = tracekit.span("span").__enter__()
                elsewhere.run(span.__exit__, None, None, None)
                Finalized()
                for variable in others[:5]:
                    variable.set(number)  # collects garbage half-way, on CPython 3.11
                assert tracekit.current_span() is None
                with tracekit.span("next"):
                    pass
            gc.callbacks.remove(look)
        """
    )


@pytest.mark.skipif(not COMPILED and sys.version_info < (3, 12), reason="the plain form cannot tell that 3.11 collects")
@pytest.mark.parametrize(
    "action",
    [
        "tracekit.current_span()",
        "tracekit.span('left open').__enter__()",
        "with tracekit.span('outer'), tracekit.use_labels(a='b'): tracekit.span('inner').end()",
        "list(steps())",
        "inherited.run(tracekit.span('elsewhere').__enter__)",
        "inherited.run(work.end)",
    ],
)
def test_a_finalizer_does_not_free_what_is_being_set(action):
    assert run(
        f"""
        class Finalized:
            def __init__(self):
                self.itself = self
            def __del__(self):
                {action}

        @tracekit.traced
        def steps():
            yield 1
            yield 2

        others = [contextvars.ContextVar("other") for _ in range(200)]
        for variable in others:
            variable.set(object())
        gc.disable()
        for allocations in range(1, 80):
            with tracekit.span("work") as work:
                inherited = contextvars.copy_context()
                Finalized()
                gc.enable()
                gc.set_threshold(allocations)  # it collects garbage at this object, on CPython 3.11 in a set as well
                for variable in others[:5]:
                    variable.set(allocations)
                gc.disable()
            gc.collect()
        """
    )


@pytest.mark.skipif(not COMPILED and sys.version_info < (3, 12), reason="the plain form cannot tell that 3.11 collects")
def test_a_finalizer_that_ends_a_span_of_another_context_first_does_not_free_what_is_being_set():
    """A variable that takes the place of tracekit's in the mapping has that moved further down, with its value."""
    assert run(
        """
        class Finalized:
            def __init__(self, work, own, other):
                self.itself, self.work, self.own, self.other = self, work, own, other
            def __del__(self):
                self.other.run(self.own.__exit__, None, None, None)
                self.work.__exit__(None, None, None)
                for _ in range(3):
                    contextvars.Context().run(tracekit.span("in its place").__enter__)

        context = contextvars.Context()
        context.run(tracekit.span("first").__enter__)
        (ours,) = context

        def work(allocations):
            variable = neighbor(ours)
            other = contextvars.Context()
            own = tracekit.span("own")
            other.run(own.__enter__)
            Finalized(tracekit.span("work").__enter__(), own, other)
            gc.enable()
            gc.set_threshold(allocations)
            variable.set(allocations)
            gc.disable()
            tracekit.current_span()

        gc.disable()
        for allocations in range(1, 60):
            contextvars.Context().run(work, allocations)
            gc.collect()
        """
    )


def test_a_finalizer_may_be_the_first_to_import_this():
    assert run(
        """
        class Thing:
            def __init__(self):
                self.cycle = self

            def __del__(self):
                import tracekit

        Thing()
        gc.collect()
        import tracekit
        with tracekit.span("work") as span:
            assert tracekit.current_span() is span
        assert tracekit.current_span() is None
        """,
        prelude="import gc\n",
    )


@pytest.mark.skipif(not COMPILED and sys.version_info < (3, 12), reason="the plain form cannot tell that 3.11 collects")
@pytest.mark.parametrize("phase", ["start", "stop"])
def test_a_callback_of_the_collector_that_the_program_puts_first_may_end_a_span(phase):
    assert run(
        f"""
        def end(phase, _):
            if phase == "{phase}" and open_here:
                open_here.pop().__exit__(None, None, None)
                for _ in range(3):
                    contextvars.Context().run(tracekit.span("in its place").__enter__)

        open_here = []
        context = contextvars.Context()
        context.run(tracekit.span("first").__enter__)
        (ours,) = context

        def work(allocations):
            variable = neighbor(ours)
            open_here.append(tracekit.span("work").__enter__())
            gc.callbacks.insert(0, end)
            gc.enable()
            gc.set_threshold(allocations)
            variable.set(allocations)
            gc.disable()
            gc.callbacks.remove(end)
            open_here.clear()
            tracekit.current_span()

        gc.disable()
        for allocations in range(1, 60):
            contextvars.Context().run(work, allocations)
            gc.collect()
        """
    )


@pytest.mark.skipif(not COMPILED and sys.version_info < (3, 12), reason="the plain form cannot tell that 3.11 collects")
def test_a_finalizer_may_read_a_context_that_inherited_the_span_at_each_moment_of_its_end():
    assert run(
        """
        found = []

        class Finalized:
            def __init__(self, context):
                self.itself, self.context = self, context
            def __del__(self):
                found.append(self.context.run(tracekit.current_span))

        gc.disable()
        for allocations in range(1, 80):
            with tracekit.span("work"):
                inherited = contextvars.copy_context()
                Finalized(inherited)
                gc.enable()
                gc.set_threshold(allocations)
            gc.disable()
            gc.collect()
        assert len(found) == 79
        """
    )


def test_a_span_that_another_finalizer_ends_is_counted_once(exporter):
    class Owner:
        def __del__(self):
            self.span.end()

    before = tracekit.statistics().open
    gc.collect()
    span = tracekit.span("work")  # before its owner: the collector calls finalizers in this order
    owner = Owner()
    owner.span, owner.cycle = span, owner
    del owner, span
    gc.collect()
    assert tracekit.statistics().open == before
    assert [span.name for span in exporter.spans] == ["work"]


@pytest.mark.parametrize("change", ["tracekit.span('new')", "kept.pop().end()", "open_spans([], 100)"])
def test_callbacks_of_weak_references_to_an_open_span_change_and_read_the_list_of_open_spans(change):
    assert run(
        f"""
        import weakref
        from tracekit._core.span import open_spans, watch_spans
        from tracekit.testing import MemoryExporter

        tracekit.configure(exporter=MemoryExporter())
        watch_spans(True)
        kept, new = [], []
        for _ in range(200):
            kept.append(tracekit.span("older"))
            dying = tracekit.span("dying", attributes={{"a": "b" * 50}})
            weakref.finalize(dying, lambda: new.append({change}))
            kept.append(tracekit.span("newer"))
            del dying
        taken = []
        open_spans(taken, 1000)
        assert len(taken) == tracekit.statistics().open
        assert "dying" not in {{span.name for span in taken}}
        """
    )
