"""Requests: their size limit, the split of those that are too large, and spans that cannot be encoded."""

from __future__ import annotations

import enum
import itertools
import json
import time
from collections import Counter

import pytest

import tracekit
from tracekit import _configure
from tracekit._core.span import set_tracer
from tracekit._core.tracer import Tracer
from tracekit.exporters import otlp
from tracekit.exporters._otlp import answers as _answers
from tracekit.exporters._otlp import requests
from tracekit.exporters._otlp.requests import Request, SizeLimit, pack
from tracekit.exporters.otlp import DeliveryError, OTLPExporter
from tracekit.testing import MemoryExporter

from ..tools.pipeline import Balance
from .collector import Collector, GrpcCollector, refuse, take
from .test_otlp import exporter, lines, made
from .test_spool import names_in


def sized(*sizes):
    """Finished spans, each with an attribute of that size."""
    memory = MemoryExporter()
    limits = tracekit.Limits(value_length=1 << 30)
    environ = {"OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "none"}  # the same octets on every machine
    tracekit.configure(service="shop", exporter=memory, limits=limits, environ=environ)
    for number, size in enumerate(sizes):
        tracekit.span(f"span {number}", attributes={"text": "x" * size}).end()
    return memory.spans


class Small:
    """Accepts requests of at most *most* bytes, and answers 413 to others."""

    def __init__(self, most):
        self.most = most
        self.refused = 0

    def __call__(self, handler, request):
        if request.ByteSize() > self.most:
            self.refused += 1
            refuse(413)(handler, request)
        else:
            take(handler, request)


class SmallGrpc(Small):
    def __call__(self, request, context):
        grpc = pytest.importorskip("grpc")

        if request.ByteSize() > self.most:
            self.refused += 1
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "grpc: received message larger than max")
        return take_over_grpc(self.collector, request)


def take_over_grpc(collector, request):
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    collector.requests.append(request)
    return ExportTraceServiceResponse()


@pytest.fixture(params=["http/protobuf", "http/json", "http/protobuf gzip", "http/json gzip", "grpc"])
def small(request):
    """A collector that accepts 20,000 bytes, its answer, and the options of an exporter for it."""
    protocol, _, compression = request.param.partition(" ")
    options = {"protocol": protocol, "compression": compression or "none"}
    if protocol == "grpc":
        answer = SmallGrpc(20_000)
        with GrpcCollector() as collector:
            answer.collector = collector
            collector.answers = itertools.repeat(answer)
            yield collector, answer, options
    else:
        answer = Small(20_000)
        with Collector() as collector:
            collector.answers = itertools.repeat(answer)
            yield collector, answer, options


# ---- too large for the collector


@pytest.mark.parametrize("has_spool", [False, True])
def test_a_request_that_is_too_large_is_halved_until_it_is_taken(small, has_spool, tmp_path, monkeypatch):
    monkeypatch.setattr(requests, "_LEAST_BYTES", 1000)
    collector, answer, options = small
    sender = exporter(collector, spool=tmp_path / "spool.db" if has_spool else None, **options)
    sender.export(sized(*[300] * 300))
    if has_spool:
        assert sender.flush(20)
        assert sender.ledger()[:5] == (300, 300, 0, 0, 0)
    assert sorted(span.name for span in collector.spans) == sorted(f"span {number}" for number in range(300))
    assert {
        outer.resource.attributes[-1].value.string_value for one in collector.requests for outer in one.resource_spans
    } == {"shop"}
    assert sender.account().failed == 0
    assert 0 < answer.refused < 16
    answer.refused = 0
    sender.export(sized(*[300] * 300))
    if has_spool:
        assert sender.flush(20)
    assert len(collector.spans) == 600
    assert answer.refused == 0, "the next requests are small enough"
    sender.shutdown()


@pytest.mark.parametrize("has_spool", [False, True])
def test_a_span_that_is_too_large_alone_is_counted_and_the_others_are_sent(small, has_spool, tmp_path, caplog):
    collector, _, options = small
    sizes = [300] * 100
    sizes[3] = sizes[70] = 30_000
    tracekit.configure(
        exporter=exporter(collector, spool=tmp_path / "spool.db" if has_spool else None, **options), environ={}
    )
    balance = Balance()
    spans = sized_here(sizes)
    assert tracekit.flush(20)
    assert {span.name for span in collector.spans} == {f"span {at}" for at in range(100)} - {"span 3", "span 70"}
    lost = balance.failed
    if has_spool:
        ledger = tracekit._configure._pipeline._worker.intake.exporter.ledger()
        assert (ledger.put, ledger.sent, ledger.waiting) == (100, 98, 0)
        lost += ledger.rejected
    assert lost == 2
    assert balance.exported + balance.failed == len(spans) == 100
    assert any("larger than its limit" in line or "no room for even one" in line for line in lines(caplog))
    tracekit.configure()


