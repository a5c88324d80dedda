"""Trace ids in records of loguru."""

from __future__ import annotations

import threading

import pytest
from loguru import logger

import tracekit
from tracekit.integrations.loguru import Patcher, instrument, uninstrument


@pytest.fixture(autouse=True)
def _as_found(exporter):
    yield
    uninstrument()
    assert logger._core.patcher is None


@pytest.fixture
def records():
    found = []
    sink = logger.add(lambda message: found.append(message.record["extra"]), format="{message}")
    yield found
    logger.remove(sink)


def ids(span):
    return {"trace_id": span.context.trace_id, "span_id": span.context.span_id, "sampled": True, "service.name": "test"}


NOTHING = {"trace_id": "", "span_id": "", "sampled": False, "service.name": "test"}


def test_a_record_has_the_ids_and_the_service(records):
    tracekit.instrument("loguru")
    logger.info("before")
    with tracekit.span("s") as span:
        logger.info("in")
        logger.bind(trace_id="bound", a=1).info("mine")
    tracekit.uninstrument("loguru")
    logger.info("after")
    assert records == [NOTHING, ids(span), {**ids(span), "trace_id": "bound", "a": 1}, {}]


def test_the_ids_are_those_of_the_code_that_logs_whatever_thread_writes():
    found, done = [], threading.Event()

    def write(message):
        found.append((message.record["extra"], threading.current_thread() is threading.main_thread()))
        done.set()

    sink = logger.add(write, enqueue=True, format="{message}")
    instrument()
    with tracekit.span("s") as span:
        logger.info("in")
    assert done.wait(60)
    logger.remove(sink)
    assert found == [(ids(span), False)]


def test_a_configured_patcher_is_called_too_and_comes_back(records):
    def theirs(record):
        record["extra"]["theirs"] = record["extra"].get("trace_id")

    logger.configure(patcher=theirs)
    instrument()
    instrument(datadog=True)
    with tracekit.span("s") as span:
        logger.info("in")
    assert records[0]["theirs"] == span.context.trace_id
    assert records[0]["dd.span_id"] == str(int(span.context.span_id, 16))
    uninstrument()
    assert logger._core.patcher is theirs
    logger._core.patcher = None


def test_a_single_logger_may_be_patched(records):
    with tracekit.span("s") as span:
        logger.patch(Patcher()).info("in")
        logger.info("without")
    assert records == [ids(span), {}]


def test_a_record_that_cannot_be_patched_is_logged_all_the_same():
    Patcher()({"extra": 5})


@pytest.mark.parametrize("call", [instrument, uninstrument])
def test_a_target_is_a_type_error(call):
    with pytest.raises(TypeError, match=r"use logger\.patch"):
        call(logger)
