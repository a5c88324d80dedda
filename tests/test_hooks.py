"""Hooks: code that knows nothing of tracekit, and keeps its trace; and what it sees is as it was without them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import json
import logging
import logging.handlers
import multiprocessing.dummy
import os
import queue
import subprocess
import sys
import textwrap
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
from tracekit._handoffs.hooks import _imports, _inside
from tracekit.testing import MemoryExporter, recording, span_tree

from .tools.backends import BACKENDS
from .tools.current import hand_over_under_a_span

flavour = contextvars.ContextVar("flavour", default="plain")
threads_inherit_nothing = pytest.mark.skipif(
    getattr(sys.flags, "thread_inherit_context", 0), reason="threads inherit the Context of their start"
)

POOL_JOBS = ["apply_async", "imap", "imap_unordered", "map", "map_async", "starmap", "starmap_async"]
PATCHED = [
    (threading.Thread, "start"),
    (futures.ThreadPoolExecutor, "submit"),
    (subprocess.Popen, "__init__"),
    *[(ThreadPool, name) for name in ["__init__", *POOL_JOBS]],
]


def in_place():
    return [vars(owner).get(name) for owner, name in PATCHED]


ORIGINALS = in_place()


@pytest.fixture(autouse=True)
def _always_removed(caplog):
    yield
    tracekit.remove_hooks()
    assert in_place() == ORIGINALS
    assert not caplog.get_records("call")


@pytest.fixture
def hooks():
    tracekit.install_hooks()


NOTHING = [sys.executable, "-S", "-c", ""]  # a command that does so


def end_a_span(name="job"):
    tracekit.span(name).end()


def seen():
    """What a job sees."""
    return tracekit.current_context(), flavour.get()


class Worker(threading.Thread):
    """A subclass with a constructor, a start() and a run() of its own."""

    def __init__(self, job):
        super().__init__()
        self.job = job

    def start(self):
        self.was_started = True
        super().start()

    def run(self):
        self.job()


class CountingExecutor(futures.ThreadPoolExecutor):
    """A subclass with a submit() of its own."""

    count = 0

    def submit(self, fn, /, *args, **kwargs):
        self.count += 1
        return super().submit(lambda: fn(*args, **kwargs))


# Each hands *job* over, and returns what waits until it is done. Not a word of tracekit.


def _thread(job):
    thread = threading.Thread(target=lambda job: job(), kwargs={"job": job})
    thread.start()
    return thread.join


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
            waiting = _thread(functools.partial(contextvars.copy_context().run, call, function, **arguments))
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
    "Thread": _thread,
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


@pytest.mark.parametrize("hand_over", [_thread, _submit, _pool("map_async")])
def test_without_hooks_it_is_lost(hand_over, exporter):
    hand_over_under_a_span(hand_over)
    assert "\njob" in span_tree(exporter.spans)


@threads_inherit_nothing
@pytest.mark.usefixtures("hooks")
@pytest.mark.parametrize("hand_over", [_thread, _timer, _submit, _pool("map_async"), _dummy_process])
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


# ---- workers that serve many


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


# ---- jobs


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


# ---- together with tracekit.threads


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
        _thread(job)()
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


# ---- installing and removing


def test_installing_twice_is_installing_once():
    tracekit.install_hooks()
    once = in_place()
    tracekit.install_hooks()
    assert in_place() == once
    assert threading.Thread.start.__wrapped__ is ORIGINALS[0]
    tracekit.remove_hooks()
    assert in_place() == ORIGINALS
    tracekit.remove_hooks()
    assert in_place() == ORIGINALS


def test_hooks_can_be_installed_and_removed_in_many_threads_at_once():
    barrier = threading.Barrier(8, timeout=20)

    def work(change):
        barrier.wait()
        change()

    def all_at_once(change):
        threads = [threading.Thread(target=work, args=(change,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            all_at_once(tracekit.install_hooks)
            assert [getattr(owner, name).__wrapped__ for owner, name in PATCHED[:3]] == ORIGINALS[:3]
            assert sys.meta_path.count(_imports) == 1
            all_at_once(tracekit.remove_hooks)
            assert in_place() == ORIGINALS
            assert _imports not in sys.meta_path
    finally:
        sys.setswitchinterval(interval)


def test_a_hook_looks_like_what_it_stands_for(hooks):
    for (owner, name), original in zip(PATCHED[:3], ORIGINALS, strict=False):
        hook = getattr(owner, name)
        assert (hook.__name__, hook.__qualname__, hook.__doc__) == (name, original.__qualname__, original.__doc__)


@threads_inherit_nothing
def test_what_was_started_before_they_are_removed_ends_as_it_began(exporter):
    tracekit.install_hooks()
    tracekit_removed = threading.Event()

    def job():
        tracekit_removed.wait(20)
        end_a_span()

    with tracekit.span("submitter"), futures.ThreadPoolExecutor(1) as pool:
        wait = _thread(job)
        future = pool.submit(job)
        tracekit.remove_hooks()
        tracekit_removed.set()
        wait()
        future.result()
        _thread(functools.partial(end_a_span, "after"))()
    assert span_tree(exporter.spans) == "submitter\n  job\n  job\nafter"


def _politely(original, calls):
    @functools.wraps(original)
    def start(self):
        calls.append(self.name)
        original(self)

    return start


def _plainly(original, calls):
    return lambda self: (calls.append(self.name), original(self))[1]


def _starts_under_a_span():
    with recording() as recorded, tracekit.span("starter"):
        thread = threading.Thread(target=end_a_span, name="theirs")  # not the one that exports
        thread.start()
        thread.join()
    return span_tree(recorded.spans)


TRAVELS, IS_LOST = "starter\n  job", "starter\njob"


@pytest.fixture
def patched():
    """Another library patches Thread.start; at the end its patch is taken out, rightly or wrongly."""
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, threading.Thread, "start", ORIGINALS[0])

        def patch(make):
            calls = []
            threading.Thread.start = make(threading.Thread.start, calls)
            return calls

        yield patch


each_style = pytest.mark.parametrize("make", [_politely, _plainly])


@threads_inherit_nothing
@each_style
def test_another_patch_upon_ours_survives_whatever_we_do(make, patched):
    tracekit.install_hooks()
    ours = threading.Thread.start
    calls = patched(make)
    theirs = threading.Thread.start
    assert _starts_under_a_span() == TRAVELS
    tracekit.remove_hooks()
    assert threading.Thread.start is theirs
    assert _starts_under_a_span() == IS_LOST
    tracekit.install_hooks()
    assert threading.Thread.start is theirs
    assert _starts_under_a_span() == TRAVELS
    threading.Thread.start = ours
    assert _starts_under_a_span() == TRAVELS
    assert ours.__wrapped__ is ORIGINALS[0], "no second layer"
    tracekit.remove_hooks()
    assert threading.Thread.start is ORIGINALS[0]
    assert calls.count("theirs") == 3


@threads_inherit_nothing
@each_style
def test_another_patch_under_ours_is_what_we_put_back(make, patched):
    calls = patched(make)
    theirs = threading.Thread.start
    tracekit.install_hooks()
    assert _starts_under_a_span() == TRAVELS
    tracekit.remove_hooks()
    assert threading.Thread.start is theirs
    assert _starts_under_a_span() == IS_LOST
    assert calls.count("theirs") == 2


@threads_inherit_nothing
@pytest.mark.parametrize("is_removed_between", [True, False])
def test_where_another_library_takes_ours_out_with_its_own_they_can_be_installed_again(patched, is_removed_between):
    patched(_politely)
    tracekit.install_hooks()
    threading.Thread.start = ORIGINALS[0]  # as if nobody had patched since
    assert _starts_under_a_span() == IS_LOST
    if is_removed_between:
        tracekit.remove_hooks()
        assert threading.Thread.start is ORIGINALS[0]
    tracekit.install_hooks()
    assert _starts_under_a_span() == TRAVELS
    assert threading.Thread.start.__wrapped__ is ORIGINALS[0]
    tracekit.remove_hooks()
    assert threading.Thread.start is ORIGINALS[0]


def _as_sentry_does(original, calls):
    # https://github.com/getsentry/sentry-python/blob/master/sentry_sdk/integrations/threading.py
    def wrap_run(thread, old_run):
        @functools.wraps(old_run)
        def run():
            calls.append(thread.name)
            return old_run(thread)

        return run

    @functools.wraps(original)
    def start(self, *args, **kwargs):
        self.run = wrap_run(self, getattr(self.run, "__func__", self.run))
        return original(self, *args, **kwargs)

    return start


@pytest.mark.parametrize("is_upon_ours", [True, False])
def test_a_library_that_also_replaces_run_finds_everything_as_it_left_it(is_upon_ours, patched, exporter):
    if is_upon_ours:
        tracekit.install_hooks()
    calls = patched(_as_sentry_does)
    tracekit.install_hooks()
    with tracekit.span("starter"):
        thread = Worker(end_a_span)
        thread.name = "theirs"
        thread.start()
    thread.join()
    with tracekit.span("again"):
        thread.run()  # by whatever is there now: theirs, which does not take itself out
    assert span_tree(exporter.spans) == "starter\n  job\nagain\n  job"
    assert calls.count("theirs") == 2


def test_importing_tracekit_patches_nothing_and_installing_works_in_a_child_after_fork():
    program = """
        import os, threading
        from concurrent.futures import ThreadPoolExecutor
        before = threading.Thread.start, ThreadPoolExecutor.submit
        import tracekit
        assert before == (threading.Thread.start, ThreadPoolExecutor.submit)
        tracekit.install_hooks()

        def check(where):
            seen = []
            with tracekit.span("starter") as span:
                thread = threading.Thread(target=lambda: seen.append(tracekit.current_span()))
                thread.start()
                thread.join()
                with ThreadPoolExecutor(1) as pool:
                    seen.append(pool.submit(tracekit.current_span).result())
            assert seen == [span, span], (where, seen)
            print(where, flush=True)

        check("parent")
        if hasattr(os, "fork"):
            with tracekit.span("open at the fork"):
                pid = os.fork()
            if pid == 0:
                check("child")
                threads = [threading.Thread(target=change) for change in (tracekit.remove_hooks, tracekit.install_hooks)]
                for thread in threads:
                    thread.start()
                    thread.join(20)
                    assert not thread.is_alive()
                check("again")
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        tracekit.remove_hooks()
        assert before == (threading.Thread.start, ThreadPoolExecutor.submit)
        """
    assert run(program).split() == ["parent", "child", "again"] if hasattr(os, "fork") else ["parent"]


def run(program, **options):
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# ---- nothing current, and errors: the original is called as it is


@pytest.fixture
def recorded(monkeypatch):
    """The arguments that the originals get, hooks being installed over them."""
    calls = []

    def record(owner, name):
        original = getattr(owner, name)

        @functools.wraps(original)
        def recording(*args, **kwargs):
            calls.append((name, args[1:], kwargs, vars(args[0]).get("run")))
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, recording)

    for owner, name in PATCHED[:3]:
        record(owner, name)
    tracekit.install_hooks()
    yield calls
    tracekit.remove_hooks()


def test_where_nothing_is_current_nothing_is_added_but_a_scope_for_a_pools_job(recorded):
    thread = threading.Thread(target=int)

    def all_three():
        thread.start()
        with futures.ThreadPoolExecutor(1) as pool:
            pool.submit(int, "5", base=10)
        subprocess.Popen(NOTHING).wait()

    contextvars.Context().run(all_three)
    thread.join()
    assert recorded == [
        ("start", (), {}, None),
        ("submit", (_inside, None, int, "5"), {"base": 10}, None),
        ("start", (), {}, None),
        ("__init__", (NOTHING,), {}, None),
    ]


def test_on_a_clean_slate_a_subprocess_is_started_as_it_is(recorded):
    with tracekit.span("here"), tracekit.use_context(None):
        subprocess.Popen(NOTHING).wait()
    assert recorded == [("__init__", (NOTHING,), {}, None)]


def test_where_something_is_current_something_is_added(recorded):
    with tracekit.span("here"), futures.ThreadPoolExecutor(1) as pool:
        pool.submit(int, "5", base=10)
        _thread(int)()
    assert [name for name, *_ in recorded] == ["submit", "start", "start"]
    assert recorded[0][1:3] != ((int, "5"), {"base": 10})
    assert recorded[1][3] is None, "a worker inherits nothing"
    assert recorded[2][3] is not None


def _fail(error):
    raise error


def _uninitialized():
    class Careless(threading.Thread):
        def __init__(self):
            pass

    Careless().start()


def _started_twice():
    thread = threading.Thread()
    thread.start()
    thread.join()
    thread.start()


def _in_pool(use):
    def misuse():
        with futures.ThreadPoolExecutor(1) as pool:
            use(pool)

    return misuse


def _in_thread_pool(use):
    def misuse():
        with ThreadPool(1) as pool:
            use(pool)

    return misuse


def _after_shutdown(pool):
    pool.shutdown()
    pool.submit(print)


def _spawn(*args, **kwargs):
    return lambda: subprocess.Popen(*args, **kwargs).wait()


MISUSES = {
    "uninitialized": _uninitialized,
    "started twice": _started_twice,
    "start()": lambda: threading.Thread.start(),
    "start(1)": lambda: threading.Thread().start(1),
    "start(x=1)": lambda: threading.Thread().start(x=1),
    "start of no thread": lambda: threading.Thread.start(5),
    "submit()": _in_pool(lambda pool: pool.submit()),
    "submit of the class": lambda: futures.ThreadPoolExecutor.submit(),
    "submit(fn=)": _in_pool(lambda pool: pool.submit(fn=print)),
    "submit(5)": _in_pool(lambda pool: pool.submit(5).result()),
    "submit after shutdown": _in_pool(_after_shutdown),
    "a failing job": _in_pool(lambda pool: pool.submit(_fail, KeyError("theirs")).result()),
    "a job that exits": _in_pool(lambda pool: pool.submit(_fail, SystemExit(3)).result()),
    "a job without arguments": _in_pool(lambda pool: pool.submit(_fail).result()),
    "apply()": _in_thread_pool(lambda pool: pool.apply()),
    "apply(5)": _in_thread_pool(lambda pool: pool.apply(5)),
    "map(5)": _in_thread_pool(lambda pool: pool.map(5, [1])),
    "map over 5": _in_thread_pool(lambda pool: pool.map(int, 5)),
    "imap of a failing job": _in_thread_pool(lambda pool: list(pool.imap(_fail, [KeyError("theirs")]))),
    "map(function=)": _in_thread_pool(lambda pool: pool.map(function=int)),
    "ThreadPool(0)": lambda: ThreadPool(0),
    "ThreadPool(initializer=5)": lambda: ThreadPool(1, initializer=5),
    "Popen()": lambda: subprocess.Popen(),
    "Popen(env=5)": _spawn(NOTHING, env=5),
    "Popen(env=[])": _spawn(NOTHING, env=["A"]),
    "Popen(env={name: int})": _spawn(NOTHING, env={"A": 1}),
    "Popen(env={int: text})": _spawn(NOTHING, env={1: "A"}),
    "Popen(env={nul})": _spawn(NOTHING, env={"A": "\0"}),
    "Popen(env={=})": _spawn(NOTHING, env={"A=": "b"}),
    "Popen(environment=)": _spawn(NOTHING, environment={}),
    "Popen of nothing": _spawn(["tracekit-no-such-program"]),
    "Popen(env twice)": _spawn(NOTHING, -1, None, None, None, None, None, True, False, None, {}, env={}),
}


@pytest.mark.parametrize("misuse", [pytest.param(function, id=name) for name, function in MISUSES.items()])
def test_misuse_fails_as_it_does_without_hooks(misuse):
    def outcome():
        with tracekit.span("here"), pytest.raises(BaseException) as caught:  # noqa: PT011
            misuse()
        return caught.type, str(caught.value)

    without = outcome()
    tracekit.install_hooks()
    assert outcome() == without


@pytest.mark.usefixtures("hooks")
def test_a_thread_that_cannot_be_started_keeps_nothing(monkeypatch):
    error = RuntimeError("can't start new thread")

    def no_more_threads(*args, **kwargs):
        raise error

    low = "_start_joinable_thread" if hasattr(threading, "_start_joinable_thread") else "_start_new_thread"
    thread = threading.Thread()
    with tracekit.span("starter"), monkeypatch.context() as patch:
        patch.setattr(threading, low, no_more_threads)
        with pytest.raises(RuntimeError) as caught:
            thread.start()
    assert caught.value is error
    assert "run" not in vars(thread)


@pytest.mark.usefixtures("hooks")
def test_an_error_in_a_thread_reaches_the_excepthook_as_it_is(monkeypatch):
    caught = []
    monkeypatch.setattr(threading, "excepthook", lambda args: caught.append((args.exc_value, args.thread)))
    error = ValueError("theirs")
    thread = threading.Thread(target=_fail, args=(error,))
    with tracekit.span("starter"):
        thread.start()
    thread.join()
    assert caught == [(error, thread)]
    caught.clear()


# ---- subprocesses

SHOW = """
import json, os
print(json.dumps({name: value for name, value in os.environ.items() if name in
    {"TRACEPARENT", "TRACESTATE", "BAGGAGE", "KEPT", "B3"}}))
