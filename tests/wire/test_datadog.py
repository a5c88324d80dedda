from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracekit
from tracekit import FormatError, SpanContext
from tracekit.testing import MemoryExporter
from tracekit.wire.datadog import DATADOG
from tracekit.wire.w3c import TRACECONTEXT

from .hostile import extras, write_hostile
from .strategies import CONTEXTS, TEXTS, reads_or_rejects
from .vector_files import cases, check_extract, check_read, check_write, good_cases

# A trace id made by one of Datadog's libraries: seconds, zeros, and 64 random bits.
HIGH, LOW, SPAN_ID = "6b02919e00000000", "9dcaeb4aa48e7fcd", "00f067aa0ba902b7"
IDS = {"x-datadog-trace-id": str(int(LOW, 16)), "x-datadog-parent-id": str(int(SPAN_ID, 16))}
TID = f"_dd.p.tid={HIGH}"

some = settings(max_examples=300, deadline=None, derandomize=True, database=None)


def written(context):
    carrier = {}
    DATADOG.write(context, carrier)
    return {name.removeprefix("x-datadog-"): text for name, text in carrier.items() if name not in IDS}


def made(flags=1, *, high=HIGH, **kept):
    return SpanContext(high + LOW, SPAN_ID, flags, extra={"datadog": tuple(kept.items())})


@pytest.mark.parametrize("case", cases("datadog"))
def test_the_vector_is_read(case):
    check_read(DATADOG, case)
    check_extract(DATADOG, case)


def error_of(case):
    return dict(case.context.get("extra", {}).get("datadog", ())).get("error")


@pytest.mark.parametrize("case", [param for param in good_cases("datadog") if not error_of(*param.values)])
def test_a_read_context_is_written_again(case):
    check_write(DATADOG, case)
    assert DATADOG.left_out == 0


@pytest.mark.parametrize("case", [param for param in good_cases("datadog") if error_of(*param.values)])
def test_the_error_is_not_written(case):
    context = DATADOG.read(case.carrier)
    words = tuple(pair for pair in context.extra["datadog"] if pair[0] != "error")
    carrier = {}
    DATADOG.write(context, carrier)
    assert DATADOG.read(carrier) == context.replace(extra={"datadog": words} if words else {})
    assert DATADOG.left_out == 0


@pytest.mark.parametrize(
    ("context", "carrier"),
    [
        (SpanContext(HIGH + LOW, SPAN_ID, 1), IDS | {"x-datadog-sampling-priority": "1", "x-datadog-tags": TID}),
        (SpanContext(HIGH + LOW, SPAN_ID, 3), IDS | {"x-datadog-sampling-priority": "1", "x-datadog-tags": TID}),
        (SpanContext(HIGH + LOW, SPAN_ID, 2), IDS | {"x-datadog-sampling-priority": "0", "x-datadog-tags": TID}),
        (SpanContext(HIGH + LOW, SPAN_ID, deferred=True), IDS | {"x-datadog-tags": TID}),
        (SpanContext("0" * 16 + LOW, SPAN_ID, 1), IDS | {"x-datadog-sampling-priority": "1"}),
        (SpanContext("0" * 16 + LOW, deferred=True), {"x-datadog-trace-id": IDS["x-datadog-trace-id"]}),
        (SpanContext("f" * 32, "f" * 16, deferred=True), dict.fromkeys(IDS, str(2**64 - 1)) | {"x-datadog-tags": f"_dd.p.tid={'f' * 16}"}),
        (SpanContext("0" * 16 + LOW, SPAN_ID, deferred=True, extra={"xray": (("a", "b"),), "b3": "d"}), IDS),
        (SpanContext(span_id=SPAN_ID, flags=1), {}),
        (SpanContext(flags=1), {}),
        (SpanContext(), {}),
    ],
)  # fmt: skip
def test_a_context_is_written(context, carrier):
    fresh = {}
    DATADOG.write(context, fresh)
    assert fresh == carrier
    stale = {field.title(): "stale" for field in DATADOG.fields} | {"host": "x"}
    DATADOG.write(context, stale)
    assert stale == {"host": "x", **carrier}
    assert DATADOG.left_out == 0


def test_a_trace_id_without_a_low_half_is_omitted_and_counted():
    carrier = dict.fromkeys(DATADOG.fields, "stale")
    DATADOG.write(SpanContext(HIGH + "0" * 16, SPAN_ID, 1), carrier)
    assert carrier == {}
    assert DATADOG.left_out == 1


@pytest.mark.parametrize(
    ("kept", "flags", "shown"),
    [("2", 1, "2"), ("1", 1, "1"), ("0", 0, "0"), ("-1", 0, "-1"), ("2", 0, "0"), ("1", 0, "0"), ("0", 1, "1"), ("-1", 1, "1")],
)  # fmt: skip
def test_a_priority_is_written_unchanged_while_the_decision_is_the_same(kept, flags, shown):
    assert written(made(flags, priority=kept))["sampling-priority"] == shown
    undecided = SpanContext(HIGH + LOW, SPAN_ID, deferred=True, extra={"datadog": (("priority", kept),)})
    assert "sampling-priority" not in written(undecided)
    assert DATADOG.left_out == 0


