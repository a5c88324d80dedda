"""A trace that the Collector passes on to Jaeger, read back through Jaeger's query API."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import tracekit
from tracekit.exporters.otlp import OTLPExporter

from ...exporters.collector import parse_json
from . import fields
from .server import ARRIVE_S, EXAMPLES, START_S, STOP_S, Failed, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .server import Server

WARNINGS = "@jaeger@warnings"  # an attribute that Jaeger adds when it reads: for example, that a parent is missing


def check(server: Server, program: Path, ports: list[int]) -> None:
    """Start Jaeger, send a trace to *server*, and compare every field that Jaeger returns."""
    with running(program, ports, server.log) as query:
        tracekit.configure(service="shop", exporter=OTLPExporter(server.url("http/protobuf"), environ={}), environ={})
        wanted = fields.send()
        if not tracekit.flush(30):
            raise Failed("the spans were not sent")
        compare(query, wanted)
    print(
        f"Jaeger, behind the Collector: {sum(map(len, wanted.values()))} fields of {len(wanted)} spans equal",
        flush=True,
    )


@contextlib.contextmanager
def running(program: Path, ports: list[int], log: Path) -> Iterator[str]:
    """Run Jaeger, which listens on *ports* and writes to *log*; yield the host and port of its query API."""
    query, query_grpc, otlp = (f"127.0.0.1:{port}" for port in ports)
    environment = {**os.environ, "JAEGER_QUERY": query, "JAEGER_QUERY_GRPC": query_grpc, "JAEGER_OTLP": otlp}
    with open(log, "ab") as output:
        command = [program, "--config", EXAMPLES / "jaeger.yaml"]
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        wait_until(lambda: ask(query, "services") is not None, START_S, "Jaeger did not start")
        yield query
    finally:
        process.terminate()
        process.wait(STOP_S)


def compare(query: str, wanted: dict[str, dict[str, Any]]) -> None:
    """Raise ``Failed`` unless the trace of the wanted spans has them alone, with all fields as they were sent."""
    found: dict[str, dict[str, Any]] = {}

    def are_there() -> bool:
        found.update(read(query, wanted))
        return found.keys() >= wanted.keys()

    wait_until(are_there, ARRIVE_S, "the spans were not found")
    if more := found.keys() - wanted.keys():
        raise Failed(f"Jaeger has {len(more)} more spans: {[found[span_id]['name'] for span_id in more]}")
    fields.compare(found, {span_id: as_jaeger(span) for span_id, span in wanted.items()})


def ask(query: str, path: str) -> Any:
    """The answer of Jaeger's query API, or None while there is none."""
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{query}/api/v3/{path}", timeout=10) as response:
            return json.load(response)
    except (urllib.error.URLError, OSError):
        return None


def read(query: str, wanted: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The fields of the wanted spans' trace by span id, without Jaeger's warnings."""
    trace_id = next(iter(wanted.values()))["trace_id"]
    answer = ask(query, f"traces/{trace_id}")
    if answer is None:
        return {}
    text = json.dumps(answer["result"], separators=(",", ":"))
    spans = {}
    for group in parse_json(text.encode()).resource_spans:
        for scope in group.scope_spans:
            for span in scope.spans:
                spans[span.span_id.hex()] = found = fields.fields(span)
                found["attributes"].pop(WARNINGS, None)
    return spans


def as_jaeger(span: dict[str, Any]) -> dict[str, Any]:
    """*span* as Jaeger returns it: at least a nanosecond long, and with its events sorted by name."""
    begin, end = span["times"]
    return {**span, "times": (begin, max(end, begin + 1)), "events": sorted(span["events"], key=lambda event: event[0])}
