"""Collectors, one of them with TLS, the authority that signed its certificate, and short waits for them."""

from __future__ import annotations

import ssl

import pytest
import trustme

from tracekit.exporters._otlp import answers

from .collector import Collector


@pytest.fixture
def collector():
    with Collector() as collector:
        yield collector


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch):
    monkeypatch.setattr(answers, "_FIRST_S", 0.01)


@pytest.fixture(scope="session")
def authority():
    return trustme.CA()


@pytest.fixture
def tls_collector(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Collector(tls=context) as collector:
        yield collector
