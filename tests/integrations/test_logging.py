from __future__ import annotations

import asyncio
import copy
import io
import logging
import logging.handlers
import pickle
import queue

import anyio
import anyio.to_thread
import pytest

import tracekit
from tracekit.integrations import logging as integration
from tracekit.integrations.logging import instrument, uninstrument

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
FORMAT = "%(trace_id)s|%(span_id)s|%(sampled)s|%(message)s"
NOTHING = "||False|"


@pytest.fixture(autouse=True)
def _as_found():
    factory, maker = logging.getLogRecordFactory(), logging.Logger.makeRecord
    yield
    uninstrument()
    logging.setLogRecordFactory(factory)
    logging.Logger.makeRecord = maker


class Log:
    """A new logger and the lines that it wrote."""

    def __init__(self):
        self.text = io.StringIO()
        self.logger = logging.Logger("test")
        self.handler = logging.StreamHandler(self.text)
        self.handler.setFormatter(logging.Formatter(FORMAT))
        self.logger.addHandler(self.handler)

    @property
    def lines(self):
        return self.text.getvalue().splitlines()


@pytest.fixture
def log():
    return Log()


def line(span, message):
    return f"{span.context.trace_id}|{span.context.span_id}|{span.context.sampled}|{message}"


def test_a_record_has_the_ids_current_in_the_code_that_logs(exporter, log):
    instrument()
    log.logger.warning("before")
    with tracekit.span("outer") as outer:
        log.logger.warning("in %s", "outer")
        with tracekit.span("inner") as inner:
            log.logger.warning("in inner")
        log.logger.warning("outer again")
    log.logger.warning("after")
    assert log.lines == [
        NOTHING + "before",
        line(outer, "in outer"),
        line(inner, "in inner"),
        line(outer, "outer again"),
        NOTHING + "after",
    ]


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (None, NOTHING),
        (tracekit.SpanContext(TRACE_ID, SPAN_ID, 1, is_remote=True), f"{TRACE_ID}|{SPAN_ID}|True|"),
        (tracekit.SpanContext(TRACE_ID, SPAN_ID, 0, is_remote=True), f"{TRACE_ID}|{SPAN_ID}|False|"),
        (tracekit.SpanContext(labels=tracekit.Labels({"tenant": "acme"})), NOTHING),
    ],
    ids=["nothing", "sampled", "unsampled", "labels only"],
)
def test_a_formatter_with_ids_works_with_any_context(log, context, expected):
    instrument()
    with tracekit.use_context(context):
        log.logger.warning("")
    assert log.lines == [expected]


@pytest.mark.parametrize(
    ("style", "format"),
    [("%", FORMAT), ("{", "{trace_id}|{span_id}|{sampled}|{message}"), ("$", "$trace_id|$span_id|$sampled|$message")],
)
def test_every_style_of_format_finds_the_ids(log, style, format):
    instrument()
    log.handler.setFormatter(logging.Formatter(format, style=style))
    with tracekit.span("outer") as span:
        log.logger.warning("x")
    assert log.lines == [line(span, "x")]


@pytest.mark.anyio
async def test_each_task_and_each_thread_logs_its_own_ids(exporter, log):
    instrument()
    expected = []

    def in_thread(name):
        log.logger.warning("thread of %s", name)

    async def job(name):
        with tracekit.span(name) as span:
            await anyio.lowlevel.checkpoint()
            log.logger.warning(name)
            await anyio.to_thread.run_sync(in_thread, name)
        expected.extend([line(span, name), line(span, f"thread of {name}")])

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(job, str(number))
    assert sorted(log.lines) == sorted(expected)


def test_the_ids_do_not_depend_on_the_handlers_thread(log):
    instrument()
    records = queue.SimpleQueue()
    listener = logging.handlers.QueueListener(records, log.handler)
    log.logger.removeHandler(log.handler)
    log.logger.addHandler(logging.handlers.QueueHandler(records))
    listener.start()
    with tracekit.span("outer") as span:
        log.logger.warning("x")
    listener.stop()
    assert log.lines == [line(span, "x")]


def test_a_received_record_keeps_its_ids():
    instrument()
    with tracekit.span("outer") as span:
        record = logging.makeLogRecord({"msg": "x", "trace_id": TRACE_ID})
    assert record.trace_id == TRACE_ID
    assert record.span_id == span.context.span_id
    for again in (copy.copy(record), pickle.loads(pickle.dumps(record))):
        assert vars(again) == vars(record)


@pytest.mark.parametrize("name", ["trace_id", "span_id", "sampled"])
def test_a_value_in_extra_wins_and_is_no_error(log, name):
    log.handler.setFormatter(logging.Formatter(f"%({name})s %(other)s"))
    instrument()
    with tracekit.span("outer"):
        log.logger.warning("x", extra={name: "mine", "other": 1})
        logging.LoggerAdapter(log.logger, {name: "adapted", "other": 2}).warning("x")
    assert log.lines == ["mine 1", "adapted 2"]
    uninstrument()
    log.logger.warning("x", extra={name: "mine", "other": 3})
    assert log.lines[2:] == ["mine 3"]


@pytest.mark.parametrize("key", ["message", "name", "args"])
def test_reserved_names_in_extra_are_still_errors(log, key):
    instrument()
    with pytest.raises(KeyError, match="Attempt to overwrite"):
        log.logger.warning("x", extra={key: 1, "trace_id": "mine"})


def test_a_records_source_location_is_still_right(log):
    instrument()
    log.handler.setFormatter(logging.Formatter("%(filename)s %(funcName)s"))
    log.logger.warning("x", extra={"trace_id": "mine"})
    assert log.lines == ["test_logging.py test_a_records_source_location_is_still_right"]


