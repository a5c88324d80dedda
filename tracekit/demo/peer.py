"""The demo's three processes with OpenTelemetry in place of tracekit: the same modules, with other functions in tracekit's names.

``python -m tracekit.demo.peer client FILE N`` starts the two services, sends N requests, and writes a line of JSON for
each span of all three processes to FILE. OpenTelemetry is used as its documentation shows: its SDK, its instrumentation
of ASGI and httpx, ``start_as_current_span`` as a decorator, and its baggage.
"""

from __future__ import annotations

import contextlib
import json
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import httpx
from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.httpx import AsyncOpenTelemetryTransport
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

import tracekit
import tracekit.integrations.asgi
import tracekit.integrations.httpx

from . import child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Span

_tracer = trace.get_tracer("tracekit.demo")


class _Lines(SpanExporter):
    """Writes each span as a line of JSON, which the processes may append to one file at the same time."""

    def __init__(self, service: str, path: str) -> None:
        self._service = service
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with open(self._path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(self._fields(span)) + "\n" for span in spans)
        return SpanExportResult.SUCCESS

    def _fields(self, span: ReadableSpan) -> dict[str, Any]:
        assert span.context is not None
        return {
            "trace_id": f"{span.context.trace_id:032x}",
            "span_id": f"{span.context.span_id:016x}",
            "parent_id": None if span.parent is None else f"{span.parent.span_id:016x}",
            "name": span.name,
            "service": self._service,
            "start_ns": span.start_time,
            "end_ns": span.end_time,
        }


@contextlib.contextmanager
def _recording(service: str, path: str) -> Iterator[None]:
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(SimpleSpanProcessor(_Lines(service, path)))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()
        print(child.STATISTICS + "{}", flush=True)  # noqa: T201


class _Named:
    """The methods of a tracekit span that the demo calls."""

    def __init__(self, span: Span) -> None:
        self.set_attribute, self.update_name = span.set_attribute, span.update_name

    def set_status(self, code: str, message: str) -> None:
        trace.get_current_span().set_status(trace.StatusCode.ERROR, message)


@contextlib.contextmanager
def _span(name: str, **options: Any) -> Iterator[_Named]:
    options.pop("parent", None)  # ROOT, where no span is current
    with _tracer.start_as_current_span(name, **options) as span:
        yield _Named(span)


@contextlib.contextmanager
def _use_labels(**labels: str) -> Iterator[None]:
    here = context.get_current()
    for key, value in labels.items():
        here = baggage.set_baggage(key, value, here)
    token = context.attach(here)
    try:
        yield
    finally:
        context.detach(token)


def _traced(function: Callable[..., Any]) -> Callable[..., Any]:
    return _tracer.start_as_current_span(function.__name__)(function)


def _replace() -> None:
    """Give the demo's modules, which are imported after this, OpenTelemetry's functions in place of tracekit's."""
    vars(tracekit).update(
        span=_span,
        traced=_traced,
        use_labels=_use_labels,
        current_labels=baggage.get_all,
        current_span=lambda: _Named(trace.get_current_span()),
    )
    # Its spans for each ASGI message are left out: they are noise here.
    vars(tracekit.integrations.asgi).update(
        TraceMiddleware=partial(OpenTelemetryMiddleware, exclude_spans=["receive", "send"])
    )
    vars(tracekit.integrations.httpx).update(
        AsyncTraceTransport=lambda: AsyncOpenTelemetryTransport(httpx.AsyncHTTPTransport())
    )
    child.recording = _recording


async def _play(path: str, requests: int) -> None:
    from .client import check_out
    from .services import running

    async with (
        running("peer", "warehouse", path) as warehouse,
        running("peer", "storefront", path, warehouse.url) as storefront,
    ):
        problems = await check_out(storefront.url, requests, on_answer=lambda: None)
    if problems:
        raise SystemExit("\n".join(problems))


def main(arguments: list[str]) -> None:
    """Run one process of the demo: ``client FILE N``, ``storefront FILE URL`` or ``warehouse FILE``."""
    role, path, *rest = arguments
    _replace()
    if role == "client":
        with _recording("client", path):
            anyio.run(_play, path, int(rest[0]))
    elif role == "storefront":
        from . import storefront

        storefront.main([path, *rest])
    else:
        from . import warehouse

        warehouse.main([path])


if __name__ == "__main__":
    main(sys.argv[1:])
