from __future__ import annotations

import pytest

import tracekit
from tracekit import FormatError, Labels, SpanContext, TraceState
from tracekit.testing import MemoryExporter
from tracekit.wire.w3c import BAGGAGE, TRACECONTEXT

from ..tools.vectors import (
    BAD_STATES,
    BAD_TRACEPARENTS,
    BAGGAGE_8192,
    GOOD_STATES,
    GOOD_TRACEPARENTS,
    HARNESS,
    SPAN_ID,
    TRACE_ID,
    TRACEPARENT,
)
from ..tools.vectors import BAGGAGE as BAGGAGE_TEXTS
from .vector_files import cases, check_extract, check_read, check_write, good_cases, load

LABELS = Labels({"plan": "pro"})
FORMATS = {format.name: format for format in (TRACECONTEXT, BAGGAGE)}


@pytest.mark.parametrize("case", cases("w3c"))
def test_the_vector_is_read(case):
    check_read(FORMATS[case.format], case)
    check_extract(FORMATS[case.format], case)


@pytest.mark.parametrize("case", cases("w3c", "tracecontext"))
def test_both_implementations_read_the_vector(form, case):
    check_read(TRACECONTEXT, case, form.read_tracecontext)


@pytest.mark.parametrize("case", good_cases("w3c"))
def test_a_read_context_is_written_again(case):
    check_write(FORMATS[case.format], case)


def test_the_json_vectors_equal_the_tables():
    texts = {str(value) for case in load("w3c") for value in case.carrier.values()}
    rows = (*GOOD_TRACEPARENTS.values(), *BAD_TRACEPARENTS.values(), *GOOD_STATES.values(), *BAD_STATES.values())
    for text in [row[0] for row in (*rows, *BAGGAGE_TEXTS.values())]:
        assert text in texts or len(text) > 100_000
    assert any(len(text) > 16_000 for text in texts)


@pytest.mark.parametrize("name", GOOD_TRACEPARENTS)
def test_a_good_traceparent_is_a_remote_context(form, name):
    text, trace_id, span_id, flags = GOOD_TRACEPARENTS[name]
    context = form.parse_traceparent(text)
    assert context == form.SpanContext(trace_id, span_id, flags, is_remote=True)
    assert (context.is_valid, context.sampled, context.deferred) == (True, flags % 2 == 1, False)
    if text.isascii():
        assert form.read_tracecontext([(b"TraceParent", text.encode())]) == context
    assert form.read_tracecontext({"traceparent": text}) == context


@pytest.mark.parametrize("name", GOOD_TRACEPARENTS)
def test_it_is_written_as_version_00_with_known_flags_only(form, name):
    text, trace_id, span_id, flags = GOOD_TRACEPARENTS[name]
    context = form.parse_traceparent(text)
    assert form.format_traceparent(context) == f"00-{trace_id}-{span_id}-{flags & 3:02x}"
    carrier = {}
    form.write_tracecontext(context, carrier)
    assert carrier == {"traceparent": f"00-{trace_id}-{span_id}-{flags & 3:02x}"}


@pytest.mark.parametrize("name", BAD_TRACEPARENTS)
def test_a_malformed_traceparent_is_rejected_with_the_reason(form, name):
    text, reason = BAD_TRACEPARENTS[name]
    assert form.parse_traceparent(text) is None
    for carrier in ({"traceparent": text}, [("TRACEPARENT", text), ("tracestate", "foo=1"), ("baggage", "a=b")]):
        with pytest.raises(FormatError, match=reason) as caught:
            form.read_tracecontext(carrier)
        assert caught.value.field == "traceparent"
        message = str(caught.value)
        assert message.startswith("bad traceparent: ")
        assert message.replace("…", "").isascii()
        assert message.isprintable()
        assert len(message) < 250


