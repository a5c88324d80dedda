"""Rows 12, 13 and 14: the end of a span, how it turned out, and ids."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import json
import os
import random
import threading
import weakref

import anyio
import trio
from anyio.lowlevel import checkpoint

from .scenario import ALL, ASYNCIO, TRIO, cases, scenario

# ---- row 12: the end of a span


def in_thread(function, *args):
    thread = threading.Thread(target=function, args=args)
    thread.start()
    thread.join()


@scenario(row=12, title="ended twice", expect="a")
async def ended_twice(t):
    a = t.start("a")
    t.end(a)
    await checkpoint()
    t.end(a)


@scenario(
    row=12,
    title="left twice: by hand, and then by its `ExitStack`",
    expect="""
    a
      b
      in a
    """,
)
async def left_twice(t):
    with t.span("a"):
        with contextlib.ExitStack() as stack:
            b = t.span("b")
            stack.enter_context(b)
            b.__exit__(None, None, None)
        t.mark("in a")


@scenario(
    row=12,
    title="ended by a thread while it is current in a task",
    expect="""
    a
      in a
    after
    """,
)
async def ended_by_a_thread(t):
    a = t.start("a")
    with t.use(a):
        in_thread(t.end, a)
        await checkpoint()
        t.mark("in a")
    t.mark("after")


@scenario(
    row=12,
    title="entered in a task, left in a thread",
    expect="""
    a
      in a
    after
    """,
)
async def left_in_a_thread(t):
    a = t.span("a")
    a.__enter__()
    t.mark("in a")
    in_thread(a.__exit__, None, None, None)
    t.mark("after")


@scenario(
    row=12,
    title="ended by sixteen threads at once",
    expect="""
    a
      in a
    """,
)
async def ended_by_many_threads(t):
    a = t.start("a")
    with t.use(a):
        t.mark("in a")
    barrier = threading.Barrier(16)

    def end():
        barrier.wait()
        t.end(a)

    threads = [threading.Thread(target=end) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@scenario(
    row=12,
    title="left in a future's callback",
    expect="""
    a
      in a
    after
    """,
    backends=ASYNCIO,
)
async def left_in_a_callback(t):
    a = t.span("a")
    a.__enter__()
    future = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda _: a.__exit__(None, None, None))
    t.mark("in a")
    future.set_result(None)
    await checkpoint()
    await checkpoint()
    t.mark("after")


@scenario(
    row=12,
    title="ended by a finalizer",
    expect="""
    request
      connection
    """,
)
async def ended_by_a_finalizer(t):
    class Connection:
        pass

    with t.span("request"):
        connection = Connection()
        weakref.finalize(connection, t.end, t.start("connection"))
        await checkpoint()
        del connection
        gc.collect()


@scenario(
    row=12,
    title="entered in one `contextvars.Context`, left in another that is empty",
    expect="""
    a
    after
    """,
)
async def left_in_an_empty_context(t):
    a = t.span("a")
    a.__enter__()
    contextvars.Context().run(a.__exit__, None, None, None)
    t.mark("after")


@scenario(
    row=12,
    title="a child that ends after its parent",
    expect="""
    a
      b
        c
    """,
)
async def ends_after_its_parent(t):
    with t.span("a"), t.span("b"):
        c = t.start("c")
    await checkpoint()
    t.end(c)


@scenario(
    row=12,
    title="written to after its end: attribute, link, status, exception",
    expect="""
    a
    b
    """,
)
async def written_to_after_the_end(t):
    with t.span("b") as b:
        pass
    a = t.start("a")
    t.set_attribute(a, "early", "yes")
    t.end(a)
    t.set_attribute(a, "late", "yes")
    t.add_link(a, t.context(b))
    t.set_status(a, "error")
    t.record_exception(a, LookupError("no such item"))
    attributes = dict(t.node("a").attributes)
    t.check("early" in attributes and "late" not in attributes, "late attribute")
    t.check(not t.node("a").exceptions, "late exception")


# ---- row 13: how a span turned out


@scenario(
    row=13,
    title="`Task.cancel()`: cancelled, in every span that it leaves",
    expect="""
    request [cancelled]
      call [cancelled]
    """,
    backends=ASYNCIO,
)
async def task_cancelled(t):
    async def request():
        with t.span("request"), t.span("call"):
            await anyio.sleep_forever()

    task = asyncio.create_task(request())
    await checkpoint()
    await checkpoint()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@scenario(
    row=13,
    title="a cancel scope: what it cancels is cancelled, what is around it succeeds",
    expect="""
    request
      call [cancelled]
    """,
)
async def scope_cancelled(t):
    with t.span("request"), anyio.CancelScope() as scope, t.span("call"):
        scope.cancel()
        await anyio.sleep_forever()


@scenario(
    row=13,
    title="trio's own `move_on_after`",
    expect="""
    request
      call [cancelled]
    """,
    backends=TRIO,
)
async def trio_cancelled(t):
    with t.span("request"), trio.move_on_after(0), t.span("call"):
        await trio.sleep_forever()


@scenario(
    row=13,
    title="cancelled, and cleaned up behind an `await`, in a span of its own",
    expect="""
    request [cancelled]
      work [cancelled]
      clean up
    """,
)
async def cleaned_up(t):
    with anyio.CancelScope() as scope, t.span("request"):
        try:
            with t.span("work"):
                scope.cancel()
                await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True), t.span("clean up"):
                await checkpoint()


@scenario(
    row=13,
    title="cancelled, and the cleaning up fails: an error",
    expect="""
    request [error]
      work [cancelled]
    """,
)
async def cleaning_up_fails(t):
    with contextlib.suppress(OSError), anyio.CancelScope() as scope, t.span("request"):
        try:
            with t.span("work"):
                scope.cancel()
                await anyio.sleep_forever()
        finally:
            raise OSError("disk full")


@scenario(
    row=13,
    title="a group inside a cancelled scope: the tasks and the span around the group are cancelled",
    expect="""
    request
      fan-out [cancelled]
        job 1 [cancelled]
        job 2 [cancelled]
    """,
)
async def group_cancelled(t):
    async def job(name):
        with t.span(name):
            await anyio.sleep_forever()

    with t.span("request"), anyio.CancelScope() as scope, t.span("fan-out"):
        async with t.aio.create_task_group() as group:
            group.start_soon(job, "job 1")
            group.start_soon(job, "job 2")
            for _ in range(3):
                await checkpoint()
            scope.cancel()


@scenario(
    row=13,
    title="a group of nothing but cancellations is one; with an error in it, it is an error",
    expect="""
    cancellations [cancelled]
    mixture [error]
    """,
)
async def groups_of_cancellations(t):
    both = [asyncio.CancelledError(), GeneratorExit()]
    with contextlib.suppress(BaseException), t.span("cancellations"):
        raise BaseExceptionGroup("", [BaseExceptionGroup("", both), both[0]])
    with contextlib.suppress(BaseException), t.span("mixture"):
        raise BaseExceptionGroup("", [BaseExceptionGroup("", both), LookupError("no such item")])
    t.check(recorded(t, "mixture") == ["LookupError"], "leaves not recorded")


def recorded(t, name):
    """Return the types of what was recorded on the span of that name."""
    return sorted(kind.rpartition(".")[2] for kind in t.node(name).exceptions)


TIMEOUT = """
request [error]
  call [cancelled]
