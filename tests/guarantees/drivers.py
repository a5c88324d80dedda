"""Three tracers behind one interface, each used as its own documentation says, with its own instrumentation turned on.

Where a peer has nothing for a hand-off, its driver does what its users do: it uses anyio or the standard library.
A tracer is imported with its driver's first use, so that none runs in the company of another.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import importlib.metadata
import inspect
import os
import queue
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from .scenario import Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["DRIVERS", "Datadog", "Driver", "OpenTelemetry", "OpenTelemetryOnTracekit", "Tracekit"]


class Driver:
    """What a scenario calls ``t``. What is written here is as it is without a tracer, the rest each tracer's own.

    Spans
        span(name, *, links=(), root=False)  ``with`` it: current inside; also __enter__ and __exit__ by hand, anywhere
        mark(name)                      a span, begun and ended at once: shows what is current here
        start(name, parent=None)        begun, child of what is current here or of a context, not made current; end(span) ends it
        use(span), use_context(context) ``with`` it: current inside, not ended; a context is what context(span) or extract() gave
        add_link(span, to), set_attribute(span, key, value), set_status(span, "ok" | "error"), record_exception(span, error)
        traced(name)                    decorator, for functions, coroutines, generators and async generators
        stream(generator, name)         the same for a generator or async generator that exists already
        labels(key=value)               ``with`` it: propagated with the context; current_labels() -> dict
        context(span)                   what travels, and what a link points to
        current()                       what is current here, for use_context() and start()
        ids(span)                       (trace id, span id), as text
    Hand-offs
        aio                             create_task_group, to_thread, from_thread, to_process, to_interpreter,
                                        create_memory_object_stream, Queue, run_in_executor, run_in_context, spawn_detached
        threads                         Thread, Timer, ThreadPoolExecutor, Queue, wrap_executor
        processes                       ProcessPoolExecutor, environ
        wrap(function), capture()       a captured context's ``run(function, *args)``
        detached()                      ``with`` it: what is begun or spawned inside is a root, linked to what was current
        receive(source, name, root=False)  await it: (item, span) from a memory stream or an asyncio queue, ``with span:``
        take(queue, name, root=False)   the same from a ``threads.Queue``
        inject(carrier), extract(carrier), new_context(span) -> contextvars.Context, install_hooks(), remove_hooks()
        asgi(app)                       the tracer's middleware around *app*
    What came of it
        backend                         "asyncio" or "trio"
        nodes()                         what has ended so far (``Node``); node(name) the first of that name
        check(truth, word)              what a tree cannot say: where it is not true, the verdict is *word*
        kept                            a list: what is put there outlives the scenario
        pytest_plugins                  what of the tracer pytest loads by itself where the tracer is installed
    """

    name = ""
    aio: Any
    threads: Any
    processes: Any
    pytest_plugins: tuple[str, ...] = ()

    def begin(self, backend: str) -> None:
        """Start a recording."""
        self.backend = backend
        self.unmet: list[str] = []
        self.kept: list[Any] = []

    def finish(self) -> None:
        """End it."""

    def node(self, name: str) -> Node:
        return next((node for node in self.nodes() if node.name == name), Node(f"no {name}"))

    def check(self, truth: object, word: str) -> None:
        if not truth:
            self.unmet.append(word)

    def mark(self, name: str) -> None:
        self.end(self.start(name))

    def traced(self, name: str) -> Callable[[Any], Any]:
        return functools.partial(_in_span, self, name)

    def stream(self, generator: Any, name: str) -> Any:
        return _in_span(self, name, _again(generator))()

    def receive(self, source: Any, name: str, root: bool = False) -> Any:
        return self._receive(source, name)

    async def _receive(self, source: Any, name: str) -> tuple[Any, Any]:
        item = await (source.receive() if hasattr(source, "receive") else source.get())
        return item, self.span(name)

    def take(self, source: queue.Queue[Any], name: str, root: bool = False) -> tuple[Any, Any]:
        return source.get(timeout=20), self.span(name)

    def capture(self) -> Any:
        return SimpleNamespace(run=self.wrap(lambda function, *args: function(*args)))

    def wrap(self, function: Any) -> Any:
        """Take the current context along by hand, as the peers' documentation of threads does."""
        context = self.current()

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.use_context(context):
                return function(*args, **kwargs)

        @functools.wraps(function)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            with self.use_context(context):
                return await function(*args, **kwargs)

        return call_async if inspect.iscoroutinefunction(function) else call

    def install_hooks(self) -> None:
        """Turn on what patches the standard library; the peers' is on already."""

    def remove_hooks(self) -> None:
        """Turn it off again."""


