"""Spans that the threads which end them encode: the same octets, counted as any others."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from pathlib import Path
from queue import Empty

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import tracekit
from tracekit import _configure
from tracekit._core.buffer import Buffer, buffer
from tracekit._core.otlp import GROUP, IS_QUICK
from tracekit._export.intake import Counts
from tracekit._export.worker import MARK, Taps, Worker
from tracekit.exporters.otlp import OTLPExporter
from tracekit.testing import MemoryExporter

from ..tools.pipeline import LONG, Balance, end, lines, until
from ..tools.vectors import TWINS
from .collector import Collector, refuse

quick = pytest.mark.skipif(not IS_QUICK, reason="only the compiled form encodes spans where they end")


def configured(collector, **options):
    exporter = OTLPExporter(collector.url, environ={})
    tracekit.configure(service="shop", exporter=exporter, export_interval_s=LONG, **options)
    return exporter


def sizes_of(collector):
    """Return the number of spans in each request."""
    return [
        sum(len(scope.spans) for part in request.resource_spans for scope in part.scope_spans)
        for request in collector.requests
    ]


def run_and_fork(program, collector):
    """Return how many spans each process of *program*, which forks, has exported; sorted."""
    command = [sys.executable, "-c", program, collector.url]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    return sorted(map(int, done.stdout.split()))


@pytest.fixture(params=list(TWINS))
def form(request):
    """A form of the core whose buffer no pipeline serves."""
    form = TWINS[request.param]
    if request.param == "compiled" and not IS_QUICK:
        pytest.skip("each thread has its own spans, which no encoder reads")
    tracekit.shutdown(60)
    form.buffer.wake, form.buffer.is_open, form.buffer.mark = None, True, 1 << 20
    yield form
    form.buffer.drain()
    form.set_tracer(form.Tracer())
    form.buffer.is_open = False
    now = tracekit.statistics()  # of the package's own form: those that a test has taken count as exported
    taken = now.ended - (now.exported + now.queued + now.dropped + now.failed + now.unsampled)
    pipeline = _configure._pipeline
    pipeline._state = pipeline._state[0], pipeline._state[1].plus(Counts(exported=taken))


def ended(form, names, tracers):
    """End a span for each of *names*, on *tracers* in turn; return the spans."""
    spans = []
    for at, name in enumerate(names):
        form.set_tracer(tracers[at % len(tracers)])
        spans.append(form.span(name, attributes={"at": at}))
        spans[-1].end()
    return spans


def tracers_of(form, count):
    return [
        form.Tracer(
            recording=True, resource={"service.name": "x"}, instrumentation=form.Instrumentation(f"library {at}")
        )
        for at in range(count)
    ]


@pytest.mark.parametrize("count", [1, 2, 9])
def test_runs_become_the_request_of_their_spans(form, count):
    encoder = form.Encoder(16)
    tracers = tracers_of(form, count)
    spans = ended(form, [f"job {at}" for at in range(8)], tracers)
    assert not encoder.work()
    assert (encoder.count, encoder.busy, len(form.buffer)) == (8, 0, 0)
    spans += ended(form, [f"job {at}" for at in range(8, 16)], tracers)
    assert encoder.work()
    runs = encoder.take()
    assert [type(run) for run in runs] == [form.Run] * (2 * min(count, 8))
    assert (sum(run.count for run in runs), encoder.count) == (16, 0)
    found = ExportTraceServiceRequest.FromString(form.encode_spans(runs))
    expected = ExportTraceServiceRequest.FromString(form.encode_spans(spans))
    if count == 9:  # the second group begins with another tracer
        for request in (found, expected):
            for part in request.resource_spans:
                part.scope_spans.sort(key=lambda scope: scope.scope.name)
    assert str(found) == str(expected)
    single = [part for run in runs for part in form.split_run(run)]
    assert [run.count for run in single] == [1] * 16
    assert sorted(form.encode_spans(single)) == sorted(form.encode_spans(runs))


def test_spans_that_are_not_sampled_are_left_to_the_exporting_thread(form):
    form.set_tracer(form.Tracer(recording=True, records_all=True, resource={"service.name": "x"}))
    encoder = form.Encoder(16)
    for at in range(8):
        context = form.SpanContext(trace_id="1" * 32, span_id="2" * 16, flags=int(at > 5))
        form.span(f"job {at}", parent=context).end()
    assert not encoder.work()
    assert (encoder.count, len(form.buffer)) == (8, 0)
    items = encoder.take()
    assert sorted(type(item).__name__ for item in items) == ["Run", *["Span"] * 6]
    assert [item.count for item in items if type(item) is form.Run] == [2]


def test_few_spans_many_spans_and_those_of_a_closed_encoder_are_left_in_the_buffer(form):
    tracers = tracers_of(form, 1)
    encoder = form.Encoder(8)
    for count in (3, 9):
        ended(form, ["job"] * count, tracers)
        assert encoder.work()
        assert (encoder.count, len(form.buffer)) == (0, count)
        form.buffer.drain()
    ended(form, ["job"] * 4, tracers)
    encoder.is_open = False
    assert encoder.work()
    assert len(form.buffer) == 4


def test_a_full_encoder_leaves_spans_in_the_buffer(form):
    tracers = tracers_of(form, 1)
    encoder = form.Encoder(8)
    for waiting in (0, 0, 4):
        ended(form, ["job"] * 4, tracers)
        encoder.work()
        assert len(form.buffer) == waiting
    assert (encoder.count, encoder.lose()) == (8, 8)


def test_large_spans_are_left_to_the_exporting_thread(form):
    form.set_tracer(form.Tracer(recording=True, resource={"service.name": "x"}))
    encoder = form.Encoder(16)
    spans = [form.span("job", attributes={f"key {at}": "x" * 4000 for at in range(32)}) for _ in range(8)]
    for span in spans:
        span.end()
    assert not encoder.work()
    assert encoder.count == 8
    items = encoder.take()
    assert sorted(type(item).__name__ for item in items) == ["Run", *["Span"] * 6]
    assert form.encode_spans(items).count(b"key 31") == 8


@quick
def test_spans_are_encoded_where_they_end_and_freed(collector):
    configured(collector)
    balance = Balance()
    end(1)
    until(lambda: not buffer.is_asleep)
    references = []
    for _ in range(2 * GROUP):
        span = tracekit.span("job")
        references.append(weakref.ref(span))
        span.end()
        del span
    assert sum(reference() is None for reference in references) >= 2 * GROUP - 1
    assert len(buffer) == 1
    assert (balance.queued, balance.exported) == (2 * GROUP + 1, 0)
    assert tracekit.flush(60)
    (request,) = collector.requests
    assert [len(part.scope_spans) for part in request.resource_spans] == [1, 1]  # runs, and the last span
    assert len(collector.spans) == balance.exported == 2 * GROUP + 1


@quick
@pytest.mark.parametrize("batch", [1, 2 * GROUP, 1000])
def test_requests_have_at_most_a_batch(collector, batch):
    configured(collector, batch_size=batch)
    balance = Balance()
    threads = [threading.Thread(target=end, args=(700,)) for _ in range(3)] if batch > 1 else []
    for thread in threads:
        thread.start()
    end(100)
    for thread in threads:
        thread.join()
    assert tracekit.flush(60)
    sizes = sizes_of(collector)
    assert max(sizes) <= batch
    assert sum(sizes) == balance.exported == 100 + 700 * len(threads)


@quick
def test_a_request_has_8192_encoded_spans_where_nothing_else_is_said(collector):
    configured(collector)
    end(10_000)
    assert tracekit.flush(60)
    assert sizes_of(collector) == [8192, 10_000 - 8192]


@quick
def test_a_small_buffer_bounds_a_request(collector):
    configured(collector, buffer_size=1024)
    end(3000)
    assert tracekit.flush(60)
    assert max(sizes_of(collector)) <= 1024


@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json"])
def test_a_batch_larger_than_the_buffer_does_not_let_more_spans_wait(collector, protocol):
    exporter = OTLPExporter(collector.url, environ={}, protocol=protocol)
    tracekit.configure(exporter=exporter, export_interval_s=LONG, buffer_size=100, batch_size=100_000)
    balance = Balance()
    for _ in range(50):
        end(20)
        until(lambda: len(buffer) <= buffer.mark)
    assert balance.dropped + balance.queued + balance.exported == 1000
    assert balance.queued <= 200  # in the buffer and being sent
    assert tracekit.flush(60)
    assert max(sizes_of(collector)) <= 100


@pytest.mark.parametrize("size", [2, 65, 70, 100, 129, 130, 200, 300])
def test_a_small_buffer_is_emptied_before_it_is_full(collector, size):
    tracekit.configure(exporter=OTLPExporter(collector.url, environ={}), export_interval_s=LONG, buffer_size=size)
    balance = Balance()
    some = min(size, 20) // 2
    for _ in range(1000 // some):
        until(lambda: len(buffer) <= size - some and balance.queued <= 2 * size - some)
        end(some)
    assert balance.dropped == 0
    assert tracekit.flush(60)
    assert len(collector.spans) == balance.exported == 1000 // some * some


@pytest.mark.parametrize("batch", [5, 100])
@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json"])
def test_while_a_collector_does_not_answer_no_more_than_twice_the_buffer_waits(protocol, batch):
    arrived, release = threading.Event(), threading.Event()

    def late(handler, request):
        arrived.set()
        release.wait(60)
        collector.requests.append(request)
        handler.answer(200, b"")

    with Collector(late) as collector:
        exporter = OTLPExporter(collector.url, environ={}, protocol=protocol, timeout_s=60)
        tracekit.configure(exporter=exporter, export_interval_s=LONG, buffer_size=100, batch_size=batch)
        balance = Balance()
        for size in (300, 50, 400, 1, 100):
            end(size)
            assert arrived.wait(60)
            assert 100 <= balance.queued <= 200
        assert balance.dropped + balance.queued == 851
        release.set()
        assert tracekit.flush(60)
        end(150)
        assert tracekit.flush(60)
        assert balance.queued == 0
        assert buffer.taken == 0
        assert balance.exported > 150
        assert len(collector.spans) == balance.exported


@quick
def test_a_run_that_is_too_large_for_the_collector_is_split(monkeypatch):
    from tracekit.exporters import otlp

    monkeypatch.setattr(otlp, "MAX_REQUEST_BYTES", 2000)
    with Collector() as collector:
        configured(collector)
        balance = Balance()
        end(3 * GROUP)
        assert tracekit.flush(60)
        assert len(collector.requests) > 3
        assert len(collector.spans) == balance.exported == 3 * GROUP
        assert all(request.ByteSize() <= 2000 for request in collector.requests)


@quick
def test_encoded_spans_that_the_collector_rejects_have_failed(caplog):
    with Collector(refuse(400)) as collector:
        configured(collector)
        balance = Balance()
        end(2 * GROUP)
        assert tracekit.flush(60)
        assert (balance.failed, balance.queued) == (2 * GROUP, 0)
    assert f"{2 * GROUP} spans lost" in lines(caplog)[0]


@quick
def test_spans_that_cannot_be_encoded_are_counted_and_the_others_sent(collector, monkeypatch, caplog):
    from tracekit.exporters import otlp

    encode = otlp.encode_spans

    def fails(spans, *pause):
        if any(getattr(span, "name", "") == "bad" for span in spans):
            raise RuntimeError("no form for this")
        return encode(spans, *pause)

    monkeypatch.setattr(otlp, "encode_spans", fails)
    configured(collector)
    balance = Balance()
    encoder = _configure._pipeline._worker.encoder
    with tracekit.span("bad") as bad:
        bad.set_attributes({f"key {at}": "x" * 4000 for at in range(100)})
    end(GROUP - 1)
    assert encoder.count == GROUP
    bad = tracekit.span("bad")
    bad.end()
    assert tracekit.flush(60)
    assert (balance.exported, balance.failed, balance.queued) == (GROUP, 1, 0)


@quick
def test_taps_get_spans_and_none_is_encoded_before(collector):
    configured(collector)
    got = []
    _configure.add_tap(got.extend, records_all=False)
    try:
        end(2 * GROUP)
        assert tracekit.flush(60)
        assert buffer.mark == MARK
    finally:
        _configure.remove_tap(got.extend)
    assert tracekit.flush(60)
    assert buffer.mark == GROUP - 1
    assert [span.name for span in got] == ["job"] * 2 * GROUP
    assert len(collector.spans) == 2 * GROUP


@quick
def test_spans_are_encoded_again_when_a_tap_that_records_all_is_gone(collector):
    exporter = OTLPExporter(collector.url, environ={})
    tracekit.configure(exporter=exporter, sampler=tracekit.AlwaysOff(), export_interval_s=LONG)
    balance = Balance()
    got = []
    _configure.add_tap(got.extend, records_all=True)
    left_open = [tracekit.span("not sampled") for _ in range(GROUP)]
    _configure.remove_tap(got.extend)
    assert tracekit.flush(60)
    sampled = tracekit.SpanContext(trace_id="1" * 32, span_id="2" * 16, flags=1)
    for span in left_open:
        tracekit.span("sampled", parent=sampled).end()
        span.end()
    worker = _configure._pipeline._worker
    assert (worker.encoder.count, len(buffer)) == (2 * GROUP, 0)
    assert tracekit.flush(60)
    assert [span.name for span in collector.spans] == ["sampled"] * GROUP
    assert (balance.exported, balance.unsampled, balance.queued) == (GROUP, GROUP, 0)
    assert got == []


@quick
@pytest.mark.parametrize("buffer_size", [4 * GROUP, 16 * GROUP])
@pytest.mark.parametrize("replace", ["object", "class"])
def test_an_export_that_the_program_replaces_gets_spans(collector, monkeypatch, replace, buffer_size):
    exporter = configured(collector, buffer_size=buffer_size)
    kept = MemoryExporter()
    end(GROUP, "before")
    if replace == "object":
        monkeypatch.setattr(exporter, "export", kept.export)
    else:
        assert tracekit.flush(60)
        monkeypatch.setattr(OTLPExporter, "export", lambda _, spans: kept.export(spans))
        end(1, "notices it")
        assert tracekit.flush(60)
    for _ in range(2):
        end(GROUP + 1, "replaced")
        assert tracekit.flush(60)
    assert [span.name for span in kept.spans if span.name != "notices it"] == ["replaced"] * 2 * (GROUP + 1)
    assert [span.name for span in collector.spans] == ["before"] * GROUP
    monkeypatch.undo()
    end(1, "after")
    assert tracekit.flush(60)
    end(GROUP, "after")
    assert len(buffer) == 0
    assert tracekit.flush(60)
    assert [span.name for span in collector.spans] == ["before"] * GROUP + ["after"] * (GROUP + 1)


@quick
def test_encoded_spans_go_to_their_exporter_before_its_successor_gets_others(collector):
    configured(collector)
    end(GROUP, "first")
    successor = MemoryExporter()
    _configure._pipeline.exporter = successor
    end(GROUP, "second")
    assert tracekit.flush(60)
    assert [span.name for span in collector.spans] == ["first"] * GROUP
    assert [span.name for span in successor.spans] == ["second"] * GROUP


@quick
def test_spans_in_the_encoder_of_an_exporter_that_is_given_up_have_failed():
    entered, release = threading.Event(), threading.Event()

    class Hanging(OTLPExporter):
        def deliver(self, parcels):
            entered.set()
            release.wait(20)

    balance = Balance()
    tracekit.configure(exporter=Hanging("http://127.0.0.1:1", environ={}), export_interval_s=LONG, batch_size=GROUP * 2)
    end(2 * GROUP)
    assert entered.wait(20)
    end(GROUP)
    assert len(buffer) == 0
    _configure._pipeline.use(None, capacity=16384, interval_s=1.0, timeout_s=0.01)
    assert (balance.failed, balance.exported, balance.queued) == (3 * GROUP, 0, 0)
    release.set()
    end(1)
    assert balance.failed == 3 * GROUP


@quick
def test_a_hanging_exporter_leaves_the_bound_of_the_buffer():
    entered, release = threading.Event(), threading.Event()

    class Hanging(OTLPExporter):
        def deliver(self, parcels):
            entered.set()
            release.wait(20)
            super().deliver(parcels)

    with Collector() as collector:
        balance = Balance()
        tracekit.configure(
            exporter=Hanging(collector.url, environ={}), export_interval_s=LONG, batch_size=1024, buffer_size=2048
        )
        end(1024)
        assert entered.wait(20)
        end(10_000)
        assert balance.queued == 1024 + 1024 + 2048
        assert balance.dropped == 10_000 - 1024 - 2048
        release.set()
        assert tracekit.flush(60)
        assert balance.exported == len(collector.spans) == 1024 + 1024 + 2048


@quick
def test_a_flush_of_a_finalizer_under_an_encoding_is_not_done(collector, monkeypatch):
    configured(collector)
    worker = _configure._pipeline._worker

    class Busy:
        busy, count, taken, is_open = 3, 0, 0, False

        def work(self):
            return True

        def take(self):
            return []

        def lose(self):
            return 0

    monkeypatch.setattr(worker, "encoder", Busy())
    end(1)
    assert not tracekit.flush()
    assert len(collector.spans) == 1


_FORK = """
import os, sys
import tracekit
from tests.tools.pipeline import LONG, end
from tracekit._core.otlp import GROUP
from tracekit.exporters.otlp import OTLPExporter

