"""The calls that CPython makes for ``with span()``: compiled, they take a shorter way than calls in general."""

import copy
from contextlib import ExitStack

import pytest

import tracekit
from tracekit import Span, span


def test_a_bound_enter_or_exit_behaves_as_a_method():
    work = span("work")
    assert work.__enter__ == work.__enter__
    assert work.__enter__ != work.__exit__
    assert work.__enter__ != span("other").__enter__
    assert hash(work.__enter__) == hash(work.__enter__)
    assert work.__enter__.__self__ is work
    assert work.__exit__.__name__ == "__exit__"
    assert "__enter__" in repr(work.__enter__)
    assert copy.copy(work.__enter__) == copy.deepcopy(work.__enter__) == work.__enter__
    with pytest.raises(AttributeError):
        work.__enter__.no_such_name


def test_enter_and_exit_take_the_arguments_that_they_declare_and_no_others():
    work = span("work")
    with pytest.raises(TypeError):
        work.__enter__(1)
    with pytest.raises(TypeError):
        work.__exit__()
    with pytest.raises(TypeError):
        work.__exit__(None, None)
    assert Span.__enter__(work) is work
    work.__exit__(kind=None, exc=None, traceback=None)
    assert work.ended


def test_enter_and_exit_are_methods_of_spans_alone():
    for name in ("__enter__", "__exit__"):
        method = Span.__dict__[name]
        assert method.__name__ == name
        if tracekit.IMPLEMENTATION == "compiled":
            with pytest.raises(TypeError):
                method.__get__(object())


def test_an_exit_stack_enters_and_ends_spans():
    with ExitStack() as stack:
        opened = [stack.enter_context(span(str(at))) for at in range(50)]
        assert tracekit.current_span() is opened[-1]
    assert all(each.ended for each in opened)
    assert tracekit.current_span() is None


def test_an_exit_that_is_kept_keeps_the_span():
    leave = span("work").__exit__
    assert leave.__self__.name == "work"
    leave(None, None, None)
    assert leave.__self__.ended


def test_the_attributes_of_the_short_call_are_those_of_every_other(exporter):
    name, key = "work", "".join(["attri", "butes"])  # not interned
    span(name, attributes={"a": 1}).end()
    span(name, **{key: {"a": 1}}).end()
    span(name=name, attributes={"a": 1}).end()
    span(name, attributes={"a": 1}, kind="internal").end()
    tracekit.flush(60)
    assert [each.attributes for each in exporter.spans] == [{"a": 1}] * 4


def test_the_short_call_rejects_what_every_other_call_rejects():
    with pytest.raises(TypeError):
        span("work", attributes=3)  # strict in these tests
    with pytest.raises(TypeError):
        span("work", attribute={})
    with pytest.raises(TypeError):
        span()