@pytest.mark.parametrize(
    "carrier",
    [
        [("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT)],
        [(b"traceparent", TRACEPARENT.encode()), (b"Traceparent", b" ")],
        {"traceparent": TRACEPARENT, "TRACEPARENT": TRACEPARENT},
        {"traceparent": [TRACEPARENT, TRACEPARENT]},
    ],
)
def test_two_traceparents_are_rejected(form, carrier):
    with pytest.raises(FormatError, match=r"^bad traceparent: 2 values, must be one$"):
        form.read_tracecontext(carrier)


@pytest.mark.parametrize(
    "carrier",
    [
        {},
        [],
        {"tracestate": "foo=1"},
        {"trace-parent": TRACEPARENT},
        {"traceparent": ""},
        [(b"traceparent", b""), ("Traceparent", ["", b""])],
        iter(()),
    ],
)
def test_without_a_traceparent_nothing_is_read(form, carrier):
    assert form.read_tracecontext(carrier) is None


@pytest.mark.parametrize("name", GOOD_STATES)
def test_a_valid_tracestate_is_written_unchanged(form, name):
    text, members = GOOD_STATES[name]
    context = form.read_tracecontext({"traceparent": TRACEPARENT, "tracestate": text})
    assert list(context.state.items()) == members
    carrier = {}
    form.write_tracecontext(context, carrier)
    assert carrier == {"traceparent": TRACEPARENT, "tracestate": text}


@pytest.mark.parametrize("name", BAD_STATES)
def test_a_malformed_tracestate_is_dropped_alone(form, name):
    text = BAD_STATES[name][0]
    only = form.read_tracecontext({"traceparent": TRACEPARENT})
    assert form.read_tracecontext({"traceparent": TRACEPARENT, "tracestate": text}) == only
    assert form.read_tracecontext({"traceparent": TRACEPARENT, "tracestate": ["good=1", text]}) == only


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        ([], ""),
        ([""], ""),
        (["", " ", "\t", ","], ""),
        (["foo=1"], "foo=1"),
        ([" foo=1\t"], "foo=1"),
        ([" foo=1", "bar=2 "], "foo=1,bar=2"),
        (["foo=1", "bar=2"], "foo=1,bar=2"),
        (["foo=1", "", "bar=2,baz=3"], "foo=1,bar=2,baz=3"),
        (["foo=1", " ", "bar=2,baz=3"], "foo=1, ,bar=2,baz=3"),
        (["foo=1", "foo=2"], "foo=1,foo=2"),
        ([f"k{at:02d}=1" for at in range(32)], ",".join(f"k{at:02d}=1" for at in range(32))),
        ([f"k{at:02d}=1" for at in range(33)], ""),
        (["foo=1"] + [""] * 100_000, "foo=1"),
        (["foo=1"] + [","] * 1000, "foo=1" + ",," * 1000),
        (["foo=1"] + [","] * 100_000, ""),
        (["a=" + "x" * 256] * 100, ""),
    ],
)
def test_several_tracestate_fields_are_one_list(form, texts, joined):
    context = form.read_tracecontext([("traceparent", TRACEPARENT), *[("tracestate", text) for text in texts]])
    assert str(context.state) == joined


@pytest.mark.parametrize("context", [None, 5, TRACEPARENT, object()])
def test_only_a_context_can_be_written(form, context):
    with pytest.raises(TypeError, match=r"^context must be a SpanContext"):
        form.format_traceparent(context)
    with pytest.raises(TypeError, match=r"^context must be a SpanContext"):
        form.write_tracecontext(context, {})


@pytest.mark.parametrize(
    "arguments", [{}, {"trace_id": TRACE_ID}, {"span_id": SPAN_ID}, {"flags": 1, "state": TraceState({"a": "1"})}]
)
def test_a_context_without_both_ids_writes_nothing(form, arguments):
    carrier = {"other": "1"}
    form.write_tracecontext(form.SpanContext(**arguments), carrier)
    assert carrier == {"other": "1"}


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (TraceState({"a": "1"}), "a=1"),
        (TraceState.parse("a=1, b=2,a=3"), "a=1, b=2,a=3"),
        (TraceState.parse("a=1, b=2").set("b", "3"), "b=3,a=1"),
        (TraceState(), None),
    ],
)
def test_writing_replaces_earlier_fields(form, state, text):
    carrier = {"Traceparent": "old", "TraceState": "old=1"}
    form.write_tracecontext(form.SpanContext(TRACE_ID, SPAN_ID, 1, state=state), carrier)
    assert carrier == {"traceparent": TRACEPARENT} | ({} if text is None else {"tracestate": text})