def test_installing_again_has_no_effect_and_uninstalling_restores_the_factory():
    factory, maker = logging.getLogRecordFactory(), logging.Logger.makeRecord
    uninstrument()
    for _ in range(2):
        instrument()
        once = logging.getLogRecordFactory()
        instrument()
        assert logging.getLogRecordFactory() is once
        uninstrument()
        uninstrument()
        assert logging.getLogRecordFactory() is factory
        assert logging.Logger.makeRecord is maker


def fields(record):
    return {"trace_id", "span_id", "sampled"} & vars(record).keys()


def test_a_previous_factory_still_works():
    plain = logging.getLogRecordFactory()

    def theirs(*args, **kwargs):
        record = plain(*args, **kwargs)
        record.theirs = True
        return record

    logging.setLogRecordFactory(theirs)
    instrument()
    record = logging.makeLogRecord({})
    assert record.theirs
    assert len(fields(record)) == 3
    uninstrument()
    assert logging.getLogRecordFactory() is theirs


def test_fields_of_a_previous_factory_win(log):
    plain = logging.getLogRecordFactory()

    def theirs(*args, **kwargs):
        record = plain(*args, **kwargs)
        record.trace_id = "theirs"
        return record

    logging.setLogRecordFactory(theirs)
    instrument()
    log.logger.warning("x")
    log.logger.warning("x", extra={"trace_id": "mine"})
    assert log.lines == ["theirs||False|x", "mine||False|x"]


def test_others_may_wrap_factory_and_makerecord(log):
    instrument()
    ours, our_maker = logging.getLogRecordFactory(), logging.Logger.makeRecord

    def theirs(*args, **kwargs):
        return ours(*args, **kwargs)

    def their_maker(*args, **kwargs):
        return our_maker(*args, **kwargs)

    logging.setLogRecordFactory(theirs)
    logging.Logger.makeRecord = their_maker
    log.logger.warning("x", extra={"trace_id": "mine"})
    assert log.lines == ["mine||False|x"]
    uninstrument()
    assert logging.getLogRecordFactory() is theirs
    assert fields(logging.makeLogRecord({})) == set()
    for _ in range(3):
        instrument()
        instrument()
        log.logger.warning("x", extra={"trace_id": "mine"})
        assert log.lines[-1] == "mine||False|x"
        uninstrument()
    assert logging.getLogRecordFactory() is theirs
    assert logging.Logger.makeRecord is their_maker
    assert fields(logging.makeLogRecord({})) == set()


def test_installing_over_a_wrapping_factory_adds_the_ids_once_and_uninstalling_removes_them():
    instrument()
    ours = logging.getLogRecordFactory()
    logging.setLogRecordFactory(lambda *args, **kwargs: ours(*args, **kwargs))
    instrument()
    assert len(fields(logging.makeLogRecord({}))) == 3
    uninstrument()
    assert fields(logging.makeLogRecord({})) == set()


def test_installing_works_again_after_the_factory_was_replaced():
    instrument()
    logging.setLogRecordFactory(logging.LogRecord)
    assert fields(logging.makeLogRecord({})) == set()
    instrument()
    assert len(fields(logging.makeLogRecord({}))) == 3
    uninstrument()
    assert logging.getLogRecordFactory() is logging.LogRecord


@pytest.mark.parametrize("broken", ["current_context", "record"])
def test_an_error_of_the_integration_is_not_raised(monkeypatch, broken):
    class Slotted:
        __slots__ = ()

    if broken == "record":
        logging.setLogRecordFactory(lambda *_, **__: Slotted())
    else:
        monkeypatch.setattr(integration, "log_fields", lambda datadog: 1 // 0)
    instrument()
    record = logging.getLogRecordFactory()("test", 30, "", 1, "x", (), None)
    assert type(record) is (Slotted if broken == "record" else logging.LogRecord)


def test_records_of_libraries_and_of_the_root_logger_have_the_ids_too(caplog):
    instrument()
    with tracekit.span("outer") as span:
        logging.getLogger("asyncio").warning("x")
        logging.warning("y")
    assert [record.span_id for record in caplog.records] == [span.context.span_id] * 2


def test_a_callback_of_the_loop_logs_the_ids_of_the_code_that_scheduled_it(log):
    instrument()
    spans = []

    async def main():
        done = asyncio.Event()

        def callback():
            log.logger.warning("x")
            done.set()

        with tracekit.span("outer") as span:
            spans.append(span)
            asyncio.get_running_loop().call_soon(callback)
        await done.wait()

    asyncio.run(main())
    assert log.lines == [line(spans[0], "x")]


def test_the_service_and_datadogs_names_are_on_every_record_on_request(exporter):
    tracekit.configure(
        service="shop",
        exporter=exporter,
        resource={"service.version": "1.2", "deployment.environment.name": "prod"},
    )
    instrument()
    assert vars(logging.makeLogRecord({}))["service.name"] == "shop"
    assert "dd.trace_id" not in vars(logging.makeLogRecord({}))
    instrument(datadog=True)
    with tracekit.span("s") as span:
        found = vars(logging.makeLogRecord({}))
    assert found["dd.trace_id"] == str(int(span.context.trace_id[16:], 16))
    assert found["dd.span_id"] == str(int(span.context.span_id, 16))
    assert [found[f"dd.{name}"] for name in ("service", "env", "version")] == ["shop", "prod", "1.2"]
    assert (vars(logging.makeLogRecord({}))["dd.trace_id"], found["sampled"]) == ("0", True)


@pytest.mark.parametrize("call", [instrument, uninstrument])
def test_a_single_logger_is_a_type_error(call):
    with pytest.raises(TypeError, match="not a Logger"):
        call(logging.getLogger("x"))
