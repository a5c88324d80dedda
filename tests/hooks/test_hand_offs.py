"""Hooks: code that knows nothing of tracekit, and keeps its trace."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import logging
import logging.handlers
import multiprocessing.dummy
import queue
import sys
import threading
import types
import weakref
from concurrent import futures
from multiprocessing.pool import ThreadPool

import anyio
import anyio.to_thread
import pytest
import trio

import tracekit
import tracekit.threads
from tracekit._core.scopes import Scope
from tracekit.testing import span_tree

from ..tools.backends import BACKENDS
from ..tools.current import hand_over_under_a_span
from ..tools.hooks import (
    POOL_JOBS,
    Worker,
    end_a_span,
    start_thread,
    threads_inherit_nothing,
)

flavour = contextvars.ContextVar("flavour", default="plain")


def seen():
    """What a job sees."""
    return tracekit.current_context(), flavour.get()


class CountingExecutor(futures.ThreadPoolExecutor):
    """A subclass with a submit() of its own."""

    count = 0

    def submit(self, fn, /, *args, **kwargs):
        self.count += 1
        return super().submit(lambda: fn(*args, **kwargs))


# Each hands *job* over, and returns what waits until it is done. Not a word of tracekit.


def _subclass(job):
    thread = Worker(job)
    thread.start()
    return thread.join


def _own_run(job):
    thread = threading.Thread()
    thread.run = job
    thread.start()
    return thread.join


def _dummy_process(job):
    process = multiprocessing.dummy.Process(target=job)
    process.start()
    return process.join


def _timer(job):
    timer = threading.Timer(0, lambda job: job(), kwargs={"job": job})
    timer.start()
    return timer.join


def _submit(job, make=futures.ThreadPoolExecutor):
    pool = make(1)
    pool.submit(lambda job: job(), job=job)
    return pool.shutdown


def _map(job):
    pool = futures.ThreadPoolExecutor(1)
    pool.map(lambda job, _: job(), [job], "1")
    return pool.shutdown


def _run_in_executor(job):
    async def main():
        await asyncio.get_running_loop().run_in_executor(None, job)

    context = contextvars.copy_context()
    runner = threading.Thread(target=context.run, args=(asyncio.run, main()))
    runner.start()
    return runner.join


def _pool(method, *, by_name=False):
    def hand_over(job):
        pool = ThreadPool(1)
        arguments = {} if "apply" in method else {"iterable": [()]}
        function = (lambda: job()) if "apply" in method or "star" in method else lambda _: job()
        call = getattr(pool, method)
        if method in ("map", "starmap", "apply"):  # they wait for the result, so somebody else has to
            waiting = start_thread(functools.partial(contextvars.copy_context().run, call, function, **arguments))
        elif by_name:
            call(func=function, **arguments)
            waiting = int
        else:
            call(function, **arguments)
            waiting = int

        def wait():
            waiting()
            pool.close()
            pool.join()

        return wait

    return hand_over


HAND_OFFS = {
    "Thread": start_thread,
    "subclass": _subclass,
    "own run": _own_run,
    "dummy.Process": _dummy_process,
    "Timer": _timer,
    "submit": _submit,
    "submit of a subclass": functools.partial(_submit, make=CountingExecutor),
    "map": _map,
    "run_in_executor": _run_in_executor,
    **{f"ThreadPool.{method}": _pool(method) for method in ["apply", *POOL_JOBS]},
    "ThreadPool.apply_async by name": _pool("apply_async", by_name=True),
    "ThreadPool.map_async by name": _pool("map_async", by_name=True),
}
each_hand_off = pytest.mark.parametrize(
    "hand_over", [pytest.param(function, id=name) for name, function in HAND_OFFS.items()]
)


@pytest.mark.usefixtures("hooks")
@each_hand_off
def test_work_is_child_of_where_it_was_handed_over_even_though_that_has_ended(hand_over, exporter):
    hand_over_under_a_span(hand_over)
    spans = exporter.spans
    assert span_tree(spans) == "outer\n  submitter\n    job\n  later"
    assert [dict(span.context.labels) for span in spans if span.name == "job"] == [{"tenant": "acme"}]


@pytest.mark.parametrize("hand_over", [start_thread, _submit, _pool("map_async")])
def test_without_hooks_it_is_lost(hand_over, exporter):
    hand_over_under_a_span(hand_over)
    assert "\njob" in span_tree(exporter.spans)


@threads_inherit_nothing
@pytest.mark.usefixtures("hooks")
@pytest.mark.parametrize("hand_over", [start_thread, _timer, _submit, _pool("map_async"), _dummy_process])
def test_the_trace_alone_travels(hand_over):
    found = []
    token = flavour.set("sweet")
    try:
        with tracekit.span("submitter") as span:
            hand_over(lambda: found.append(seen()))()
    finally:
        flavour.reset(token)
    assert found == [(span.context, "plain")]


@pytest.mark.slow  # collects garbage many times
@pytest.mark.usefixtures("hooks")
@each_hand_off
def test_a_span_is_let_go_when_it_has_ended(hand_over):
    def hand_over_and_end():
        with tracekit.span("submitter") as span:
            wait = hand_over(lambda: None)
        return wait, weakref.ref(span)

    wait, span = contextvars.Context().run(hand_over_and_end)
    wait()
    gc.collect()
    assert span() is None


@pytest.mark.usefixtures("hooks")
def test_a_thousand_threads_leave_nothing_behind():
    refs = []
    gc.collect()
    gc.disable()
    try:
        with tracekit.span("starter"):
            for _ in range(1000):
                thread = threading.Thread(target=end_a_span)
                thread.start()
                thread.join()
                assert "run" not in vars(thread)
                refs.append(weakref.ref(thread))
            del thread
            assert not any(ref() for ref in refs), "a cycle"
    finally:
        gc.enable()


@pytest.mark.usefixtures("hooks")
@pytest.mark.parametrize(
    "submit",
    [
        pytest.param(lambda pool, job: pool.submit(job).result(), id="executor"),
        pytest.param(lambda pool, job: list(pool.map(lambda _: job(), [1])), id="map"),
    ],
)
@pytest.mark.parametrize("make", [lambda: futures.ThreadPoolExecutor(1), lambda: CountingExecutor(1)])
def test_an_executor_that_is_made_under_the_first_request_serves_each_under_its_own(make, submit, exporter):
    workers = set()

    def job():
        workers.add(threading.get_ident())
        end_a_span()

    with tracekit.span("request 0"):
        pool = make()
        submit(pool, job)
        with tracekit.span("part of it"):
            submit(pool, job)
    with tracekit.span("request 1"):
        submit(pool, job)
    contextvars.Context().run(submit, pool, job)
    pool.shutdown()
    assert len(workers) == 1
    assert span_tree(exporter.spans) == "request 0\n  job\n  part of it\n    job\nrequest 1\n  job\njob"


@pytest.mark.usefixtures("hooks")
@pytest.mark.parametrize("hand_over", ["submit", "map", *[f"ThreadPool.{name}" for name in ["apply", *POOL_JOBS]]])
def test_a_span_that_one_job_forgets_is_not_the_parent_in_the_next_though_nothing_is_current(hand_over):
    found = []

    def forget():
        found.append(tracekit.current_span())
        tracekit.span("forgotten").__enter__()

    with contextlib.ExitStack() as pools:
        if "." in hand_over:
            call = getattr(pools.enter_context(ThreadPool(1)), hand_over.partition(".")[2])
        else:
            call = getattr(pools.enter_context(futures.ThreadPoolExecutor(1)), hand_over)
        for _ in range(2):
            if hand_over == "submit":
                call(forget).result()
            elif "apply" in hand_over:
                done = call(forget)
                done is None or done.get()
            else:
                done = call(lambda *_: forget(), [()])
                list(done.get() if hasattr(done, "get") else done)
    assert found == [None, None]


@pytest.mark.usefixtures("hooks")
def test_a_pool_of_threads_that_is_made_under_a_span_serves_each_under_its_own(exporter):
    with (
        tracekit.span("start-up, as long as the program"),
        ThreadPool(1, initializer=end_a_span, initargs=("initializer",)) as pool,
    ):
        for number in range(2):
            with tracekit.use_context(None), tracekit.span(f"request {number}"):
                pool.apply(end_a_span)
        contextvars.Context().run(pool.apply, end_a_span, ("unasked",))
        with tracekit.span("part of it"):
            assert pool.starmap(divmod, [(7, 2)]) == [(3, 1)]
            list(pool.imap(end_a_span, ["imap"]))
        pool.close()
        pool.join()
    assert sorted(span_tree(exporter.spans).replace("\n  ", " > ").split("\n")) == [
        "initializer",
        "request 0 > job",
        "request 1 > job",
        "start-up, as long as the program > part of it >   imap",
        "unasked",
    ]


def listen(items):
    """A listener, as in many libraries: one daemon for the life of the program."""
    for name, done in iter(items.get, None):
        end_a_span(name)
        done.set()


def ask(items, name):
    done = threading.Event()
    items.put((name, done))
    assert done.wait(20)


@pytest.mark.usefixtures("hooks")
@pytest.mark.parametrize("make", [threading.Thread, multiprocessing.dummy.Process])
def test_a_daemon_is_child_until_the_span_that_started_it_ends_and_then_a_root_linked_to_it(make, exporter):
    items = queue.SimpleQueue()
    listener = make(target=listen, args=(items,))
    listener.daemon = True
    with tracekit.use_labels(tenant="acme"), tracekit.span("request 0"):
        listener.start()
        ask(items, "for 0")
    with tracekit.span("request 1"):
        ask(items, "for 1")
    contextvars.Context().run(ask, items, "for nobody")
    items.put(None)
    listener.join()
    spans = exporter.spans
    assert span_tree(spans) == "request 0\n  for 0\nrequest 1\nfor 1 ~ request 0\nfor nobody ~ request 0"
    labels = {span.name: dict(span.context.labels) for span in spans if span.name[:3] == "for"}
    assert labels == {"for 0": {"tenant": "acme"}, "for 1": {}, "for nobody": {}}


@pytest.mark.usefixtures("hooks")
def test_a_daemon_keeps_ids_only(exporter):
    def start():
        with tracekit.use_labels(tenant="acme"), tracekit.span("request") as span:
            listener.start()
        return weakref.ref(span)

    items = queue.SimpleQueue()
    listener = threading.Thread(target=listen, args=(items,), daemon=True)
    span = contextvars.Context().run(start)
    exporter.clear()
    gc.collect()
    assert span() is None
    ask(items, "late")
    items.put(None)
    listener.join()
    assert [link.context.is_valid for link in exporter[0].links] == [True]


@pytest.mark.usefixtures("hooks")
def test_what_a_daemon_starts_after_the_span_has_ended_is_linked_too(exporter):
    go = threading.Event()

    def daemon():
        go.wait(20)
        for is_daemon in (True, False):
            thread = threading.Thread(target=end_a_span, daemon=is_daemon)
            thread.start()
            thread.join()

    with tracekit.span("request"):
        thread = threading.Thread(target=daemon, daemon=True)
        thread.start()
    go.set()
    thread.join()
    assert span_tree(exporter.spans) == "request\njob ~ request\njob ~ request"


@pytest.mark.usefixtures("hooks")
def test_a_daemon_that_is_started_under_a_remote_caller_is_linked_to_it(exporter):
    caller = tracekit.extract({"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
    with tracekit.use_context(caller):
        thread = threading.Thread(target=end_a_span, daemon=True)
        thread.start()
    thread.join()
    assert span_tree(exporter.spans) == f"job ~ {'b' * 16}"


@pytest.mark.usefixtures("hooks")
def test_a_daemon_that_is_started_under_labels_alone_does_not_keep_them(exporter):
    with tracekit.use_labels(tenant="acme"):
        thread = threading.Thread(target=end_a_span, daemon=True)
        thread.start()
    thread.join()
    (span,) = exporter.spans
    assert (dict(span.context.labels), list(span.links)) == ({}, [])


@pytest.mark.usefixtures("hooks")
def test_a_queue_listener_of_logging_does_not_stick(exporter):
    class Handler(logging.Handler):
        def emit(self, record):
            end_a_span(record.getMessage())

    records = queue.SimpleQueue()
    sender = logging.handlers.QueueHandler(records)
    with tracekit.span("request 0"):
        listener = logging.handlers.QueueListener(records, Handler())
        listener.start()
    with tracekit.span("request 1"):
        sender.handle(logging.makeLogRecord({"msg": "a line"}))
    listener.stop()
    assert span_tree(exporter.spans) == "request 0\nrequest 1\na line ~ request 0"


THERE = [
    pytest.param(backend, there, id=f"{backend_name}-{name}")
    for backend_name, backend in BACKENDS.items()
    for name, there in {
        "anyio": anyio.to_thread.run_sync,
        "own": trio.to_thread.run_sync if backend[0] == "trio" else asyncio.to_thread,
    }.items()
]


@pytest.mark.anyio
@pytest.mark.usefixtures("hooks")
@pytest.mark.parametrize(("anyio_backend", "there"), THERE, indirect=["anyio_backend"])
async def test_threads_of_an_event_loop_are_as_right_as_without_hooks(anyio_backend, there, exporter):
    with tracekit.span("request 0"):
        await there(end_a_span)
    with tracekit.span("request 1"):
        await there(end_a_span)
    with tracekit.use_context(None):
        await there(end_a_span)
    assert span_tree(exporter.spans) == "request 0\n  job\nrequest 1\n  job\njob"


@pytest.mark.usefixtures("hooks")
@pytest.mark.parametrize(
    ("make", "do"),
    [
        pytest.param(futures.ThreadPoolExecutor, lambda pool, job: pool.submit(job).result(), id="executor"),
        pytest.param(ThreadPool, lambda pool, job: pool.apply(job), id="ThreadPool"),
    ],
)
def test_a_careless_job_does_not_reach_the_next_one_on_the_same_thread(make, do, exporter):
    left = []

    def careless():
        left.append(tracekit.span("never left"))
        left[-1].__enter__()
        tracekit.use_labels(never="closed").__enter__()

    with make(1) as pool:
        with tracekit.span("first"):
            do(pool, careless)
        with tracekit.span("second") as span:
            assert do(pool, seen)[0] == span.context
        assert contextvars.Context().run(do, pool, seen)[0] is None
    left[0].end()


@pytest.mark.usefixtures("hooks")
def test_a_job_may_submit_the_next_one_to_its_own_thread(exporter):
    done = threading.Event()

    def chain(number):
        with tracekit.span(f"job {number}"):
            if number == 3:
                done.set()
            else:
                pool.submit(chain, number + 1)

    with futures.ThreadPoolExecutor(1) as pool, tracekit.span("submitter"):
        pool.submit(chain, 1)
        assert done.wait(20)
    assert span_tree(exporter.spans) == "submitter\n  job 1\n    job 2\n      job 3"


@pytest.mark.usefixtures("hooks")
def test_many_threads_run_at_once_under_one_parent(exporter):
    barrier = threading.Barrier(8, timeout=20)

    def job():
        barrier.wait()
        with tracekit.span("job"):
            barrier.wait()

    with tracekit.span("starter"):
        threads = [threading.Thread(target=job) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert span_tree(exporter.spans) == "starter" + "\n  job" * 8


@pytest.mark.usefixtures("hooks")
def test_the_initializer_of_an_executor_has_nothing_of_who_submits_first(exporter):
    pool = futures.ThreadPoolExecutor(1, initializer=end_a_span, initargs=("initializer",))
    with pool, tracekit.span("request"):
        pool.submit(end_a_span).result()
    assert sorted(span_tree(exporter.spans).split("\n")) == ["  job", "initializer", "request"]


@pytest.mark.usefixtures("hooks")
def test_a_timer_that_sets_the_next_one_does_not_grow():
    scopes = {}
    done = threading.Event()

    def tick(number, before):
        if before is not None:
            before.join()  # what it holds goes with it
        with tracekit.span("tick"):
            if number in {10, 50}:  # to look at all objects of a whole run of tests takes long
                gc.collect()
                scopes[number] = sum(type(thing) is Scope for thing in gc.get_objects())
            if number == 50:
                done.set()
            else:
                threading.Timer(0, tick, [number + 1, threading.current_thread()]).start()

    with tracekit.span("starter"):
        threading.Timer(0, tick, [1, None]).start()
    assert done.wait(60)
    assert scopes[50] <= scopes[10] + 2


@pytest.mark.usefixtures("hooks")
def test_what_goes_to_another_interpreter_is_left_as_it_is(monkeypatch, exporter):
    class InterpreterPoolExecutor(futures.ThreadPoolExecutor):
        """Of Python 3.14; what it is given, it pickles."""

    module = types.SimpleNamespace(InterpreterPoolExecutor=InterpreterPoolExecutor)
    monkeypatch.setitem(sys.modules, "concurrent.futures.interpreter", module)
    with tracekit.span("submitter"):
        with InterpreterPoolExecutor(1) as pool:
            pool.submit(end_a_span).result()
        with futures.ThreadPoolExecutor(1) as pool:
            pool.submit(end_a_span).result()
    assert span_tree(exporter.spans) == "submitter\n  job\njob"


@pytest.mark.usefixtures("hooks")
@pytest.mark.parametrize("daemon", [True, False])
def test_a_thread_of_tracekits_is_as_it_is_without_hooks(daemon, exporter):
    runs, found = [], []
    release = threading.Event()

    class Worker(tracekit.threads.Thread):
        def run(self):
            runs.append(vars(self).get("run"))
            release.wait(20)
            found.append(flavour.get())
            end_a_span()

    token = flavour.set("sweet")
    with tracekit.span("starter"):
        thread = Worker(daemon=daemon)
        thread.start()
    flavour.reset(token)
    release.set()
    thread.join()
    assert (runs, found) == ([None], ["sweet"])
    assert span_tree(exporter.spans) == "starter\n  job"


@pytest.mark.usefixtures("hooks")
@pytest.mark.parametrize(
    "make",
    [
        lambda: tracekit.threads.ThreadPoolExecutor(1),
        lambda: tracekit.threads.wrap_executor(futures.ThreadPoolExecutor(1)),
        lambda: tracekit.threads.wrap_executor(tracekit.threads.ThreadPoolExecutor(1)),
    ],
)
def test_a_pool_of_tracekits_is_as_it_is_without_hooks(make, exporter):
    token = flavour.set("sweet")
    try:
        with make() as pool:
            with tracekit.span("first") as span:
                assert pool.submit(seen).result() == (span.context, "sweet")
            with tracekit.span("second") as span:
                assert pool.submit(seen).result() == (span.context, "sweet")
            assert contextvars.Context().run(pool.submit, seen).result() == (None, "plain")
    finally:
        flavour.reset(token)


@pytest.mark.usefixtures("hooks")
def test_wrap_wins_over_where_it_is_handed_over(exporter):
    with tracekit.span("wrapped"):
        job = tracekit.wrap(end_a_span)
    with tracekit.span("submitter"), futures.ThreadPoolExecutor(1) as pool:
        pool.submit(job).result()
        start_thread(job)()
    assert span_tree(exporter.spans) == "wrapped\n  job\n  job\nsubmitter"


@pytest.mark.usefixtures("hooks")
@pytest.mark.skipif(sys.version_info < (3, 14), reason="Python 3.14 brought it")
def test_an_explicit_context_wins_over_the_starter(exporter):
    chosen = tracekit.span("chosen")
    contexts = [tracekit.new_context(chosen), contextvars.Context()]
    with tracekit.span("starter"):
        for context in contexts:
            thread = threading.Thread(target=end_a_span, context=context)
            thread.start()
            thread.join()
    chosen.end()
    assert span_tree(exporter.spans) == "chosen\n  job\nstarter\njob"
