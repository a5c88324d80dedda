"""Memory object streams: in all but what items carry they are anyio's, and what items carry is their sender's context."""

from __future__ import annotations

import gc
import math
import weakref

import anyio
import anyio.abc
import pytest
from anyio.streams.stapled import StapledObjectStream

import tracekit
from tracekit.aio import create_memory_object_stream
from tracekit.testing import MemoryExporter, span_tree

from ..tools.current import here

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_is_logged")]


@pytest.fixture(params=[anyio.create_memory_object_stream, create_memory_object_stream], ids=["anyio", "tracekit"])
def create(request):
    """Both functions, for what must be the same of both."""
    return request.param


# ---- as anyio's


async def test_items_come_in_order_with_and_without_waiting(create):
    send, receive = create(2)
    with send, receive:
        send.send_nowait(1)
        await send.send(2)
        with pytest.raises(anyio.WouldBlock):
            send.send_nowait(3)
        assert (await receive.receive(), receive.receive_nowait()) == (1, 2)
        with pytest.raises(anyio.WouldBlock):
            receive.receive_nowait()


async def test_without_a_buffer_the_two_ends_meet(create):
    send, receive = create()
    async with anyio.create_task_group() as group, send, receive:
        group.start_soon(send.send, "waited for")
        assert await receive.receive() == "waited for"
        group.start_soon(send.send, "taken")
        await anyio.wait_all_tasks_blocked()
        assert receive.receive_nowait() == "taken"


async def test_iteration_ends_with_the_last_open_sender(create):
    send, receive = create(math.inf)
    other = send.clone()
    async with receive:
        async with send, other:
            for number in range(3):
                await (send, other)[number % 2].send(number)
        assert [item async for item in receive] == [0, 1, 2]
        with pytest.raises(anyio.EndOfStream):
            await receive.receive()
        with pytest.raises(anyio.EndOfStream):
            receive.receive_nowait()


async def test_closing_while_others_wait_wakes_them_with_the_right_error(create):
    errors = {}

    async def wait(name, function, *args):
        try:
            await function(*args)
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
            errors[name] = type(error)

    send, receive = create()
    async with anyio.create_task_group() as group:
        group.start_soon(wait, "sender's other end closes", receive.receive)
        await anyio.wait_all_tasks_blocked()
        send.close()
    receive.close()
    send, receive = create()
    async with anyio.create_task_group() as group:
        group.start_soon(wait, "receiver's other end closes", send.send, "item")
        await anyio.wait_all_tasks_blocked()
        await receive.aclose()
    await send.aclose()
    assert errors == {
        "sender's other end closes": anyio.EndOfStream,
        "receiver's other end closes": anyio.BrokenResourceError,
    }


async def test_closed_ends_say_so(create):
    send, receive = create(1)
    receive.close()
    with pytest.raises(anyio.BrokenResourceError):
        send.send_nowait("item")
    with pytest.raises(anyio.BrokenResourceError):
        await send.send("item")
    send.close()
    send.close()
    for closed in (send, receive):
        with pytest.raises(anyio.ClosedResourceError):
            closed.clone()
    with pytest.raises(anyio.ClosedResourceError):
        send.send_nowait("item")
    with pytest.raises(anyio.ClosedResourceError):
        await send.send("item")
    with pytest.raises(anyio.ClosedResourceError):
        receive.receive_nowait()
    with pytest.raises(anyio.ClosedResourceError):
        await receive.receive()
    with pytest.raises(anyio.ClosedResourceError):
        async for _ in receive:
            pass


async def test_a_clone_is_closed_by_itself_and_counted(create):
    send, receive = create(3)
    more = receive.clone()
    send.send_nowait("item")
    statistics = receive.statistics()
    assert statistics == send.statistics()
    assert (statistics.current_buffer_used, statistics.max_buffer_size) == (1, 3)
    assert (statistics.open_send_streams, statistics.open_receive_streams) == (1, 2)
    receive.close()
    assert more.receive_nowait() == "item"
    async with anyio.create_task_group() as group:
        group.start_soon(more.receive)
        await anyio.wait_all_tasks_blocked()
        assert more.statistics().tasks_waiting_receive == 1
        send.send_nowait("item")
    more.close()
    send.close()


async def test_an_end_left_open_is_warned_of_once_each(create):
    with pytest.warns(ResourceWarning) as warned:
        create(1)  # and no garbage collector is needed
    texts = sorted(str(warning.message).partition(" at ")[0] for warning in warned)
    assert texts == ["Unclosed <MemoryObjectReceiveStream", "Unclosed <MemoryObjectSendStream"]


async def test_the_ends_have_a_type_and_no_attributes_to_offer(create):
    send, receive = create[int](5)
    assert isinstance(send, anyio.abc.ObjectSendStream)
    assert isinstance(receive, anyio.abc.ObjectReceiveStream)
    assert (dict(send.extra_attributes), dict(receive.extra_attributes)) == ({}, {})
    assert receive.extra(anyio.abc.SocketAttribute.family, "none") == "none"
    async with StapledObjectStream(send, receive) as both:
        await both.send(3)
        assert await both.receive() == 3
    assert type(create[int]) is type(list[int])


