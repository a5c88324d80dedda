"""asyncio's queue and executor call: in all but the context that goes along they are asyncio's."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import subprocess
import sys
import threading
import weakref
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import pytest

import tracekit
from tracekit.aio import Queue, run_in_executor
from tracekit.testing import span_tree

from ..tools.backends import ASYNCIO
from ..tools.current import here

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_is_logged")]

needs_shutdown = pytest.mark.skipif(not hasattr(asyncio.Queue, "shutdown"), reason="Python 3.13 brought it")


@pytest.fixture(params=ASYNCIO)
def anyio_backend(request):
    return request.param


@pytest.fixture(params=[asyncio.Queue, Queue], ids=["asyncio", "tracekit"])
def make(request):
    """Both classes, for what must be the same of both."""
    return request.param


async def settle():
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


# ---- the queue, as asyncio's


async def test_items_come_in_order_with_and_without_waiting(make):
    queue = make(2)
    queue.put_nowait(1)
    await queue.put(2)
    with pytest.raises(asyncio.QueueFull):
        queue.put_nowait(3)
    assert (queue.qsize(), queue.maxsize, queue.full(), queue.empty()) == (2, 2, True, False)
    assert (await queue.get(), queue.get_nowait()) == (1, 2)
    with pytest.raises(asyncio.QueueEmpty):
        queue.get_nowait()
    queue.task_done()
    queue.task_done()
    await queue.join()
    with pytest.raises(ValueError, match="task_done"):
        queue.task_done()


async def test_who_waits_is_served_in_turn(make):
    queue = make[int](1)
    got = []

    async def taker():
        got.append(await queue.get())

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(taker())
        await settle()
        for number in range(4):
            group.create_task(queue.put(number))
    assert got == [0, 1, 2, 3]
    assert queue.empty()


async def test_cancelling_those_who_wait_loses_no_item(make):
    queue = make(1)
    got = []

    async def taker():
        got.append(await queue.get())

    takers = [asyncio.ensure_future(taker()) for _ in range(20)]
    await settle()
    queue.put_nowait(0)  # wakes one, which is cancelled before it runs
    for number, task in enumerate(takers):
        if number % 2 == 0:
            task.cancel()
    for number in range(1, 11):
        await queue.put(number)
    await asyncio.gather(*takers, return_exceptions=True)
    got.append(queue.get_nowait())
    assert got == list(range(11))

    await queue.put("fills it")
    putter = asyncio.ensure_future(queue.put("never put"))
    await settle()
    putter.cancel()
    await settle()
    assert queue.get_nowait() == "fills it"
    assert queue.empty()


@needs_shutdown
async def test_a_queue_that_was_shut_down_says_so(make):
    queue = make()
    queue.put_nowait("left")
    queue.shutdown()
    with pytest.raises(asyncio.QueueShutDown):
        queue.put_nowait("item")
    assert await queue.get() == "left"
    with pytest.raises(asyncio.QueueShutDown):
        await queue.get()
    queue = make()
    queue.put_nowait("dropped")
    queue.shutdown(immediate=True)
    with pytest.raises(asyncio.QueueShutDown):
        queue.get_nowait()
    await queue.join()


# ---- the queue: what an item carries


async def test_every_way_to_put_and_to_get_is_a_child_of_the_sender_that_has_ended(exporter):
    queue = Queue()
    with tracekit.span("puts"):
        queue.put_nowait("a")
        await queue.put("b")
        queue.put_nowait("c")
    with tracekit.span("gets"):
        letters = [queue.get_delivery_nowait(), await queue.get_delivery(), await anext(queue.deliveries())]
    for delivery in letters:
        delivery.span(delivery.item).end()
    assert span_tree(exporter.spans) == "puts\n  a\n  b\n  c\ngets"
    with pytest.raises(asyncio.QueueEmpty):
        queue.get_delivery_nowait()


async def test_one_span_for_a_batch_has_a_link_to_its_sender(exporter):
    queue = Queue()
    with tracekit.span("puts"):
        queue.put_nowait("a")
    (await queue.get_delivery()).span("batch", root=True).end()
    assert span_tree(exporter.spans) == "puts\nbatch ~ puts"


async def test_a_worker_started_by_the_first_request_never_adopts_it(exporter):
    queue = Queue(1)
    worker = None

    async def work():
        async for delivery in queue.deliveries():
            with delivery.span(f"work for {delivery.item}"):
                await asyncio.sleep(0)
                with tracekit.span("part of it"):
                    pass
            queue.task_done()

    for number in range(3):
        with tracekit.span(f"request {number}"):
            worker = worker or asyncio.ensure_future(work())
            await queue.put(f"request {number}")
    await queue.put("nobody")
    await queue.join()
    worker.cancel()
    tree = "\n".join(f"request {n}\n  work for request {n}\n    part of it" for n in range(3))
    assert span_tree(exporter.spans) == f"{tree}\nwork for nobody\n  part of it"


async def test_a_plain_get_changes_nothing_at_the_receiver(exporter):
    queue = Queue()
    with tracekit.span("puts"), tracekit.use_labels(tenant="acme"):
        queue.put_nowait("a")
        queue.put_nowait("b")
    with tracekit.span("gets"):
        for item in (queue.get_nowait(), await queue.get()):
            assert item in "ab"
            assert (here(), dict(tracekit.current_labels())) == ("gets", {})


async def test_labels_travel(exporter):
    queue = Queue()
    with tracekit.use_labels(tenant="acme"):
        await queue.put("item")
    with tracekit.use_labels(worker="7"), (await queue.get_delivery()).span("work"):
        assert tracekit.current_labels() == {"tenant": "acme"}


async def test_who_waits_for_room_puts_its_own_context_and_the_wait_begins_in_the_queue(exporter, delivery_clock):
    queue = Queue(1)

    async def putter(name):
        with tracekit.span(name):
            await queue.put(name)

    async with asyncio.TaskGroup() as group:
        for name in ("has room", "waits", "waits longer"):
            group.create_task(putter(name))
        await settle()
        letters = []
        for _ in range(3):
            delivery_clock.now_ns += 1_000_000_000
            with tracekit.span("gets"):
                letters.append(queue.get_delivery_nowait())
            await settle()
    assert [(delivery.item, delivery.waited_s) for delivery in letters] == [
        ("has room", 1.0),
        ("waits", 1.0),
        ("waits longer", 1.0),
    ]
    for delivery in letters:
        delivery.span(f"work for {delivery.item}").end()
    tree = "\n".join(f"{delivery.item}\n  work for {delivery.item}" for delivery in letters)
    assert span_tree([span for span in exporter.spans if span.name != "gets"]) == tree


async def test_who_waits_for_an_item_gets_the_context_of_who_puts(exporter, delivery_clock):
    queue = Queue()

    async def getter():
        with tracekit.span("gets"):
            return await queue.get_delivery()

    waiting = asyncio.ensure_future(getter())
    await settle()
    delivery_clock.now_ns += 5_000_000_000
    with tracekit.span("puts") as puts:
        queue.put_nowait("item")
    delivery = await waiting
    assert (delivery.context, delivery.waited_s) == (puts.context, 0.0)


async def test_another_thread_puts_its_own_context(exporter):
    queue, loop = Queue(), asyncio.get_running_loop()

    def put():
        with tracekit.span("thread"):
            loop.call_soon_threadsafe(queue.put_nowait, "item")

    thread = threading.Thread(target=put)
    thread.start()
    (await queue.get_delivery()).span("work").end()
    thread.join()
    assert span_tree(exporter.spans) == "thread\n  work"


async def test_many_senders_and_receivers_do_not_mix_up_their_contexts(exporter):
    queue = Queue(3)
    plain, got = [], []

    async def sender():
        for part in range(30):
            with tracekit.span("puts") as span:
                await queue.put((span.context.span_id, part))

    async def receiver(number):
        while True:
            # Some take plain items in between.
            if number % 4 == 0:
                plain.append(await queue.get())
            else:
                got.append(await queue.get_delivery())
            queue.task_done()
            await asyncio.sleep(0)

    receivers = [asyncio.ensure_future(receiver(number)) for number in range(8)]
    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(sender())
    await queue.join()
    for task in receivers:
        task.cancel()
    assert len({*plain, *(delivery.item for delivery in got)}) == 240
    assert len(plain) > 0
    assert [d for d in got if d.context.span_id != d.item[0]] == []


@pytest.mark.parametrize("item", [None, (), ("a", None, 3), ValueError("an item"), asyncio.QueueEmpty()], ids=repr)
async def test_an_item_is_whatever_it_is(item):
    queue = Queue()
    for _ in range(3):
        await queue.put(item)
    assert queue.get_nowait() is item
    assert await queue.get() is item
    assert (await queue.get_delivery()).item is item


async def test_cancelling_who_waits_for_a_delivery_loses_neither_item_nor_context(exporter):
    queue = Queue()
    got = []

    async def taker():
        got.append(await queue.get_delivery())

    takers = [asyncio.ensure_future(taker()) for _ in range(20)]
    await settle()
    for number, task in enumerate(takers):
        with tracekit.span("puts") as span:
            queue.put_nowait(span.context.span_id)
        if number % 2:
            task.cancel()
    await asyncio.gather(*takers, return_exceptions=True)
    assert len(got) == queue.qsize() == 10
    while not queue.empty():
        got.append(queue.get_delivery_nowait())
    assert [delivery.context.span_id for delivery in got] == [delivery.item for delivery in got]


@needs_shutdown
async def test_deliveries_end_when_the_queue_is_shut_down():
    queue = Queue()
    queue.put_nowait("left")
    queue.shutdown()
    assert [delivery.item async for delivery in queue.deliveries()] == ["left"]
    with pytest.raises(asyncio.QueueShutDown):
        await queue.get_delivery()
    with pytest.raises(asyncio.QueueShutDown):
        queue.get_delivery_nowait()

    queue = Queue()

    async def all_of_them():
        return [delivery.item async for delivery in queue.deliveries()]

    waiting = asyncio.ensure_future(all_of_them())
    await settle()
    queue.shutdown(immediate=True)
    assert await waiting == []


async def test_a_last_in_first_out_queue_keeps_items_and_contexts_together(exporter):
    class Stack(Queue, asyncio.LifoQueue):
        pass

    queue = Stack()
    for name in ("first", "second"):
        with tracekit.span(name):
            queue.put_nowait(name)
    while not queue.empty():
        delivery = queue.get_delivery_nowait()
        delivery.span(f"work for {delivery.item}").end()
    assert span_tree(exporter.spans) == "first\n  work for first\nsecond\n  work for second"


async def test_a_priority_queue_compares_the_items_alone(exporter):
    class Urgent(Queue, asyncio.PriorityQueue):
        pass

    queue = Urgent()
    for name in ("first", "second"):
        with tracekit.span(name):
            queue.put_nowait((1, "equal"))
            queue.put_nowait((0, "urgent"))
    for _ in range(4):
        delivery = queue.get_delivery_nowait()
        delivery.span(delivery.item[1]).end()
    for name in ("first", "second"):
        (sender,) = (span for span in exporter.spans if span.name == name)
        assert [span.name for span in exporter.spans if span.parent == sender.context] == ["urgent", "equal"]


async def test_an_item_that_was_taken_is_not_kept():
    class Item:
        pass

    queue = Queue()
    for take in (queue.get, queue.get_delivery):
        item = Item()
        gone = weakref.ref(item)
        await queue.put(item)
        del item
        await take()
        gc.collect()
        assert gone() is None


async def test_ten_thousand_items_that_wait_hold_no_span(exporter):
    queue, spans = Queue(), []
    for number in range(10_000):
        with tracekit.span("puts") as span:
            await queue.put(number)
        spans.append(weakref.ref(span))
    del span
    exporter.clear()
    gc.collect()
    assert queue.qsize() == 10_000
    assert [ref for ref in spans if ref() is not None] == []


# ---- the executor


def work(name="work"):
    """Record a span in whichever thread this is."""
    with tracekit.span(name):
        return threading.get_ident()


@pytest.fixture(params=["default", "of its own"])
def executor(request):
    if request.param == "default":
        yield None
    else:
        with ThreadPoolExecutor(1) as pool:
            yield pool


async def test_a_job_is_a_child_of_where_it_was_asked_for_even_though_that_has_ended(exporter, executor):
    with tracekit.span("asks"):
        future = run_in_executor(executor, work, "job")
    assert isinstance(future, asyncio.Future)
    assert await future != threading.get_ident()
    assert span_tree(exporter.spans) == "asks\n  job"


async def test_a_workers_thread_belongs_to_nobody(exporter):
    def sloppy():
        tracekit.use_labels(left="open").__enter__()
        return here()

    with ThreadPoolExecutor(1) as pool:
        with tracekit.span("first"):
            assert await run_in_executor(pool, sloppy) == "first"
        with tracekit.span("second"), tracekit.use_labels(tenant="acme"):
            assert await run_in_executor(pool, tracekit.current_labels) == {"tenant": "acme"}
        assert await run_in_executor(pool, tracekit.current_context) is None
        assert pool.submit(tracekit.current_context).result() is None


async def test_an_executor_of_any_kind_will_do(exporter):
    class Inline(Executor):
        def submit(self, fn, /, *args, **kwargs):
            future = Future()
            with tracekit.span("the executor's own"):
                future.set_result(fn(*args, **kwargs))
            return future

    with tracekit.span("asks"):
        await run_in_executor(Inline(), work)
    assert span_tree(exporter.spans) == "asks\n  the executor's own\n  work"


async def test_a_process_continues_the_trace(exporter):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        with tracekit.span("asks") as span, tracekit.use_labels(tenant="acme"):
            here = tracekit.inject({})
            there = await run_in_executor(pool, tracekit.inject, {})
        assert there == here
        assert span.context.span_id in there["traceparent"]
        assert await run_in_executor(pool, tracekit.inject, {}) == {}


async def test_an_error_is_the_jobs_own():
    with pytest.raises(ZeroDivisionError):
        await run_in_executor(None, divmod, 1, 0)


@pytest.mark.parametrize("job", [3, None], ids=repr)
async def test_what_cannot_be_called_fails_as_it_does_in_asyncio(job):
    async def outcome(run):
        try:
            await run(None, job)
        except TypeError as error:
            return str(error)

    assert await outcome(run_in_executor) == await outcome(asyncio.get_running_loop().run_in_executor) != None  # noqa: E711


async def test_a_coroutine_function_is_refused_where_asyncio_refuses_it():
    async def job():
        raise AssertionError

    asyncio.get_running_loop().set_debug(True)
    with pytest.raises(TypeError, match=r"coroutines cannot be used with run_in_executor\(\)"):
        run_in_executor(None, job)
    asyncio.get_running_loop().set_debug(False)


def test_without_a_running_loop_the_error_is_asyncios():
    with pytest.raises(RuntimeError, match="no running event loop"):
        run_in_executor(None, work)


def test_anyio_is_not_needed():
    program = "import sys; from tracekit.aio import Queue, run_in_executor; print({'anyio', 'trio'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "set()\n"


def test_without_anyio_the_error_names_the_extra(monkeypatch):
    from tracekit import aio

    monkeypatch.delitem(vars(aio), "create_task_group", raising=False)
    monkeypatch.delitem(sys.modules, "tracekit.aio._groups", raising=False)
    monkeypatch.setitem(sys.modules, "anyio", None)
    message = r"tracekit\.aio\.create_task_group needs anyio: pip install 'tracekit-async\[aio\]'"
    with pytest.raises(ModuleNotFoundError, match=message):
        _ = aio.create_task_group