def _standard_aio(driver: Driver) -> SimpleNamespace:
    """What stands in for ``tracekit.aio``: anyio and asyncio, and the spelling that comes to mind where they have none."""
    import anyio
    import anyio.from_thread
    import anyio.to_interpreter
    import anyio.to_process
    import anyio.to_thread

    def run_in_executor(executor: Any, function: Any, *args: Any) -> Any:
        return asyncio.get_running_loop().run_in_executor(executor, function, *args)

    def run_in_context(context: contextvars.Context, function: Any, *args: Any) -> Any:
        return context.run(function, *args)

    def spawn_detached(group: Any, function: Any, *args: Any) -> Any:
        with driver.detached():
            return (
                group.start_soon(function, *args)
                if hasattr(group, "start_soon")
                else group.create_task(function(*args))
            )

    return SimpleNamespace(
        create_task_group=anyio.create_task_group,
        create_memory_object_stream=anyio.create_memory_object_stream,
        to_thread=anyio.to_thread,
        from_thread=anyio.from_thread,
        to_process=anyio.to_process,
        to_interpreter=anyio.to_interpreter,
        Queue=asyncio.Queue,
        run_in_executor=run_in_executor,
        run_in_context=run_in_context,
        spawn_detached=spawn_detached,
    )


_STANDARD_THREADS = SimpleNamespace(
    Thread=threading.Thread,
    Timer=threading.Timer,
    ThreadPoolExecutor=concurrent.futures.ThreadPoolExecutor,
    Queue=queue.Queue,
    wrap_executor=lambda executor: executor,
)
_STANDARD_PROCESSES = SimpleNamespace(
    ProcessPoolExecutor=concurrent.futures.ProcessPoolExecutor,
    environ=lambda: dict(os.environ),
)


def _again(generator: Any) -> Any:
    """Return a generator function whose body is that of *generator*."""
    if hasattr(generator, "__anext__"):

        async def asynchronous() -> Any:
            async with contextlib.aclosing(generator):
                async for item in generator:
                    yield item

        return asynchronous

    def synchronous() -> Any:
        return (yield from generator)

    return synchronous


def _in_span(driver: Driver, name: str, function: Any) -> Any:
    """Put the body of *function* into ``with span(name)``, as one does who has no decorator for it."""
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def traced(*args: Any, **kwargs: Any) -> Any:
            with driver.span(name):
                async with contextlib.aclosing(function(*args, **kwargs)) as generator:
                    async for item in generator:
                        yield item

    elif inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def traced(*args: Any, **kwargs: Any) -> Any:
            with driver.span(name):
                return (yield from function(*args, **kwargs))

    elif inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def traced(*args: Any, **kwargs: Any) -> Any:
            with driver.span(name):
                return await function(*args, **kwargs)

    else:

        @functools.wraps(function)
        def traced(*args: Any, **kwargs: Any) -> Any:
            with driver.span(name):
                return function(*args, **kwargs)

    return traced


def _ordered(nodes: list[tuple[Any, Any, Node, list[Any]]]) -> list[Node]:
    """Point each node at its parent and links by their ids: (own, parent's or None, node, those of links)."""
    places = {own: place for place, (own, *_) in enumerate(nodes)}
    names = {own: node.name for own, _, node, _ in nodes}
    return [
        node._replace(
            parent=node.parent if parent is None else places.get(parent, node.parent or "?"),
            links=tuple(sorted(names.get(link, "?") for link in links)),
        )
        for _, parent, node, links in nodes
    ]


