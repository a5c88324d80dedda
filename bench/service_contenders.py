"""What traces an application of ``bench.service``: each contender's setup."""

from __future__ import annotations

import importlib
import json
import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

# All spans but those of libraries have a name that begins with this; the collector counts it in the requests' octets.
STEP = "step "


class Tracing(NamedTuple):
    """How a contender opens a span, its middleware, and its instrumentation of httpx, gRPC and SQLAlchemy."""

    span: Callable[[str, dict[str, Any]], Any]
    middleware: Callable[[Any], Any]
    instrument: Callable[[], object]


class Contender(NamedTuple):
    """The packages that a contender needs, and its setup: the collector's URL and the share of sampled traces."""

    packages: tuple[str, ...]
    start: Callable[[str, float], Tracing]


def _none(_url: str, _share: float) -> Tracing:
    nothing = nullcontext()
    return Tracing(lambda _name, _attributes: nothing, lambda app: app, lambda: None)


def _configure_tracekit(url: str, share: float) -> None:
    import tracekit
    from tracekit.exporters.otlp import OTLPExporter

    # As the SDK's for all: Ratio(1) would add tracestate to each call and span.
    sampler = tracekit.AlwaysOn() if share == 1 else tracekit.Ratio(share)
    tracekit.configure(service="shop", exporter=OTLPExporter(url, environ={}), sampler=sampler)


def _tracekit(url: str, share: float) -> Tracing:
    import tracekit
    from tracekit.integrations.asgi import TraceMiddleware

    _configure_tracekit(url, share)
    span = tracekit.span
    return Tracing(
        lambda name, attributes: span(name, attributes=attributes),
        TraceMiddleware,
        lambda: tracekit.instrument("httpx", "grpc", "sqlalchemy"),
    )


def _through_opentelemetry(provider: Any) -> Tracing:
    """Return OpenTelemetry's API and instrumentation; without spans of their own for receive() and send()."""
    from opentelemetry import trace
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    if provider is not None:
        trace.set_tracer_provider(provider)
    start = trace.get_tracer("shop").start_as_current_span

    def instrument() -> None:
        from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorClient, GrpcAioInstrumentorServer
        from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
        from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor

        for made in (
            GrpcAioInstrumentorClient,
            GrpcAioInstrumentorServer,
            HTTPXClientInstrumentor,
            SQLAlchemyInstrumentor,
        ):
            made().instrument(skip_dep_check=True)  # the newest SQLAlchemy works, too

    return Tracing(
        lambda name, attributes: start(name, attributes=attributes),
        lambda app: OpenTelemetryMiddleware(app, exclude_spans=["receive", "send"]),
        instrument,
    )


def _bridge(url: str, share: float) -> Tracing:
    from tracekit.bridges import opentelemetry

    _configure_tracekit(url, share)
    opentelemetry.install()
    return _through_opentelemetry(None)


def _provider(share: float) -> Any:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    return TracerProvider() if share == 1 else TracerProvider(sampler=ParentBasedTraceIdRatio(share))


def _sdk(url: str, share: float) -> Tracing:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = _provider(share)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces")))
    return _through_opentelemetry(provider)


def _fastotel(url: str, share: float) -> Tracing:
    from fastotel import OTLPSpanProcessor

    provider = _provider(share)
    provider.add_span_processor(OTLPSpanProcessor(endpoint=f"{url}/v1/traces"))
    return _through_opentelemetry(provider)


def _ddtrace(url: str, share: float) -> Tracing:
    # v0.4 has the names in each span, where the collector counts them.
    os.environ.update(
        DD_TRACE_AGENT_URL=url,
        DD_TRACE_API_VERSION="v0.4",
        DD_TRACE_SAMPLING_RULES=json.dumps([{"sample_rate": share}]),
        DD_TRACE_RATE_LIMIT="-1",
        DD_INSTRUMENTATION_TELEMETRY_ENABLED="false",
        DD_REMOTE_CONFIGURATION_ENABLED="false",
    )
    import ddtrace
    from ddtrace.contrib.asgi import TraceMiddleware
    from ddtrace.trace import tracer

    def span(name: str, attributes: dict[str, Any]) -> Any:
        opened = tracer.trace(name, resource="item")  # else the resource repeats the name, and is counted
        opened.set_tags(attributes)
        return opened

    return Tracing(
        span, TraceMiddleware, lambda: ddtrace.patch(httpx=True, grpc=True, sqlalchemy=True, raise_errors=True)
    )


CONTENDERS: dict[str, Contender] = {
    "none": Contender((), _none),
    "tracekit": Contender((), _tracekit),
    "bridge": Contender(("opentelemetry.instrumentation.asgi",), _bridge),
    "ddtrace": Contender(("ddtrace",), _ddtrace),
    "fastotel": Contender(("fastotel", "opentelemetry.instrumentation.asgi"), _fastotel),
    "opentelemetry": Contender(("opentelemetry.exporter.otlp.proto.http", "opentelemetry.instrumentation.asgi"), _sdk),
}


def is_installed(contender: str) -> bool:
    """Tell whether the packages of *contender* can be imported; in a separate process, as they patch things."""
    try:
        for package in CONTENDERS[contender].packages:
            importlib.import_module(package)
    except ImportError:
        return False
    return True
