"""What is current in one task, in any closing order, and in whichever Context a scope is closed."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import threading

import pytest

import tracekit
from tracekit.testing import span_tree

from .tools.garbage import collecting_elsewhere

pytestmark = pytest.mark.usefixtures("nothing_is_logged")


def exit(scope):
    scope.__exit__(None, None, None)


# ---- one task


REMOTE = tracekit.SpanContext("a" * 32, "b" * 16, 1, is_remote=True)
OPENERS = {
    "span": lambda: tracekit.span("s"),
    "use_span": lambda: tracekit.use_span(tracekit.span("u")),
    "context": lambda: tracekit.use_context(REMOTE),
    "nothing": lambda: tracekit.use_context(None),
    "labels": lambda: tracekit.use_labels(k="v"),
}


@pytest.mark.parametrize("kinds", list(itertools.product(OPENERS, repeat=3)), ids="-".join)
def test_after_any_closing_order_what_was_current_before_is_current_again(kinds, exporter):
    with tracekit.span("base"):
        before = tracekit.current_context()
        for order in itertools.permutations(range(3)):
            scopes = [OPENERS[kind]() for kind in kinds]
            seen = []
            for scope in scopes:
                scope.__enter__()
                seen.append(tracekit.current_context())
            still_open = [0, 1, 2]
            for index in order:
                exit(scopes[index])
                was_innermost = index == still_open[-1]
                still_open.remove(index)
                if not still_open:
                    assert tracekit.current_context() is before
                elif was_innermost and still_open == list(range(len(still_open))):
                    assert tracekit.current_context() is seen[len(still_open) - 1]


def test_a_span_is_current_inside_its_with_and_only_there():
    assert tracekit.current_span() is None
    with tracekit.span("outer") as outer:
        assert tracekit.current_span() is outer
        assert tracekit.current_context() is outer.context
        with tracekit.span("inner") as inner:
            assert tracekit.current_span() is inner
            assert inner.parent == outer.context
        assert tracekit.current_span() is outer
    assert tracekit.current_span() is None
    assert tracekit.current_context() is None
    assert not tracekit.current_labels()


def test_making_or_ending_a_span_changes_nothing_that_is_current():
    with tracekit.span("outer") as outer:
        job = tracekit.span("job")
        assert tracekit.current_span() is outer
        outer.end()
        assert tracekit.current_span() is outer
        job.end()
        assert tracekit.current_span() is outer
    assert tracekit.current_span() is None


def test_a_remote_context_is_the_parent_but_no_span_of_ours(exporter):
    with tracekit.use_context(REMOTE) as entered:
        assert entered is REMOTE
        assert tracekit.current_context() is REMOTE
        assert tracekit.current_span() is None
        with tracekit.span("child"):
            pass
    assert span_tree(exporter.spans) == "child <- remote"


def test_use_span_makes_current_without_ending():
    span = tracekit.span("job")
    with tracekit.use_span(span) as entered:
        assert entered is span
        assert tracekit.current_span() is span
    assert tracekit.current_span() is None
    assert not span.ended
    span.end()
    with tracekit.use_span(span), tracekit.span("late") as late:
        assert late.parent == span.context


def test_use_context_none_is_a_clean_slate():
    with tracekit.use_labels(a="1"), tracekit.span("outer") as outer, tracekit.use_labels(b="2"):
        with tracekit.use_context(None):
            assert tracekit.current_span() is None
            assert tracekit.current_context() is None
            assert not tracekit.current_labels()
            with tracekit.span("fresh") as fresh:
                assert fresh.parent is None
                assert fresh.context.trace_id != outer.context.trace_id
                assert not fresh.context.labels
        assert tracekit.current_span() is outer
        assert tracekit.current_labels() == {"a": "1", "b": "2"}


def test_a_context_without_ids_is_the_start_of_a_root_that_keeps_its_labels():
    labels_only = tracekit.SpanContext(labels=tracekit.Labels({"a": "1"}))
    with tracekit.use_context(labels_only):
        assert tracekit.current_labels() == {"a": "1"}
        with tracekit.span("root") as root:
            assert root.parent is None
            assert root.context.is_valid
            assert root.context.labels == {"a": "1"}


@pytest.mark.parametrize("kind", sorted(set(OPENERS) - {"span"}))
def test_a_scope_opens_once(kind):
    scope = OPENERS[kind]()
    with tracekit.span("outer") as outer:
        with scope:
            with pytest.raises(RuntimeError, match="opens once"):
                scope.__enter__()
            inside = tracekit.current_context()
        assert tracekit.current_context() is outer.context
        with pytest.raises(RuntimeError, match="opens once"):
            scope.__enter__()
        assert tracekit.current_context() is outer.context
        exit(scope)
        assert tracekit.current_context() is outer.context
    assert inside is None or inside is not outer.context


def test_a_scope_that_never_opened_closes_without_effect():
    with tracekit.span("outer") as outer:
        for kind in OPENERS:
            scope = OPENERS[kind]()
            exit(scope)
            assert tracekit.current_span() is outer


def test_a_span_entered_again_stays_current_until_its_last_exit(exporter):
    with tracekit.span("outer") as outer:
        with tracekit.span("job") as job:
            with tracekit.span("between") as between:
                with job:
                    assert tracekit.current_span() is job
                assert tracekit.current_span() is between
                assert job.ended
            assert tracekit.current_span() is job
        assert tracekit.current_span() is outer
    assert [span.name for span in exporter.spans] == ["job", "between", "outer"]


@pytest.mark.parametrize("seed", range(6))
def test_an_exit_stack_closes_in_whatever_order(seed, exporter):
    order = list(itertools.permutations(range(3)))[seed]
    with tracekit.span("outer") as outer:
        stacks = [contextlib.ExitStack() for _ in range(3)]
        spans = [stack.enter_context(tracekit.span(str(index))) for index, stack in enumerate(stacks)]
        for count, index in enumerate(order, 1):
            stacks[index].close()
            left = [span for at, span in enumerate(spans) if at not in order[:count]]
            assert tracekit.current_span() is (left[-1] if left else outer)
    assert len(exporter.spans) == 4


# ---- labels


def test_labels_merge_inward_and_the_newest_wins():
    with tracekit.use_labels({"a": "1", "b": "1"}) as first:
        assert first == {"a": "1", "b": "1"}
        with tracekit.use_labels(b="2", c="3") as second:
            assert second == tracekit.current_labels() == {"a": "1", "b": "2", "c": "3"}
        assert tracekit.current_labels() == {"a": "1", "b": "1"}
        with tracekit.use_labels({"b": "m", "d": "m"}, b="k"):
            assert tracekit.current_labels() == {"a": "1", "b": "k", "d": "m"}
    assert not tracekit.current_labels()


def test_labels_without_a_span_are_no_parent_but_reach_the_next_root():
    with tracekit.use_labels(tenant="acme"):
        assert tracekit.current_span() is None
        assert not tracekit.current_context().is_valid
        with tracekit.span("root") as root:
            assert root.parent is None
            assert root.context.labels == {"tenant": "acme"}


def test_labels_inside_a_span_keep_it_current():
    with tracekit.span("outer") as outer, tracekit.use_labels(tenant="acme"):
        assert tracekit.current_span() is outer
        assert tracekit.current_context().span_id == outer.context.span_id
        assert not outer.context.labels
        with tracekit.span("child") as child:
            assert child.parent.span_id == outer.context.span_id
            assert child.context.labels == {"tenant": "acme"}


def test_labels_that_outlive_their_span_stay_without_its_ids():
    outer = tracekit.span("outer")
    inner = tracekit.span("inner", parent=outer)
    outer.__enter__()
    inner.__enter__()
    labels = tracekit.use_labels(a="1")
    labels.__enter__()
    exit(inner)
    assert tracekit.current_span() is outer
    assert tracekit.current_context().span_id == outer.context.span_id
    assert tracekit.current_labels() == {"a": "1"}
    exit(outer)
    assert tracekit.current_span() is None
    assert not tracekit.current_context().is_valid
    assert tracekit.current_labels() == {"a": "1"}
    exit(labels)
    assert tracekit.current_context() is None


def test_labels_closed_before_the_span_under_them_leave_it_current():
    with tracekit.span("outer") as outer:
        labels = tracekit.use_labels(a="1")
        labels.__enter__()
        inner = tracekit.span("inner")
        inner.__enter__()
        exit(labels)
        assert tracekit.current_span() is inner
        assert tracekit.current_labels() == {"a": "1"}, "a span has the labels that it was started with"
        exit(inner)
        assert tracekit.current_span() is outer
        assert not tracekit.current_labels()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: tracekit.use_labels({"a": 1}), TypeError, "value must be str"),
        (lambda: tracekit.use_labels({1: "a"}), TypeError, "key must be str"),
        (lambda: tracekit.use_labels(5), TypeError, "mapping must be a mapping"),
        (lambda: tracekit.use_labels([("a", "b")]), TypeError, "mapping must be a mapping"),
        (lambda: tracekit.use_labels({"a b": "c"}), ValueError, "key must be"),
        (lambda: tracekit.use_labels(**{"a\r\nb": "c"}), ValueError, "key must be"),
        (lambda: tracekit.use_span("span"), TypeError, "span must be a Span"),
        (lambda: tracekit.use_span(REMOTE), TypeError, "span must be a Span"),
        (lambda: tracekit.use_span(None), TypeError, "span must be a Span"),
        (lambda: tracekit.use_context("00-00"), TypeError, "context must be a SpanContext or None"),
        (lambda: tracekit.use_context(tracekit.span("s")), TypeError, "context must be a SpanContext or None"),
        (lambda: tracekit.new_context(None), TypeError, "span must be a Span"),
        (lambda: tracekit.from_context(REMOTE), TypeError, r"context must be a contextvars\.Context"),
    ],
)
def test_a_wrong_argument_is_named(call, error, words):
    with tracekit.span("outer") as outer:
        with pytest.raises(error, match=words):
            call()
        assert tracekit.current_span() is outer


# ---- contextvars.Context


def test_new_context_holds_the_span_and_from_context_finds_it():
    span = tracekit.span("job")
    with tracekit.span("outer") as outer, tracekit.use_labels(a="1"):
        context = tracekit.new_context(span)
        assert tracekit.current_span() is outer
    assert tracekit.from_context(context) is span
    assert context.run(tracekit.current_span) is span
    assert tracekit.from_context(contextvars.Context()) is None
    assert tracekit.current_span() is None
    span.end()
    assert tracekit.from_context(context) is span


def test_new_context_keeps_the_other_variables():
    variable = contextvars.ContextVar("variable")
    variable.set("here")
    assert tracekit.new_context(tracekit.span("job")).run(variable.get) == "here"


def test_from_context_reads_a_context_that_is_running():
    context = contextvars.copy_context()

    def inside():
        with tracekit.span("inside") as span:
            return tracekit.from_context(context) is span

    assert context.run(inside)


def in_thread(function, *args):
    thread = threading.Thread(target=function, args=args)
    thread.start()
    thread.join()


ELSEWHERE = {
    "thread": in_thread,
    "empty context": lambda function, *args: contextvars.Context().run(function, *args),
    "copied context": lambda function, *args: contextvars.copy_context().run(function, *args),
    "thread with a copy": lambda function, *args: in_thread(contextvars.copy_context().run, function, *args),
    "task": lambda function, *args: asyncio.run(_call(function, *args)),
}


async def _call(function, *args):
    function(*args)


@pytest.mark.parametrize("place", ELSEWHERE)
@pytest.mark.parametrize("kind", OPENERS)
def test_a_scope_closed_elsewhere_is_no_longer_current_here(kind, place):
    with tracekit.span("outer") as outer:
        scope = OPENERS[kind]()
        scope.__enter__()
        ELSEWHERE[place](exit, scope)
        assert tracekit.current_context() is outer.context
        assert tracekit.current_span() is outer
        exit(scope)
        assert tracekit.current_span() is outer


@pytest.mark.parametrize("place", ELSEWHERE)
def test_a_scope_closed_elsewhere_under_an_open_one_is_passed_over_later(place):
    with tracekit.span("outer") as outer:
        scope = tracekit.span("middle")
        scope.__enter__()
        with tracekit.span("inner") as inner:
            ELSEWHERE[place](exit, scope)
            assert tracekit.current_span() is inner
        assert tracekit.current_span() is outer


def test_a_scope_closed_elsewhere_is_not_inherited_while_another_thread_collects_garbage(exporter):
    def run():
        scope = tracekit.use_labels(k="v")
        scope.__enter__()
        ELSEWHERE["thread"](exit, scope)
        with collecting_elsewhere():
            assert tracekit.current_context() is None
            return contextvars.copy_context().run(tracekit.current_context)

    assert contextvars.Context().run(run) is None


@pytest.mark.parametrize("place", ELSEWHERE)
def test_closing_elsewhere_leaves_what_is_current_there(place):
    kept = []
    scope = tracekit.span("here")

    def close():
        with tracekit.span("there") as there:
            exit(scope)
            kept.append(tracekit.current_span() is there)

    scope.__enter__()
    ELSEWHERE[place](close)
    assert kept == [True]
    assert tracekit.current_span() is None


def test_a_copied_context_keeps_its_parent_after_the_parent_has_closed():
    with tracekit.span("outer") as outer:
        inherited = contextvars.copy_context()
    assert tracekit.current_span() is None
    assert inherited.run(tracekit.current_context) is outer.context
    child = inherited.run(tracekit.span, "child")
    assert child.parent == outer.context


def test_what_is_inherited_is_what_was_current_at_the_spawn():
    outer = tracekit.span("outer")
    outer.__enter__()
    labels = tracekit.use_labels(a="1")
    labels.__enter__()
    exit(outer)  # under the labels, so from here on no span is current
    inherited = contextvars.copy_context()
    assert tracekit.current_span() is None
    assert inherited.run(tracekit.current_span) is None
    assert not inherited.run(tracekit.current_context).is_valid
    assert inherited.run(tracekit.current_labels) == {"a": "1"}
    exit(labels)


@pytest.mark.parametrize("is_other_kept", [True, False])
def test_closing_one_opening_of_a_span_from_elsewhere_leaves_another_as_it_was_inherited(is_other_kept, exporter):
    with tracekit.span("request") as request:
        inherited = contextvars.copy_context()

    def work():
        again = tracekit.use_span(request)
        other = contextvars.copy_context()
        other.run(again.__enter__)
        if not is_other_kept:
            del other
        again.__exit__(None, None, None)
        return tracekit.current_context()

    assert inherited.run(work) == request.context
