"""Tasks, threads and generators keep the span that was current where they were started. Run: python examples/tasks.py"""

import asyncio

import tracekit
from tracekit.testing import MemoryExporter, span_tree


@tracekit.traced
async def reserve(item):
    await asyncio.to_thread(look_up, item)  # a thread: still a child of reserve


@tracekit.traced
def look_up(item):
    return len(item)


@tracekit.traced
async def receipt(items):
    for item in items:
        with tracekit.span("line", attributes={"item": item}):
            text = f"1 x {item}"
        yield text  # the consumer never sees the generator's span


async def audit(is_over):
    await is_over.wait()  # the checkout has ended
    with tracekit.span("audit"):
        pass


async def checkout():
    is_over = asyncio.Event()
    with tracekit.span("checkout"):
        late = asyncio.create_task(audit(is_over))
        async with asyncio.TaskGroup() as group:
            for item in ("lantern", "rope"):
                group.create_task(reserve(item))
        async for _ in receipt(["lantern", "rope"]):
            with tracekit.span("send"):
                pass
    assert tracekit.current_span() is None
    is_over.set()
    await late  # it kept its trace


exporter = MemoryExporter()
tracekit.configure(service="shop", exporter=exporter)
asyncio.run(checkout())
print(span_tree(exporter.spans))