def sized_here(sizes):
    spans = [
        tracekit.span(f"span {at}", attributes={"text": ["x" * 4000] * (size // 4000) + ["x" * (size % 4000)]})
        for at, size in enumerate(sizes)
    ]
    for span in spans:
        span.end()
    return spans


@pytest.mark.parametrize("has_spool", [False, True])
def test_a_collector_that_rejects_everything_is_not_asked_about_each_span(has_spool, tmp_path):
    with Collector(*[refuse(413)] * 10_000) as collector:
        sender = exporter(collector, spool=tmp_path / "spool.db" if has_spool else None)
        spans = sized(*[300] * 1024)
        if has_spool:
            sender.export(spans)
            assert sender.flush(20)
            assert sender.ledger()[:5] == (1024, 0, 1024, 0, 0)
        else:
            with pytest.raises(DeliveryError, match="answered 413"):
                sender.export(spans)
        assert len(collector.headers) < 64
        sender.shutdown()


def test_resource_exhausted_without_retry_information_is_not_asked_about_each_span():
    grpc = pytest.importorskip("grpc")

    def exhausted(_, context):
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "quota")

    with GrpcCollector(*[exhausted] * 10_000) as collector:
        sender = exporter(collector, protocol="grpc")
        with pytest.raises(DeliveryError, match="no room for even one"):
            sender.export(sized(*[300] * 1024))
        assert len(collector.metadata) < 64
        sender.shutdown()


def test_requests_stay_below_4_mib(tmp_path):
    with Collector() as collector:
        collector.answers = itertools.repeat(Small(4 * 2**20))
        for spool in (None, tmp_path / "spool.db"):
            sender = exporter(collector, spool=spool)
            sender.export(sized(*[3000] * 2000))
            assert sender.flush(20)
            sender.shutdown()
        assert len(collector.spans) == 4000
        assert max(request.ByteSize() for request in collector.requests) > 2**20


def test_requests_fit_a_small_spool(tmp_path):
    with Collector() as collector:
        sender = exporter(collector, spool=tmp_path / "spool.db", spool_bytes=1 << 20)
        sender.export(sized(*[300] * 1000))
        assert sender.flush(20)
        assert sender.ledger()[:5] == (1000, 1000, 0, 0, 0)
        sender.shutdown()


def test_the_size_limit_is_learned_from_rejected_requests():
    limit = SizeLimit()
    whole = encoded(sized(*[100] * 10, 5000))
    small, large = limit.split(whole)
    assert (small[1], large[1]) == (10, 1)
    assert limit.max_bytes == requests._LEAST_BYTES
    assert limit.split(Request(large[0], 1, whole.content_type, "")) == []
    assert [count for _, count in limit.split(whole)] == [5, 5], "the large one was rejected alone"
    limit.taken(len(whole.body))
    assert [count for _, count in limit.split(whole)] == [10, 1]


def encoded(spans, content_type="application/x-protobuf", encoding=""):
    body = otlp.encode_spans_as_json(spans) if "json" in content_type else otlp.encode_spans(spans)
    return Request(pack(body, encoding), len(spans), content_type, encoding)


@pytest.mark.parametrize("encoding", ["", "gzip"])
@pytest.mark.parametrize("content_type", ["application/x-protobuf", "application/json"])
def test_the_halves_of_a_request_hold_the_same_spans(content_type, encoding):
    spans = sized(*[100] * 7)
    tracekit.configure(service="other", exporter=(memory := MemoryExporter()))
    tracekit.span("other").end()
    spans += memory.spans
    parts = [encoded(spans, content_type, encoding)]
    while (whole := max(parts, key=lambda part: part.spans)).spans > 1:
        parts.remove(whole)
        parts += [whole._replace(body=body, spans=count) for body, count in SizeLimit().split(whole)]
    assert Counter(parts) == Counter(encoded([span], content_type, encoding) for span in spans)


@pytest.mark.parametrize(
    "request_",
    [
        Request(b"\xff", 2, "application/x-protobuf", ""),
        Request(b"\x0a\x02\x08\x01", 2, "application/x-protobuf", ""),
        Request(b"not gzip", 2, "application/x-protobuf", "gzip"),
        Request(pack(b"x" * 1000, "gzip")[:10], 2, "application/x-protobuf", "gzip"),
        Request(pack(bytes(100 << 20), "gzip"), 2, "application/x-protobuf", "gzip"),
        Request(b"[]", 2, "application/json", ""),
        Request(b'{"resourceSpans": 5}', 2, "application/json", ""),
        Request(b'{"resourceSpans": [{"scopeSpans": [{"spans": {}}]}]}', 2, "application/json", ""),
        Request(b"\xff\xfe", 2, "application/json", ""),
        Request(b"[" * 100_000, 2, "application/json", ""),
    ],
)
def test_an_invalid_body_is_not_split(request_):
    assert SizeLimit().split(request_) == []


# ---- requests that always fail


def test_a_request_that_always_fails_does_not_lose_the_others(monkeypatch):
    monkeypatch.setattr(otlp, "MAX_REQUEST_BYTES", 2000)
    tries = []

    def answer(handler, request):
        if "span 0" in names_in(request):
            tries.append(1)
            if len(tries) > 1:
                sender.hurry()  # it is not tried again
            refuse(503)(handler, request)
        else:
            take(handler, request)

    with Collector() as collector:
        collector.answers = itertools.repeat(answer)
        sender = exporter(collector, timeout_s=60)
        tracekit.configure(exporter=sender, environ={}, export_interval_s=3600)
        balance = Balance()
        sized_here([300] * 40)
        assert tracekit.flush(60)
        assert len(tries) > 1
        assert 0 < balance.failed < 10
        assert balance.exported == len(collector.spans) == 40 - balance.failed
        tracekit.configure()


# ---- a span that cannot be encoded


@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json"])
@pytest.mark.parametrize("bad", [{0}, {5}, {1, 2, 9}, {3, 4}])
def test_a_span_that_cannot_be_encoded_does_not_lose_its_batch(protocol, bad, monkeypatch, caplog):
    for name in ("encode_spans", "encode_spans_as_json"):
        encode = getattr(otlp, name)

        def fails(spans, *pause, encode=encode):
            if any(span.name in {f"job {at}" for at in bad} for span in spans):
                raise RuntimeError("dictionary changed size during iteration")
            return encode(spans, *pause)

        monkeypatch.setattr(otlp, name, fails)
    with Collector() as collector:
        sender = exporter(collector, protocol=protocol)
        sender.export(made(10))
        assert {span.name for span in collector.spans} == {f"job {at}" for at in range(10) if at not in bad}
        assert sender.account().failed == len(bad)
        with pytest.raises(DeliveryError, match="a span cannot be encoded: RuntimeError: dictionary"):
            sender.export([span for at, span in enumerate(made(10)) if at in bad])
        assert sender.probe(made(1)[0]).outcome == ("refused" if 0 in bad else "taken")
        sender.shutdown()
    assert len([line for line in lines(caplog) if "cannot be encoded" in line]) == 1


@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json"])
def test_keys_that_are_members_of_an_enum_are_sent_as_their_text(protocol):
    class Key(enum.StrEnum):
        NAME = "host.name"

    class Kept(str):
        def __str__(self):
            return "not this"

    with Collector() as collector:
        sender = exporter(collector, protocol=protocol)
        tracekit.configure(exporter=sender, resource={Key.NAME: "one", Kept("host.id"): "two"}, environ={})
        balance = Balance()
        with tracekit.span("job", attributes={Key.NAME: Key.NAME}):
            pass
        assert tracekit.flush(20)
        assert (balance.exported, balance.failed) == (1, 0)
        resource = collector.requests[0].resource_spans[0].resource.attributes
        found = {item.key: item.value.string_value for item in resource}
        assert (found["host.name"], found["host.id"]) == ("one", "two")
        assert collector.spans[0].attributes[0].value.string_value == "host.name"
        tracekit.configure(environ={})


def test_the_encoder_accepts_resource_keys_of_a_str_subclass():
    class Key(enum.StrEnum):
        NAME = "host.name"

    memory = MemoryExporter()
    tracekit.configure(exporter=memory, environ={})
    before = _configure.tracer_in_use()
    set_tracer(Tracer(recording=True, resource={Key.NAME: "one"}))
    try:
        tracekit.span("job").end()
    finally:
        set_tracer(before)
    assert b"host.name" in otlp.encode_spans(memory.spans)


def test_the_halves_of_a_json_request_have_its_resource():
    request = encoded(sized(1, 2, 3), "application/json")
    parts = [json.loads(body)["resourceSpans"] for body, _ in SizeLimit().split(request)]
    whole = json.loads(request.body)["resourceSpans"]
    assert [outer["resource"] for part in parts for outer in part] == [whole[0]["resource"]] * 2
    assert [span for part in parts for span in part[0]["scopeSpans"][0]["spans"]] == whole[0]["scopeSpans"][0]["spans"]


def test_an_exporter_without_a_collector_has_a_limit_too():
    assert OTLPExporter(environ={})._max_bytes == 4 * 2**20


def test_a_delivery_that_outlasts_the_shutdown_retries_no_more():
    sender = OTLPExporter("http://127.0.0.1:4318", environ={})
    client = sender._client
    calls = []

    class Closing:
        """A collector that is not there, and whose exporter is shut down meanwhile by another thread."""

        def send(self, *arguments):
            calls.append(arguments)
            client.is_late.set()
            client.begin()
            client._transport = self
            return _answers.Answer("later", "not there")

    client._transport = Closing()
    sender._deliver([Request(b"", 1, "", "")], otlp._Loss())
    assert len(calls) == 1
    assert client.deliver([1, 2], bytes, time.monotonic() + 1, "data points") == 2
    assert len(calls) == 2
