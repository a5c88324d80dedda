"""Trace ids in events of structlog."""

from __future__ import annotations

import json

import pytest
import structlog

import tracekit
from tracekit.integrations.structlog import TraceProcessor, instrument, uninstrument


@pytest.fixture(autouse=True)
def _as_found(exporter):
    original = structlog.BoundLoggerBase._process_event
    yield
    uninstrument()
    structlog.reset_defaults()
    assert structlog.BoundLoggerBase._process_event is original


@pytest.fixture
def events():
    """Events as JSON, of loggers that are configured after this."""
    lines = []

    class Output:
        def msg(self, text):
            lines.append(json.loads(text))

        info = msg

    def configure(*processors):
        structlog.configure(
            processors=[structlog.contextvars.merge_contextvars, *processors, structlog.processors.JSONRenderer()],
            logger_factory=lambda *_: Output(),
        )
        return lines

    return configure


def ids(span):
    return {"trace_id": span.context.trace_id, "span_id": span.context.span_id, "sampled": True, "service.name": "test"}


@pytest.mark.parametrize("way", ["instrument", "processor"])
def test_an_event_has_the_ids_and_the_service(way, events):
    lines = events() if way == "instrument" else events(TraceProcessor())
    if way == "instrument":
        tracekit.instrument("structlog")
    log = structlog.get_logger()
    log.info("before")
    with tracekit.span("s") as span:
        log.info("in", number=5)
        log.bind(trace_id="bound").info("mine", span_id="given")
    assert lines == [
        {"event": "before", "service.name": "test"},
        {"event": "in", "number": 5, **ids(span)},
        {"event": "mine", **ids(span), "trace_id": "bound", "span_id": "given"},
    ]
    if way == "instrument":
        tracekit.uninstrument("structlog")
        log.info("after")
        assert lines[-1] == {"event": "after"}


@pytest.mark.parametrize("way", ["instrument", "processor"])
def test_fields_that_are_bound_in_context_variables_win(way, events):
    lines = events() if way == "instrument" else events(TraceProcessor())
    if way == "instrument":
        instrument()
    with tracekit.span("s") as span, structlog.contextvars.bound_contextvars(trace_id="mine"):
        structlog.get_logger().info("in")
    assert lines == [{"event": "in", **ids(span), "trace_id": "mine"}]


@pytest.mark.parametrize("way", ["instrument", "processor"])
def test_datadogs_names_are_added_on_request(way, events):
    lines = events() if way == "instrument" else events(TraceProcessor(datadog=True))
    if way == "instrument":
        instrument()
        instrument(datadog=True)
    with tracekit.span("s") as span:
        structlog.get_logger().info("in")
    assert lines[0]["dd.trace_id"] == str(int(span.context.trace_id[16:], 16))
    assert lines[0]["dd.service"] == "test"


def test_processors_that_look_for_the_caller_find_the_program(events):
    caller = structlog.processors.CallsiteParameterAdder([structlog.processors.CallsiteParameter.FUNC_NAME])
    lines = events(caller, structlog.processors.StackInfoRenderer())
    instrument()
    structlog.get_logger().info("called", stack_info=True)
    assert lines[0]["func_name"] == "test_processors_that_look_for_the_caller_find_the_program"
    assert "tracekit/integrations" not in lines[0]["stack"]


def test_a_configuration_after_instrument_keeps_the_ids(events):
    instrument()
    lines = events()
    with tracekit.span("s") as span:
        structlog.get_logger().info("in")
    assert lines == [{"event": "in", **ids(span)}]


def test_a_patch_of_another_package_stays_and_ours_has_no_effect(events, monkeypatch):
    instrument()
    lines = events()
    ours = structlog.BoundLoggerBase._process_event
    monkeypatch.setattr(structlog.BoundLoggerBase, "_process_event", lambda *args: ours(*args))
    uninstrument()
    structlog.get_logger().info("in")
    assert lines == [{"event": "in"}]
    monkeypatch.undo()
    structlog.BoundLoggerBase._process_event = ours.__wrapped__


def test_a_mapping_that_raises_is_logged_all_the_same(events):
    class Hostile(dict):
        def setdefault(self, *_):
            raise RuntimeError

    event = Hostile(event="x")
    assert TraceProcessor()(None, "info", event) is event


@pytest.mark.parametrize("call", [instrument, uninstrument])
def test_a_single_logger_is_a_type_error(call):
    with pytest.raises(TypeError, match="use TraceProcessor"):
        call(structlog.get_logger())
