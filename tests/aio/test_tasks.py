"""``aio.tasks()``: every task and thread with its span, what it awaits, its group and its parent."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import types
import weakref

import anyio
import pytest
from anyio.lowlevel import checkpoint

import tracekit
from tracekit import aio
from tracekit._core.free_threading import HAS_GIL
from tracekit._core.scopes import inside_context, thread_context
from tracekit.aio import _stacks, _tasks
from tracekit.exporters._otlp.background import Background

from ..tools.pipeline import until

reads_others = pytest.mark.skipif(not HAS_GIL, reason="without the GIL nothing is read that another thread may run")
is_plain = tracekit.IMPLEMENTATION == "plain"


def by_name(infos=None):
    """Return tasks by name; those of this module's functions without the module."""
    infos = aio.tasks() if infos is None else infos
    return {info.name.rpartition(".")[2]: info for info in infos}


def functions(info):
    return [place.function.rpartition(".")[2] for place in info.awaits]


async def innermost():
    with tracekit.span("inner work"):
        await anyio.sleep_forever()


async def outer():
    with tracekit.span("outer work"):
        await innermost()


# ---- what is current, and where


@pytest.mark.anyio
@pytest.mark.parametrize("place", ["loop", "thread"])
@reads_others
async def test_a_waiting_task_shows_its_span_and_the_chain_that_it_awaits(place, exporter):
    async with anyio.create_task_group() as group:
        group.start_soon(outer, name="waiter")
        await anyio.wait_all_tasks_blocked()
        infos = aio.tasks()  # in guest mode, as in these tests, this finds trio's loop for the next look
        if place == "thread":
            infos = await anyio.to_thread.run_sync(aio.tasks)
        info = by_name(infos)["waiter"]
        group.cancel_scope.cancel()
    spans = {span.name: span for span in exporter.spans}
    assert info.state == "waiting"
    assert info.thread == threading.current_thread().name
    assert (info.span.name, info.span.trace_id, info.span.span_id, info.span.has_ended) == (
        "inner work",
        spans["inner work"].context.trace_id,
        spans["inner work"].context.span_id,
        False,
    )
    assert 0 <= info.span.age_s < 60
    assert [name for name in functions(info) if name in {"outer", "innermost"}] == ["outer", "innermost"]
    line = next(place for place in info.awaits if place.function == "innermost")
    assert (line.file, line.line) == (__file__, innermost.__code__.co_firstlineno + 2)
    assert info.waits_for


@pytest.mark.anyio
async def test_the_caller_runs_and_its_stack_is_that_of_the_thread():
    def look():
        return aio.tasks()

    async def caller():
        found.append(look())

    found = []
    async with anyio.create_task_group() as group:
        group.start_soon(caller, name="caller")
    info = by_name(found[0])["caller"]
    assert info.state == "running"
    assert "look" in functions(info)
    assert "run_until_complete" not in functions(info)  # from its coroutine on


@pytest.mark.anyio
async def test_a_task_that_has_not_begun_is_ready(anyio_backend_name):
    if anyio_backend_name == "asyncio" and getattr(asyncio.get_running_loop(), "get_task_factory", lambda: None)():
        pytest.skip("an eager task has begun")
    async with anyio.create_task_group() as group:
        group.start_soon(innermost, name="fresh")
        assert by_name()["fresh"].state == "ready"
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_an_ended_span_of_the_spawner_is_shown_by_its_ids(exporter):
    async with anyio.create_task_group() as group:
        with tracekit.span("spawner") as spawner:
            group.start_soon(anyio.sleep_forever, name="heir")
        await anyio.wait_all_tasks_blocked()
        info = by_name()["heir"]
        assert (info.span.span_id, info.span.has_ended) == (spawner.context.span_id, True)
        ids = spawner.context.trace_id, spawner.context.span_id
        exporter.clear()
        del spawner
        if not is_plain:  # there, the collector frees it
            assert by_name()["heir"].span[:4] == ("", *ids, None)
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_task_in_a_remote_context_shows_its_ids():
    remote = tracekit.SpanContext("0" * 31 + "1", "0" * 15 + "2", is_remote=True)
    async with anyio.create_task_group() as group:
        with tracekit.use_context(remote):
            group.start_soon(anyio.sleep_forever, name="remote")
        await anyio.wait_all_tasks_blocked()
        assert by_name()["remote"].span == ("", remote.trace_id, remote.span_id, None, False)
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_looking_changes_nothing(exporter):
    """Two spans that close in the wrong order, and a look between."""
    async with anyio.create_task_group() as group:

        async def worker(*, task_status):
            first = tracekit.span("first")
            first.__enter__()
            with tracekit.span("second"):
                first.__exit__(None, None, None)
                task_status.started()
                await event.wait()
                tracekit.span("child").end()

        event = anyio.Event()
        await group.start(worker, name="worker")
        assert by_name()["worker"].span.name == "second"
        event.set()
    spans = {span.name: span for span in exporter.spans}
    assert spans["child"].parent == spans["second"].context


