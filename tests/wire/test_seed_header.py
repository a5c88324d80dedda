from __future__ import annotations

import pickle

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracekit
from tracekit import FormatError, SpanContext
from tracekit._propagation import DEFAULT_FORMATS, formats_named
from tracekit.testing import MemoryExporter
from tracekit.wire.cloudtrace import CLOUDTRACE
from tracekit.wire.seed_header import SEED

from .hostile import extras, write_hostile
from .strategies import CONTEXTS, TEXTS, reads_or_rejects
from .vector_files import cases, check_extract, check_read, check_write, good_cases

# The Go Tracing Roadmap, "Trace context".
EXAMPLE = b"GET /service HTTP/1.1\r\nTrace-Id: 4bf92f3577b34da6a3ce929d0e0e4736/e1;o=0\r\n\r\n"
TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00000000000000e1"

some = settings(max_examples=300, deadline=None, derandomize=True, database=None)


def written(context):
    carrier = {}
    SEED.write(context, carrier)
    return carrier.pop("trace-id", None)


def test_the_roadmaps_example_request_is_read_and_written_byte_for_byte():
    tracekit.configure(formats=[SEED])
    request, *lines = EXAMPLE.removesuffix(b"\r\n\r\n").split(b"\r\n")
    context = tracekit.extract([tuple(line.split(b": ")) for line in lines])
    assert (context.trace_id, context.span_id, context.sampled, context.deferred) == (TRACE_ID, SPAN_ID, False, False)
    sent = tracekit.inject([(b"host", b"shop.example")], context)[1:]
    assert sent == [(b"trace-id", b"4bf92f3577b34da6a3ce929d0e0e4736/e1;o=0")]
    lines = [name.title() + b": " + value for name, value in sent]
    assert b"\r\n".join([request, *lines]) + b"\r\n\r\n" == EXAMPLE


@pytest.mark.parametrize("case", cases("seed_header"))
def test_the_vector_is_read(case):
    check_read(SEED, case)
    check_extract(SEED, case)


@pytest.mark.parametrize("case", good_cases("seed_header"))
def test_a_read_context_is_written_again(case):
    check_write(SEED, case)
    assert SEED.left_out == 0


def test_it_is_not_a_default_format():
    assert SEED not in DEFAULT_FORMATS
    assert formats_named("seed,trace-id,seed_header") == ([], ["seed", "trace-id", "seed_header"])
    carrier = {"trace-id": f"{TRACE_ID}/e1;o=1"}
    assert tracekit.extract(carrier) is None
    with tracekit.span("work"):
        assert "trace-id" not in tracekit.inject({})


def test_the_name_of_the_header_decides_how_the_span_id_is_read():
    tracekit.configure(formats=[SEED, CLOUDTRACE])
    text = f"{TRACE_ID}/12;o=1"
    assert tracekit.extract({"trace-id": text}).span_id == "0000000000000012"
    assert tracekit.extract({"x-cloud-trace-context": text}).span_id == "000000000000000c"


@pytest.mark.parametrize(
    ("context", "text"),
    [
        (SpanContext(TRACE_ID, SPAN_ID, 1), f"{TRACE_ID}/e1;o=1"),
        (SpanContext(TRACE_ID, SPAN_ID, 3), f"{TRACE_ID}/e1;o=1"),
        (SpanContext(TRACE_ID, SPAN_ID, 2), f"{TRACE_ID}/e1;o=0"),
        (SpanContext(TRACE_ID, SPAN_ID, deferred=True), f"{TRACE_ID}/e1"),
        (SpanContext(TRACE_ID, "f" * 16, 1), f"{TRACE_ID}/{'f' * 16};o=1"),
        (SpanContext("0" * 16 + SPAN_ID, SPAN_ID, 1), f"{'0' * 16}{SPAN_ID}/e1;o=1"),
        (SpanContext(TRACE_ID, SPAN_ID, 1, extra={"cloudtrace": "3", "b3": "d"}), f"{TRACE_ID}/e1;o=1"),
        (SpanContext(TRACE_ID, flags=1), None),
        (SpanContext(span_id=SPAN_ID, flags=1), None),
        (SpanContext(flags=1), None),
        (SpanContext(), None),
    ],
)
def test_a_context_is_written(context, text):
    assert written(context) == text
    stale = {"Trace-Id": "stale", "host": "x"}
    SEED.write(context, stale)
    assert stale == ({"host": "x"} if text is None else {"host": "x", "trace-id": text})


