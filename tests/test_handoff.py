"""Hand-offs by hand: capture, wrap, detached and run_in_context, on every backend and without one."""

from __future__ import annotations

import contextvars
import functools
import gc
import inspect
import pickle
import threading
import types
import typing
import weakref

import anyio
import anyio.lowlevel
import pytest

import tracekit
from tracekit.aio import run_in_context
from tracekit.testing import span_tree

pytestmark = pytest.mark.usefixtures("nothing_is_logged")

flavour = contextvars.ContextVar("flavour", default="plain")


def work(name="work"):
    """A function that pickles: it makes a span, and tells what it saw."""
    with tracekit.span(name) as span:
        return span.parent, dict(tracekit.current_labels())


async def work_async(name="work"):
    await anyio.lowlevel.checkpoint()
    with tracekit.span(name):
        await anyio.lowlevel.checkpoint()


def in_thread(job):
    """What *job* returns in a thread that knows nothing of this one."""
    results = []
    thread = threading.Thread(target=contextvars.Context().run, args=(lambda: results.append(job()),))
    thread.start()
    thread.join()
    return results[0]


class Probe:
    """Something to be kept, or not."""


# ---- capture


def test_a_snapshot_runs_work_as_a_child_of_where_it_was_taken_even_though_that_has_ended(exporter):
    with tracekit.use_labels(tenant="acme"), tracekit.span("taken"):
        snapshot = tracekit.capture()
    parent, labels = in_thread(lambda: snapshot.run(work))
    assert span_tree(exporter.spans) == "taken\n  work"
    assert labels == {"tenant": "acme"}
    assert snapshot.context == parent


def test_a_snapshot_passes_arguments_and_results_and_errors_on():
    snapshot = tracekit.capture()
    assert snapshot.run(lambda *args, **kwargs: (args, kwargs), 1, function=2) == ((1,), {"function": 2})
    error = ValueError("theirs")

    def fail():
        raise error

    with pytest.raises(ValueError, match="theirs") as caught:
        snapshot.run(fail)
    assert caught.value is error


def test_a_snapshot_takes_all_context_variables_along():
    token = flavour.set("sweet")
    snapshot = tracekit.capture()
    flavour.reset(token)
    assert in_thread(lambda: snapshot.run(flavour.get)) == "sweet"


def test_each_run_of_a_snapshot_is_in_a_copy_of_its_own(exporter):
    left = []

    def careless():
        left.append(tracekit.span("never left"))
        left[-1].__enter__()
        tracekit.use_labels(never="closed").__enter__()
        flavour.set("sticky")

    with tracekit.span("taken"):
        snapshot = tracekit.capture()
    snapshot.run(careless)
    assert tracekit.current_span() is None
    parent, labels = snapshot.run(work)
    assert (parent, labels, snapshot.run(flavour.get)) == (snapshot.context, {}, "plain")
    left[0].end()