@pytest.mark.parametrize(
    ("high", "tags", "shown"),
    [
        (HIGH, "", TID),
        (HIGH, "_dd.p.dm=-4", f"_dd.p.dm=-4,{TID}"),
        (HIGH, f"{TID},_dd.p.dm=-4", f"{TID},_dd.p.dm=-4"),
        (HIGH, f"_dd.p.dm=-4,{TID}", f"_dd.p.dm=-4,{TID}"),
        (HIGH, "_dd.p.tid=1111111111111111,_dd.p.dm=-4", f"_dd.p.dm=-4,{TID}"),
        (HIGH, "_dd.p.tid=x", TID),
        (HIGH, "_dd.p.tid=", TID),
        (HIGH, f"_dd.p.a={TID}", f"_dd.p.a={TID},{TID}"),
        ("0" * 16, "", None),
        ("0" * 16, TID, None),
        ("0" * 16, f"_dd.p.dm=-4,{TID}", "_dd.p.dm=-4"),
    ],
)
def test_the_high_half_of_the_trace_id_is_always_that_of_the_context(high, tags, shown):
    assert written(made(high=high, tags=tags)).get("tags") == shown
    assert DATADOG.left_out == 0


def test_past_512_characters_all_tags_but_the_high_half_are_omitted_and_counted():
    fits = "_dd.p.a=" + "x" * (512 - 8 - 1 - len(TID))
    assert written(made(tags=fits))["tags"] == f"{fits},{TID}"
    assert DATADOG.left_out == 0
    assert written(made(tags=f"{fits}x"))["tags"] == TID
    assert DATADOG.left_out == 1
    long = ",".join(f"_dd.p.k{at:02d}={'x' * 50}" for at in range(10))
    assert "tags" not in written(made(high="0" * 16, tags=long))
    assert DATADOG.left_out == 11


def test_words_are_kept_through_spans_hand_offs_and_pickles():
    tracekit.configure(formats=[DATADOG])
    words = {"x-datadog-sampling-priority": "2", "x-datadog-origin": "rum", "x-datadog-tags": f"_dd.p.dm=-4,{TID}"}
    with tracekit.span("serve", parent=tracekit.extract({**IDS, **words})) as span:
        headers = tracekit.wrap(tracekit.inject)({})
        again = tracekit.inject({}, pickle.loads(pickle.dumps(span.context)))
    own = {"x-datadog-parent-id": str(int(span.context.span_id, 16))}
    assert headers == again == {**IDS, **own, **words}


def test_a_deferred_decision_is_made_when_recording():
    tracekit.configure(formats=[DATADOG])
    with tracekit.span("relay", parent=tracekit.extract(IDS)) as relay:
        assert "sampling-priority" not in written(relay.context)
    tracekit.configure(formats=[DATADOG], exporter=MemoryExporter())
    with tracekit.span("serve", parent=tracekit.extract(IDS)) as serve:
        assert written(serve.context)["sampling-priority"] == "1"


def test_a_synthetic_test_names_the_trace_of_the_first_span(exporter):
    tracekit.configure(formats=[DATADOG], exporter=exporter)
    request = {**IDS, "x-datadog-parent-id": "0", "x-datadog-origin": "synthetics"}
    with tracekit.span("serve", parent=tracekit.extract(request)) as span:
        assert written(span.context)["origin"] == "synthetics"
    assert (span.context.trace_id, span.parent) == ("0" * 16 + LOW, None)


def test_it_is_the_same_trace_as_the_traceparent_beside_it():
    tracekit.configure(formats=[TRACECONTEXT, DATADOG])
    request = {"traceparent": f"00-{HIGH}{LOW}-{SPAN_ID}-01", **IDS, "x-datadog-tags": TID, "x-datadog-origin": "rum"}
    context = tracekit.extract(request)
    assert tracekit.inject({}, context) == request | {"x-datadog-sampling-priority": "1"}


@pytest.mark.parametrize(
    "kept",
    [
        None,
        5,
        "origin",
        b"origin",
        (None,),
        ("ab",),
        (("origin",),),
        (("origin", "rum", "x"),),
        (("origin", 5),),
        (("origin", b"rum"),),
        ((b"origin", "rum"),),
        (("other", "rum"),),
        (("origin", ""),),
        (("origin", "r" * 257),),
        (("origin", " rum"),),
        (("origin", "rum\r\nset-cookie: a"),),
        (("origin", "rum\n"),),
        (("origin", "\0"),),
        (("origin", "\xe9"),),
        (("origin", "\udc80"),),
        (("priority", "3"),),
        (("priority", "1\r\n"),),
        (("priority", "\uff11"),),
        (("priority", ""),),
        (("tags", "a=b"),),
        (("tags", "_dd.p.a"),),
        (("tags", "_dd.p.a="),),
        (("tags", "_dd.p. a=b"),),
        (("tags", "_dd.p.a= b"),),
        (("tags", "_dd.p.a=b "),),
        (("tags", "_dd.p.a=b\r\nset-cookie: c"),),
        (("tags", "_dd.p.a=\0"),),
        (("tags", "_dd.p.a=\xe9"),),
        (("tags", "_dd.p.a=\udc80"),),
    ],
)
def test_words_that_no_header_can_hold_are_omitted_and_counted(kept):
    bare = SpanContext("0" * 16 + LOW, SPAN_ID, deferred=True)
    assert written(bare.replace(extra={"datadog": kept})) == {}
    assert DATADOG.left_out == 1


