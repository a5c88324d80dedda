"""Queues of tasks: celery and taskiq with their in-memory brokers, arq with a local redis-server."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import queue
import shutil
import warnings
import weakref

import arq
import arq.connections
import arq.worker
import celery
import pytest
import taskiq
from celery.contrib.testing.worker import start_worker
from taskiq import InMemoryBroker

import tracekit
from tracekit.integrations import _queue
from tracekit.integrations import arq as arq_tracing
from tracekit.integrations import celery as celery_tracing
from tracekit.integrations import taskiq as taskiq_tracing
from tracekit.testing import span_tree

from .databases import redis_server


def named(exporter, name):
    (found,) = [one for one in exporter.spans if one.name == name]
    return found


def tree(exporter):
    return span_tree([one for one in exporter.spans if not one.name.startswith(("send celery.", "process celery."))])


# ---- celery


@pytest.fixture(scope="module")
def working_app():
    """An application with a worker in a thread."""
    app = celery.Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(
        broker_transport_options={"polling_interval": 0.01},
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry=False,
    )

    @app.task(name="buy")
    def buy(item):
        with tracekit.span("work"):
            return item

    @app.task(name="fail")
    def fail():
        raise LookupError("no such item")

    @app.task(name="expected", throws=(LookupError,))
    def expected():
        raise LookupError("no such item")

    @app.task(name="again", bind=True, max_retries=1)
    def again(self):
        if not self.request.retries:
            raise self.retry(countdown=0)
        return self.request.retries

    with start_worker(app, pool="solo", perform_ping_check=False, loglevel="CRITICAL"):
        yield app
    app.close()


@pytest.fixture
def app(working_app):
    celery_tracing.instrument(working_app)
    yield working_app
    celery_tracing.uninstrument(working_app)


def run_celery(app, *jobs, runs=None):
    """Send jobs, wait until the worker has made so many *runs*, and return the results' values."""
    ended = queue.SimpleQueue()

    def receive(**_):
        ended.put(None)

    celery.signals.task_postrun.connect(receive)  # after tracekit's
    try:
        with tracekit.span("request"):
            results = [app.tasks[name].apply_async(args) for name, *args in jobs]
        values = [result.get(timeout=30, propagate=False) for result in results]
        for _ in range(runs or len(jobs)):
            ended.get(timeout=30)
        return values
    finally:
        celery.signals.task_postrun.disconnect(receive)


def test_a_celery_task_continues_the_trace(exporter, app):
    assert run_celery(app, ("buy", 7)) == [7]
    assert tree(exporter) == "request\n  send buy\n    process buy\n      work"
    sent, processed = named(exporter, "send buy"), named(exporter, "process buy")
    assert (sent.kind, processed.kind) == ("producer", "consumer")
    task_id = processed.attributes["messaging.message.id"]
    assert processed.attributes == {
        "messaging.system": "celery",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.task.name": "buy",
        "messaging.destination.name": "celery",
        "messaging.message.id": task_id,
        "celery.state": "SUCCESS",
    }
    assert len(task_id) == 36


def test_celery_tasks_that_fail_and_that_retry(exporter, app):
    failed, _, again = run_celery(app, ("fail",), ("expected",), ("again",), runs=4)
    assert isinstance(failed, LookupError)
    assert again == 1
    found = named(exporter, "process fail")
    assert (found.status.code, found.attributes["error.type"]) == ("error", "LookupError")
    assert [event.name for event in found.events] == ["exception"]
    assert named(exporter, "process expected").status.code == "unset"
    spans = sorted(exporter.spans, key=lambda one: one.start_ns)  # threads without the GIL have their own spans
    first, second = [one for one in spans if one.name == "process again"]
    assert [event.name for event in first.events] == ["retry"]
    assert second.attributes["celery.retries"] == 1
    sent = [one for one in spans if one.name == "send again"]
    assert (second.parent.span_id, sent[1].parent.span_id) == (sent[1].context.span_id, first.context.span_id)


def test_a_celery_task_as_the_root_of_a_trace(exporter, app):
    celery_tracing.uninstrument(app)
    celery_tracing.instrument(app, root=True)
    run_celery(app, ("buy", 7))
    sent, processed = named(exporter, "send buy"), named(exporter, "process buy")
    assert processed.parent is None
    assert [link.context.span_id for link in processed.links] == [sent.context.span_id]