@pytest.mark.parametrize("size", [-1, 1.5, "1"])
async def test_a_bad_size_is_refused(create, size):
    with pytest.raises(ValueError, match="max_buffer_size"):
        create(size)


async def test_the_old_way_to_name_a_type_is_deprecated(create):
    with pytest.warns(DeprecationWarning, match="item_type"):
        send, receive = create(1, int)
    send.close()
    receive.close()


async def test_cancelling_receivers_that_wait_loses_no_item(create):
    send, receive = create(1)
    scopes = [anyio.CancelScope() for _ in range(20)]
    got = []

    async def wait(scope):
        with scope:
            got.append(await receive.receive())

    with send, receive:
        async with anyio.create_task_group() as group:
            for scope in scopes:
                group.start_soon(wait, scope)
            await anyio.wait_all_tasks_blocked()
            for scope in scopes[::2]:
                scope.cancel()
            for number in range(11):
                send.send_nowait(number)
        got.append(receive.receive_nowait())
    assert sorted(got) == list(range(11))


async def test_cancelling_a_sender_that_waits_takes_its_item_back(create):
    send, receive = create()
    async with anyio.create_task_group() as group, send, receive:
        group.start_soon(send.send, "never sent")
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.WouldBlock):
            receive.receive_nowait()


# ---- what an item carries


async def test_every_way_to_send_and_to_receive_is_a_child_of_the_sender_that_has_ended(exporter):
    send, receive = create_memory_object_stream[str](4)
    with tracekit.span("sends"):
        send.send_nowait("a")
        await send.send("b")
        clone = send.clone()
        await clone.send("c")
        clone.close()
        await send.send("d")
    send.close()
    with tracekit.span("receives"):
        letters = [receive.receive_delivery_nowait(), await receive.receive_delivery()]
        other = receive.clone()
        receive.close()
        letters += [delivery async for delivery in other.deliveries()]
        other.close()
    for delivery in letters:
        with delivery.span(delivery.item):
            pass
    assert span_tree(exporter.spans) == "sends\n  a\n  b\n  c\n  d\nreceives"


async def test_one_span_for_a_batch_has_a_link_to_its_sender(exporter):
    send, receive = create_memory_object_stream[str](1)
    with send, receive:
        with tracekit.span("sends"):
            send.send_nowait("a")
        with (await receive.receive_delivery()).span("batch", root=True):
            pass
    assert span_tree(exporter.spans) == "sends\nbatch ~ sends"


async def test_a_worker_started_by_the_first_request_never_adopts_it(exporter):
    send, receive = create_memory_object_stream[str]()

    async def work():
        async for delivery in receive.deliveries():
            with delivery.span(f"work for {delivery.item}"):
                await anyio.lowlevel.checkpoint()
                with tracekit.span("part of it"):
                    pass

    with receive:
        async with anyio.create_task_group() as group, send:
            for number in range(3):
                with tracekit.span(f"request {number}"):
                    if number == 0:
                        group.start_soon(work)
                    await send.send(f"request {number}")
            await send.send("nobody")
    tree = "\n".join(f"request {n}\n  work for request {n}\n    part of it" for n in range(3))
    assert span_tree(exporter.spans) == f"{tree}\nwork for nobody\n  part of it"


async def test_a_plain_receive_changes_nothing_at_the_receiver(exporter):
    send, receive = create_memory_object_stream[str](3)
    seen = []
    with tracekit.span("sends"), tracekit.use_labels(tenant="acme"):
        for item in "abc":
            send.send_nowait(item)
    send.close()
    with tracekit.span("receives"), receive:
        receive.receive_nowait()
        seen.append((here(), dict(tracekit.current_labels())))
        await receive.receive()
        seen.append((here(), dict(tracekit.current_labels())))
        seen += [(here(), dict(tracekit.current_labels())) async for _ in receive]
    assert seen == [("receives", {})] * 3


async def test_labels_travel(exporter):
    send, receive = create_memory_object_stream[str](1)
    with send, receive:
        with tracekit.use_labels(tenant="acme"):
            await send.send("item")
        with tracekit.use_labels(worker="7"), (await receive.receive_delivery()).span("work"):
            assert tracekit.current_labels() == {"tenant": "acme"}


async def test_a_sender_that_waits_for_room_sends_its_own_context_and_its_wait(exporter, delivery_clock):
    send, receive = create_memory_object_stream[str](1)

    async def sender(name):
        with tracekit.span(name):
            await send.send(name)

    async with anyio.create_task_group() as group, send, receive:
        for name in ("has room", "waits", "waits longer"):
            group.start_soon(sender, name)
            await anyio.wait_all_tasks_blocked()
            delivery_clock.now_ns += 1_000_000_000
        with tracekit.span("receives"):
            letters = [receive.receive_delivery_nowait() for _ in range(3)]
    assert [(delivery.item, delivery.waited_s) for delivery in letters] == [
        ("has room", 3.0),
        ("waits", 2.0),
        ("waits longer", 1.0),
    ]
    for delivery in letters:
        delivery.span(f"work for {delivery.item}").end()
    tree = "\n".join(f"{delivery.item}\n  work for {delivery.item}" for delivery in letters)
    assert span_tree([span for span in exporter.spans if span.name != "receives"]) == tree


