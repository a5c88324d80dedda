"""The flush at the server's shutdown: the protocol alone, and real servers."""

from __future__ import annotations

import contextlib
import logging
import threading
from types import SimpleNamespace

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import tracekit
from tracekit.integrations import _lifespan
from tracekit.integrations.asgi import TraceMiddleware

from .peer import answer
from .servers import SERVERS, serve

STARTUP, SHUTDOWN = {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}
STARTED, STOPPED = {"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}
NOT_STARTED = {"type": "lifespan.startup.failed", "message": "no"}
NOT_STOPPED = {"type": "lifespan.shutdown.failed", "message": "no"}


class Kept(list):
    """An exporter that keeps names of spans; they are exported by a flush only, as the interval is an hour."""

    def __init__(self):
        self.threads = set()

    def export(self, spans):
        self.threads.add(threading.get_ident())
        self.extend(span.name for span in spans)

    def shutdown(self):
        pass


@pytest.fixture
def kept():
    kept = Kept()
    tracekit.configure(exporter=kept, export_interval_s=3600)
    return kept


class Server:
    """The server's side of a lifespan; ``exported`` has the spans exported before each message from the app."""

    def __init__(self, kept):
        self.kept = kept
        self.waiting = [STARTUP, SHUTDOWN]
        self.sent = []
        self.exported = []

    async def receive(self):
        await anyio.lowlevel.checkpoint()
        return self.waiting.pop(0) if self.waiting else await anyio.sleep_forever()

    async def send(self, message):
        await anyio.lowlevel.checkpoint()
        self.sent.append(message)
        self.exported.append(list(self.kept))

    async def run(self, app):
        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, self.receive, self.send)


def talks(*, ends=STOPPED, starts=STARTED, raises=None):
    """Return an app that supports the protocol and ends a span at its shutdown."""

    async def app(scope, receive, send):
        assert await receive() == STARTUP
        await send(starts)
        assert await receive() == SHUTDOWN
        tracekit.span("last").end()
        if raises is not None:
            raise raises
        if ends is not None:
            await send(ends)

    return app


async def silent(scope, receive, send):
    pass


async def unknowing(scope, receive, send):
    assert scope["type"] == "http"


async def leaves_early(scope, receive, send):
    await receive()
    await send(STARTED)


async def leaves_without_a_word(scope, receive, send):
    await receive()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("app", "sent"),
    [
        (talks(), [STARTED, STOPPED]),
        (talks(ends=NOT_STOPPED), [STARTED, NOT_STOPPED]),
        (talks(ends=None), [STARTED, STOPPED]),
        (silent, [STARTED, STOPPED]),
        (unknowing, [STARTED, STOPPED]),
        (leaves_early, [STARTED, STOPPED]),
        (leaves_without_a_word, [STARTED, STOPPED]),
    ],
    ids=["talks", "fails to stop", "does not say that it has stopped", "silent", "unknowing", "leaves", "mute"],
)
async def test_spans_are_exported_before_the_shutdown_is_complete(kept, app, sent):
    tracekit.span("before").end()
    server = Server(kept)
    await server.run(TraceMiddleware(app))
    assert server.sent == sent
    assert server.waiting == []
    assert server.exported[0] == []
    assert server.exported[1][0] == "before"
    assert tracekit.statistics().queued == 0


@pytest.mark.anyio
async def test_spans_of_the_shutdown_are_exported_in_another_thread(kept):
    await Server(kept).run(TraceMiddleware(talks()))
    assert kept == ["last"]
    assert threading.get_ident() not in kept.threads


@pytest.mark.anyio
async def test_an_error_at_shutdown_reaches_the_server_after_the_flush(kept):
    server = Server(kept)
    with pytest.raises(ValueError, match="boom"):
        await server.run(TraceMiddleware(talks(raises=ValueError("boom"))))
    assert kept == ["last"]
    assert server.sent == [STARTED]


@pytest.mark.anyio
async def test_a_failed_startup_reaches_the_server(kept):
    async def app(scope, receive, send):
        await receive()
        tracekit.span("start-up").end()
        if is_reported:
            await send(NOT_STARTED)
        raise ValueError("boom")

    for is_reported in (False, True):
        server = Server(kept)
        with pytest.raises(ValueError, match="boom"):
            await server.run(TraceMiddleware(app))
        assert server.sent == ([NOT_STARTED] if is_reported else [])
        assert server.waiting == [SHUTDOWN]
    assert kept == ["start-up"] * 2


