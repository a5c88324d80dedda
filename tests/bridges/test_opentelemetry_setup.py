"""Programs that set up a TracerProvider themselves, as OpenTelemetry's documentation shows, while the bridge is installed."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import tracekit
from tracekit.bridges import opentelemetry as bridge


@pytest.fixture
def memory():
    tracekit.configure(environ={})
    yield InMemorySpanExporter()
    bridge.uninstall()


def set_up(memory):
    """Do what a program's own set-up does."""
    from opentelemetry.sdk.trace import TracerProvider

    provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
    provider.add_span_processor(SimpleSpanProcessor(memory))
    trace.set_tracer_provider(provider)
    return provider


def test_the_provider_of_a_program_gets_the_spans_of_both_apis(memory, caplog):
    early = trace.get_tracer("early")
    bridge.install(replace_sdk=True)
    provider = set_up(memory)
    assert trace.get_tracer_provider() is provider
    with trace.get_tracer("library").start_as_current_span("a"), tracekit.span("b"), early.start_as_current_span("c"):
        pass
    a, b, c = sorted(memory.get_finished_spans(), key=lambda span: span.name)
    assert (b.parent.span_id, c.parent.span_id) == (a.context.span_id, b.context.span_id)
    assert a.resource.attributes["service.name"] == "shop"
    assert caplog.messages == []
    assert bridge.install() is provider


class Proxy(trace.TracerProvider):
    """Stands before the provider of the SDK, as logfire's and Temporal's do."""

    def __init__(self, provider):
        self.provider = provider

    def get_tracer(self, *args, **kwargs):
        return self.provider.get_tracer(*args, **kwargs)


def test_a_proxy_of_the_programs_provider_gets_the_spans_of_both_apis(memory, caplog):
    bridge.install(replace_sdk=True)
    import opentelemetry.sdk.trace as sdk

    proxy = Proxy(sdk.TracerProvider())
    proxy.provider.add_span_processor(SimpleSpanProcessor(memory))
    trace.set_tracer_provider(proxy)
    assert trace.get_tracer_provider() is proxy
    with trace.get_tracer("library").start_as_current_span("a"), tracekit.span("b"):
        pass
    assert [span.name for span in memory.get_finished_spans()] == ["b", "a"]
    assert caplog.messages == []
    assert bridge.install() is proxy.provider


@pytest.mark.usefixtures("memory")
def test_a_provider_that_raises_where_it_is_read_is_one_that_gets_no_spans():
    class Raises(trace.TracerProvider):
        @property
        def _active_span_processor(self):
            raise RuntimeError("not started")

        get_tracer = None

    installed = bridge.install()
    trace.set_tracer_provider(Raises())
    trace.set_tracer_provider(Proxy(Raises()))
    assert trace.get_tracer_provider() is installed


@pytest.mark.parametrize("is_first", [True, False])
def test_a_proxy_of_a_provider_that_gets_no_spans_is_reported(memory, caplog, is_first, monkeypatch):
    from opentelemetry.sdk.trace import TracerProvider

    proxy = Proxy(TracerProvider())
    proxy.provider.add_span_processor(SimpleSpanProcessor(memory))
    if is_first:
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", proxy)
    bridge.install()
    if not is_first:
        trace.set_tracer_provider(proxy)
    assert "call install(replace_sdk=True)" in caplog.messages[-1]


def test_uninstall_undoes_it(memory):
    before = trace._TRACER_PROVIDER
    bridge.install(replace_sdk=True)
    set_up(memory)
    bridge.uninstall()
    assert trace._TRACER_PROVIDER is before
    with tracekit.span("a"):
        pass
    assert memory.get_finished_spans() == ()


def test_a_second_provider_is_rejected_as_by_the_api(memory, caplog):
    bridge.install(replace_sdk=True)
    first = set_up(memory)
    other = InMemorySpanExporter()
    set_up(other)
    assert trace.get_tracer_provider() is first
    with trace.get_tracer("library").start_as_current_span("a"):
        pass
    assert len(memory.get_finished_spans()) == 1
    assert other.get_finished_spans() == ()
    assert any("Overriding" in message for message in caplog.messages)


def test_a_provider_of_the_sdk_that_gets_no_spans_is_reported_with_the_remedy(memory, caplog):
    bridge.install()
    with caplog.at_level(logging.WARNING, "tracekit"):
        set_up(memory)
    assert any("replace_sdk=True" in message for message in caplog.messages)
    assert isinstance(trace.get_tracer_provider(), bridge.TracerProvider)


def test_a_provider_that_was_set_before_is_reported_too(memory, caplog, monkeypatch):
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", type(trace._TRACER_PROVIDER_SET_ONCE)())
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    set_up(memory)
    with caplog.at_level(logging.WARNING, "tracekit"):
        bridge.install()
    assert any("replace_sdk=True" in message for message in caplog.messages)
    bridge.uninstall()


def test_a_provider_with_processors_is_not_replaced(memory, caplog):
    bridge.install(replace_sdk=True).add_span_processor(SimpleSpanProcessor(memory))
    set_up(InMemorySpanExporter())
    with tracekit.span("a"):
        pass
    assert [span.name for span in memory.get_finished_spans()] == ["a"]
    assert any("get no spans" in message for message in caplog.messages)


def test_of_two_threads_that_install_the_bridge_one_does(memory, monkeypatch):
    make = bridge.TracerProvider
    found = []

    def install():
        found.append(bridge.install())

    def meanwhile():
        monkeypatch.undo()
        thread = threading.Thread(target=install)
        thread.start()
        thread.join()
        return make()

    before = trace.get_tracer_provider()
    monkeypatch.setattr(bridge, "TracerProvider", meanwhile)
    install()
    assert found == [trace.get_tracer_provider()] * 2
    bridge.uninstall()
    assert trace.get_tracer_provider() is before


def test_threads_that_install_and_uninstall_the_bridge_leave_everything_as_it_was():
    def work(number):
        start.wait()
        try:
            for at in range(3000):
                (bridge.uninstall if (at + number) % 2 else bridge.install)()
        except Exception as error:
            raised.append(error)

    raised, start = [], threading.Barrier(8)
    before = trace.get_tracer_provider()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    bridge.uninstall()
    assert raised == []
    assert trace.get_tracer_provider() is before


def test_a_thread_that_uninstalls_the_bridge_while_another_replaces_the_sdk_leaves_that_as_it_was(memory, monkeypatch):
    import opentelemetry.sdk.trace as sdk

    def cover(provider, covers):
        if covers:
            thread = threading.Thread(target=bridge.uninstall)
            thread.start()
            thread.join()

    monkeypatch.setattr(bridge.TracerProvider, "cover_native_spans", cover)
    before = sdk.TracerProvider, sdk.Span
    bridge.install(replace_sdk=True)
    assert (sdk.TracerProvider, sdk.Span) == before


def test_nothing_is_imported_while_other_threads_wait_to_install_the_bridge():
    # One that waits in an import, for a library that is instrumented then, would wait forever.
    program = """
import sys
from tracekit.bridges import opentelemetry as bridge
from tracekit.bridges._opentelemetry.processors import Processors

def look(event, arguments):
    if event == "import" and Processors._lock._is_owned():
        print(arguments[0])

sys.addaudithook(look)
bridge.install(replace_sdk=True)
bridge.uninstall()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == ""
