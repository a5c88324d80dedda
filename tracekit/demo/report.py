"""The contents of the demo's file after a run, and their faults."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from ..exporters.sqlite import SQLiteReader
from .client import WARM

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from ..exporters.sqlite import StoredSpan, StoredTrace

SERVICES = ("client", "storefront", "warehouse")
_EVERY = 2**31


class Findings(NamedTuple):
    """The traces of one run, counted.

    ``orphans`` name a parent that is not in their trace, ``whole`` traces have spans of all three services,
    ``labelled`` spans are the warehouse's with the labels that the storefront set. ``typical`` is of
    median duration among the last whole traces, None where there is none.
    """

    traces: int
    whole: int
    spans: int
    orphans: int
    by_service: dict[str, int]
    labelled: int
    typical: StoredTrace | None


def trace_ids(path: str) -> set[str]:
    """Return the ids of all traces in the file *path*."""
    with SQLiteReader(path) as reader:
        return {trace.trace_id for trace in reader.traces(limit=_EVERY)}


def examine(path: str, *, earlier: Collection[str]) -> Findings:
    """Return the contents of the file *path* without the traces *earlier*."""
    with SQLiteReader(path) as reader:
        traces = [trace for trace in reader.traces(limit=_EVERY) if trace.trace_id not in earlier]
        spans = [reader.spans(trace.trace_id) for trace in traces]
    counts = Counter(span.service for trace in spans for span in trace)
    whole = [trace for trace in traces if set(SERVICES) <= set(trace.services)]
    last = sorted(sorted(whole, key=lambda trace: trace.start_ns)[-WARM:], key=lambda trace: trace.duration_ns)
    return Findings(
        traces=len(traces),
        whole=len(whole),
        spans=counts.total(),
        orphans=sum(map(_orphans, spans)),
        by_service={service: counts[service] for service in SERVICES},
        labelled=sum(_is_labelled(span) for trace in spans for span in trace if span.service == "warehouse"),
        typical=last[len(last) // 2] if last else None,
    )


def _orphans(trace: list[StoredSpan]) -> int:
    known = {span.span_id for span in trace}
    return sum(span.parent_id is not None and span.parent_id not in known for span in trace)


def _is_labelled(span: StoredSpan) -> bool:
    return span.labels.keys() >= {"tenant", "cart"}


def figures(findings: Findings, lost: int) -> Iterator[str]:
    """Give *findings*, and how many spans were *lost* on the way to the file, as lines to read."""
    if findings.whole == findings.traces:
        ways = "one for each request, through all three"
    else:
        ways = f"{findings.whole} of them through all three"
    rows = [
        ("traces", findings.traces, ways),
        ("spans", findings.spans, ", ".join(f"{count} {name}" for name, count in findings.by_service.items())),
        ("spans without their parent", findings.orphans, ""),
        ("spans dropped or failed", lost, ""),
        (
            "warehouse spans with labels",
            findings.labelled,
            f"of {findings.by_service['warehouse']}; the storefront set them",
        ),
    ]
    width = max(len(name) for name, _, _ in rows)
    digits = max(len(str(number)) for _, number, _ in rows)
    for name, number, note in rows:
        yield f"{name:<{width}}  {number:>{digits}}  {note}".rstrip()


def wrongs(findings: Findings, *, requests: int, lost: int) -> Iterator[str]:
    """Yield the faults after *requests*, each of which must be one trace."""
    if findings.traces != requests:
        yield f"there are {findings.traces} traces, not one for each of {requests} requests"
    if findings.whole != findings.traces:
        yield f"{findings.traces - findings.whole} traces do not go through all three services"
    if findings.orphans:
        yield f"{findings.orphans} spans have lost their parent"
    if findings.labelled != findings.by_service["warehouse"]:
        yield f"{findings.by_service['warehouse'] - findings.labelled} spans of the warehouse have lost their labels"
    if lost:
        yield f"{lost} spans were dropped, or failed to be written"
