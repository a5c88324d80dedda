"""Real servers, each in a thread of this process, on a loopback port that the system chooses."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import socket
import sys
import threading
import time

import hypercorn.asyncio
import hypercorn.trio
import trio
import uvicorn

# Both servers close a connection that was idle for 5 s, one that is new too. On a busy machine a client sends then.
KEEP_ALIVE_S = 60
SERVERS = ["uvicorn, asyncio", "hypercorn, asyncio", "hypercorn, trio"]
if sys.platform != "win32":
    SERVERS.insert(1, "uvicorn, uvloop")


@contextlib.contextmanager
def serve(app, server="uvicorn, asyncio", path=None):
    """Serve *app* inside ``with`` and yield the port; None with *path*, for a Unix socket."""
    listener = socket.socket(socket.AF_INET if path is None else socket.AF_UNIX)
    listener.bind(("127.0.0.1", 0) if path is None else path)
    listener.listen(512)  # connections wait here until the server has started
    name, _, loop = server.partition(", ")
    starting = threading.Event()
    stops = []
    run = {"uvicorn": _run_uvicorn, "hypercorn": _run_hypercorn}[name]
    port = listener.getsockname()[1] if path is None else None
    thread = threading.Thread(
        target=contextvars.Context().run, args=(run, app, listener, loop, stops, starting), name=server
    )
    thread.start()
    try:
        assert starting.wait(120)
        yield port
    finally:
        stops[0]()
        thread.join(120)
        assert not thread.is_alive()


def _run_uvicorn(app, listener, loop, stops, starting):
    config = uvicorn.Config(app, loop=loop, http="h11", ws="wsproto", log_config=None, log_level="critical")
    config.timeout_graceful_shutdown = 1
    config.timeout_keep_alive = KEEP_ALIVE_S
    server = uvicorn.Server(config)
    stops.append(lambda: setattr(server, "should_exit", True))
    starting.set()
    server.run(sockets=[listener])
    listener.close()


def _run_hypercorn(app, listener, loop, stops, starting):
    config = hypercorn.Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.accesslog = config.errorlog = None
    config.graceful_timeout = 1
    config.keep_alive_timeout = KEEP_ALIVE_S

    async def on_asyncio():
        stop = asyncio.Event()
        stops.append(functools.partial(asyncio.get_running_loop().call_soon_threadsafe, stop.set))
        starting.set()
        await hypercorn.asyncio.serve(app, config, shutdown_trigger=stop.wait)

    async def on_trio():
        stop = trio.Event()
        stops.append(functools.partial(trio.lowlevel.current_trio_token().run_sync_soon, stop.set))
        starting.set()
        await hypercorn.trio.serve(app, config, shutdown_trigger=stop.wait)

    if loop == "trio":
        trio.run(on_trio)
    else:
        asyncio.run(on_asyncio())


def until(is_true):
    """Wait until *is_true*, for work of other threads; fail after 120 s."""
    deadline = time.monotonic() + 120
    pause = threading.Event()
    while not is_true():
        assert time.monotonic() < deadline, "not true within 120 s"
        pause.wait(0.005)


def spans_of(exporter, count):
    """Return *count* spans after the last has ended: a client gets its response a little earlier."""
    until(lambda: len(exporter.spans) >= count)
    spans = exporter.spans
    assert len(spans) == count
    return spans
