from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracekit
from tracekit import FormatError, Labels, SpanContext, TraceState, _propagation
from tracekit.wire.b3 import MULTI, SINGLE
from tracekit.wire.environ import ENVIRON, variable
from tracekit.wire.grpc_bin import BINARY
from tracekit.wire.jaeger import JAEGER
from tracekit.wire.ottrace import OTTRACE
from tracekit.wire.w3c import BAGGAGE, TRACECONTEXT

from .strategies import TEXTS
from .vector_files import cases, described, expected, good_cases

TRACE_ID, SPAN_ID = "80f198ee56343ba864fe8b2a57d3eff7", "e457b5a2e4d86bd1"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"
CONTEXT = SpanContext(
    TRACE_ID, SPAN_ID, 1, state=TraceState({"a": "1"}), labels=Labels({"plan": "pro", "user_id": "7"}), is_remote=True
)

some = settings(max_examples=300, deadline=None, derandomize=True, database=None)


@pytest.mark.parametrize("case", cases("environ"))
def test_the_vector_is_read(case):
    if case.error is None:
        assert described(ENVIRON.read(case.carrier)) == expected(case)
    else:
        with pytest.raises(FormatError) as caught:
            ENVIRON.read(case.carrier)
        assert case.error in str(caught.value)
    assert described(_propagation.extract_environ(case.carrier)) == expected(case)


@pytest.mark.parametrize("case", good_cases("environ"))
def test_a_read_context_is_written_again(case):
    context = ENVIRON.read(case.carrier)
    environ = {"PATH": "/bin", "TRACEPARENT": "stale", "TRACESTATE": "stale", "BAGGAGE": "stale"}
    ENVIRON.write(context, environ)
    assert environ.pop("PATH") == "/bin"
    assert ENVIRON.read(environ) == context
    if case.canonical:
        assert environ == case.carrier


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("traceparent", "TRACEPARENT"),
        ("b3", "B3"),
        ("x-b3-traceid", "X_B3_TRACEID"),
        ("uber-trace-id", "UBER_TRACE_ID"),
        ("uberctx-", "UBERCTX_"),
        ("X-Amzn-Trace-Id", "X_AMZN_TRACE_ID"),
        ("a.b c/d", "A_B_C_D"),
        ("snake_case", "SNAKE_CASE"),
        ("1st", "_1ST"),
        ("", "_"),
        ("-", "_"),
        ("\xe9t\xe9", "_T_"),
        ("\xdf\ufb01\u212a\u0131", "____"),
        ("\u0661", "_"),
        ("a\0\r\n", "A___"),
    ],
)
def test_the_variable_of_a_field_has_its_normalized_name(field, name):
    assert variable(field) == name


@given(field=st.text(max_size=20))
@some
def test_every_variable_name_is_legal_and_normalizes_to_itself(field):
    name = variable(field)
    assert name.replace("_", "A").isalnum()
    assert name.isascii()
    assert name == name.upper()
    assert not name[0].isdigit()
    assert variable(name) == name


FORMATS = [TRACECONTEXT, BAGGAGE, SINGLE, MULTI, JAEGER, OTTRACE, BINARY]


@pytest.mark.parametrize("formats", [[format] for format in FORMATS if format is not BAGGAGE] + [FORMATS])
def test_a_context_of_every_format_survives_the_environment(formats):
    tracekit.configure(formats=formats)
    with tracekit.use_context(CONTEXT):
        environ = _propagation.environ_of({"PATH": "/bin"})
    assert environ.pop("PATH") == "/bin"
    assert all(isinstance(value, str) and value.isascii() and value.isprintable() for value in environ.values())
    assert all(name == variable(name) for name in environ)
    assert _propagation.extract_environ(environ) == tracekit.extract(tracekit.inject({}, CONTEXT))


@pytest.mark.parametrize(("format", "prefix"), [(JAEGER, "UBERCTX_"), (OTTRACE, "OT_BAGGAGE_")])
def test_labels_that_no_variable_can_name_are_omitted_and_counted(format, prefix):
    tracekit.configure(formats=[format])
    labels = {"a_b": "1", "a-b": "2", "a.b": "3", "9": "4"}
    with tracekit.use_context(CONTEXT.replace(labels=Labels(labels))):
        environ = _propagation.environ_of({})
    assert {name: value for name, value in environ.items() if name.startswith(prefix)} == {
        f"{prefix}A_B": "1",
        f"{prefix}9": "4",
    }
    assert _propagation.extract_environ(environ).labels == {"a_b": "1", "9": "4"}
    assert ENVIRON.left_out == 2