tracekit.configure(exporter=OTLPExporter(sys.argv[1], environ={}), export_interval_s=LONG)
end(GROUP + 1, "parent")
child = os.fork()
end(GROUP, "child" if child == 0 else "late")
assert tracekit.flush(20)
os.write(1, b"%d\\n" % tracekit.statistics().exported)  # at once: two processes write
if child:
    os.waitpid(child, 0)
os._exit(0)
"""


@quick
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_encoded_spans_of_the_parent_are_sent_by_the_parent_alone(collector):
    exported = run_and_fork(_FORK, collector)
    gc.collect()
    assert exported == [GROUP, 2 * GROUP + 1]
    names = [span.name for span in collector.spans]
    assert {name: names.count(name) for name in names} == {"parent": GROUP + 1, "late": GROUP, "child": GROUP}


@contextlib.contextmanager
def undisturbed():
    """No other thread allocates meanwhile: one that waits for the GIL takes it where this thread waits, and not before."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    time.sleep(2 * interval)  # those that wait already ask for it after the interval of before
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


class Cycle:
    """Garbage whose finalizer calls *run*."""

    def __init__(self, run):
        self.cycle, self.run = self, run

    def __del__(self):
        self.run()


def end_with_garbage(run, allocations):
    """End a span that completes a group; garbage is collected, and *run* called, after *allocations*."""
    end(GROUP - 1 - len(buffer))
    last = tracekit.span("last")
    thresholds = gc.get_threshold()
    gc.collect()
    with undisturbed():
        Cycle(run)
        gc.set_threshold(gc.get_count()[0] + allocations, 1000, 1000)
        try:
            last.end()
        finally:
            gc.set_threshold(*thresholds)
            gc.collect()