@pytest.mark.anyio
async def test_of_several_middlewares_the_outermost_flushes_once(kept, monkeypatch):
    flushed = []
    monkeypatch.setattr(_lifespan, "flush", flushed.append)
    inner = TraceMiddleware(talks())

    async def layer(scope, receive, send):
        await inner(dict(scope), receive, send)  # some layers copy the scope

    await Server(kept).run(TraceMiddleware(TraceMiddleware(layer)))
    assert flushed == [_lifespan.FLUSH_S]


@pytest.mark.anyio
async def test_the_loop_runs_while_a_collector_hangs_and_the_flush_is_bounded(kept, monkeypatch, caplog):
    is_asked, is_over = threading.Event(), threading.Event()

    def export(spans):
        is_asked.set()
        is_over.wait(20)

    kept.export = export
    monkeypatch.setattr(_lifespan, "FLUSH_S", 2)  # the loop turns meanwhile, on a busy machine too
    tracekit.span("last").end()
    turns = 0

    async def turn():
        nonlocal turns
        while not is_asked.is_set():
            await anyio.lowlevel.checkpoint()
        for turns in range(1, 4):  # noqa: B007
            await anyio.lowlevel.checkpoint()
        done.append("turned")

    done = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(turn)
        server = Server(kept)
        await server.run(TraceMiddleware(silent))
        done.append("stopped")
    is_over.set()
    assert done == ["turned", "stopped"]
    assert server.sent == [STARTED, STOPPED]
    assert caplog.messages[-1].startswith(
        "not all spans were sent at the server's shutdown, which waits for 2 s at most"
    )


@pytest.mark.anyio
async def test_busy_threads_of_the_app_do_not_delay_the_flush(kept):
    is_over = threading.Event()
    tracekit.span("before").end()
    async with anyio.create_task_group() as tasks:
        for _ in range(64):
            tasks.start_soon(in_the_default_pool, is_over.wait)
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        await Server(kept).run(TraceMiddleware(talks()))
        is_over.set()
    assert kept == ["before", "last"]


async def in_the_default_pool(job):
    """Run *job* as asyncio.to_thread() or trio.to_thread.run_sync() would."""
    try:
        import asyncio

        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio

        await trio.to_thread.run_sync(job)
    else:
        await loop.run_in_executor(None, job)


@pytest.mark.anyio
@pytest.mark.parametrize("broken", ["flush", "thread"])
async def test_the_server_shuts_down_if_the_flush_fails(kept, monkeypatch, caplog, broken):
    def fail(*_, **__):
        raise RuntimeError("broken")

    tracekit.span("before").end()
    if broken == "flush":
        monkeypatch.setattr(_lifespan, "flush", fail)
    else:
        monkeypatch.setattr(_lifespan, "threading", SimpleNamespace(Thread=fail))
    server = Server(kept)
    await server.run(TraceMiddleware(talks()))
    assert server.sent == [STARTED, STOPPED]
    assert (kept == []) is (broken == "flush")


def test_without_a_known_event_loop_the_flush_runs_in_this_thread(kept):
    tracekit.span("before").end()
    messages = [STARTUP, SHUTDOWN]
    sent = []

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    with pytest.raises(StopIteration):
        TraceMiddleware(silent)({"type": "lifespan"}, receive, send).send(None)
    assert sent == [STARTED, STOPPED]
    assert kept == ["before"]


def test_answering_for_an_app_is_logged(kept, caplog):
    caplog.set_level(logging.INFO, "tracekit")
    anyio.run(Server(kept).run, TraceMiddleware(unknowing))
    assert caplog.messages == ["the application does not support lifespan (AssertionError): tracekit answers for it"]


# Under real servers


async def only_http(scope, receive, send):
    assert scope["type"] == "http"
    await answer(scope, receive, send)


def starlette(**options):
    @contextlib.asynccontextmanager
    async def lifespan(app):
        yield
        tracekit.span("last").end()

    return Starlette(routes=[Route("/", lambda _: PlainTextResponse("x"))], lifespan=lifespan, **options)


def inside():
    app = starlette()
    app.add_middleware(TraceMiddleware)
    app.add_middleware(Other)
    return app


class Other:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize(
    "make",
    [
        lambda: TraceMiddleware(only_http),
        lambda: TraceMiddleware(starlette()),
        lambda: Other(TraceMiddleware(Other(TraceMiddleware(starlette())))),
        inside,
    ],
    ids=["an app that only knows http", "outermost", "two", "inside a framework"],
)
def test_a_server_that_stops_loses_no_span(kept, server, make):
    with serve(make(), server) as port, httpx.Client(timeout=60) as client:
        for _ in range(21):
            assert client.get(f"http://127.0.0.1:{port}/").status_code == 200
        assert kept == []
    names = [name.partition(" ")[0] for name in kept]
    assert names.count("GET") == 21
