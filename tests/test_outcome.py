"""The outcome of a span that an exception leaves: an error, a cancellation, or success."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import gc
import json
import linecache
import pickle
import subprocess
import sys
import textwrap
import threading
import types
from unittest import mock

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK

import tracekit
from tracekit._core import outcome
from tracekit.testing import MemoryExporter, span_tree

from .test_stack import calls, chain, deep, raised
from .tools.interrupting import Interrupted, Stop, interrupts


class Quiet(Exception):
    pass


class RaisingStr(Exception):
    def __str__(self):
        raise RuntimeError("hostile")

    __repr__ = __str__


class Slots(Exception):
    __slots__ = ()


class RaisingSetattr(Exception):
    def __setattr__(self, name, value):
        raise AttributeError("frozen")


class RaisingGetattribute(Exception):
    def __getattribute__(self, name):
        raise RuntimeError("hostile")


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int = 1


class Nasty(Exception):
    def __eq__(self, other):
        raise RuntimeError("hostile")

    __hash__ = None

    @property
    def __traceback__(self):
        raise RuntimeError("hostile")

    def __getattr__(self, name):
        return self


class NotAString(Exception):
    def __str__(self):
        return 5


class SlotsAndSetattr(RaisingSetattr):
    __slots__ = ()


class Escaped(BaseException):
    pass


def hostile(self, *_):
    raise Escaped


class InterruptingStr(Exception):
    def __str__(self):
        raise KeyboardInterrupt


class Interrupting(Exception):
    __str__ = __repr__ = __eq__ = __bool__ = __len__ = __iter__ = __getattr__ = __getattribute__ = hostile
    __setattr__ = __delattr__ = __reduce_ex__ = __format__ = hostile
    __hash__ = None


class Properties(Exception):
    __cause__ = __context__ = __suppress_context__ = __traceback__ = property(hostile)
    __notes__ = __class__ = __dict__ = args = property(hostile)


class InterruptingGroup(ExceptionGroup):
    exceptions = message = property(hostile)
    split = subgroup = derive = hostile


class HostileMeta(type):
    __name__ = __module__ = __mro__ = __bases__ = __dict__ = property(hostile)
    __instancecheck__ = __hash__ = __eq__ = __getattribute__ = hostile


class MoreHostileMeta(HostileMeta):
    __subclasscheck__ = hostile  # which the interpreter asks too, when an exception is raised or caught


def of_hostile_metaclass(metaclass=HostileMeta):
    """Return an exception whose metaclass raises; its class is not in the module, as pytest looks into that."""
    kind = type.__call__(metaclass, "OfHostileMeta", (Exception,), {"__module__": __name__})
    return type.__call__(kind, "message")


class Exit(SystemExit):
    @property
    def code(self):
        raise Escaped


class Unclear:
    __bool__ = __eq__ = __str__ = hostile
    __hash__ = None


def trio_cancelled():
    """Return a real trio.Cancelled, which cannot be made."""
    caught = []

    async def main():
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as cancelled:
                caught.append(cancelled)

    trio.run(main)
    return caught[0]


def leave(exc, name="work"):
    """Let *exc* leave a span, and return the span."""
    span = tracekit.span(name)
    caught = None
    try:
        with span:
            raise exc
    except BaseException as raised:
        caught = raised
    assert caught is exc
    return span


# ---- the status


CANCELLATIONS = {
    "asyncio": asyncio.CancelledError,
    "concurrent.futures": concurrent.futures.CancelledError,
    "trio": trio_cancelled,
    "GeneratorExit": GeneratorExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "group": lambda: BaseExceptionGroup("all", [asyncio.CancelledError(), trio_cancelled()]),
    "groups in a group": lambda: BaseExceptionGroup(
        "outer", [BaseExceptionGroup("inner", [GeneratorExit()]), KeyboardInterrupt()]
    ),
}


@pytest.mark.parametrize("make", CANCELLATIONS.values(), ids=CANCELLATIONS.keys())
def test_a_cancellation_is_no_error_and_no_success(make, exporter):
    exc = make()
    span = leave(exc)
    assert span.status == ("cancelled", type(exc).__name__)
    assert span.events == ()


@pytest.mark.parametrize(
    ("exc", "description"),
    [
        (ValueError("no"), "ValueError: no"),
        (ValueError(), "ValueError"),
        (TimeoutError("late"), "TimeoutError: late"),
        (trio.TooSlowError("late"), "TooSlowError: late"),
        (concurrent.futures.TimeoutError(), "TimeoutError"),
        (StopIteration(), "StopIteration"),
        (BaseException("base"), "BaseException: base"),
        (SystemExit(1), "SystemExit: 1"),
        (SystemExit("message"), "SystemExit: message"),
        (SystemExit(""), "SystemExit"),  # which the interpreter prints, and exits with status 1
        (concurrent.futures.InvalidStateError("state"), "InvalidStateError: state"),
        (concurrent.futures.BrokenExecutor("broken"), "BrokenExecutor: broken"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_any_other_exception_is_an_error(exc, description, exporter):
    span = leave(exc)
    assert span.status == ("error", description)
    (event,) = span.events
    assert event.name == "exception"
    assert event.attributes["exception.message"] == str(exc)
    assert type(exc).__name__ in event.attributes["exception.stacktrace"]


@pytest.mark.parametrize("code", [0, None, False])
def test_a_system_exit_without_a_code_is_success(code, exporter):
    span = leave(SystemExit(code))
    assert (span.status.code, span.events) == ("unset", ())


@pytest.mark.parametrize("status", ["unset", "ok", "error", "cancelled"])
@pytest.mark.parametrize("make", [ValueError, asyncio.CancelledError])
def test_a_status_of_ok_is_final_and_any_other_is_replaced(status, make, exporter):
    exc = make()
    with contextlib.suppress(make), tracekit.span("work") as span:
        span.set_status(status, "said")
        raise exc
    expected = "error" if make is ValueError else "cancelled"
    assert span.status == (("ok", "said") if status == "ok" else (expected, make.__name__))


def test_an_exception_that_is_caught_inside_is_not_the_outcome(exporter):
    with tracekit.span("outer") as outer:
        inner = leave(Quiet("inside"))
    assert (inner.status.code, outer.status.code) == ("error", "unset")


def test_a_span_that_has_ended_keeps_its_outcome(exporter):
    with contextlib.suppress(Quiet), tracekit.span("work") as span:
        span.end()
        raise Quiet
    assert (span.status.code, span.events) == ("unset", ())


def test_use_span_leaves_the_outcome_alone(exporter):
    span = tracekit.span("work")
    with pytest.raises(Quiet), tracekit.use_span(span):
        raise Quiet
    assert (span.status.code, span.ended) == ("unset", False)
    span.end()


# ---- events


def test_the_event_has_type_message_and_stack(exporter):
    class Local(Exception):
        pass

    span = leave(Local("message"))
    (event,) = span.events
    assert event.attributes["exception.type"] == f"{__name__}.{Local.__qualname__}"
    assert event.attributes["exception.message"] == "message"
    assert "raise exc" in event.attributes["exception.stacktrace"]
    assert event.attributes["exception.stacktrace"].endswith("Local: message\n")
    assert leave(KeyError("k")).events[0].attributes["exception.type"] == "KeyError"


def test_causes_are_part_of_the_stack(exporter):
    cause = leave(Quiet("the cause"))
    assert cause.status.code == "error"
    with pytest.raises(ValueError, match="effect"), tracekit.span("work") as span:
        raise ValueError("effect") from Quiet("the cause")
    assert "the cause" in span.events[0].attributes["exception.stacktrace"]


def test_a_stack_keeps_its_innermost_frames_and_says_how_many_are_missing(exporter):
    def dive(depth):
        if depth == 0:
            raise Quiet("deep")
        dive(depth - 1)

    with pytest.raises(Quiet), tracekit.span("work") as span:
        dive(500)
    stack = span.events[0].attributes["exception.stacktrace"]
    assert tracekit.Limits().value_length < len(stack) <= tracekit.Limits().stack_length
    assert stack.endswith("Quiet: deep\n")
    assert stack.count(", in dive\n") == 64 + 7
    assert "  [430 frames left out]\n" in stack
    assert span.truncated_values == 1


def test_record_exception_by_hand_leaves_the_status_and_takes_attributes(exporter):
    with tracekit.span("work") as span:
        span.record_exception(Quiet("one"), {"attempt": 1, "exception.message": "ours"})
    (event,) = span.events
    assert span.status.code == "unset"
    assert (event.attributes["attempt"], event.attributes["exception.message"]) == (1, "ours")


def test_a_stack_has_a_limit_of_its_own():
    exc = deep(900, Quiet("the end"))
    frame = len(f'  File "{deep.__code__.co_filename}", line 58, in dive\n    dive(depth - 1)\n')
    for limit, cuts in (300, 1), (3000, 1), (100_000, 1):
        limits = tracekit.Limits(value_length=30, stack_length=limit)
        tracekit.configure(exporter=MemoryExporter(), limits=limits)
        span = leave(exc)
        (event,) = span.events
        assert event.attributes["exception.message"] == "the end"
        assert event.attributes["exception.stacktrace"].endswith("Quiet: the end\n")
        stack = event.attributes["exception.stacktrace"]
        assert len(stack) <= limit
        # Frames are kept whole, and their length depends on the path of this file.
        assert limit // 2 < len(stack) + frame or limit == 100_000
        assert span.truncated_values == cuts


@pytest.mark.parametrize(("text", "cuts"), [("x" * 30, 0), ("x" * 31, 1)])
def test_a_cut_message_is_counted(text, cuts):
    tracekit.configure(exporter=MemoryExporter(), limits=tracekit.Limits(value_length=30))
    span = leave(Quiet(text))
    assert span.events[0].attributes["exception.message"] == "x" * 30
    assert span.status == ("error", f"Quiet: {'x' * 23}")
    assert span.truncated_values == cuts


# ---- recorded once


def test_an_exception_is_recorded_where_it_left_first_and_its_ancestors_are_flagged(exporter):
    with pytest.raises(Quiet), tracekit.span("a"), tracekit.span("b"), tracekit.span("c"):
        raise Quiet("once")
    spans = exporter.spans
    assert span_tree(spans) == "a [error]\n  b [error]\n    c [error]"
    assert [(span.name, len(span.events)) for span in spans] == [("c", 1), ("b", 0), ("a", 0)]


ODD = [
    RaisingStr,
    Slots,
    RaisingSetattr,
    RaisingGetattribute,
    Frozen,
    Nasty,
    NotAString,
    InterruptingStr,
    Interrupting,
    Properties,
]


@pytest.mark.parametrize("kind", ODD)
def test_an_exception_with_odd_methods_is_recorded_once_and_reaches_the_program(kind, exporter):
    exc = kind()
    caught = None
    try:
        with tracekit.span("outer") as outer, tracekit.span("inner") as inner:
            raise exc
    except BaseException as raised:
        caught = raised
    assert caught is exc
    assert (outer.status.code, inner.status.code) == ("error", "error")
    assert inner.status.description.startswith(kind.__name__)
    assert (len(inner.events), len(outer.events)) == (1, 0)
    assert inner.events[0].attributes["exception.type"] == f"{__name__}.{kind.__name__}"


HOSTILE = {
    "metaclass": of_hostile_metaclass,
    "group": lambda: InterruptingGroup("g", [Interrupting(), of_hostile_metaclass()]),
    "group of groups": lambda: ExceptionGroup("g", [InterruptingGroup("h", [Properties()])]),
    "cause": lambda: raised(ValueError("effect"), Interrupting()),
    "causes": lambda: raised(ValueError("effect"), raised(Properties(), of_hostile_metaclass())),
    "exit": lambda: Exit(0),
    "exit code": lambda: SystemExit(Unclear()),
    "argument": lambda: ValueError(Unclear()),
    "arguments": lambda: ValueError(Unclear(), [Unclear()]),
    "slots and setattr": lambda: SlotsAndSetattr("message"),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_exception_is_recorded_and_nothing_else_is_raised(make, exporter):
    exc = make()
    span = leave(exc)
    assert span.status.code == "error"
    assert span.events
    for event in span.events:
        assert event.attributes["exception.type"]
        assert event.attributes["exception.stacktrace"]
    by_hand = tracekit.span("by hand")
    by_hand.record_exception(exc)
    assert by_hand.events[0].attributes["exception.stacktrace"]


def test_the_name_of_a_class_is_read_past_its_metaclass(exporter):
    span = tracekit.span("work")
    exc = of_hostile_metaclass(MoreHostileMeta)
    span.__exit__(type(exc), exc, None)
    assert span.status == ("error", "OfHostileMeta: message")
    (event,) = span.events
    assert event.attributes["exception.type"] == f"{__name__}.OfHostileMeta"
    assert event.attributes["exception.stacktrace"].endswith(f"{__name__}.OfHostileMeta: message\n")


def test_another_exception_on_the_way_out_is_recorded_too(exporter):
    with contextlib.suppress(ValueError), tracekit.span("outer") as outer:
        try:
            with tracekit.span("inner") as inner:
                raise Quiet("first")
        except Quiet as first:
            raise ValueError("second") from first
    assert [event.attributes["exception.message"] for event in inner.events] == ["first"]
    assert [event.attributes["exception.message"] for event in outer.events] == ["second"]


def test_one_exception_is_recorded_in_every_trace_it_leaves(exporter):
    exc = Quiet("shared")
    assert len(leave(exc).events) == len(leave(exc).events) == 1


# ---- the mark


class Reduced(Exception):
    pass


@pytest.mark.parametrize("make", [Quiet, Reduced, Frozen, lambda text: ExceptionGroup(text, [Quiet()])])
def test_the_mark_is_not_on_the_exception(make, exporter):
    exc = make("message")
    before, pickled = dict(vars(exc)), len(pickle.dumps(exc))
    assert leave(exc).events
    assert vars(exc) == before
    assert len(pickle.dumps(exc)) == pickled


@pytest.mark.parametrize("make", [ValueError, KeyError, SystemExit, RecursionError, Slots])
def test_an_exception_without_weak_references_carries_numbers_that_tell_nothing(make, exporter):
    exc = make("message")
    span = leave(exc)
    assert len(span.events) == 1
    (numbers,) = vars(exc).values()
    assert [type(number) for number in numbers] == [int]
    assert span.context.trace_id not in json.dumps(vars(exc))
    assert span.context.trace_id.encode() not in pickle.dumps(exc)


def test_marks_go_with_their_exceptions():
    gc.collect()
    before = len(outcome._marks)
    for _ in range(20_000):
        exc = Quiet()
        outcome.mark_recorded(exc, "1" * 32)
        outcome.mark_recorded(exc, "2" * 32)
        assert len(outcome._marks) == before + 1
    del exc
    assert len(outcome._marks) == before


def test_the_mark_of_an_exception_is_not_taken_for_that_of_a_later_one_at_its_address(exporter):
    with tracekit.span("outer"):
        spans = [leave(Quiet()) for _ in range(100)]
    assert {len(span.events) for span in spans} == {1}


def test_many_threads_may_mark_one_exception(exporter):
    exc = Quiet()
    start = threading.Barrier(8)

    def job(number):
        start.wait()
        for _ in range(200):
            outcome.mark_recorded(exc, str(number))

    threads = [threading.Thread(target=job, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcome.outcome_of(exc, "none of them", 100).errors == (exc,)
    outcome.mark_recorded(exc, "the last")
    assert outcome.outcome_of(exc, "the last", 100).errors == ()


def test_an_error_that_could_not_be_recorded_is_recorded_by_a_span_further_out(exporter, monkeypatch):
    def failing(*_):
        raise RecursionError

    exc = Quiet("message")
    with monkeypatch.context() as patch, contextlib.suppress(Quiet):
        patch.setattr(outcome, "_recurse", failing)
        with tracekit.span("outer") as outer, tracekit.span("inner") as inner:
            with contextlib.suppress(Quiet):
                leave(exc, "innermost")
            patch.undo()
            raise exc
    assert (inner.status.code, len(inner.events), len(outer.events)) == ("error", 1, 0)


def test_errors_at_the_recursion_limit_are_recorded():
    tracekit.configure(exporter=(memory := MemoryExporter()))

    def dive():
        with tracekit.span("level"):
            dive()

    for _ in range(10):
        with pytest.raises(RecursionError):
            dive()
    events = [event for span in memory.spans for event in span.events]
    assert len(events) >= 10
    assert all(event.attributes["exception.type"] == "RecursionError" for event in events)
    assert all("in dive\n" in event.attributes["exception.stacktrace"] for event in events)
    assert all("RecursionError: maximum" in event.attributes["exception.stacktrace"] for event in events)
    assert all(span.ended for span in memory.spans)


def test_near_the_recursion_limit_an_error_is_recorded_whole_or_not_at_all(exporter):
    def dive(depth, function):
        return function() if depth == 0 else dive(depth - 1, function)

    def leave_at(depth):
        linecache.clearcache()
        exc = raised(ValueError([[[[[["an argument"]]]]]], ExceptionGroup("g", [raised(Local("message"), Quiet())])))
        exc.__cause__ = ExceptionGroup("g", [ExceptionGroup("g", [raised(Local("message"), Quiet())])])
        span = tracekit.span("work")
        try:
            dive(depth, lambda: span.__exit__(type(exc), exc, None))
        except RecursionError:
            return None
        return span

    class Local(Exception):
        def __str__(self):
            return "the message: " + self.args[0]

    (whole,) = leave_at(1).events
    found = set()
    for depth in range(sys.getrecursionlimit() - 250, sys.getrecursionlimit()):
        span = leave_at(depth)
        if span is not None:
            assert span.status.code == "error"
            found.add(len(span.events))
            assert [event.attributes for event in span.events] in ([], [whole.attributes])
    assert found == {0, 1}
    gc.collect()  # spans whose end() did not begin are ended by their finalizers
    assert tracekit.statistics().open == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_span_ends_where_a_signal_handler_raises_while_its_error_is_recorded(exporter):
    with interrupts(), pytest.raises(Stop), tracekit.span("job") as span:
        raise Interrupted
    assert tracekit.current_span() is None
    assert span.ended
    assert span_tree(exporter.spans) == "job [error]"


# ---- bounded work


WORK = {
    "chain": lambda: chain(1_000),
    "long chain": lambda: chain(20_000),
    "deep": lambda: deep(900, Quiet("deep")),
    "group": lambda: ExceptionGroup("g", [Quiet(str(number)) for number in range(100_000)]),
    "group of chains": lambda: ExceptionGroup("g", [chain(1_000)] * 1_000),
    "group of cancellations": lambda: BaseExceptionGroup("g", [GeneratorExit() for _ in range(100_000)]),
    "group of groups": lambda: ExceptionGroup("g", [ExceptionGroup("h", [Quiet()] * 10_000)] * 10_000),
    "arguments": lambda: Quiet([[1, "2"]] * 100_000),
}


@pytest.mark.parametrize("make", WORK.values(), ids=WORK.keys())
def test_any_exception_takes_a_bounded_number_of_calls(make, exporter):
    exc = make()
    span = tracekit.span("work")
    assert calls(lambda: span.__exit__(type(exc), exc, None)) < 100_000
    assert span.status.code in ("error", "cancelled")


@pytest.mark.anyio
async def test_an_exception_is_recorded_once_over_a_task_group(anyio_backend, exporter):
    async def job():
        with tracekit.span("job"):
            await anyio.lowlevel.checkpoint()
            raise Quiet("once")

    async def sleeper():
        with tracekit.span("sleeper"):
            await anyio.sleep_forever()

    with contextlib.suppress(ExceptionGroup), tracekit.span("outer"):
        async with anyio.create_task_group() as group:
            group.start_soon(sleeper)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(job)
    spans = {span.name: span for span in exporter.spans}
    assert [(name, span.status.code, len(span.events)) for name, span in sorted(spans.items())] == [
        ("job", "error", 1),
        ("outer", "error", 0),
        ("sleeper", "cancelled", 0),
    ]


@pytest.mark.anyio
async def test_an_exception_is_recorded_once_over_a_thread(anyio_backend, exporter):
    def job():
        with tracekit.span("job"):
            raise Quiet("once")

    with pytest.raises(Quiet), tracekit.span("outer"):
        await anyio.to_thread.run_sync(job)
    assert [(span.name, len(span.events)) for span in exporter.spans] == [("job", 1), ("outer", 0)]


def test_an_exception_kept_by_a_future_is_recorded_once(exporter):
    async def job():
        with tracekit.span("job"):
            raise Quiet("once")

    async def main():
        with tracekit.span("outer"):
            task = asyncio.create_task(job())
            await asyncio.wait([task])
            with tracekit.span("reader"):
                await task

    with pytest.raises(Quiet):
        asyncio.run(main())
    assert [(span.name, len(span.events)) for span in exporter.spans] == [("job", 1), ("reader", 0), ("outer", 0)]


# ---- time-outs and cancel scopes


@pytest.mark.anyio
async def test_a_time_out_is_an_error_where_it_is_raised_and_cancelled_inside(anyio_backend, exporter):
    with pytest.raises(TimeoutError), tracekit.span("asks"), anyio.fail_after(0), tracekit.span("waits"):
        await anyio.sleep_forever()
    assert span_tree(exporter.spans) == "asks [error]\n  waits [cancelled]"


@pytest.mark.anyio
async def test_a_cancel_scope_that_catches_leaves_the_spans_around_it_alone(anyio_backend, exporter):
    with tracekit.span("asks"):
        with anyio.move_on_after(0):
            async with anyio.create_task_group() as group:
                with tracekit.span("waits"):
                    group.start_soon(anyio.sleep_forever)
                    await anyio.sleep_forever()
    assert span_tree(exporter.spans) == "asks\n  waits [cancelled]"


# ---- groups


def test_a_group_records_its_leaves(exporter):
    group = ExceptionGroup("g", [Quiet("one"), ExceptionGroup("h", [KeyError("two"), ValueError("three")])])
    span = leave(group)
    assert span.status == ("error", "ExceptionGroup: g (2 sub-exceptions)")
    assert [event.attributes["exception.message"] for event in span.events] == ["one", "'two'", "three"]


def test_cancellations_in_a_mixed_group_are_not_recorded(exporter):
    span = leave(BaseExceptionGroup("g", [asyncio.CancelledError(), Quiet("one"), KeyboardInterrupt()]))
    assert span.status.code == "error"
    assert [event.attributes["exception.message"] for event in span.events] == ["one"]


def test_an_error_among_very_many_cancellations_is_recorded(exporter):
    span = leave(BaseExceptionGroup("g", [asyncio.CancelledError() for _ in range(1000)] + [Quiet("one")]))
    assert span.status.code == "error"
    assert [event.attributes["exception.message"] for event in span.events] == ["one"]


def test_an_exception_that_is_in_a_group_twice_is_recorded_once(exporter):
    one = Quiet("one")
    assert len(leave(ExceptionGroup("g", [one, ExceptionGroup("h", [one])])).events) == 1


def test_a_huge_group_is_bounded(exporter):
    group = ExceptionGroup("g", [ExceptionGroup("h", [Quiet(str(number)) for number in range(200)])] * 200)
    span = leave(group)
    assert span.status.code == "error"
    assert 1 <= len(span.events) <= tracekit.Limits().events


def nested(exc, depth):
    for _ in range(depth):
        exc = BaseExceptionGroup("g", [exc])
    return exc


@pytest.mark.parametrize("depth", [10, 100, 5000])
@pytest.mark.parametrize(("make", "code"), [(asyncio.CancelledError, "cancelled"), (Quiet, "error")])
def test_a_deep_group_has_the_outcome_of_its_leaf(make, code, depth, exporter):
    span = leave(nested(make(), depth))
    assert span.status.code == code
    assert len(span.events) == (code == "error")


@pytest.mark.parametrize("module", [mock.MagicMock(), types.SimpleNamespace(Cancelled=5), None, object(), 5])
def test_a_stand_in_for_a_module_in_a_test_is_no_trouble(module, exporter, monkeypatch):
    monkeypatch.setitem(sys.modules, "trio", module)
    assert len(leave(Quiet("message")).events) == 1
    assert leave(asyncio.CancelledError()).status.code == "cancelled"


# ---- in a separate process


def run(program):
    program = textwrap.dedent(program)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return done.stdout


def test_a_group_that_holds_its_parts_many_times_over_does_not_hang():
    program = """
        import asyncio
        import tracekit
        from tracekit.testing import MemoryExporter
        tracekit.configure(exporter=(memory := MemoryExporter()))
        for exc in (asyncio.CancelledError(), ValueError()):
            for _ in range(60):
                exc = BaseExceptionGroup("g", [exc, exc])
            try:
                with tracekit.span("work"):
                    raise exc
            except BaseException:
                pass
        print([(span.status.code, len(span.events)) for span in memory.spans])
        """
    assert run(program) == "[('cancelled', 0), ('error', 1)]\n"


def test_asyncio_and_trio_are_not_imported():
    program = """
        import sys
        import tracekit
        from tracekit.testing import MemoryExporter
        tracekit.configure(exporter=(memory := MemoryExporter()))
        before = set(sys.modules)
        for exc in (GeneratorExit(), KeyboardInterrupt()):
            try:
                with tracekit.span("work"):
                    raise exc
            except BaseException:
                pass
        print([span.status.code for span in memory.spans], sorted({"asyncio", "trio"} & set(sys.modules) - before))
        """
    assert run(program) == "['cancelled', 'cancelled'] []\n"


# Websockets


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (1000, "unset"),
        (1001, "unset"),
        (1005, "unset"),
        (1006, "cancelled"),  # the connection was lost; hypercorn sends it also if the client closes
        (1002, "error"),
        (1011, "error"),
        (4000, "error"),
        (None, "error"),
        ("1000", "error"),
    ],
)
def test_a_client_that_closes_its_websocket_normally_is_no_error(exporter, code, status):
    with pytest.raises(WebSocketDisconnect), tracekit.span("message"):
        raise WebSocketDisconnect(code)
    (span,) = exporter.spans
    assert span.status.code == status
    assert len(span.events) == (status == "error")


def test_a_normal_close_in_an_exception_group_is_no_error_either(exporter):
    for others in ([], [ValueError("boom")]):
        with pytest.raises(ExceptionGroup), tracekit.span("room"):
            raise ExceptionGroup("room", [WebSocketDisconnect(1000), *others])
    alone, together = exporter.spans
    assert (alone.status.code, alone.events) == ("cancelled", ())
    assert (together.status.code, len(together.events)) == ("error", 1)


@pytest.mark.parametrize(("kind", "status"), [(ConnectionClosedOK, "unset"), (ConnectionClosedError, "error")])
def test_a_server_that_closes_its_websocket_normally_is_no_error_for_the_client(exporter, kind, status):
    with pytest.raises(kind), tracekit.span("message"):
        raise kind(None, None)
    assert exporter.spans[0].status.code == status


def test_a_disconnect_without_a_readable_code_is_an_error(exporter):
    class Hostile(WebSocketDisconnect):
        @property
        def code(self):
            raise RuntimeError("hostile")

        @code.setter
        def code(self, code):
            pass

    with pytest.raises(Hostile), tracekit.span("message"):
        raise Hostile(1000)
    assert exporter.spans[0].status.code == "error"
