"""gRPC: real servers and channels over loopback, synchronous and asynchronous, in all four kinds of call."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import gc
import logging
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc.aio
import pytest

import tracekit
from tracekit import _configure
from tracekit.bridges import opentelemetry as bridge
from tracekit.integrations import _client, _grpc
from tracekit.integrations import grpc as tracing
from tracekit.integrations._peers import PROPAGATE_TO
from tracekit.testing import span_tree
from tracekit.wire.grpc_bin import encode_binary

from ..tools.pipeline import until

KINDS = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]
REMOTE = tracekit.SpanContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", 1)


@pytest.fixture
def traced():
    tracing.instrument()
    yield
    tracing.uninstrument()


def handlers(**behaviors):
    made = {}
    for name, behavior in behaviors.items():
        kind = next(kind for kind in KINDS if name.startswith(kind))
        made[name] = getattr(grpc, f"{kind}_rpc_method_handler")(behavior)
    return grpc.method_handlers_generic_handler("shop.Shop", made)


@contextlib.contextmanager
def serving(options=None, **behaviors):
    pool = ThreadPoolExecutor(4)
    server = grpc.server(pool, **(options or {}))
    server.add_generic_rpc_handlers((handlers(**behaviors),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
        pool.shutdown()  # the server does not wait for the handlers of calls that it cancels


@contextlib.asynccontextmanager
async def aio_serving(options=None, **behaviors):
    server = grpc.aio.server(**(options or {}))
    server.add_generic_rpc_handlers((handlers(**behaviors),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def stub(channel, name="unary_unary"):
    kind = next(kind for kind in KINDS if name.startswith(kind))
    return getattr(channel, kind)(f"/shop.Shop/{name}")


def call(address, request=b"1", name="unary_unary", **options):
    with grpc.insecure_channel(address) as channel:
        return stub(channel, name)(request, **options)


def only(exporter, kind, name="unary_unary"):
    (found,) = [one for one in exporter.spans if one.kind == kind and one.name == f"shop.Shop/{name}"]
    return found


# ---- the four kinds


def unary_unary(request, context):
    with tracekit.span("work"):
        return request


def unary_stream(request, context):
    for number in range(2):
        with tracekit.span(f"item {number}"):
            yield request


def stream_unary(requests, context):
    with tracekit.span("work"):
        return b"".join(requests)


def stream_stream(requests, context):
    with tracekit.span("whole"):
        for request in requests:
            with tracekit.span("item"):
                yield request


async def aio_unary_unary(request, context):
    with tracekit.span("work"):
        return request


async def aio_unary_stream(request, context):
    for number in range(2):
        with tracekit.span(f"item {number}"):
            yield request


async def aio_stream_unary(requests, context):
    with tracekit.span("work"):
        return b"".join([request async for request in requests])


async def aio_stream_stream(requests, context):
    with tracekit.span("whole"):
        async for request in requests:
            with tracekit.span("item"):
                yield request


SYNC = {"unary_unary": unary_unary, "unary_stream": unary_stream, "stream_unary": stream_unary}
SYNC["stream_stream"] = stream_stream
AIO = {kind: globals()[f"aio_{kind}"] for kind in KINDS}
TREE = """\
root
  shop.Shop/unary_unary
    shop.Shop/unary_unary
      work
  shop.Shop/unary_stream
    shop.Shop/unary_stream
      item 0
      item 1
  shop.Shop/stream_unary
    shop.Shop/stream_unary
      work
  shop.Shop/stream_stream
    shop.Shop/stream_stream
      whole
        item
        item"""


def check_counts(exporter):
    found = {
        (one.kind, one.name[10:]): (
            one.attributes.get("rpc.requests_per_rpc"),
            one.attributes.get("rpc.responses_per_rpc"),
        )
        for one in exporter.spans
        if one.kind != "internal"
    }
    assert found == {
        ("client", "unary_unary"): (None, None),
        ("server", "unary_unary"): (None, None),
        ("client", "unary_stream"): (None, None),
        ("server", "unary_stream"): (None, 2),
        ("client", "stream_unary"): (2, None),
        ("server", "stream_unary"): (2, None),
        ("client", "stream_stream"): (2, None),
        ("server", "stream_stream"): (2, 2),
    }


def test_synchronous_calls_of_all_kinds(exporter, traced):
    with serving(**SYNC) as address, grpc.insecure_channel(address) as channel, tracekit.span("root"):
        assert stub(channel)(b"1") == b"1"
        assert list(stub(channel, "unary_stream")(b"1")) == [b"1", b"1"]
        assert stub(channel, "stream_unary")(iter([b"1", b"2"])) == b"12"
        assert list(stub(channel, "stream_stream")(iter([b"1", b"2"]))) == [b"1", b"2"]
    assert span_tree(exporter.spans) == TREE
    check_counts(exporter)


def test_the_first_argument_has_grpcs_name(exporter, traced):
    with serving(**SYNC) as address, grpc.insecure_channel(address) as channel:
        call = stub(channel, "stream_unary")
        assert call(request_iterator=iter([b"1"])) == b"1"
        assert call.with_call(request_iterator=iter([b"1"]))[0] == b"1"
        assert call.future(request_iterator=iter([b"1"])).result() == b"1"
        assert list(stub(channel, "stream_stream")(request_iterator=iter([b"1"]))) == [b"1"]


@pytest.mark.parametrize("behaviors", [AIO, SYNC], ids=["coroutines", "in threads"])
def test_asynchronous_calls_of_all_kinds(exporter, traced, behaviors):
    async def main():
        async def requests():
            yield b"1"
            yield b"2"

        async with aio_serving(**behaviors) as address, grpc.aio.insecure_channel(address) as channel:
            with tracekit.span("root"):
                assert await stub(channel)(b"1") == b"1"
                assert [one async for one in stub(channel, "unary_stream")(b"1")] == [b"1", b"1"]
                assert await stub(channel, "stream_unary")(requests()) == b"12"
                echo = stub(channel, "stream_stream")([b"1", b"2"])
                assert [one async for one in echo] == [b"1", b"2"]

    asyncio.run(main())
    assert span_tree(exporter.spans) == TREE
    check_counts(exporter)


def test_handlers_that_read_and_write_through_their_context(exporter, traced):
    async def handler(request, context):
        await context.read()
        await context.write(b"2")
        with tracekit.span("work"):
            await context.write(b"3")

    async def main():
        async with aio_serving(stream_stream=handler) as address, grpc.aio.insecure_channel(address) as channel:
            echo = stub(channel, "stream_stream")()
            await echo.write(b"1")
            assert [await echo.read(), await echo.read(), await echo.read()] == [b"2", b"3", grpc.aio.EOF]

    asyncio.run(main())
    assert span_tree(exporter.spans) == "shop.Shop/stream_stream\n  shop.Shop/stream_stream\n    work"


def test_requests_that_are_taken_one_by_one(exporter, traced):
    async def handler(requests, context):
        return await anext(requests) + await anext(requests)

    async def main():
        async with aio_serving(stream_unary=handler) as address, grpc.aio.insecure_channel(address) as channel:
            assert await stub(channel, "stream_unary")([b"1", b"2", b"3"]) == b"12"

    asyncio.run(main())
    assert only(exporter, "server", "stream_unary").attributes["rpc.requests_per_rpc"] == 2


@pytest.mark.parametrize("is_traced", [False, True])
def test_responses_that_are_no_iterator_are_rejected_as_before(exporter, is_traced):
    if is_traced:
        tracing.instrument()
    try:
        with (
            serving(unary_stream=lambda *_: [b"1"]) as address,
            grpc.insecure_channel(address) as channel,
            pytest.raises(grpc.RpcError, match="not an iterator"),
        ):
            list(stub(channel, "unary_stream")(b"1"))
    finally:
        tracing.uninstrument()


def test_errors_without_a_status(exporter):
    class Channel(grpc.Channel):
        def unary_unary(self, *_, **__):
            def call(*_, **__):
                raise grpc.RpcError("no status")

            return call

        subscribe = unsubscribe = unary_stream = stream_unary = stream_stream = close = None

        def __enter__(self): ...
        def __exit__(self, *_): ...

    channel = Channel()
    tracing.instrument(channel)
    with pytest.raises(grpc.RpcError, match="no status"):
        stub(channel)(b"1")
    failed = only(exporter, "client")
    assert (failed.status.code, failed.attributes["error.type"]) == ("error", "grpc.RpcError")


def test_a_sampler_cannot_change_later_spans(exporter, untraced_server):
    class Sampler:
        def sample(self, chance, name, kind, attributes):
            attributes["changed"] = attributes.get("changed", 0) + 1
            return True, ""

        description = "changes its arguments"

    tracekit.configure(exporter=exporter, sampler=Sampler())
    with grpc.insecure_channel(untraced_server) as channel:
        tracing.instrument(channel)
        for _ in range(2):
            stub(channel)(b"1")
    assert {one.attributes.get("changed", 1) for one in exporter.spans} == {1}


def test_the_call_objects_are_those_of_the_library(exporter):
    def types():
        with serving(**SYNC) as address, grpc.insecure_channel(address) as channel:
            response, call = stub(channel).with_call(b"1")
            future, stream = stub(channel).future(b"1"), stub(channel, "unary_stream")(b"1")
            assert (response, future.result(), list(stream)) == (b"1", b"1", [b"1", b"1"])
            return type(call), type(future), type(stream), call.code(), future.code(), stream.code()

    bare = types()
    tracing.instrument()
    try:
        assert types() == bare
    finally:
        tracing.uninstrument()


def test_attributes(exporter, traced):
    with serving(**SYNC) as address:
        call(address)
    client, server = only(exporter, "client"), only(exporter, "server")
    port = client.attributes["server.port"]
    assert client.attributes == {
        "rpc.system": "grpc",
        "rpc.service": "shop.Shop",
        "rpc.method": "unary_unary",
        "rpc.grpc.status_code": 0,
        "server.address": "127.0.0.1",
        "server.port": port,
    }
    assert address == f"127.0.0.1:{port}"
    peer_port = server.attributes["network.peer.port"]
    assert server.attributes == {
        "rpc.system": "grpc",
        "rpc.service": "shop.Shop",
        "rpc.method": "unary_unary",
        "rpc.grpc.status_code": 0,
        "client.address": "127.0.0.1",
        "network.peer.address": "127.0.0.1",
        "network.peer.port": peer_port,
    }
    assert 0 < peer_port < 65536


# ---- outcomes


def aborting(code):
    def handler(request, context):
        context.abort(code, "the reason")

    async def coroutine(request, context):
        await context.abort(code, "the reason")

    return handler, coroutine


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("code", "client", "server"),
    [
        ("INVALID_ARGUMENT", "error", "unset"),
        ("NOT_FOUND", "error", "unset"),
        ("UNAUTHENTICATED", "error", "unset"),
        ("CANCELLED", "cancelled", "cancelled"),
        ("UNKNOWN", "error", "error"),
        ("DEADLINE_EXCEEDED", "error", "error"),
        ("UNIMPLEMENTED", "error", "error"),
        ("INTERNAL", "error", "error"),
        ("UNAVAILABLE", "error", "error"),
        ("DATA_LOSS", "error", "error"),
    ],
)
def test_status_codes(exporter, traced, is_async, code, client, server):
    status = grpc.StatusCode[code]
    handler, coroutine = aborting(status)

    async def main():
        async with aio_serving(unary_unary=coroutine) as address, grpc.aio.insecure_channel(address) as channel:
            await stub(channel)(b"1")

    def run():
        with serving(unary_unary=handler) as address:
            call(address)

    with pytest.raises(grpc.RpcError) as raised:
        asyncio.run(main()) if is_async else run()
    assert raised.value.code() is status
    found = only(exporter, "client"), only(exporter, "server")
    assert [one.status.code for one in found] == [client, server]
    assert [one.attributes["rpc.grpc.status_code"] for one in found] == [status.value[0]] * 2
    assert [one.attributes.get("error.type") for one in found] == [
        code if outcome == "error" else None for outcome in (client, server)
    ]
    assert [one.events for one in found] == [(), ()]
    assert found[0].status.description == "the reason"


@pytest.mark.parametrize("is_async", [False, True])
def test_a_call_that_sampling_drops_is_described_for_the_debug_pages(exporter, traced, is_async):
    async def coroutine(request, context):
        return request

    async def main():
        async with aio_serving(unary_unary=coroutine) as address, grpc.aio.insecure_channel(address) as channel:
            await stub(channel)(b"1")

    def run():
        with serving(unary_unary=lambda request, context: request) as address:
            call(address)

    taken = []
    take = taken.extend
    _configure.add_tap(take, records_all=True)
    try:
        with tracekit.use_context(tracekit.SpanContext("1" * 32, "2" * 16, 0)):
            asyncio.run(main()) if is_async else run()
        tracekit.flush(60)
    finally:
        _configure.remove_tap(take)
    assert sorted(one.kind for one in taken) == ["client", "server"]
    for one in taken:
        assert one.attributes["rpc.service"] == "shop.Shop"
        assert one.attributes["rpc.grpc.status_code"] == 0
    assert exporter.spans == []


def test_a_call_that_is_cancelled_while_it_aborts_has_the_status_that_was_sent(exporter, traced):
    async def aborts(request, context):
        asyncio.current_task().cancel()  # as server.stop() does; raised where abort() waits
        await context.abort(grpc.StatusCode.INTERNAL, "the reason")

    async def main():
        async with aio_serving(unary_unary=aborts) as address, grpc.aio.insecure_channel(address) as channel:
            await stub(channel)(b"1")

    with pytest.raises(grpc.RpcError) as raised:
        asyncio.run(main())
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    served = only(exporter, "server")
    assert (served.status.code, served.attributes["rpc.grpc.status_code"]) == ("error", 13)
    assert served.status.description == "the reason"


def test_a_status_that_was_set_but_not_sent_does_not_hide_a_cancellation(exporter, traced):
    async def main():
        gone = asyncio.Event()

        async def waits(request, context):
            context.set_code(grpc.StatusCode.INTERNAL)
            asyncio.current_task().cancel()
            try:
                await asyncio.sleep(60)
            finally:
                gone.set()

        async with aio_serving(unary_unary=waits) as address, grpc.aio.insecure_channel(address) as channel:
            made = stub(channel)(b"1")
            await gone.wait()
            made.cancel()
            with pytest.raises(asyncio.CancelledError):
                await made

    asyncio.run(main())
    served = only(exporter, "server")
    assert (served.status.code, served.attributes["rpc.grpc.status_code"]) == ("cancelled", 1)


def raises(request, context):
    raise ValueError("no")


def raises_in_stream(request, context):
    yield b"1"
    raise ValueError("no")


async def aio_raises(request, context):
    raise ValueError("no")


async def aio_raises_in_stream(request, context):
    yield b"1"
    raise ValueError("no")


@pytest.mark.parametrize("name", ["unary_unary", "unary_stream"])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_handler_that_raises(exporter, traced, is_async, name):
    behaviors = {"unary_unary": raises, "unary_stream": raises_in_stream}
    aio_behaviors = {"unary_unary": aio_raises, "unary_stream": aio_raises_in_stream}

    async def main():
        async with aio_serving(**aio_behaviors) as address, grpc.aio.insecure_channel(address) as channel:
            made = stub(channel, name)(b"1")
            if name == "unary_unary":
                await made
            else:
                assert [one async for one in made] == []

    def run():
        with serving(**behaviors) as address, grpc.insecure_channel(address) as channel:
            list(stub(channel, name)(b"1"))

    with pytest.raises(grpc.RpcError):
        asyncio.run(main()) if is_async else run()
    server, client = only(exporter, "server", name), only(exporter, "client", name)
    assert (server.status.code, server.status.description) == ("error", "ValueError: no")
    assert [event.name for event in server.events] == ["exception"]
    assert (server.attributes["error.type"], server.attributes["rpc.grpc.status_code"]) == ("ValueError", 2)
    assert (client.status.code, client.attributes["error.type"]) == ("error", "UNKNOWN")


def test_an_unknown_method_has_a_client_span_alone(exporter, traced):
    with serving(**SYNC) as address, pytest.raises(grpc.RpcError):
        call(address, name="unary_unary_2")
    (client,) = exporter.spans
    assert (client.kind, client.attributes["error.type"]) == ("client", "UNIMPLEMENTED")


def test_a_server_that_is_not_there(exporter, traced):
    with pytest.raises(grpc.RpcError):
        call("127.0.0.1:1")
    assert only(exporter, "client").attributes["error.type"] == "UNAVAILABLE"


def test_a_deadline(exporter, traced):
    gone = threading.Event()

    def never(request, context):
        context.add_callback(gone.set)
        gone.wait(60)
        until(lambda: not context.time_remaining())  # the client's deadline passes first, and it cancels the call
        return request

    with serving(unary_unary=never) as address, grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(60)  # the server sees the call before the deadline
        with pytest.raises(grpc.RpcError):
            stub(channel)(b"1", timeout=1)
        assert gone.wait(60)
    client, server = only(exporter, "client"), only(exporter, "server")
    assert (client.status.code, client.attributes["error.type"]) == ("error", "DEADLINE_EXCEEDED")
    assert (server.status.code, server.attributes["error.type"]) == ("error", "DEADLINE_EXCEEDED")


def test_a_deadline_in_asyncio(exporter, traced):
    async def main():
        gone = asyncio.Event()

        async def never(request, context):
            try:
                await asyncio.Event().wait()
            finally:
                until(lambda: not context.time_remaining())  # as above
                gone.set()

        async with aio_serving(unary_unary=never) as address, grpc.aio.insecure_channel(address) as channel:
            await channel.channel_ready()
            with pytest.raises(grpc.RpcError):
                await stub(channel)(b"1", timeout=1)
            await asyncio.wait_for(gone.wait(), 60)

    asyncio.run(main())
    client, server = only(exporter, "client"), only(exporter, "server")
    assert (client.status.code, client.attributes["error.type"]) == ("error", "DEADLINE_EXCEEDED")
    assert (server.status.code, server.attributes["error.type"]) == ("error", "DEADLINE_EXCEEDED")


def test_a_future_that_is_cancelled(exporter, traced):
    begun, gone = threading.Event(), threading.Event()

    def never(request, context):
        context.add_callback(gone.set)
        begun.set()
        gone.wait(60)
        return request

    done = threading.Event()
    with serving(unary_unary=never) as address, grpc.insecure_channel(address) as channel:
        future = stub(channel).future(b"1")
        future.add_done_callback(lambda _: done.set())
        assert begun.wait(60)
        future.cancel()
        assert done.wait(60)
        assert gone.wait(60)
    assert [only(exporter, kind).status.code for kind in ("client", "server")] == ["cancelled", "cancelled"]


def test_a_task_that_is_cancelled(exporter, traced):
    async def main():
        begun, gone = asyncio.Event(), asyncio.Event()

        async def never(request, context):
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                gone.set()

        async with aio_serving(unary_unary=never) as address, grpc.aio.insecure_channel(address) as channel:

            async def work():
                return await stub(channel)(b"1")

            task = asyncio.create_task(work())
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(gone.wait(), 60)

    asyncio.run(main())
    assert [only(exporter, kind).status.code for kind in ("client", "server")] == ["cancelled", "cancelled"]


def test_a_stream_that_its_client_leaves_early(exporter, traced):
    gone = threading.Event()

    def endless(request, context):
        context.add_callback(gone.set)
        while True:
            yield request

    with serving(unary_stream=endless) as address, grpc.insecure_channel(address) as channel:
        stream = stub(channel, "unary_stream")(b"1")
        done = threading.Event()
        stream.add_callback(done.set)
        assert next(stream) == b"1"
        stream.cancel()
        assert done.wait(60)
        assert gone.wait(60)
    client, server = only(exporter, "client", "unary_stream"), only(exporter, "server", "unary_stream")
    assert (client.status.code, server.status.code) == ("cancelled", "cancelled")
    assert server.attributes["rpc.responses_per_rpc"] >= 1


def test_an_asynchronous_stream_that_its_client_leaves_early(exporter, traced):
    async def main():
        gone = asyncio.Event()

        async def endless(request, context):
            try:
                while True:
                    yield request
            finally:
                gone.set()

        async with aio_serving(unary_stream=endless) as address, grpc.aio.insecure_channel(address) as channel:
            stream = stub(channel, "unary_stream")(b"1")
            assert await stream.read() == b"1"
            stream.cancel()
            await asyncio.wait_for(gone.wait(), 60)

    asyncio.run(main())
    client, server = only(exporter, "client", "unary_stream"), only(exporter, "server", "unary_stream")
    assert (client.status.code, server.status.code) == ("cancelled", "cancelled")


def test_calls_cancelled_at_each_await(exporter, traced):
    async def attempt(channel, after):
        async def work():
            await stub(channel)(b"1")
            return [one async for one in stub(channel, "unary_stream")(b"1")]

        task = asyncio.ensure_future(work())
        for _ in range(after):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def main():
        async with aio_serving(**AIO) as address, grpc.aio.insecure_channel(address) as channel:
            await asyncio.gather(*[attempt(channel, after) for after in range(60)])
            assert await stub(channel)(b"1") == b"1"

    asyncio.run(main())
    gc.collect()
    assert tracekit.statistics().open == 0
    assert {one.status.code for one in exporter.spans} <= {"unset", "cancelled"}


# ---- metadata


def echo_metadata(request, context):
    return repr([(key, value) for key, value in context.invocation_metadata() if key != "user-agent"]).encode()


@pytest.fixture
def untraced_server():
    with serving(unary_unary=echo_metadata) as address:
        yield address


def test_metadata_of_the_program_is_kept_and_its_trace_replaced(exporter, untraced_server, traced):
    stale = [("traceparent", "00-" + "1" * 32 + "-" + "2" * 16 + "-01"), ("x-id", "7"), ("x-id", "8")]
    received = call(untraced_server, metadata=stale)
    context = only(exporter, "client").context
    traceparent = f"00-{context.trace_id}-{context.span_id}-{context.flags:02x}"
    assert sorted(ast.literal_eval(received.decode())) == [("traceparent", traceparent), ("x-id", "7"), ("x-id", "8")]


def test_metadata_that_grpc_rejects_is_rejected_as_before(exporter, untraced_server, traced):
    for metadata in ([("x-id",)], [("X-ID", "7")], [("x-id", 7)], 7):
        tracing.uninstrument()
        with pytest.raises(Exception) as bare:  # noqa: PT011 - of several classes
            call(untraced_server, metadata=metadata)
        tracing.instrument()
        with pytest.raises(type(bare.value)):
            call(untraced_server, metadata=metadata)


def test_much_metadata(exporter, traced):
    with serving(unary_unary=unary_unary) as address:
        bomb = [("tracestate", "a" * 2000), ("baggage", "b=" + "c" * 2000), *[("x-id", "7")] * 100]
        assert call(address, metadata=bomb) == b"1"
    server = only(exporter, "server")
    assert server.parent.span_id == only(exporter, "client").context.span_id


def test_values_that_grpc_would_reject_are_not_sent(exporter, untraced_server, traced):
    class Format:
        name, fields = "custom", ("x-custom", "x-bad")

        def read(self, carrier):
            return None

        def write(self, context, carrier):
            carrier["X-Custom"] = context.trace_id
            carrier["x-bad"] = "line\nbreak"

    tracekit.configure(exporter=exporter, formats=[Format()])
    assert call(untraced_server).decode() == repr([("x-custom", only(exporter, "client").context.trace_id)])


def test_grpcs_core_keeps_grpc_trace_bin_from_applications(untraced_server):
    octets = encode_binary(REMOTE)
    # When this fails, the server can read it: where the configured formats name no trace.
    assert call(untraced_server, metadata=[("grpc-trace-bin", octets), ("x-bin", b"1")]) == b"[('x-bin', b'1')]"


def test_trust_and_excluded_methods(exporter):
    options = {"routes": {"/shop.Shop/unary_unary": "restart"}, "exclude": ["/shop.Shop/unary_unary_2"]}

    def seen(request, context):
        with tracekit.span("inside"):
            return request

    async def main():
        interceptors = [tracing.aio_server_interceptor(**options)]
        async with aio_serving({"interceptors": interceptors}, unary_unary=aio_unary_unary) as address:
            await asyncio.to_thread(call, address, metadata=metadata)

    metadata = [("traceparent", f"00-{REMOTE.trace_id}-{REMOTE.span_id}-01")]
    with serving(
        {"interceptors": [tracing.server_interceptor(**options)]}, unary_unary=unary_unary, unary_unary_2=seen
    ) as address:
        call(address, metadata=metadata)
        call(address, metadata=metadata, name="unary_unary_2")
    asyncio.run(main())
    servers = [one for one in exporter.spans if one.kind == "server"]
    assert [one.name for one in servers] == ["shop.Shop/unary_unary"] * 2
    for one in servers:
        assert one.parent is None
        assert [link.context.trace_id for link in one.links] == [REMOTE.trace_id]
    assert "inside" not in [one.name for one in exporter.spans]


def test_an_unsampled_trace_is_sent_and_not_recorded(exporter, untraced_server, traced):
    with tracekit.use_context(tracekit.SpanContext(REMOTE.trace_id, REMOTE.span_id, 0)):
        received = call(untraced_server).decode()
    assert f"00-{REMOTE.trace_id}-" in received
    assert "-00'" in received
    assert exporter.spans == []


def test_labels_are_sent_to_own_hosts_only(exporter, monkeypatch):
    monkeypatch.delenv(PROPAGATE_TO, raising=False)

    class Channel:
        def __init__(self, target):
            self._target = target

    with tracekit.use_labels(user="7"):
        for target, is_own in {
            "127.0.0.1:50051": True,
            "dns:///prices.internal:443": True,
            "dns://8.8.8.8/prices.example.com": False,
            "unix:/run/prices": False,
            "": False,
        }.items():
            method = _grpc.Method(_grpc.Client(), Channel(target), "/shop.Shop/Buy")
            _, metadata = method.start(None)
            assert ("baggage" in dict(metadata)) is is_own, target


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("localhost:50051", ("localhost", 50051)),
        ("localhost", ("localhost", None)),
        ("dns:///shop.example:443", ("shop.example", 443)),
        ("dns:shop.example:443", ("shop.example", 443)),
        ("dns://8.8.8.8/shop.example:443", ("shop.example", 443)),
        ("ipv4:10.0.0.1:50,10.0.0.2:51", ("10.0.0.1", 50)),
        ("ipv6:[::1]:50051", ("::1", 50051)),
        ("[::1]:50051", ("::1", 50051)),
        ("unix:/run/shop.sock", ("/run/shop.sock", None)),
        ("unix:///run/shop.sock", ("/run/shop.sock", None)),
        ("xds:///shop", ("shop", None)),
        ("shop:port", ("shop", None)),
        ("", ("", None)),
    ],
)
def test_targets(target, expected):
    assert _grpc._parse_target(target) == expected


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("ipv4:127.0.0.1:50051", ("127.0.0.1", 50051)),
        ("ipv6:%5B::1%5D:50051", ("::1", 50051)),
        ("unix:/run/shop.sock", ("/run/shop.sock", None)),
        ("unix:", ("", None)),
        ("fd:7", ("", None)),
    ],
)
def test_peers(peer, expected):
    assert _grpc._parse_peer(peer) == expected


# ---- instrument()


def test_one_channel(exporter, untraced_server):
    with grpc.insecure_channel(untraced_server) as channel, grpc.insecure_channel(untraced_server) as other:
        tracing.instrument(channel)
        tracing.instrument(channel)
        traced, untraced = stub(channel), stub(other)
        traced(b"1")
        untraced(b"1")
        tracing.uninstrument(channel)
        traced(b"1")
        stub(channel)(b"1")
        tracing.uninstrument(channel)
    assert [one.kind for one in exporter.spans] == ["client"]


def test_a_channel_is_traced_once(exporter, untraced_server, traced):
    with grpc.insecure_channel(untraced_server) as channel:
        tracekit.instrument(channel)
        stub(channel)(b"1")
        tracekit.uninstrument(channel)
        stub(channel)(b"1")
    assert len(exporter.spans) == 2


def test_one_asynchronous_channel(exporter, untraced_server):
    async def main():
        async with grpc.aio.insecure_channel(untraced_server) as channel:
            tracing.instrument(channel)
            await stub(channel)(b"1")
            tracing.uninstrument(channel)
            await stub(channel)(b"1")

    asyncio.run(main())
    assert [one.kind for one in exporter.spans] == ["client"]


def test_uninstrument_restores_everything_and_stops_what_was_made(exporter):
    names = [(owner, name) for owner in (grpc._channel.Channel, grpc.aio._channel.Channel) for name in KINDS]
    names += [(grpc._server._Server, "__init__"), (grpc.aio._server.Server, "__init__")]
    before = [getattr(*name) for name in names]
    tracing.instrument()
    tracing.instrument()
    assert all(getattr(*name) is not old for name, old in zip(names, before, strict=True))
    with serving(**SYNC) as address, grpc.insecure_channel(address) as channel:
        made = stub(channel)
        tracing.uninstrument()
        made(b"1")
    assert [getattr(*name) for name in names] == before
    assert [one.name for one in exporter.spans] == ["work"]


def test_wrong_targets_and_options():
    for wrong in (7, "grpc", grpc.server(ThreadPoolExecutor(1))):
        with pytest.raises(TypeError):
            tracing.instrument(wrong)
    with pytest.raises(TypeError):
        tracing.instrument(nonsense=1)
    with pytest.raises(TypeError):
        tracing.instrument(propagate_to="shop.example")
    with pytest.raises(ValueError, match="trust"):
        tracing.server_interceptor(trust="never")


def test_interceptors_of_the_program_stay_and_each_attempt_has_a_span(exporter, traced):
    seen = []

    class Retry(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation, details, request):
            continuation(details, request)
            return continuation(details, request)

    class Watch(grpc.ServerInterceptor):
        def intercept_service(self, continuation, details):
            seen.append(details.method)
            return continuation(details)

    options = {"interceptors": [Watch()]}
    with serving(options, **SYNC) as address, grpc.insecure_channel(address) as channel, tracekit.span("root"):
        assert stub(grpc.intercept_channel(channel, Retry()))(b"1") == b"1"
    assert seen == ["/shop.Shop/unary_unary"] * 2
    calls = ["  shop.Shop/unary_unary", "    shop.Shop/unary_unary", "      work"] * 2
    assert span_tree(exporter.spans).splitlines() == ["root", *calls]


def older_metadata(metadata=None, compression=None):
    """Do as grpcio 1.60."""
    metadata = metadata or grpc.aio.Metadata()
    return grpc.aio.Metadata.from_tuple(metadata) if isinstance(metadata, tuple) else metadata


@pytest.mark.parametrize("is_older", [False, True])
@pytest.mark.parametrize("given", [None, (("tenant", "acme"),), grpc.aio.Metadata(("tenant", "acme"))])
def test_interceptors_of_an_asynchronous_channel_get_metadata_and_their_attempts_are_one_span(
    exporter, traced, monkeypatch, given, is_older
):
    seen = []

    class Retry(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation, details, request):
            details.metadata.add("attempts", "2")
            seen.append(dict(details.metadata))
            await (await continuation(details, request))
            return await continuation(details, request)

    if is_older:
        monkeypatch.setattr(grpc.aio._channel._BaseMultiCallable, "_init_metadata", staticmethod(older_metadata))

    async def main():
        options = {"interceptors": [Retry()]}
        async with aio_serving(**AIO) as address, grpc.aio.insecure_channel(address, **options) as channel:
            assert await stub(channel)(b"1", metadata=given) == b"1"

    asyncio.run(main())
    calls = ["  shop.Shop/unary_unary", "    work"] * 2
    assert span_tree(exporter.spans).splitlines() == ["shop.Shop/unary_unary", *calls]
    assert seen[0].keys() == {"traceparent", "attempts"} | dict(given or ()).keys()


@pytest.mark.parametrize("is_late", [False, True])
def test_an_exception_of_an_asynchronous_channels_interceptor_is_the_end_of_the_call(exporter, traced, is_late):
    class Broken(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation, details, request):
            if is_late:
                await (await continuation(details, request))
            raise LookupError("no token")

    async def main():
        options = {"interceptors": [Broken()]}
        async with aio_serving(**AIO) as address, grpc.aio.insecure_channel(address, **options) as channel:
            with pytest.raises(LookupError, match="no token"):
                await stub(channel)(b"1")

    asyncio.run(main())
    client = only(exporter, "client")
    assert (client.status.code, client.attributes["error.type"]) == ("error", "LookupError")
    assert [event.name for event in client.events] == ["exception"]


WAYS = ["at its making", "generic", "registered"]


def given(way, behavior):
    """Return the arguments that make a server with a handler, and a function that adds the handler to it."""
    registered = {"unary_unary": grpc.unary_unary_rpc_method_handler(behavior)}
    return {
        "at its making": ({"handlers": (handlers(unary_unary=behavior),)}, lambda _: None),
        "generic": ({}, lambda server: server.add_generic_rpc_handlers((handlers(unary_unary=behavior),))),
        "registered": ({}, lambda server: server.add_registered_method_handlers("shop.Shop", registered)),
    }[way]


@pytest.mark.parametrize("way", WAYS)
def test_a_server_traces_the_handlers_that_it_gets_in_any_way_until_it_is_not(exporter, way):
    pool = ThreadPoolExecutor(1)
    tracing.instrument()
    options, add = given(way, unary_unary)
    server = grpc.server(pool, **options)
    add(server)
    tracing.uninstrument()
    tracing.instrument()  # another one: this server's ended
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    tracing.uninstrument()
    assert call(f"127.0.0.1:{port}") == b"1"
    server.stop(None).wait()
    assert [one.name for one in exporter.spans] == ["work"]

    tracing.instrument()
    options, add = given(way, unary_unary)
    server = grpc.server(pool, **options)
    add(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    assert call(f"127.0.0.1:{port}") == b"1"
    server.stop(None).wait()
    tracing.uninstrument()
    pool.shutdown()
    names = "shop.Shop/unary_unary\n  shop.Shop/unary_unary\n    work"
    assert span_tree(exporter.spans[1:]) == names


@pytest.mark.parametrize("way", WAYS)
def test_an_asynchronous_server_traces_the_handlers_that_it_gets_in_any_way(exporter, traced, way):
    async def main():
        options, add = given(way, aio_unary_unary)
        server = grpc.aio.server(**options)
        add(server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert await stub(channel)(b"1") == b"1"
            with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):
                await stub(channel, "unary_unary_2")(b"1")
        await server.stop(None)

    asyncio.run(main())
    assert [one.name for one in exporter.spans if one.kind == "server"] == ["shop.Shop/unary_unary"]


class Wrapped:
    """A server as other packages replace it."""

    __slots__ = ("inner",)

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)


@pytest.mark.parametrize("interceptors", [(), (tracing.server_interceptor(),)])
@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_another_package_makes_and_wraps(exporter, monkeypatch, way, interceptors):
    original = grpc.server
    monkeypatch.setattr(grpc, "server", lambda *args, **kwargs: Wrapped(original(*args, **kwargs)))
    tracing.instrument()
    options, add = given(way, unary_unary)
    try:
        with ThreadPoolExecutor(1) as pool:
            server = grpc.server(pool, interceptors=(one for one in interceptors), **options)
            add(server)
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            assert call(f"127.0.0.1:{port}") == b"1"
            server.stop(None).wait()
    finally:
        tracing.uninstrument()
    assert [one.name for one in exporter.spans if one.kind == "server"] == ["shop.Shop/unary_unary"]


def test_invalid_arguments_of_servers_are_errors_of_grpc(exporter, traced):
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(AttributeError, match="must conform to"):
            grpc.server(pool).add_generic_rpc_handlers([object()])
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            grpc.server(pool, handler=())


def test_a_server_that_the_program_drops_is_deallocated(exporter, traced):
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((handlers(unary_unary=unary_unary),))
        watched = weakref.ref(server)
        del server
        assert watched() is None  # without the garbage collector: gRPC ends the server's thread then


def test_opentelemetrys_suppression_is_honored(exporter, untraced_server, traced):
    from opentelemetry import context

    bridge.install()
    try:
        token = context.attach(context.set_value("suppress_instrumentation", True))
        try:
            assert call(untraced_server) == b"[]"
        finally:
            context.detach(token)
    finally:
        bridge.uninstall()
    assert exporter.spans == []


def test_what_tracing_raises_does_not_reach_the_program(exporter, traced, monkeypatch, caplog):
    def broken(*_, **__):
        raise RuntimeError("ours")

    with serving(**SYNC) as address:
        monkeypatch.setattr(_client, "inject", broken)
        monkeypatch.setattr(_grpc, "_described_often", broken)
        with caplog.at_level(logging.WARNING, "tracekit"):
            assert call(address) == b"1"
            assert call(address, iter([b"1"]), "stream_unary") == b"1"


# ---- the roadmap's example: HTTP in, gRPC out, HTTP out


def test_one_trace_from_http_through_grpc_to_http_in_threads(exporter, traced):
    import urllib.request
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    from tracekit.integrations import http_server

    class Front(BaseHTTPRequestHandler):
        def do_GET(self):
            answer = call(address) if self.path == "/front" else b"back"
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    def handler(request, context):
        headers = tracekit.inject({})
        with urllib.request.urlopen(urllib.request.Request(f"{url}/back", headers=headers)) as response:
            return response.read()

    http_server.instrument()
    try:
        with serving(unary_unary=handler) as address, ThreadingHTTPServer(("127.0.0.1", 0), Front) as httpd:
            url = f"http://127.0.0.1:{httpd.server_port}"
            thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            with urllib.request.urlopen(f"{url}/front") as response:
                assert response.read() == b"back"
            httpd.shutdown()
            thread.join()
    finally:
        http_server.uninstrument()
    assert span_tree(exporter.spans) == "GET\n  shop.Shop/unary_unary\n    shop.Shop/unary_unary\n      GET"


def test_one_trace_from_http_through_grpc_to_http_on_asyncio(exporter, traced):
    import httpx

    from tracekit.integrations.asgi import TraceMiddleware
    from tracekit.integrations.httpx import AsyncTraceTransport

    async def main():
        async def back(scope, receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"back"})

        async def handler(request, context):
            transport = AsyncTraceTransport(httpx.ASGITransport(TraceMiddleware(back)))
            async with httpx.AsyncClient(transport=transport) as client:
                return (await client.get("http://back/")).content

        async with aio_serving(unary_unary=handler) as address, grpc.aio.insecure_channel(address) as channel:

            async def front(scope, receive, send):
                answer = await stub(channel)(b"1")
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": answer})

            transport = AsyncTraceTransport(httpx.ASGITransport(TraceMiddleware(front)))
            async with httpx.AsyncClient(transport=transport) as client:
                assert (await client.get("http://front/")).content == b"back"

    asyncio.run(main())
    calls = "GET\n  GET\n    shop.Shop/unary_unary\n      shop.Shop/unary_unary\n        GET\n          GET"
    assert span_tree(exporter.spans) == calls
