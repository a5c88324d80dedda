"""The threads' queue: in all but what items carry it is ``queue.Queue``, and what items carry is their sender's context."""

from __future__ import annotations

import gc
import queue
import threading
import weakref

import pytest

import tracekit
from tracekit.testing import span_tree
from tracekit.threads import Queue

from .tools.current import here

pytestmark = pytest.mark.usefixtures("nothing_is_logged")

needs_shutdown = pytest.mark.skipif(not hasattr(queue.Queue, "shutdown"), reason="Python 3.13 brought it")


@pytest.fixture(params=[queue.Queue, Queue], ids=["queue", "tracekit"])
def make(request):
    """Both classes, for what must be the same of both."""
    return request.param


def start(function, *args):
    """Run *function* in a thread of its own, without a context of anybody's."""
    thread = threading.Thread(target=function, args=args)
    thread.start()
    return thread


# ---- as the standard library's


def test_items_come_in_order_and_its_errors_are_its_own(make):
    q = make(2)
    q.put_nowait(1)
    q.put(2, timeout=1)
    for put in (q.put_nowait, lambda item: q.put(item, False), lambda item: q.put(item, timeout=0)):
        with pytest.raises(queue.Full):
            put(3)
    assert (q.qsize(), q.maxsize, q.full(), q.empty()) == (2, 2, True, False)
    assert (q.get(), q.get_nowait()) == (1, 2)
    for get in (q.get_nowait, lambda: q.get(False), lambda: q.get(timeout=0)):
        with pytest.raises(queue.Empty):
            get()
    with pytest.raises(ValueError, match="timeout"):
        q.get(timeout=-1)
    q.task_done()
    q.task_done()
    q.join()
    with pytest.raises(ValueError, match="task_done"):
        q.task_done()


@needs_shutdown
def test_a_queue_that_was_shut_down_says_so(make):
    q = make()
    q.put("left")
    q.shutdown()
    with pytest.raises(queue.ShutDown):
        q.put("item")
    assert q.get() == "left"
    with pytest.raises(queue.ShutDown):
        q.get()
    q = make()
    q.put("dropped")
    q.shutdown(immediate=True)
    with pytest.raises(queue.ShutDown):
        q.get_nowait()
    q.join()


# ---- what an item carries


def test_every_way_to_put_and_to_get_is_a_child_of_the_sender_that_has_ended(exporter):
    q = Queue()
    with tracekit.span("puts"):
        q.put("a")
        q.put_nowait("b")
        q.put("c", block=False)
        q.put("d", True, 1.0)
    with tracekit.span("gets"):
        letters = [q.get_delivery(), q.get_delivery_nowait(), q.get_delivery(False), next(q.deliveries())]
    for delivery in letters:
        delivery.span(delivery.item).end()
    assert span_tree(exporter.spans) == "puts\n  a\n  b\n  c\n  d\ngets"


def test_deliveries_fail_as_items_do():
    q = Queue()
    for get in (q.get_delivery_nowait, lambda: q.get_delivery(False), lambda: q.get_delivery(timeout=0)):
        with pytest.raises(queue.Empty):
            get()
    with pytest.raises(ValueError, match="timeout"):
        q.get_delivery(timeout=-1)


def test_one_span_for_a_batch_has_a_link_to_its_sender(exporter):
    q = Queue()
    with tracekit.span("puts"):
        q.put("a")
    q.get_delivery().span("batch", root=True).end()
    assert span_tree(exporter.spans) == "puts\nbatch ~ puts"


def test_a_root_for_an_item_that_was_sent_under_labels_alone_has_no_link(exporter):
    q = Queue()
    with tracekit.use_labels(plan="pro"):
        q.put("item")
    with q.get_delivery().span("batch", root=True) as work:
        assert dict(tracekit.current_labels()) == {}
    assert work.links == ()


def test_a_worker_started_by_the_first_request_never_adopts_it(exporter):
    q = Queue(1)
    worker = None

    def work():
        for delivery in q.deliveries():
            if delivery.item is None:
                return
            with delivery.span(f"work for {delivery.item}"), tracekit.span("part of it"):
                pass

    for number in range(3):
        with tracekit.span(f"request {number}") as request:
            worker = worker or start(tracekit.new_context(request).run, work)
            q.put(f"request {number}")
    q.put("nobody")
    q.put(None)
    worker.join()
    parents = {span.name: span.parent and span.parent.span_id for span in exporter.spans}
    ids = {span.name: span.context.span_id for span in exporter.spans}
    for number in range(3):
        assert parents[f"work for request {number}"] == ids[f"request {number}"]
    assert parents["work for nobody"] is None


def test_a_plain_get_changes_nothing_at_the_receiver(exporter):
    q = Queue()
    with tracekit.span("puts"), tracekit.use_labels(tenant="acme"):
        q.put("a")
        q.put("b")
    with tracekit.span("gets"):
        for item in (q.get_nowait(), q.get()):
            assert item in "ab"
            assert (here(), dict(tracekit.current_labels())) == ("gets", {})


