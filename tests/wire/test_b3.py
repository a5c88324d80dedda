from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracekit
from tracekit import SpanContext
from tracekit.testing import MemoryExporter
from tracekit.wire.b3 import MULTI, SINGLE
from tracekit.wire.w3c import TRACECONTEXT

from .strategies import CONTEXTS, TEXTS, reads_or_rejects
from .vector_files import cases, check_extract, check_read, check_write, good_cases

FORMATS = {format.name: format for format in (SINGLE, MULTI)}
IDS = "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1"
TRACE_ID, SPAN_ID = IDS.split("-")
DEBUG = {"b3": "d"}

some = settings(max_examples=300, deadline=None, derandomize=True, database=None)


@pytest.mark.parametrize("case", cases("b3"))
def test_the_vector_is_read(case):
    check_read(FORMATS[case.format], case)
    check_extract(FORMATS[case.format], case)


@pytest.mark.parametrize("case", cases("b3", "b3"))
def test_both_implementations_read_the_vector(form, case):
    check_read(SINGLE, case, form.read_b3)


@pytest.mark.parametrize("case", good_cases("b3"))
def test_a_read_context_is_written_again(case):
    check_write(FORMATS[case.format], case)


@pytest.mark.parametrize(
    ("context", "single", "multi"),
    [
        (SpanContext(TRACE_ID, SPAN_ID, 1), f"{IDS}-1", (TRACE_ID, SPAN_ID, "1", None)),
        (SpanContext(TRACE_ID, SPAN_ID, 0), f"{IDS}-0", (TRACE_ID, SPAN_ID, "0", None)),
        (SpanContext(TRACE_ID, SPAN_ID, 3), f"{IDS}-1", (TRACE_ID, SPAN_ID, "1", None)),
        (SpanContext(TRACE_ID, SPAN_ID, deferred=True), IDS, (TRACE_ID, SPAN_ID, None, None)),
        (SpanContext(TRACE_ID, SPAN_ID, 1, extra=DEBUG), f"{IDS}-d", (TRACE_ID, SPAN_ID, None, "1")),
        (SpanContext(TRACE_ID, SPAN_ID, 0, extra=DEBUG), f"{IDS}-0", (TRACE_ID, SPAN_ID, "0", None)),
        (SpanContext(TRACE_ID, SPAN_ID, deferred=True, extra=DEBUG), IDS, (TRACE_ID, SPAN_ID, None, None)),
        (SpanContext(TRACE_ID, SPAN_ID, 1, extra={"b3": "x"}), f"{IDS}-1", (TRACE_ID, SPAN_ID, "1", None)),
        (SpanContext(TRACE_ID, SPAN_ID, 1, extra={"jaeger": "d"}), f"{IDS}-1", (TRACE_ID, SPAN_ID, "1", None)),
        (SpanContext(deferred=False), "0", (None, None, "0", None)),
        (SpanContext(flags=1), "1", (None, None, "1", None)),
        (SpanContext(flags=1, extra=DEBUG), "d", (None, None, None, "1")),
        (SpanContext(TRACE_ID), None, (None, None, None, None)),
        (SpanContext(), None, (None, None, None, None)),
        (
            SpanContext("0" * 16 + SPAN_ID, SPAN_ID, 1),
            f"{SPAN_ID}-{SPAN_ID}-1",
            (SPAN_ID, SPAN_ID, "1", None),
        ),
    ],
)
def test_a_context_is_written_in_both_forms(context, single, multi):
    carrier = {"B3": "stale", "host": "x"}
    SINGLE.write(context, carrier)
    assert carrier == {"host": "x"} | ({} if single is None else {"b3": single})
    carrier = {"X-B3-TraceId": "stale", "X-B3-ParentSpanId": "stale", "x-b3-flags": "1", "host": "x"}
    MULTI.write(context, carrier)
    fields = ("x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags")
    assert carrier == {"host": "x"} | {name: text for name, text in zip(fields, multi, strict=True) if text}


@pytest.mark.parametrize("format", FORMATS.values(), ids=list(FORMATS))
@pytest.mark.parametrize("context", [None, 5, f"{IDS}-1", object()])
def test_only_a_context_can_be_written(format, context):
    with pytest.raises(TypeError, match=r"^context must be a SpanContext"):
        format.write(context, {})