def test_a_malformed_tag_does_not_affect_the_others():
    assert written(made(tags="_dd.p.dm=-4,user=x,_dd.p.a=\r\n,,_dd.p.b=c"))["tags"] == f"_dd.p.dm=-4,_dd.p.b=c,{TID}"
    assert DATADOG.left_out == 2


TEXT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters=","), min_size=1, max_size=9)
TAGS = st.dictionaries(
    TEXT.map(lambda text: "_dd.p." + text.replace(" ", "_").replace("=", "_")),
    TEXT.map(lambda text: text.strip() or "x"),
    max_size=8,
).map(lambda tags: ",".join(f"{key}={value}" for key, value in tags.items() if key != "_dd.p.tid"))
ORIGINS = TEXT.map(str.strip)


@given(context=CONTEXTS, tags=TAGS, origin=ORIGINS, is_user=st.booleans(), is_root=st.booleans())
@some
def test_a_written_context_reads_back_equal(context, tags, origin, is_user, is_root):
    trace_id, span_id, flags = context.trace_id, context.span_id, context.flags
    if trace_id.endswith("0" * 16):
        trace_id = trace_id[:16] + LOW
    priority = None if context.deferred else {False: ("0", "1"), True: ("-1", "2")}[is_user][flags]
    if trace_id[:16] != "0" * 16:
        tags = f"{tags},_dd.p.tid={trace_id[:16]}".lstrip(",")
    words = {"priority": priority, "origin": origin, "tags": tags}
    kept = tuple((key, word) for key, word in words.items() if word)
    context = SpanContext(
        trace_id,
        "0" * 16 if is_root else span_id,
        flags,
        deferred=context.deferred,
        is_remote=True,
        extra={"datadog": kept} if kept else {},
    )
    carrier = {}
    DATADOG.write(context, carrier)
    assert DATADOG.read(carrier) == context
    pairs = [(b"Host", b"x")]
    DATADOG.write(DATADOG.read([(name.title().encode(), text.encode()) for name, text in carrier.items()]), pairs)
    assert {name.decode(): text.decode() for name, text in pairs[1:]} == carrier


WORDS = ["priority", "origin", "tags", "error", "1", "2", "-1", "rum", TID, "_dd.p.a=b", "_dd.p.a=b,c", "_dd.p.tid=x"]


@given(context=CONTEXTS, kept=extras(WORDS))
@some
def test_hostile_extra_splits_no_header_and_changes_no_ids(context, kept):
    if not context.trace_id.endswith("0" * 16):
        again = dict(write_hostile(DATADOG, context, kept).extra.get("datadog", ()))
        shown = repr(kept)
        assert repr(again.get("origin", ""))[1:-1] in shown
        assert all(repr(tag)[1:-1] in shown for tag in again.get("tags", "").split(",") if "_dd.p.tid=" not in tag)


VALUES = TEXTS | st.sampled_from(
    [*IDS.values(), *IDS.values(), "0", "1", "2", "-1", "rum", TID, "_dd.p.dm=-4", f"_dd.p.dm=-4,{TID},a=b"]
)


@given(pairs=st.lists(st.tuples(st.sampled_from(DATADOG.fields), VALUES), max_size=6))
@some
def test_any_text_is_read_or_rejected(pairs):
    tracekit.configure(formats=[DATADOG])
    if "error" in dict((tracekit.extract(pairs) or SpanContext()).extra.get("datadog", ())):
        pairs = [pair for pair in pairs if pair[0] != "x-datadog-tags"]
    reads_or_rejects(DATADOG, pairs)


@pytest.mark.parametrize(
    ("field", "text"),
    [("x-datadog-trace-id", "1"), ("x-datadog-parent-id", "1"), ("x-datadog-sampling-priority", "1")],
)
def test_a_repeated_field_is_rejected_by_its_name(field, text):
    with pytest.raises(FormatError, match="2 values, must be one") as caught:
        DATADOG.read([*{**IDS, field: text}.items(), (field.title(), text)])
    assert caught.value.field == field


def test_a_repeated_origin_or_repeated_tags_are_dropped_alone():
    fields = {**IDS, "x-datadog-origin": ["rum", "rum"], "x-datadog-tags": [TID, TID]}
    assert DATADOG.read(fields) == DATADOG.read(IDS).replace(extra={"datadog": (("error", "decoding_error"),)})


def test_the_name_and_fields_of_the_format():
    assert DATADOG.name == "datadog"
    assert DATADOG.fields == (
        "x-datadog-trace-id",
        "x-datadog-parent-id",
        "x-datadog-sampling-priority",
        "x-datadog-origin",
        "x-datadog-tags",
    )
