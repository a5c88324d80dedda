"""OTLP for log records: their encoding, read by the official schema, and the sending thread."""

from __future__ import annotations

import gzip
import http.client
import logging
import multiprocessing
import os
import subprocess
import sys
import threading

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

import tracekit
from tracekit._export import on_demand
from tracekit.exporters import otlp_logs
from tracekit.exporters.otlp_logs import OTLPLogHandler

from .collector import Handler, Server, parse_json


def parse(handler, body):
    if handler.headers.get("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
    if handler.headers["Content-Type"] != "application/json":
        return ExportLogsServiceRequest.FromString(body)
    return parse_json(body, ExportLogsServiceRequest)


class Logs(Server):
    """Keeps the requests; *answers* holds the status of the next answers, 200 after these."""

    def __init__(self, *answers):
        self.requests, self.paths = [], []
        self.entered, self.received = threading.Event(), threading.Event()
        self.pause = None
        logs, statuses = self, iter(answers)

        class Answering(Handler):
            def do_POST(self):
                request = parse(self, self.body())
                logs.entered.set()
                if logs.pause is not None:
                    logs.pause.wait(60)
                status = next(statuses, 200)
                if status == 200:
                    logs.requests.append(request)
                logs.paths.append(self.path)
                self.answer(status, b"", Content_Type=self.headers["Content-Type"])
                logs.received.set()

        super().__init__(Answering)
        self.url = self.url.removesuffix("/v1/traces")

    @property
    def scopes(self):
        return [scope for request in self.requests for part in request.resource_logs for scope in part.scope_logs]

    @property
    def records(self):
        return [record for scope in self.scopes for record in scope.log_records]

    @property
    def bodies(self):
        return [record.body.string_value for record in self.records]


@pytest.fixture(autouse=True)
def _sent_by_a_flush_alone(monkeypatch):
    monkeypatch.setattr(otlp_logs, "_INTERVAL_S", 3600.0)


@pytest.fixture
def logs():
    with Logs() as collector:
        yield collector


@pytest.fixture
def attach():
    """Make a handler, and attach it to a new logger."""
    made = []

    def attach(collector, name="shop", **options):
        handler = OTLPLogHandler(collector.url, environ={}, **options)
        made.append(handler)
        logger = logging.Logger(name)
        logger.addHandler(handler)
        return handler, logger

    yield attach
    for handler in made:
        handler.close()


def made(**fields):
    return logging.makeLogRecord({"name": "n", "levelno": 20, "levelname": "INFO", **fields})


def values(record):
    return {
        one.key: getattr(one.value, one.value.WhichOneof("value"))
        for one in record.attributes
        if one.value.WhichOneof("value")
    }


@pytest.mark.parametrize(
    "options",
    [{}, {"protocol": "http/json"}, {"compression": "gzip"}, {"protocol": "http/json", "compression": "gzip"}],
    ids=str,
)
def test_a_record_arrives_with_everything(options, logs, attach, exporter):
    tracekit.configure(service="web", exporter=exporter)
    handler, logger = attach(logs, **options)
    with tracekit.span("s") as span:
        logger.warning("order %d \ud800", 7, extra={"user": "ann", "parts": [1, 2.5, {"a": b"x"}], "none": None})
    handler.flush(60)
    (scope,) = logs.scopes
    (record,) = scope.log_records
    (resource,) = [part.resource for request in logs.requests for part in request.resource_logs]
    assert ("service.name", "web") in [(one.key, one.value.string_value) for one in resource.attributes]
    assert scope.scope.name == "shop"
    assert (record.severity_number, record.severity_text) == (13, "WARNING")
    assert record.body.string_value == "order 7 \ufffd"
    assert (record.trace_id.hex(), record.span_id.hex(), record.flags & 1) == (*span_ids(span), 1)
    assert record.observed_time_unix_nano >= record.time_unix_nano > 1_600_000_000_000_000_000
    found = values(record)
    assert found["user"] == "ann"
    assert found["code.function.name"] == "test_a_record_arrives_with_everything"
    assert found["code.file.path"] == __file__
    assert found["thread.name"] == threading.current_thread().name
    one, two, three = found["parts"].values
    assert (one.int_value, two.double_value) == (1, 2.5)
    assert three.kvlist_value.values[0].value.bytes_value == b"x"
    assert "none" not in found
    assert logs.paths == ["/v1/logs"]


def span_ids(span):
    return span.context.trace_id, span.context.span_id


def test_both_encodings_are_the_same_message(logs, attach, monkeypatch):
    monkeypatch.setattr(otlp_logs.time, "time_ns", lambda: 5)
    record = logging.makeLogRecord({"msg": "x", "levelno": 40, "name": "n", "extra": (True, -1, float("nan"), "t")})
    for protocol in ("http/json", "http/protobuf"):
        handler, _ = attach(logs, protocol=protocol)
        handler.handle(record)
        handler.flush(60)
    first, second = logs.requests
    assert str(first) == str(second)  # as text: a NaN is not equal to itself


def test_outside_a_span_a_record_has_no_ids(logs, attach):
    handler, logger = attach(logs)
    logger.info("x")
    handler.flush(60)
    assert (logs.records[0].trace_id, logs.records[0].flags) == (b"", 0)


def test_an_exception_is_recorded_with_its_stack(logs, attach):
    handler, logger = attach(logs)
    try:
        raise KeyError("k")
    except KeyError:
        logger.exception("failed")
    handler.flush(60)
    found = values(logs.records[0])
    assert (found["exception.type"], found["exception.message"]) == ("KeyError", "'k'")
    assert 'raise KeyError("k")' in found["exception.stacktrace"]


def test_ids_that_a_record_brings_along_win(logs, attach):
    handler, _ = attach(logs)
    ids = {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "span_id": "00f067aa0ba902b7", "sampled": True}
    with tracekit.span("another"):
        handler.handle(made(**ids))
        handler.handle(made(trace_id="x", span_id=5))
    handler.flush(60)
    assert logs.records[0].trace_id.hex() == ids["trace_id"]
    assert not values(logs.records[0]).keys() & ids.keys()


@pytest.mark.parametrize("protocol", ["http/json", "http/protobuf"])
@pytest.mark.parametrize(
    "ids", [("z" * 32, "z" * 16), ("\u0661" * 32, "\u0661" * 16), ("0" * 32, "0" * 16), ("x", "y")]
)
def test_ids_that_are_no_hex_are_the_programs_own(protocol, ids, logs, attach):
    handler, _ = attach(logs, protocol=protocol)
    with tracekit.span("s") as span:
        handler.handle(made(trace_id=ids[0], span_id=ids[1]))
        handler.handle(made(trace_id="A" * 32, span_id="B" * 16))
    handler.flush(60)
    assert [(record.trace_id.hex(), record.span_id.hex()) for record in logs.records] == [
        span_ids(span),
        ("a" * 32, "b" * 16),
    ]


@pytest.mark.parametrize("protocol", ["http/json", "http/protobuf"])
def test_a_time_that_otlp_cannot_express_is_the_nearest_one(protocol, logs, attach):
    handler, _ = attach(logs, protocol=protocol)
    for created in (-5.0, 1e30):
        handler.handle(made(created=created))
    handler.flush(60)
    assert [record.time_unix_nano for record in logs.records] == [0, (1 << 64) - 1]


@pytest.mark.parametrize(
    ("level", "number"),
    [(0, 0), (5, 1), (10, 5), (15, 7), (20, 9), (25, 11), (30, 13), (40, 17), (49, 20), (50, 21), (999, 24)],
)
def test_levels_become_severities(level, number, logs, attach):
    handler, _ = attach(logs)
    handler.handle(made(levelno=level))
    handler.flush(60)
    assert logs.records[0].severity_number == number


def test_level_filters_and_formatter_of_the_handler_count(logs, attach):
    handler, logger = attach(logs, level="ERROR")
    handler.addFilter(lambda record: record.getMessage() != "unwanted")
    handler.setFormatter(logging.Formatter("<%(message)s>"))
    logger.warning("low")
    logger.error("unwanted")
    logger.error("wanted")
    handler.flush(60)
    assert logs.bodies == ["<wanted>"]


def test_the_thread_sends_without_a_flush_and_batches(logs, attach, monkeypatch):
    monkeypatch.setattr(otlp_logs, "_INTERVAL_S", 0.01)
    _, logger = attach(logs)
    for number in range(5):
        logger.info("%d", number)
    assert logs.received.wait(60)


def test_a_full_queue_drops_and_counts_and_the_program_does_not_wait(attach, caplog):
    with Logs() as logs:
        logs.pause = threading.Event()
        handler, logger = attach(logs, capacity=10)
        logger.info("first")
        handler.flush(0)  # the thread sends it, and waits for the answer
        assert logs.entered.wait(60)
        for number in range(30):
            logger.info("%d", number)
        assert (len(handler._queue), handler.dropped) == (10, 20)
        logs.pause.set()
        handler.flush(60)
        assert len(logs.records) == 11
    assert caplog.messages == ["log records are dropped: the queue of 10 is full (reported once)"]


def test_a_queue_that_is_half_full_is_sent_at_once_though_two_threads_filled_it(logs, attach, monkeypatch):
    handler, logger = attach(logs, capacity=8)
    calls = []
    monkeypatch.setattr(handler._background, "notify", lambda: calls.append("notify"))
    monkeypatch.setattr(handler._background, "hurry", lambda: calls.append("hurry"))
    for _ in range(2):
        logger.info("first")
        handler._queue.extend([handler._queue[0]] * 3)  # by another thread, which sees the fifth one, too
        logger.info("fifth")
        logger.info("sixth")
        assert calls == ["notify", "hurry", "notify"]
        calls.clear()
        handler._send_all()
    assert (len(logs.records), handler.dropped) == (12, 0)


def test_records_that_are_lost_while_others_are_sent_are_counted(attach):
    with Logs() as logs:
        logs.pause = threading.Event()
        handler, logger = attach(logs, capacity=10)
        logger.info("first")
        handler.flush(0)  # the thread sends it, and waits for the answer
        assert logs.entered.wait(60)
        logger.info("%d", "no number")
        start = threading.Barrier(4)

        def lose():
            start.wait()
            for _ in range(1000):
                logger.info("%d", "no number")
            for _ in range(1000):
                logger.info("no room")

        threads = [threading.Thread(target=lose) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        logs.pause.set()
        handler.flush(60)
        assert (handler.failed + handler.dropped + len(logs.records), handler.failed > 0) == (8002, True)


def test_hostile_arguments_cost_only_their_record(logs, attach):
    class Hostile:
        def __str__(self):
            raise RuntimeError

    handler, logger = attach(logs)
    logger.info("%s", Hostile())
    logger.info("%d", "no number")
    logger.info("x", extra={"hostile": Hostile()})
    logger.info("y")
    handler.flush(60)
    assert logs.bodies == ["x", "y"]
    assert (handler.failed, logs.records[0].dropped_attributes_count) == (2, 1)


def test_records_that_the_conversion_of_a_record_makes_are_sent_once(logs, attach):
    class Chatty(Exception):
        def __str__(self):
            logger.info("inside")
            for number in range(3):
                logger.info(f"part {number}")
            return "chatty"

    handler, logger = attach(logs)
    handler.setFormatter(logging.Formatter("%(message)s"))  # converts the exception, as the attributes do
    try:
        raise Chatty
    except Chatty:
        logger.exception("failed")
    handler.flush(60)
    assert [body.partition("\n")[0] for body in logs.bodies] == ["inside", "part 0", "part 1", "part 2", "failed"]
    logger.info("next")
    logger.info("next")
    handler.flush(60)
    assert logs.bodies[-2:] == ["next", "next"]
    assert (handler.failed, handler._copying) == (0, {})


def test_an_object_that_logs_itself_in_its_conversion_makes_one_record(logs, attach):
    class Endless:
        def __str__(self):
            logger.info("I am %s", self)
            return "endless"

    handler, logger = attach(logs)
    logger.info("%s", Endless())
    handler.flush(60)
    assert logs.bodies == ["I am endless", "endless"]


def test_texts_and_attributes_are_bounded(logs, attach):
    handler, logger = attach(logs, limits=tracekit.Limits(attributes=6, value_length=10))
    logger.info("x" * 100_000, extra={"a": "y" * 1000, "b": 1, "c": 2})
    handler.flush(60)
    (record,) = logs.records
    assert len(record.body.string_value) == 16384
    assert values(record)["a"] == "y" * 10
    assert (len(record.attributes), record.dropped_attributes_count) == (6, 2)


def test_the_log_of_the_sending_thread_is_not_sent(logs, attach, monkeypatch):
    handler, _ = attach(logs)
    library = logging.getLogger("library")
    monkeypatch.setattr(library, "level", logging.DEBUG)
    request = http.client.HTTPConnection.request

    def chatty(*arguments, **options):
        library.debug("sending")
        request(*arguments, **options)

    monkeypatch.setattr(http.client.HTTPConnection, "request", chatty)
    library.addHandler(handler)
    try:
        handler.handle(made(msg="x"))
        handler.flush(60)
        library.debug("the program's own")
        handler.flush(60)
    finally:
        library.removeHandler(handler)
    assert logs.bodies == ["x", "the program's own"]
    assert len(handler._queue) == 0


def test_sending_makes_no_spans(logs, attach, exporter):
    handler, logger = attach(logs)
    seen = []

    def encode(records, original=handler._encode):
        seen.append(tracekit.span("inside").context.sampled)
        return original(records)

    handler._encode = encode
    with tracekit.span("s"):
        logger.info("x")
        handler.flush(60)
    assert seen == [False]


def test_a_failure_that_may_pass_is_retried_and_another_one_is_counted(attach, caplog, monkeypatch):
    monkeypatch.setattr("tracekit.exporters._otlp.client.backoff_s", lambda failures, **options: 0.0)
    with Logs(503, 200, 400) as logs:
        handler, logger = attach(logs)
        logger.info("a")
        handler.flush(60)
        assert (logs.bodies, handler.failed) == (["a"], 0)
        logger.info("b")
        handler.flush(60)
        assert (logs.bodies, handler.failed) == (["a"], 1)
    assert "1 log records lost" in caplog.text


@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json"])
def test_requests_stay_below_4_mib(protocol, logs, attach):
    handler, logger = attach(logs, protocol=protocol, timeout_s=300)  # of all, for as long as the collector parses
    for number in range(400):
        logger.info(f"{number}" + "\N{EURO SIGN}" * 16_000)
    handler.flush(300)
    assert len(logs.records) == 400
    assert handler.failed == 0
    if protocol == "http/protobuf":
        assert 2**20 < max(request.ByteSize() for request in logs.requests) <= 4 * 2**20
    assert len(logs.requests) > 4


def test_a_request_that_is_too_large_is_halved(attach):
    with Logs(413, 200, 200) as logs:
        handler, logger = attach(logs)
        for number in range(4):
            logger.info("%d", number)
        handler.flush(60)
        assert [len(request.resource_logs[0].scope_logs[0].log_records) for request in logs.requests] == [2, 2]
        assert logs.bodies == ["0", "1", "2", "3"]


def test_a_path_that_is_not_there_is_reported_with_the_path_for_logs(attach, caplog):
    with Logs(404) as logs:
        handler, logger = attach(logs)
        logger.info("a")
        handler.flush(60)
    assert "usually ends in /v1/logs" in caplog.text


def test_the_end_of_the_program_sends_the_rest(logs, attach):
    handler, logger = attach(logs)
    logger.info("last")
    handler.close()
    assert logs.bodies == ["last"]


def log_in_child(handler):
    handler.handle(made(msg="child"))
    handler.flush(60)


def log_and_end(handler):
    handler.handle(made(msg="child"))  # and multiprocessing ends the process by os._exit()


def test_the_end_of_the_program_waits_for_a_collector_that_hangs_once(logs, attach, monkeypatch):
    handler, logger = attach(logs)
    logger.info("lost")
    waits = []

    def give_up(timeout_s):
        waits.append(timeout_s)
        return False

    monkeypatch.setattr(handler._background, "flush", give_up)
    monkeypatch.setattr(otlp_logs.time, "monotonic", lambda: 100.0)
    for _ in range(2):  # logging.shutdown() runs at exit, wherever the program has called it before
        handler.flush()
        handler.close()
    assert (sum(waits), handler.failed) == (3.0, 1)


def refuse(*_):
    raise PermissionError("an audit hook")


@pytest.mark.parametrize("capacity", [1, 2, 8])
def test_where_no_thread_could_be_started_a_later_record_tries_again(logs, attach, monkeypatch, capacity):
    """With the queue full, half full and nearly empty; at most once a second, and nothing piles up."""
    handler, logger = attach(logs, capacity=capacity)
    refused, started = [], []

    def refuse_noted(*_):
        refused.append(1)
        refuse()

    with monkeypatch.context() as patch:
        patch.setattr(on_demand, "start_thread", refuse_noted)
        patch.setattr(otlp_logs.time, "monotonic", lambda: 100.0)
        for _ in range(capacity):
            logger.info("early")
    assert (len(refused), handler._background.inbox.qsize()) == (1, 0)
    with monkeypatch.context() as patch:
        patch.setattr(on_demand, "start_thread", lambda _, name: started.append(name))
        patch.setattr(otlp_logs.time, "monotonic", lambda: 101.0)
        logger.info("late")
    assert started == ["tracekit-logs"]


def test_without_a_thread_two_flushes_at_the_same_moment_return(logs, attach, monkeypatch):
    """The second one, of a signal handler or another thread, sends for the first, which finds nothing to do."""
    handler, logger = attach(logs)
    flushes = []

    def flush_and_refuse(*_):
        flushes.append(1)
        if len(flushes) == 2:  # the first try is that of the record
            handler.flush(60)
        refuse()

    monkeypatch.setattr(on_demand, "start_thread", flush_and_refuse)
    logger.info("sent")
    handler.flush(60)
    assert (len(flushes), logs.bodies, handler.failed) == (3, ["sent"], 0)


def test_without_a_thread_a_flush_sends_in_its_caller_until_its_deadline(logs, attach, monkeypatch):
    monkeypatch.setattr(on_demand, "start_thread", refuse)
    handler, logger = attach(logs)
    deliver, deadlines = handler._client.deliver, []

    def noted(items, encode, deadline, thing):
        deadlines.append(deadline)
        return deliver(items, encode, deadline, thing)

    monkeypatch.setattr(handler._client, "deliver", noted)
    monkeypatch.setattr(otlp_logs.time, "monotonic", lambda: 100.0)
    logger.info("first")
    handler.flush(2)
    logger.info("last")
    handler.close()
    assert (logs.bodies, handler.failed, deadlines) == (["first", "last"], 0, [102.0, 103.0])


def test_the_thread_ends_when_a_handler_is_closed_that_has_sent_all(logs, attach):
    before = set(threading.enumerate())
    handler, logger = attach(logs)
    logger.info("sent")
    handler.flush()
    (thread,) = (one for one in set(threading.enumerate()) - before if one.name == "tracekit-logs")
    handler.close()
    thread.join(60)
    assert not thread.is_alive()
    assert logs.bodies == ["sent"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("then", ["pass", "logging.error('end')"])
def test_a_forkservers_child_sends_what_it_logged_while_it_imported_the_program(then, logs, tmp_path):
    program = f"""
import logging, multiprocessing
from tracekit.exporters import otlp_logs

otlp_logs._INTERVAL_S = 3600.0
logging.getLogger().addHandler(otlp_logs.OTLPLogHandler({logs.url!r}, environ={{}}))
logging.error(__name__)

def job():
    {then}

if __name__ == "__main__":
    process = multiprocessing.get_context("forkserver").Process(target=job)
    process.start()
    process.join()
"""
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, str(tmp_path / "program.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    # In newer releases of CPython the server imports the program, and ends last (gh-126631).
    assert sorted(logs.bodies) == ["__main__", "__mp_main__", *["end"] * (then != "pass")]


def test_a_process_of_celery_sends_at_its_end_what_it_logged(logs):
    program = f"""
import logging, os, sys, types
import tracekit
from tracekit.exporters import otlp_logs

class Exporter:
    def export(self, spans):
        pass

    def shutdown(self):
        logging.error("closed")

receivers = {{}}

def connect(receiver, *, weak, dispatch_uid):
    receivers[dispatch_uid] = receiver

ending = types.SimpleNamespace(connect=connect)  # celery's
sys.modules["celery.signals"] = types.SimpleNamespace(worker_process_shutdown=ending)
otlp_logs._INTERVAL_S = 3600.0
logging.getLogger().addHandler(otlp_logs.OTLPLogHandler({logs.url!r}, environ={{}}))
tracekit.configure(exporter=Exporter(), environ={{}})
logging.error("last")
for receiver in receivers.values():
    receiver(signal=ending, sender=None, exitcode=0)
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr, logs.bodies) == (0, "", ["last", "closed"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("target", [log_in_child, log_and_end])
def test_a_child_of_a_fork_sends_its_own_records_alone(target, logs, attach):
    handler, logger = attach(logs)
    logger.info("before")
    child = multiprocessing.get_context("fork").Process(target=target, args=(handler,))
    child.start()
    child.join()
    assert logs.bodies == ["child"]
    handler.flush(60)
    assert logs.bodies == ["child", "before"]


def test_the_variables_for_logs_win(monkeypatch):
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:1",
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://localhost:2/x",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:3",
    }
    assert OTLPLogHandler(environ=environ).endpoint == "http://localhost:2/x"
    del environ["OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"]
    assert OTLPLogHandler(environ=environ).endpoint == "http://localhost:1/v1/logs"
    assert OTLPLogHandler(environ={}).endpoint == "http://localhost:4318/v1/logs"


@pytest.mark.parametrize(("capacity", "error"), [(0, ValueError), ("5", TypeError), (True, TypeError)])
def test_a_wrong_capacity_is_an_error(capacity, error):
    with pytest.raises(error, match="capacity must be"):
        OTLPLogHandler(capacity=capacity, environ={})


@pytest.mark.parametrize("argument", ["spool", "timeout", "signal"])
def test_an_unknown_argument_is_an_error(argument):
    with pytest.raises(TypeError, match=f"there is no argument '{argument}'"):
        OTLPLogHandler(**{argument: "x"}, environ={})


def test_loguru_and_structlog_reach_it(logs, attach, exporter):
    import loguru
    import structlog

    handler, logger = attach(logs)
    sink = loguru.logger.add(handler, format="{message}")
    with tracekit.span("s") as span:
        loguru.logger.info("of loguru")
        structlog.wrap_logger(logger, processors=[structlog.stdlib.render_to_log_kwargs]).info("of structlog", a=5)
    handler.flush(60)
    loguru.logger.remove(sink)
    assert logs.bodies == ["of loguru", "of structlog"]
    assert [record.span_id.hex() for record in logs.records] == [span.context.span_id] * 2
    assert values(logs.records[1])["a"] == 5
