"""The same promises on trio: nurseries and threads. Run: python examples/nursery.py"""

import trio

import tracekit
from tracekit.testing import MemoryExporter, span_tree


@tracekit.traced
def seal(box):
    return hash(box)


@tracekit.traced
async def pick(item):
    await trio.to_thread.run_sync(seal, item)


async def main():
    with trio.move_on_after(0.05):
        with tracekit.span("order"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pick, "lantern")
                await trio.sleep_forever()  # cancelled, which is not an error


exporter = MemoryExporter()
tracekit.configure(service="warehouse", exporter=exporter)
trio.run(main)
print(span_tree(exporter.spans))
