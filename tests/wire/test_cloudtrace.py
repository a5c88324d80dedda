from __future__ import annotations

import pickle

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracekit
from tracekit import FormatError, SpanContext
from tracekit.testing import MemoryExporter
from tracekit.wire.cloudtrace import CLOUDTRACE

from .hostile import extras, write_hostile
from .strategies import CONTEXTS, TEXTS, reads_or_rejects
from .vector_files import cases, check_extract, check_read, check_write, good_cases

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "0000000000000315"

some = settings(max_examples=300, deadline=None, derandomize=True, database=None)


def written(context):
    carrier = {}
    CLOUDTRACE.write(context, carrier)
    return carrier.pop("x-cloud-trace-context", None)


@pytest.mark.parametrize("case", cases("cloudtrace"))
def test_the_vector_is_read(case):
    check_read(CLOUDTRACE, case)
    check_extract(CLOUDTRACE, case)


@pytest.mark.parametrize("case", good_cases("cloudtrace"))
def test_a_read_context_is_written_again(case):
    check_write(CLOUDTRACE, case)
    assert CLOUDTRACE.left_out == 0


def test_the_nine_shapes_of_app_engine_are_among_the_vectors():
    names = [param.id for param in cases("cloudtrace") if param.id.startswith("App Engine: ")]
    assert len(names) == 9


@pytest.mark.parametrize(
    ("context", "text"),
    [
        (SpanContext(TRACE_ID, SPAN_ID, 1), f"{TRACE_ID}/789;o=1"),
        (SpanContext(TRACE_ID, SPAN_ID, 3), f"{TRACE_ID}/789;o=1"),
        (SpanContext(TRACE_ID, SPAN_ID, 2), f"{TRACE_ID}/789;o=0"),
        (SpanContext(TRACE_ID, SPAN_ID, deferred=True), f"{TRACE_ID}/789"),
        (SpanContext(TRACE_ID, "f" * 16, 1), f"{TRACE_ID}/18446744073709551615;o=1"),
        (SpanContext(TRACE_ID, deferred=True), TRACE_ID),
        (SpanContext(TRACE_ID, flags=1), f"{TRACE_ID};o=1"),
        (SpanContext("0" * 16 + SPAN_ID, SPAN_ID, 1), f"{'0' * 16}{SPAN_ID}/789;o=1"),
        (SpanContext(TRACE_ID, SPAN_ID, 1, extra={"seed": "3", "b3": "d"}), f"{TRACE_ID}/789;o=1"),
        (SpanContext(span_id=SPAN_ID, flags=1), None),
        (SpanContext(flags=1), None),
        (SpanContext(), None),
    ],
)
def test_a_context_is_written(context, text):
    assert written(context) == text
    stale = {"X-Cloud-Trace-Context": "stale", "host": "x"}
    CLOUDTRACE.write(context, stale)
    assert stale == ({"host": "x"} if text is None else {"host": "x", "x-cloud-trace-context": text})


@pytest.mark.parametrize(
    ("kept", "flags", "is_deferred", "shown"),
    [
        ("3", 1, False, ";o=3"),
        ("3", 0, False, ";o=0"),
        ("3", 0, True, ""),
        ("2", 0, False, ";o=2"),
        ("2", 1, False, ";o=1"),
        ("001", 1, False, ";o=001"),
        ("001", 0, False, ";o=0"),
    ],
)
def test_options_are_written_unchanged_while_the_decision_is_the_same(kept, flags, is_deferred, shown):
    context = SpanContext(TRACE_ID, SPAN_ID, flags, deferred=is_deferred, extra={"cloudtrace": kept})
    assert written(context) == f"{TRACE_ID}/789{shown}"
    assert CLOUDTRACE.left_out == 0


