"""What the formats of one process count begins at 0 in each test."""

import pytest

from tracekit.wire.cloudtrace import CLOUDTRACE
from tracekit.wire.datadog import DATADOG
from tracekit.wire.environ import ENVIRON
from tracekit.wire.grpc_bin import BINARY
from tracekit.wire.jaeger import JAEGER
from tracekit.wire.ottrace import OTTRACE
from tracekit.wire.seed_header import SEED
from tracekit.wire.xray import XRAY


@pytest.fixture(autouse=True)
def _counted_from_0(monkeypatch):
    for format in (BINARY, CLOUDTRACE, DATADOG, ENVIRON, JAEGER, OTTRACE, SEED, XRAY):
        monkeypatch.setattr(format, "left_out", 0)
