"""Timeouts of everything public that flushes or shuts down: no value raises, and each means the same everywhere."""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil
import sys
import threading
from pathlib import Path

import pytest

import tracekit
from tracekit._arguments import bounded_timeout
from tracekit._core import misuse
from tracekit.bridges.opentelemetry import TracerProvider
from tracekit.exporters.flight import FlightRecorder
from tracekit.exporters.otlp import OTLPExporter
from tracekit.exporters.otlp_logs import OTLPLogHandler
from tracekit.exporters.tail import TailSampler
from tracekit.metrics import OTLPMetrics, RedMetrics

from .exporters.collector import Collector
from .exporters.test_otlp_logs import Logs

NAN, INFINITY = float("nan"), float("inf")
VALUES = {"nan": NAN, "-inf": -INFINITY, "-1": -1, "0": 0, "5": 5, "inf": INFINITY, "1e300": 1e300, "int": 10**400}
NO_NUMBERS = {"str": "1", "None": None, "object": object()}


class Keeps:
    """An exporter, and a span processor of OpenTelemetry, that keeps the timeouts that it is given."""

    def __init__(self):
        self.given = []

    def export(self, spans):
        pass

    def flush(self, timeout):
        self.given.append(timeout)
        return True

    force_flush = flush

    def on_start(self, span, parent_context=None):
        pass

    def on_end(self, span):
        pass

    def shutdown(self):
        pass


def around(make):
    """Return a function that makes a ``flush`` by *make* in front of a ``Keeps``, and returns both."""

    def made(tmp_path):
        keeps = Keeps()
        return make(keeps, tmp_path).flush, keeps.given

    return made


def of_tracekit(name):
    def made(_):
        keeps = Keeps()
        tracekit.configure(exporter=keeps, environ={})
        return getattr(tracekit, name), keeps.given

    return made


def of_the_bridge(_):
    provider, keeps = TracerProvider(), Keeps()
    provider.add_span_processor(keeps)
    return provider.force_flush, keeps.given