def _called(name: str, kind: object) -> str:
    """Return what a span is called in a tree: each tracer names server and client spans by a rule of its own."""
    return str(kind) if kind in {"server", "client"} else name


class _Recorded(Driver):
    """The spans are those that tracekit's exporter gets."""

    def begin(self, backend: str) -> None:
        super().begin(backend)
        import tracekit
        from tracekit import testing

        self.tracekit = tracekit
        self.exporter = testing.MemoryExporter()
        tracekit.configure(service="guarantees", exporter=self.exporter)

    def finish(self) -> None:
        self.tracekit.configure()

    def nodes(self) -> list[Node]:
        found = []
        for span in self.exporter.spans:
            node = Node(
                _called(span.name, span.kind),
                span.status.code.replace("unset", ""),
                "remote" if span.parent and span.parent.is_remote else None,
                exceptions=tuple(
                    str(event.attributes["exception.type"]) for event in span.events if event.name == "exception"
                ),
                attributes=tuple(span.attributes.items()),
            )
            found.append(
                (span.context.id, span.parent and span.parent.id, node, [link.context.id for link in span.links])
            )
        return _ordered(found)


class Tracekit(_Recorded):
    name = "tracekit"
    pytest_plugins = ("tracekit.pytest_plugin",)

    def version(self) -> str:
        import tracekit

        return f"{tracekit.__version__} ({tracekit.IMPLEMENTATION})"

    @property
    def aio(self) -> Any:  # type: ignore[override]
        from tracekit import aio

        return aio

    @property
    def threads(self) -> Any:  # type: ignore[override]
        from tracekit import threads

        return threads

    @property
    def processes(self) -> Any:  # type: ignore[override]
        from tracekit import processes

        return processes

    def span(self, name: str, *, links: Any = (), root: bool = False) -> Any:
        if root:
            return self.tracekit.span(name, links=links, parent=self.tracekit.ROOT)
        return self.tracekit.span(name, links=links)

    def start(self, name: str, parent: Any = None) -> Any:
        return self.tracekit.span(name, parent=parent)

    def end(self, span: Any) -> None:
        span.end()

    def use(self, span: Any) -> Any:
        return self.tracekit.use_span(span)

    def use_context(self, context: Any) -> Any:
        return self.tracekit.use_context(context)

    def add_link(self, span: Any, to: Any) -> None:
        span.add_link(to)

    def set_attribute(self, span: Any, key: str, value: Any) -> None:
        span.set_attribute(key, value)

    def set_status(self, span: Any, code: str) -> None:
        span.set_status(code)

    def record_exception(self, span: Any, error: BaseException) -> None:
        span.record_exception(error)

    def traced(self, name: str) -> Callable[[Any], Any]:
        return self.tracekit.traced(name)

    def stream(self, generator: Any, name: str) -> Any:
        return self.tracekit.stream(generator, name)

    def labels(self, **labels: str) -> Any:
        return self.tracekit.use_labels(**labels)

    def current_labels(self) -> dict[str, Any]:
        return dict(self.tracekit.current_labels())

    def context(self, span: Any) -> Any:
        return span.context

    def current(self) -> Any:
        return self.tracekit.current_context()

    def ids(self, span: Any) -> tuple[str, str]:
        return span.context.trace_id, span.context.span_id

    def wrap(self, function: Any) -> Any:
        return self.tracekit.wrap(function)

    def capture(self) -> Any:
        return self.tracekit.capture()

    def detached(self) -> Any:
        return self.tracekit.detached()

    async def _receive(self, source: Any, name: str, root: bool = False) -> tuple[Any, Any]:
        delivery = await (source.receive_delivery() if hasattr(source, "receive") else source.get_delivery())
        return delivery.item, delivery.span(name, root=root)

    def receive(self, source: Any, name: str, root: bool = False) -> Any:
        return self._receive(source, name, root)

    def take(self, source: Any, name: str, root: bool = False) -> tuple[Any, Any]:
        delivery = source.get_delivery(timeout=20)
        return delivery.item, delivery.span(name, root=root)

    def new_context(self, span: Any) -> contextvars.Context:
        return self.tracekit.new_context(span)

    def inject(self, carrier: dict[str, str]) -> dict[str, str]:
        return self.tracekit.inject(carrier)

    def extract(self, carrier: dict[str, str]) -> Any:
        return self.tracekit.extract(carrier)

    def install_hooks(self) -> None:
        self.tracekit.install_hooks()

    def remove_hooks(self) -> None:
        self.tracekit.remove_hooks()

    def asgi(self, app: Any) -> Any:
        from tracekit.integrations.asgi import TraceMiddleware

        return TraceMiddleware(app)


