from __future__ import annotations

from collections import UserDict

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracekit
from tracekit import Labels, SpanContext
from tracekit.wire.ottrace import OTTRACE

from .strategies import CONTEXTS, TEXTS, reads_or_rejects
from .vector_files import cases, check_extract, check_read, check_write, good_cases

TRACE_ID, SPAN_ID = "80f198ee56343ba864fe8b2a57d3eff7", "e457b5a2e4d86bd1"
IDS = {"ot-tracer-traceid": TRACE_ID, "ot-tracer-spanid": SPAN_ID}

some = settings(max_examples=300, deadline=None, derandomize=True, database=None)


def written(context, carrier=None):
    carrier = {} if carrier is None else carrier
    OTTRACE.write(context, carrier)
    return carrier


@pytest.mark.parametrize("case", cases("ottrace"))
def test_the_vector_is_read(case):
    check_read(OTTRACE, case)
    check_extract(OTTRACE, case)


@pytest.mark.parametrize("case", good_cases("ottrace"))
def test_a_read_context_is_written_again(case):
    check_write(OTTRACE, case)
    assert OTTRACE.left_out == 0


@pytest.mark.parametrize(
    ("context", "carrier"),
    [
        (SpanContext(TRACE_ID, SPAN_ID, 1), IDS | {"ot-tracer-sampled": "true"}),
        (SpanContext(TRACE_ID, SPAN_ID, 2), IDS | {"ot-tracer-sampled": "false"}),
        (SpanContext(TRACE_ID, SPAN_ID, deferred=True), IDS),
        (SpanContext(TRACE_ID, SPAN_ID, 1, extra={"b3": "d"}), IDS | {"ot-tracer-sampled": "true"}),
        (SpanContext("0" * 16 + SPAN_ID, SPAN_ID, deferred=True), dict.fromkeys(IDS, SPAN_ID)),
        (SpanContext(f"{5:032x}", f"{5:016x}", deferred=True), dict.fromkeys(IDS, f"{5:016x}")),
        (SpanContext(f"{5 << 64:032x}", SPAN_ID, deferred=True), IDS | {"ot-tracer-traceid": f"{5 << 64:032x}"}),
        (SpanContext(flags=1), {}),
        (SpanContext(TRACE_ID), {}),
        (SpanContext(labels=Labels({"k": "a b"})), {"ot-baggage-k": "a b"}),
        (SpanContext(), {}),
    ],
)
def test_a_context_is_written(context, carrier):
    assert written(context) == carrier
    stale = {"OT-Tracer-TraceId": "x", "ot-tracer-spanid": "x", "Ot-Tracer-Sampled": "x", "Ot-Baggage-Old": "1"}
    assert written(context, {**stale, "host": "x"}) == {"host": "x", **carrier}


@pytest.mark.parametrize(
    "text", ["a\r\nset-cookie: b", "a\nb", "\0", " a", "a ", " ", "a\tb", "\xe9", "\u20ac", "\U0001f419", "\udc80", "\x7f", "\x1b[0m"]
)  # fmt: skip
def test_a_label_that_no_header_can_hold_is_omitted_and_counted(text):
    assert written(SpanContext(labels=Labels({"bad": text, "good": "1"}))) == {"ot-baggage-good": "1"}
    assert OTTRACE.left_out == 1


def test_parts_that_the_format_cannot_express_are_omitted_and_counted():
    labels = Labels([("k", "1"), ("userId", "7"), ("k", "2")]).with_member("p", "3", [("a", None), ("b", "c")])
    assert written(SpanContext(labels=labels)) == {"ot-baggage-k": "2", "ot-baggage-p": "3"}
    assert OTTRACE.left_out == 4, "userId, the first k, and two properties"


def test_a_label_whose_name_is_too_long_to_be_read_again_is_omitted_and_counted():
    labels = Labels({"k" * 245: "1", "k" * 246: "2"})
    assert OTTRACE.read(written(SpanContext(labels=labels))).labels == {"k" * 245: "1"}
    assert OTTRACE.left_out == 1


def test_every_stale_label_is_removed_however_many_there_are():
    stale = {f"ot-baggage-k{at}": "v" * 1000 for at in range(200)}
    for carrier in (dict(stale), UserDict(stale), list(stale.items())):
        written(SpanContext(labels=Labels({"k": "v"})), carrier)
        assert list(carrier) in (["ot-baggage-k"], [("ot-baggage-k", "v")])


def test_labels_past_64_or_8192_bytes_are_dropped():
    many = {f"ot-baggage-k{at:02d}": "v" for at in range(100)}
    assert list(OTTRACE.read(many).labels) == [f"k{at:02d}" for at in range(64)]
    large = OTTRACE.read({f"ot-baggage-k{at}": "v" * 1000 for at in range(10)}).labels
    assert (list(large), large.dropped) == ([f"k{at}" for at in range(8)], 2)


def test_labels_are_found_by_their_prefix_in_every_shape_of_carrier():
    pairs = [("OT-Tracer-TraceId", TRACE_ID), ("OT-Tracer-SpanId", SPAN_ID), ("OT-Baggage-Tenant", "acme")]
    context = SpanContext(TRACE_ID, SPAN_ID, deferred=True, labels=Labels({"tenant": "acme"}), is_remote=True)
    octets = [(name.encode(), text.encode()) for name, text in pairs]
    for carrier in (pairs, dict(pairs), iter(pairs), tuple(octets), octets, httpx.Headers(pairs)):
        assert OTTRACE.read(carrier) == context


def test_labels_are_kept_through_spans():
    tracekit.configure(formats=[OTTRACE])
    with tracekit.span("serve", parent=tracekit.extract({**IDS, "ot-tracer-sampled": "true", "ot-baggage-k": "v"})):
        headers = tracekit.inject({})
    assert headers.pop("ot-tracer-spanid") != SPAN_ID
    assert headers == {"ot-tracer-traceid": TRACE_ID, "ot-tracer-sampled": "true", "ot-baggage-k": "v"}


VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20).map(str.strip)
KEYS = st.text("abc-_.~!#$%&'*+^`|019", min_size=1, max_size=8)


@given(context=CONTEXTS, labels=st.dictionaries(KEYS, VALUES, max_size=5))
@some
def test_a_written_context_reads_back_equal(context, labels):
    context = context.replace(labels=Labels(labels))
    carrier = written(context)
    assert OTTRACE.read(carrier) == context
    assert written(OTTRACE.read(carrier)) == carrier


NAMES = st.sampled_from(
    [*OTTRACE.fields, *OTTRACE.fields, "ot-baggage-", "ot-baggage-a", "Ot-Baggage-A", "ot-baggage-\xe9 "]
)


@given(pairs=st.lists(st.tuples(NAMES, TEXTS), max_size=6))
@some
def test_any_text_is_read_or_rejected(pairs):
    reads_or_rejects(OTTRACE, pairs)


def test_the_name_and_fields_of_the_format():
    assert (OTTRACE.name, OTTRACE.prefixes) == ("ottrace", ("ot-baggage-",))
    assert OTTRACE.fields == ("ot-tracer-traceid", "ot-tracer-spanid", "ot-tracer-sampled")
