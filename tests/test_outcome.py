"""What an exception that leaves a span makes of it: error, cancelled, or nothing."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import subprocess
import sys
import textwrap

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK

import tracekit
from tracekit.testing import span_tree


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


# ---- which outcome


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


@pytest.mark.parametrize("code", [0, None])
def test_a_system_exit_without_a_code_is_success(code, exporter):
    span = leave(SystemExit(code))
    assert (span.status.code, span.events) == ("unset", ())


@pytest.mark.parametrize("status", ["unset", "ok", "error", "cancelled"])
@pytest.mark.parametrize("make", [ValueError, asyncio.CancelledError])
def test_ok_said_by_the_program_is_final_and_all_else_gives_way(status, make, exporter):
    exc = make()
    with contextlib.suppress(make), tracekit.span("work") as span:
        span.set_status(status, "said")
        raise exc
    expected = "error" if make is ValueError else "cancelled"
    assert span.status == (("ok", "said") if status == "ok" else (expected, make.__name__))


def test_an_exception_that_is_caught_inside_is_nobodys_outcome(exporter):
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


# ---- what is recorded


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


def test_a_stack_is_bounded(exporter):
    def dive(depth):
        if depth == 0:
            raise Quiet("deep")
        dive(depth - 1)

    with pytest.raises(Quiet), tracekit.span("work") as span:
        dive(500)
    stack = span.events[0].attributes["exception.stacktrace"]
    assert len(stack) <= tracekit.Limits().value_length
    assert "Quiet" in stack or span.truncated_values


def test_record_exception_by_hand_leaves_the_status_and_takes_attributes(exporter):
    with tracekit.span("work") as span:
        span.record_exception(Quiet("one"), {"attempt": 1, "exception.message": "ours"})
    (event,) = span.events
    assert span.status.code == "unset"
    assert (event.attributes["attempt"], event.attributes["exception.message"]) == (1, "ours")


# ---- recorded once


def test_an_exception_is_recorded_where_it_left_first_and_its_ancestors_are_flagged(exporter):
    with pytest.raises(Quiet), tracekit.span("a"), tracekit.span("b"), tracekit.span("c"):
        raise Quiet("once")
    spans = exporter.spans
    assert span_tree(spans) == "a [error]\n  b [error]\n    c [error]"
    assert [(span.name, len(span.events)) for span in spans] == [("c", 1), ("b", 0), ("a", 0)]


ODD = [RaisingStr, Slots, RaisingSetattr, RaisingGetattribute, Frozen, Nasty, NotAString]


@pytest.mark.parametrize("kind", ODD)
def test_an_exception_with_a_mind_of_its_own_is_recorded_once_and_goes_through(kind, exporter):
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


# ---- in a process of its own


def run(program):
    program = textwrap.dedent(program)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=20)
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


def test_a_program_without_asyncio_and_trio_is_not_made_to_load_them():
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