def test_labels_travel(exporter):
    q = Queue()
    with tracekit.use_labels(tenant="acme"):
        q.put("item")
    with tracekit.use_labels(worker="7"), q.get_delivery().span("work"):
        assert tracekit.current_labels() == {"tenant": "acme"}


def test_who_waits_for_room_puts_its_own_context_and_the_wait_begins_in_the_queue(exporter, delivery_clock):
    q = Queue(1)
    q.put("fills it")

    def putter():
        with tracekit.span("waits"):
            q.put("waits")

    thread = start(putter)
    delivery_clock.now_ns += 1_000_000_000
    with tracekit.span("gets"):
        first = q.get_delivery()
        thread.join()
        delivery_clock.now_ns += 1_000_000_000
        second = q.get_delivery()
    assert [(first.item, first.context, first.waited_s), (second.item, second.waited_s)] == [
        ("fills it", None, 1.0),
        ("waits", 1.0),
    ]
    second.span("work").end()
    assert span_tree([span for span in exporter.spans if span.name != "gets"]) == "waits\n  work"


def test_who_waits_for_an_item_gets_the_context_of_who_puts(exporter):
    q, got = Queue(), Queue()

    def getter():
        with tracekit.span("gets"):
            got.put(q.get_delivery())

    thread = start(getter)
    with tracekit.span("puts") as puts:
        q.put("item")
    thread.join()
    assert got.get().context == puts.context


def test_many_senders_and_receivers_do_not_mix_up_their_contexts(exporter):
    q, plain, got = Queue(3), [], []

    def putter():
        for part in range(100):
            with tracekit.span("puts") as span:
                q.put((span.context.span_id, part))

    def getter(number):
        # Some take plain items in between.
        if number % 4 == 0:
            plain.extend(iter(q.get, None))
            return
        for delivery in q.deliveries():
            if delivery.item is None:
                return
            got.append(delivery)

    getters = [start(getter, number) for number in range(8)]
    for thread in [start(putter) for _ in range(8)]:
        thread.join()
    for _ in getters:
        q.put(None)
    for thread in getters:
        thread.join()
    assert len({*plain, *(delivery.item for delivery in got)}) == len(plain) + len(got) == 800
    assert [d for d in got if d.context.span_id != d.item[0]] == []


@pytest.mark.parametrize("item", [None, (), ("a", None, 3), ValueError("an item"), queue.Empty()], ids=repr)
def test_an_item_is_whatever_it_is(item):
    q = Queue()
    for _ in range(3):
        q.put(item)
    assert q.get() is item
    assert q.get_nowait() is item
    assert q.get_delivery().item is item


@needs_shutdown
def test_deliveries_end_when_the_queue_is_shut_down():
    q = Queue()
    q.put("left")
    q.shutdown()
    assert [delivery.item for delivery in q.deliveries()] == ["left"]
    with pytest.raises(queue.ShutDown):
        q.get_delivery()

    q, got = Queue(), []
    thread = start(lambda: got.extend(q.deliveries()))
    q.shutdown(immediate=True)
    thread.join()
    assert got == []


def test_a_last_in_first_out_queue_keeps_items_and_contexts_together(exporter):
    class Stack(Queue, queue.LifoQueue):
        pass

    q = Stack()
    for name in ("first", "second"):
        with tracekit.span(name):
            q.put(name)
    while not q.empty():
        delivery = q.get_delivery()
        delivery.span(f"work for {delivery.item}").end()
    assert span_tree(exporter.spans) == "first\n  work for first\nsecond\n  work for second"


def test_a_priority_queue_compares_the_items_alone(exporter):
    class Urgent(Queue, queue.PriorityQueue):
        pass

    q = Urgent()
    for name in ("first", "second", "third"):
        with tracekit.span(name):
            q.put((1, "equal"))
            q.put((0, "urgent"))
    for _ in range(6):
        delivery = q.get_delivery()
        delivery.span(delivery.item[1]).end()
    for name in ("first", "second", "third"):
        (sender,) = (span for span in exporter.spans if span.name == name)
        children = [span.name for span in exporter.spans if span.parent == sender.context]
        assert children == ["urgent", "equal"]


def test_an_item_that_was_taken_is_not_kept():
    class Item:
        pass

    q = Queue()
    for take in (q.get, q.get_delivery):
        item = Item()
        gone = weakref.ref(item)
        q.put(item)
        del item
        take()
        gc.collect()
        assert gone() is None


def test_ten_thousand_items_that_wait_hold_no_span(exporter):
    q, spans = Queue(), []
    for number in range(10_000):
        with tracekit.span("puts") as span:
            q.put(number)
        spans.append(weakref.ref(span))
    del span
    exporter.clear()
    gc.collect()
    assert q.qsize() == 10_000
    assert [ref for ref in spans if ref() is not None] == []