# ---- the chain of what is awaited


async def _agen():
    yield 1
    await anyio.sleep_forever()


async def through_generator():
    async for _ in _agen():
        pass


async def through_anext():
    steps = _agen()
    await anext(steps)
    await anext(steps, None)


class Awaitable:
    def __await__(self):
        return innermost().__await__()


async def through_wrapper():
    await Awaitable()


@types.coroutine
def _old():
    yield from innermost().__await__()


async def through_old_coroutine():
    await _old()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("function", "last"),
    [
        (through_generator, "_agen"),
        (through_anext, "_agen"),
        (through_wrapper, "innermost"),
        (through_old_coroutine, "innermost"),
    ],
)
async def test_the_chain_leads_through_generators_and_wrappers(function, last):
    async with anyio.create_task_group() as group:
        group.start_soon(function, name="walker")
        await anyio.wait_all_tasks_blocked()
        names = functions(by_name()["walker"])
        group.cancel_scope.cancel()
    assert function.__name__ in names
    assert last in names


async def _deep(depth):
    if depth:
        await _deep(depth - 1)
    else:
        await anyio.sleep_forever()


@pytest.mark.anyio
async def test_of_a_deep_chain_both_ends_are_kept():
    async with anyio.create_task_group() as group:
        group.start_soon(_deep, 200, name="deep")
        await anyio.wait_all_tasks_blocked()
        info = by_name()["deep"]
        group.cancel_scope.cancel()
    assert len(info.awaits) <= 32
    assert "_deep" in functions(info)[:8]
    assert functions(info)[-1].startswith("sleep")


def test_a_chain_without_end_is_walked_for_a_while_only():
    class Loop:
        cr_frame = None

        @property
        def cr_await(self):
            return self

    assert _stacks.Stacks().awaits(Loop()) == ((), [])


def test_an_awaitable_of_the_program_that_raises_ends_the_chain():
    class Bad:
        @property
        def cr_frame(self):
            raise ZeroDivisionError

    assert _stacks.Stacks().awaits(Bad()) == ((), [])


@pytest.mark.skipif(sys.version_info < (3, 14), reason="capture_call_graph() came with 3.14")
def test_the_chain_is_the_one_of_asyncio():
    async def main():
        asyncio.current_task().set_name("main")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(outer(), name="waiter")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            graph = asyncio.capture_call_graph(task)
            info = by_name()["waiter"]
            expected = [(entry.frame.f_code.co_qualname, entry.frame.f_lineno) for entry in graph.call_stack]
            assert [(place.function, place.line) for place in info.awaits] == expected[::-1]
            assert [graph.future.get_name() for graph in graph.awaited_by] == ["main"]
            assert info.awaited_by == (by_name()["main"].id,)
            task.cancel()

    asyncio.run(main())


# ---- groups and parents