def test_each_form_reads_its_own_fields_only():
    single, multi = {"b3": f"{IDS}-1"}, {"x-b3-traceid": TRACE_ID, "x-b3-spanid": SPAN_ID, "x-b3-sampled": "0"}
    assert MULTI.read(single) is None
    assert SINGLE.read(multi) is None
    assert SINGLE.read({**single, "x-b3-traceid": "bad"}) == SINGLE.read(single)
    assert MULTI.read({**multi, "b3": "bad"}) == MULTI.read(multi)


@pytest.mark.parametrize(("formats", "sampled"), [([SINGLE, MULTI], True), ([MULTI, SINGLE], False)])
def test_the_first_form_of_the_list_wins(formats, sampled):
    tracekit.configure(formats=formats)
    carrier = {"x-b3-traceid": TRACE_ID, "x-b3-spanid": SPAN_ID, "x-b3-sampled": "0", "b3": f"{IDS}-1"}
    assert tracekit.extract(carrier).sampled is sampled


@pytest.mark.parametrize("formats", [[SINGLE, MULTI], [MULTI, SINGLE]])
def test_a_malformed_form_does_not_affect_the_other(formats):
    tracekit.configure(formats=formats)
    assert tracekit.extract({"x-b3-traceid": TRACE_ID, "b3": f"{IDS}-1"}).trace_id == TRACE_ID
    assert tracekit.extract({"x-b3-traceid": TRACE_ID, "x-b3-spanid": SPAN_ID, "b3": "-"}).trace_id == TRACE_ID


def test_debug_is_kept_through_spans_and_between_the_forms():
    tracekit.configure(exporter=MemoryExporter(), formats=[SINGLE, MULTI])
    with tracekit.span("serve", parent=tracekit.extract({"x-b3-flags": "1"})), tracekit.span("call") as span:
        headers = tracekit.inject({})
    ids = f"{span.context.trace_id}-{span.context.span_id}"
    assert headers["b3"] == f"{ids}-d"
    assert headers["x-b3-flags"] == "1"
    assert "x-b3-sampled" not in headers


@pytest.mark.parametrize(("text", "names"), [("0", []), ("1", ["serve"]), ("d", ["serve"])])
def test_a_decision_without_ids_decides_about_the_new_trace(text, names):
    memory = MemoryExporter()
    tracekit.configure(exporter=memory, formats=[SINGLE])
    with tracekit.span("serve", parent=tracekit.extract({"b3": text})) as span:
        headers = tracekit.inject({})
    assert span.parent is None
    assert headers == {"b3": f"{span.context.trace_id}-{span.context.span_id}-{text}"}
    assert [span.name for span in memory.spans] == names


def test_a_deferred_decision_stays_deferred_without_recording():
    tracekit.configure(formats=[SINGLE, TRACECONTEXT])
    with tracekit.span("serve", parent=tracekit.extract({"b3": IDS})) as span:
        assert tracekit.inject({})["b3"] == f"{TRACE_ID}-{span.context.span_id}"


def test_a_deferred_decision_is_made_when_recording():
    tracekit.configure(exporter=MemoryExporter(), formats=[SINGLE])
    with tracekit.span("serve", parent=tracekit.extract({"b3": IDS})) as span:
        assert tracekit.inject({}) == {"b3": f"{TRACE_ID}-{span.context.span_id}-1"}


@pytest.mark.parametrize("format", FORMATS.values(), ids=list(FORMATS))
@given(context=CONTEXTS, is_debug=st.booleans())
@some
def test_a_written_context_reads_back_equal(format, context, is_debug):
    if is_debug:
        context = SpanContext(context.trace_id, context.span_id, 1, is_remote=True, extra=DEBUG)
    carrier = {}
    format.write(context, carrier)
    assert format.read(carrier) == context
    again = {}
    format.write(format.read(carrier), again)
    assert again == carrier


@pytest.mark.parametrize("format", FORMATS.values(), ids=list(FORMATS))
@given(texts=st.lists(TEXTS, min_size=1, max_size=5), fields=st.permutations(range(5)))
@some
def test_any_text_is_read_or_rejected(format, texts, fields):
    names = format.fields * 5
    reads_or_rejects(format, [(names[at], text) for at, text in zip(fields, texts, strict=False)])


def test_the_names_and_fields_of_the_formats():
    assert (SINGLE.name, SINGLE.fields) == ("b3", ("b3",))
    assert MULTI.name == "b3multi"
    assert all(name == name.lower() for name in MULTI.fields)
