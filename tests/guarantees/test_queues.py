"""Row 5: what is put into a queue or a stream, and the worker that takes it out."""

from __future__ import annotations

import asyncio
import contextlib

import anyio
from anyio.lowlevel import checkpoint

from .scenario import ASYNCIO, cases, scenario


async def serve(t, receive, count, *, name="job", root=False):
    """Work on *count* items, each in its own span."""
    for _ in range(count):
        item, span = await t.receive(receive, name, root)
        with span:
            t.mark(f"step {item}")


@scenario(
    row=5,
    title="an item of a memory stream is a child of its sender's span",
    expect="""
    request
      job
        step 1
    """,
)
async def stream_child(t):
    send, receive = t.aio.create_memory_object_stream(1)
    with send, receive:
        with t.span("request"):
            await send.send(1)
        await serve(t, receive, 1)


@scenario(
    row=5,
    title="... or a new trace with a link to it",
    expect="""
    request
    job ~ request
      step 1
    """,
)
async def stream_link(t):
    send, receive = t.aio.create_memory_object_stream(1)
    with send, receive:
        with t.span("request"):
            await send.send(1)
        await serve(t, receive, 1, root=True)


@scenario(
    row=5,
    title="a worker that the first request starts works for the second, too",
    expect="""
    first
      job
        step 1
    second
      job
        step 2
    """,
)
async def lazy_worker(t):
    send, receive = t.aio.create_memory_object_stream(2)
    with send, receive:
        async with t.aio.create_task_group() as tasks:
            with t.span("first"):
                tasks.start_soon(serve, t, receive, 2)
                await send.send(1)
            with t.span("second"):
                await send.send(2)


@scenario(
    row=5,
    title="a sender that had to wait for room",
    expect="""
    request
      job
        step 1
      job
        step 2
    """,
)
async def full_stream(t):
    send, receive = t.aio.create_memory_object_stream(0)

    async def produce():
        with send, t.span("request"):
            await send.send(1)
            await send.send(2)

    async with t.aio.create_task_group() as tasks:
        with receive:
            tasks.start_soon(produce)
            await checkpoint()
            await serve(t, receive, 2)


@scenario(
    row=5,
    title="two requests feed one stream, two workers empty it",
    expect="""
    a
      job
        step a
      job
        step a
    b
      job
        step b
      job
        step b
    """,
)
async def many_to_many(t):
    send, receive = t.aio.create_memory_object_stream(4)

    async def request(name):
        with t.span(name):
            for _ in range(2):
                await send.send(name)
                await checkpoint()

    with send, receive:
        async with t.aio.create_task_group() as tasks:
            for name in "ab":
                tasks.start_soon(request, name)
            for _ in range(2):
                tasks.start_soon(serve, t, receive, 2)


@scenario(
    row=5,
    title="an item sent with nothing current, to a worker that has a span open",
    expect="""
    job
      step 1
    worker
    """,
)
async def sent_from_nowhere(t):
    send, receive = t.aio.create_memory_object_stream(1)
    with send, receive:
        await send.send(1)
        with t.span("worker"):
            await serve(t, receive, 1)


@scenario(
    row=5,
    title="plain `receive()` leaves what is current to the worker alone",
    expect="""
    request
    worker
      mine
    """,
)
async def plain_receive(t):
    send, receive = t.aio.create_memory_object_stream(1)
    with send, receive:
        with t.span("request"):
            await send.send(1)
        with t.span("worker"):
            t.check(await receive.receive() == 1, "wraps items")
            t.mark("mine")


@scenario(
    row=5,
    title="labels of the sender are in force while the worker works on its item",
    expect="""
    request
      job
    """,
)
async def labels_travel(t):
    send, receive = t.aio.create_memory_object_stream(1)
    with send, receive:
        with t.span("request"), t.labels(tenant="acme"):
            await send.send(1)
        _, span = await t.receive(receive, "job")
        with span:
            t.check(t.current_labels().get("tenant") == "acme", "no labels")


