"""Hooks are installed and removed, in any order with the patches of other libraries."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
from concurrent import futures

import pytest

import tracekit
import tracekit.threads
from tracekit._handoffs.hooks import _imports
from tracekit.testing import recording, span_tree

from ..tools.hooks import (
    ORIGINALS,
    PATCHED,
    Worker,
    end_a_span,
    in_place,
    run,
    start_thread,
    threads_inherit_nothing,
)


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
        wait = start_thread(job)
        future = pool.submit(job)
        tracekit.remove_hooks()
        tracekit_removed.set()
        wait()
        future.result()
        start_thread(functools.partial(end_a_span, "after"))()
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