@pytest.mark.anyio
async def test_tasks_of_a_group_have_its_owner_as_their_parent():
    async def owner(*, task_status):
        async with anyio.create_task_group() as inner, aio.create_task_group("checkout") as named:
            inner.start_soon(innermost, name="of inner")
            named.start_soon(innermost, name="of named")
            task_status.started()

    async with anyio.create_task_group() as group:
        await group.start(owner, name="owner")
        await anyio.wait_all_tasks_blocked()
        tasks = by_name()
        group.cancel_scope.cancel()
    owner, inner, named = tasks["owner"], tasks["of inner"], tasks["of named"]
    assert inner.parent == named.parent == owner.id
    assert inner.group in {"anyio.TaskGroup", "trio.Nursery"}
    assert named.group == "checkout"
    assert len({owner.group_id, inner.group_id, named.group_id}) == 3
    assert inner.age_s is None
    assert inner.seen_s == 0.0
    assert 0 <= named.age_s < 60


@pytest.mark.anyio
@reads_others
async def test_every_parent_is_in_the_list_and_the_last_is_a_thread():
    async with anyio.create_task_group() as group:
        group.start_soon(outer, name="waiter")
        await anyio.wait_all_tasks_blocked()
        tasks = aio.tasks()
        group.cancel_scope.cancel()
    ids = {info.id: info for info in tasks}
    assert len(ids) == len(tasks)
    for info in tasks:
        seen = 0
        while info.parent is not None:
            info, seen = ids[info.parent], seen + 1
            assert seen < len(tasks)
        assert info.backend == "thread" or info.name == "<init>"


def test_a_task_group_of_asyncio_and_its_awaiters():
    async def gatherer():
        await asyncio.gather(innermost(), asyncio.create_task(innermost(), name="gathered"))

    async def main():
        asyncio.current_task().set_name("main")
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(outer(), name="child"), asyncio.create_task(gatherer(), name="gatherer")]
            await checkpoint()
            await checkpoint()
            found = by_name()
            for task in tasks:
                task.cancel()
        await asyncio.wait(tasks)
        return found

    found = asyncio.run(main())
    assert (found["child"].parent, found["child"].group) == (found["main"].id, "asyncio.TaskGroup")
    assert found["gathered"].awaited_by == (found["gatherer"].id,)
    assert found["gathered"].parent == found["gatherer"].id  # the next best thing
    assert found["gatherer"].waits_for == "gather() of 2"


def test_a_task_that_waits_for_another_one_names_it():
    async def main():
        other = asyncio.create_task(innermost(), name="other")

        async def wait():
            await other

        waiter = asyncio.create_task(wait(), name="waiter")
        await checkpoint()
        await checkpoint()
        found = by_name()
        waiter.cancel()
        await asyncio.wait([waiter, other])
        return found

    found = asyncio.run(main())
    assert found["waiter"].waits_for == "task other"
    assert found["other"].awaited_by == (found["waiter"].id,)


def test_a_cancelled_task_that_goes_on_waiting_is_cancelling():
    async def stubborn(event):
        try:
            await innermost()
        finally:
            await event.wait()

    async def main():
        event = asyncio.Event()
        task = asyncio.create_task(stubborn(event), name="stubborn")
        await checkpoint()
        await checkpoint()
        task.cancel()
        await checkpoint()
        await checkpoint()
        found = by_name()["stubborn"]
        event.set()
        await asyncio.wait([task])
        return found

    assert asyncio.run(main()).state == "cancelling"


# ---- the last step


@pytest.mark.anyio
async def test_the_last_step_is_known_from_the_second_look_on(monkeypatch):
    now = [1_000_000_000]
    monkeypatch.setattr(_tasks, "monotonic_ns", lambda: now[0])
    events = [anyio.Event(), anyio.Event()]

    async def steps():
        for event in events:
            await event.wait()

    async with anyio.create_task_group() as group:
        group.start_soon(steps, name="stepper")
        await anyio.wait_all_tasks_blocked()
        seen = []
        for at in (0, 0, 1, 1):
            info = by_name()["stepper"]
            seen.append((info.seen_s, info.idle_s))
            if at:
                events[0].set()
                await anyio.wait_all_tasks_blocked()
            now[0] += 2_000_000_000
        events[1].set()
    assert seen == [(0.0, None), (2.0, 2.0), (4.0, 4.0), (6.0, None)]


