"""Head sampling by tracekit, then tail_sampling and spanmetrics in the Collector: adjusted counts agree at each step."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import tracekit
from tracekit import SpanContext, TraceState, adjusted_count
from tracekit.exporters.otlp import OTLPExporter

from .server import ARRIVE_S, Failed, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from .server import Server

TRACES = 8000
ERRORS = 20  # one trace in so many has an error
HEAD, TAIL = 0.25, 0.125  # the shares of tracekit and of tail_sampling, in examples/collector/sampling.yaml
SIGMAS = 6  # random ids: a correct estimate is further away once in 500 million runs
NAME = "request"


class Kept(NamedTuple):
    """The local roots that arrived: their traces, and the sum of their adjusted counts."""

    traces: set[str]
    count: float


def check(server: Server) -> None:
    """Compare the traces that are kept, their thresholds and the Collector's counts with those that were made."""
    exporter = OTLPExporter(server.url("http/protobuf"), environ={})
    sampler = tracekit.Ratio(HEAD)
    tracekit.configure(service="shop", exporter=exporter, sampler=sampler, environ={}, buffer_size=4 * TRACES)
    sent: dict[str, bool] = {}  # the traces that tracekit has kept, and whether they have an error
    counted = 0.0
    for number in range(TRACES):
        with tracekit.span(NAME, kind="server") as root, tracekit.span("query") as child:
            if number % ERRORS == 0:
                child.set_status("error", "no such table")
        if root.context.sampled:
            sent[root.context.trace_id] = number % ERRORS == 0
            counted += adjusted_count(root) or 0
    if not tracekit.flush(30):
        raise Failed("the spans were not sent")
    expect_calls(server.metrics_all, counted, "before tail_sampling")
    expect_estimate(counted, TRACES, HEAD, "sampled by tracekit")

    # A trace's randomness is the last 56 bits of its id, and a share p keeps the values from 1 - p on.
    wanted = {
        trace_id for trace_id, has_error in sent.items() if has_error or int(trace_id[-14:], 16) >= 2**56 * (1 - TAIL)
    }
    wait_until(lambda: len(kept(server).traces) >= len(wanted), ARRIVE_S, f"{len(wanted)} traces did not arrive")
    found = kept(server)
    if found.traces != wanted:
        raise Failed(f"tail_sampling kept {len(found.traces)} traces, {len(wanted)} by the same rule of tracekit's")
    expect_calls(server.metrics_kept, found.count, "behind tail_sampling")
    expect_estimate(found.count, TRACES, TAIL, "kept by tail_sampling")
    print(f"  {TRACES} traces made, {len(sent)} sent, {len(found.traces)} kept by tail_sampling", flush=True)


def kept(server: Server) -> Kept:
    traces, count = set(), 0.0
    for resource in server.resources:
        for scope in resource.scope_spans:
            for span in scope.spans:
                if span.name == NAME:
                    state = TraceState.parse(span.trace_state)
                    context = SpanContext(span.trace_id.hex(), span.span_id.hex(), span.flags & 0xFF, state=state)
                    traces.add(context.trace_id)
                    count += adjusted_count(context) or 0
    return Kept(traces, count)


def expect_calls(file: Path, count: float, where: str) -> None:
    """Wait until spanmetrics has counted *count* spans: exactly, because the shares are 1/4 and 1/8."""
    wait_until(lambda: calls(file) >= count, ARRIVE_S, f"spanmetrics {where} did not count {count:.0f} spans")
    if (found := calls(file)) != count:
        raise Failed(f"spanmetrics {where} counted {found} spans, their adjusted counts are {count:.0f}")
    print(f"  spanmetrics {where}: {found} spans, as tracekit.adjusted_count()", flush=True)


def calls(file: Path) -> int:
    """The last count of the root spans in *file*: counts are cumulative, one line an interval."""
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    for line in reversed(lines):
        found = 0
        for resource in json.loads(line).get("resourceMetrics", ()):  # a line may be empty
            for scope in resource["scopeMetrics"]:
                for metric in scope["metrics"]:
                    if metric["name"] == "traces.span.metrics.calls":
                        found += sum(int(point["asInt"]) for point in metric["sum"]["dataPoints"] if is_root(point))
        if found:
            return found
    return 0


def is_root(point: dict[str, Any]) -> bool:
    return {"key": "span.name", "value": {"stringValue": NAME}} in point["attributes"]


def expect_estimate(count: float, made: int, share: float, what: str) -> None:
    """Check that *count* estimates *made* as well as a sample of *share* can."""
    deviation = math.sqrt(made * (1 / share - 1))
    if abs(count - made) > SIGMAS * deviation:
        raise Failed(f"{what}: {count:.0f} estimated, {made} made, standard deviation {deviation:.0f}")
    print(f"  {what}: {count:.0f} traces estimated, {made} made, standard deviation {deviation:.0f}", flush=True)
