"""A call of the middleware is a coroutine to everything that may hold one: compiled it is an object of our own."""

from __future__ import annotations

import asyncio
import collections.abc
import contextlib
import copy
import gc
import inspect
import types
import weakref

import anyio
import anyio.lowlevel
import asgiref.sync
import pytest
from asgiref.wsgi import WsgiToAsgi

import tracekit
from tracekit.integrations import _asgi_serving
from tracekit.integrations.asgi import SPAN_KEY, TraceMiddleware
from tracekit.testing import span_tree

from .peer import LAST, START, Peer, answer, at_once, request_scope, run, websocket_scope


@types.coroutine
def pause(value=None):
    """Give *value* to the event loop; return what it sends."""
    return (yield value)


class Suspended:
    """An app that waits once, and notes how it was resumed and whether its span was open then."""

    def __init__(self):
        self.seen = []

    async def __call__(self, scope, receive, send):
        try:
            self.seen.append(await pause("waits"))
        except BaseException as error:
            self.seen.append(type(error))
            raise
        finally:
            self.seen.append(not scope[SPAN_KEY].ended)


def begun(app):
    """Return a call of the middleware that waits in *app*."""
    call = TraceMiddleware(app)(request_scope(), at_once, at_once)
    assert call.send(None) == "waits"
    return call


def test_a_call_is_a_coroutine():
    call = TraceMiddleware(answer)(request_scope(), at_once, at_once)
    assert isinstance(call, collections.abc.Coroutine)
    assert asyncio.iscoroutine(call)
    assert inspect.iscoroutine(call)
    assert inspect.isawaitable(call)
    call.close()


def test_a_compiled_call_makes_no_coroutine():
    is_compiled = not _asgi_serving.__file__.endswith(".py")
    call = TraceMiddleware(answer)(request_scope(), at_once, at_once)
    assert (type(call) is _asgi_serving.Serving) is is_compiled
    call.close()


def test_servers_find_a_coroutine_function():
    middleware = TraceMiddleware(answer)
    assert inspect.iscoroutinefunction(middleware.__call__)
    assert inspect.iscoroutinefunction(TraceMiddleware.__call__)


def test_nothing_runs_before_the_first_step(exporter):
    scope, seen = request_scope(), []

    async def app(*_):
        seen.append("app")

    call = TraceMiddleware(app)(scope, at_once, at_once)
    assert SPAN_KEY not in scope
    call.close()
    assert (seen, exporter.spans) == ([], [])


def test_a_value_reaches_the_app(exporter):
    app = Suspended()
    with pytest.raises(StopIteration) as stop:
        begun(app).send("value")
    assert stop.value.value is None
    assert app.seen == ["value", True]
    assert len(exporter.spans) == 1


def test_an_exception_that_is_thrown_reaches_the_app_and_the_span(exporter):
    app = Suspended()
    with pytest.raises(KeyError, match="ours"):
        begun(app).throw(KeyError("ours"))
    assert app.seen == [KeyError, True]
    (span,) = exporter.spans
    assert span.status.code == "error"
    assert span.attributes["error.type"] == "KeyError"


def test_the_app_may_go_on_after_an_exception(exporter):
    async def app(scope, receive, send):
        for _ in range(2):
            try:
                await pause("waits")
            except KeyError:
                await pause("caught")
        await answer(scope, receive, send)

    call = begun(app)
    assert call.throw(KeyError()) == "caught"
    assert call.send(None) == "waits"
    assert exporter.spans == []
    with pytest.raises(StopIteration):
        call.send(None)
    assert exporter.spans[0].status.code == "unset"


def test_an_app_that_catches_the_exception_and_returns(exporter):
    async def app(scope, receive, send):
        try:
            await pause("waits")
        except KeyError:
            await answer(scope, receive, send)

    with pytest.raises(StopIteration):
        begun(app).throw(KeyError())
    assert exporter.spans[0].status.code == "unset"


