"""The pages of golang.org/x/net/trace in a service of Go beside those of tracekit here, for the same requests."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from urllib.parse import urlencode

import pytest

import tracekit
from tracekit import debug
from tracekit.debug._recorder import recorder

from .trips import send


def page(host, **arguments):
    """A page of ``/debug/requests``, as the JSON of ours or the HTML of x/net/trace."""
    url = f"http://{host}/debug/requests?{urlencode(arguments)}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=20) as response:
        return response.read().decode()


@pytest.fixture
def pages():
    with contextlib.closing(debug.serve(port=0)) as server:
        yield f"127.0.0.1:{server.port}"
    recorder.stop()


def test_net_trace_and_the_live_pages_show_the_same_traces(start, ours, configured, pages):
    """golang.org/x/net/trace in the Go services, tracekit.debug here, and the same arguments of the URL."""
    hosts = start("go")
    configured()
    urls = f"http://{hosts[0]}/w3c", f"http://{ours.web}/w3c"
    traces = [send(ours, *urls)[0].context.trace_id for _ in range(5)]
    tracekit.flush(20)
    theirs = page(hosts[0], fam="relay", b=0, exp=1)
    mine = page(pages, fam="server POST", b=0, exp=1, format="json")
    assert [trace_id for trace_id in traces if trace_id not in theirs] == []
    assert [trace_id for trace_id in traces if trace_id not in mine] == []
    json.loads(mine)


def test_both_have_a_family_for_calls_of_grpc(start, ours, configured, pages):
    """gRPC-Go makes its own traces with golang.org/x/net/trace, by service; tracekit's families are methods."""
    hosts = start("go")
    configured()
    send(ours, f"grpc://{hosts[1]}/w3c", f"grpc://{ours.rpc}/w3c")
    tracekit.flush(20)
    assert "grpc.Recv.tracekit.test.Relay" in page(hosts[0])
    families = [family["family"] for family in json.loads(page(pages, format="json"))["families"]]
    assert "server tracekit.test.Relay/w3c" in families
