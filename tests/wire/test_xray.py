from __future__ import annotations

import pickle

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracekit
from tracekit import FormatError, SpanContext
from tracekit.testing import MemoryExporter
from tracekit.wire.xray import XRAY

from .hostile import extras, write_hostile
from .strategies import CONTEXTS, TEXTS, reads_or_rejects
from .vector_files import cases, check_extract, check_read, check_write, good_cases

TRACE_ID, SPAN_ID = "5759e988bd862e3fe1be46a994272793", "53995c3f42cd8ad8"
ROOT, PARENT = "Root=1-5759e988-bd862e3fe1be46a994272793", "Parent=53995c3f42cd8ad8"
LINEAGE = ("Lineage", "1:a87bd80c:1|68fd508a:5")

some = settings(max_examples=300, deadline=None, derandomize=True, database=None)


def written(context):
    carrier = {}
    XRAY.write(context, carrier)
    return carrier.pop("x-amzn-trace-id", None)


@pytest.mark.parametrize("case", cases("xray"))
def test_the_vector_is_read(case):
    check_read(XRAY, case)
    check_extract(XRAY, case)


@pytest.mark.parametrize("case", good_cases("xray"))
def test_a_read_context_is_written_again(case):
    check_write(XRAY, case)
    assert XRAY.left_out == 0


@pytest.mark.parametrize(
    ("context", "text"),
    [
        (SpanContext(TRACE_ID, SPAN_ID, 1), f"{ROOT};{PARENT};Sampled=1"),
        (SpanContext(TRACE_ID, SPAN_ID, 3), f"{ROOT};{PARENT};Sampled=1"),
        (SpanContext(TRACE_ID, SPAN_ID, 2), f"{ROOT};{PARENT};Sampled=0"),
        (SpanContext(TRACE_ID, SPAN_ID, deferred=True), f"{ROOT};{PARENT}"),
        (SpanContext(TRACE_ID, deferred=True), ROOT),
        (SpanContext(TRACE_ID, flags=1), f"{ROOT};Sampled=1"),
        (SpanContext("0" * 16 + SPAN_ID, SPAN_ID, 1), f"Root=1-00000000-0000000053995c3f42cd8ad8;{PARENT};Sampled=1"),
        (SpanContext(TRACE_ID, SPAN_ID, 1, extra={"b3": "d", "datadog": (("origin", "rum"),)}), f"{ROOT};{PARENT};Sampled=1"),
        (SpanContext(span_id=SPAN_ID, flags=1), None),
        (SpanContext(flags=1), None),
        (SpanContext(), None),
    ],
)  # fmt: skip
def test_a_context_is_written(context, text):
    assert written(context) == text
    stale = {"X-Amzn-Trace-Id": "stale", "host": "x"}
    XRAY.write(context, stale)
    assert stale == ({"host": "x"} if text is None else {"host": "x", "x-amzn-trace-id": text})


@pytest.mark.parametrize(
    ("flags", "is_deferred", "shown"), [(0, True, ";Sampled=?"), (0, False, ";Sampled=0"), (1, False, ";Sampled=1")]
)
def test_the_question_mark_is_kept_until_a_decision(flags, is_deferred, shown):
    extra = {"xray": (("Sampled", "?"), LINEAGE)}
    context = SpanContext(TRACE_ID, SPAN_ID, flags, deferred=is_deferred, extra=extra)
    assert written(context) == f"{ROOT};{PARENT}{shown};Lineage=1:a87bd80c:1|68fd508a:5"
    assert XRAY.left_out == 0


def test_other_fields_are_kept_through_spans_hand_offs_and_pickles():
    tracekit.configure(formats=[XRAY])
    request = {"X-Amzn-Trace-Id": f"Self=1-67891233-12456789abcdef012345678;{ROOT};{PARENT};Sampled=0;CalledFrom=app"}
    with tracekit.span("serve", parent=tracekit.extract(request)) as span:
        headers = tracekit.wrap(tracekit.inject)({})
        again = tracekit.inject({}, pickle.loads(pickle.dumps(span.context)))
    parent = f"Parent={span.context.span_id}"
    others = "Self=1-67891233-12456789abcdef012345678;CalledFrom=app"
    assert headers == again == {"x-amzn-trace-id": f"{ROOT};{parent};Sampled=0;{others}"}


@pytest.mark.parametrize("decision", ["", ";Sampled=?"])
def test_a_deferred_decision_is_made_when_recording(decision):
    tracekit.configure(formats=[XRAY])
    with tracekit.span("relay", parent=tracekit.extract({"x-amzn-trace-id": f"{ROOT};{PARENT}{decision}"})) as relay:
        assert written(relay.context) == f"{ROOT};Parent={relay.context.span_id}{decision}"
    tracekit.configure(formats=[XRAY], exporter=MemoryExporter())
    with tracekit.span("serve", parent=tracekit.extract({"x-amzn-trace-id": f"{ROOT};{PARENT}{decision}"})) as serve:
        assert written(serve.context) == f"{ROOT};Parent={serve.context.span_id};Sampled=1"


def test_a_root_without_a_parent_names_the_trace_of_the_first_span(exporter):
    tracekit.configure(formats=[XRAY], exporter=exporter)
    with tracekit.span("serve", parent=tracekit.extract({"x-amzn-trace-id": ROOT})) as span:
        pass
    assert (span.context.trace_id, span.parent) == (TRACE_ID, None)