@pytest.mark.anyio
async def test_a_task_is_not_taken_for_an_earlier_one_with_the_same_id(monkeypatch):
    other = asyncio.Event()  # anything
    async with anyio.create_task_group() as group:
        group.start_soon(innermost, name="waiter")
        await anyio.wait_all_tasks_blocked()
        number = int(by_name()["waiter"].id, 16)
        before = _tasks._seen[number]
        monkeypatch.setattr(_tasks, "_seen", {number: before._replace(task=weakref.ref(other), first_ns=0)})
        info = by_name()["waiter"]
        group.cancel_scope.cancel()
    assert (info.seen_s, info.idle_s) == (0.0, None)


@pytest.mark.anyio
async def test_what_is_remembered_of_a_task_does_not_keep_it():
    async with anyio.create_task_group() as group:
        group.start_soon(innermost, name="gone")
        await anyio.wait_all_tasks_blocked()
        aio.tasks()
        assert any(seen.task() is not None for seen in _tasks._seen.values())
        group.cancel_scope.cancel()
    aio.tasks()
    names = [getattr(seen.task(), "name", None) or seen.task().get_name() for seen in _tasks._seen.values()]
    assert "gone" not in names


# ---- threads


@reads_others
def test_a_thread_shows_its_span_and_stack():
    begun, done = threading.Event(), threading.Event()

    def work():
        with tracekit.span("thread's work"):
            begun.set()
            done.wait()

    thread = threading.Thread(target=work, name="worker")
    thread.start()
    try:
        assert begun.wait(60)
        until(lambda: by_name()["worker"].state == "waiting")
        info = by_name()["worker"]
    finally:
        done.set()
        thread.join()
    assert (info.backend, info.state, info.parent) == ("thread", "waiting", None)
    assert "work" in functions(info)
    if HAS_GIL and not is_plain:  # otherwise the Context of another thread cannot be read
        assert info.span.name == "thread's work"


@reads_others
def test_threads_that_export_or_wait_for_it_are_waiting():
    release = threading.Event()

    class Blocking:
        def export(self, spans):
            release.wait()

        def shutdown(self):
            pass

    tracekit.configure(exporter=Blocking())
    tracekit.span("work").end()
    sending = Background(lambda: True, 60.0, "sender")
    sending.notify()
    flushing = threading.Thread(target=tracekit.flush, args=(60,), name="flusher")
    flushing.start()
    try:
        for name in ("flusher", "sender", "tracekit-export"):
            until(lambda name=name: name in by_name() and by_name()[name].state == "waiting")
    finally:
        release.set()
        flushing.join()
        sending.close(60)
        tracekit.shutdown()


def test_a_thread_is_at_least_as_old_as_the_first_look_that_saw_it(monkeypatch):
    now = [1_000_000_000]
    monkeypatch.setattr(_tasks, "monotonic_ns", lambda: now[0])
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="worker")
    thread.start()
    try:
        seen = []
        for _ in range(2):
            seen.append(by_name()["worker"].seen_s)
            now[0] += 3_000_000_000
    finally:
        done.set()
        thread.join()
    assert seen == [0.0, 3.0]


def test_the_thread_that_looks_is_shown_without_the_look():
    info = next(info for info in aio.tasks() if info.name == threading.current_thread().name)
    assert functions(info)[-1] == test_the_thread_that_looks_is_shown_without_the_look.__name__


@pytest.mark.skipif(is_plain, reason="Python cannot read the Context of another thread")
def test_a_thread_that_does_not_exist_has_no_context():
    assert thread_context(1) is None


def test_a_context_is_read_without_entering_it(exporter):
    def start():
        span = tracekit.span("inside")
        span.__enter__()
        return span

    context = contextvars.Context()
    span = context.run(start)
    assert inside_context(context) == (span.context, span)
    assert context.run(lambda: inside_context(context)) == (span.context, span)
    assert inside_context(contextvars.Context()) == (None, None)
    context.run(span.__exit__, None, None, None)
    assert inside_context(context) == (None, None)