@pytest.mark.parametrize("resume", [lambda call: call.send(None), lambda call: call.throw(KeyError())])
def test_a_call_returns_none(exporter, resume):
    async def app(scope, receive, send):
        with contextlib.suppress(KeyError):
            await pause("waits")
        return 5

    with pytest.raises(StopIteration) as stop:
        resume(begun(app))
    assert stop.value.value is None


def test_closing_ends_the_span_after_the_app(exporter):
    app = Suspended()
    call = begun(app)
    call.close()
    assert app.seen == [GeneratorExit, True]
    assert len(exporter.spans) == 1
    assert tracekit.current_span() is None
    call.close()  # again: does nothing


def test_an_exception_while_closing(exporter):
    async def app(*_):
        try:
            await pause("waits")
        finally:
            raise KeyError("ours")

    call = begun(app)
    with pytest.raises(KeyError, match="ours"):
        call.close()
    assert exporter.spans[0].attributes["error.type"] == "KeyError"


@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_call_that_is_dropped_ends_the_span_after_the_app(exporter, is_recorded):
    if not is_recorded:
        tracekit.configure(exporter=exporter, sampler=tracekit.AlwaysOff())
    app = Suspended()
    call = begun(app)
    span = tracekit.current_span()
    assert not span.ended
    del call
    gc.collect()
    assert app.seen == [GeneratorExit, True]
    assert span.ended
    assert tracekit.current_span() is None


def test_a_call_in_a_cycle_is_collected(exporter):
    class Held:
        pass

    held = Held()

    async def app(scope, receive, send):
        scope["held"].call = scope["call"][0]
        await pause("waits")

    scope = {**request_scope(), "held": held, "call": []}
    call = TraceMiddleware(app)(scope, at_once, at_once)
    scope["call"].append(call)
    call.send(None)
    ref = weakref.ref(held)
    del held, scope, call
    gc.collect()
    assert ref() is None
    assert len(exporter.spans) == 1


def test_a_call_is_awaited_once(exporter):
    call = TraceMiddleware(answer)(request_scope(), at_once, at_once)
    run(call)
    for again in (lambda: call.send(None), lambda: call.throw(KeyError())):
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            again()
    assert len(exporter.spans) == 1


def test_an_exception_before_the_first_step(exporter):
    call = TraceMiddleware(answer)(request_scope(), at_once, at_once)
    with pytest.raises(KeyError):
        call.throw(KeyError())
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        call.send(None)
    assert exporter.spans == []


def test_the_first_value_is_none():
    call = TraceMiddleware(answer)(request_scope(), at_once, at_once)
    with pytest.raises(TypeError, match="can't send non-None value to a just-started coroutine"):
        call.send(1)
    call.close()


@pytest.mark.parametrize("step", ["send", "throw", "close"])
def test_a_step_inside_a_step_changes_nothing(exporter, step):
    async def app(scope, receive, send):
        with pytest.raises(ValueError, match="coroutine already executing"):
            scope["step"]()
        await answer(scope, receive, send)

    scope = request_scope()
    call = TraceMiddleware(app)(scope, at_once, at_once)
    scope["step"] = {"send": lambda: call.send(None), "throw": lambda: call.throw(KeyError()), "close": call.close}[
        step
    ]
    with pytest.raises(StopIteration):
        call.send(None)
    assert exporter.spans[0].status.code == "unset"


def test_an_app_that_raises_when_it_is_called(exporter):
    def app(scope, receive, send):
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        run(TraceMiddleware(app)(request_scope(), at_once, at_once))
    (span,) = exporter.spans
    assert span.attributes["error.type"] == "KeyError"
    assert tracekit.current_span() is None


@pytest.mark.parametrize("make", [request_scope, websocket_scope])
def test_an_app_may_return_any_awaitable(exporter, make):
    class Answer:
        def __init__(self, *arguments):
            self.arguments = arguments

        def __await__(self):
            yield "waits"
            scope, receive, send = self.arguments
            if scope["type"] == "http":
                yield from answer(scope, receive, send).__await__()

    call = TraceMiddleware(Answer)(make(), at_once, at_once)
    assert call.send(None) == "waits"
    with pytest.raises(StopIteration):
        call.send(None)
    assert len(exporter.spans) == 1


