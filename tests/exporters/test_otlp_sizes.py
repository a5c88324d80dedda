"""OTLP writes sizes in one octet where they fit; every size around the limit decodes, and equals protobuf's encoding."""

from __future__ import annotations

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import tracekit
from tracekit.exporters.otlp import encode_spans


@pytest.mark.parametrize("letter", ["x", "é", "\U0001f600"])
@pytest.mark.parametrize("key_size", [0, 1, 20, 60])
def test_attributes_of_every_size_around_the_limit_of_one_octet(exporter, letter, key_size):
    attributes = {"k" * key_size + f"{size:03}": letter * size for size in range(50, 135)}
    attributes |= {"k" * key_size: "", "é" * key_size + "!": letter}
    span = tracekit.span("work", attributes=attributes)
    span.end()
    octets = encode_spans([span])
    request = ExportTraceServiceRequest.FromString(octets)
    assert request.SerializeToString() == octets
    found = request.resource_spans[0].scope_spans[0].spans[0].attributes
    assert {attribute.key: attribute.value.string_value for attribute in found} == attributes
