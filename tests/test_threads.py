"""Threads and pools without a loop: the standard library's in all but what their work runs under."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import sys
import threading
import weakref
from concurrent import futures
from concurrent.futures import process

import pytest

import tracekit
from tracekit.testing import span_tree
from tracekit.threads import Thread, ThreadPoolExecutor, Timer, wrap_executor

from .tools.current import hand_over_under_a_span

pytestmark = pytest.mark.usefixtures("nothing_is_logged")

flavour = contextvars.ContextVar("flavour", default="plain")


class Worker(Thread):
    """A subclass with a run() and a constructor of its own."""

    def __init__(self, job):
        super().__init__()
        self.job = job

    def run(self):
        self.job()


class Probe:
    """Something to be kept, or not."""


# Each hands *job* over, and returns what waits until it is done.


def _thread(job):
    thread = Thread(target=lambda job: job(), kwargs={"job": job})
    thread.start()
    return thread.join


def _daemon(job):
    thread = Thread(target=job, daemon=True)
    thread.start()
    return thread.join


def _subclass(job):
    thread = Worker(job)
    thread.start()
    return thread.join


def _own_run(job):
    thread = Thread()
    thread.run = job
    thread.start()
    return thread.join


def _timer(job):
    timer = Timer(0, lambda job: job(), kwargs={"job": job})
    timer.start()
    return timer.join


def _submit(executor):
    def submit(job):
        pool = executor()
        pool.submit(lambda job: job(), job=job)
        return pool.shutdown

    return submit


def _map(executor):
    def map(job):
        pool = executor()
        pool.map(lambda job, _: job(), [job], "1")
        return pool.shutdown

    return map


def _wrapped():
    return wrap_executor(futures.ThreadPoolExecutor())


THREADS = {"Thread": _thread, "daemon": _daemon, "subclass": _subclass, "own run": _own_run, "Timer": _timer}
POOLS = {"ThreadPoolExecutor": ThreadPoolExecutor, "wrap_executor": _wrapped}
HAND_OFFS = (
    THREADS
    | {f"{name}.submit": _submit(pool) for name, pool in POOLS.items()}
    | {f"{name}.map": _map(pool) for name, pool in POOLS.items()}
)
each_hand_off = pytest.mark.parametrize(
    "hand_over", [pytest.param(function, id=name) for name, function in HAND_OFFS.items()]
)
each_pool = pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: ThreadPoolExecutor(1), id="ThreadPoolExecutor"),
        pytest.param(lambda: wrap_executor(futures.ThreadPoolExecutor(1)), id="wrap_executor"),
    ],
)


@each_hand_off
def test_work_is_child_of_where_it_was_handed_over_even_though_that_has_ended(hand_over, exporter):
    hand_over_under_a_span(hand_over)
    spans = exporter.spans
    assert span_tree(spans) == "outer\n  submitter\n    job\n  later"
    assert [dict(span.context.labels) for span in spans if span.name == "job"] == [{"tenant": "acme"}]


@each_hand_off
def test_all_context_variables_come_along_and_what_is_set_there_stays_there(hand_over):
    seen = []

    def job():
        seen.append(flavour.get())
        flavour.set("bitter")
        tracekit.use_labels(never="closed").__enter__()

    token = flavour.set("sweet")
    try:
        hand_over(job)()
        assert flavour.get() == "sweet"
    finally:
        flavour.reset(token)
    assert seen == ["sweet"]
    assert not tracekit.current_labels()


@each_hand_off
def test_under_nothing_there_is_nothing(hand_over, exporter):
    def job():
        with tracekit.span("job"):
            pass

    wait = contextvars.Context().run(hand_over, job)
    with tracekit.span("elsewhere"):
        wait()
    assert sorted(span_tree(exporter.spans).split("\n")) == ["elsewhere", "job"]


@pytest.mark.slow  # collects garbage many times
@each_hand_off
def test_nothing_is_kept_of_where_it_was_handed_over_when_it_is_done(hand_over):
    def hand_over_under_a_probe():
        probe = Probe()
        flavour.set(probe)
        with tracekit.span("submitter") as span:
            wait = hand_over(lambda: None)
        return wait, weakref.ref(probe), weakref.ref(span)

    gc.collect()
    gc.disable()
    try:
        wait, probe, span = contextvars.Context().run(hand_over_under_a_probe)
        wait()
        assert (probe(), span()) == (None, None), "a cycle, or worse"
    finally:
        gc.enable()


def test_a_thousand_threads_leave_nothing_behind():
    refs = []
    gc.collect()
    gc.disable()
    try:
        with tracekit.span("starter"):
            for _ in range(1000):
                thread = Thread(target=lambda: tracekit.span("job").end())
                thread.start()
                thread.join()
                assert "run" not in vars(thread)
                refs.append(weakref.ref(thread))
            del thread
            assert not any(ref() for ref in refs)
    finally:
        gc.enable()


def test_many_threads_run_at_once_under_one_parent(exporter):
    barrier = threading.Barrier(8, timeout=20)

    def job():
        barrier.wait()
        with tracekit.span("job"):
            barrier.wait()

    with tracekit.span("starter"):
        threads = [Thread(target=job) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert span_tree(exporter.spans) == "starter" + "\n  job" * 8


# ---- threads


def test_what_counts_is_where_a_thread_is_started_not_where_it_is_made(exporter):
    with tracekit.span("maker"):
        thread = Thread(target=lambda: tracekit.span("job").end())
    with tracekit.span("starter"):
        thread.start()
    thread.join()
    assert span_tree(exporter.spans) == "maker\nstarter\n  job"


def test_a_run_that_is_called_directly_runs_where_it_is_called(exporter):
    calls = []

    def job():
        calls.append(tracekit.current_span())

    with tracekit.span("starter") as starter:
        thread = Worker(job)
        thread.run()
        thread.start()
        thread.join()
    with tracekit.span("again") as again:
        thread.run()
    assert calls == [starter, starter, again]


def test_a_run_of_the_threads_own_is_still_there_after_it_ran():
    def run():
        pass

    thread = Thread()
    thread.run = run
    thread.start()
    thread.join()
    assert thread.run is run


@pytest.fixture
def no_more_threads(monkeypatch):
    """Inside ``with``, no thread can be started."""

    def refuse(*args, **kwargs):
        raise RuntimeError("can't start new thread")

    @contextlib.contextmanager
    def inside():
        low = "_start_joinable_thread" if hasattr(threading, "_start_joinable_thread") else "_start_new_thread"
        with monkeypatch.context() as patch:
            patch.setattr(threading, low, refuse)
            yield

    return inside()


def test_a_thread_that_cannot_be_started_keeps_nothing(no_more_threads):
    thread = Thread(target=int)
    with no_more_threads, tracekit.span("starter"), pytest.raises(RuntimeError, match=r"^can't start new thread$"):
        thread.start()
    assert "run" not in vars(thread)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="there it keeps the Context that it got at the first try")
def test_a_thread_that_could_not_be_started_may_be_started_later(no_more_threads, exporter):
    thread = Thread(target=lambda: tracekit.span("job").end())
    with no_more_threads, tracekit.span("first"), contextlib.suppress(RuntimeError):
        thread.start()
    with tracekit.span("second"):
        thread.start()
    thread.join()
    assert span_tree(exporter.spans) == "first\nsecond\n  job"


def test_starting_twice_does_not_disturb_the_thread_that_runs(exporter):
    release = threading.Event()

    def job():
        release.wait(20)
        with tracekit.span("job"):
            pass

    thread = Thread(target=job)
    with tracekit.span("first"):
        thread.start()
    with tracekit.span("second"), pytest.raises(RuntimeError, match=r"^threads can only be started once$"):
        thread.start()
    release.set()
    thread.join()
    assert "run" not in vars(thread)
    assert span_tree(exporter.spans) == "first\n  job\nsecond"


def test_an_attribute_of_the_users_own_is_left_alone(exporter):
    class Worker(Thread):
        def __init__(self):
            super().__init__()
            self._snapshot = self._inside = "of its own"

        def run(self):
            assert self._snapshot == self._inside == "of its own"
            with tracekit.span("job"):
                pass

    with tracekit.span("starter"):
        thread = Worker()
        thread.start()
    thread.join()
    assert span_tree(exporter.spans) == "starter\n  job"


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="there it is the thread's own")
def test_a_thread_may_have_an_attribute_that_later_versions_use(exporter):
    thread = Thread(target=lambda: tracekit.span("job").end())
    thread._context = "a zmq.Context, say"
    with tracekit.span("starter"):
        thread.start()
    thread.join()
    assert span_tree(exporter.spans) == "starter\n  job"


@pytest.mark.skipif(sys.version_info < (3, 14), reason="Python 3.14 brought it")
def test_an_explicit_context_wins_over_the_starter(exporter):
    chosen = tracekit.span("chosen")
    contexts = [tracekit.new_context(chosen), contextvars.Context()]
    with tracekit.span("starter"):
        for context in contexts:
            thread = Thread(target=lambda: tracekit.span("job").end(), context=context)
            thread.start()
            thread.join()
    chosen.end()
    assert span_tree(exporter.spans) == "chosen\n  job\nstarter\njob"


def test_an_error_in_a_thread_reaches_the_excepthook(monkeypatch):
    caught = []
    monkeypatch.setattr(threading, "excepthook", lambda args: caught.append((args.exc_value, args.thread)))
    error = ValueError("theirs")

    def fail():
        raise error

    thread = Thread(target=fail)
    thread.start()
    thread.join()
    assert caught == [(error, thread)]
    caught.clear()


def test_a_timer_is_a_timer():
    called = []
    timer = Timer(3600, called.append, ["late"])
    assert isinstance(timer, threading.Timer)
    timer.start()
    timer.cancel()
    timer.join()
    timer = Timer(interval=0, function=called.append, args=["in time"])
    timer.start()
    timer.join()
    assert called == ["in time"]


def _uninitialized(thread_class):
    class Careless(thread_class):
        def __init__(self):
            pass

    Careless().start()


def _started_twice(thread_class):
    thread = thread_class()
    thread.start()
    thread.join()
    thread.start()


@pytest.mark.parametrize(
    "misuse",
    [
        _uninitialized,
        _started_twice,
        lambda thread_class: thread_class().start(1),
        lambda thread_class: thread_class(targets=print),
        lambda thread_class: thread_class(5),
        lambda thread_class: thread_class().join(),
    ],
)
def test_misuse_of_a_thread_fails_as_it_does_without_tracekit(misuse):
    assert _outcome(misuse, Thread) == _outcome(misuse, threading.Thread)


def _outcome(function, *args):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        function(*args)
    return caught.type, str(caught.value)


# ---- pools


@each_pool
def test_a_careless_job_does_not_reach_the_next_one_on_the_same_thread(make, exporter):
    left = []

    def careless():
        left.append(tracekit.span("never left"))
        left[-1].__enter__()
        tracekit.use_labels(never="closed").__enter__()
        flavour.set("sticky")

    def look():
        return threading.get_ident(), tracekit.current_context(), flavour.get()

    with make() as pool:
        with tracekit.span("submitter") as span:
            pool.submit(careless).result()
            first = pool.submit(look).result()
        second = contextvars.Context().run(pool.submit, look).result()
    left[0].end()
    assert first[1:] == (span.context, "plain")
    assert second[1:] == (None, "plain")
    assert first[0] == second[0]


@each_pool
def test_each_job_is_child_of_its_own_submitter_however_lazily_the_thread_was_started(make, exporter):
    def job():
        with tracekit.span("job"):
            pass

    with make() as pool:
        for number in range(3):
            with tracekit.span(f"request {number}"):
                pool.submit(job).result()
        with tracekit.span("mapping"):
            list(pool.map(lambda _: job(), range(2)))
    tree = "request 0\n  job\nrequest 1\n  job\nrequest 2\n  job\nmapping\n  job\n  job"
    assert span_tree(exporter.spans) == tree


@each_pool
def test_a_job_may_submit_the_next_one(make, exporter):
    done = threading.Event()

    def chain(number):
        with tracekit.span(f"job {number}"):
            if number == 3:
                done.set()
            else:
                pool.submit(chain, number + 1)

    with make() as pool, tracekit.span("submitter"):
        pool.submit(chain, 1)
        assert done.wait(20)
    assert span_tree(exporter.spans) == "submitter\n  job 1\n    job 2\n      job 3"


def test_the_threads_of_a_pool_have_nothing_of_who_submits_first(monkeypatch):
    seen = []

    def look():
        seen.append((tracekit.current_context(), flavour.get()))

    def start(thread, start=threading.Thread.start):
        look()  # from Python 3.14 on, what is current here may be inherited
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    token = flavour.set("sweet")
    try:
        with ThreadPoolExecutor(1, initializer=look) as pool, tracekit.span("submitter") as span:
            pool.submit(look).result()
    finally:
        flavour.reset(token)
    assert seen == [(None, "plain"), (None, "plain"), (span.context, "sweet")]


def test_a_thread_that_waits_keeps_nothing_of_the_job_that_it_did():
    def submit_under_a_probe(pool):
        probe = Probe()
        flavour.set(probe)
        with tracekit.span("submitter"):
            pool.submit(lambda: None).result()
        return weakref.ref(probe)

    with ThreadPoolExecutor(1) as pool:
        probe = contextvars.Context().run(submit_under_a_probe, pool)
        pool.submit(lambda: None).result()  # the thread is past it
        gc.collect()
        assert probe() is None


def test_a_pool_serves_asyncio_as_its_default(exporter):
    def job():
        with tracekit.span("job"):
            pass

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        for number in range(2):
            with tracekit.span(f"request {number}"):
                await loop.run_in_executor(None, job)

    asyncio.run(main())
    assert span_tree(exporter.spans) == "request 0\n  job\nrequest 1\n  job"


def _after_shutdown(pool):
    pool.shutdown()
    pool.submit(print)


def _raise(error):
    raise error


@each_pool
@pytest.mark.parametrize(
    "misuse",
    [
        _after_shutdown,
        lambda pool: pool.submit(5).result(),
        lambda pool: pool.submit(len).result(),
        lambda pool: pool.submit(_raise, KeyError("theirs")).result(),
        lambda pool: pool.submit(_raise, SystemExit(3)).result(),
        lambda pool: list(pool.map(5, [1])),
        lambda pool: pool.map(len, 5),
        lambda pool: pool.shutdown(waiting=True),
    ],
)
def test_misuse_of_a_pool_fails_as_it_does_without_tracekit(make, misuse):
    def outcome(pool):
        with pool, pytest.raises(BaseException) as caught:  # noqa: PT011
            misuse(pool)
        return caught.type, str(caught.value)

    kind, text = outcome(futures.ThreadPoolExecutor(1))
    assert outcome(make()) == (kind, text)


def test_submitting_nothing_fails_as_it_does_without_tracekit():
    with ThreadPoolExecutor(1) as ours, futures.ThreadPoolExecutor(1) as theirs:
        assert _outcome(ours.submit) == _outcome(theirs.submit)


def test_an_initializer_that_fails_breaks_the_pool_as_ever(caplog):
    pool = ThreadPoolExecutor(1, initializer=_raise, initargs=(ValueError("theirs"),))
    with pool, pytest.raises(futures.BrokenExecutor):
        pool.submit(print).result()
    assert [record.name for record in caplog.records] == ["concurrent.futures"]
    caplog.clear()


# ---- executors of others


class Later(futures.Executor):
    """An executor of somebody else's: it does its jobs when it is told to."""

    def __init__(self):
        self.jobs = []
        self.calls = []

    def submit(self, fn, /, *args, **kwargs):
        future = futures.Future()
        self.jobs.append((future, fn, args, kwargs))
        return future

    def work(self):
        for future, fn, args, kwargs in self.jobs:
            future.set_result(fn(*args, **kwargs))

    def shutdown(self, wait=True, *, cancel_futures=False):
        self.calls.append((wait, cancel_futures))

    def __enter__(self):
        self.calls.append("enter")
        return self

    def __exit__(self, kind, exc, traceback):
        self.calls.append(("exit", kind))
        return True

    def __repr__(self):
        return "<Later>"