@quick
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="garbage is collected between two instructions alone")
@pytest.mark.parametrize("change", ["shutdown", "shutdown elsewhere", "use", "configure", "flush", "end"])
def test_spans_are_counted_if_a_finalizer_interrupts_their_encoding(collector, monkeypatch, change):
    busy = []
    for allocations in range(6):
        configured(collector)
        worker = _configure._pipeline._worker
        balance = Balance()
        encoder, drain = worker.encoder, worker.drain
        threads, ended = [], threading.Event()

        def interrupt(encoder=encoder, worker=worker, threads=threads):
            busy.append(encoder.busy)
            if change == "shutdown elsewhere":
                threads.append(threading.Thread(target=tracekit.shutdown))
                threads[0].start()
                until(lambda: not encoder.is_open)
            elif change == "use":
                _configure._pipeline.exporter = MemoryExporter()
            elif change == "configure":
                configured(collector)
                end(3)
            elif change == "end":
                end(3 * GROUP)
            else:
                getattr(tracekit, change)()

        def slowly(drain=drain, ended=ended):
            drain()
            assert ended.wait(20)

        if change == "shutdown elsewhere":
            monkeypatch.setattr(worker, "drain", slowly)
        end_with_garbage(interrupt, allocations)
        ended.set()
        for thread in threads:
            thread.join()
        tracekit.flush(60)
        assert (balance.queued, encoder.busy) == (0, 0)
        assert balance.ended >= GROUP
        if change in ("use", "flush", "end"):
            assert balance.exported == balance.ended
    assert GROUP in busy