async def test_a_receiver_that_waits_gets_the_context_of_who_sends(exporter, delivery_clock):
    send, receive = create_memory_object_stream[str]()
    got = []

    async def receiver():
        with tracekit.span("receives"):
            got.append(await receive.receive_delivery())

    async with anyio.create_task_group() as group, send, receive:
        group.start_soon(receiver)
        await anyio.wait_all_tasks_blocked()
        delivery_clock.now_ns += 5_000_000_000
        with tracekit.span("sends") as sends:
            send.send_nowait("item")
    (delivery,) = got
    assert (delivery.context, delivery.waited_s) == (sends.context, 0.0)


async def test_many_senders_and_receivers_do_not_mix_up_their_contexts(exporter):
    send, receive = create_memory_object_stream[str](3)
    got = []

    async def sender(number, end):
        async with end:
            for part in range(20):
                with tracekit.span("sends") as span:
                    await end.send(f"{span.context.span_id} {number} {part}")

    async def receiver(end):
        async with end:
            async for delivery in end.deliveries():
                await anyio.lowlevel.checkpoint()
                got.append(delivery)

    async with anyio.create_task_group() as group:
        with send, receive:
            for number in range(8):
                group.start_soon(sender, number, send.clone())
                group.start_soon(receiver, receive.clone())
    assert len(got) == len({delivery.item for delivery in got}) == 160
    assert [d for d in got if d.context.span_id != d.item.split()[0]] == []


@pytest.mark.parametrize("item", [None, (), ("a", None, 3), ValueError("an item"), anyio.EndOfStream()], ids=repr)
async def test_an_item_is_whatever_it_is(item):
    send, receive = create_memory_object_stream[object](4)
    with send, receive:
        for _ in range(3):
            await send.send(item)
        assert receive.receive_nowait() is item
        assert await receive.receive() is item
        assert (await receive.receive_delivery()).item is item


async def test_cancelling_who_waits_for_a_delivery_loses_neither_item_nor_context(exporter):
    send, receive = create_memory_object_stream[str](1)
    scopes = [anyio.CancelScope() for _ in range(20)]
    got = []

    async def wait(scope):
        with scope:
            got.append(await anext(receive.deliveries()))

    with send, receive:
        async with anyio.create_task_group() as group:
            for scope in scopes:
                group.start_soon(wait, scope)
            await anyio.wait_all_tasks_blocked()
            for scope in scopes[::2]:
                scope.cancel()
            for _ in range(11):
                with tracekit.span("sends") as span:
                    send.send_nowait(span.context.span_id)
        got.append(receive.receive_delivery_nowait())
    assert len(got) == 11
    assert [delivery.context.span_id for delivery in got] == [delivery.item for delivery in got]


async def test_deliveries_fail_as_items_do():
    send, receive = create_memory_object_stream[int]()
    with pytest.raises(anyio.WouldBlock):
        receive.receive_delivery_nowait()
    ended = []

    async def wait(end):
        ended.append([delivery async for delivery in end.deliveries()])
        with pytest.raises(anyio.EndOfStream):
            await end.receive_delivery()
        with pytest.raises(anyio.EndOfStream):
            end.receive_delivery_nowait()

    async with anyio.create_task_group() as group:
        group.start_soon(wait, receive)
        await anyio.wait_all_tasks_blocked()
        send.close()
    assert ended == [[]]
    receive.close()
    with pytest.raises(anyio.ClosedResourceError):
        receive.receive_delivery_nowait()
    with pytest.raises(anyio.ClosedResourceError):
        await receive.receive_delivery()
    with pytest.raises(anyio.ClosedResourceError):
        await anext(receive.deliveries())


async def test_deliveries_may_be_left_and_taken_up_again():
    send, receive = create_memory_object_stream[int](4)
    with receive:
        with send:
            for number in range(4):
                send.send_nowait(number)
        async for delivery in receive.deliveries():
            if delivery.item == 1:
                break
        assert [delivery.item async for delivery in receive.deliveries()] == [2, 3]


async def test_an_item_that_was_received_is_not_kept():
    class Item:
        pass

    send, receive = create_memory_object_stream[Item](2)
    with send, receive:
        for take in (receive.receive, receive.receive_delivery):
            item = Item()
            gone = weakref.ref(item)
            await send.send(item)
            del item
            await take()
            gc.collect()
            assert gone() is None


async def test_ten_thousand_items_that_wait_hold_no_span():
    exporter = MemoryExporter()
    tracekit.configure(exporter=exporter)
    send, receive = create_memory_object_stream[int](math.inf)
    spans = []
    with receive, send:
        for number in range(10_000):
            with tracekit.span("sends") as span:
                await send.send(number) if number < 100 else send.send_nowait(number)
            spans.append(weakref.ref(span))
        del span
        exporter.clear()
        gc.collect()
        assert receive.statistics().current_buffer_used == 10_000
        assert [ref for ref in spans if ref() is not None] == []
