"""What tests do with their spans: the small tests that the pytest plugin is tried on, and what it says of each."""

from __future__ import annotations

# What all of them begin with, and what those that are about event loops and pools begin with too.
BASICS = """\
import threading, pytest, tracekit
KEPT = []
NOT_SAMPLED = tracekit.SpanContext("a" * 32, "b" * 16, 0, is_remote=True)
def work():
    with tracekit.span("work"): pass  #work
def run(thread):
    thread.start()
    thread.join(20)
"""
HEADER = f"""\
{BASICS}
import asyncio, concurrent.futures, contextvars, multiprocessing.pool
import _thread, anyio, tracekit.threads, trio
from tracekit import aio
async def work_async():
    work()
"""

HOOKS = "tracekit.wrap() or tracekit.install_hooks()"
QUEUES = "tracekit.threads.Queue, tracekit.aio.Queue or aio.create_memory_object_stream() for what it is sent"
TASK = "tracekit.wrap() where a thread, or a Context of its own, starts it"
LATE = "without a link to it: use tracekit.detached() for what outlives its parent"
LOST = "{work}: root: 'work' is a root, its context was lost in"
EARLY = "which began before there was one"

# What a test does, and what is then said of it; {word} is the place of #word.
LEAKS = {
    "never_ended": (
        """
        def test():
            KEPT.append(tracekit.span("job"))  #here
        """,
        ["{here}: open: 'job' was never ended"],
    ),
    "abandoned": (
        """
        def test():
            tracekit.span("job")  #here
        """,
        ["{here}: open: 'job' was never ended"],
    ),
    "abandoned_by_many": (
        """
        def test():
            for name in ("a", "b", "a"):
                tracekit.span(name)  #here
        """,
        ["{here}: open: 'a' was never ended (2 times)", "{here}: open: 'b' was never ended"],
    ),
    "entered_and_not_left": (
        """
        def test():
            tracekit.span("job").__enter__()  #here
        """,
        ["{here}: open: 'job' was never ended"],
    ),
    "generator_left_half_way": (
        """
        @tracekit.traced
        def rows():
            yield 1
            yield 2

        def test():
            KEPT.append(rows())
            next(KEPT[-1])  #here
        """,
        ["{here}: open: 'rows' was never ended"],
    ),
    "left_open_by_a_fixture": (
        """
        @pytest.fixture
        def job():
            return tracekit.span("job")  #here

        def test(job):
            pass
        """,
        ["{here}: open: 'job' was never ended"],
    ),
    "in_a_task": (
        """
        @pytest.mark.anyio
        async def test():
            async def job():
                tracekit.span("job")  #here
            async with anyio.create_task_group() as group:
                group.start_soon(job)
        """,
        ["{here}: open: 'job' was never ended"],
    ),
    "not_sampled": (
        """
        def test():
            outer = tracekit.span("outer", parent=NOT_SAMPLED)  #outer
            inner = tracekit.span("inner", parent=outer)
            inner.end()  #end
            inner.set_attribute("key", 1)  #late
        """,
        [
            "{outer}: open: 'outer' was never ended",
            "{late}: late-write: set_attribute() on 'inner', which had ended at {end}",
        ],
    ),
    "thread_that_goes_on": (
        """
        def test():
            opened, release = threading.Event(), threading.Event()
            def wait():
                with tracekit.span("job"):  #here
                    opened.set()
                    release.wait(20)
            thread = threading.Thread(target=wait, name="waiting")
            thread.start()
            opened.wait(20)
            KEPT.extend([release, thread])

        def test_later():
            KEPT[-2].set()
            KEPT[-1].join(20)
        """,
        ["{here}: open: 'job' was never ended; the thread 'waiting' that opened it is still running"],
    ),
    "odd_name": (
        """
        def test():
            tracekit.span("\\x1b[31m\\n\\ud800" + "x" * 100)  #here
        """,
        [rf"{{here}}: open: '\x1b[31m\n\ud800{'x' * 50}… was never ended"],
    ),
    "ended_twice": (
        """
        def test():
            span = tracekit.span("job")
            span.end()  #first
            span.end()  #second
            span.end()  #third
        """,
        [
            "{second}: ended-twice: 'job' was ended again: it had ended at {first}",
            "{third}: ended-twice: 'job' was ended again: it had ended at {first}",
        ],
    ),
    "ended_after_with": (
        """
        def test():
            with tracekit.span("job") as span:  #first
                pass
            def again():
                span.end()  #second
            run(threading.Thread(target=again))
        """,
        ["{second}: ended-twice: 'job' was ended again: it had ended at {first}"],
    ),
    "ended_twice_by_a_function_that_is_traced": (
        """
        @tracekit.traced  #job
        async def job():
            KEPT.append(tracekit.current_span())

        @pytest.mark.anyio
        async def test():
            async with anyio.create_task_group() as group:
                group.start_soon(job)
            KEPT[-1].end()  #second
        """,
        ["{second}: ended-twice: 'job' was ended again: it had ended at {job}"],
    ),
    "written_late": (
        """
        def test():
            span = tracekit.span("job")
            span.end()  #end
            span.set_attribute("key", 1)  #a
            span.set_attributes({"key": 1})  #b
            span.add_event("event")  #c
            span.add_link(NOT_SAMPLED)  #d
            span.set_status("ok")  #e
            span.record_exception(ValueError())  #f
            span.update_name("other")  #g
        """,
        [
            f"{{{mark}}}: late-write: {method}() on 'job', which had ended at {{end}}"
            for mark, method in zip(
                "abcdefg",
                [
                    "set_attribute",
                    "set_attributes",
                    "add_event",
                    "add_link",
                    "set_status",
                    "record_exception",
                    "update_name",
                ],
                strict=True,
            )
        ],
    ),
    "written_late_by_a_thread": (
        """
        def test():
            with tracekit.span("job") as span:  #end
                pass
            def write():
                span.add_event("event")  #here
            run(threading.Thread(target=write))
        """,
        ["{here}: late-write: add_event() on 'job', which had ended at {end}"],
    ),
    "written_late_to_a_span_of_before": (
        """
        @pytest.fixture(scope="module")
        def job():
            span = tracekit.span("job")
            span.end()
            return span

        def test(job):
            job.add_event("event")  #here
        """,
        ["{here}: late-write: add_event() on 'job', which had ended before"],
    ),
    "late_child": (
        """
        def test():
            with tracekit.span("job") as job:  #end
                pass
            tracekit.span("child", parent=job).end()  #here
        """,
        [f"{{here}}: late-child: 'child' was started under 'job', which had ended at {{end}}, {LATE}"],
    ),
    "late_child_of_what_is_inherited": (
        """
        @pytest.mark.anyio
        async def test():
            release = anyio.Event()
            async def outlive():
                await release.wait()
                with tracekit.use_labels(tenant="acme"), tracekit.span("child"):  #here
                    pass
            async with anyio.create_task_group() as group:
                with tracekit.span("request"):  #end
                    group.start_soon(outlive)
                release.set()
        """,
        [f"{{here}}: late-child: 'child' was started under 'request', which had ended at {{end}}, {LATE}"],
    ),
    "late_child_in_a_traced_task": (
        """
        release = None

        @tracekit.traced  #here
        async def outlive():
            pass

        @pytest.mark.anyio
        async def test():
            async with anyio.create_task_group() as group:
                with tracekit.span("request"):  #end
                    group.start_soon(outlive)
        """,
        [f"{{here}}: late-child: 'outlive' was started under 'request', which had ended at {{end}}, {LATE}"],
    ),
    "late_child_in_a_named_group": (
        """
        async def outlive():  #here
            pass

        @pytest.mark.anyio
        async def test():
            async with aio.create_task_group("group") as group:
                with tracekit.span("request"):  #end
                    group.start_soon(outlive)
        """,
        [f"{{here}}: late-child: 'outlive' was started under 'request', which had ended at {{end}}, {LATE}"],
    ),
    "late_child_of_a_stream": (
        """
        def rows():
            yield 1

        def test():
            with tracekit.span("request"):  #end
                steps = tracekit.stream(rows())
            list(steps)  #here
        """,
        [f"{{here}}: late-child: 'rows' was started under 'request', which had ended at {{end}}, {LATE}"],
    ),
    "late_child_not_sampled": (
        """
        def test():
            job = tracekit.span("job", parent=NOT_SAMPLED)
            job.end()  #end
            tracekit.span("child", parent=job).end()  #here
        """,
        [f"{{here}}: late-child: 'child' was started under 'job', which had ended at {{end}}, {LATE}"],
    ),
    "late_child_of_a_span_of_before": (
        """
        @pytest.fixture(scope="module")
        def job():
            span = tracekit.span("job")
            span.end()
            return span

        def test(job):
            tracekit.span("child", parent=job).end()  #here
        """,
        [f"{{here}}: late-child: 'child' was started under 'job', which had ended before, {LATE}"],
    ),
    "thread": (
        """
        def test():
            with tracekit.span("job"):
                run(threading.Thread(target=work, name="mine"))
        """,
        [f"{LOST} the thread 'mine': use tracekit.threads.Thread, {HOOKS}"],
    ),
    "thread_of_an_async_test": (
        """
        @pytest.mark.anyio
        async def test():
            with tracekit.span("job"):
                run(threading.Thread(target=work, name="mine"))
        """,
        [f"{LOST} the thread 'mine': use tracekit.threads.Thread, {HOOKS}"],
    ),
    "thread_under_a_span_of_an_async_fixture": (
        """
        @pytest.fixture
        async def job(anyio_backend):
            with tracekit.span("job"):
                yield

        @pytest.mark.anyio
        async def test(job):
            run(threading.Thread(target=work, name="mine"))
        """,
        [f"{LOST} the thread 'mine': use tracekit.threads.Thread, {HOOKS}"],
    ),
    "thread_that_outlives_the_span": (
        """
        def test():
            release = threading.Event()
            thread = threading.Thread(target=lambda: (release.wait(20), work()), name="mine")
            with tracekit.span("job"):
                thread.start()
            release.set()
            thread.join(20)
        """,
        [f"{LOST} the thread 'mine': use tracekit.threads.Thread, {HOOKS}"],
    ),
    "thread_in_which_only_labels_are_in_force": (
        """
        def test():
            def label():
                with tracekit.use_labels(tenant="acme"):
                    work()
            with tracekit.span("job"):
                run(threading.Thread(target=label, name="mine"))
        """,
        [f"{LOST} the thread 'mine': use tracekit.threads.Thread, {HOOKS}"],
    ),
    "thread_that_threading_did_not_start": (
        """
        def test():
            release, done = threading.Event(), threading.Event()
            with tracekit.span("job"):
                _thread.start_new_thread(lambda: (release.wait(20), work(), done.set()), ())
            release.set()
            done.wait(20)
        """,
        [f"{LOST} the thread 'Dummy-N', which threading did not start: use tracekit.wrap()"],
    ),
    "timer": (
        """
        def test():
            with tracekit.span("job"):
                run(threading.Timer(0, work))
        """,
        [f"{LOST} a threading.Timer: use tracekit.threads.Timer, {HOOKS}"],
    ),
    "executor": (
        """
        def test():
            with tracekit.span("job"), concurrent.futures.ThreadPoolExecutor(1) as pool:
                pool.submit(work).result(20)
        """,
        [f"{LOST} a job of a ThreadPoolExecutor: use tracekit.threads.ThreadPoolExecutor, {HOOKS}"],
    ),
    "executor_started_before": (
        """
        def test():
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                pool.submit(int).result(20)
                with tracekit.span("job"):
                    pool.submit(work).result(20)
        """,
        [f"{LOST} a job of a ThreadPoolExecutor: use tracekit.threads.ThreadPoolExecutor, {HOOKS}"],
    ),
    "callback_of_a_future": (
        """
        def test():
            release = threading.Event()
            with tracekit.span("job"), concurrent.futures.ThreadPoolExecutor(1) as pool:
                future = pool.submit(release.wait, 20)
                future.add_done_callback(lambda _: work())
                release.set()
        """,
        [f"{LOST} a callback of a Future: use tracekit.wrap()"],
    ),
    "pool_of_multiprocessing": (
        """
        def test():
            with tracekit.span("job"), multiprocessing.pool.ThreadPool(1) as pool:
                pool.apply(work)
        """,
        [f"{LOST} a job of a multiprocessing.pool.ThreadPool: use tracekit.wrap()"],
    ),
    "socketserver": (
        """
        import socket, socketserver

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                work()

        def test():
            with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server, tracekit.span("job"):
                with socket.create_connection(server.server_address):
                    server.handle_request()
        """,
        [f"{LOST} a request to a socketserver: use parent=tracekit.extract(headers) or tracekit.ROOT"],
    ),
    "other_contexts": (
        """
        def test():
            before = contextvars.copy_context()
            with tracekit.span("job"):
                contextvars.Context().run(work)
                before.run(work)
        """,
        [
            f"{LOST} another contextvars.Context{begun}: use tracekit.capture() or contextvars.copy_context() inside the span"
            for begun in ("", f", {EARLY}")
        ],
    ),
    "generator": (
        """
        def rows():
            with tracekit.span("rows"):  #here
                yield 1

        def test():
            with tracekit.span("job"):
                steps = rows()
                run(threading.Thread(target=lambda: list(steps), name="mine"))
        """,
        [
            "{here}: root: 'rows' is a root, its context was lost in the thread 'mine': use tracekit.threads.Thread, "
            f"{HOOKS}; if 'rows' is a generator that was made elsewhere, tracekit.stream()"
        ],
    ),
    "context_manager_that_is_no_generator_to_speak_of": (
        """
        import contextlib

        @contextlib.contextmanager
        def opened():
            with tracekit.span("opened"):  #here
                yield

        def job():
            with opened():
                pass

        def test():
            with tracekit.span("job"):
                run(threading.Thread(target=job, name="mine"))
        """,
        [
            "{here}: root: 'opened' is a root, its context was lost in the thread 'mine': use "
            f"tracekit.threads.Thread, {HOOKS}"
        ],
    ),
    "worker_thread_started_before": (
        """
        def test():
            items, done = tracekit.threads.Queue(), threading.Event()
            def serve():
                items.get()
                work()
            worker = threading.Thread(target=tracekit.wrap(serve), name="worker")
            worker.start()
            with tracekit.span("job"):
                items.put(1)
                worker.join(20)
        """,
        [f"{LOST} the thread 'worker', {EARLY}: use {QUEUES}"],
    ),
    "worker_of_a_test_that_begins_with_a_clean_slate": (
        """
        @pytest.fixture(autouse=True)
        def _clean_slate():
            with tracekit.use_context(None):
                yield

        def test():
            before = contextvars.copy_context()
            with tracekit.span("job"):
                run(threading.Thread(target=before.run, args=(work,), name="worker"))
        """,
        [f"{LOST} the thread 'worker', {EARLY}: use {QUEUES}"],
    ),
    "worker_of_an_async_test": (
        """
        @pytest.mark.anyio
        async def test():
            send, receive = anyio.create_memory_object_stream(1)
            async def serve():
                await receive.receive()
                work()
            async with anyio.create_task_group() as group:
                group.start_soon(serve, name="worker")
                with tracekit.span("job"):
                    await send.send(1)
            send.close()
            receive.close()
        """,
        [f"{LOST} the {{library}} task 'worker', {EARLY}: use {QUEUES}"],
    ),
    "thread_of_anyio_from_a_worker": (
        """
        @pytest.mark.anyio
        async def test():
            send, receive = anyio.create_memory_object_stream(1)
            async def serve():
                await receive.receive()
                await anyio.to_thread.run_sync(work)
            async with anyio.create_task_group() as group:
                group.start_soon(serve)
                with tracekit.span("job"):
                    await send.send(1)
            send.close()
            receive.close()
        """,
        [f"{LOST} a call of {{anyio}}.to_thread.run_sync(), {EARLY}: use {QUEUES}"],
    ),
    "asyncio": (
        """
        def test():
            async def main():
                loop = asyncio.get_running_loop()
                items = asyncio.Queue()
                async def serve():
                    await items.get()
                    work()
                worker = asyncio.create_task(serve(), name="worker")
                await asyncio.sleep(0)
                with tracekit.span("job"):
                    items.put_nowait(1)
                    await worker
                    await loop.run_in_executor(None, work)
                    def submit():
                        asyncio.run_coroutine_threadsafe(work_async(), loop).result(20)
                    await loop.run_in_executor(None, submit)
                    done = asyncio.Event()
                    def call():
                        loop.call_soon_threadsafe(lambda: (work(), done.set()))
                    run(threading.Thread(target=call))
                    await done.wait()
                    await asyncio.create_task(work_async(), name="alone", context=contextvars.Context())
            asyncio.run(main())
        """,
        [
            f"{LOST} the asyncio task 'worker', {EARLY}: use {QUEUES}",
            f"{LOST} a call of run_in_executor(): use tracekit.aio.run_in_executor() or tracekit.wrap()",
            f"{LOST} the asyncio task 'Task-N': use {TASK}",
            f"{LOST} a callback of the event loop: use tracekit.wrap(), or parent=tracekit.ROOT where it is part of no trace",
            f"{LOST} the asyncio task 'alone': use {TASK}",
        ],
    ),
    "trio": (
        """
        def test():
            async def main():
                called, served = trio.Event(), trio.Event()
                send, receive = trio.open_memory_channel(1)
                async def serve():
                    await receive.receive()
                    work()
                async def system():
                    work()
                    served.set()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(serve, name="worker")
                    with tracekit.span("job"):
                        send.send_nowait(1)
                        await trio.testing.wait_all_tasks_blocked()
                        trio.lowlevel.current_trio_token().run_sync_soon(lambda: (work(), called.set()))
                        await called.wait()
                        trio.lowlevel.spawn_system_task(system)
                        await served.wait()
            import trio.testing
            trio.run(main)
        """,
        [
            f"{LOST} the trio task 'worker', {EARLY}: use {QUEUES}",
            f"{LOST} a callback of trio's run_sync_soon(): use tracekit.wrap()",
            f"{LOST} a trio system task: use spawn_system_task(..., context=contextvars.copy_context())",
        ],
    ),
}