# ---- loops that are found


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop does not run there")
@reads_others
def test_a_loop_in_c_that_is_run_directly():
    import uvloop

    async def main():
        task = asyncio.create_task(outer(), name="waiter")
        await checkpoint()
        await checkpoint()
        found = by_name(await anyio.to_thread.run_sync(aio.tasks))["waiter"]
        task.cancel()
        await asyncio.wait([task])
        return found

    loop = uvloop.new_event_loop()
    try:
        info = loop.run_until_complete(main())
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    assert "innermost" in functions(info)


@reads_others
def test_loops_of_several_threads_and_kinds():
    barrier, done = threading.Barrier(3), threading.Event()

    async def main(name):
        async with anyio.create_task_group() as group:
            group.start_soon(innermost, name=name)
            await anyio.wait_all_tasks_blocked()
            await anyio.to_thread.run_sync(barrier.wait)
            await anyio.to_thread.run_sync(done.wait)
            group.cancel_scope.cancel()

    threads = [
        threading.Thread(target=anyio.run, args=(main, f"on {backend}"), kwargs={"backend": backend}, name=backend)
        for backend in ("asyncio", "trio")
    ]
    for thread in threads:
        thread.start()
    try:
        barrier.wait(60)
        found = by_name()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert {(found[f"on {name}"].backend, found[f"on {name}"].thread) for name in ("asyncio", "trio")} == {
        ("asyncio", "asyncio"),
        ("trio", "trio"),
    }


@pytest.mark.parametrize(
    ("backend", "has_gil", "named"),
    [("asyncio", HAS_GIL, "their thread"), ("asyncio", False, "their thread"), ("uvloop", False, "")],
)
def test_a_loop_in_a_variable_of_another_thread_is_that_of_its_own_thread(backend, has_gil, named, monkeypatch):
    new_event_loop = pytest.importorskip(backend).new_event_loop
    started, is_over = threading.Event(), asyncio.Event()

    async def serve():
        asyncio.current_task().set_name("theirs")
        started.set()
        await is_over.wait()

    async def look():
        asyncio.current_task().set_name("ours")
        return aio.tasks()

    monkeypatch.setattr(_stacks, "HAS_GIL", has_gil)
    theirs, ours = new_event_loop(), new_event_loop()
    thread = threading.Thread(target=lambda: theirs.run_until_complete(serve()), name="their thread")
    thread.start()
    try:
        assert started.wait(60)
        infos = ours.run_until_complete(look())
    finally:
        theirs.call_soon_threadsafe(is_over.set)
        thread.join()
        theirs.close()
        ours.close()
    found = [(info.name, info.thread, bool(info.awaits)) for info in infos if info.name in ("ours", "theirs")]
    own = threading.current_thread().name
    assert sorted(found) == [("ours", own, True), ("theirs", named, has_gil)]


def test_the_look_keeps_no_values_of_the_program_alive():
    class Value:
        pass

    async def main():
        value = Value()
        reference = weakref.ref(value)
        await anyio.to_thread.run_sync(aio.tasks)
        del value
        return reference() is None

    def run():
        value = Value()
        reference = weakref.ref(value)
        is_gone = asyncio.run(main())
        del value
        return is_gone and reference() is None

    assert run()


# ---- bounds, and what is hostile


def test_many_tasks_are_cut_at_the_limit(monkeypatch):
    monkeypatch.setattr(_tasks, "_LIMIT", 10)

    async def main():
        tasks = [asyncio.create_task(asyncio.sleep(3600)) for _ in range(50)]
        await checkpoint()
        found = aio.tasks()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return [info for info in found if info.backend == "asyncio"]

    assert len(asyncio.run(main())) == 10