class OpenTelemetry(Driver):
    """The SDK with a ``SimpleSpanProcessor``, and its instrumentation of threads and asyncio where that is installed."""

    name = "OpenTelemetry"
    _exporter: Any = None

    def __init__(self) -> None:
        from opentelemetry import trace

        self.aio, self.threads, self.processes = _standard_aio(self), _STANDARD_THREADS, _STANDARD_PROCESSES
        self._prepare()
        self._tracer = trace.get_tracer("guarantees")
        self._instrumentation = []
        for module, kind in (("threading", "ThreadingInstrumentor"), ("asyncio", "AsyncioInstrumentor")):
            try:
                package = importlib.import_module(f"opentelemetry.instrumentation.{module}")
            except ModuleNotFoundError:
                continue
            getattr(package, kind)().instrument()
            self._instrumentation.append(module)

    def _prepare(self) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        trace.set_tracer_provider(provider)

    def begin(self, backend: str) -> None:
        super().begin(backend)
        if self._exporter is not None:
            self._exporter.clear()

    def version(self) -> str:
        with_instrumentation = "".join(f", {module} instrumented" for module in self._instrumentation)
        return importlib.metadata.version("opentelemetry-sdk") + with_instrumentation

    def nodes(self) -> list[Node]:
        found = []
        for span in self._exporter.get_finished_spans():
            status = span.status.status_code.name.lower()
            parent = span.parent
            node = Node(
                _called(span.name, span.kind.name.lower()),
                status.replace("unset", ""),
                "remote" if parent and parent.is_remote else None,
                exceptions=tuple(
                    str((event.attributes or {})["exception.type"])
                    for event in span.events
                    if event.name == "exception"
                ),
                attributes=tuple((span.attributes or {}).items()),
            )
            found.append(
                (_ids(span.context), parent and _ids(parent), node, [_ids(link.context) for link in span.links])
            )
        return _ordered(found)

    def span(self, name: str, *, links: Any = (), root: bool = False) -> Any:
        from opentelemetry.context import Context
        from opentelemetry.trace import Link

        links = [Link(context) for context in links]
        return self._tracer.start_as_current_span(name, links=links, context=Context() if root else None)

    def start(self, name: str, parent: Any = None) -> Any:
        return self._tracer.start_span(name, context=None if parent is None else self._holding(parent))

    def end(self, span: Any) -> None:
        span.end()

    def _holding(self, context: Any) -> Any:
        from opentelemetry import trace

        return (
            trace.set_span_in_context(trace.NonRecordingSpan(context))
            if isinstance(context, trace.SpanContext)
            else context
        )

    def use(self, span: Any) -> Any:
        from opentelemetry.trace import use_span

        return use_span(span)

    @contextlib.contextmanager
    def use_context(self, context: Any) -> Iterator[None]:
        from opentelemetry.context import Context, attach, detach

        token = attach(Context() if context is None else self._holding(context))
        try:
            yield
        finally:
            detach(token)

    def add_link(self, span: Any, to: Any) -> None:
        span.add_link(to)

    def set_attribute(self, span: Any, key: str, value: Any) -> None:
        span.set_attribute(key, value)

    def set_status(self, span: Any, code: str) -> None:
        from opentelemetry.trace import StatusCode

        span.set_status(StatusCode[code.upper()])

    def record_exception(self, span: Any, error: BaseException) -> None:
        span.record_exception(error)

    def new_context(self, span: Any) -> contextvars.Context:
        from opentelemetry.context import attach
        from opentelemetry.trace import set_span_in_context

        context = contextvars.copy_context()
        context.run(attach, set_span_in_context(span))
        return context

    @contextlib.contextmanager
    def labels(self, **labels: str) -> Iterator[None]:
        from opentelemetry.baggage import set_baggage
        from opentelemetry.context import attach, detach, get_current

        context = get_current()
        for key, value in labels.items():
            context = set_baggage(key, value, context)
        token = attach(context)
        try:
            yield
        finally:
            detach(token)

    def current_labels(self) -> dict[str, Any]:
        from opentelemetry.baggage import get_all

        return dict(get_all())

    def context(self, span: Any) -> Any:
        return span.get_span_context()

    def current(self) -> Any:
        from opentelemetry.context import get_current

        return get_current()

    def ids(self, span: Any) -> tuple[str, str]:
        trace_id, span_id = _ids(span.get_span_context())
        return f"{trace_id:032x}", f"{span_id:016x}"

    def detached(self) -> Any:
        return self.use_context(None)

    def inject(self, carrier: dict[str, str]) -> dict[str, str]:
        from opentelemetry.propagate import inject

        inject(carrier)
        return carrier

    def extract(self, carrier: dict[str, str]) -> Any:
        from opentelemetry.propagate import extract

        return extract(carrier)

    def asgi(self, app: Any) -> Any:
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

        return OpenTelemetryMiddleware(app, exclude_spans=["receive", "send"])


