"""Pools of processes: jobs continue the trace, spans come back, and all else is as ``concurrent.futures`` does it."""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import multiprocessing.util
import os
import pickle
import re
import sys
import threading

import pytest

import tracekit
from tracekit.processes import ProcessPoolExecutor, environ, pack
from tracekit.testing import MemoryExporter, span_tree

from .tools import jobs

METHODS = multiprocessing.get_all_start_methods()
QUICK = "forkserver" if "forkserver" in METHODS else "spawn"  # does not fork this process, which has threads

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.usefixtures("workers_find_the_tests", "every_span_is_accounted_for"),
]


def make_pool(method=QUICK, kind=ProcessPoolExecutor, **options):
    return kind(1, mp_context=multiprocessing.get_context(method), **options)


@pytest.fixture(scope="module", params=METHODS)
def pool(request):
    """A pool of one worker, for each start method; the worker is older than most tests."""
    with make_pool(request.param) as pool:
        yield pool


@pytest.fixture(scope="module")
def quick_pool():
    with make_pool() as pool:
        yield pool


@pytest.fixture(scope="module")
def standard_pool():
    with make_pool(kind=concurrent.futures.ProcessPoolExecutor) as pool:
        yield pool


@pytest.fixture
def fifo(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no FIFOs on this system")
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def release(fifo):
    """Let go who waits for *fifo*."""
    fifo.open("w").close()


def lines(path):
    return path.read_text().splitlines()


# ---- which trace a job is part of


def test_a_job_is_a_child_of_the_span_that_submitted_it_and_its_spans_come_back(pool, exporter):
    with tracekit.span("parent") as parent:
        assert pool.submit(jobs.work, "work", "part", "part").result() == "work"
    assert span_tree(exporter.spans) == "parent\n  work\n    part\n    part"
    work = next(span for span in exporter if span.name == "work")
    assert (work.parent.span_id, work.parent.is_remote) == (parent.context.span_id, True)


def test_a_span_of_a_worker_keeps_its_instrumentation(quick_pool, exporter):
    for _ in range(2):
        quick_pool.submit(jobs.library_span, "span").result()
    first, second = exporter.spans
    assert tuple(first.instrumentation) == jobs.LIBRARY
    assert first.instrumentation is second.instrumentation  # which exporters group by


def test_a_worker_does_not_stick_to_its_first_job(pool, exporter):
    for name in ("one", "two"):
        with tracekit.span(name):
            futures = [pool.submit(jobs.work, f"{name} {number}") for number in (1, 2)]
        concurrent.futures.wait(futures)
    pool.submit(jobs.work, "alone").result()
    assert span_tree(exporter.spans) == "one\n  one 1\n  one 2\ntwo\n  two 1\n  two 2\nalone"


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_that_was_started_inside_a_span_does_not_stick_to_it(method, exporter):
    with tracekit.span("starter"), make_pool(method) as pool:
        pool.submit(jobs.work, "first").result()
        with tracekit.use_context(None):
            pool.submit(jobs.work, "second").result()
    assert span_tree(exporter.spans) == "starter\n  first\nsecond"


def test_a_span_that_has_ended_before_its_job_runs_is_still_its_parent(quick_pool, exporter, fifo):
    before = quick_pool.submit(jobs.wait_for, fifo)
    with tracekit.span("parent") as parent:
        future = quick_pool.submit(jobs.work)
    assert (parent.ended, future.done()) == (True, False)
    release(fifo)
    before.result()
    assert future.result() == "work"
    assert span_tree(exporter.spans) == "parent\n  work"


def test_labels_and_tracestate_arrive_in_the_worker(pool, exporter):
    remote = tracekit.SpanContext("a" * 32, "b" * 16, 3, state=tracekit.TraceState.parse("vendor=1"), is_remote=True)
    with tracekit.use_context(remote), tracekit.use_labels(tenant="ačme", empty=""):
        found = pool.submit(jobs.here).result()
        pool.submit(jobs.work).result()
    assert found == ("a" * 32, "b" * 16, 3, "vendor=1", {"tenant": "ačme", "empty": ""}, True)
    (work,) = exporter.spans
    assert dict(work.context.labels) == {"tenant": "ačme", "empty": ""}
    assert str(work.context.state) == "vendor=1"


def test_labels_without_a_trace_arrive_too(quick_pool, exporter):
    with tracekit.use_labels(tenant="acme"):
        quick_pool.submit(jobs.work).result()
    (work,) = exporter.spans
    assert (work.parent, dict(work.context.labels)) == (None, {"tenant": "acme"})


def test_what_a_job_leaves_open_or_sets_does_not_reach_the_next_job(pool, exporter):
    pool.submit(jobs.leave_open).result()
    assert pool.submit(jobs.here).result() is None
    assert pool.submit(jobs.variable).result() == "unset"
    pool.submit(jobs.collect).result()  # nobody ended the span, so it ends where the last Context that has it goes
    assert span_tree(exporter.spans) == "left open [cancelled]"


def test_map_calls_are_children_of_where_map_was_called_and_do_not_reach_each_other(pool, exporter):
    with tracekit.span("parent"):
        results = pool.map(jobs.work, ["a", "b", "c"], ["x"] * 3, chunksize=2)
    assert list(results) == ["a", "b", "c"]
    assert span_tree(exporter.spans) == "parent\n  a\n    x\n  b\n    x\n  c\n    x"
    exporter.clear()
    assert list(pool.map(_leave_open_or_look, [True, False], chunksize=2)) == [None, None]


def _leave_open_or_look(first):
    return jobs.leave_open() if first else jobs.here()


def test_a_wrapped_function_keeps_the_place_where_it_was_wrapped(quick_pool, exporter):
    with tracekit.span("wrapper"):
        wrapped = tracekit.wrap(jobs.work)
    with tracekit.span("submitter"):
        quick_pool.submit(wrapped).result()
    assert span_tree(exporter.spans) == "wrapper\n  work\nsubmitter"


def test_a_job_may_have_a_pool_of_its_own(quick_pool, exporter):
    with tracekit.span("parent"):
        quick_pool.submit(jobs.nested, "spawn").result()
    assert span_tree(exporter.spans) == "parent\n  nested\n    inner"


# ---- what comes back


def test_a_span_comes_back_as_it_was(pool, exporter):
    with tracekit.span("parent"), tracekit.use_labels(tenant="acme"):
        sent = pool.submit(jobs.everything).result()
    span = next(span for span in exporter if span.name == "everything")
    assert jobs.describe_span(span) == sent
    assert sent["dropped"] == (1, 0, 0, 0)
    assert span.resource is exporter.spans[-1].resource
    assert span.resource["service.name"] == "test"


def test_the_limits_are_the_parents(quick_pool):
    exporter = MemoryExporter()
    tracekit.configure(exporter=exporter, limits=tracekit.Limits(attributes=1, value_length=2))
    quick_pool.submit(jobs.work, "work", a="long", b="out").result()
    (work,) = exporter.spans
    assert (dict(work.attributes), work.dropped_attributes, work.truncated_values) == ({"a": "lo"}, 1, 1)


def test_a_span_that_ends_between_jobs_comes_back_with_the_next(quick_pool, exporter, fifo):
    with tracekit.span("parent"):
        quick_pool.submit(jobs.start_thread, fifo).result()
    assert span_tree(exporter.spans) == "parent"
    release(fifo)
    quick_pool.submit(jobs.join_threads).result()
    assert span_tree(exporter.spans) == "parent\n  in the background"


def test_what_did_not_fit_the_workers_buffer_is_counted_and_said_here(quick_pool, caplog):
    tracekit.configure(exporter=MemoryExporter(), buffer_size=1 << 18)
    before = tracekit.statistics()
    quick_pool.submit(jobs.many, 16384 + 100).result()
    quick_pool.submit(jobs.many, 1).result()
    tracekit.flush(60)
    now = tracekit.statistics()
    assert now.exported - before.exported == 16384 + 1
    assert now.dropped - before.dropped == 100
    assert [record.message.partition(":")[0] for record in caplog.records] == ["100 spans dropped"]
    caplog.clear()


def test_the_statistics_of_a_worker_add_up_after_its_spans_were_sent(pool, exporter):
    before = pool.submit(jobs.statistics).result()
    pool.submit(jobs.work, "work", "part").result()
    after = pool.submit(jobs.statistics).result()
    assert after.ended == after.exported + after.queued + after.dropped + after.failed + after.unsampled
    assert (after.exported - before.exported, after.queued) == (2, 0)


def test_spans_that_come_back_to_nobody_are_counted_as_dropped(quick_pool, exporter, fifo):
    before = tracekit.statistics()
    quick_pool.submit(jobs.wait_for, fifo)
    future = quick_pool.submit(jobs.work)
    tracekit.configure()
    release(fifo)
    assert future.result() == "work"
    assert tracekit.statistics().dropped - before.dropped == 1


def test_max_tasks_per_child_loses_nothing(exporter):
    with make_pool(QUICK, max_tasks_per_child=1) as pool, tracekit.span("parent"):
        assert [pool.submit(jobs.work, name).result() for name in "abc"] == ["a", "b", "c"]
    assert span_tree(exporter.spans) == "parent\n  a\n  b\n  c"


# ---- who decides what is recorded


def test_under_an_unsampled_span_a_worker_records_nothing(pool):
    exporter = MemoryExporter()
    tracekit.configure(exporter=exporter, sampler=tracekit.AlwaysOff())
    before = pool.submit(jobs.statistics).result()
    with tracekit.span("parent") as parent:
        assert not parent.context.sampled
        found = pool.submit(jobs.here).result()
        pool.submit(jobs.work, "work", "part").result()
    assert found[1:3] == (parent.context.span_id, parent.context.flags)
    after = pool.submit(jobs.statistics).result()
    assert (after.unsampled - before.unsampled, after.queued, exporter.spans) == (2, 0, [])


class Never:
    def sample(self, randomness, name, kind, attributes):
        return False, ""


@pytest.mark.parametrize(
    ("sampler", "fewest", "most", "state"),
    [
        (tracekit.AlwaysOn(), 64, 64, ""),
        (tracekit.AlwaysOff(), 0, 0, ""),
        (tracekit.Ratio(0.5), 1, 63, "ot=th:8"),
        (Never(), 64, 64, ""),  # which cannot be asked there
    ],
    ids=["on", "off", "half", "of one's own"],
)
def test_where_nothing_is_current_a_job_is_sampled_as_it_would_be_here(sampler, fewest, most, state, quick_pool):
    exporter = MemoryExporter()
    tracekit.configure(exporter=exporter, sampler=sampler)
    quick_pool.submit(jobs.many, 64).result()
    assert fewest <= len(exporter) <= most
    for span in exporter:
        assert str(span.context.state) == state
        assert not state or int(span.context.trace_id[-14:], 16) >= 1 << 55


def test_without_an_exporter_a_worker_continues_the_trace_and_records_nothing(pool):
    with tracekit.use_context(tracekit.SpanContext("a" * 32, "b" * 16, 1)), tracekit.span("parent") as parent:
        assert pool.submit(jobs.here).result()[:3] == ("a" * 32, parent.context.span_id, 1)
        assert pool.submit(jobs.work).result() == "work"
    assert pool.submit(jobs.statistics).result().queued == 0


def test_a_worker_that_configures_itself_keeps_its_exporter(exporter, tmp_path):
    own = tmp_path / "own"
    with make_pool(initializer=jobs.configure, initargs=(own,)) as pool, tracekit.span("parent") as parent:
        assert pool.submit(jobs.work).result() == "work"
        with pytest.raises(jobs.Plain):
            pool.submit(jobs.fail, "plain").result()
    assert span_tree(exporter.spans) == "parent"
    expected = f"work {parent.context.trace_id} {parent.context.span_id} True"
    assert lines(own) == [expected, expected]


def test_a_job_that_configures_its_worker_takes_what_it_has_along(exporter, tmp_path):
    with make_pool() as pool:
        pool.submit(jobs.work, "before").result()
        pool.submit(jobs.configure, tmp_path / "own").result()
        pool.submit(jobs.work, "after").result()
    assert span_tree(exporter.spans) == "before"
    assert [line.split()[0] for line in lines(tmp_path / "own")] == ["after"]


@pytest.mark.parametrize("plain", ["0", "1"], ids=["compiled", "plain"])
def test_worker_and_parent_may_use_different_forms(plain, exporter, monkeypatch):
    monkeypatch.setenv("TRACEKIT_NO_EXTENSIONS", plain)
    with make_pool("spawn") as pool, tracekit.span("parent"), tracekit.use_labels(tenant="acme"):
        used = pool.submit(jobs.implementation).result()
        sent = pool.submit(jobs.everything).result()
    assert used == "plain" or plain == "0"
    assert span_tree(exporter.spans) == "parent\n  everything [error] ~ dddddddddddddddd ~ dddddddddddddddd"
    assert jobs.describe_span(next(span for span in exporter if span.name == "everything")) == sent


# ---- initializers


@pytest.mark.parametrize("method", METHODS)
def test_an_initializers_spans_are_roots_linked_to_where_the_pool_was_made(method, exporter):
    with tracekit.span("maker"):
        pool = make_pool(method, initializer=jobs.prepare, initargs=("set",))
    with pool, tracekit.span("submitter"):
        assert pool.submit(jobs.variable).result() == "set"
        assert pool.submit(jobs.here).result()[4] == {}
        pool.submit(jobs.work).result()
    assert sorted(span_tree(exporter.spans).splitlines()) == ["  work", "maker", "prepare ~ maker", "submitter"]


@pytest.mark.parametrize("method", METHODS)
def test_an_initializer_records_what_is_configured_when_its_worker_starts(method, exporter):
    pool = make_pool(method, initializer=jobs.prepare, initargs=("set",))
    tracekit.configure()
    with pool:
        pool.submit(jobs.work).result()
        assert pool.submit(jobs.statistics).result().queued == 0
    assert exporter.spans == []


def test_what_is_no_initializer_is_refused_as_it_is():
    with pytest.raises(TypeError, match=r"^initializer must be a callable$"):
        ProcessPoolExecutor(1, initializer=1)


# ---- errors are the standard library's


def outcome(pool, job, *args):
    error = pool.submit(job, *args).exception()
    assert error is not None
    return jobs.describe_error(error)


@pytest.mark.parametrize("kind", jobs.FAILURES)
def test_an_error_comes_out_of_the_pool_as_it_does_without_tracekit(kind, quick_pool, standard_pool, exporter):
    with tracekit.span("parent"):
        expected = outcome(standard_pool, jobs.fail, kind)
        assert outcome(quick_pool, jobs.fail, kind) == expected
    assert "raise FAILURES[kind]()" in expected["cause"][1]
    assert [line.partition(" [")[0] for line in span_tree(exporter.spans).splitlines()] == ["parent", "  work"]


def test_an_error_from_deep_down_or_from_map_has_the_same_traceback(quick_pool, standard_pool, exporter):
    assert outcome(quick_pool, jobs.fail_deeply, 3) == outcome(standard_pool, jobs.fail_deeply, 3)
    found = []
    for pool in (quick_pool, standard_pool):
        with pytest.raises(jobs.Plain) as caught:
            list(pool.map(jobs.fail_or_work, [1, 2, 3], chunksize=2))
        found.append(jobs.describe_error(caught.value))
    assert found[0] == found[1]
    # The error cancels the second chunk, if the pool's thread has not taken it by then.
    quick_pool.submit(jobs.here).result()
    names = [span.name for span in exporter]
    assert names[:3] == ["work", "work 1", "work"]
    assert names[3:] in ([], ["work 3"])


@pytest.mark.parametrize("kind", ["plain", "builtin", "slots", "group", "base group", "state"])
def test_an_error_that_a_job_recorded_is_not_recorded_again_in_the_parent(kind, pool, exporter):
    with pytest.raises(BaseException), tracekit.span("outer"):  # noqa: PT011 - of any kind
        pool.submit(jobs.fail, kind).result()
    events = {span.name: len(span.events) for span in exporter.spans}
    assert events["work"] >= 1
    assert events["outer"] == 0


def test_what_cannot_be_called_fails_in_the_worker_as_ever(quick_pool, standard_pool):
    assert outcome(quick_pool, None) == outcome(standard_pool, None)
    assert outcome(quick_pool, jobs.here, 1) == outcome(standard_pool, jobs.here, 1)


@pytest.mark.parametrize("kind", ["local", "argument"])
def test_an_error_that_cannot_be_pickled_costs_no_spans(kind, quick_pool, standard_pool, exporter):
    expected = outcome(standard_pool, jobs.fail_unpicklably, kind)
    found = outcome(quick_pool, jobs.fail_unpicklably, kind)
    assert (found["type"], found["text"]) == (expected["type"], expected["text"])
    assert found["cause"][1].splitlines()[-2] == expected["cause"][1].splitlines()[-2]
    assert span_tree(exporter.spans) == "work [error]"


def test_an_error_with_a_reducer_of_its_own_leaves_its_spans_to_the_next_result(quick_pool, standard_pool, exporter):
    expected = outcome(standard_pool, jobs.fail_unpicklably, "registered")
    assert outcome(quick_pool, jobs.fail_unpicklably, "registered") == expected
    assert exporter.spans == []
    quick_pool.submit(jobs.work, "next").result()
    assert span_tree(exporter.spans) == "work [error]\nnext"


@pytest.mark.parametrize(
    ("job", "kind", "spans"),
    [
        (jobs.odd_value, "local", ["work"]),
        (jobs.odd_value, "pickle", ["work", "pickling"]),
    ],
)
def test_a_result_that_cannot_be_pickled_is_an_error_and_costs_no_spans(
    job, kind, spans, quick_pool, standard_pool, exporter
):
    expected, found = outcome(standard_pool, job, kind), outcome(quick_pool, job, kind)
    assert (found["type"], found["args"], found["text"]) == (expected["type"], expected["args"], expected["text"])
    assert found["cause"][1].splitlines()[-2] == expected["cause"][1].splitlines()[-2]
    assert [span.name for span in exporter] == spans
    assert quick_pool.submit(jobs.work).result() == "work"


@pytest.mark.parametrize(
    ("job", "kind", "spans"),
    [
        (jobs.odd_value, "unpickle", "parent\n  work"),
        (jobs.fail_unpicklably, "keywords", "parent\n  work [error]"),
        (jobs.fail_unpicklably, "frozen", "parent"),
    ],
)
def test_what_breaks_the_pool_breaks_it_as_ever_but_costs_no_spans_that_were_sent(job, kind, spans, exporter):
    found = []
    for pool_kind in (concurrent.futures.ProcessPoolExecutor, ProcessPoolExecutor):
        scope = tracekit.span("parent") if pool_kind is ProcessPoolExecutor else tracekit.use_labels()
        with scope, make_pool(kind=pool_kind) as pool:
            error = pool.submit(job, kind).exception()
            cause = "" if error.__cause__ is None else str(error.__cause__).splitlines()[-2]
            found.append((type(error), error.args, type(error.__cause__), cause))
    assert found[0] == found[1]
    assert span_tree(exporter.spans) == spans


@pytest.mark.parametrize("argument", [threading.Lock(), lambda: None], ids=["lock", "lambda"])
def test_an_argument_that_cannot_be_pickled_is_an_error_and_the_pool_goes_on(
    argument, quick_pool, standard_pool, exporter
):
    with tracekit.span("parent"):
        expected, found = outcome(standard_pool, jobs.work, argument), outcome(quick_pool, jobs.work, argument)
        assert (found["type"], found["args"], found["text"]) == (expected["type"], expected["args"], expected["text"])
        assert quick_pool.submit(jobs.work).result() == "work"
    assert span_tree(exporter.spans) == "parent\n  work"


def test_a_worker_that_dies_breaks_the_pool_as_ever_and_the_submitting_span_says_so(exporter):
    found = []
    for kind in (concurrent.futures.ProcessPoolExecutor, ProcessPoolExecutor):
        with tracekit.span("parent") as parent, make_pool(kind=kind) as pool:
            futures = [pool.submit(jobs.exit_at_once) for _ in range(2)]
            errors = [future.exception() for future in futures]
            # Without the worker's pid.
            found.append(
                [(type(error), error.args, re.sub("Process [0-9]+", "", repr(error.__cause__))) for error in errors]
            )
            with pytest.raises(concurrent.futures.process.BrokenProcessPool) as caught:
                pool.submit(jobs.work)
            found[-1].append(caught.value.args)
            pool.shutdown()  # it tells whoever asks first
            names = [event.name for event in parent.events]
    assert found[0] == found[1]
    assert names == ["spans lost"]
    code = {"process.exit.code": 1} if sys.version_info >= (3, 15) else {}
    assert dict(parent.events[0].attributes) == {"reason": "worker process died"} | code
    assert [span.name for span in exporter] == ["parent", "parent"]


def test_a_worker_that_dies_after_its_span_has_ended_disturbs_nobody(exporter):
    with make_pool() as pool:
        pool.submit(jobs.work, "first").result()
        with tracekit.span("parent"):
            future = pool.submit(jobs.exit_at_once)
        assert isinstance(future.exception(), concurrent.futures.process.BrokenProcessPool)
    assert sorted(span.name for span in exporter) == ["first", "parent"]


def test_a_job_that_is_cancelled_never_runs(quick_pool, exporter, fifo):
    with tracekit.span("parent") as parent:
        blocking = [quick_pool.submit(jobs.wait_for, fifo)]
        blocking += [quick_pool.submit(jobs.here) for _ in range(4)]  # more than are handed out ahead
        future = quick_pool.submit(jobs.work)
        assert future.cancel()
        release(fifo)
        concurrent.futures.wait(blocking)
        quick_pool.submit(jobs.here).result()
        assert parent.events == ()
    assert span_tree(exporter.spans) == "parent"


def test_submit_after_shutdown_is_refused_as_ever():
    found = []
    for kind in (concurrent.futures.ProcessPoolExecutor, ProcessPoolExecutor):
        pool = make_pool(kind=kind)
        pool.shutdown()
        with pytest.raises(RuntimeError) as caught:
            pool.submit(jobs.work)
        found.append(caught.value.args)
        with pytest.raises(TypeError) as caught:
            pool.submit()
        found.append(caught.value.args)
    assert found[:2] == found[2:]


# ---- other pools, and processes


def test_pack_takes_the_trace_through_other_pools(exporter):
    with multiprocessing.get_context(QUICK).Pool(1) as pool, tracekit.span("parent"):
        assert pool.apply(*pack(jobs.work, "work", "part", attribute=1)) == "work"
        with pytest.raises(jobs.Plain, match="boom"):
            pool.apply(*pack(jobs.fail, "plain"))
        with pytest.raises(multiprocessing.pool.MaybeEncodingError, match="cannot pickle"):
            pool.apply(*pack(jobs.lock))
        assert pool.apply(*pack(jobs.implementation)) in {"compiled", "plain"}
    assert span_tree(exporter.spans) == "parent\n  work\n    part\n  work [error]\n  work"


def test_a_job_in_a_standard_pool_has_its_parent_with_pack(standard_pool, exporter):
    with tracekit.span("parent"):
        run, packed = pack(jobs.work)
        assert standard_pool.submit(run, *packed).result() == "work"
    assert span_tree(exporter.spans) == "parent\n  work"


def test_a_packed_job_is_small():
    tracekit.configure(exporter=MemoryExporter())
    with tracekit.span("parent"):
        size = len(pickle.dumps(pack(jobs.work))) - len(pickle.dumps((jobs.work, ((), {}))))
    assert size < 160


def test_a_packed_job_that_stays_in_the_process_is_a_call(exporter):
    with tracekit.span("parent"):
        run, packed = pack(jobs.work, "work")
    assert run(*packed) == "work"
    assert span_tree(exporter.spans) == "parent\n  work"


@pytest.mark.parametrize("method", METHODS)
def test_a_process_continues_the_trace_with_wrap_and_exports_by_itself(method, exporter, tmp_path):
    with tracekit.span("parent") as parent:
        target = tracekit.wrap(jobs.configure_and_work)
    process = multiprocessing.get_context(method).Process(target=target, args=(tmp_path / "own",))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert lines(tmp_path / "own") == [f"work {parent.context.trace_id} {parent.context.span_id} True"]
    assert span_tree(exporter.spans) == "parent"


def test_a_multiprocessing_pool_continues_the_trace_with_wrap(exporter):
    with multiprocessing.get_context(QUICK).Pool(1) as pool, tracekit.span("parent") as parent:
        found = pool.apply(tracekit.wrap(jobs.here))
        assert pool.map(tracekit.wrap(jobs.work), ["a", "b"]) == ["a", "b"]
    assert found[:2] == (parent.context.trace_id, parent.context.span_id)
    assert found[5] is True


def _forked_by_os(function, *args):
    pid = os.fork()
    if pid == 0:
        try:
            function(*args)
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1]


