"""Flush at the shutdown of an ASGI server: finished spans are exported before ``lifespan.shutdown.complete``.

uvicorn raises the signal that stopped it again, with its default action, so no ``atexit`` function runs. Every
server waits for ``lifespan.shutdown.complete``.

Spec: https://asgi.readthedocs.io/en/latest/specs/lifespan.html
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from .. import flush
from .._export.notices import log

LIFESPAN_KEY: Final = "tracekit.lifespan"
FLUSH_S: Final = 3.0  # Docker sends SIGKILL after 10 s, and running requests are finished first

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


async def serve_lifespan(
    app: App, scope: MutableMapping[str, Any], receive: Receive, send: Send, *, is_supported: bool = False
) -> None:
    """Run *app* with a lifespan scope, and export finished spans before the server hears of the end of the shutdown.

    Servers send no shutdown event to an app that does not support the protocol: one that raises or returns without
    receiving anything. Such an app is answered for. An error that it raises later reaches the server, and so does every
    error of an app for which *is_supported* says that it has the protocol.
    """
    try:
        is_inside = LIFESPAN_KEY in scope  # only the outermost middleware flushes
        scope[LIFESPAN_KEY] = True
    except Exception:  # an inner middleware flushes, too, which is harmless
        is_inside = False
    if is_inside:
        await app(scope, receive, send)
        return
    talk = _Talk(receive, send)
    try:
        await app(scope, talk.receive, talk.send)
    except Exception as error:
        if talk.has_asked or is_supported:
            if talk.received > 1 and not talk.has_ended:
                await _flush()
            raise
        log("info", "the application does not support lifespan (%s): tracekit answers for it", type(error).__name__)
    # The app has returned early: send and receive the messages that are left.
    if not talk.received:
        await talk.receive()
    if not talk.has_started:
        await talk.send({"type": "lifespan.startup.complete"})
    if talk.received < 2 and not talk.has_ended:
        await talk.receive()
    if not talk.has_ended:
        await talk.send({"type": "lifespan.shutdown.complete"})


class _Talk:
    """Wraps ``receive`` and ``send``, and tracks how far the protocol has advanced."""

    __slots__ = ("_receive", "_send", "has_asked", "has_ended", "has_started", "received")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.received = 0  # number of messages: the first is startup, the second shutdown
        self.has_asked = self.has_started = self.has_ended = False

    async def receive(self) -> Message:
        self.has_asked = True  # also if the server's own receive() raises
        message = await self._receive()
        self.received += 1
        return message

    async def send(self, message: Message) -> None:
        kind = message.get("type") if isinstance(message, MutableMapping) else None
        self.has_started = True
        if kind != "lifespan.startup.complete":  # startup.failed ends the lifespan, too
            self.has_ended = True
            await _flush()
        await self._send(message)


async def _flush() -> None:
    try:
        is_done = await _off_the_loop(_export)
    except Exception as error:  # the server must shut down all the same
        log("warning", "flushing at the server's shutdown failed: %s", type(error).__name__)
    else:
        if not is_done:
            message = (
                "not all spans were sent at the server's shutdown, which waits for %g s at most; a spool keeps its own"
            )
            log("warning", message, FLUSH_S)


def _export() -> bool:
    try:
        return flush(FLUSH_S)
    except Exception as error:
        log("warning", "flushing at the server's shutdown failed: %s", type(error).__name__)
        return True


async def _off_the_loop(job: Callable[[], bool]) -> bool:
    """Run *job* in a thread and return its result; if neither asyncio nor trio is running, in this thread."""
    trio: Any = sys.modules.get("trio")
    asyncio: Any = sys.modules.get("asyncio")
    # trio first: in its guest mode an asyncio loop is running, too.
    if trio is not None and _is_running(lambda: trio.lowlevel.current_task()):
        # A separate limiter: the app's threads may use up the default one.
        limiter = trio.CapacityLimiter(1)
        return bool(await trio.to_thread.run_sync(job, abandon_on_cancel=True, limiter=limiter))
    if asyncio is None or not _is_running(asyncio.get_running_loop):
        return job()
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def work() -> None:
        is_done = job()
        try:
            loop.call_soon_threadsafe(lambda: done.done() or done.set_result(is_done))
        except RuntimeError:  # the loop has been closed
            pass

    # Not the default executor, for the same reason.
    try:
        threading.Thread(target=work, name="tracekit-flush", daemon=True).start()
    except Exception:  # the system cannot start another thread, the interpreter or an audit hook allows none
        return job()
    return bool(await done)


def _is_running(current: Callable[[], object]) -> bool:
    try:
        current()
    except Exception:  # not running, or being imported by another thread
        return False
    return True