"""


@scenario(row=13, title="`fail_after`: an error where it raises, a cancellation inside it", expect=TIMEOUT)
async def fail_after(t):
    with contextlib.suppress(TimeoutError), t.span("request"), anyio.fail_after(0), t.span("call"):
        await anyio.sleep_forever()
    t.check(recorded(t, "call") == [], "cancellation recorded")
    t.check(recorded(t, "request") == ["TimeoutError"], "error not recorded")


@scenario(row=13, title="`asyncio.timeout`", expect=TIMEOUT, backends=ASYNCIO)
async def asyncio_timeout(t):
    with contextlib.suppress(TimeoutError), t.span("request"):
        async with asyncio.timeout(0):
            with t.span("call"):
                await anyio.sleep_forever()


@scenario(row=13, title="`asyncio.wait_for`", expect=TIMEOUT, backends=ASYNCIO)
async def asyncio_wait_for(t):
    async def call():
        with t.span("call"):
            await anyio.sleep_forever()

    with contextlib.suppress(TimeoutError), t.span("request"):
        await asyncio.wait_for(call(), 0.01)


@scenario(
    row=13,
    title="one task of a group fails: its sibling is cancelled, the error recorded where it was raised alone",
    expect="""
    request [error]
      fails [error]
      sibling [cancelled]
    """,
)
async def sibling_fails(t):
    async def fails():
        with t.span("fails"):
            await checkpoint()
            raise LookupError("no such item")

    async def sibling():
        with t.span("sibling"):
            await anyio.sleep_forever()

    with contextlib.suppress(ExceptionGroup), t.span("request"):
        async with t.aio.create_task_group() as group:
            group.start_soon(sibling)
            await checkpoint()
            await checkpoint()
            group.start_soon(fails)
    t.check(recorded(t, "fails") == ["LookupError"], "error not recorded")
    t.check(recorded(t, "request") == [], "recorded again")


@scenario(
    row=13,
    title="an `ExceptionGroup` of two: both are recorded, on the span that it was raised in",
    expect="""
    request [error]
      checks [error]
    """,
)
async def exception_group(t):
    with contextlib.suppress(ExceptionGroup), t.span("request"), t.span("checks"):
        raise ExceptionGroup("two of three", [ValueError("too long"), ExceptionGroup("", [LookupError("gone")])])
    t.check(recorded(t, "checks") == ["LookupError", "ValueError"], "leaves not recorded")
    t.check(recorded(t, "request") == [], "recorded again")


@scenario(
    row=13,
    title="an error leaves three spans: recorded in the innermost, the others are flagged",
    expect="""
    a [error]
      b [error]
        c [error]
    """,
)
async def recorded_once(t):
    with contextlib.suppress(LookupError), t.span("a"), t.span("b"), t.span("c"):
        await checkpoint()
        raise LookupError("no such item")
    t.check(recorded(t, "c") == ["LookupError"], "error not recorded")
    t.check(recorded(t, "b") == recorded(t, "a") == [], "recorded again")


@scenario(
    row=13,
    title="an error that is recorded by hand and raised on",
    expect="""
    a [error]
      b [error]
    """,
)
async def recorded_by_hand(t):
    with contextlib.suppress(LookupError), t.span("a"), t.span("b") as b:
        try:
            raise LookupError("no such item")
        except LookupError as error:
            t.record_exception(b, error)
            raise
    t.check(recorded(t, "b") == ["LookupError"], "recorded again")


@scenario(
    row=13,
    title="`raise … from …`: each error where it was raised",
    expect="""
    a [error]
      b [error]
    """,
)
async def raised_from(t):
    with contextlib.suppress(RuntimeError), t.span("a"):
        try:
            with t.span("b"):
                raise LookupError("no such item")
        except LookupError as error:
            raise RuntimeError("no answer") from error
    t.check(recorded(t, "b") == ["LookupError"], "error not recorded")
    t.check(recorded(t, "a") == ["RuntimeError"], "error not recorded")


@scenario(
    row=13,
    title="an error that is dealt with inside the span: success",
    expect="""
    a
      b [error]
    """,
)
async def dealt_with(t):
    with t.span("a"), contextlib.suppress(LookupError), t.span("b"):
        raise LookupError("no such item")


@scenario(
    row=13,
    title="one failed future, two requests that await it: recorded once in the trace of each",
    expect="""
    request 1 [error]
      call [error]
    request 2 [error]
      call [error]
    """,
    backends=ASYNCIO,
)
async def one_error_two_traces(t):
    future = asyncio.get_running_loop().create_future()

    async def request(number):
        with contextlib.suppress(LookupError), t.span(f"request {number}"):
            try:
                with t.span("call"):
                    await future
            finally:
                await checkpoint()  # now the other one

    tasks = [asyncio.create_task(request(number)) for number in (1, 2)]
    await checkpoint()
    await checkpoint()
    future.set_exception(LookupError("no such item"))
    await asyncio.gather(*tasks)
    t.check([len(node.exceptions) for node in t.nodes() if node.name == "call"] == [1, 1], "error not recorded")
    t.check(recorded(t, "request 1") == recorded(t, "request 2") == [], "recorded again")


@scenario(
    row=13,
    title="errors that do not want to be looked at: `__str__` raises, no attribute can be set",
    expect="""
    unprintable [error]
    frozen [error]
    """,
)
async def hostile_errors(t):
    class UnprintableError(Exception):
        def __str__(self):
            raise ValueError("unprintable")

    class FrozenError(Exception):
        def __setattr__(self, name, value):
            raise TypeError("frozen")

    with contextlib.suppress(UnprintableError), t.span("unprintable"):
        raise UnprintableError
    with contextlib.suppress(FrozenError), t.span("frozen"):
        raise FrozenError


@scenario(
    row=13,
    title="`SystemExit(0)` is success, `SystemExit(1)` an error, `KeyboardInterrupt` a cancellation",
    expect="""
    exit 0
    exit 1 [error]
    interrupt [cancelled]
    """,
)
async def exits(t):
    for name, error in (("exit 0", SystemExit(0)), ("exit 1", SystemExit(1)), ("interrupt", KeyboardInterrupt())):
        with contextlib.suppress(SystemExit, KeyboardInterrupt), t.span(name):
            raise error


@scenario(
    row=13,
    title="a coroutine is dropped half-way (`GeneratorExit`): cancelled, and the dropper's scope is untouched",
    expect="""
    request
      half-way [cancelled]
      after
    """,
)
async def coroutine_dropped(t):
    async def half_way():
        with t.span("half-way"):
            await checkpoint()

    with t.span("request"):
        coroutine = half_way()
        contextvars.copy_context().run(coroutine.send, None)
        coroutine.close()
        t.mark("after")


@scenario(
    row=13,
    title="a task that nobody holds is destroyed while it waits: cancelled",
    expect="""
    request
      waiting [cancelled]
    other
      in other
    """,
    backends=ASYNCIO,
)
async def task_destroyed(t):
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)  # asyncio reports it, rightly

    async def waiting():
        with t.span("waiting"):
            await loop.create_future()

    with t.span("request"):
        task = asyncio.create_task(waiting())
    await checkpoint()
    await checkpoint()
    with t.span("other"):
        del task
        gc.collect()
        t.mark("in other")


@scenario(
    row=13,
    title="a span that nobody ends is garbage: ended then, as cancelled",
    expect="""
    request
      forgotten [cancelled]
      left open [cancelled]
    """,
)
async def forgotten(t):
    def leave_open():
        t.use(t.start("left open")).__enter__()

    with t.span("request"):
        t.start("forgotten")
        contextvars.copy_context().run(leave_open)
        gc.collect()


# ---- row 14: ids


def taken(t, count):
    """Return the ids of *count* new traces of one span."""
    ids = []
    for _ in range(count):
        span = t.start("span")
        ids += t.ids(span)
        t.end(span)
    return ids


def check_distinct(t, ids):
    t.check(len(set(ids)) == len(ids), "ids repeat")


@scenario(row=14, title="`random.seed()` before every trace", expect="span\n" * 6)
async def seeded(t):
    state = random.getstate()
    ids = []
    for _ in range(3):
        random.seed(1)
        ids += taken(t, 2)
    random.setstate(state)
    check_distinct(t, ids)


@scenario(row=14, title="eight threads at once", expect="span\n" * 8 * 25)
async def many_threads(t):
    ids = []
    barrier = threading.Barrier(8)

    def take():
        barrier.wait()
        ids.extend(taken(t, 25))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check_distinct(t, ids)


def taken_in_a_fork(t, count, prepare=lambda: None):
    """Return what ``taken()`` gives in a child process that is forked now."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            prepare()
            os.write(writer, json.dumps(taken(t, count)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        ids = json.loads(pipe.read())
    os.waitpid(child, 0)
    return ids


POSIX = ALL if hasattr(os, "fork") else ()


@scenario(row=14, title="a process and two that are forked from it", expect="span\n" * 40, backends=POSIX)
async def forked(t):
    ids = taken(t, 20) + taken_in_a_fork(t, 20) + taken_in_a_fork(t, 20) + taken(t, 20)
    check_distinct(t, ids)


@scenario(row=14, title="two forked workers that both call `random.seed(1)`", expect="span\n" * 10, backends=POSIX)
async def forked_and_seeded(t):
    def seed():
        random.seed(1)

    check_distinct(t, taken_in_a_fork(t, 10, seed) + taken_in_a_fork(t, 10, seed) + taken(t, 10))


test_spans = cases(globals())