GOOD = (("CalledFrom", "app"),)


@pytest.mark.parametrize(
    "kept",
    [
        None,
        5,
        "CalledFrom=app",
        b"CalledFrom=app",
        (None,),
        (5,),
        ("a=b",),
        (("a",),),
        (("a", "b", "c"),),
        (("a", 5),),
        ((5, "a"),),
        ((b"a", b"b"),),
        (("", "a"),),
        (("a=b", "c"),),
        (("a;b", "c"),),
        (("a", "b;Root=1"),),
        ((" a", "b"),),
        (("a", "b "),),
        (("a", "b\r\nset-cookie: c"),),
        (("a", "b\n"),),
        (("a\r", "b"),),
        (("a", "\0"),),
        (("a", "b\tc"),),
        (("a", "\xe9"),),
        (("a", "\udc80"),),
        (("Root", "1-00000000-000000000000000000000001"),),
        (("Parent", "0000000000000001"),),
        (("Sampled", "1"),),
        (("a", "x" * 1024),),
    ],
)
def test_words_that_no_header_can_hold_are_omitted_and_counted(kept):
    context = SpanContext(TRACE_ID, SPAN_ID, deferred=True)
    assert written(context.replace(extra={"xray": kept})) == f"{ROOT};{PARENT}"
    assert XRAY.left_out == 1
    if isinstance(kept, tuple):
        assert written(context.replace(extra={"xray": kept + GOOD})) == f"{ROOT};{PARENT};CalledFrom=app"
        assert XRAY.left_out == 2


def test_whole_fields_past_1024_characters_are_omitted():
    kept = tuple((f"k{at:02d}", "x" * 96) for at in range(20))
    text = written(SpanContext(TRACE_ID, SPAN_ID, 1, extra={"xray": (*kept, ("z", "1"))}))
    assert text == f"{ROOT};{PARENT};Sampled=1;" + ";".join(f"{key}={value}" for key, value in kept[:9]) + ";z=1"
    assert len(text) <= 1024
    assert XRAY.left_out == 11


@pytest.mark.parametrize(("size", "count"), [(1024, 0), (1025, 1)])
def test_1024_characters_are_written_and_no_more(size, count):
    bare = SpanContext(TRACE_ID, SPAN_ID, 1)
    value = "x" * (size - len(f"{written(bare)};a="))
    text = written(bare.replace(extra={"xray": (("a", value),)}))
    assert (len(text), XRAY.left_out) == (1024 if not count else len(written(bare)), count)
    assert XRAY.read({"x-amzn-trace-id": text}).is_valid


FIELDS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters=";="), max_size=12)
PAIRS = st.lists(
    st.tuples(FIELDS.map(str.strip), FIELDS.map(str.strip)).filter(
        lambda pair: pair[0] and pair[0] not in ("Root", "Parent", "Sampled")
    ),
    max_size=8,
)


@given(context=CONTEXTS, kept=PAIRS, is_root=st.booleans())
@some
def test_a_written_context_reads_back_equal(context, kept, is_root):
    if is_root:
        context = SpanContext(context.trace_id, flags=context.flags, deferred=context.deferred, is_remote=True)
    context = context.replace(extra={"xray": tuple(kept)} if kept else {})
    text = written(context)
    assert XRAY.read({"x-amzn-trace-id": text}) == context
    assert written(XRAY.read([(b"X-Amzn-Trace-Id", text.encode())])) == text


@given(context=CONTEXTS, kept=extras(["Root", "Parent", "Sampled", "?", "1", ROOT[5:], "Lineage", "a=b", "a;Root"]))
@some
def test_hostile_extra_splits_no_header_and_changes_no_ids(context, kept):
    XRAY.left_out = 0
    again = write_hostile(XRAY, context, kept).extra.get("xray", ())
    pairs = list(kept) if isinstance(kept, tuple | list) else [kept]
    assert all(pair in pairs or list(pair) in pairs for pair in again)
    asked = sum([pair in (("Sampled", "?"), ["Sampled", "?"]) for pair in pairs])
    assert len(pairs) == len([pair for pair in again if pair[0] != "Sampled"]) + asked + XRAY.left_out


NAMES = st.sampled_from(["x-amzn-trace-id", "X-Amzn-Trace-Id", "x-amzn-trace-i\u0434"])
SHUFFLED = st.lists(
    st.sampled_from([ROOT, PARENT, "Sampled=1", "Sampled=?", "Sampled=", "Lineage=1:2|3", "Self=1-2-3", "", " ", "a", "=", "a="]),
    max_size=6,
).map(";".join)  # fmt: skip


@given(pairs=st.lists(st.tuples(NAMES, TEXTS | SHUFFLED), max_size=2))
@some
def test_any_text_is_read_or_rejected(pairs):
    reads_or_rejects(XRAY, pairs)


def test_two_headers_joined_by_a_client_are_one_malformed_header():
    headers = httpx.Headers([("x-amzn-trace-id", f"{ROOT};{PARENT};Sampled=1")] * 2)
    with pytest.raises(FormatError, match="Sampled must be 0, 1 or "):
        XRAY.read(headers)


def test_the_name_and_fields_of_the_format():
    assert (XRAY.name, XRAY.fields) == ("xray", ("x-amzn-trace-id",))