@scenario(
    row=5,
    title="`asyncio.Queue`, its worker started under the first request",
    expect="""
    first
      job
        step 1
    second
      job
        step 2
    """,
    backends=ASYNCIO,
)
async def asyncio_queue(t):
    queue = t.aio.Queue()
    with t.span("first"):
        worker = asyncio.create_task(serve(t, queue, 2))
        await queue.put(1)
        await asyncio.sleep(0)
    with t.span("second"):
        queue.put_nowait(2)
    await worker


@scenario(
    row=5,
    title="`asyncio.Queue`, full: the sender waits and its span goes along",
    expect="""
    request
      job
        step 1
      job
        step 2
    """,
    backends=ASYNCIO,
)
async def full_asyncio_queue(t):
    queue = t.aio.Queue(1)

    async def produce():
        with t.span("request"):
            await queue.put(1)
            await queue.put(2)

    producer = asyncio.create_task(produce())
    await asyncio.sleep(0)
    await serve(t, queue, 2)
    await producer


@scenario(
    row=5,
    title="`asyncio.Queue`, a batch in one span that links to every sender",
    expect="""
    a
    b
    batch ~ a ~ b
    """,
    backends=ASYNCIO,
)
async def batch(t):
    queue = t.aio.Queue()
    for name in "ab":
        with t.span(name) as span:
            await queue.put(t.context(span))
    with t.span("batch", root=True) as span:
        while not queue.empty():
            t.add_link(span, await queue.get())


@scenario(
    row=5,
    title="`asyncio.Queue`, a worker that is cancelled while it waits loses no item and no sender",
    expect="""
    request
      job
        step 1
    """,
    backends=ASYNCIO,
)
async def cancelled_worker(t):
    queue = t.aio.Queue()
    impatient = asyncio.create_task(serve(t, queue, 1))
    await asyncio.sleep(0)
    impatient.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await impatient
    with t.span("request"):
        await queue.put(1)
    await serve(t, queue, 1)


@scenario(
    row=5,
    title="`queue.Queue`, its thread started under the first request",
    expect="""
    first
      job
        step 1
    second
      job
        step 2
    """,
)
async def thread_queue(t):
    queue = t.threads.Queue()

    def work():
        for _ in range(2):
            item, span = t.take(queue, "job")
            with span:
                t.mark(f"step {item}")

    with t.span("first"):
        worker = t.threads.Thread(target=work)
        worker.start()
        queue.put(1)
    with t.span("second"):
        queue.put(2)
    await anyio.to_thread.run_sync(worker.join)


@scenario(
    row=5,
    title="`queue.Queue` from the event loop to a thread, a new trace with a link",
    expect="""
    request
    job ~ request
      step 1
    """,
)
async def thread_queue_link(t):
    queue = t.threads.Queue()

    def work():
        item, span = t.take(queue, "job", root=True)
        with span:
            t.mark(f"step {item}")

    with t.span("request"):
        queue.put(1)
    await anyio.to_thread.run_sync(work)


@scenario(
    row=5,
    title="an item handed on from stream to stream keeps to whoever sent it last",
    expect="""
    request
      parse
        store
    """,
)
async def pipeline(t):
    raw_send, raw_receive = t.aio.create_memory_object_stream(1)
    done_send, done_receive = t.aio.create_memory_object_stream(1)
    with raw_send, raw_receive, done_send, done_receive:
        with t.span("request"):
            await raw_send.send("x")
        item, span = await t.receive(raw_receive, "parse")
        with span:
            await done_send.send(item)
        _, span = await t.receive(done_receive, "store")
        with span:
            pass


@scenario(
    row=5,
    title="a plain trio channel or asyncio.Queue, its worker started under the first request",
    expect="""
    first
      job
    second
      job
    """,
    actual="""
    first
      job
      job
    second
    """,
    instead="`aio.create_memory_object_stream()` or `aio.Queue`",
)
async def plain_channel(t):
    send, receive = anyio.create_memory_object_stream(2)

    async def work():
        async for _ in receive:
            t.mark("job")

    async with anyio.create_task_group() as tasks:
        with t.span("first"):
            tasks.start_soon(work)
            await send.send(1)
        with t.span("second"):
            await send.send(2)
        send.close()
    receive.close()


test_queues = cases(globals())