def test_an_app_that_raises_stop_iteration_has_not_returned(exporter):
    def app(scope, receive, send):
        raise StopIteration("ours")

    call = TraceMiddleware(app)(request_scope(), at_once, at_once)
    with pytest.raises(RuntimeError, match="coroutine raised StopIteration") as raised:
        call.send(None)
    assert isinstance(raised.value.__cause__, StopIteration)
    assert exporter.spans[0].attributes["error.type"] == "StopIteration"


def test_an_app_that_returns_no_awaitable(exporter):
    with pytest.raises(TypeError):
        run(TraceMiddleware(lambda *_: 5)(request_scope(), at_once, at_once))
    assert exporter.spans[0].attributes["error.type"] == "TypeError"


def test_a_task_of_the_call_itself(exporter):
    async def main():
        peer = []

        async def send(message):
            await asyncio.sleep(0)
            peer.append(message)

        task = asyncio.create_task(TraceMiddleware(answer)(request_scope(), at_once, send))
        assert "Serving" in repr(task) or "__call__" in repr(task)
        await task
        cancelled = asyncio.create_task(TraceMiddleware(answer)(request_scope(), at_once, send))
        await asyncio.sleep(0)
        assert cancelled.get_stack()
        repr(cancelled)
        cancelled.cancel()
        unstarted = asyncio.create_task(TraceMiddleware(answer)(request_scope(), at_once, send))
        unstarted.cancel()
        results = await asyncio.gather(cancelled, unstarted, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] * 2
        return peer

    assert asyncio.run(main()) == [START, LAST]
    assert [span.status.code for span in exporter.spans] == ["unset", "cancelled"]


class Interrupted(BaseException):
    """Raised while the span is described, as by a signal's handler there."""


class Interrupting:
    @property
    def path(self):
        raise Interrupted


async def interrupted_at_the_end(scope, receive, send):
    await asyncio.sleep(0)
    scope["route"] = Interrupting()


async def interrupted_by_the_last_message(scope, receive, send):
    scope["route"] = Interrupting()
    await send(START)
    await asyncio.create_task(forwarding(send, LAST))


async def forwarding(send, message):
    await send(message)


@pytest.mark.parametrize("app", [interrupted_at_the_end, interrupted_by_the_last_message])
def test_an_exception_of_ours_after_the_last_step_has_no_result(exporter, app):
    """Whoever resumes a coroutine gets a result or an exception; asyncio's task made a SystemError of both."""

    async def send(message):
        await asyncio.sleep(0)

    async def main():
        task = asyncio.create_task(TraceMiddleware(app)(request_scope(), at_once, send))
        await asyncio.wait([task])
        assert type(task.exception()) is Interrupted

    asyncio.run(main())
    assert len(exporter.spans) == 1
    assert tracekit.statistics().open == 0


@pytest.mark.anyio
async def test_a_task_group_starts_the_middleware(exporter):
    async def send(message):
        await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(TraceMiddleware(answer), request_scope(), at_once, send)
    async with anyio.create_task_group() as group:
        group.start_soon(TraceMiddleware(answer), request_scope(), at_once, send)
        group.start_soon(TraceMiddleware(answer), request_scope(), at_once, send)
        await anyio.lowlevel.checkpoint()
        group.start_soon(TraceMiddleware(answer), request_scope(), at_once, send)
        group.cancel_scope.cancel()
    assert [span.status.code for span in exporter.spans][:3] == ["unset", "cancelled", "cancelled"]
    assert tracekit.statistics().open == 0


def test_the_frames_of_a_waiting_call():
    call = begun(Suspended())
    assert inspect.getcoroutinestate(call) == inspect.CORO_SUSPENDED
    frames, coroutine = [], call
    while coroutine is not None and hasattr(coroutine, "cr_frame"):
        frames.append(coroutine.cr_frame.f_code.co_name)
        coroutine = coroutine.cr_await
    assert frames[-1] == "__call__"
    assert call.cr_code is not None
    assert not call.cr_running
    call.close()
    assert inspect.getcoroutinestate(call) == inspect.CORO_CLOSED
    assert call.cr_frame is None
    assert call.cr_await is None