class OpenTelemetryOnTracekit(_Recorded, OpenTelemetry):
    """The same programs with the bridge installed."""

    name = "OpenTelemetry API on tracekit"

    def _prepare(self) -> None:
        from tracekit.bridges import opentelemetry

        opentelemetry.install()

    def version(self) -> str:
        return f"OpenTelemetry API {importlib.metadata.version('opentelemetry-api')} on tracekit"


def _ids(context: Any) -> tuple[int, int]:
    return context.trace_id, context.span_id


class Datadog(Driver):
    """ddtrace with its integrations for asyncio and futures; a filter takes every span as it finishes, and nothing is sent."""

    name = "ddtrace"

    def __init__(self) -> None:
        # Read once, when ddtrace is imported.
        os.environ.update(
            DD_CRASHTRACKING_ENABLED="false",
            DD_INSTRUMENTATION_TELEMETRY_ENABLED="false",
            DD_REMOTE_CONFIGURATION_ENABLED="false",
            DD_RUNTIME_METRICS_ENABLED="false",
            DD_TRACE_AGENT_URL="unix:///nonexistent/agent.sock",
            DD_TRACE_LOGGING_RATE="0",  # what it logs once a minute it would log every time
            DD_TRACE_PARTIAL_FLUSH_MIN_SPANS="1",
            DD_TRACE_PROPAGATION_STYLE="tracecontext,baggage",
            DD_TRACE_STARTUP_LOGS="false",
            DD_TRACE_STATS_COMPUTATION_ENABLED="false",
        )
        import ddtrace
        from ddtrace.trace import TraceFilter, tracer

        finished: list[Any] = []

        class Keep(TraceFilter):
            def process_trace(self, trace: Any) -> None:
                finished.extend(map(_finished, trace))  # now: ddtrace encodes it now

        ddtrace.patch(asyncio=True, futures=True)
        tracer.configure(trace_processors=[Keep()])
        self._tracer, self._finished = tracer, finished
        self.aio, self.threads, self.processes = _standard_aio(self), _STANDARD_THREADS, _STANDARD_PROCESSES

    def begin(self, backend: str) -> None:
        super().begin(backend)
        self._finished.clear()

    def version(self) -> str:
        return importlib.metadata.version("ddtrace")

    def nodes(self) -> list[Node]:
        return _ordered(list(self._finished))

    @contextlib.contextmanager
    def _span(self, name: str, links: Any, root: bool) -> Iterator[Any]:
        with self.use_context(None) if root else contextlib.nullcontext(), self._tracer.trace(name) as span:
            for link in links:
                self.add_link(span, link)
            yield span

    def span(self, name: str, *, links: Any = (), root: bool = False) -> Any:
        if root or links:
            return self._span(name, links, root)
        return self._tracer.trace(name)

    def start(self, name: str, parent: Any = None) -> Any:
        return self._tracer.start_span(name, child_of=self.current() if parent is None else parent)

    def end(self, span: Any) -> None:
        span.finish()

    @contextlib.contextmanager
    def use_context(self, context: Any) -> Iterator[None]:
        provider = self._tracer.context_provider
        before = provider.active()
        provider.activate(context)
        try:
            yield
        finally:
            provider.activate(before)

    def use(self, span: Any) -> Any:
        return self.use_context(span)

    def add_link(self, span: Any, to: Any) -> None:
        span.set_link(to.trace_id, to.span_id)

    def set_attribute(self, span: Any, key: str, value: Any) -> None:
        span.set_tag(key, value)

    def set_status(self, span: Any, code: str) -> None:
        span.error = int(code == "error")

    def record_exception(self, span: Any, error: BaseException) -> None:
        span.record_exception(error)

    def traced(self, name: str) -> Callable[[Any], Any]:
        return self._tracer.wrap(name)

    def new_context(self, span: Any) -> contextvars.Context:
        context = contextvars.copy_context()
        context.run(self._tracer.context_provider.activate, span)
        return context

    @contextlib.contextmanager
    def labels(self, **labels: str) -> Iterator[None]:
        """Baggage belongs to a context that is changed in place: set it, and put back what was there."""
        context = self.current()
        before = dict(context.get_all_baggage_items())
        for key, value in labels.items():
            context.set_baggage_item(key, value)
        try:
            yield
        finally:
            context.remove_all_baggage_items()
            for key, value in before.items():
                context.set_baggage_item(key, value)

    def current_labels(self) -> dict[str, Any]:
        context = self.current()
        return dict(context.get_all_baggage_items()) if context else {}

    def context(self, span: Any) -> Any:
        return span.context

    def current(self) -> Any:
        return self._tracer.current_trace_context()

    def ids(self, span: Any) -> tuple[str, str]:
        return f"{span.trace_id:032x}", f"{span.span_id:016x}"

    def detached(self) -> Any:
        return self.use_context(None)

    def inject(self, carrier: dict[str, str]) -> dict[str, str]:
        from ddtrace.propagation.http import HTTPPropagator

        context = self.current()
        if context is not None:
            HTTPPropagator.inject(context, carrier)
        return carrier

    def extract(self, carrier: dict[str, str]) -> Any:
        from ddtrace.propagation.http import HTTPPropagator

        return HTTPPropagator.extract(carrier)

    def asgi(self, app: Any) -> Any:
        from ddtrace.contrib.asgi import TraceMiddleware

        return TraceMiddleware(app)