@pytest.mark.parametrize(
    ("kept", "flags", "is_deferred", "shown"),
    [
        ("3", 1, False, ";o=3"),
        ("3", 0, False, ";o=0"),
        ("3", 0, True, ""),
        ("2", 0, False, ";o=2"),
        ("2", 1, False, ";o=1"),
        ("001", 1, False, ";o=001"),
    ],
)
def test_options_are_written_unchanged_while_the_decision_is_the_same(kept, flags, is_deferred, shown):
    context = SpanContext(TRACE_ID, SPAN_ID, flags, deferred=is_deferred, extra={"seed": kept})
    assert written(context) == f"{TRACE_ID}/e1{shown}"
    assert SEED.left_out == 0


def test_options_are_kept_through_spans_hand_offs_and_pickles():
    tracekit.configure(formats=[SEED])
    with tracekit.span("serve", parent=tracekit.extract({"Trace-Id": f"{TRACE_ID}/e1;o=3"})) as span:
        headers = tracekit.wrap(tracekit.inject)({})
        again = tracekit.inject({}, pickle.loads(pickle.dumps(span.context)))
    own = span.context.span_id.lstrip("0")
    assert headers == again == {"trace-id": f"{TRACE_ID}/{own};o=3"}


def test_a_deferred_decision_is_made_when_recording():
    request = {"trace-id": f"{TRACE_ID}/e1"}
    tracekit.configure(formats=[SEED])
    with tracekit.span("relay", parent=tracekit.extract(request)) as relay:
        assert ";" not in written(relay.context)
    tracekit.configure(formats=[SEED], exporter=MemoryExporter())
    with tracekit.span("serve", parent=tracekit.extract(request)) as serve:
        assert written(serve.context).endswith(";o=1")


@pytest.mark.parametrize(
    "kept", [5, 1.5, b"3", ["3"], ("3",), "", "0003", "x", "-1", "+1", "1 ", "1_0", "1\r\n", "\0", "1;o=0", "\uff13", "\xb2"]
)  # fmt: skip
@pytest.mark.parametrize("flags", [0, 1])
def test_invalid_options_are_omitted_and_counted(kept, flags):
    assert written(SpanContext(TRACE_ID, SPAN_ID, flags, extra={"seed": kept})) == f"{TRACE_ID}/e1;o={flags}"
    assert SEED.left_out == 1


@given(context=CONTEXTS, number=st.integers(0, 999))
@some
def test_a_written_context_reads_back_equal(context, number):
    if number > 1 and number & 1 == context.sampled and not context.deferred:
        context = context.replace(extra={"seed": str(number)})
    text = written(context)
    assert SEED.read({"trace-id": text}) == context
    assert written(SEED.read([(b"Trace-Id", text.encode())])) == text


@given(context=CONTEXTS, kept=extras(["0", "1", "2", "3", "001", "1;o=0"]))
@some
def test_hostile_extra_splits_no_header_and_changes_no_ids(context, kept):
    again = write_hostile(SEED, context, kept)
    assert again.extra.get("seed", kept) == kept


PIECES = st.lists(
    st.sampled_from([TRACE_ID, TRACE_ID, "/", "/", ";", ";o=", ";o=1", "e1", "0", "1", SPAN_ID, "E", " "]), max_size=6
).map("".join)


@given(pairs=st.lists(st.tuples(st.just("Trace-Id"), TEXTS | PIECES), max_size=2))
@some
def test_any_text_is_read_or_rejected(pairs):
    reads_or_rejects(SEED, pairs)


def test_two_headers_joined_by_a_client_are_one_malformed_header():
    with pytest.raises(FormatError, match=r"^bad trace-id: 80 characters, must be 55 at most$"):
        SEED.read(httpx.Headers([("trace-id", f"{TRACE_ID}/e1;o=0")] * 2))


def test_the_name_and_fields_of_the_format():
    assert (SEED.name, SEED.fields) == ("seed", ("trace-id",))
