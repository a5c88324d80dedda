"""tracekit's side of each row: configured with an exporter that does nothing, its queue drained between chunks."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import tracekit
from tracekit.exporters.otlp import encode_spans
from tracekit.integrations.wsgi import TraceMiddleware as WsgiMiddleware
from tracekit.wire.w3c import TRACECONTEXT

from . import inputs
from .measure import Subject, runner
from .subjects import WITH_SPAN, asgi_request, reading, writing, wsgi_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

VERSION = f"{tracekit.__version__}, {tracekit.IMPLEMENTATION}"
if getattr(sys.modules.get("tracekit._speedups"), "_IS_TRAINED", False):
    VERSION += " and trained"  # by bench/training.py, as releases are

# Never half full within a chunk and no interval that passes: the exporter's thread works between chunks, as the peers' do.
ROOMY = {"buffer_size": 1 << 18, "export_interval_s": 3600.0}


class NullExporter:
    """Take spans and do nothing with them."""

    def export(self, spans: Sequence[tracekit.Span]) -> None: ...

    def shutdown(self) -> None: ...


def record() -> None:
    """Configure tracekit as most rows want it: every span recorded and handed to the exporter that does nothing."""
    tracekit.configure(service="bench", exporter=NullExporter(), **ROOMY)  # type: ignore[arg-type]


@contextmanager
def unsampled(*, inside_parent: bool = False) -> Iterator[None]:
    """Configure a sampler that keeps no trace."""
    tracekit.configure(service="bench", exporter=NullExporter(), sampler=tracekit.AlwaysOff(), **ROOMY)  # type: ignore[arg-type]
    try:
        if inside_parent:
            with tracekit.span("parent"):
                yield
        else:
            yield
    finally:
        record()


@contextmanager
def unconfigured() -> Iterator[None]:
    """Configure nothing: contexts propagate, nothing is recorded."""
    tracekit.configure()
    try:
        yield
    finally:
        record()


def parent() -> AbstractContextManager[object]:
    """Open the span that the work is a child of."""
    return tracekit.span("parent")


def _nothing() -> None: ...


def _in_span() -> None:
    with tracekit.span("_nothing"):
        pass


def subjects() -> dict[str, Subject]:
    """Return the measured subject of each row, under the row's key."""
    record()
    recorded = tracekit.span("recorded")
    with unsampled():
        not_sampled = tracekit.span("not sampled")
    span, current_span, extract, inject = tracekit.span, tracekit.current_span, tracekit.extract, tracekit.inject
    flush = tracekit.flush

    def export_many() -> None:
        for _ in range(2000):
            with span("work"):
                pass
        flush()

    batch = hold(inputs.BATCH)[: inputs.BATCH]
    record()
    found = {
        "otlp": Subject("encode(spans)", {"encode": encode_spans, "spans": batch}, chunk=1, units=inputs.BATCH),
        "child": Subject(WITH_SPAN, {"span": span}, parent, flush),
        "root": Subject(WITH_SPAN, {"span": span}, after=flush),
        "exported": Subject("export()", {"export": export_many}, parent, chunk=1, units=2000),
        "start_end": Subject("span('work').end()", {"span": span}, parent, flush),
        "traced": Subject("call()", {"call": tracekit.traced(_nothing)}, parent, flush),
        "in_span": Subject("call()", {"call": _in_span}, parent, flush),
        "unsampled_root": Subject(WITH_SPAN, {"span": span}, unsampled, chunk=5000),
        "unsampled_child": Subject(WITH_SPAN, {"span": span}, lambda: unsampled(inside_parent=True), chunk=5000),
        "off": Subject(WITH_SPAN, {"span": span}, unconfigured, chunk=5000),
        "set_attribute": Subject("span.set_attribute('cart.items', 3)", {"span": recorded}),
        "set_attribute_unsampled": Subject("span.set_attribute('cart.items', 3)", {"span": not_sampled}),
        "current_span": Subject("current_span()", {"current_span": current_span}, parent, flush),
        **reading(extract),
        "extract_8_labels": Subject("extract(carrier)", {"extract": extract, "carrier": inputs.EIGHT_LABELS}),
        # Labels that were read are sent as the text that was read; "set_8_labels" has the cost of encoding labels.
        **writing(inject, extract, parent, flush),
        "look_8_labels": Subject(
            "extract(carrier).labels['key-3']", {"extract": extract, "carrier": inputs.EIGHT_LABELS}
        ),
        "set_8_labels": Subject(
            "inject({}, SpanContext(labels=Labels(labels)))",
            {"inject": inject, "SpanContext": tracekit.SpanContext, "Labels": tracekit.Labels, "labels": inputs.EIGHT},
        ),
        "read_parent": Subject("read(carrier)", {"read": TRACECONTEXT.read, "carrier": inputs.PARENT_ONLY}),
        "read_state": Subject("read(carrier)", {"read": TRACECONTEXT.read, "carrier": inputs.PARENT_AND_STATE}),
        "write_parent": Subject("write(context, {})", {"write": TRACECONTEXT.write, "context": recorded.context}),
    }
    middleware = asgi()
    if middleware is not None:
        found["asgi"] = asgi_request(middleware(inputs.application()), flush)
    found["wsgi"] = wsgi_request(WsgiMiddleware(inputs.wsgi_application), flush)
    return found


