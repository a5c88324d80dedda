"""A Collector that rejects a part of each batch: the rest arrives, and the others are counted, reported, not sent again."""

from __future__ import annotations

import contextlib
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tracekit
from tracekit.exporters.otlp import OTLPExporter

from . import fields, jaeger
from .server import ARRIVE_S, EXAMPLES, Failed, Server, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ATTRIBUTE = "card.number"  # in rejecting.yaml
CONFIGS = [EXAMPLES / "file.yaml", Path(__file__).with_name("rejecting.yaml")]
BATCHES, REJECTED = 3, 2  # batches of one exporter, and in each the spans to be rejected
ANSWERED = re.compile(r'"spans": (\d+), "rejected": (\d+)')  # in the Collector's log


def check(server: Server, program: Path, ports: list[int]) -> None:
    """Send batches in each protocol, and compare the spans in the file and in Jaeger, behind *server*, with those sent."""
    wanted: dict[str, dict[str, Any]] = {}
    with jaeger.running(program, ports, server.log) as query:
        for protocol in ("http/protobuf", "http/json", "grpc"):
            for compression in ("none", "gzip"):
                exporter = OTLPExporter(server.url(protocol), protocol=protocol, compression=compression, environ={})
                sent = send(server, exporter)
                wanted.update(sent)
                print(
                    f"  {protocol}, compression {compression}: {BATCHES} batches, {len(sent)} spans taken,"
                    f" {BATCHES * REJECTED} rejected",
                    flush=True,
                )
        jaeger.compare(query, wanted)
    wait_until(lambda: len(server.span_ids) >= len(wanted), ARRIVE_S, "the spans did not arrive")
    if sorted(server.span_ids) != sorted(wanted):
        raise Failed(f"{len(wanted)} spans should be in the Collector's file, each once: {len(server.span_ids)} are")
    print(f"  Jaeger, behind it: {sum(map(len, wanted.values()))} fields of {len(wanted)} spans equal", flush=True)


def send(server: Server, exporter: OTLPExporter) -> dict[str, dict[str, Any]]:
    """Export batches, check what tracekit counts and reports, and return the fields of the spans that are taken."""
    tracekit.configure(service="shop", exporter=exporter, environ={})
    before, answers = tracekit.statistics(), len(answered(server))
    wanted: dict[str, dict[str, Any]] = {}
    with heard() as messages:
        for _ in range(BATCHES):
            tracekit.span("pay", attributes={ATTRIBUTE: "4111"}).end()
            wanted.update(fields.send())
            for _ in range(REJECTED - 1):
                tracekit.span("pay again", attributes={ATTRIBUTE: "4111"}).end()
            if not tracekit.flush(30):
                raise Failed("the spans were not sent")
        tracekit.configure(environ={})  # no thread is left that could send anything again
    after = tracekit.statistics()
    counts = after.exported - before.exported, after.failed - before.failed
    if counts != (len(wanted), BATCHES * REJECTED):
        raise Failed(f"{counts[0]} spans are counted as exported and {counts[1]} as failed")
    size = len(wanted) // BATCHES + REJECTED
    said = f"the collector rejected {REJECTED} of {size} spans: the attribute {ATTRIBUTE} is not allowed"
    if messages != [said]:
        raise Failed(f"tracekit should report once {said!r}: {messages}")
    wait_until(lambda: len(answered(server)) >= answers + BATCHES, ARRIVE_S, "the Collector's log has no answers")
    if (found := answered(server)[answers:]) != [(size, REJECTED)] * BATCHES:
        raise Failed(f"{BATCHES} requests of {size} spans were sent; the Collector answered {found}")
    return wanted


def answered(server: Server) -> list[tuple[int, int]]:
    """The Collector's answers: the spans of each request, and the number that it rejected."""
    return [(int(spans), int(rejected)) for spans, rejected in ANSWERED.findall(server.log.read_text())]


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """Yield the list of what tracekit logs meanwhile."""
    messages: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Handler()
    logger = logging.getLogger("tracekit")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
