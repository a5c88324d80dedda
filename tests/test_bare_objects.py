"""None, objects made by ``__new__`` alone and objects of other classes, for everything compiled: never a crash."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import tracekit

from .tools.api_fuzz import bare

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.skipif(tracekit.IMPLEMENTATION == "plain", reason="only C reads fields of None")
def test_nothing_compiled_crashes_for_objects_without_fields():
    command = [sys.executable, "-m", "tests.tools.api_fuzz.bare"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    count = int(done.stdout.rsplit("\n", 2)[-2].partition(" ")[0])
    assert count > 100


def test_a_proxy_without_its_inner_object_has_no_attributes_instead_of_endless_recursion():
    from tracekit import _import_hook
    from tracekit.exporters import flight
    from tracekit.integrations import _grpc, _grpc_calls

    for kind in (_import_hook._Loader, flight._OpenSpan, _grpc.Counted, _grpc_calls._UnaryUnary):
        with pytest.raises(AttributeError):
            kind.__new__(kind).anything


def test_a_crash_is_detected_with_the_last_call(monkeypatch):
    def crash(*arguments):
        if len(arguments) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    assert bare.crash_of(crash) == f"signal 9: {bare.name_of(crash)}(NoneType, NoneType)"
    assert bare.crash_of(len) is None


def test_a_method_that_takes_any_self_is_reported():
    class Lenient:
        def method(self):
            return self

    called = []
    with pytest.raises(AssertionError, match=r"Lenient\.method"):
        bare.call_unbound(called.append, Lenient, [])
    assert called == [f"{bare.name_of(Lenient)}.method(object)"]


METHODS = {
    tracekit.Span.end: ["self", "end_ns"],
    tracekit.Span.add_event: ["self", "name", "attributes", "time_ns"],
    tracekit.Span.__exit__: ["self", "kind", "exc", "traceback"],
    tracekit.SpanContext.replace: ["self", "state", "labels", "is_remote", "extra"],
}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__qualname__)
def test_inspect_tells_the_parameters_of_methods(method):
    assert list(inspect.signature(method).parameters) == METHODS[method]


def test_docstrings_have_no_signature():
    assert tracekit.Span.end.__doc__.startswith("End the span, now or")
    assert tracekit.Span.__doc__.startswith("A unit of work")
    assert tracekit.Span.kind.__doc__.startswith("The span's side")
    assert tracekit.span.__doc__.startswith("Start a span")
    assert inspect.signature(tracekit.span).parameters["parent"].annotation == "Span | SpanContext | Root | None"