def test_stale_variables_are_removed():
    tracekit.configure(formats=[TRACECONTEXT, BAGGAGE, JAEGER])
    stale = {"TRACEPARENT": "x", "TRACESTATE": "x", "BAGGAGE": "x", "UBER_TRACE_ID": "x", "JAEGER_BAGGAGE": "x"}
    others = {
        "PATH": "/bin",
        "traceparent": "mine",
        "UBERCTX": "mine",
        "UBERCTX_": "mine",
        "uberctx_old": "mine",
        "UBERCTX_Old": "mine",
    }
    given = {**stale, **others, "UBERCTX_OLD": "x"}
    with tracekit.use_context(SpanContext(TRACE_ID, SPAN_ID, 1)):
        environ = _propagation.environ_of(given)
    assert environ == {**others, "TRACEPARENT": PARENT, "UBER_TRACE_ID": f"{TRACE_ID}:{SPAN_ID}:0:1"}
    assert given["TRACEPARENT"] == "x", "the caller's is a copy"


def test_variables_without_a_field_are_not_read():
    tracekit.configure(formats=[JAEGER])
    environ = {"UBER_TRACE_ID": f"{TRACE_ID}:{SPAN_ID}:0:1", "UBERCTX_A": "1"}
    others = {"UBERCTX_": "2", "UBERCTX_Old": "3", "uberctx_b": "4", "UBERCTX-C": "5", "HTTP_UBERCTX_D": "6"}
    others |= {b"UBERCTX_E": "7", None: "8", 5: "9"}
    labels = _propagation.extract_environ({**others, **environ}).labels
    assert (dict(labels), labels.dropped) == ({"a": "1"}, 0)


def test_without_a_current_context_the_environment_is_unchanged():
    given = {"TRACEPARENT": PARENT, "PATH": "/bin"}
    assert _propagation.environ_of(given) == given


def test_a_context_without_ids_removes_the_ids_of_another():
    environ = {"TRACEPARENT": PARENT, "TRACESTATE": "a=1", "BAGGAGE": "a=1", "PATH": "/bin"}
    ENVIRON.write(SpanContext(), environ)
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize("context", [None, 5, PARENT])
def test_only_a_context_can_be_written(context):
    environ = {"TRACEPARENT": PARENT}
    with pytest.raises(TypeError, match=r"^context must be a SpanContext"):
        ENVIRON.write(context, environ)
    assert environ == {"TRACEPARENT": PARENT}


def test_the_environment_of_this_process_is_a_carrier(monkeypatch):
    monkeypatch.setenv("TRACEPARENT", "stale")
    monkeypatch.setenv("TRACESTATE", "stale")
    monkeypatch.setenv("BAGGAGE", "stale")
    ENVIRON.write(SpanContext(TRACE_ID, SPAN_ID, 1, is_remote=True), os.environ)
    assert "TRACESTATE" not in os.environ
    assert ENVIRON.read(os.environ) == SpanContext(TRACE_ID, SPAN_ID, 1, is_remote=True)


def test_a_process_started_with_it_is_in_the_trace():
    tracekit.configure(formats=[BINARY, JAEGER])
    with tracekit.use_context(CONTEXT):
        environ = _propagation.environ_of(os.environ)
    program = (
        "import tracekit; from tracekit.wire.grpc_bin import BINARY; from tracekit.wire.jaeger import JAEGER\n"
        "tracekit.configure(formats=[BINARY, JAEGER])\n"
        "print(tracekit.current_context().trace_id, dict(tracekit.current_labels()))"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{TRACE_ID} {dict(CONTEXT.labels)}"


NAMES = st.sampled_from(
    ["TRACEPARENT", "TRACESTATE", "BAGGAGE", "B3", "UBER_TRACE_ID", "UBERCTX_A", "UBERCTX_", "GRPC_TRACE_BIN"]
)


@given(environ=st.dictionaries(NAMES, TEXTS, max_size=5))
@some
def test_any_text_is_read_or_rejected(environ):
    try:
        context = ENVIRON.read(environ)
    except FormatError:
        context = None
    else:
        assert context == _propagation.extract_environ(environ)
    tracekit.configure(formats=FORMATS)
    _propagation.extract_environ(environ)
    tracekit.configure()


def test_the_name_and_fields_of_the_format():
    assert (ENVIRON.name, ENVIRON.fields) == ("environ", ("traceparent", "tracestate", "baggage"))