def _forked_by_multiprocessing(function, *args):
    process = multiprocessing.get_context("fork").Process(target=function, args=args)
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.skipif("fork" not in METHODS, reason="no fork on this system")
@pytest.mark.parametrize("fork", [_forked_by_os, _forked_by_multiprocessing])
def test_a_span_that_is_open_at_a_fork_is_remote_there_and_exported_here_only(fork, exporter, tmp_path):
    with tracekit.span("open") as span:
        assert fork(jobs.child_of_fork, tmp_path / "own", span) == 0
        assert span.is_recording
    ids = f"{span.context.trace_id} {span.context.span_id}"
    assert lines(tmp_path / "own") == ["None True True", f"child {ids} True"]
    assert span_tree(exporter.spans) == "open"
    assert "written in" not in exporter[0].attributes


def _generation(left, sizes):
    sizes.send(len(multiprocessing.util._afterfork_registry))
    if left:
        assert _forked_by_multiprocessing(_generation, left - 1, sizes) == 0


@pytest.mark.skipif("fork" not in METHODS, reason="no fork on this system")
def test_each_generation_of_forked_processes_registers_no_more(exporter):
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with receiver, sender:
        assert _forked_by_multiprocessing(_generation, 2, sender) == 0
        first, *later = [receiver.recv() for _ in range(3)]
    assert later == [first, first]