# The public name of each, and a function that returns the call and the timeouts that it hands on.
HANDED_ON = {
    "tracekit.flush": of_tracekit("flush"),
    "tracekit.shutdown": of_tracekit("shutdown"),
    "tracekit.bridges.opentelemetry.TracerProvider.force_flush": of_the_bridge,
    "tracekit.exporters.flight.FlightRecorder.flush": around(lambda keeps, path: FlightRecorder(keeps, directory=path)),
    "tracekit.exporters.tail.TailSampler.flush": around(lambda keeps, _: TailSampler(keeps, probability=1)),
    "tracekit.metrics.RedMetrics.flush": around(lambda keeps, _: RedMetrics(keeps)),
}
SENT = {"tracekit.exporters.otlp.OTLPExporter.flush", "tracekit.exporters.otlp_logs.OTLPLogHandler.flush"}


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", HANDED_ON)
def test_every_number_is_a_timeout_that_can_be_waited_for(name, value, tmp_path):
    call, given = HANDED_ON[name](tmp_path)
    assert call(VALUES[value]) in (True, False)
    assert all(0 <= timeout <= 1e9 for timeout in given)
    if not VALUES[value] > 0:
        assert set(given) <= {0}


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize("name", HANDED_ON)
def test_anything_else_is_misuse_and_means_the_default(name, value, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(misuse, "_seen", set())
    call, given = HANDED_ON[name](tmp_path)
    with pytest.raises(TypeError, match=r"timeout_(s|millis) must be a number, not"):
        call(NO_NUMBERS[value])
    monkeypatch.setattr(misuse, "_strict", False)
    before = tracekit.statistics().misused
    assert call(NO_NUMBERS[value]) in (True, False)
    assert tracekit.statistics().misused == before + 1
    assert all(0 <= timeout <= 30_000 for timeout in given)
    (line,) = caplog.messages
    assert f"{Path(__file__).name}:" in line
    assert "must be a number, not" in line


@pytest.mark.parametrize("value", VALUES)
def test_an_exporter_with_a_spool_takes_every_timeout(value, tmp_path, monkeypatch):
    monkeypatch.setattr("tracekit.exporters.otlp.FAREWELL_S", 60.0)
    with Collector() as collector:
        exporter = OTLPExporter(collector.url, environ={}, spool=tmp_path / "spool.db")
        span = tracekit.span("job")
        span.end()
        exporter.export([span])
        is_empty = exporter.flush(VALUES[value])
        assert is_empty or not VALUES[value] > 5
        exporter.shutdown()
    assert collector.names == {"job": 1}


@pytest.mark.parametrize("value", VALUES)
def test_a_handler_of_records_takes_every_timeout(value):
    with Logs() as logs:
        handler = OTLPLogHandler(logs.url, environ={})
        handler.handle(logging.makeLogRecord({"name": "n", "levelno": 20, "levelname": "INFO", "msg": "hello"}))
        handler.flush(VALUES[value])
        handler.close()
    assert [record.body.string_value for record in logs.records] == ["hello"]


def test_both_that_send_report_what_is_no_number(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(misuse, "_seen", set())
    exporter = OTLPExporter("http://127.0.0.1:9", environ={}, spool=tmp_path / "spool.db")
    handler = OTLPLogHandler("http://127.0.0.1:9", environ={})
    for call in (exporter.flush, handler.flush):
        with pytest.raises(TypeError, match="timeout_s must be a number, not str"):
            call("1")
    monkeypatch.setattr(misuse, "_strict", False)
    exporter.flush("1")
    handler.flush("1")
    assert ["timeout_s must be a number, not str" in line for line in caplog.messages] == [True, True]
    exporter.shutdown()
    handler.close()


CLOSED = "http://127.0.0.1:9"
HURRIES = {
    "exporter": lambda: OTLPExporter(CLOSED, environ={}).hurry,
    "log handler": lambda: OTLPLogHandler(CLOSED, environ={}).close,
    "metrics": lambda: RedMetrics(None, push=OTLPMetrics(CLOSED, environ={})).hurry,
}


@pytest.mark.parametrize("name", HURRIES)
def test_a_signal_handler_may_end_the_waits_while_the_interrupted_code_ends_them(name):
    """At any line, also of the standard library: its Event holds a lock while it is set."""
    call, seen, done = HURRIES[name](), set(), []

    def interrupt(frame, event, _):
        line = frame.f_code.co_filename, frame.f_lineno
        if event == "line" and line not in seen:
            seen.add(line)
            sys.settrace(None)
            call()
            sys.settrace(interrupt)
        return interrupt

    def work():
        sys.settrace(interrupt)
        try:
            call()
        finally:
            sys.settrace(None)
        done.append(True)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert done
    assert len(seen) > 3


def test_no_method_of_a_number_is_called():
    class Whole(int):
        def __float__(self):
            raise RuntimeError

        __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __index__ = __int__ = __float__
        __hash__ = int.__hash__

    class Real(float):
        def __float__(self):
            raise RuntimeError

        __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __float__
        __hash__ = float.__hash__

    assert [bounded_timeout(value, 7.0) for value in (Whole(3), Whole(-3), Real(3), Real(NAN))] == [3.0, 0.0, 3.0, 0.0]


def test_everything_public_that_flushes_is_tested_here():
    found = set()
    for module in pkgutil.walk_packages(tracekit.__path__, "tracekit."):
        if any(part.startswith("_") for part in module.name.split(".")[1:]):
            continue
        try:
            loaded = importlib.import_module(module.name)
        except ImportError:  # of a library that is not installed
            continue
        for public in getattr(loaded, "__all__", ()):
            thing = getattr(loaded, public)
            for name in ("flush", "shutdown", "force_flush", "close"):
                method = getattr(thing, name, None) if inspect.isclass(thing) else None
                if inspect.isfunction(method) and method.__module__.startswith("tracekit"):
                    parameters = inspect.signature(method).parameters
                    if any(parameter.startswith("timeout") for parameter in parameters):
                        found.add(f"{module.name}.{public}.{name}")
    assert found == {name for name in {*HANDED_ON, *SENT} if name.count(".") > 1}