def asgi() -> Callable[..., Any] | None:
    """Return the ASGI middleware, or None where this version has none."""
    try:
        from tracekit.integrations.asgi import TraceMiddleware
    except ModuleNotFoundError as error:
        if error.name != "tracekit.integrations.asgi":
            raise
        return None
    return TraceMiddleware


def hold(count: int) -> list[tracekit.Span]:
    """Return *count* finished spans, with five attributes and an event each, as the exporter gets them."""
    kept: list[tracekit.Span] = []

    class Keep(NullExporter):
        def export(self, spans: Sequence[tracekit.Span]) -> None:
            kept.extend(spans)

    tracekit.configure(service="bench", exporter=Keep(), **ROOMY)  # type: ignore[arg-type]
    with tracekit.span("parent"):
        for number in range(count):
            with tracekit.span("work", attributes=inputs.attributes_of(number)) as span:
                span.add_event("cache miss")
    del span
    record()
    return kept


def growth(chunk: int) -> dict[str, tuple[Subject, Subject]]:
    """Return pairs of subjects that do the same, *chunk* times, the second where there is much more of something."""
    record()

    def warm_up() -> None:
        # What came before took the memory that lay ready; a span's first page faults are not what grows.
        for _ in range(3):
            for _ in range(chunk):
                with tracekit.span("warm-up"):
                    pass
            tracekit.flush()

    @contextmanager
    def depth(count: int) -> Iterator[None]:
        with ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(tracekit.span("nested"))
            warm_up()
            yield

    @contextmanager
    def live_tasks(count: int) -> Iterator[None]:
        release = asyncio.Event()

        async def live() -> None:
            with tracekit.span("task"):
                await release.wait()

        async def start() -> list[asyncio.Task[None]]:
            tasks = [asyncio.create_task(live()) for _ in range(count)]
            await asyncio.sleep(0)
            return tasks

        async def finish(tasks: list[asyncio.Task[None]]) -> None:
            release.set()
            await asyncio.gather(*tasks)

        with tracekit.span("request"):
            tasks = runner().run(start())
            warm_up()
            yield
            runner().run(finish(tasks))

    @contextmanager
    def earlier_spans(count: int) -> Iterator[None]:
        with tracekit.span("request"):
            for number in range(count):
                with tracekit.span("earlier"):
                    pass
                if number % 10_000 == 0:
                    tracekit.flush()
            warm_up()
            yield

    def pair(
        around: Callable[[int], AbstractContextManager[None]], few: int, many: int, *, in_task: bool = False
    ) -> Any:
        return tuple(
            Subject(
                WITH_SPAN,
                {"span": tracekit.span},
                lambda count=count: around(count),  # type: ignore[misc]
                tracekit.flush,
                chunk=chunk,
                in_task=in_task,
            )
            for count in (few, many)
        )

    return {
        "depth": pair(depth, 1, 1000),
        "tasks": pair(live_tasks, 0, 10_000, in_task=True),
        "spans": pair(earlier_spans, 0, 50_000),
    }
