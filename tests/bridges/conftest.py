"""Fixtures of the bridges' tests: each installs the bridge, and takes it out again."""

from __future__ import annotations

import pytest
from opentelemetry import trace

from tracekit.bridges import opentelemetry as bridge


@pytest.fixture
def provider(exporter):
    """The installed bridge's provider; spans are in ``exporter.spans``."""
    made = bridge.install()
    yield made
    bridge.uninstall()


@pytest.fixture
def tracer(provider):
    return trace.get_tracer("library", "1.2")