def test_a_snapshot_runs_in_many_threads_at_once(exporter):
    barrier = threading.Barrier(8, timeout=20)

    def job():
        barrier.wait()
        with tracekit.span("job"):
            barrier.wait()

    with tracekit.span("taken"):
        snapshot = tracekit.capture()
    threads = [threading.Thread(target=snapshot.run, args=(job,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert span_tree(exporter.spans) == "taken" + "\n  job" * 8


def test_a_snapshot_of_nothing_makes_nothing_current():
    snapshot = contextvars.Context().run(tracekit.capture)
    assert snapshot.context is None
    with tracekit.span("elsewhere"):
        assert snapshot.run(tracekit.current_span) is None


def test_a_snapshots_context_can_be_asked_for_while_it_runs():
    with tracekit.span("taken") as span:
        snapshot = tracekit.capture()
    assert snapshot.run(lambda: snapshot.context) == span.context


def test_a_snapshot_does_not_keep_a_span_alive_that_has_ended():
    def take():
        with tracekit.span("taken") as span:
            return tracekit.capture(), weakref.ref(span)

    snapshot, span = take()
    gc.collect()
    assert span() is None
    assert snapshot.context.is_valid


# ---- wrap


def test_a_wrapped_function_runs_as_a_child_of_where_it_was_wrapped_however_often(exporter):
    with tracekit.span("wrapped"):
        wrapped = tracekit.wrap(work)
    wrapped("first")
    with tracekit.span("caller"):
        in_thread(functools.partial(wrapped, "second"))
    assert span_tree(exporter.spans) == "wrapped\n  first\n  second\ncaller"


def test_a_wrapped_function_looks_like_the_function():
    wrapped = tracekit.wrap(work)
    assert (wrapped.__name__, wrapped.__doc__, wrapped.__wrapped__) == (work.__name__, work.__doc__, work)
    assert inspect.signature(wrapped) == inspect.signature(work)
    assert not inspect.iscoroutinefunction(wrapped)
    assert repr(wrapped) == f"<tracekit.wrap({work!r})>"


def test_a_wrapped_function_has_the_annotations_of_the_function():
    def annotated(a: int) -> str: ...

    assert typing.get_type_hints(tracekit.wrap(annotated)) == {"a": int, "return": str}
    assert inspect.get_annotations(tracekit.wrap(annotated)) == inspect.get_annotations(annotated)


class Greeter:
    def __init__(self):
        self._snapshot = "of its own"

    def greet(self, name):
        return f"hello {name}", tracekit.current_context()

    __call__ = greet


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(Greeter().greet, id="method"),
        pytest.param(Greeter(), id="object"),
        pytest.param(functools.partial(Greeter.greet, None), id="partial"),
        pytest.param(lambda name: Greeter().greet(name), id="lambda"),
    ],
)
def test_whatever_can_be_called_can_be_wrapped(function):
    with tracekit.span("wrapped") as span:
        wrapped = tracekit.wrap(function)
    assert wrapped("you") == ("hello you", span.context)


def test_a_wrapped_function_is_a_method_where_the_function_would_be_one():
    with tracekit.span("wrapped") as span:

        class Wrapped:
            greet = tracekit.wrap(Greeter.greet)
            of_another = tracekit.wrap(Greeter().greet)
            static = tracekit.wrap(staticmethod(lambda name: name))
            of_class = classmethod(tracekit.wrap(Greeter.greet))
            object = tracekit.wrap(Greeter())

    for greet in (Wrapped().greet, functools.partial(Wrapped.greet, None), Wrapped().of_another, Wrapped.of_class):
        assert greet("you") == ("hello you", span.context)
    assert Wrapped().object("you") == ("hello you", span.context)
    assert Wrapped().static("you") == Wrapped.static("you") == "you"


def test_what_was_wrapped_first_stays_as_it_was_wrapped(exporter):
    with tracekit.span("first"):
        wrapped = tracekit.wrap(work)
    with tracekit.span("second"):
        wrapped = tracekit.wrap(wrapped)
    wrapped()
    assert span_tree(exporter.spans) == "first\n  work\nsecond"


@pytest.mark.parametrize("thing", [None, 5, "work", object()])
def test_what_cannot_be_called_cannot_be_wrapped(thing):
    with pytest.raises(TypeError, match=f"^wrap takes a function, not {type(thing).__name__}$"):
        tracekit.wrap(thing)


def test_a_wrapped_function_that_is_dropped_leaves_nothing_behind():
    def wrap_with_probe():
        probe = Probe()
        context = contextvars.copy_context()
        context.run(flavour.set, probe)
        return context.run(tracekit.wrap, work), weakref.ref(probe)

    wrapped, probe = wrap_with_probe()
    gc.collect()
    assert probe() is not None
    gc.disable()
    try:
        del wrapped
        assert probe() is None
    finally:
        gc.enable()


def test_a_wrapped_function_pickles_and_continues_the_trace_as_a_remote_one(exporter):
    with tracekit.use_labels(tenant="acme"), tracekit.span("wrapped") as span:
        pickled = pickle.dumps(tracekit.wrap(work))
    there = pickle.loads(pickled)
    assert there.__wrapped__ is work
    assert pickle.loads(pickle.dumps(there))("again")[1] == {"tenant": "acme"}
    with tracekit.span("caller"):
        parent, labels = there("there")
    assert (parent.is_remote, parent.id, labels) == (True, span.context.id, {"tenant": "acme"})
    assert span_tree(exporter.spans) == "wrapped\n  again\n  there\ncaller"


def test_a_function_that_was_wrapped_under_nothing_pickles_and_runs_under_nothing():
    there = pickle.loads(pickle.dumps(tracekit.wrap(work)))
    with tracekit.span("caller"):
        assert there() == (None, {})


def test_a_function_that_was_wrapped_while_detached_pickles_with_the_link_and_the_labels_in_force(exporter):
    with tracekit.span("request"), tracekit.use_labels(before="1"), tracekit.detached():
        linked = pickle.dumps(tracekit.wrap(work))
        with tracekit.use_labels(job="nightly"):
            labelled = pickle.dumps(tracekit.wrap(work))
    with tracekit.span("caller"):
        assert pickle.loads(linked)("linked") == (None, {})
        assert pickle.loads(labelled)("labelled") == (None, {"job": "nightly"})
    assert span_tree(exporter.spans) == "request\ncaller\nlinked ~ request\nlabelled ~ request"


def test_pickling_fails_as_it_does_for_the_function():
    def local():
        """Nobody can import this."""

    errors = []
    for function in (local, tracekit.wrap(local)):
        with pytest.raises((AttributeError, pickle.PicklingError)) as caught:
            pickle.dumps(function)
        errors.append((caught.type, str(caught.value).partition(": when")[0]))
    assert errors[0] == errors[1]


# ---- wrap, of coroutine functions


@pytest.mark.anyio
async def test_a_wrapped_coroutine_function_stays_one_and_each_call_is_on_its_own(exporter):
    with tracekit.use_labels(tenant="acme"), tracekit.span("wrapped"):
        wrapped = tracekit.wrap(work_async)
    assert inspect.iscoroutinefunction(wrapped)
    assert wrapped.__name__ == "work_async"
    with tracekit.span("caller") as caller:
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(wrapped, f"job {number}")
        await wrapped("awaited")
        assert tracekit.current_span() is caller
    assert span_tree(sorted(exporter.spans, key=lambda span: span.name)).count("\n  job ") == 3
    assert {dict(span.context.labels).get("tenant") for span in exporter.spans if span.name[0] in "ja"} == {"acme"}
    assert [span.name for span in exporter.spans if span.parent is None] == ["wrapped", "caller"]


@pytest.mark.anyio
async def test_a_wrapped_function_of_types_coroutine_runs_in_the_context_from_its_first_step_to_its_last(exporter):
    @types.coroutine
    def steps():
        with tracekit.span("inside"):
            yield from anyio.lowlevel.checkpoint().__await__()

    with tracekit.span("wrapped"):
        wrapped = tracekit.wrap(steps)
    with tracekit.span("caller"):
        await wrapped()
    assert span_tree(exporter.spans) == "wrapped\n  inside\ncaller"


@pytest.mark.anyio
async def test_a_wrapped_coroutine_function_runs_in_the_task_that_awaits_it():
    async def task():
        return anyio.get_current_task().id

    assert await tracekit.wrap(task)() == await task()


@pytest.mark.anyio
async def test_a_wrapped_coroutine_function_that_leaves_something_open_does_not_reach_the_next_call():
    left = []

    async def careless():
        left.append(tracekit.span("never left"))
        left[-1].__enter__()
        flavour.set("sticky")
        await anyio.lowlevel.checkpoint()

    async def look():
        return tracekit.current_span(), flavour.get()

    with tracekit.span("wrapped") as span:
        careless, look = tracekit.wrap(careless), tracekit.wrap(look)
        await careless()
        assert await look() == (span, "plain")
        assert (tracekit.current_span(), flavour.get()) == (span, "plain")
    left[0].__exit__(None, None, None)


# ---- run_in_context


@pytest.mark.anyio
async def test_every_step_of_a_coroutine_runs_inside_the_context(exporter):
    seen = []

    async def job():
        for _ in range(3):
            seen.append((tracekit.current_span(), flavour.get()))
            flavour.set(f"step {len(seen)}")
            await anyio.lowlevel.checkpoint()
        with tracekit.span("inside"):
            await anyio.lowlevel.checkpoint()
        return "result"

    chosen = tracekit.span("chosen")
    context = tracekit.new_context(chosen)
    with tracekit.span("caller") as caller:
        assert await run_in_context(context, job) == "result"
        assert (tracekit.current_span(), flavour.get()) == (caller, "plain")
    chosen.end()
    assert seen == [(chosen, "plain"), (chosen, "step 1"), (chosen, "step 2")]
    assert context[flavour] == "step 3"
    assert span_tree(exporter.spans) == "chosen\n  inside\ncaller"


@pytest.mark.anyio
async def test_arguments_results_and_errors_go_through(anyio_backend):
    error = ValueError("theirs")

    async def job(*args, **kwargs):
        await anyio.lowlevel.checkpoint()
        if not args:
            raise error
        return args, kwargs

    context = contextvars.copy_context()
    assert await run_in_context(context, job, 1, context=2, function=3) == ((1,), {"context": 2, "function": 3})
    with pytest.raises(ValueError, match="theirs") as caught:
        await run_in_context(context, job)
    assert caught.value is error
    with pytest.raises(TypeError, match="missing 1 required"):
        await run_in_context(context, lambda needed: needed)


@pytest.mark.anyio
async def test_it_stays_in_the_task_that_awaits_it_and_cancel_scopes_reach_it(exporter):
    tasks = []
    cleaned = []

    async def job():
        tasks.append(anyio.get_current_task().id)
        try:
            with tracekit.span("cancelled"):
                await anyio.sleep_forever()
        finally:
            cleaned.append(tracekit.current_span())

    with tracekit.span("chosen") as chosen:
        context = contextvars.copy_context()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(_cancel_soon, scope)
            tasks.append(anyio.get_current_task().id)
            await run_in_context(context, job)
    assert scope.cancelled_caught
    assert tasks[0] == tasks[1]
    assert cleaned == [chosen]
    assert span_tree(exporter.spans) == "chosen\n  cancelled [cancelled]"


async def _cancel_soon(scope):
    await anyio.lowlevel.checkpoint()
    scope.cancel()


@pytest.mark.anyio
async def test_an_error_that_is_thrown_in_can_be_handled_inside():
    async def job():
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()
        return flavour.get()

    context = contextvars.copy_context()
    context.run(flavour.set, "inner")
    assert await run_in_context(context, job) == "inner"


@pytest.mark.anyio
@pytest.mark.parametrize("is_wrapped", [False, True])
async def test_an_error_that_is_thrown_in_and_handled_is_no_context_of_later_errors(is_wrapped):
    async def job():
        with anyio.move_on_after(0):
            await anyio.sleep_forever()
        try:
            raise ValueError("later")
        except ValueError as error:
            return error.__context__

    run = tracekit.wrap(job) if is_wrapped else lambda: run_in_context(contextvars.copy_context(), job)
    assert await run() is None


@pytest.mark.anyio
async def test_contexts_nest_and_one_that_is_running_is_refused_as_ever():
    async def inner():
        await anyio.lowlevel.checkpoint()
        return flavour.get()

    async def outer():
        flavour.set("outer")
        other = contextvars.Context()
        assert await run_in_context(other, inner) == "plain"
        with pytest.raises(RuntimeError, match="cannot enter context"):
            await run_in_context(context, inner)
        return await inner()

    context = contextvars.copy_context()
    assert await run_in_context(context, outer) == "outer"


@pytest.mark.anyio
async def test_any_awaitable_will_do():
    class Later:
        def __await__(self):
            yield from anyio.lowlevel.checkpoint().__await__()
            return flavour.get()

    context = contextvars.copy_context()
    context.run(flavour.set, "inner")
    assert await run_in_context(context, Later) == "inner"


def test_a_coroutine_that_is_closed_is_closed_inside_the_context():
    closed = []

    async def job():
        try:
            await Forever()
        finally:
            closed.append(flavour.get())

    class Forever:
        def __await__(self):
            while True:
                yield

    context = contextvars.copy_context()
    context.run(flavour.set, "inner")
    steps = run_in_context(context, job)
    steps.send(None)
    steps.send(None)
    steps.close()
    assert closed == ["inner"]


@pytest.mark.parametrize("thing", [None, {}, "context"])
def test_only_a_context_is_one(thing):
    with pytest.raises(TypeError, match=f"^context must be a contextvars.Context, not {type(thing).__name__}$"):
        run_in_context(thing, work_async)


# ---- detached


def test_a_detached_span_is_a_root_with_a_link(exporter):
    with tracekit.use_labels(tenant="acme"), tracekit.span("request") as request:
        with tracekit.detached() as nothing:
            assert (nothing, tracekit.current_span(), tracekit.current_context()) == (None, None, None)
            assert not tracekit.current_labels()
            with tracekit.span("tick"), tracekit.span("part of it"):
                pass
        assert tracekit.current_span() is request
    assert span_tree(exporter.spans) == "request\ntick ~ request\n  part of it"


def test_detached_under_nothing_is_a_root_without_a_link(exporter):
    with tracekit.detached(), tracekit.span("tick"):
        pass
    assert span_tree(exporter.spans) == "tick"


def test_labels_can_be_set_while_detached(exporter):
    with tracekit.span("request"), tracekit.detached(), tracekit.use_labels(job="nightly"), tracekit.span("tick"):
        pass
    spans = exporter.spans
    assert span_tree(spans) == "request\ntick ~ request"
    assert {span.name: dict(span.context.labels) for span in spans} == {"request": {}, "tick": {"job": "nightly"}}


def test_what_is_detached_from_a_remote_caller_is_linked_to_it(exporter):
    caller = tracekit.extract({"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
    with tracekit.use_context(caller), tracekit.detached(), tracekit.span("tick"):
        pass
    assert span_tree(exporter.spans) == f"tick ~ {'b' * 16}"


def test_a_snapshot_that_is_taken_while_detached_stays_detached(exporter):
    with tracekit.span("request"), tracekit.detached():
        snapshot, wrapped = tracekit.capture(), tracekit.wrap(work)
    assert snapshot.context is None
    with tracekit.span("other"):
        snapshot.run(work, "first")
        wrapped("second")
    assert span_tree(exporter.spans) == "request\nother\nfirst ~ request\nsecond ~ request"


@pytest.mark.anyio
async def test_a_task_that_is_spawned_while_detached_stays_so_and_keeps_ids_only(exporter):
    ticked, release = anyio.Event(), anyio.Event()

    async def ticks():
        for _ in range(2):
            with tracekit.span("tick"):
                await anyio.lowlevel.checkpoint()
            ticked.set()
            await release.wait()

    async def request(group):
        with tracekit.span("request") as span:
            with tracekit.detached():
                group.start_soon(ticks)
            await ticked.wait()
            return weakref.ref(span)

    async with anyio.create_task_group() as group:
        span = await request(group)
        tree = span_tree(exporter.spans)
        exporter.clear()
        for _ in range(3):  # a loop may hold the last callback's frame a little longer
            await anyio.lowlevel.checkpoint()
        gc.collect()
        assert span() is None
        release.set()
    assert tree == "request\ntick ~ request"
    (later,) = exporter.spans
    assert (later.name, later.parent, len(later.links)) == ("tick", None, 1)
