"""What a format says beyond ids comes out as it came in, whatever the work went through in between."""

from __future__ import annotations

import copy
import pickle

import anyio
import pytest

import tracekit
from tracekit import aio, processes, threads
from tracekit._core.context import ids_of, make_context
from tracekit._propagation import formats
from tracekit.cli.header.report import _FORMATS
from tracekit.wire import b3, jaeger

from .wire.vector_files import DIRECTORY, load

# Without the format of responses.
FORMATS = {format.name: format for format in _FORMATS.values() if format.name != "server-timing"}
CANONICAL = {
    name: [
        case
        for file in sorted(DIRECTORY.glob("*.json"))
        for case in load(file.stem)
        if case.format == name and case.canonical and (FORMATS[name].read(case.carrier).is_valid or name == "baggage")
    ]
    for name in FORMATS
}


def far_end():
    """The end of the work, wherever that is: the headers of a request from there."""
    return tracekit.inject({})


async def in_a_task():
    found = []

    async def task():
        found.append(far_end())

    async with aio.create_task_group() as tasks:
        tasks.start_soon(task)
    return found[0]


async def through_a_stream():
    send, receive = aio.create_memory_object_stream(1)
    async with send, receive:
        await send.send(None)
        with tracekit.use_context(None), (await receive.receive_delivery()).span("work"):
            return far_end()


async def at_once(function):
    return function()


def in_a_pool():
    with threads.ThreadPoolExecutor(1) as pool:
        return pool.submit(far_end).result()


def wrapped():
    work = tracekit.wrap(far_end)
    with tracekit.use_context(None):
        return work()


def through_a_pickle():
    context = pickle.loads(pickle.dumps(tracekit.current_context()))
    with tracekit.use_context(context):
        return far_end()


HAND_OFFS = {
    "a child span": lambda: at_once(far_end),
    "a pickle": lambda: at_once(through_a_pickle),
    "wrap()": lambda: at_once(wrapped),
    "a pool of threads": lambda: at_once(in_a_pool),
    "a task": in_a_task,
    "a thread": lambda: aio.to_thread.run_sync(far_end),
    "a stream": through_a_stream,
    "a process": lambda: aio.to_process.run_sync(far_end),
}


def put_back(context, id):
    """*context* under other ids: those that the request came with."""
    deferred = 0x100 if context.deferred else 0
    return make_context(
        id, context.flags | deferred, str(context.state), context.labels or None, True, dict(context.extra) or None
    )


@pytest.mark.parametrize("hand_off", HAND_OFFS)
def test_a_canonical_header_comes_out_as_it_came_in(hand_off):
    async def main():
        checked = 0
        for name, format in FORMATS.items():
            tracekit.configure(formats=[format])
            for case in CANONICAL[name]:
                came = tracekit.extract(case.carrier)
                with tracekit.span("serve", parent=came), tracekit.span("call") as span:
                    sent = await HAND_OFFS[hand_off]()
                context = format.read(sent)
                assert ids_of(context)[0] == ids_of(came)[0], case.name
                # A delivery has a span of its own; a header of labels has none.
                assert hand_off == "a stream" or context.span_id == (
                    span.context.span_id if came.is_valid else "0" * 16
                )
                again = {}
                format.write(put_back(context, came.id), again)
                assert again == case.carrier, case.name
                checked += 1
        return checked

    assert anyio.run(main) > 150
    assert all(CANONICAL.values())


def in_pools(start_method):
    import multiprocessing

    with processes.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(start_method)) as pool:
        return [pool.submit(far_end).result(), *pool.map(far_end_of, [0])]


def far_end_of(_):
    return far_end()


@pytest.mark.parametrize("is_recording", [False, True])
def test_a_worker_process_sends_the_formats_of_its_parent(exporter, is_recording):
    tracekit.configure(formats=[b3.SINGLE, jaeger.JAEGER], exporter=exporter if is_recording else None)
    debug = {"b3": "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-d"}
    with tracekit.span("serve", parent=tracekit.extract(debug)):
        for headers in in_pools("spawn"):
            assert headers.keys() == {"b3", "uber-trace-id"}
            assert headers["b3"].endswith("-d")


class OwnFormat:
    """A format of the program's own that no other process has."""

    name = "own"
    fields = ("x-own",)

    def __init__(self):
        self.made_here = lambda: None

    def read(self, carrier): ...

    def write(self, context, carrier):
        carrier["x-own"] = context.trace_id


def test_a_format_that_cannot_be_pickled_costs_no_job():
    tracekit.configure(formats=[OwnFormat()])
    with tracekit.span("serve") as span:
        assert far_end().keys() == {"x-own"}
        for headers in in_pools("spawn"):
            assert headers["traceparent"].split("-")[1] == span.context.trace_id


@pytest.mark.parametrize("format", FORMATS.values(), ids=list(FORMATS))
def test_a_format_is_one_object_however_it_is_copied(format):
    tracekit.configure(formats=[format])
    (used,) = formats()
    assert pickle.loads(pickle.dumps(used)) is used
    assert copy.deepcopy(used) is used
