"""Print OpenTelemetry's API on tracekit beside its SDK with a BatchSpanProcessor, in one run: ``python -m bench.bridge``.

Both contenders run the same statements, on tracers of their own: the API is the same. The bridge is installed around each
of tracekit's chunks and taken out again, untimed. ``measure`` describes the rounds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry import baggage, context, propagate, trace

import tracekit
from tracekit.bridges import opentelemetry as bridge

from . import contender_opentelemetry, contender_tracekit, inputs, report
from .compare import FULL, QUICK, SMOKE
from .measure import Subject, best, interleave
from .rows import OTEL, OURS, Row
from .subjects import WITH_SPAN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .measure import Budget

API = "OpenTelemetry's API on tracekit"
INSTALL_AT_MOST_NS = 5e6

ROWS = (
    Row("child", "`start_as_current_span`, child", 25),
    Row("root", "`start_as_current_span`, root"),
    Row("rich", "the same with a kind and 3 attributes, 2 more set inside"),
    Row("asked", "`start_as_current_span`, and `get_current_span` inside"),
    Row("start_end", "`start_span` + `end`", 28),
    Row("use_span", "`start_span` + `use_span(end_on_exit=True)`", 15),
    Row("set_attribute", "`set_attribute`", 10),
    Row("get_current_span", "`get_current_span`", 1),
    Row("span_context", "`get_span_context().trace_id`"),
    Row("is_recording", "`is_recording`"),
    Row("attach", "`attach` + `detach` of a span", 1),
    Row("attach_key", "`attach` + `detach` of a span and another key"),
    Row("baggage", "`set_baggage` + `attach` + `detach`"),
    Row("inject", "`inject`, the current span", 8),
    Row("extract", "`extract` from a dict, traceparent", 6),
    Row("extract_getter", "`extract` with a getter for lists of octets, as ASGI's, of 10 headers"),
    Row("extract_labels", "`extract` from a dict, traceparent and 3 labels"),
    Row("native", "`with tracekit.span()`: with the bridge, beside without it", 0.98),
)

NATIVE = "native"
_INSTALL = """
from time import process_time_ns as clock
import opentelemetry.baggage, opentelemetry.propagate, opentelemetry.trace, tracekit
begin = clock()
from tracekit.bridges import opentelemetry
opentelemetry.install()
print(clock() - begin)
"""


class Octets:
    """A getter as those of ASGI instrumentations: a list of pairs of octets."""

    def get(self, carrier: list[tuple[bytes, bytes]], key: str) -> list[str] | None:
        """Return the values of *key*."""
        name = key.lower()
        found = [value.decode("utf8") for header, value in carrier if header.decode("latin1").lower() == name]
        return found or None

    def keys(self, carrier: list[tuple[bytes, bytes]]) -> list[str]:
        """Return all names."""
        return [name.decode("latin1") for name, _ in carrier]


def subjects(
    tracer: trace.Tracer, installed: Callable[[], AbstractContextManager[object]], flush: Callable[[], object]
) -> dict[str, Subject]:
    """Return the measured subject of each row, by *tracer*, whose implementation is in place inside *installed*."""

    @contextmanager
    def inside() -> Iterator[None]:
        with installed(), tracer.start_as_current_span("parent"):
            yield

    def work(statement: str, around: Any = inside, after: Callable[[], object] = lambda: None, **names: Any) -> Subject:
        return Subject(statement, names, around, after)

    span, start = tracer.start_as_current_span, tracer.start_span
    recorded = start("recorded")
    with_span = trace.set_span_in_context(recorded, context.Context())
    with_key = context.set_value("key", "value", with_span)
    both = {**inputs.PARENT_ONLY, **inputs.LABELS_ONLY}
    octets = [(name.encode(), value.encode()) for name, value in inputs.REQUEST.items()]
    return {
        "child": work(WITH_SPAN, after=flush, span=span),
        "root": work(WITH_SPAN, installed, flush, span=span),
        "rich": work(
            "with span('work', kind=kind, attributes=given) as it:\n"
            "    it.set_attribute('http.route', '/cart')\n    it.set_attribute('http.status_code', 200)",
            after=flush,
            span=span,
            kind=trace.SpanKind.CLIENT,
            given={"http.method": "GET", "http.url": "http://shop/cart", "net.peer.port": 80},
        ),
        "asked": work("with span('work'):\n    trace.get_current_span()", after=flush, span=span, trace=trace),
        "start_end": work("start('work').end()", after=flush, start=start),
        "use_span": work(
            "with trace.use_span(start('work'), end_on_exit=True):\n    pass", after=flush, start=start, trace=trace
        ),
        "set_attribute": work("span.set_attribute('cart.items', 3)", span=recorded),
        "get_current_span": work("trace.get_current_span()", trace=trace),
        "span_context": work("span.get_span_context().trace_id", span=recorded),
        "is_recording": work("span.is_recording()", span=recorded),
        "attach": work("api.detach(api.attach(given))", given=with_span, api=context),
        "attach_key": work("api.detach(api.attach(given))", given=with_key, api=context),
        "baggage": work("api.detach(api.attach(baggage.set_baggage('tenant', 'a')))", baggage=baggage, api=context),
        "inject": work("inject({})", inject=propagate.inject),
        "extract": work("extract(carrier)", installed, extract=propagate.extract, carrier=inputs.PARENT_ONLY),
        "extract_getter": work(
            "extract(carrier, getter=getter)",
            installed,
            extract=propagate.extract,
            carrier=octets,
            getter=Octets(),
        ),
        "extract_labels": work("extract(carrier)", installed, extract=propagate.extract, carrier=both),
    }


@contextmanager
def installed() -> Iterator[None]:
    """Install the bridge, and take it out again."""
    bridge.install()
    try:
        yield
    finally:
        bridge.uninstall()


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.bridge", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a rough figure in a few seconds")
    parser.add_argument("--smoke", action="store_true", help="every row once: whether it runs, not how fast")
    parser.add_argument("--only", metavar="ROWS", help="these rows alone, by their keys, with commas between")
    parser.add_argument("--check", action="store_true", help="exit with status 1 unless every target was met")
    parser.add_argument("--json", metavar="FILE", help=argparse.SUPPRESS)  # this is one of several processes
    options = parser.parse_args(arguments)
    budget = SMOKE if options.smoke else QUICK if options.quick else FULL
    wanted = options.only.split(",") if options.only else [*[row.key for row in ROWS], "install"]
    if options.json:
        Path(options.json).write_text(json.dumps(_measure(wanted, budget)))
        return 0
    figures = _best_of(wanted, sys.argv[1:] if arguments is None else arguments, budget)
    text, missed = _report(figures)
    print(text)
    return 1 if options.check and missed else 0


def _best_of(wanted: list[str], arguments: list[str], budget: Budget) -> dict[str, dict[str, float]]:
    if budget.processes == 1:
        return _measure(wanted, budget)
    documents: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "figures.json"
        command = [sys.executable, "-m", "bench.bridge", *arguments, f"--json={file}"]
        for _ in range(budget.processes):
            subprocess.run(command, check=True, cwd=Path(__file__).parents[1])
            documents.append(json.loads(file.read_text()))
    return {
        key: {name: min(document[key][name] for document in documents) for name in figures}
        for key, figures in documents[0].items()
    }


def _measure(wanted: list[str], budget: Budget) -> dict[str, dict[str, float]]:
    contender_tracekit.record()
    ours = subjects(bridge.TracerProvider().get_tracer("bench"), installed, tracekit.flush)
    provider, flush = contender_opentelemetry.provider()
    sdk = subjects(provider.get_tracer("bench"), nullcontext, flush)
    figures: dict[str, dict[str, float]] = {}
    for row in ROWS:
        if row.key not in wanted:
            continue
        if row.key == NATIVE:
            pair = {
                OURS: Subject(WITH_SPAN, {"span": tracekit.span}, _native, tracekit.flush),
                OTEL: Subject(WITH_SPAN, {"span": tracekit.span}, contender_tracekit.parent, tracekit.flush),
            }
        else:
            pair = {OURS: ours[row.key], OTEL: sdk[row.key]}
        figures[row.key] = best(interleave(pair, budget))
    if "install" in wanted:
        figures["install"] = {OURS: min(_install_ns() for _ in range(budget.repeats + 1))}
    return figures


def _install_ns() -> float:
    """Return how long the import of the bridge and ``install()`` took in a fresh interpreter."""
    command = [sys.executable, "-c", _INSTALL]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    return float(done.stdout)


@contextmanager
def _native() -> Iterator[None]:
    with installed(), tracekit.span("parent"):
        yield


def _report(figures: Mapping[str, Mapping[str, float]]) -> tuple[str, bool]:
    cells = []
    missed = False
    for row in ROWS:
        if row.key not in figures:
            continue
        line = report.compared(row, figures[row.key])
        missed |= line.met is False
        ratio, target = f"{line.ratio:.1f}x", "-" if row.at_least is None else f"{row.at_least:g}x"
        took = [report.amount(line.figures[name], "ns") for name in (OURS, OTEL)]
        cells.append([row.work, *took, ratio, target, report.verdict(line)])
    parts = [f"{contender_tracekit.VERSION} under OpenTelemetry {contender_opentelemetry.VERSION}; {report.machine()}."]
    parts.append(report.table(["work", API, "SDK", "ratio", "target", "met"], cells))
    if "install" in figures:
        added = figures["install"][OURS]
        met = added <= INSTALL_AT_MOST_NS
        missed |= not met
        verdict = "yes" if met else "**no**"
        parts.append(
            f"`install()`, import of the bridge included: {report.amount(added, 'ns')}, "
            f"at most {report.amount(INSTALL_AT_MOST_NS, 'ns')}: {verdict}."
        )
    return "\n\n".join(parts), missed


if __name__ == "__main__":
    sys.exit(main())