def _finished(span: Any) -> tuple[Any, Any, Node, list[Any]]:
    recorded = [event.attributes.get("exception.type") for event in span._get_events() if event.name == "exception"]
    of_its_own = span.get_tag("error.type")
    node = Node(
        _called(span.name, span.get_tag("span.kind")),
        "error" if span.error else "",
        "remote" if span._parent_context is not None and span._parent_context._is_remote else None,
        exceptions=tuple(str(kind) for kind in (*recorded, *([of_its_own] if of_its_own else ()))),
        attributes=tuple({**span.get_tags(), **span.get_metrics()}.items()),
    )
    # A link has 128 bits of the trace id, or its lower half, as it was made.
    links = [_low(link) for link in span._get_links()]
    return _low(span), span.parent_id and (_low(span)[0], span.parent_id), node, links


def _low(ids: Any) -> tuple[int, int]:
    return ids.trace_id & (1 << 64) - 1, ids.span_id


# By the names of the table's columns; tracekit is there twice, each time with one form.
DRIVERS: dict[str, Callable[[], Driver]] = {
    "tracekit": Tracekit,
    "tracekit (plain)": Tracekit,
    "OpenTelemetry": OpenTelemetry,
    "OpenTelemetry API on tracekit": OpenTelemetryOnTracekit,
    "ddtrace": Datadog,
}
