"""Invalid trace headers from services of Go, over HTTP and gRPC: a request is served, and what is valid is used."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest

IDS = "a" * 32, "b" * 16
GOOD = f"traceparent:00-{IDS[0]}-{IDS[1]}-01"

# The headers that Go sends, and what arrives of them: whether the trace goes on, tracestate, labels.
CASES = {
    "none": ([], False, "", {}),
    "valid": ([GOOD, "tracestate:x=1", "baggage:tenant=acme"], True, "x=1", {"tenant": "acme"}),
    "empty": (["traceparent:", "tracestate:x=1"], False, "", {}),
    "text": (["traceparent:hello"], False, "", {}),
    "upper case": ([GOOD.replace("a" * 32, "A" * 32)], False, "", {}),
    "trace id of zeros": ([GOOD.replace("a", "0")], False, "", {}),
    "span id of zeros": ([GOOD.replace("b", "0")], False, "", {}),
    "too short": ([GOOD[:-1]], False, "", {}),
    "too long": ([f"{GOOD}-00"], False, "", {}),
    "version ff": ([GOOD.replace(":00-", ":ff-")], False, "", {}),
    "a later version": ([f"{GOOD.replace(':00-', ':01-')}-more"], True, "", {}),
    "two": ([GOOD, GOOD.replace("b", "c")], False, "", {}),
    "two that are equal": ([GOOD, GOOD], False, "", {}),
    "8,000 octets": ([f"traceparent:{'0' * 8000}"], False, "", {}),
    "state without keys": ([GOOD, "tracestate:=1,=2"], True, "", {}),
    "state with a key twice": ([GOOD, "tracestate:x=1,x=2"], True, "x=1,x=2", {}),  # as W3C's test suite allows
    "state of 8,000 octets": ([GOOD, f"tracestate:x={'1' * 8000}"], True, "", {}),
    "labels without values": ([GOOD, "baggage:a,=b,tenant=acme"], True, "", {"tenant": "acme"}),
    "labels with broken escapes": ([GOOD, "baggage:a=%zz,tenant=acme"], True, "", {"a": "%zz", "tenant": "acme"}),
    "labels alone": (["baggage:tenant=acme"], False, "", {"tenant": "acme"}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_invalid_headers_cost_only_themselves(start, ours, configured, caplog, scheme, case):
    headers, goes_on, state, labels = CASES[case]
    parent_id = IDS[1] if goes_on else ""
    if scheme == "grpc" and case.startswith("two"):  # gRPC's core hands on the last traceparent alone
        goes_on, parent_id = True, headers[-1].split("-")[2]
    configured()
    query = urlencode({"header": headers or ["user-agent:go"]}, doseq=True)
    _, hop = ours.travel(
        f"http://{start('go')[0]}/w3c", f"{scheme}://{ours.web if scheme == 'http' else ours.rpc}/w3c?{query}"
    )
    assert hop.service == f"tracekit-{scheme}"
    assert (hop.trace_id == IDS[0]) == goes_on
    assert hop.parent_id == parent_id
    assert (hop.tracestate, hop.labels) == (state, labels)
    assert caplog.text == ""


def test_labels_in_latin_1_and_utf_8_arrive_or_are_dropped(start, ours, configured):
    """RFC 9110 has octets above 127 as opaque data; gRPC-Go does not send them."""
    configured()
    query = urlencode({"header": [GOOD, "baggage:text=Zürich,tenant=acme"]}, doseq=True)
    _, hop = ours.travel(f"http://{start('go')[0]}/w3c", f"http://{ours.web}/w3c?{query}")
    assert (hop.trace_id, hop.labels) == (IDS[0], {"tenant": "acme"})