def test_an_eager_celery_task_is_a_child_of_its_caller(exporter, app):
    with tracekit.span("request"):
        assert app.tasks["buy"].apply((7,)).get() == 7
    assert span_tree(exporter.spans) == "request\n  process buy\n    work"


def test_celery_applications_that_are_not_traced(exporter, app):
    celery_tracing.uninstrument(app)
    assert run_celery(app, ("buy", 7)) == [7]
    assert tree(exporter).splitlines() == ["request", "work"]
    before = celery.Celery.send_task
    celery_tracing.instrument()
    celery_tracing.instrument()
    assert celery.Celery.send_task is not before
    celery_tracing.uninstrument()
    assert celery.Celery.send_task is before
    with pytest.raises(TypeError, match="Celery application"):
        celery_tracing.instrument(7)


def test_a_celery_broker_that_rejects_the_message(exporter, app, monkeypatch):
    def no(*_, **__):
        raise ConnectionError("gone")

    monkeypatch.setattr(app.amqp, "send_task_message", no)
    with pytest.raises(ConnectionError):
        app.tasks["buy"].delay(7)
    assert named(exporter, "send buy").status.code == "error"


# ---- taskiq


@pytest.fixture
def broker():
    broker = InMemoryBroker()

    @broker.task("buy")
    async def buy(item: int) -> int:
        with tracekit.span("work"):
            return item

    @broker.task("in a thread")
    def in_a_thread() -> None:
        with tracekit.span("work"):
            pass

    @broker.task("fail")
    async def fail() -> None:
        raise LookupError("no such item")

    taskiq_tracing.instrument(broker)
    yield broker
    taskiq_tracing.uninstrument(broker)


def run_taskiq(broker, name, *args):
    async def main():
        await broker.startup()
        with tracekit.span("request"):
            task = await broker.find_task(name).kiq(*args)
        result = await task.wait_result(timeout=30, check_interval=0.001)
        await broker.shutdown()
        return result

    return asyncio.run(main())


def test_a_taskiq_task_continues_the_trace(exporter, broker):
    assert run_taskiq(broker, "buy", 7).return_value == 7
    assert span_tree(exporter.spans) == "request\n  send buy\n    process buy\n      work"
    sent, processed = named(exporter, "send buy"), named(exporter, "process buy")
    assert (sent.kind, processed.kind) == ("producer", "consumer")
    assert sent.attributes["messaging.message.id"] == processed.attributes["messaging.message.id"]
    assert processed.attributes["messaging.system"] == "taskiq"


def test_a_taskiq_task_in_a_thread(exporter, broker):
    assert not run_taskiq(broker, "in a thread").is_err
    assert span_tree(exporter.spans) == "request\n  send in a thread\n    process in a thread\n      work"


def test_a_taskiq_task_that_fails(exporter, broker, caplog):
    with caplog.at_level(logging.CRITICAL):
        assert run_taskiq(broker, "fail").is_err
    found = named(exporter, "process fail")
    assert (found.status.code, found.attributes["error.type"]) == ("error", "LookupError")
    assert [event.name for event in found.events] == ["exception"]


def test_taskiq_brokers_that_are_not_traced(exporter, broker):
    taskiq_tracing.uninstrument(broker)
    assert run_taskiq(broker, "buy", 7).return_value == 7
    assert sorted(one.name for one in exporter.spans) == ["request", "work"]
    before = taskiq.kicker.AsyncKicker.kiq
    taskiq_tracing.instrument()
    taskiq_tracing.instrument()
    assert run_taskiq(broker, "buy", 7).return_value == 7
    assert len([one for one in exporter.spans if one.name == "process buy"]) == 1
    taskiq_tracing.uninstrument()
    assert taskiq.kicker.AsyncKicker.kiq is before
    with pytest.raises(TypeError, match="taskiq broker"):
        taskiq_tracing.instrument(7)


def test_a_taskiq_broker_that_rejects_the_message(exporter, broker, monkeypatch):
    async def no(*_):
        raise ConnectionError("gone")

    monkeypatch.setattr(broker, "kick", no)
    with pytest.raises(taskiq.exceptions.SendTaskError):
        run_taskiq(broker, "buy", 7)
    assert named(exporter, "send buy").status.code == "error"