"""


def environment(*args, **kwargs):
    """What of the environment a child sees."""
    if not args:
        kwargs["stdout"] = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-S", "-c", SHOW], *args, **kwargs) as child:
        return json.loads(child.stdout.read())


@pytest.fixture
def here(exporter):
    """Something is current: labels, a span, and a vendor's state."""
    caller = tracekit.extract({"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "vendor=1"})
    with tracekit.use_context(caller), tracekit.use_labels(tenant="acme"), tracekit.span("here") as span:
        yield span


def variables(span):
    traceparent = f"00-{span.context.trace_id}-{span.context.span_id}-01"
    return {"TRACEPARENT": traceparent, "TRACESTATE": "vendor=1", "BAGGAGE": "tenant=acme"}


@pytest.mark.usefixtures("hooks")
def test_a_subprocess_finds_the_trace_in_its_environment(here, monkeypatch):
    monkeypatch.setenv("KEPT", "yes")
    assert environment() == {**variables(here), "KEPT": "yes"}


def test_without_hooks_a_subprocess_finds_nothing(here):
    assert environment() == {}


ESSENTIAL = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH") if name in os.environ}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no preexec_fn")
@pytest.mark.usefixtures("hooks")
def test_what_is_called_before_a_subprocess_may_change_its_environment(here, monkeypatch):
    monkeypatch.setenv("B3", "1")
    monkeypatch.setenv("TRACESTATE", "old=1")
    keep = functools.partial(os.putenv, "KEPT", "yes")
    expected = {**variables(here), "KEPT": "yes", "B3": "1"}
    assert environment(preexec_fn=keep) == expected
    assert environment(-1, None, None, subprocess.PIPE, None, keep) == expected
    assert environment(preexec_fn=keep, env=ESSENTIAL) == variables(here)
    with tracekit.detached(), tracekit.span("root"):
        assert "TRACESTATE" not in environment(preexec_fn=keep)
    assert environment(preexec_fn=functools.partial(os.putenv, "TRACEPARENT", "own"))["TRACEPARENT"] == "own"


@pytest.mark.usefixtures("hooks")
@pytest.mark.parametrize(
    "env",
    [
        pytest.param({**ESSENTIAL, "KEPT": "yes"}, id="text"),
        pytest.param({os.fsencode(k): os.fsencode(v) for k, v in {**ESSENTIAL, "KEPT": "yes"}.items()}, id="bytes"),
        pytest.param(types.MappingProxyType({**ESSENTIAL, "KEPT": "yes"}), id="read-only"),
    ],
)
def test_an_environment_of_the_callers_gets_it_and_is_not_changed(env, here):
    before = dict(env)
    assert environment(env=env) == {**variables(here), "KEPT": "yes"}
    pipe = subprocess.PIPE
    assert environment(-1, None, None, pipe, None, None, True, False, None, env) == {**variables(here), "KEPT": "yes"}
    assert dict(env) == before


@pytest.mark.usefixtures("hooks")
@pytest.mark.skipif(sys.platform == "win32", reason="there all is text")
def test_bytes_that_are_no_text_survive(here):
    program = "import os; os.write(1, os.environb[b'RAW'])"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], env={b"RAW": b"\xff\xfe"}, stdout=subprocess.PIPE, check=True
    )
    assert done.stdout == b"\xff\xfe"


