"""One request or websocket of ASGI: its server span, ``receive`` and ``send``, and the details of their messages.

Compiled: this is nearly all of the middleware's cost. ``TraceMiddleware.__call__`` stays Python, because servers ask
``inspect`` whether it is a coroutine function; ``_asgi_serving.py`` lets calls of an instance pass it by.
"""

from __future__ import annotations

from types import CoroutineType
from typing import TYPE_CHECKING, Any

from .._core.outcome import is_normal_end
from .._core.scopes import context_scope
from ..cython import binding, cclass, compiled, final, freelist, no_gc_clear, nonecheck
from ._asgi_scope import SPAN_KEY, Field, Routes
from ._http import error_type, report
from ._redaction import MAX_TEXT
from ._server import NOT_TRACED

if not compiled:
    from .._core.scopes import Scope, close_scope, open_scope
    from .._core.span import _enter, _exit
    from ._asgi_scope import append_ours, attributes_of, field, known_method, same

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from .._core.codecs import Items
    from .._core.span import Span
    from ._extras import Extras
    from ._redaction import Redaction
    from ._server import Callers

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

_KEY = SPAN_KEY
_HEADERS, _KIND, _METHOD, _PATH = Field("headers"), Field("type"), Field("method"), Field("path")
_MORE, _STATUS = Field("more_body"), Field("status")
_MOST = MAX_TEXT
_STARTS = ("websocket.accept", "websocket.http.response.start")
_RETURNED = object()

if not compiled:

    def quicken_sends(kind: type) -> None:
        """C gives the class ``_call``, the function for calls without a tuple of the arguments."""

    def see_quickly(_request: Request, _message: Message) -> bool:
        """Do the same as ``Request._see()`` for most messages; return False for those left to it."""
        return False

    def quicken_steps(kind: type) -> None:
        """C gives the class a function for the steps of ``await``."""

    def tk_raised() -> None:
        """Raise the exception that C has got."""

    def answer_quickly(sender: Sender) -> None:
        """C sets ``_call`` of *sender*."""

    def tk_resume(inner: Any, value: Any, returned: object) -> Any:
        """Send *value* to the coroutine *inner*; return the object that it yields, or *returned*."""
        try:
            return inner.send(value)
        except StopIteration:
            return returned


@nonecheck(True)
def _attributes_of(request: Any) -> Items:
    exchange: Exchange = request
    return attributes_of(exchange._scope, exchange._headers, exchange._is_http(), exchange._method, exchange._redaction)


