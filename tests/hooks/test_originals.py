"""Where nothing is current, and where something fails, the originals are called as they are without hooks."""

from __future__ import annotations

import contextvars
import functools
import subprocess
import threading
from concurrent import futures
from multiprocessing.pool import ThreadPool

import pytest

import tracekit
import tracekit.threads
from tracekit._handoffs.hooks import _inside

from ..tools.hooks import (
    NOTHING,
    PATCHED,
    start_thread,
)


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
        start_thread(int)()
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
