from __future__ import annotations

from collections import UserDict

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracekit
from tracekit import Labels, SpanContext
from tracekit.testing import MemoryExporter
from tracekit.wire.jaeger import JAEGER

from .strategies import CONTEXTS, TEXTS, reads_or_rejects
from .vector_files import cases, check_extract, check_read, check_write, good_cases

TRACE_ID, SPAN_ID = "80f198ee56343ba864fe8b2a57d3eff7", "e457b5a2e4d86bd1"
IDS = f"{TRACE_ID}:{SPAN_ID}:0"

some = settings(max_examples=300, deadline=None, derandomize=True, database=None)


def written(context, carrier=None):
    carrier = {} if carrier is None else carrier
    JAEGER.write(context, carrier)
    return carrier


@pytest.mark.parametrize("case", cases("jaeger"))
def test_the_vector_is_read(case):
    check_read(JAEGER, case)
    check_extract(JAEGER, case)


def _is_undecided(case):
    # Peers reject empty flags, so a context without a decision is written as not sampled.
    return case.context["deferred"] and case.context["span_id"].strip("0")


@pytest.mark.parametrize("case", [case for case in good_cases("jaeger") if not _is_undecided(case.values[0])])
def test_a_read_context_is_written_again(case):
    check_write(JAEGER, case)
    assert JAEGER.left_out == 0


def extra(*pairs):
    return {"jaeger": pairs}


@pytest.mark.parametrize(
    ("context", "carrier"),
    [
        (SpanContext(TRACE_ID, SPAN_ID, 1), {"uber-trace-id": f"{IDS}:1"}),
        (SpanContext(TRACE_ID, SPAN_ID, 3), {"uber-trace-id": f"{IDS}:1"}),
        (SpanContext(TRACE_ID, SPAN_ID), {"uber-trace-id": f"{IDS}:0"}),
        (SpanContext(TRACE_ID, SPAN_ID, deferred=True), {"uber-trace-id": f"{IDS}:0"}),
        (SpanContext("0" * 16 + SPAN_ID, SPAN_ID), {"uber-trace-id": f"{SPAN_ID}:{SPAN_ID}:0:0"}),
        (SpanContext(f"{5:032x}", f"{6:016x}"), {"uber-trace-id": f"{5:016x}:{6:016x}:0:0"}),
        (SpanContext(f"{5 << 64:032x}", SPAN_ID), {"uber-trace-id": f"{5 << 64:032x}:{SPAN_ID}:0:0"}),
        (SpanContext(TRACE_ID, SPAN_ID, 1, extra=extra(("flags", "2"))), {"uber-trace-id": f"{IDS}:3"}),
        (SpanContext(TRACE_ID, SPAN_ID, 0, extra=extra(("flags", "2"))), {"uber-trace-id": f"{IDS}:0"}),
        (SpanContext(TRACE_ID, SPAN_ID, 0, extra=extra(("flags", "a"))), {"uber-trace-id": f"{IDS}:8"}),
        (SpanContext(TRACE_ID, SPAN_ID, 0, extra=extra(("flags", "9"))), {"uber-trace-id": f"{IDS}:8"}),
        (SpanContext(TRACE_ID, SPAN_ID, 1, extra=extra(("debug-id", "x"))), {"uber-trace-id": f"{IDS}:1"}),
        (SpanContext(flags=1, extra=extra(("debug-id", "x"))), {"jaeger-debug-id": "x"}),
        (SpanContext(flags=1, extra=extra(("debug-id", "\r\n\0\xe9"))), {"jaeger-debug-id": "%0D%0A%00%C3%A9"}),
        (SpanContext(flags=1), {}),
        (SpanContext(TRACE_ID), {}),
        (SpanContext(labels=Labels({"k": "a b"})), {"uberctx-k": "a%20b"}),
        (SpanContext(), {}),
    ],
)
def test_a_context_is_written(context, carrier):
    assert written(context) == carrier
    stale = {"Uber-Trace-Id": "x", "JAEGER-DEBUG-ID": "x", "jaeger-baggage": "x=1", "Uberctx-Old": "1", "host": "x"}
    assert written(context, stale) == {"host": "x", **carrier}