@pytest.mark.usefixtures("hooks")
@pytest.mark.parametrize(
    "named",
    [
        {"TRACEPARENT": f"00-{'1' * 32}-{'2' * 16}-01"},
        {"TRACEPARENT": ""},
        {"TRACEPARENT": f"00-{'1' * 32}-{'2' * 16}-01", "BAGGAGE": "a=b"},
        {b"TRACEPARENT": b"", b"BAGGAGE": b"a=b"},
    ],
)
def test_an_environment_that_names_a_trace_itself_is_left_as_it_is(named, here):
    if sys.platform == "win32" and b"TRACEPARENT" in named:
        pytest.skip("there all is text")
    expected = {os.fsdecode(name): os.fsdecode(value) for name, value in named.items()}
    assert environment(env={**ESSENTIAL, **named}) == expected


@pytest.mark.usefixtures("hooks")
@pytest.mark.parametrize("take", [lambda: None, os.environ.copy, lambda: {**os.environ, "KEPT": "yes"}])
def test_what_this_process_was_started_with_is_not_a_trace_that_the_caller_names(take, here, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", f"00-{'1' * 32}-{'2' * 16}-01")
    monkeypatch.setenv("BAGGAGE", "old=1")
    found = environment(env=take())
    found.pop("KEPT", None)
    assert found == variables(here)
    assert os.environ["BAGGAGE"] == "old=1"


@pytest.mark.usefixtures("hooks")
def test_where_nothing_is_current_a_subprocess_gets_what_it_would(monkeypatch):
    monkeypatch.setenv("TRACEPARENT", f"00-{'1' * 32}-{'2' * 16}-01")
    assert environment() == {"TRACEPARENT": f"00-{'1' * 32}-{'2' * 16}-01"}
    with tracekit.span("ended"):
        pass
    assert environment(env={**ESSENTIAL, "KEPT": "yes"}) == {"KEPT": "yes"}


@pytest.mark.usefixtures("hooks")
def test_a_subprocess_that_calls_configure_joins_the_trace(here):
    program = """
        import tracekit
        tracekit.configure(service="child")
        print(tracekit.current_context().trace_id, tracekit.current_labels()["tenant"])
        with tracekit.span("there") as span:
            print(span.parent.span_id, span.parent.is_remote, str(span.context.state))
        """
    expected = [here.context.trace_id, "acme", here.context.span_id, "True", "vendor=1"]
    assert run(program).split() == expected
    assert run(program, env=dict(os.environ)).split() == expected
    output = subprocess.check_output([sys.executable, "-c", textwrap.dedent(program)], text=True)
    assert output.split() == expected


async def _asyncio_exec(command):
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    return (await child.communicate())[0]


async def _anyio(command):
    return (await anyio.run_process(command)).stdout


async def _trio(command):
    return (await trio.run_process(command, capture_stdout=True)).stdout


@pytest.mark.anyio
@pytest.mark.usefixtures("hooks")
@pytest.mark.parametrize(
    ("anyio_backend", "spawn"),
    [
        pytest.param(backend, spawn, id=f"{name}-{spawn.__name__}")
        for name, backend in BACKENDS.items()
        for spawn in (_anyio, _trio if backend[0] == "trio" else _asyncio_exec)
    ],
    indirect=["anyio_backend"],
)
async def test_subprocesses_of_an_event_loop_go_through_it_but_for_uvloops(anyio_backend, spawn, exporter):
    with tracekit.span("here") as span:
        found = json.loads(await spawn([sys.executable, "-S", "-c", SHOW]))
    if anyio_backend[1].get("use_uvloop"):
        assert found == {}, "uvloop starts processes by itself: env=tracekit.processes.environ() says it there"
    else:
        assert found == {"TRACEPARENT": f"00-{span.context.trace_id}-{span.context.span_id}-03"}


@pytest.mark.usefixtures("hooks")
def test_other_formats_are_written_too(monkeypatch):
    from tracekit.wire import b3

    tracekit.configure(exporter=MemoryExporter(), formats=[b3.SINGLE])
    with tracekit.span("here") as span:
        assert environment() == {"B3": f"{span.context.trace_id}-{span.context.span_id}-1"}
        assert environment(env={**ESSENTIAL, "B3": "0"}) == {"B3": "0"}


LATE = """
import sys

import tracekit

tracekit.install_hooks()
assert "multiprocessing.pool" not in sys.modules
assert "subprocess" not in sys.modules

import multiprocessing.pool
import subprocess
from concurrent.futures import ThreadPoolExecutor

hooked = (subprocess.Popen.__init__, multiprocessing.pool.ThreadPool.map, ThreadPoolExecutor.submit)
assert all(hasattr(method, "__wrapped__") for method in hooked)
with tracekit.span("parent") as parent, multiprocessing.pool.ThreadPool(1) as pool, ThreadPoolExecutor() as executor:
    assert pool.map(lambda _: tracekit.current_span(), [1]) == [parent]
    assert executor.submit(tracekit.current_span).result() is parent
tracekit.remove_hooks()
assert not hasattr(subprocess.Popen.__init__, "__wrapped__")
assert not any(type(finder).__name__ == "ImportHook" for finder in sys.meta_path)
"""


def test_modules_are_patched_when_the_program_imports_them():
    subprocess.run([sys.executable, "-c", LATE], check=True)


@pytest.mark.parametrize(
    "stand_in",
    [
        None,
        types.SimpleNamespace(),
        types.SimpleNamespace(__name__="pool"),
        types.SimpleNamespace(ThreadPool=None),
        types.SimpleNamespace(ThreadPool=type("ThreadPool", (), {})),
    ],
)
def test_a_module_that_the_program_forbids_or_replaces_is_left_alone(monkeypatch, stand_in):
    monkeypatch.setitem(sys.modules, "multiprocessing.pool", stand_in)
    tracekit.install_hooks()
    assert hasattr(threading.Thread.start, "__wrapped__")
