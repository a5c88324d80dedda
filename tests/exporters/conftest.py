"""A collector that speaks TLS, and the authority that signed its certificate."""

from __future__ import annotations

import ssl

import pytest
import trustme

from .collector import Collector


@pytest.fixture(scope="session")
def authority():
    return trustme.CA()


@pytest.fixture
def tls_collector(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Collector(tls=context) as collector:
        yield collector