@pytest.mark.parametrize("name", BAGGAGE_TEXTS)
def test_baggage_is_a_context_of_labels_only(name):
    text, members, dropped = BAGGAGE_TEXTS[name]
    context = BAGGAGE.read({"baggage": text})
    if not members:
        assert context is None
        return
    assert context == SpanContext(labels=Labels.parse(text))
    assert (context.is_valid, context.deferred, context.labels.dropped) == (False, True, dropped)
    carrier = {}
    BAGGAGE.write(context, carrier)
    assert list(carrier) == ["baggage"]
    assert len(carrier["baggage"]) <= 8192
    assert BAGGAGE.read(carrier).labels.members == tuple(members)


@pytest.mark.parametrize(
    ("texts", "written"),
    [
        (["a=1", "b=2"], "a=1,b=2"),
        (["a=1;p", "", "b=2,a=3"], "a=1;p,b=2,a=3"),
        (["bad", "b=2"], "b=2"),
        (['a="1', '2"', "b=2"], "b=2"),
        ([f"k{at}=1" for at in range(100)], ",".join(f"k{at}=1" for at in range(64))),
        ([BAGGAGE_8192, "b=2"], BAGGAGE_8192),
        (["b=2", BAGGAGE_8192], "b=2"),
        (["a=" + "x" * 4094, "b=" + "y" * 4093], "a=" + "x" * 4094 + ",b=" + "y" * 4093),
        (["a=" + "x" * 4094, "b=" + "y" * 4094, "c=3"], "a=" + "x" * 4094),
    ],
)
def test_several_baggage_fields_are_one_list_under_one_limit(texts, written):
    context = BAGGAGE.read([(b"Baggage", text.encode()) for text in texts])
    assert str(context.labels) == written


@pytest.mark.parametrize(("text", "carrier"), [("", {}), ("a=1", {"baggage": "a=1"})])
def test_baggage_is_written_for_labels_only(text, carrier):
    written = {}
    BAGGAGE.write(SpanContext(labels=Labels.parse(text)), written)
    assert written == carrier


def test_the_names_and_fields_of_the_formats():
    assert (TRACECONTEXT.name, TRACECONTEXT.fields) == ("tracecontext", ("traceparent", "tracestate"))
    assert (BAGGAGE.name, BAGGAGE.fields) == ("baggage", ("baggage",))


def test_the_harness_has_41_tests():
    assert len(HARNESS) == 41


@pytest.mark.parametrize("is_recording", [True, False])
@pytest.mark.parametrize("name", HARNESS)
def test_a_service_passes_the_w3c_harness(name, is_recording):
    """A service that receives an ASGI request and makes further calls, each in a client span."""
    if is_recording:
        tracekit.configure(exporter=MemoryExporter())
    for request in HARNESS[name]:
        sent = [(name.encode(), value.encode("latin-1")) for name, value in request.headers]
        calls = []
        with tracekit.span("serve", kind="server", parent=tracekit.extract(sent) or tracekit.ROOT):
            for _ in range(request.calls):
                with tracekit.span("call", kind="client"):
                    calls.append(tracekit.inject([(b"host", b"callback.example")]))
        parents = set()
        for headers in calls:
            (parent,) = [value.decode() for name, value in headers if name == b"traceparent"]
            state = ",".join(value.decode() for name, value in headers if name == b"tracestate")
            version, trace_id, span_id, flags = parent.split("-")
            assert (version, len(trace_id), len(span_id), len(flags)) == ("00", 32, 16, 2)
            assert int(trace_id, 16) > 0
            assert int(span_id, 16) > 0
            assert int(flags, 16) <= 3
            assert any(trace_id in value for _, value in request.headers) is request.is_continued
            assert not any(span_id in value for _, value in request.headers)
            if request.is_random:
                assert int(flags, 16) & 2
            if request.state is not None:
                assert list(TraceState.parse(state).items()) == request.state
            parents.add(span_id)
        assert len(parents) == request.calls
