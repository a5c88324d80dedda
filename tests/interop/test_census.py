"""OpenCensus's binary format with the library that defined it: ``grpc-trace-bin`` and ``grpc-tags-bin`` in gRPC metadata.

gRPC's core keeps both from servers in Python, so a service of Go answers with the octets that arrived there.
"""

from __future__ import annotations

import base64
from urllib.parse import parse_qsl

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

import tracekit
from tracekit.wire.grpc_bin import BINARY

from .services import METHOD, TIMEOUT_S, parse

# The format's values are printable ASCII.
LABELS = {"tenant": "acme", "spaces": "two  words", "plus": "a+b", "percent": "100%25", "quotes": """it's "so" \\"""}


@pytest.mark.parametrize("is_sampled", [True, False], ids=["sampled", "not sampled"])
def test_a_trace_and_its_labels_survive_opencensus(start, is_sampled):
    host = start("go")[2]
    sent = tracekit.SpanContext("a" * 32, "b" * 16, int(is_sampled), labels=tracekit.Labels(LABELS))
    metadata: dict[str, bytes] = {}
    BINARY.write(sent, metadata)
    with grpc.insecure_channel(host) as channel:
        call = channel.unary_unary(f"{METHOD}census", StringValue.SerializeToString, StringValue.FromString)
        route = StringValue(value=f"grpc://{host}/echo")
        first, last = call(route, timeout=TIMEOUT_S, metadata=tuple(metadata.items())).value.splitlines()
    (hop,) = parse(f"{first}&tracestate=")
    assert (hop.trace_id, hop.parent_id, hop.flags, hop.labels) == ("a" * 32, "b" * 16, int(is_sampled), LABELS)
    octets = {name: base64.b64decode(value) for name, value in parse_qsl(last) if name.startswith("grpc-")}
    arrived = BINARY.read(octets)
    assert (arrived.trace_id, arrived.sampled, arrived.labels) == ("a" * 32, is_sampled, LABELS)
    assert arrived.span_id not in ("b" * 16, hop.span_id)  # of OpenCensus's client span
