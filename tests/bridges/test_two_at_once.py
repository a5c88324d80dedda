"""OpenTelemetry's SDK beside tracekit, without the bridge: one line says so."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import tracekit
from tracekit.bridges import opentelemetry as bridge
from tracekit.cli.doctor import examine


@pytest.fixture
def _sdk(monkeypatch):
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", TracerProvider(shutdown_on_exit=False))


@pytest.mark.usefixtures("_sdk")
def test_configure_tells_once_that_there_are_two(caplog):
    tracekit.configure(environ={})
    tracekit.configure(environ={})
    (line,) = caplog.messages
    assert "install()" in line


@pytest.mark.usefixtures("_sdk")
def test_with_the_bridge_there_is_one(caplog):
    bridge.install()
    try:
        tracekit.configure(environ={})
        assert caplog.messages == []
    finally:
        bridge.uninstall()


def test_a_signal_handler_that_installs_in_the_middle_of_it_does_not_wait_for_itself(monkeypatch):
    class Interrupted:
        """A lock with a signal handler that runs once it is taken."""

        def __init__(self, lock):
            self.lock = lock
            self.made = None

        def __enter__(self):
            assert self.lock.acquire(timeout=1)
            if self.made is None:
                self.made = False
                self.made = bridge.install()

        def __exit__(self, *_):
            self.lock.release()

    lock = Interrupted(bridge.Processors._lock)
    monkeypatch.setattr(bridge.Processors, "_lock", lock)
    try:
        assert bridge.install() is lock.made
        assert len({(module, name) for module, name, *_ in bridge._replaced}) == len(bridge._replaced)
    finally:
        bridge.uninstall()


def test_the_doctor_tells_what_to_call():
    (finding,) = [finding for finding in examine() if finding.name == "opentelemetry"]
    assert finding.ok
    assert "tracekit.bridges.opentelemetry.install()" in finding.text


def test_without_an_sdk_there_is_nothing_to_tell(caplog):
    tracekit.configure(environ={})
    assert caplog.messages == []