@pytest.mark.parametrize(
    "words",
    ["debug", b"\x02", 5, None, (), ("flags",), (5,), (("flags", 2),), (("flags", ""),), (("flags", "222"),),
     (("flags", "zz"),), (("flags", "2", "3"),), (("debug-id", None),), (("debug-id", ""),)],
)  # fmt: skip
def test_invalid_words_are_omitted(words):
    assert written(SpanContext(TRACE_ID, SPAN_ID, 1, extra={"jaeger": words})) == {"uber-trace-id": f"{IDS}:1"}
    assert written(SpanContext(flags=1, extra={"jaeger": words})) == {}


@pytest.mark.parametrize(
    "carrier",
    [
        {"Uber-Trace-Id": f"{IDS}:1", "Uberctx-Tenant": "acme"},
        {"HTTP_UBER_TRACE_ID": f"{IDS}:1", "HTTP_UBERCTX_TENANT": "acme"},
        [("uber-trace-id", f"{IDS}:1"), ("UBERCTX-TENANT", "acme")],
        [(b"uber-trace-id", f"{IDS}:1".encode()), (b"uberctx-tenant", b"acme")],
        httpx.Headers({"uber-trace-id": f"{IDS}:1", "uberctx-tenant": "acme"}),
    ],
)
def test_labels_are_found_by_their_prefix_in_every_shape_of_carrier(carrier):
    context = SpanContext(TRACE_ID, SPAN_ID, 1, labels=Labels({"tenant": "acme"}), is_remote=True)
    assert JAEGER.read(carrier) == context
    if isinstance(carrier, list):
        assert JAEGER.read(iter(carrier)) == context
        assert JAEGER.read(tuple(carrier)) == context


@pytest.mark.parametrize("make", [dict, list, httpx.Headers])
def test_stale_labels_are_removed(make):
    carrier = make([("Uberctx-Old", "1"), ("uberctx-plan", "free"), ("accept", "*/*")])
    JAEGER.write(SpanContext(TRACE_ID, SPAN_ID, 1, labels=Labels({"plan": "pro"})), carrier)
    assert dict(carrier) == {"accept": "*/*", "uber-trace-id": f"{IDS}:1", "uberctx-plan": "pro"}
    assert JAEGER.read(carrier).labels == {"plan": "pro"}


def test_parts_that_the_format_cannot_express_are_omitted_and_counted():
    labels = Labels([("k", "1"), ("userId", "7"), ("k", "2")]).with_member("p", "3", [("a", None), ("b", "c")])
    assert written(SpanContext(labels=labels)) == {"uberctx-k": "2", "uberctx-p": "3"}
    assert JAEGER.left_out == 4, "userId, the first k, and two properties"


@pytest.mark.parametrize(("text", "left_out"), [("=" * 5461 + "x", 0), ("=" * 5462, 1)], ids=["fits", "too long"])
def test_a_label_that_is_too_long_when_encoded_is_omitted_and_counted(text, left_out):
    carrier = written(SpanContext(labels=Labels({"k": text})))
    assert (len(carrier), JAEGER.left_out) == (1 - left_out, left_out)
    pairs = [(name.encode(), value.encode()) for name, value in carrier.items()]
    assert JAEGER.read(pairs) == (SpanContext(labels=Labels({"k": text})) if carrier else None)
    assert JAEGER.read([(b"uberctx-k", b"x" * 20_000)]) is None, "none of it"


@pytest.mark.parametrize(("text", "left_out"), [("x" * 256, 0), ("x" * 257, 1), ("\xe9" * 42, 0), ("\xe9" * 43, 1)])
def test_a_debug_id_that_is_too_long_is_omitted_and_counted(text, left_out):
    carrier = written(SpanContext(flags=1, extra=extra(("debug-id", text))))
    assert (len(carrier), JAEGER.left_out) == (1 - left_out, left_out)
    if carrier:
        assert ("debug-id", text) in JAEGER.read(carrier).extra["jaeger"]


def test_a_label_whose_name_is_too_long_to_be_read_again_is_omitted_and_counted():
    labels = Labels({"k" * 248: "1", "k" * 249: "2"})
    assert JAEGER.read(written(SpanContext(labels=labels))).labels == {"k" * 248: "1"}
    assert JAEGER.left_out == 1