def test_options_are_kept_through_spans_hand_offs_and_pickles():
    tracekit.configure(formats=[CLOUDTRACE])
    parent = tracekit.extract({"X-Cloud-Trace-Context": f"{TRACE_ID}/789;o=3"})
    with tracekit.span("serve", parent=parent) as span:
        headers = tracekit.wrap(tracekit.inject)({})
        again = tracekit.inject({}, pickle.loads(pickle.dumps(span.context)))
    own = int(span.context.span_id, 16)
    assert headers == again == {"x-cloud-trace-context": f"{TRACE_ID}/{own};o=3"}


def test_a_deferred_decision_is_made_when_recording():
    request = {"x-cloud-trace-context": f"{TRACE_ID}/789"}
    tracekit.configure(formats=[CLOUDTRACE])
    with tracekit.span("relay", parent=tracekit.extract(request)) as relay:
        assert ";" not in written(relay.context)
    tracekit.configure(formats=[CLOUDTRACE], exporter=MemoryExporter())
    with tracekit.span("serve", parent=tracekit.extract(request)) as serve:
        assert written(serve.context).endswith(";o=1")


@pytest.mark.parametrize(
    "kept", [5, 1.5, b"3", ["3"], ("3",), "", "0003", "x", "-1", "+1", "1 ", "1_0", "1\r\n", "\0", "1;o=0", "\uff13", "\xb2"]
)  # fmt: skip
@pytest.mark.parametrize("flags", [0, 1])
def test_invalid_options_are_omitted_and_counted(kept, flags):
    assert written(SpanContext(TRACE_ID, SPAN_ID, flags, extra={"cloudtrace": kept})) == f"{TRACE_ID}/789;o={flags}"
    assert CLOUDTRACE.left_out == 1


@given(context=CONTEXTS, number=st.integers(0, 999), is_root=st.booleans())
@some
def test_a_written_context_reads_back_equal(context, number, is_root):
    if is_root:
        context = SpanContext(context.trace_id, flags=context.flags, deferred=context.deferred, is_remote=True)
    if number > 1 and number & 1 == context.sampled and not context.deferred:
        context = context.replace(extra={"cloudtrace": str(number)})
    text = written(context)
    assert CLOUDTRACE.read({"x-cloud-trace-context": text}) == context
    assert written(CLOUDTRACE.read([(b"X-Cloud-Trace-Context", text.encode())])) == text


@given(span=st.integers(0, 1 << 65))
@some
def test_a_span_is_a_decimal_number_of_64_bits(span):
    carrier = {"x-cloud-trace-context": f"{TRACE_ID}/{span};o=1"}
    if span >> 64:
        with pytest.raises(FormatError, match="decimal number of 64 bits"):
            CLOUDTRACE.read(carrier)
    else:
        assert CLOUDTRACE.read(carrier).span_id == f"{span:016x}"


@given(context=CONTEXTS, kept=extras(["0", "1", "2", "3", "001", "1;o=0"]))
@some
def test_hostile_extra_splits_no_header_and_changes_no_ids(context, kept):
    again = write_hostile(CLOUDTRACE, context, kept)
    assert again.extra.get("cloudtrace", kept) == kept


PIECES = st.lists(
    st.sampled_from([TRACE_ID, TRACE_ID, "/", "/", ";", ";o=", ";o=1", "789", "0", "1", "18446744073709551616", SPAN_ID, " "]),
    max_size=6,
).map("".join)  # fmt: skip


@given(pairs=st.lists(st.tuples(st.just("X-Cloud-Trace-Context"), TEXTS | PIECES), max_size=2))
@some
def test_any_text_is_read_or_rejected(pairs):
    reads_or_rejects(CLOUDTRACE, pairs)


def test_two_headers_joined_by_a_client_are_one_malformed_header():
    with pytest.raises(FormatError, match="the options must be"):
        CLOUDTRACE.read(httpx.Headers([("x-cloud-trace-context", f"{TRACE_ID}/789;o=1")] * 2))


def test_the_name_and_fields_of_the_format():
    assert (CLOUDTRACE.name, CLOUDTRACE.fields) == ("cloudtrace", ("x-cloud-trace-context",))
