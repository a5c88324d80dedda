"""One request or websocket of ASGI: ``receive`` and ``send``, and the details of the messages on the server span.

Compiled: these calls are most of the middleware's cost. ``TraceMiddleware`` stays Python, because servers ask
``inspect`` whether it is a coroutine function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._core.outcome import is_normal_end
from ..cython import binding, cclass, compiled
from ._asgi_scope import route_of
from ._http import error_type, report

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from .. import Span
    from ._extras import Extras

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

__all__ = ["Request", "WebSocket"]

_STARTS = ("websocket.accept", "websocket.http.response.start")


@binding(False)
@cclass
class Exchange:
    """Wraps ``receive`` and ``send`` of one request or websocket, and writes the messages' details to the span.

    Invalid messages are passed on unchanged and raise nothing here: app and server have their own errors for them.
    """

    if not compiled:
        __slots__ = ("_extras", "_is_complete", "_receive", "_scope", "_send", "_span", "_status")

    def __init__(self, span: Span, scope: Scope, receive: Receive, send: Send, extras: Extras | None) -> None:
        self._span = span
        self._scope = scope
        self._receive = receive
        self._send = send
        self._extras = extras
        self._status = 0
        self._is_complete = False

    def close(self) -> None:
        """Handle the return of the app; if it has not answered, servers send a 500."""
        try:
            if not self._status and not self._is_complete:
                self._status = self._answer_to_nothing()
            self._describe()
        except Exception as ours:
            report(ours)

    def fail(self, error: BaseException) -> None:
        """Handle *error*, raised by the app; the exit of the span records it."""
        try:
            is_error = isinstance(error, Exception) and not is_normal_end(error)
            if is_error and not self._status and not self._is_complete:
                self._status = self._answer_to_nothing()
            self._describe()
            if is_error:
                self._span.set_attribute("error.type", error_type(error))
        except Exception as ours:  # the server must get the app's error, not this one
            report(ours)

    def _answer_to_nothing(self) -> int:
        """Return the status that the server sends for an app that did not answer, or 0."""
        return 500

    def _disconnect(self) -> None:
        self._is_complete = True
        try:
            self._span.add_event("disconnect")
            self._span.set_status("cancelled", "the client disconnected")
            self._describe()
        except Exception as ours:
            report(ours)
        self._span.end()

    def _describe(self) -> None:
        """Write route and status, which are known only now, to the span; it ends next."""
        span = self._span
        if route := route_of(self._scope):
            span.update_name(f"{span.name} {route}")
            span.set_attribute("http.route", route)
        if status := self._status:
            span.set_attribute("http.response.status_code", status)
            if status >= 500:
                span.set_attribute("error.type", str(status))
                span.set_status("error")

    def _see_start(self, message: Message) -> None:
        if self._extras is not None:
            self._extras.response(self._span, message.get("headers"), self._scope, message)

    def _see_status(self, message: Message) -> None:
        status = message["status"]
        if isinstance(status, int):
            self._status = int(status)  # http.HTTPStatus becomes a plain int


@binding(False)
@cclass
class Request(Exchange):
    if not compiled:
        __slots__ = ()

    async def receive(self) -> Message:
        message = await self._receive()
        # After the last chunk every server sends "disconnect", whether or not the client has gone.
        if not self._is_complete:
            try:
                is_disconnect = message["type"] == "http.disconnect"
            except Exception:
                return message
            if is_disconnect:
                self._disconnect()
        return message

    async def send(self, message: Message) -> None:
        if self._is_complete:
            await self._send(message)
            return
        try:
            kind = message["type"]
            if kind == "http.response.start":
                status = message["status"]
                if type(status) is int:
                    self._status = status
                else:
                    self._see_status(message)
                if self._extras is not None:
                    self._see_start(message)
            elif kind == "http.response.body" or kind == "http.response.zerocopysend":
                # Set before sending: the disconnect that follows may be received before send() returns.
                self._is_complete = not message.get("more_body")
            elif kind == "http.response.pathsend":
                self._is_complete = True
        except Exception:
            pass
        try:
            await self._send(message)
        except OSError:  # the client has gone (version 2.4 of the specification)
            self._disconnect()
            raise
        if self._is_complete and self._status < 500:
            try:
                self._describe()
            except Exception as ours:
                report(ours)
            self._span.end()

    def close(self) -> None:
        Exchange.close(self)
        if not self._is_complete:
            self._span.set_status("error", "the app returned before its response was complete")


@binding(False)
@cclass
class WebSocket(Exchange):
    if not compiled:
        __slots__ = ("_is_accepted", "_received", "_sent")

    def __init__(self, span: Span, scope: Scope, receive: Receive, send: Send, extras: Extras | None) -> None:
        Exchange.__init__(self, span, scope, receive, send, extras)
        self._is_accepted = False
        self._received = self._sent = 0

    async def receive(self) -> Message:
        message = await self._receive()
        try:
            kind = message["type"]
            if kind == "websocket.receive":
                self._received += 1
            elif kind == "websocket.disconnect" and not self._is_complete:
                # A normal end. The code should tell a broken connection, but servers differ.
                self._is_complete = True
                self._span.add_event("disconnect")
                self._see_code(message)
                self._describe()
                self._span.end()
        except Exception:
            pass
        return message

    async def send(self, message: Message) -> None:
        try:
            if self._extras is not None and message["type"] in _STARTS:
                self._see_start(message)
        except Exception:
            pass
        try:
            await self._send(message)
        except OSError:
            self._disconnect()
            raise
        try:
            kind = message["type"]
            if kind == "websocket.send":
                self._sent += 1
            elif kind == "websocket.accept":
                self._is_accepted = True
            elif kind == "websocket.http.response.start":
                self._see_status(message)
            elif kind == "websocket.close":
                self._is_complete = True
                if self._is_accepted:
                    self._see_code(message)
                else:
                    self._status = 403  # sent by the server, as the specification requires
        except Exception:
            pass

    def _answer_to_nothing(self) -> int:
        return 0 if self._is_accepted else 500

    def _see_code(self, message: Message) -> None:
        code = message.get("code", 1000)
        if isinstance(code, int):
            self._span.set_attribute("websocket.close_code", int(code))

    def _describe(self) -> None:
        Exchange._describe(self)
        self._span.set_attribute("websocket.messages_received", self._received)
        self._span.set_attribute("websocket.messages_sent", self._sent)