# ---- environ


def test_environ_names_what_is_current_and_leaves_the_rest(monkeypatch):
    monkeypatch.setenv("KEPT", "1")
    monkeypatch.setenv("BAGGAGE", "stale=1")
    with tracekit.use_context(tracekit.SpanContext("a" * 32, "b" * 16, 1)):
        variables = environ()
        assert environ({"A": "1"}) == {"A": "1", "TRACEPARENT": f"00-{'a' * 32}-{'b' * 16}-01"}
    assert variables["TRACEPARENT"] == f"00-{'a' * 32}-{'b' * 16}-01"
    assert (variables["KEPT"], "BAGGAGE" in variables) == ("1", False)
    assert os.environ["BAGGAGE"] == "stale=1"
    assert environ({"A": "1"}) == {"A": "1"}
    assert environ({}) == {}
    assert environ() == dict(os.environ)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="buffersize is new in Python 3.14")
def test_map_with_a_bounded_buffer_submits_late_and_has_the_same_parent(quick_pool, exporter):
    with tracekit.span("parent"):
        results = quick_pool.map(jobs.work, "abc", buffersize=1)
    with tracekit.span("consumer"):
        assert list(results) == ["a", "b", "c"]
    assert span_tree(exporter.spans) == "parent\n  a\n  b\n  c\nconsumer"


def test_partials_and_methods_are_jobs_too(quick_pool, exporter):
    assert quick_pool.submit(functools.partial(jobs.work, "partial"), fn=1, context=2).result() == "partial"
    assert quick_pool.submit("text".upper).result() == "TEXT"
    (span,) = exporter.spans
    assert dict(span.attributes) == {"fn": 1, "context": 2}