def test_many_tasks_of_trio_are_cut_at_the_limit(monkeypatch):
    monkeypatch.setattr(_tasks, "_LIMIT", 10)

    async def main():
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(trio.sleep_forever)
            await trio.testing.wait_all_tasks_blocked()
            found = aio.tasks()
            nursery.cancel_scope.cancel()
        return [info for info in found if info.backend == "trio"]

    import trio.testing

    assert len(trio.run(main)) == 10


@reads_others
def test_a_task_class_of_the_program_that_raises_costs_only_its_line():
    class Hostile(asyncio.Task):
        def get_name(self):
            raise ZeroDivisionError

        def __hash__(self):
            return 1

        def __eq__(self, other):
            raise ZeroDivisionError

        def __repr__(self):
            raise ZeroDivisionError

    async def main():
        asyncio.current_task().set_name("main")
        asyncio.get_running_loop().set_task_factory(lambda loop, coro, **options: Hostile(coro, loop=loop, **options))
        try:
            task = asyncio.create_task(innermost())
        finally:
            asyncio.get_running_loop().set_task_factory(None)
        other = asyncio.create_task(innermost(), name="x" * 1000)
        await checkpoint()
        await checkpoint()
        names = [info.name for info in aio.tasks() if info.backend == "asyncio"]
        for each in (task, other):
            each.cancel()
        await asyncio.gather(other, return_exceptions=True)
        return names

    assert sorted(asyncio.run(main())) == ["main", "x" * 200]


def test_a_look_that_fails_is_empty_and_reported_once(monkeypatch, caplog):
    monkeypatch.setattr(_tasks, "_notices", _tasks.Notices())
    monkeypatch.setattr(_tasks, "running_threads", lambda: 1 / 0)
    assert aio.tasks() == aio.tasks() == []
    (record,) = caplog.records
    assert "tasks() failed: ZeroDivisionError" in record.getMessage()


def test_attributes_of_the_programs_task_class_may_raise():
    class Hostile(asyncio.Task):
        @property
        def _fut_waiter(self):
            raise ZeroDivisionError

    async def main():
        task = Hostile(innermost(), name="hostile")
        await checkpoint()
        await checkpoint()
        state = by_name()["hostile"].state
        task.cancel()
        await asyncio.wait([task])
        return state

    assert asyncio.run(main()) == "ready"  # its future is not known


@reads_others
def test_a_loop_is_found_whose_coroutine_is_suspended_during_the_look(monkeypatch):
    def step():
        yield

    suspended = step()
    next(suspended)
    frames = [suspended.gi_frame]
    read = sys._current_frames

    def current_frames():
        found = read()
        if frames:
            found[thread.ident] = frames.pop()
        return found

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    started = threading.Event()
    loop.call_soon(started.set)
    thread.start()
    try:
        assert started.wait(60)
        monkeypatch.setattr(sys, "_current_frames", current_frames)
        assert _stacks.running_threads()[thread.ident].loops == [loop]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    assert frames == []


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_without_the_gil_nothing_is_read_that_another_thread_may_run(backend, monkeypatch):
    started, is_over = threading.Event(), threading.Event()

    async def serve():
        async with anyio.create_task_group() as group:
            group.start_soon(outer, name="waiter")
            await anyio.wait_all_tasks_blocked()
            started.set()
            await anyio.to_thread.run_sync(is_over.wait)
            group.cancel_scope.cancel()

    def refuse():
        raise AssertionError("frames of other threads were read")

    monkeypatch.setattr(_stacks, "HAS_GIL", False)
    monkeypatch.setattr(sys, "_current_frames", refuse)
    thread = threading.Thread(target=lambda: anyio.run(serve, backend=backend), name="theirs")
    thread.start()
    try:
        assert started.wait(60)
        found = by_name()
    finally:
        is_over.set()
        thread.join()
    assert found["theirs"].awaits == ()
    assert functions(found[threading.current_thread().name])[-1] == "by_name"
    assert found["waiter"].state == "waiting"
    assert (found["waiter"].span, found["waiter"].awaits) == (None, ())
    assert not {"waiter", "serve"} & set(by_name())  # once the loop has ended
