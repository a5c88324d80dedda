"""The reader of OTLP's JSON; test_protobuf.py compares it with what is exported."""

import json as text
import math

import pytest

from tracekit.ui import json
from tracekit.ui.rows import Malformed

from .conftest import span

pytestmark = pytest.mark.one_form


def read(*spans):
    request = {"resourceSpans": [{"scopeSpans": [{"spans": list(spans)}]}]}
    return json.read_request(text.dumps(request).encode(), 1)


def test_ids_in_upper_case_and_numbers_as_numbers_are_read():
    (row,), rejected, _ = read(span(traceId="A" * 32, startTimeUnixNano=5, kind=3, unknown={"field": []}))
    assert (row[1], row[8], row[7], row[5], rejected) == ("a" * 32, 5, "client", "unknown_service", 0)


@pytest.mark.parametrize("field", [{"traceId": "x" * 32}, {"traceId": ""}, {"spanId": "0" * 16}, {"spanId": None}])
def test_a_span_without_valid_ids_is_rejected_alone(field):
    rows, rejected, _ = read(span(**field), span(id=2))
    assert ([row[2] for row in rows], rejected) == (["0000000000000002"], 1)


def test_a_lone_surrogate_is_replaced():
    assert read(span(name="\ud800"))[0][0][6] == "\ufffd"


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b'{"resourceSpans":{"a":1}}',
        b'{"resourceSpans":[1]}',
        b"[" * 100_000,
        text.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span(name=5)]}]}]}).encode(),
        text.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span(kind="SERVER")]}]}]}).encode(),
        text.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span(startTimeUnixNano="-1")]}]}]}).encode(),
    ],
)
def test_malformed_json_is_rejected(octets):
    with pytest.raises(Malformed):
        json.read_request(octets, 1)


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ({}, None),
        (None, None),
        ({"intValue": "12"}, 12),
        ({"doubleValue": "NaN"}, "NaN"),
        ({"doubleValue": math.pi}, math.pi),
        ({"bytesValue": "AP8="}, {"base64": "AP8="}),
        ({"kvlistValue": {"values": [{"key": "a", "value": {"arrayValue": {}}}]}}, {"a": []}),
        ({"newValue": 1}, None),
    ],
)
def test_values(value, stored):
    (row,), _, _ = read(span() | {"attributes": [{"key": "k", "value": value}]})
    assert text.loads(row[15]) == {"k": stored}
