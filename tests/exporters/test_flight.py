"""The flight recorder: a bounded ring whatever sampling says, written on an error, a slow request, a signal or a call."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

import tracekit
from tracekit.exporters.flight import FlightRecorder
from tracekit.exporters.sqlite import SQLiteReader
from tracekit.testing import MemoryExporter

from ..tools.pipeline import refuse_threads


@pytest.fixture
def record(tmp_path):
    """Configure a recorder with these arguments in front of ``record.memory``, and return it."""

    def configure(sampler=None, **arguments):
        configure.memory = MemoryExporter()
        recorder = FlightRecorder(configure.memory, directory=tmp_path, **arguments)
        tracekit.configure(service="test", exporter=recorder, sampler=sampler or tracekit.AlwaysOn())
        return recorder

    return configure


def files(folder):
    """Return the names of the spans in each file, oldest file first."""
    found = {}
    for path in sorted(folder.glob("*.db"), key=lambda path: int(path.name.split("-")[3])):
        with SQLiteReader(path) as reader:
            found[path.name.split("-")[4]] = [
                span.name for trace in reader.traces(limit=1000) for span in reader.spans(trace.trace_id)
            ]
    return found


def finish():
    """Export everything, and end the thread that writes."""
    tracekit.flush(60)
    tracekit.configure()


def failed(name):
    with tracekit.span(name) as span:
        span.set_status("error")


def test_dump_writes_spans_that_are_not_sampled_with_their_parents(record):
    recorder = record(sampler=tracekit.AlwaysOff())
    with tracekit.span("root") as root, tracekit.span("child") as child:
        child.set_attribute("key", "value")
        assert not child.context.sampled
    path = recorder.dump()
    with SQLiteReader(path) as reader:
        first, second = reader.spans(root.context.trace_id)
    assert (first.name, second.name, second.parent_id) == ("root", "child", root.context.span_id)
    assert (second.attributes, second.flags & 1) == ({"key": "value"}, 0)
    assert recorder.exporter.spans == []


def test_the_exporter_gets_sampled_spans_alone_and_the_counts_add_up(record):
    before = tracekit.statistics()
    record(sampler=tracekit.Ratio(0.5))
    for _ in range(100):
        with tracekit.span("root"), tracekit.span("child"):
            pass
    tracekit.flush(60)
    kept = len(record.memory.spans)
    assert 0 < kept < 200
    assert all(span.context.sampled for span in record.memory.spans)
    counts = [now - then for now, then in zip(tracekit.statistics(), before, strict=True)]
    assert counts == list(tracekit.Statistics(200, 200, 0, kept, 0, 0, 0, 200 - kept, 0))


def test_what_is_sent_says_that_the_trace_is_not_sampled(record):
    record(sampler=tracekit.AlwaysOff())
    with tracekit.span("root"):
        assert tracekit.inject({})["traceparent"].endswith("-02")


def test_without_an_exporter_spans_count_as_sampled_out(tmp_path):
    recorder = FlightRecorder(directory=tmp_path)
    tracekit.configure(exporter=recorder)
    before = tracekit.statistics()
    with tracekit.span("work"):
        pass
    assert recorder.dump() is not None
    now = tracekit.statistics()
    assert (now.unsampled - before.unsampled, now.exported - before.exported) == (1, 0)


def test_an_open_span_is_written_as_it_is_now(record):
    recorder = record()
    with tracekit.span("stuck") as span:
        span.set_attribute("step", 3)
        path = recorder.dump()
    with SQLiteReader(path) as reader:
        (stored,) = reader.spans(span.context.trace_id)
    assert stored.attributes == {"step": 3, "tracekit.open": True}
    assert stored.end_ns >= stored.start_ns


def test_an_error_of_a_local_root_writes_a_file(record, tmp_path):
    record()
    with tracekit.span("before"):
        failed("inner")
    tracekit.flush(60)
    assert files(tmp_path) == {}
    failed("request")
    finish()
    assert sorted(files(tmp_path)["error.db"]) == ["before", "inner", "request"]


def test_where_no_thread_can_be_started_an_error_writes_a_file_all_the_same(record, tmp_path, monkeypatch):
    """CPython 3.12.0 and 3.12.1 start none at exit, where the error that ends a short program is exported."""
    record()
    refuse_threads(monkeypatch, "tracekit-flight")
    failed("request")
    finish()
    assert files(tmp_path) == {"error.db": ["request"]}


def test_a_remote_parent_makes_a_local_root(record, tmp_path):
    record()
    with tracekit.use_context(tracekit.SpanContext("1" * 32, "2" * 16, is_remote=True)):
        failed("request")
    finish()
    assert files(tmp_path) == {"error.db": ["request"]}


def test_a_slow_request_writes_a_file(record, tmp_path):
    record(slower_s=1.0, on_error=False)
    failed("failed")
    tracekit.span("fast", start_ns=0).end(1_000_000_000)
    tracekit.flush(60)
    assert files(tmp_path) == {}
    tracekit.span("slow", start_ns=0).end(1_000_000_001)
    finish()
    assert "slow" in files(tmp_path)["slow.db"]


def test_files_without_a_request_for_them_are_limited_in_rate(record, tmp_path):
    now = 0
    recorder = record(min_interval_s=60.0, clock=lambda: now)
    for expected in (1, 1, 2):
        failed("request")
        tracekit.flush(60)
        if recorder._thread is not None:
            recorder._thread.join()
        assert len(list(tmp_path.glob("*.db"))) == expected
        now += 59_999_999_999 if expected == 1 else 60_000_000_000


def test_the_ring_is_bounded_by_time_and_number(record):
    now = 0
    recorder = record(seconds=10.0, max_spans=5, clock=lambda: now)

    def export(*names):
        for name in names:
            tracekit.span(name).end()
        tracekit.flush(60)

    def held():
        return [span.name for _, batch in recorder._ring for span in batch]

    export("a", "b")
    now = 10_000_000_000
    export("c", "d", "e")
    assert held() == ["a", "b", "c", "d", "e"]
    export("f")
    assert held() == ["c", "d", "e", "f"]
    now += 10_000_000_001
    export("g")
    assert held() == ["g"]


def test_old_files_are_deleted_and_others_are_not(record, tmp_path):
    recorder = record(max_files=2)
    other = tmp_path / "flight-mine.db"
    other.write_text("")
    tracekit.span("work").end()
    paths = [Path(recorder.dump()) for _ in range(4)]
    assert [path.exists() for path in paths] == [False, False, True, True]
    assert other.exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permissions of this kind")
def test_a_file_is_for_its_owner_alone(record):
    recorder = record()
    tracekit.span("work").end()
    assert os.stat(recorder.dump()).st_mode & 0o777 == 0o600


def test_nothing_is_written_where_there_is_nothing(record, tmp_path):
    assert record().dump() is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Windows has no SIGUSR1")
def test_a_signal_writes_a_file_and_the_previous_handler_is_called(record, tmp_path):
    seen = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))
    try:
        recorder = record(dump_on_signal=signal.SIGUSR1)
        with tracekit.span("work"):
            os.kill(os.getpid(), signal.SIGUSR1)
            recorder._thread.join()
        assert files(tmp_path) == {"signal.db": ["work"]}
        assert seen == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)


ENDING = """
    import signal, sys
    import tracekit, tracekit.debug
    from tracekit.exporters.flight import FlightRecorder

    if "flush" in sys.argv:
        tracekit.flush_on_signal()
    if "tasks" in sys.argv:
        tracekit.debug.dump_on_signal(signal.SIGTERM)
    if "recorder" in sys.argv:
        FlightRecorder(directory=sys.argv[1], dump_on_signal=signal.SIGTERM)
    tracekit.configure(exporter=FlightRecorder(directory=sys.argv[1], dump_on_signal=signal.SIGTERM), environ={})
    tracekit.span("work").end()
    signal.raise_signal(signal.SIGTERM)
    """


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself most signals there")
@pytest.mark.parametrize("previous", ["default", "flush", "tasks", "recorder"])
def test_a_signal_that_ends_the_program_still_does_once_the_file_is_written(previous, tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(ENDING), tmp_path, previous]
    assert subprocess.run(command, timeout=60, stderr=subprocess.DEVNULL).returncode == -signal.SIGTERM
    assert files(tmp_path) == {"signal.db": ["work"]}


def test_a_file_that_another_thread_writes_is_finished_before_the_end(record, tmp_path, monkeypatch):
    may_write = threading.Event()

    class Lock:
        def __init__(self, lock):
            self.lock, self.release = lock, lock.release

        def acquire(self, timeout):
            if timeout:  # the shutdown waits
                may_write.set()
            return self.lock.acquire(timeout=timeout)

    recorder = record()
    entered, write = threading.Event(), recorder._write_file

    def write_later(reason):
        entered.set()
        may_write.wait(60)
        write(reason)

    monkeypatch.setattr(recorder, "_is_writing", Lock(recorder._is_writing))
    monkeypatch.setattr(recorder, "_write_file", write_later)
    failed("request")
    tracekit.flush(60)
    assert entered.wait(60)
    recorder._start("slow")  # one file at a time
    recorder.shutdown()
    assert files(tmp_path) == {"error.db": ["request"]}


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Windows has no SIGUSR1")
def test_a_signal_for_the_programs_own_use_does_not_end_it(record, tmp_path):
    before = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    try:
        recorder = record(dump_on_signal=signal.SIGUSR1)
        with tracekit.span("work"):
            signal.raise_signal(signal.SIGUSR1)
            recorder._thread.join()
        assert files(tmp_path) == {"signal.db": ["work"]}
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_full_disk_or_a_missing_right_costs_the_file_alone(record, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    recorder = record()
    recorder.directory = str(tmp_path / "file")
    failed("request")
    assert recorder.dump() is None
    assert "no file was written" in caplog.text
    assert len(record.memory.spans) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="there is no RLIMIT_FSIZE")
def test_a_disk_that_fills_up_is_reported_once_and_keeps_no_half_files(record, tmp_path, caplog):
    import resource

    recorder = record(max_files=2)
    for _ in range(500):
        with tracekit.span("root", attributes={"key": "value" * 50}):
            pass
    tracekit.flush(60)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        paths = [recorder.dump() for _ in range(3)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert paths == [None, None, None]
    assert list(tmp_path.iterdir()) == []
    assert [record.message.partition(":")[0] for record in caplog.records] == ["flight recorder"]
    assert recorder.dump() is not None


@pytest.mark.parametrize("account", [None, (-1, 0, 0)])
@pytest.mark.parametrize("change", ["clear", "copy", None])
def test_the_exporter_counts_for_sampled_spans_alone_whatever_it_does(change, account, record):
    recorder = record(sampler=EveryOther())
    recorder.exporter = OddExporter(change, account)
    before = tracekit.statistics()
    for _ in range(4):
        tracekit.span("work").end()
    tracekit.flush(60)
    counts = [now - then for now, then in zip(tracekit.statistics(), before, strict=True)]
    taken, failed = (2, 0) if change else (0, 2)
    assert counts == list(tracekit.Statistics(4, 4, 0, taken, 0, 0, failed, 2, 0))
    assert sum(len(batch) for _, batch in recorder._ring) == 4


class EveryOther:
    def __init__(self):
        self.is_kept = False

    def sample(self, randomness, name, kind, attributes):
        self.is_kept = not self.is_kept
        return self.is_kept, ""


class OddExporter:
    """Changes the list of spans, or raises, and may have an invalid account."""

    def __init__(self, change, account):
        self.change = change
        if account is not None:
            self.account = lambda: account

    def export(self, spans):
        if self.change is None:
            raise OSError("no")
        spans.clear() if self.change == "clear" else spans.extend(list(spans))

    def shutdown(self):
        pass


def test_the_work_of_exporters_is_not_recorded(record):
    recorder = record(sampler=tracekit.AlwaysOff())

    class Traced(MemoryExporter):
        def export(self, spans):
            with tracekit.span("request to the collector"):
                super().export(spans)

    recorder.exporter = Traced()
    for _ in range(3):
        failed("work")
        tracekit.flush(60)
    assert {span.name for _, batch in recorder._ring for span in batch} == {"work"}


def test_another_exporter_records_sampled_traces_alone(record):
    record(sampler=tracekit.AlwaysOff())
    memory = MemoryExporter()
    with tracekit.span("open"):
        tracekit.configure(exporter=memory, sampler=tracekit.AlwaysOff())
        with tracekit.span("child") as child:
            assert not child.is_recording
    tracekit.flush(60)
    assert memory.spans == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_the_child_of_a_fork_has_a_ring_of_its_own(record, tmp_path):
    recorder = record()
    tracekit.span("parent's").end()
    tracekit.flush(60)
    pid = os.fork()
    if pid == 0:
        try:
            tracekit.span("child's").end()
            recorder.dump()
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert files(tmp_path) == {"dump.db": ["child's"]}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"exporter": MemoryExporter}, TypeError, "exporter must be an instance"),
        ({"exporter": 1}, TypeError, "exporter must have export"),
        ({"seconds": "1"}, TypeError, "seconds must be a number, not str"),
        ({"seconds": float("nan")}, ValueError, "seconds must be 0 to 1000000000"),
        ({"slower_s": -1}, ValueError, "slower_s must be 0 to 1000000000"),
        ({"min_interval_s": True}, TypeError, "min_interval_s must be a number"),
        ({"on_error": 1}, TypeError, "on_error must be bool, not int"),
        ({"max_spans": 0}, ValueError, "max_spans must be at least 1: 0"),
        ({"max_files": 1.0}, TypeError, "max_files must be int, not float"),
        ({"max_bytes": 1000}, ValueError, "max_bytes must be at least 1048576"),
        ({"dump_on_signal": "SIGUSR1"}, TypeError, "dump_on_signal must be a signal"),
        ({"dump_on_signal": 12345}, ValueError, "dump_on_signal: signal 12345 cannot be handled"),
    ],
)
def test_a_wrong_argument_is_named(arguments, error, words):
    with pytest.raises(error, match=words):
        FlightRecorder(**arguments)


def test_signals_need_the_main_thread():
    errors = []

    def make():
        try:
            FlightRecorder(dump_on_signal=signal.SIGINT)
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    assert "main thread" in errors[0]


@pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="needs SIGUSR2")
def test_a_signal_handler_that_dumps_does_not_wait_for_the_file_that_it_interrupts(record, tmp_path, monkeypatch):
    from tracekit.exporters import flight

    inside = []

    class Interrupted(flight.SQLiteExporter):
        def export(self, spans):
            if not inside:
                monkeypatch.setattr(flight, "_END_S", 1e100)  # longer than a lock can wait: an error
                signal.raise_signal(signal.SIGUSR2)
            super().export(spans)

    def handle(number, frame):
        assert recorder._lock.acquire(blocking=False)  # the interrupted frame may hold it
        assert recorder._lock.acquire(blocking=False)
        recorder._lock.release()
        recorder._lock.release()
        inside.append(recorder.dump())

    recorder = record()
    monkeypatch.setattr(flight, "SQLiteExporter", Interrupted)
    before = signal.signal(signal.SIGUSR2, handle)
    try:
        tracekit.span("a").end()
        assert recorder.dump() is not None
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert inside == [None]
    assert files(tmp_path) == {"dump.db": ["a"]}