def test_any_executor_can_be_wrapped(exporter):
    def job(number, *, factor=1):
        with tracekit.span(f"job {number}"):
            return number * factor

    later = Later()
    executor = wrap_executor(later)
    with tracekit.span("submitter"):
        future = executor.submit(job, 3, factor=4)
    with tracekit.span("mapper"):
        results = executor.map(job, [1, 2])
    with tracekit.span("worker"):
        later.work()
    assert (future.result(), list(results)) == (12, [1, 2])
    assert span_tree(exporter.spans) == "submitter\n  job 3\nmapper\n  job 1\n  job 2\nworker"


def test_a_wrapped_executor_is_the_executor_in_all_else():
    later = Later()
    executor = wrap_executor(later)
    with executor as entered:
        raise KeyError("which its own __exit__ swallows")
    assert entered is executor
    executor.shutdown()
    executor.shutdown(False, cancel_futures=True)
    assert later.calls == ["enter", ("exit", KeyError), (True, False), (False, True)]
    assert repr(executor) == "<tracekit.threads.wrap_executor(<Later>)>"
    assert isinstance(executor, futures.Executor)


@pytest.mark.parametrize("thing", [None, 5, print, ThreadPoolExecutor])
def test_what_is_no_executor_cannot_be_wrapped(thing):
    with pytest.raises(TypeError, match=f"^executor must be an Executor, not {type(thing).__name__}$"):
        wrap_executor(thing)


def test_an_executor_of_processes_is_refused():
    with (
        process.ProcessPoolExecutor(1) as pool,
        pytest.raises(TypeError, match=r"tracekit\.processes\.ProcessPoolExecutor"),
    ):
        wrap_executor(pool)