@binding(False)
@cclass
class Requests:
    """Opens the exchanges of a middleware, with its options; *is_excluded* is a predicate of paths, or None."""

    if not compiled:
        __slots__ = ("_callers", "_extras", "_is_excluded", "_redaction", "_routes")

    def __init__(
        self,
        callers: Callers,
        is_excluded: Callable[[Any], bool] | None,
        redaction: Redaction,
        extras: Extras | None,
    ) -> None:
        self._callers = callers
        self._is_excluded = is_excluded
        self._redaction = redaction
        self._extras = extras
        self._routes = Routes()

    @nonecheck(True)
    def open(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> Exchange | None:
        """Start the span of the request or websocket in *scope* and make it current, until ``leave()``.

        None: *scope* is of another type, an outer middleware has traced or excluded it, or tracing failed.
        """
        fields: dict[str, Any] | None = scope if type(scope) is dict else _copied(scope)
        if fields is None:
            return None
        span: Span | None = None
        try:
            kind = field(fields, _KIND)
            is_http = same(kind, "http")
            if (not is_http and not same(kind, "websocket")) or _KEY in fields:
                return None
            exchange: Exchange = Request.__new__(Request) if is_http else WebSocket.__new__(WebSocket)
            if not compiled:
                exchange._blank()
            exchange._scope = scope
            exchange._receive = receive
            exchange._send = send
            path = field(fields, _PATH) if self._is_excluded is not None or self._callers._routes else None
            if self._is_excluded is not None and self._is_excluded(path):
                scope[SPAN_KEY] = None  # an inner middleware skips it, too
                exchange._opened = context_scope(NOT_TRACED)
                open_scope(exchange._opened)
                return exchange
            method = exchange._method = known_method(field(fields, _METHOD))
            exchange._redaction = self._redaction
            headers = field(fields, _HEADERS)
            if headers is None:
                headers = ()
            elif not isinstance(headers, list | tuple):
                headers = _listed(scope, headers)
            name = method if is_http else "WEBSOCKET"
            exchange._headers = headers
            span = self._callers._start_described(name, path, headers, _attributes_of, exchange)
            exchange._headers = None
            if fields is scope:
                fields[_KEY] = span
            else:
                scope[SPAN_KEY] = span
        except Exception as error:  # the request is served without a span
            report(error)
            if span is not None:  # a mapping of the server's took no key
                span.end()
            return None
        exchange._span = span
        _enter(span)
        if span._is_recorded and not span._has_ended:
            exchange._is_watched = True
            exchange._routes = self._routes
            exchange._count = _count_of(span)
            exchange._extras = self._extras
            if self._extras is not None:
                try:
                    self._extras.request(span, headers, scope)
                except BaseException as error:  # KeyboardInterrupt, in a hook
                    exchange.leave(error)
                    raise
        return exchange


def _copied(scope: Any) -> dict[str, Any] | None:
    try:
        return dict(scope)
    except Exception:  # not a valid scope: the app has its own error for it
        return None


def _count_of(span: Span) -> int:
    """Return how many attributes *span* has, or -1 where the limits leave no room for ours or others may be among them."""
    tracer, attributes = span._tracer, span._attributes
    if attributes is None or tracer.max_value < _MOST or tracer.hooks is not None or tracer.sampler is not None:
        return -1
    count = attributes.count()
    if tracer.max_attributes < count + 2:
        return -1
    return count


def _listed(scope: MutableMapping[str, Any], headers: Any) -> Any:
    """Return *headers* as a list, and put it into *scope*: any iterable is allowed, even one that can be read once."""
    try:
        scope["headers"] = headers = list(headers)
    except Exception:
        return ()
    return headers


@no_gc_clear  # a Serving in a cycle calls leave() when it is deallocated: the cycle is cleared in the app's frame or scope
@freelist(64)
@binding(False)
@cclass
class Exchange:
    """Wraps ``receive`` and ``send`` of one request or websocket, and writes the messages' details to the span.

    Of a span that is not recorded, and of an excluded path, which has none, it wraps nothing. Invalid messages are
    passed on unchanged and raise nothing here: app and server have their own errors for them.
    """

    if not compiled:
        __slots__ = (
            "_count",
            "_extras",
            "_has_failed",
            "_headers",
            "_is_complete",
            "_is_watched",
            "_method",
            "_opened",
            "_receive",
            "_redaction",
            "_routes",
            "_scope",
            "_send",
            "_span",
            "_status",
        )

        _span: Any
        _opened: Scope | None  # of an excluded path
        _scope: Any
        _headers: Any  # while the span starts
        _method: str
        _redaction: Redaction
        _receive: Receive
        _send: Send
        _extras: Extras | None
        _status: int | None  # not 0
        _has_failed: bool  # the status is 500 or more
        _routes: Routes  # of a span that is watched
        _count: int  # of its attributes, if limits leave room for more
        _is_watched: bool
        _is_complete: bool
        watched_receive: Any  # the method of the classes below

        def _blank(self) -> None:
            """Set every field, as C does for a new object."""
            self._span = self._opened = self._scope = self._extras = self._status = None
            self._is_watched = self._is_complete = self._has_failed = False
            self._count = 0

    def _is_http(self) -> bool:
        return True

    def __call__(self) -> Any:
        """Do the same as ``watched_receive()``: a method that few apps call would be made for each request."""
        return self.watched_receive()

    @property
    def _is_coroutine(self) -> Any:
        return _asyncios_mark()

    @property
    def _is_coroutine_marker(self) -> Any:
        return _inspects_mark()

    @property
    def receive(self) -> Any:
        """The ``receive`` for the app."""
        return self._receiver()

    @property
    def send(self) -> Any:
        """The ``send`` for the app."""
        return self._sender()

    def _receiver(self) -> Any:
        return self if self._is_watched else self._receive

    def _sender(self) -> Any:
        if not self._is_watched:
            return self._send
        sender: Sender = Sender.__new__(Sender)
        sender._exchange = self
        answer_quickly(sender)
        return sender

    def _watch(self, message: Message) -> Any:
        """Send *message*, and look at it: the classes below do."""

    def leave(self, error: BaseException | None) -> None:
        """Handle the return of the app, or *error*, which it raised; end the span."""
        span = self._span
        if span is None:
            if self._opened is not None:
                close_scope(self._opened)
            return
        try:
            if self._is_watched:
                if error is not None:
                    self._fail(error)
                elif not span._has_ended:
                    self._close()
        finally:  # after KeyboardInterrupt, too, the span is current no more
            _exit(span, error)

    def _close(self) -> None:
        """Handle the return of the app; if it has not answered, servers send a 500."""
        try:
            if not self._status and not self._is_complete:
                self._answer(self._answer_to_nothing())
            self._describe()
        except Exception as ours:
            report(ours)

    def _fail(self, error: BaseException) -> None:
        """Handle *error*, raised by the app; the exit of the span records it."""
        try:
            is_error = isinstance(error, Exception) and not is_normal_end(error)
            if is_error and not self._status and not self._is_complete:
                self._answer(self._answer_to_nothing())
            self._describe()
            if is_error and not self._span._has_ended:
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
        if span._has_ended:
            return
        route = self._routes.find(self._scope, span._name)
        if route is not None:
            span._rename(route[3])
            if len(route[1]) > _MOST:
                self._count = -1  # it may have to be cut
            self._put("http.route", route[1])
        if self._status is not None:
            self._put("http.response.status_code", self._status)
            if self._has_failed:
                span._put("error.type", str(self._status))
                span.set_status("error")

    def _put(self, key: str, value: Any) -> None:
        """Put an attribute that the app hardly has put itself; *value* is within the limits."""
        if append_ours(self._span._attributes, self._count, key, value):
            self._count += 1
        else:
            self._span._put(key, value)

    def _answer(self, status: Any) -> None:
        self._status = status or None
        self._has_failed = status >= 500

    def _see_start(self, message: Message) -> None:
        if self._extras is not None:
            self._extras.response(self._span, message.get("headers"), self._scope, message)

    def _see_status(self, message: Message) -> None:
        status = message["status"]
        if isinstance(status, int):
            self._answer(int(status))  # http.HTTPStatus becomes a plain int


@final
@freelist(64)
@binding(False)
@cclass
class Sender:
    """``send`` for the app. asgiref and others that ask see a coroutine function, as the server's is.

    A method of C cannot be marked as one.
    """

    if not compiled:
        __slots__ = ("_exchange",)

        _exchange: Exchange

    def __call__(self, message: Message) -> Any:
        return _watched(self, message)

    @property
    def _is_coroutine(self) -> Any:
        return _asyncios_mark()

    @property
    def _is_coroutine_marker(self) -> Any:
        return _inspects_mark()


@nonecheck(True)
def _watched(sender: Sender, message: Message) -> Any:
    return sender._exchange._watch(message)


def _asyncios_mark() -> Any:
    """Return the value by which asyncio knows a coroutine function, and asgiref before CPython 3.12."""
    from asyncio import coroutines

    return getattr(coroutines, "_is_coroutine", None)


def _inspects_mark() -> Any:
    """Return the value by which inspect knows a coroutine function, from CPython 3.12 on."""
    import inspect

    async def marked() -> None: ...

    mark = getattr(inspect, "markcoroutinefunction", None)
    return mark and mark(marked)._is_coroutine_marker


@no_gc_clear
@binding(False)
@cclass
class Request(Exchange):
    """One HTTP request and its response."""

    if not compiled:
        __slots__ = ()

    async def watched_receive(self) -> Message:
        message = await self._receive()
        # After the last chunk every server sends "disconnect", even if the client is still there.
        if not self._is_complete:
            try:
                is_disconnect = message["type"] == "http.disconnect"
            except Exception:
                return message
            if is_disconnect:
                self._disconnect()
        return message

    def _watch(self, message: Message) -> Awaitable[None]:
        inner = self._send(message)
        if self._is_complete:
            return inner
        return _sending(self, inner if type(inner) is CoroutineType else _wait_for(inner), message)

    def _see(self, message: Message) -> None:
        """Look at *message*, which is about to be sent."""
        try:
            fields: dict[str, Any] = message if type(message) is dict else dict(message)
            kind = field(fields, _KIND)
            if same(kind, "http.response.start"):
                status = field(fields, _STATUS)
                if type(status) is int:
                    self._answer(status)
                else:
                    self._see_status(message)
                if self._extras is not None:
                    self._see_start(message)
            elif same(kind, "http.response.body") or same(kind, "http.response.zerocopysend"):
                # Set before sending: the disconnect that follows may be received before send() returns.
                self._is_complete = not field(fields, _MORE)
            elif same(kind, "http.response.pathsend"):
                self._is_complete = True
        except Exception:
            pass

    def _finish(self) -> None:
        """End the span if the message that has been sent was the last one."""
        span = self._span
        if not self._is_complete or self._has_failed or span._has_ended:
            return
        try:
            self._describe()
        except Exception as ours:
            report(ours)
        span._end(None)

    def _close(self) -> None:
        Exchange._close(self)
        if not self._is_complete:
            self._span.set_status("error", "the app returned before its response was complete")


@final
@freelist(16)
@binding(False)
@cclass
class Sending:
    """A call of ``send``, to be awaited once: resumes the server's coroutine, and ends the span after the last message.

    A coroutine around a coroutine would cost twice as much.
    """

    if not compiled:
        __slots__ = ("_before", "_coroutine", "_is_last", "_request", "_unsent")

        _request: Request
        _coroutine: Any
        _unsent: Any  # the message, None after the first step
        _before: Any  # the status before the message
        _is_last: bool

    def __await__(self) -> Sending:
        return self

    def __iter__(self) -> Sending:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    @nonecheck(True)
    def send(self, value: Any) -> Any:
        """Resume the server's coroutine with *value*; asyncio sends None only."""
        if self._unsent is not None:
            self._begin()
        try:
            result = tk_resume(self._coroutine, value, _RETURNED)
        except BaseException as raised:
            self._take_back(raised)
            raise
        if result is _RETURNED:
            self._keep()
            raise StopIteration
        return result

    @nonecheck(True)
    def throw(self, *error: Any) -> Any:
        """Raise an exception in the server's coroutine."""
        is_sent = self._unsent is None
        try:
            return self._coroutine.throw(*error)
        except StopIteration:
            if is_sent:
                self._keep()
            raise
        except BaseException as raised:
            if is_sent:
                self._take_back(raised)
            raise
        finally:
            error = ()  # whose traceback refers to this frame

    def close(self) -> None:
        """Close the server's coroutine."""
        self._coroutine.close()

    # Tools that look through waiting coroutines for frames see the server's coroutine.

    @property
    def cr_frame(self) -> Any:
        return getattr(self._coroutine, "cr_frame", None)

    @property
    def cr_await(self) -> Any:
        return getattr(self._coroutine, "cr_await", None)

    @property
    def cr_code(self) -> Any:
        return getattr(self._coroutine, "cr_code", None)

    @nonecheck(True)
    def _fail(self) -> None:
        """Handle an exception that the server's coroutine has raised in C."""
        try:
            tk_raised()
        except BaseException as raised:
            self._take_back(raised)
            raise

    @nonecheck(True)
    def _begin(self) -> None:
        """Look at the message, which is about to be sent."""
        request, message = self._request, self._unsent
        self._unsent = None
        self._before = request._status
        if not request._is_complete:
            if not see_quickly(request, message):
                request._see(message)
            self._is_last = request._is_complete

    @nonecheck(True)
    def _keep(self) -> None:
        """Handle the return of the server's coroutine. Another await of it fails, which takes back nothing."""
        request = self._request
        self._before = request._status
        self._is_last = False
        if request._is_complete:
            request._finish()

    @nonecheck(True)
    def _take_back(self, error: BaseException) -> None:
        """Handle *error* of the server: it has not sent the message, unless it was cancelled after that."""
        request = self._request
        if isinstance(error, OSError):  # the client has gone (version 2.4 of the specification)
            request._disconnect()
        elif isinstance(error, Exception):
            if self._is_last:
                request._is_complete = False
            if request._status is not self._before:
                request._answer(self._before or 0)


async def _wait_for(awaitable: Awaitable[None]) -> None:
    await awaitable


def _sending(request: Request, inner: Any, message: Any) -> Sending:
    sending = Sending.__new__(Sending)
    sending._request = request
    sending._coroutine = inner
    sending._unsent = message
    if not compiled:
        sending._before = None
        sending._is_last = False
    return sending


@no_gc_clear
@binding(False)
@cclass
class WebSocket(Exchange):
    """One WebSocket connection, from the handshake to its end."""

    if not compiled:
        __slots__ = ("_is_accepted", "_received", "_sent")

        def _blank(self) -> None:
            Exchange._blank(self)
            self._is_accepted = False
            self._received = self._sent = 0

    def _is_http(self) -> bool:
        return False

    async def watched_receive(self) -> Message:
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

    def _watch(self, message: Message) -> Awaitable[None]:
        return self._wait(message)

    async def _wait(self, message: Message) -> None:
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
                    self._answer(403)  # sent by the server, as the specification requires
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
        if not self._span._has_ended:
            self._span.set_attribute("websocket.messages_received", self._received)
            self._span.set_attribute("websocket.messages_sent", self._sent)


quicken_sends(Sender)
quicken_steps(Sending)