# What a test may do.
CLEAN = {
    "nested": """
        def test():
            with tracekit.span("outer") as outer:
                with tracekit.span("inner"):
                    outer.set_attribute("key", 1)
        """,
    "ended_in_another_thread": """
        def test():
            run(threading.Thread(target=tracekit.span("job").end))
        """,
    "ended_inside_with": """
        def test():
            with tracekit.span("job") as span:
                span.end()
        """,
    "ended_by_a_fixture": """
        @pytest.fixture
        def job():
            span = tracekit.span("job")
            yield span
            span.end()

        def test(job):
            job.add_event("event")
            with tracekit.span("child", parent=job):
                pass
        """,
    "fixture_of_the_module": """
        @pytest.fixture(scope="module")
        def job():
            with tracekit.span("job") as span:
                yield span

        def test(job):
            with tracekit.span("child", parent=job):
                job.add_event("event")

        def test_again(job):
            pass
        """,
    "generator": """
        @tracekit.traced
        def rows():
            yield 1

        def test():
            for _ in rows():
                pass
            next(rows())
        """,
    "written_late_by_tracekit": """
        from tracekit.integrations.asgi import TraceMiddleware

        @pytest.mark.anyio
        async def test():
            async def app(scope, receive, send):
                await send({"type": "http.response.start", "status": 200, "headers": []})
            async def send(message):
                raise OSError("the client has gone")
            with pytest.raises(OSError):
                await TraceMiddleware(app)({"type": "http", "method": "GET", "path": "/", "headers": []}, None, send)
        """,
    "not_sampled": """
        def test():
            with tracekit.span("outer", parent=NOT_SAMPLED):
                with tracekit.span("inner"):
                    pass
        """,
    "late_child_with_a_link": """
        def test():
            with tracekit.span("job") as job:
                pass
            tracekit.span("child", parent=job, links=[job]).end()
            with tracekit.span("child", parent=job) as child:
                child.add_link(job)
        """,
    "late_child_of_a_context_that_travelled": """
        def test():
            with tracekit.span("job") as job:
                pass
            tracekit.span("child", parent=job.context).end()
            tracekit.span("child", parent=tracekit.extract(tracekit.inject({}, job))).end()
        """,
    "delivery": """
        def test():
            items = tracekit.threads.Queue()
            def serve():
                for root in (False, True):
                    with items.get_delivery().span("work", root=root):
                        pass
            worker = threading.Thread(target=serve)
            worker.start()
            with tracekit.span("job"):
                items.put(1)
                items.put(2)
            worker.join(20)
        """,
    "detached": """
        @pytest.mark.anyio
        async def test():
            release = anyio.Event()
            async def tick():
                await release.wait()
                work()
            async with anyio.create_task_group() as group:
                with tracekit.span("request"):
                    aio.spawn_detached(group, tick)
                release.set()
        """,
    "root_on_purpose": """
        def test():
            def roots():
                with tracekit.span("a", parent=tracekit.ROOT):
                    pass
                with tracekit.use_context(None):
                    work()
                with tracekit.span("b", parent=tracekit.SpanContext("a" * 32, "b" * 16, 1)):
                    pass
                with tracekit.span("c", links=[NOT_SAMPLED]):
                    pass
            with tracekit.span("job"):
                run(threading.Thread(target=roots))
        """,
    "roots_of_the_test_itself": """
        @pytest.mark.anyio
        async def test():
            work()
            await anyio.lowlevel.checkpoint()
            work()
        """,
    "handed_over": """
        @pytest.mark.anyio
        async def test():
            with tracekit.span("job"):
                await anyio.to_thread.run_sync(work)
                run(threading.Thread(target=tracekit.wrap(work)))
                run(tracekit.threads.Thread(target=work))
                with tracekit.threads.ThreadPoolExecutor(1) as pool:
                    pool.submit(work).result(20)
                async with aio.create_task_group("group") as group:
                    group.start_soon(work_async)
                list(tracekit.stream(iter([1])))
        """,
    "thread_where_the_test_opened_nothing": """
        def test():
            run(threading.Thread(target=work))
            run(threading.Thread(target=work))
        """,
    "thread_started_when_all_was_over": """
        def test():
            work()
            run(threading.Thread(target=work))
            work()
        """,
    "tasks_started_when_all_was_over": """
        @pytest.mark.anyio
        async def test():
            work()
            async with anyio.create_task_group() as group:
                group.start_soon(work_async)
                group.start_soon(work_async)
        """,
    "programs": """
        def test():
            async def main():
                work()
                async with aio.create_task_group() as group:
                    group.start_soon(work_async)
                work()
            work()
            asyncio.run(main())
            loop = asyncio.new_event_loop()
            loop.run_until_complete(main())
            loop.close()
            trio.run(main)
            for backend in ("asyncio", "trio"):
                anyio.run(main, backend=backend)
        """,
    "unittest": """
        import unittest

        class Test(unittest.TestCase):
            def test(self):
                work()

        class TestAsync(unittest.IsolatedAsyncioTestCase):
            async def asyncSetUp(self):
                work()

            async def test(self):
                work()
                await asyncio.create_task(work_async())
        """,
    "raises": """
        def test():
            with pytest.raises(ZeroDivisionError), tracekit.span("job"):
                1 / 0
        """,
}