# ---- arq


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    with redis_server(tmp_path_factory.mktemp("redis")) as path:
        yield path


@pytest.fixture
def arq_traced():
    arq_tracing.instrument()
    yield
    arq_tracing.uninstrument()


async def buy(ctx, item):
    with tracekit.span("work"):
        return item


async def fail(ctx):
    raise LookupError("no such item")


async def again(ctx):
    if ctx["job_try"] == 1:
        raise arq.Retry


async def never(ctx):
    await asyncio.Event().wait()


@contextlib.contextmanager
def allowing_arqs_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it calls close() of redis
        yield


def run_arq(path, *job, **options):
    async def main():
        settings = arq.connections.RedisSettings(unix_socket_path=path)
        pool = await arq.create_pool(settings)
        await pool.flushall()
        with tracekit.span("request"):
            queued = await pool.enqueue_job(*job)
        worker = arq.worker.Worker(
            [buy, fail, again, never],
            redis_settings=settings,
            burst=True,
            poll_delay=0.001,
            handle_signals=False,
            **options,
        )
        await worker.main()
        try:
            return await queued.result(timeout=30, poll_delay=0.001)
        finally:
            with allowing_arqs_warnings():
                await worker.close()
            await pool.aclose()

    return asyncio.run(main())


def test_an_arq_job_continues_the_trace(exporter, redis, arq_traced):
    assert run_arq(redis, "buy", 7) == 7
    assert span_tree(exporter.spans) == "request\n  send buy\n    process buy\n      work"
    sent, processed = named(exporter, "send buy"), named(exporter, "process buy")
    assert (sent.kind, processed.kind) == ("producer", "consumer")
    assert sent.attributes["messaging.message.id"] == processed.attributes["messaging.message.id"]
    assert processed.attributes["messaging.destination.name"] == "arq:queue"


def test_arq_jobs_that_fail_and_that_retry(exporter, redis, arq_traced):
    with pytest.raises(LookupError):
        run_arq(redis, "fail")
    found = named(exporter, "process fail")
    assert (found.status.code, found.attributes["error.type"]) == ("error", "LookupError")
    run_arq(redis, "again")
    first, second = [one for one in exporter.spans if one.name == "process again"]
    assert [one.status.code for one in (first, second)] == ["unset", "unset"]
    assert [event.name for event in first.events] == ["retry"]
    assert second.attributes["arq.job_try"] == 2
    assert first.parent == second.parent


def test_the_exception_that_asks_arq_for_a_retry_is_freed_when_it_was_handled(exporter, arq_traced):
    async def main():
        job = arq.worker.Worker([again], handle_signals=False).functions["again"].coroutine
        try:
            await job({"job_try": 1})
        except arq.Retry as error:
            return weakref.ref(error)

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(main())() is None
    finally:
        gc.enable()


def test_an_arq_job_that_times_out_is_cancelled(exporter, redis, arq_traced):
    with pytest.raises(asyncio.TimeoutError):
        run_arq(redis, "never", job_timeout=0.01)
    assert named(exporter, "process never").status.code == "cancelled"


def test_arq_without_tracing(exporter, redis):
    before = arq.connections.ArqRedis.enqueue_job
    arq_tracing.instrument()
    arq_tracing.instrument()
    arq_tracing.uninstrument()
    assert arq.connections.ArqRedis.enqueue_job is before
    assert run_arq(redis, "buy", 7) == 7
    assert sorted(one.name for one in exporter.spans) == ["request", "work"]
    with pytest.raises(TypeError, match="as a whole"):
        arq_tracing.instrument(7)


# ---- what they share


@pytest.mark.parametrize("carrier", [None, {}, {"traceparent": "nonsense"}, {"traceparent": "00-" + "0" * 1_000_000}])
def test_a_message_without_a_context_begins_a_trace(exporter, carrier):
    with tracekit.span("of the worker"), _queue.process("celery", "buy", None, None, carrier):
        pass
    assert named(exporter, "process buy").parent is None


def test_names_are_bounded(exporter):
    with _queue.send("celery", "x" * 1_000_000, 7, b"id"):
        pass
    assert len(exporter.spans[0].name) < 300