def test_the_states_of_a_call():
    async def app(scope, receive, send):
        seen.append(state(scope["call"][0]))
        await pause("waits")

    def state(call):
        # Before CPython 3.15 inspect reads a frame, and a call that has not begun has none.
        return call.cr_state if hasattr(call, "cr_state") else inspect.getcoroutinestate(call)

    scope, seen = {**request_scope(), "call": []}, []
    call = TraceMiddleware(app)(scope, at_once, at_once)
    scope["call"].append(call)
    seen.append(state(call))
    call.send(None)
    seen.append(state(call))
    call.close()
    seen.append(state(call))
    assert seen == [inspect.CORO_CREATED, inspect.CORO_RUNNING, inspect.CORO_SUSPENDED, inspect.CORO_CLOSED]


def test_the_names_of_a_call():
    call = TraceMiddleware(answer)(request_scope(), at_once, at_once)
    assert (call.__name__, call.__qualname__) == ("__call__", "TraceMiddleware.__call__")
    assert call.cr_origin is None
    with pytest.raises(AttributeError, match="nothing"):
        _ = call.nothing
    call.close()
    call = begun(Suspended())
    assert call.__qualname__ in ("TraceMiddleware.__call__", "Suspended.__call__")
    call.close()


@pytest.mark.parametrize("make", [request_scope, websocket_scope])
def test_send_and_receive_are_coroutine_functions(exporter, make):
    async def app(scope, receive, send):
        assert asgiref.sync.iscoroutinefunction(receive)
        assert asgiref.sync.iscoroutinefunction(send)

    run(TraceMiddleware(app)(make(), at_once, at_once))
    (span,) = exporter.spans
    assert "exception" not in [event.name for event in span.events]


def test_asgirefs_wsgi_app_gives_no_warning(exporter):
    def app(environ, start):
        start("200 OK", [])
        return [b"x"]

    peer = Peer()
    asyncio.run(TraceMiddleware(WsgiToAsgi(app))(request_scope(), peer.receive, peer.send))
    assert peer.sent[0]["status"] == 200
    assert len(exporter.spans) == 1


def test_the_frames_below_send():
    async def send(message):
        await pause("sends")

    call = TraceMiddleware(answer)(request_scope(), at_once, send)
    assert call.send(None) == "sends"
    frames, coroutine = [], call
    while hasattr(coroutine, "cr_frame"):
        frames.append(coroutine.cr_frame.f_code.co_name)
        coroutine = coroutine.cr_await
    assert frames[-2:] == ["answer", "send"]
    call.close()


def test_arguments_by_name(exporter):
    run(TraceMiddleware(answer)(scope=request_scope(), receive=at_once, send=at_once))
    assert len(exporter.spans) == 1
    with pytest.raises(TypeError):
        TraceMiddleware(answer)(request_scope())


def test_subclasses(exporter):
    seen = []

    class Plain(TraceMiddleware):
        pass

    class Own(TraceMiddleware):
        async def __call__(self, scope, receive, send):
            seen.append("own")
            await super().__call__(scope, receive, send)

    for kind in (Plain, Own):
        run(kind(answer)(request_scope(), at_once, at_once))
    assert seen == ["own"]
    assert span_tree(exporter.spans) == "GET\nGET"


def test_a_replaced_call(exporter):
    class Quick(TraceMiddleware):
        pass

    async def replaced(self, *arguments):
        seen.append("replaced")
        await TraceMiddleware.__call__(self, *arguments)

    seen = []
    _asgi_serving.quicken_middleware(Quick)
    run(Quick(answer)(request_scope(), at_once, at_once))
    assert seen == []
    Quick.__call__ = replaced
    run(Quick(answer)(request_scope(), at_once, at_once))
    assert seen == ["replaced"]
    assert span_tree(exporter.spans) == "GET\nGET"


def test_a_copy_serves_its_own_app(exporter):
    middleware = copy.copy(TraceMiddleware(Suspended()))
    middleware.app = answer
    run(middleware(request_scope(), at_once, at_once))
    assert len(exporter.spans) == 1
