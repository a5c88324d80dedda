"""A delivery: the span it opens, its wait, and what an item on its way keeps alive."""

from __future__ import annotations

import gc
import weakref

import pytest

import tracekit
from tracekit import Labels, SpanContext
from tracekit._handoffs.delivery import Delivery, open_envelope, seal
from tracekit.testing import span_tree

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def sent(item="item", name="sender"):
    """An envelope that was sealed inside a span, which has ended."""
    with tracekit.span(name):
        return seal(item)


def test_its_span_is_a_child_of_the_senders_even_though_that_has_ended(exporter):
    delivery = open_envelope(sent())
    with delivery.span("work"):
        pass
    sender, work = exporter.spans
    assert delivery.item == "item"
    assert (delivery.context, work.parent, work.kind) == (sender.context, sender.context, "consumer")
    assert span_tree(exporter.spans) == "sender\n  work"


def test_as_root_its_span_starts_a_trace_with_a_link_to_the_sender(exporter):
    with tracekit.use_labels(tenant="acme"):
        delivery = open_envelope(sent())
    with delivery.span("batch", root=True) as span:
        assert tracekit.current_labels() == Labels()
    assert [link.context for link in span.links] == [delivery.context]
    assert span_tree(exporter.spans) == "sender\nbatch ~ sender"


@pytest.mark.parametrize("root", [False, True])
def test_what_is_current_where_it_is_received_is_never_the_parent(exporter, root):
    letters = [sent(), seal("from nowhere")]
    with tracekit.span("ambient"), tracekit.use_labels(ambient="yes"):
        for number, letter in enumerate(letters):
            with open_envelope(letter).span(f"work {number}", root=root) as span:
                assert span.context.labels == Labels()
    work = "sender\nambient\nwork 0 ~ sender" if root else "sender\n  work 0\nambient"
    assert span_tree(exporter.spans) == f"{work}\nwork 1"


def test_its_span_is_not_current_until_it_is_entered(exporter):
    delivery = open_envelope(sent())
    with tracekit.span("ambient") as ambient:
        work = delivery.span("work")
        assert tracekit.current_span() is ambient
        work.end()


@pytest.mark.parametrize("root", [False, True])
def test_labels_come_along_with_a_child_and_where_there_is_no_span_to_be_a_child_of(exporter, root):
    with tracekit.use_labels(tenant="acme"):
        letter = seal("labels only")
        delivery = open_envelope(sent())
    with delivery.span("child") as child:
        assert tracekit.current_labels() == {"tenant": "acme"}
    assert child.parent == delivery.context

    unowned = open_envelope(letter)
    assert not unowned.context.is_valid
    with unowned.span("work", root=root) as work:
        assert tracekit.current_labels() == ({} if root else {"tenant": "acme"})
    assert (work.parent, work.links) == (None, ())


@pytest.mark.parametrize("root", [False, True])
def test_nothing_current_at_the_sender_makes_a_root(exporter, root):
    delivery = open_envelope(seal("item"))
    assert delivery.context is None
    with delivery.span("work", root=root) as work:
        pass
    assert (work.parent, work.links) == (None, ())


def test_a_remote_context_travels_with_its_state_undecided_or_not(exporter):
    undecided = SpanContext(TRACE_ID, SPAN_ID, labels=Labels({"tenant": "acme"}), is_remote=True, deferred=True)
    with tracekit.use_context(undecided):
        delivery = open_envelope(seal("item"))
    assert (delivery.context, delivery.context.deferred) == (undecided, True)
    with delivery.span("work") as work:
        pass
    assert (work.parent, work.context.sampled) == (undecided, True)


def test_an_unsampled_sender_keeps_its_receiver_unsampled_but_not_a_new_root():
    decided = []

    class OnlyBatches:
        def sample(self, randomness, name, kind, attributes):
            decided.append(name)
            return name == "batch", ""

    memory = tracekit.testing.MemoryExporter()
    tracekit.configure(exporter=memory, sampler=OnlyBatches())
    delivery = open_envelope(sent())
    with delivery.span("work") as work:
        pass
    with delivery.span("batch", root=True) as batch:
        pass
    assert work.context.trace_id == delivery.context.trace_id
    assert (delivery.context.sampled, work.context.sampled, batch.context.sampled) == (False, False, True)
    assert decided == ["sender", "batch"]
    assert [span.name for span in memory.spans] == ["batch"]


def test_the_wait_is_an_attribute_beside_the_receivers_own(exporter, monkeypatch):
    now_ns = 1_000
    monkeypatch.setattr("tracekit._handoffs.delivery.monotonic_ns", lambda: now_ns)
    letter = sent()
    now_ns += 2_500_000_000
    delivery = open_envelope(letter)
    now_ns += 1_000_000_000  # from here on it no longer waits
    assert delivery.waited_s == 2.5
    given = {"orders": 3}
    with delivery.span("work", kind="internal", attributes=given) as work:
        pass
    assert (work.kind, work.attributes) == ("internal", {"orders": 3, "queue.wait_s": 2.5})
    assert given == {"orders": 3}
    with delivery.span("batch", root=True, attributes=given) as batch:
        pass
    assert batch.attributes == {"orders": 3, "queue.wait_s": 2.5}


@pytest.mark.parametrize("item", [None, (), ("a", None, 3), ValueError("an item"), [1], StopIteration()], ids=repr)
def test_an_item_is_whatever_it_is(item):
    delivery = open_envelope(sent(item))
    assert delivery.item is item
    assert isinstance(delivery.context, SpanContext)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"name": 3}, TypeError),
        ({"name": "n", "kind": "queue"}, ValueError),
        ({"name": "n", "attributes": 3}, TypeError),
    ],
)
def test_a_bad_argument_is_what_span_says_it_is(arguments, error):
    delivery = open_envelope(sent())
    with pytest.raises(error) as ours:
        delivery.span(**arguments)
    with pytest.raises(error) as theirs:
        tracekit.span(**arguments)
    assert str(ours.value) == str(theirs.value)


def test_it_can_be_made_for_a_queue_of_somebody_elses(exporter):
    context = SpanContext(TRACE_ID, SPAN_ID, 1, is_remote=True)
    delivery = Delivery(b"record", context, 0.25)
    with delivery.span("work") as work:
        pass
    assert (work.parent, work.attributes["queue.wait_s"]) == (context, 0.25)
    assert repr(delivery) == f"<Delivery b'record' from {context!r} after 0.250000 s>"
    assert not hasattr(delivery, "__dict__")


def test_ten_thousand_items_on_their_way_hold_no_span(exporter):
    letters, spans = [], []
    for number in range(10_000):
        with tracekit.span("sender") as span:
            span.set_attribute("number", number)
            letters.append(seal(number))
        spans.append(weakref.ref(span))
    del span
    exporter.clear()
    gc.collect()
    assert [ref for ref in spans if ref() is not None] == []
    assert len({letter[1].span_id for letter in letters}) == 10_000