def test_every_stale_label_is_removed_however_many_there_are():
    stale = {f"uberctx-k{at}": "v" * 1000 for at in range(200)}
    for carrier in (dict(stale), UserDict(stale), list(stale.items())):
        written(SpanContext(labels=Labels({"k": "v"})), carrier)
        assert list(carrier) in (["uberctx-k"], [("uberctx-k", "v")])


def test_labels_past_64_or_8192_bytes_are_dropped():
    many = {f"uberctx-k{at:02d}": "v" for at in range(100)}
    assert list(JAEGER.read(many).labels) == [f"k{at:02d}" for at in range(64)]
    large = JAEGER.read({f"uberctx-k{at}": "v" * 1000 for at in range(10)}).labels
    assert (list(large), large.dropped) == ([f"k{at}" for at in range(8)], 2)
    assert len(str(large)) <= 8192
    both = JAEGER.read({"jaeger-baggage": ",".join(f"j{at}=1" for at in range(40)), **many}).labels
    assert (len(both), both.dropped) == (64, 40)


@pytest.mark.parametrize(
    "text", ["a\r\nset-cookie: b", "a\nb", "a\0b", "a b ", " ", "+", "%", "%41", "a,b=c;d", "\xe9\u20ac\U0001f419", "\x7f\x1b[0m", "\"'\\"]
)  # fmt: skip
def test_labels_split_no_header_and_read_back_equal(text):
    carrier = written(SpanContext(TRACE_ID, SPAN_ID, 1, labels=Labels({"k": text})))
    request = httpx.Request("GET", "http://shop.example/", headers=carrier)
    assert all("!" <= char <= "~" for char in request.headers["uberctx-k"])
    assert JAEGER.read(request.headers).labels == {"k": text}


def test_debug_is_kept_through_spans():
    tracekit.configure(exporter=MemoryExporter(), formats=[JAEGER])
    with tracekit.span("serve", parent=tracekit.extract({"uber-trace-id": f"{IDS}:b"})) as span:
        assert tracekit.inject({}) == {"uber-trace-id": f"{TRACE_ID}:{span.context.span_id}:0:b"}


def test_a_debug_id_starts_a_sampled_debug_trace_and_is_kept():
    memory = MemoryExporter()
    tracekit.configure(exporter=memory, formats=[JAEGER], sampler=tracekit.AlwaysOff())
    parent = tracekit.extract({"jaeger-debug-id": "ticket-7", "jaeger-baggage": "tenant=acme"})
    with tracekit.span("serve", parent=parent) as span:
        headers = tracekit.inject({})
    ids = f"{span.context.trace_id}:{span.context.span_id}"
    assert headers == {"uber-trace-id": f"{ids}:0:3", "uberctx-tenant": "acme"}
    assert ("debug-id", "ticket-7") in span.context.extra["jaeger"]
    assert memory.spans == [span]


VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
KEYS = st.text("abc-_.~!#$%&'*+^`|019", min_size=1, max_size=8)


@given(context=CONTEXTS.filter(lambda context: not context.deferred), labels=st.dictionaries(KEYS, VALUES, max_size=5),
       bits=st.integers(0, 127).map(lambda bits: bits << 1))  # fmt: skip
@some
def test_a_written_context_reads_back_equal(context, labels, bits):
    words = extra(("flags", f"{bits & ~2 if not context.sampled else bits:x}"))
    context = context.replace(labels=Labels(labels), extra=words if words["jaeger"][0][1] != "0" else {})
    carrier = written(context)
    assert JAEGER.read(carrier) == context
    assert written(JAEGER.read(carrier)) == carrier


NAMES = st.sampled_from(
    [*JAEGER.fields, *JAEGER.fields, "uberctx-", "uberctx-a", "uberctx-b", "UBERCTX-A", "uberctx-\xe9 "]
)


@given(pairs=st.lists(st.tuples(NAMES, TEXTS), max_size=6))
@some
def test_any_text_is_read_or_rejected(pairs):
    reads_or_rejects(JAEGER, pairs)


def test_the_name_and_fields_of_the_format():
    assert (JAEGER.name, JAEGER.prefixes) == ("jaeger", ("uberctx-",))
    assert JAEGER.fields == ("uber-trace-id", "jaeger-debug-id", "jaeger-baggage")