@quick
def test_spans_that_no_memory_is_left_for_are_counted(collector):
    no_memory = pytest.importorskip("_testcapi")
    configured(collector)
    encoder = _configure._pipeline._worker.encoder
    balance = Balance()
    for first in range(24):
        buffer.is_asleep = False
        end(GROUP - 1 - len(buffer))
        last = tracekit.span("last")
        with undisturbed():  # the collector's thread would end
            no_memory.set_nomemory(first, first + 1000)
            try:
                last.end()
            finally:
                no_memory.remove_mem_hooks()
        assert encoder.busy == 0
        assert tracekit.flush(60)
        assert balance.queued == 0
    assert balance.exported == len(collector.spans)
    assert balance.dropped + balance.exported == 24 * GROUP


@pytest.mark.skipif(tracekit.IMPLEMENTATION == "plain", reason="no C that could give up a reference twice")
def test_wherever_memory_is_missing_an_encoding_leaves_memory_whole():
    pytest.importorskip("_testcapi")
    program = """
        import _testcapi
        from tracekit._core.otlp import encode_spans
        from tracekit._core.span import set_tracer, span
        from tracekit._core.tracer import Tracer
        set_tracer(Tracer(recording=True, resource={"service.name": "x"}))
        spans = [span("job") for _ in range(300)]  # more than the small ints, which are never freed
        for one in spans:
            one.end()
        whole = encode_spans(spans)
        for first in range(60):
            for _ in range(20):
                _testcapi.set_nomemory(first, first + 1)
                try:
                    encode_spans(spans)
                except MemoryError:
                    pass
                finally:
                    _testcapi.remove_mem_hooks()
            assert encode_spans(spans) == whole and sum(range(1000, 2000)) == 1499500
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stderr) == (0, "")


@quick
def test_spans_that_are_encoded_while_the_exporting_thread_falls_asleep_do_not_wait_for_more(monkeypatch):
    class Inbox:
        def get(self, timeout=None):
            assert timeout is not None, "asleep"
            raise Empty

    class Late:
        busy, group, is_open, calls = 0, GROUP, True, 0

        @property
        def count(self):
            self.calls += 1
            return GROUP if self.calls > 2 else 0

    for busy in (False, True):
        worker = Worker(OTLPExporter("http://127.0.0.1:1", environ={}), 0.001, 2048, lambda: None, Taps())
        worker.inbox, worker.encoder = Inbox(), Late()
        if busy:
            worker.encoder = type("Busy", (), {"busy": 1, "count": 0})
        assert worker._wait() is None


@quick
def test_encoded_spans_are_counted_if_a_finalizer_closes_the_exporter_when_they_are_taken(collector, monkeypatch):
    configured(collector)
    balance = Balance()
    worker = _configure._pipeline._worker
    end(GROUP)

    class Interrupted:
        def __init__(self, encoder):
            self.__dict__["encoder"] = encoder

        def __getattr__(self, name):
            return getattr(self.encoder, name)

        def __setattr__(self, name, value):
            setattr(self.encoder, name, value)

        def take(self):
            items = self.encoder.take()
            tracekit.shutdown(60)
            return items

    monkeypatch.setattr(worker, "encoder", Interrupted(worker.encoder))
    tracekit.flush(60)
    assert (balance.failed, balance.queued) == (GROUP, 0)


def test_a_flush_that_fails_in_the_exporting_thread_is_not_done(collector, monkeypatch):
    def fails():
        raise MemoryError

    configured(collector)
    with monkeypatch.context() as patch:
        patch.setattr(_configure._pipeline._worker, "drain", fails)
        assert not tracekit.flush()
    assert tracekit.flush(60)


@pytest.mark.skipif(
    not IS_QUICK and tracekit.IMPLEMENTATION == "compiled", reason="records of threads belong to the one buffer"
)
@pytest.mark.parametrize("kind", [RecursionError, MemoryError, KeyboardInterrupt])
def test_a_wake_that_fails_is_tried_again_by_the_next_span(kind):
    calls = []

    def wake():
        calls.append(1)
        if len(calls) == 1:
            raise kind

    own = Buffer()
    own.wake, own.is_open = wake, True
    with pytest.raises(KeyboardInterrupt) if kind is KeyboardInterrupt else contextlib.nullcontext():
        own.end(object(), True)
    for _ in range(2):
        own.end(object(), True)
    assert (len(own), len(calls)) == (3, 2)


@quick
def test_encoded_spans_are_exported_before_the_others_are_held_for_the_parent(collector):
    configured(collector)
    balance = Balance()
    end(GROUP)
    _configure._pipeline.hold()
    end(2)
    assert (balance.exported, balance.failed, len(buffer)) == (GROUP, 0, 2)
    configured(collector)
    assert tracekit.flush(60)
    assert len(collector.spans) == balance.exported == GROUP + 2


def test_a_subclass_whose_prepare_is_replaced_gets_spans(collector):
    class Seeing(OTLPExporter):
        def prepare(self, spans):
            seen.extend(span.name for span in spans)
            return super().prepare(spans)

    seen = []
    tracekit.configure(exporter=Seeing(collector.url, environ={}), export_interval_s=LONG)
    end(3 * GROUP)
    assert tracekit.flush(60)
    assert seen == ["job"] * 3 * GROUP
    assert len(collector.spans) == 3 * GROUP


_FORK_INSIDE = """
import os, sys
import tracekit
from tests.tools.pipeline import LONG, end
from tracekit import _configure
from tracekit._core.otlp import GROUP
from tracekit.exporters.otlp import OTLPExporter

tracekit.configure(exporter=OTLPExporter(sys.argv[1], environ={}), export_interval_s=LONG)
worker = _configure._pipeline._worker
worker.start = lambda: False
end(GROUP, "parent")
del worker.start
child = os.fork()
if child == 0:
    end(3, "child")
    worker.wake()  # as a finalizer that forks below it has it
    worker.flush(20)
assert tracekit.flush(20)
os.write(1, b"%d\\n" % tracekit.statistics().exported)  # at once: two processes write
if child:
    os.waitpid(child, 0)
os._exit(0)
"""


@quick
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_the_parents_worker_exports_nothing_in_the_child_of_a_fork(collector):
    exported = run_and_fork(_FORK_INSIDE, collector)
    assert exported == [3, GROUP]
    names = [span.name for span in collector.spans]
    assert {name: names.count(name) for name in names} == {"parent": GROUP, "child": 3}
