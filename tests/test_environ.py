"""The environment as a carrier: a program that is started with it joins the trace, and names its own to those it starts."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

import tracekit
from tracekit import _propagation
from tracekit.processes import environ
from tracekit.testing import MemoryExporter, span_tree

from .tools.vectors import BAD_TRACEPARENTS, SPAN_ID, TRACE_ID, TRACEPARENT, UNSAMPLED

PROGRAM = """
    import sys
    import tracekit
    from tracekit.testing import MemoryExporter

    def here():
        context = tracekit.current_context()
        if context is None:
            return print("nothing")
        print(context.trace_id, context.span_id, context.flags, context.is_remote, str(context.state), dict(context.labels))

"""


def run(program, **variables):
    """Run *program* in a process with *variables* in its environment; return the lines that it prints."""
    kept = {name: value for name, value in os.environ.items() if name not in {"TRACEPARENT", "TRACESTATE", "BAGGAGE"}}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(PROGRAM) + textwrap.dedent(program)],
        env=kept | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


# ---- configure() joins


def test_a_program_joins_the_trace_that_its_environment_names():
    program = """
        tracekit.configure(exporter=(exporter := MemoryExporter()))
        here()
        with tracekit.span("main"):
            tracekit.span("part").end()
        for span in exporter:
            print(span.name, span.context.trace_id, span.parent.is_remote, str(span.context.state), dict(span.context.labels))
        """
    found = run(program, TRACEPARENT=TRACEPARENT, TRACESTATE="vendor=1", BAGGAGE="tenant=acme,user=Am%C3%A9lie")
    labels = {"tenant": "acme", "user": "Amélie"}
    assert found == [
        f"{TRACE_ID} {SPAN_ID} 1 True vendor=1 {labels}",
        f"part {TRACE_ID} False vendor=1 {labels}",
        f"main {TRACE_ID} True vendor=1 {labels}",
    ]


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, "nothing"),
        ({"TRACEPARENT": UNSAMPLED}, f"{TRACE_ID} {SPAN_ID} 0 True  {{}}"),
        ({"BAGGAGE": "a=1"}, f"{'0' * 32} {'0' * 16} 0 False  {{'a': '1'}}"),
        ({"TRACESTATE": "vendor=1"}, "nothing"),
        ({"TRACEPARENT": ""}, "nothing"),
        ({"TRACEPARENT": "garbage", "BAGGAGE": "a=1"}, f"{'0' * 32} {'0' * 16} 0 False  {{'a': '1'}}"),
        ({"TRACEPARENT": TRACEPARENT, "TRACESTATE": "no state", "BAGGAGE": "é"}, f"{TRACE_ID} {SPAN_ID} 1 True  {{}}"),
        ({"traceparent": TRACEPARENT, "HTTP_TRACEPARENT": TRACEPARENT}, "nothing"),
    ],
    ids=["absent", "unsampled", "labels only", "state only", "empty", "malformed", "malformed rest", "other names"],
)
def test_what_the_environment_names_is_current_from_the_first_configure_on(variables, found):
    program = """
        here()
        tracekit.configure()
        here()
        """
    assert run(program, **variables) == ["nothing", found]


def test_the_second_configure_does_not_join_again():
    program = """
        tracekit.configure()
        with tracekit.use_context(None):
            tracekit.configure()
            here()
        """
    assert run(program, TRACEPARENT=TRACEPARENT) == ["nothing"]


def test_what_is_current_already_stays_current():
    program = """
        with tracekit.use_context(tracekit.SpanContext("a" * 32, "b" * 16, 1)):
            tracekit.configure()
            here()
        here()
        """
    assert run(program, TRACEPARENT=TRACEPARENT) == [f"{'a' * 32} {'b' * 16} 1 False  {{}}", "nothing"]


def test_threads_of_the_program_do_not_join_by_themselves():
    program = """
        import contextvars, threading
        tracekit.configure()
        contextvars.Context().run(here)
        here()
        """
    assert run(program, TRACEPARENT=TRACEPARENT)[0] == "nothing"


# ---- from process to process


def test_a_subprocess_with_environ_continues_the_trace():
    exporter = MemoryExporter()
    tracekit.configure(exporter=exporter)
    program = """
        import os, subprocess
        from tracekit.processes import environ
        tracekit.configure(exporter=MemoryExporter())
        here()
        with tracekit.span("child") as child:
            print(child.context.span_id, flush=True)
            if os.environ.get("DEPTH") == "1":
                sys.exit()
            subprocess.run([sys.executable, "-c", sys.argv[1] if sys.argv[1:] else PROGRAM], env=environ() | {"DEPTH": "1"})
        """
    with tracekit.span("parent") as parent, tracekit.use_labels(tenant="ačme"):
        source = textwrap.dedent(PROGRAM) + textwrap.dedent(program)
        done = subprocess.run(
            [sys.executable, "-c", source, source], env=environ(), capture_output=True, text=True, timeout=60
        )
    assert done.stderr == ""
    first, child, second, _ = done.stdout.splitlines()
    end = f"{parent.context.flags} True  {{'tenant': 'ačme'}}"
    assert first == f"{parent.context.trace_id} {parent.context.span_id} {end}"
    assert second == f"{parent.context.trace_id} {child} {end}"
    assert span_tree(exporter.spans) == "parent"


# ---- the functions below


def test_environ_of_writes_over_what_was_there_and_takes_out_what_is_not_so_any_more():
    stale = {"TRACEPARENT": "stale", "TRACESTATE": "stale=1", "BAGGAGE": "stale=1", "OTHER": "kept"}
    with tracekit.use_context(tracekit.SpanContext(TRACE_ID, SPAN_ID, 1)):
        assert _propagation.environ_of(stale) == {"TRACEPARENT": TRACEPARENT, "OTHER": "kept"}
        with tracekit.use_labels(a="1"):
            assert _propagation.environ_of({}) == {"TRACEPARENT": TRACEPARENT, "BAGGAGE": "a=1"}
    assert stale["TRACEPARENT"] == "stale"


def test_environ_of_without_anything_current_is_a_plain_copy():
    variables = {"TRACEPARENT": TRACEPARENT, "OTHER": "kept"}
    copy = _propagation.environ_of(variables)
    assert copy == variables
    assert copy is not variables


@pytest.mark.parametrize("text", BAD_TRACEPARENTS.values(), ids=BAD_TRACEPARENTS)
def test_a_bad_variable_counts_as_absent(text):
    if not isinstance(text, str):
        text = text[0]
    assert _propagation.extract_environ({"TRACEPARENT": text}) is None


def test_extract_environ_reads_what_environ_of_wrote():
    state = tracekit.TraceState.parse("vendor=1")
    context = tracekit.SpanContext(TRACE_ID, SPAN_ID, 3, state=state, labels=tracekit.Labels({"k": "ü, ;=%"}))
    with tracekit.use_context(context):
        variables = _propagation.environ_of({})
    assert _propagation.extract_environ(variables) == context.replace(is_remote=True)
    assert _propagation.extract_environ({}) is None
    assert all(isinstance(value, str) and "\n" not in value for value in variables.values())
