"""When the attributes of a server span are built."""

import pytest

import tracekit
from tracekit import AlwaysOff, AlwaysOn, Ratio
from tracekit.integrations._server import Callers
from tracekit.testing import MemoryExporter

SAMPLED = [(b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]


class Own:
    """A sampler of the program's, which sees the attributes."""

    def __init__(self):
        self.seen = []

    def sample(self, randomness, name, kind, attributes):
        self.seen.append(dict(attributes))
        return False, ""


class Requests:
    def __init__(self, sampler, **options):
        self.exporter = MemoryExporter()
        tracekit.configure(exporter=self.exporter, sampler=sampler, environ={})
        self.callers = Callers("continue", None, **{"forced_per_s": 0, **options})
        self.built = 0

    def attributes(self, path):
        self.built += 1
        return {"url.path": path}

    def serve(self, count, headers=(), attributes_of=None):
        for _ in range(count):
            self.callers.start("GET", "/pay", headers, attributes_of or self.attributes, "/pay").end()
        tracekit.flush(60)
        return self.exporter.spans


@pytest.mark.parametrize("headers", [(), SAMPLED], ids=["new", "continued"])
def test_attributes_of_a_trace_that_is_not_kept_are_not_built(headers):
    requests = Requests(AlwaysOff())
    assert requests.serve(20, headers) == []
    assert requests.built == 0


def test_a_kept_trace_has_its_attributes_at_any_share():
    requests = Requests(Ratio(0.5))
    spans = requests.serve(200)
    assert 0 < len(spans) < 200
    assert requests.built == len(spans)
    assert all(span.attributes == {"url.path": "/pay"} for span in spans)


def test_attributes_are_built_before_a_sampler_that_reads_them():
    sampler = Own()
    assert Requests(sampler).serve(1) == []
    assert sampler.seen == [{"url.path": "/pay"}]


def test_attributes_that_cannot_be_built_leave_a_started_span_without_them():
    def broken(path):
        raise RuntimeError("no attributes")

    spans = Requests(Ratio(0.5)).serve(200, attributes_of=broken)
    assert 0 < len(spans) < 200
    assert not any(span.attributes for span in spans)


def test_with_every_trace_kept_attributes_are_there_from_the_start():
    requests = Requests(AlwaysOn())
    assert [span.attributes for span in requests.serve(1)] == [{"url.path": "/pay"}]
