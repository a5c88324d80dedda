"""``aio.watch_loop()``: which span blocked the loop, for how long and where; the delay of tasks of named groups."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import SimpleNamespace

import pytest
import trio
import trio.testing
from anyio.lowlevel import checkpoint

import tracekit
from tracekit import aio
from tracekit.aio import _stacks, _waits, _watch

from .test_tasks import reads_others

MS = 1_000_000


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now_ns=1_000_000_000)
    monkeypatch.setattr(_watch, "monotonic_ns", lambda: clock.now_ns)
    return clock


@pytest.fixture
def by_hand(monkeypatch):
    """No thread looks: the test does, from another thread, while the loop is blocked."""
    monkeypatch.setattr(_watch.LoopWatch, "_run", lambda _: None)


@pytest.fixture(autouse=True)
def _nothing_is_left(caplog):
    yield
    assert _watch.watches() == []
    assert not [thread for thread in threading.enumerate() if thread.name == "tracekit-loop-watch"]
    assert not caplog.get_records("call")


def look(watch):
    """Let another thread look, while this one waits for it, as a blocking call would."""
    thread = threading.Thread(target=watch._wake)
    thread.start()
    thread.join()


def block(watch, clock, ms, step=50):
    """Block the loop for *ms* of the clock, with a look every *step*."""
    for _ in range(0, ms, step):
        clock.now_ns += step * MS
        look(watch)


async def turn(watch, clock):
    """Let the loop turn: on asyncio its timer is due, in real time."""
    if isinstance(watch._turns, _watch._Timer):
        watch._turns._beat()
    await checkpoint()
    await checkpoint()
    if not isinstance(watch._turns, _watch._Timer):
        await trio.testing.wait_all_tasks_blocked()


@contextlib.contextmanager
def watching(clock):
    watch = aio.watch_loop(100)
    if isinstance(watch._turns, _watch._Timer):  # its real timer must not interfere
        watch._turns._due_ns = clock.now_ns
    with watch:
        yield watch


# ---- by hand


@pytest.mark.anyio
@reads_others
async def test_a_span_that_blocks_the_loop_says_so(clock, by_hand, exporter):
    def slow(watch):
        block(watch, clock, 300)

    with watching(clock) as watch:
        with tracekit.span("slow one"):
            slow(watch)
        await turn(watch, clock)
        (stall,) = watch.worst
    (span,) = exporter.spans
    assert span.attributes == {"tracekit.loop.blocked_ms": 300.0}
    (event,) = span.events
    assert event.name == "tracekit.loop.blocked"
    assert "<locals>.slow\n" in event.attributes["code.stacktrace"]
    assert (watch.stalls, watch.pauses) == (1, 0)
    assert (stall.blocked_s, watch.blocked_s) == (0.3, 0.3)
    assert (stall.span, stall.trace_id, stall.span_id) == ("slow one", span.context.trace_id, span.context.span_id)
    assert any(place.function.endswith("slow") for place in stall.stack)


@pytest.mark.anyio
@reads_others
async def test_a_span_that_is_still_open_gets_the_whole_time_when_the_loop_turns(clock, by_hand, exporter):
    with watching(clock) as watch, tracekit.span("open") as span:
        block(watch, clock, 100)
        clock.now_ns += 40 * MS  # after the last look
        await turn(watch, clock)
        assert span.attributes["tracekit.loop.blocked_ms"] == 140.0


@pytest.mark.anyio
@reads_others
async def test_the_stalls_of_a_span_add_up(clock, by_hand, exporter):
    with watching(clock) as watch, tracekit.span("open") as span:
        for ms in (100, 200):
            if isinstance(watch._turns, _watch._Timer):
                watch._turns._due_ns = clock.now_ns
            block(watch, clock, ms)
            await turn(watch, clock)
        assert span.attributes["tracekit.loop.blocked_ms"] == 300.0
        assert len(span.events) == 2
    assert [stall.blocked_s for stall in watch.worst] == [0.2, 0.1]


@pytest.mark.anyio
async def test_a_turn_under_the_threshold_is_none(clock, by_hand, exporter):
    with watching(clock) as watch:
        with tracekit.span("quick"):
            block(watch, clock, 90, step=10)
        await turn(watch, clock)
        assert (watch.stalls, watch.worst) == (0, [])
    assert exporter.spans[0].attributes == {}


@pytest.mark.anyio
@reads_others
async def test_two_spans_that_block_one_after_the_other_both_say_so(clock, by_hand, exporter):
    with watching(clock) as watch:
        for name in ("first", "second"):
            with tracekit.span(name):
                block(watch, clock, 200)
        await turn(watch, clock)
        (stall,) = watch.worst
        assert (stall.blocked_s, stall.span, watch.stalls) == (0.4, "first", 1)
    # The second counts from the first look that found it.
    assert [span.attributes["tracekit.loop.blocked_ms"] for span in exporter.spans] == [200.0, 150.0]


@pytest.mark.anyio
async def test_a_turn_of_many_short_spans_blames_none(clock, by_hand, exporter):
    with watching(clock) as watch:
        for _ in range(10):
            with tracekit.span("short"):
                block(watch, clock, 50)
        await turn(watch, clock)
        (stall,) = watch.worst
        assert (stall.blocked_s, stall.span, stall.stack) == (0.5, "", ())
    assert [span.attributes for span in exporter.spans] == [{}] * 10


@pytest.mark.anyio
@reads_others
async def test_a_stall_outside_of_spans_shows_its_stack(clock, by_hand):
    with watching(clock) as watch:
        block(watch, clock, 300)
        await turn(watch, clock)
        (stall,) = watch.worst
        assert (stall.span, stall.trace_id) == ("", "")
        assert stall.stack


@pytest.mark.anyio
async def test_without_the_gil_a_stall_is_counted_and_names_nothing(clock, by_hand, exporter, monkeypatch):
    monkeypatch.setattr(_stacks, "HAS_GIL", False)
    monkeypatch.setattr(_watch, "thread_context", lambda _: None)  # as it is there
    with watching(clock) as watch, tracekit.span("open"):
        block(watch, clock, 300)
        await turn(watch, clock)
        assert watch.stalls == 1
        (stall,) = watch.worst
        assert (stall.span, stall.stack) == ("", ())
    assert "tracekit.loop.blocked_ms" not in exporter.spans[0].attributes


@pytest.mark.anyio
@reads_others
async def test_an_unsampled_span_has_no_attributes_and_the_page_has_its_stack(clock, by_hand, exporter):
    tracekit.configure(exporter=exporter, sampler=tracekit.AlwaysOff())
    with watching(clock) as watch:
        with tracekit.span("unsampled") as span:
            block(watch, clock, 300)
        await turn(watch, clock)
        (stall,) = watch.worst
        assert (stall.span, stall.span_id) == ("unsampled", span.context.span_id)
    assert (span.attributes, exporter.spans) == ({}, [])


@pytest.mark.anyio
async def test_a_long_turn_that_nothing_looked_into_is_a_pause_of_the_process(clock, by_hand, exporter):
    with watching(clock) as watch:
        with tracekit.span("asleep"):
            clock.now_ns += 3_600_000 * MS
        await turn(watch, clock)
        assert (watch.pauses, watch.paused_s, watch.stalls) == (1, 3600.0, 0)


@pytest.mark.anyio
async def test_the_ten_worst_are_kept(clock, by_hand):
    with watching(clock) as watch:
        for ms in range(100, 1300, 100):
            if isinstance(watch._turns, _watch._Timer):
                watch._turns._due_ns = clock.now_ns
            block(watch, clock, ms, step=100)
            await turn(watch, clock)
        assert [round(stall.blocked_s * 1000) for stall in watch.worst] == [*range(1200, 200, -100)]
        assert watch.stalls == 12


def test_an_idle_loop_of_trio_is_not_blocked(clock, by_hand, exporter):
    async def main():
        with watching(clock) as watch:

            def later():
                clock.now_ns += 5000 * MS
                watch._wake()

            await trio.to_thread.run_sync(later)
            assert (watch.stalls, watch._part) == (0, None)

    trio.run(main)


def test_a_loop_that_rests_between_two_runs_is_not_blocked(clock, by_hand):
    loop = asyncio.new_event_loop()

    async def start():
        return aio.watch_loop(100)

    async def go_on(watch):
        watch._turns._beat()

    try:
        watch = loop.run_until_complete(start())
        clock.now_ns += 5000 * MS
        look(watch)
        loop.run_until_complete(go_on(watch))
        assert (watch.stalls, watch.pauses) == (0, 0)
        watch.stop()
    finally:
        loop.close()


@pytest.mark.anyio
async def test_a_failure_of_the_look_is_reported_once_and_harmless(clock, by_hand, caplog, monkeypatch):
    monkeypatch.setattr(_watch, "_notices", _watch.Notices())
    mark, failures = _watch._Part.mark, [ZeroDivisionError]
    monkeypatch.setattr(_watch._Part, "mark", lambda *arguments: 1 / 0 if failures else mark(*arguments))
    with watching(clock) as watch, tracekit.span("slow"):
        clock.now_ns += 100 * MS
        watch._sample(watch._turns.state()[0], clock.now_ns - 100 * MS, clock.now_ns, False)
        watch._part.is_marked = True
        await turn(watch, clock)
    (record,) = caplog.records
    assert "watch_loop() failed: ZeroDivisionError" in record.getMessage()
    caplog.clear()


@pytest.mark.anyio
@pytest.mark.parametrize(("cpu_ms", "is_marked"), [(250, True), (40, False)])
@reads_others
async def test_c_code_that_holds_the_gil_is_told_from_a_stopped_process(clock, by_hand, exporter, cpu_ms, is_marked):
    """The watchdog could not run: it looks once, when the call returns."""
    cpu_ns = 0
    with watching(clock) as watch:
        watch._cpu_ns = lambda: cpu_ns
        look(watch)
        with tracekit.span("computing"):
            cpu_ns = cpu_ms * MS
            clock.now_ns += 300 * MS
            look(watch)
        await turn(watch, clock)
        assert (watch.stalls, watch.pauses) == ((1, 0) if is_marked else (0, 1))
    (span,) = exporter.spans
    assert span.attributes == ({"tracekit.loop.blocked_ms": 300.0} if is_marked else {})


def test_two_loops_of_a_thread_have_two_watches(by_hand):
    async def start():
        return aio.watch_loop(100)

    loops = [asyncio.new_event_loop() for _ in range(2)]
    watches = [loop.run_until_complete(start()) for loop in loops]
    assert watches[0] is not watches[1]
    assert _watch.watches() == watches
    for loop, watch in zip(loops, watches, strict=True):
        watch.stop()
        loop.close()


# ---- with the thread


@pytest.mark.anyio
@reads_others
async def test_c_code_that_holds_the_gil_is_found(exporter):
    with aio.watch_loop(5):
        for _ in range(50):  # on a busy machine the thread may get no processor during the first
            await checkpoint()
            with tracekit.span("computing"):
                sum(range(5_000_000))
            span = exporter.spans[-1]
            if span.events:
                break
    assert span.attributes["tracekit.loop.blocked_ms"] >= 5
    assert "test_watch.py" in span.events[0].attributes["code.stacktrace"]


@pytest.mark.anyio
@reads_others
async def test_the_thread_marks_the_span_while_the_loop_is_blocked(exporter, monkeypatch):
    marked = threading.Event()
    mark = _watch._Part.mark

    def observed(self, *arguments):
        mark(self, *arguments)
        if self.span is not None:  # else of the time before it
            marked.set()

    monkeypatch.setattr(_watch._Part, "mark", observed)
    with aio.watch_loop(1), tracekit.span("blocking"):
        assert marked.wait(60)
    (span,) = exporter.spans
    assert span.attributes["tracekit.loop.blocked_ms"] >= 1
    assert "test_watch.py" in span.events[0].attributes["code.stacktrace"]


@pytest.mark.parametrize("run", [asyncio.run, trio.run])
def test_the_thread_ends_with_its_loop(run):
    async def main():
        return aio.watch_loop(2)

    async def wrapper():
        found.append(await main())

    found = []
    run(wrapper) if run is trio.run else run(wrapper())
    watch = found[0]
    watch._watchdog.join(60)
    assert not watch._watchdog.is_alive()
    assert not watch.is_active


@pytest.mark.anyio
async def test_a_loop_has_one_watch_and_stop_ends_its_thread():
    watch = aio.watch_loop(1000)
    assert aio.watch_loop(5) is watch
    assert watch.threshold_s == 1.0
    assert watch.is_active
    watch.stop()
    watch.stop()
    assert not watch.is_active
    assert not watch._watchdog.is_alive()
    with aio.watch_loop(1000) as other:
        assert other is not watch


@pytest.mark.anyio
async def test_a_loop_whose_watch_could_not_be_started_gets_one_later(monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            aio.watch_loop(1000)
    assert _watch.watches() == []
    with aio.watch_loop(1000) as watch:
        assert watch._watchdog.is_alive()


@pytest.mark.anyio
async def test_the_watch_holds_no_trace(exporter):
    """Its timer and its thread run in Contexts of their own."""
    with tracekit.span("caller"):
        watch = aio.watch_loop(1000)
    info = next(info for info in aio.tasks() if info.name == "tracekit-loop-watch")
    watch.stop()
    assert info.span is None


@pytest.mark.parametrize("threshold", [0, 0.5, 60_001, float("nan")])
def test_a_threshold_out_of_range_is_a_value_error(threshold):
    with pytest.raises(ValueError, match="threshold_ms must be 1 to 60000"):
        aio.watch_loop(threshold)


@pytest.mark.parametrize("threshold", [True, "100", None])
def test_a_threshold_of_another_type_is_a_type_error(threshold):
    with pytest.raises(TypeError, match="threshold_ms must be a number, not"):
        aio.watch_loop(threshold)


def test_outside_of_a_loop_it_is_a_runtime_error():
    with pytest.raises(RuntimeError, match=r"watch_loop\(\) must be called in a running event loop"):
        aio.watch_loop()


# ---- the wait of tasks of named groups


@pytest.fixture
def waits(monkeypatch):
    monkeypatch.setattr(_waits, "_tallies", {})


@pytest.mark.anyio
async def test_the_wait_for_the_first_step_is_counted_by_group(waits, monkeypatch):
    now = iter([0, 0, 7_000_000, 9_000_000])  # two spawned, then two first steps
    monkeypatch.setattr("tracekit.aio._groups.monotonic_ns", lambda: next(now))
    async with aio.create_task_group("checkout") as group:
        group.start_soon(checkpoint, name="a")
        group.start_soon(checkpoint, name="b")
    (found,) = _waits.group_waits()
    assert found[:4] == ("checkout", 2, 0.008, 0.009)
    assert found.worst_task in {"a", "b"}


def test_names_of_groups_are_bounded(waits):
    for number in range(1000):
        _waits.note_wait(f"group {number}", "task" * 1000, number)
    found = _waits.group_waits()
    assert len(found) == _waits._GROUPS + 1
    assert found[0][:2] == ("(other groups)", 1000 - _waits._GROUPS)
    assert len(found[0].worst_task) == 200
