"""The middleware and the ASGI protocol, without a server; ``test_asgi_servers.py`` has real servers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http
import re
import weakref
from collections import UserDict
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

import tracekit
from tracekit import AlwaysOff, Ratio
from tracekit.integrations._lifespan import LIFESPAN_KEY
from tracekit.integrations.asgi import SPAN_KEY, TraceMiddleware
from tracekit.testing import span_tree

from .peer import (
    CALLER,
    LABELS,
    LAST,
    MORE,
    SPAN_ID,
    START,
    TRACE_ID,
    UNSAMPLED,
    Broken,
    Peer,
    answer,
    at_once,
    request_scope,
    run,
    websocket_scope,
)

# Parent and trust


@pytest.mark.anyio
async def test_a_request_is_a_child_of_its_caller_and_current_in_the_app(exporter):
    async def app(scope, receive, send):
        with tracekit.span("work"):
            await answer(scope, receive, send)

    await TraceMiddleware(app)(request_scope(CALLER), None, Peer().send)
    assert span_tree(exporter.spans) == "GET <- remote\n  work"
    assert {span.context.trace_id for span in exporter.spans} == {TRACE_ID}
    server_span = exporter.spans[0]
    assert server_span.parent.span_id == SPAN_ID
    assert server_span.kind == "server"
    assert tracekit.current_span() is None


@pytest.mark.anyio
@pytest.mark.parametrize("trust", ["continue", "restart", "link", "ignore"])
async def test_a_span_current_around_the_middleware_is_never_the_parent(exporter, trust):
    with tracekit.use_labels(leaked="yes"), tracekit.span("of the request before") as leaked:
        labels = []

        async def app(scope, receive, send):
            labels.append(dict(tracekit.current_labels()))
            await answer(scope, receive, send)

        await TraceMiddleware(app, trust=trust)(request_scope(), None, Peer().send)
        assert tracekit.current_span() is leaked
    (server_span, _) = exporter.spans
    assert server_span.parent is None
    assert server_span.context.trace_id != leaked.context.trace_id
    assert labels == [{}]


@pytest.mark.parametrize(
    ("trust", "is_continued", "is_linked", "labels"),
    [
        ("continue", True, False, {"tenant": "acme"}),
        ("restart", False, True, {}),
        ("link", False, True, {"tenant": "acme"}),
        ("ignore", False, False, {}),
    ],
)
def test_trust_sets_how_the_callers_headers_are_used(exporter, trust, is_continued, is_linked, labels):
    found = []

    async def app(scope, receive, send):
        found.append(dict(tracekit.current_labels()))

    run(TraceMiddleware(app, trust=trust)(request_scope(CALLER, LABELS), at_once, at_once))
    (span,) = exporter.spans
    assert (span.context.trace_id == TRACE_ID) is is_continued
    assert (span.parent is not None) is is_continued
    assert [link.context.span_id for link in span.links] == ([SPAN_ID] if is_linked else [])
    assert found == [labels]


@pytest.mark.parametrize("trust", ["restart", "link"])
def test_without_a_caller_there_is_nothing_to_link_to(exporter, trust):
    run(TraceMiddleware(answer, trust=trust)(request_scope(LABELS), at_once, at_once))
    assert exporter.spans[0].links == ()


def test_the_sampler_decides_about_a_restarted_trace(exporter):
    run(TraceMiddleware(answer, trust="restart")(request_scope(UNSAMPLED), at_once, at_once))
    assert len(exporter.spans) == 1


@pytest.mark.parametrize("trust", ["continue", "restart", "link", "ignore"])
def test_routes_override_trust_for_all_paths_below_them(exporter, trust):
    others = {"continue": "ignore", "restart": "continue", "link": "restart", "ignore": "continue"}
    seen = []

    async def app(scope, receive, send):
        labels = dict(tracekit.current_labels())
        seen.append((tracekit.current_context().trace_id == TRACE_ID, labels, len(tracekit.current_span().links)))

    middleware = TraceMiddleware(app, trust=others[trust], routes={"/partner": trust})
    plain, chosen = TraceMiddleware(app, trust=others[trust]), TraceMiddleware(app, trust=trust)
    for path, like in (("/partner", chosen), ("/partner/3", chosen), ("/partners", plain), ("/", plain), (5, plain)):
        seen.clear()
        for one in (middleware, like):
            run(one(request_scope(CALLER, LABELS, path=path), at_once, at_once))
        assert seen[0] == seen[1], path
    assert len(exporter.spans) == 10


EXCLUDE = ["/health", "/internal/metrics/", re.compile(r"\.(css|js)$"), re.compile("^/static")]


@pytest.mark.parametrize("make", [request_scope, websocket_scope])
@pytest.mark.parametrize(
    ("path", "is_traced"),
    [
        ("/health", False),
        ("/health/", False),
        ("/health/live", False),
        ("/healthy", True),
        ("/api/health", True),
        ("/internal/metrics", True),
        ("/internal/metrics/", False),
        ("/internal/metrics/a", False),
        ("/a/b.css", False),
        ("/a/b.css/c", True),
        ("/statics", False),
        ("/", True),
        ("", True),
        (None, True),
        (5, True),
        ("/health/" + "x" * 5000, True),
    ],
)
def test_an_excluded_request_and_the_spans_inside_it_are_not_recorded(exporter, make, path, is_traced):
    sent = []

    async def app(scope, receive, send):
        with tracekit.span("work"):
            sent.append(tracekit.inject({}))
        await answer(scope, receive, send)

    messages = []

    async def send(message):
        messages.append(message)

    with tracekit.span("of the request before"):
        scope = make(CALLER, path=path)
        # The inner middleware excludes nothing, but respects the outer one.
        run(TraceMiddleware(TraceMiddleware(app), exclude=EXCLUDE)(scope, at_once, send))
    spans = [span for span in exporter.spans if span.name != "of the request before"]
    assert [span.name for span in spans] == (["work", spans[-1].name] if is_traced else [])
    assert (scope[SPAN_KEY] is not None) is is_traced
    assert messages == [START, LAST]
    (headers,) = sent
    assert bool(int(headers["traceparent"][-2:], 16) & 1) is is_traced
    assert (TRACE_ID in headers["traceparent"]) is is_traced


def documented_sampler():
    """Return the sampler of docs/sampling.md."""
    text = (Path(__file__).parents[2] / "docs/sampling.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^class OnlyWhatMatters:\n(?:(?:    .*)?\n)+", text, re.MULTILINE)
    names = {"Ratio": Ratio}
    exec(code, names)
    sampler = names["OnlyWhatMatters"]()
    sampler.others = AlwaysOff()  # instead of a random tenth
    return sampler


def test_the_sampler_of_the_documentation_works_under_the_middleware(exporter):
    tracekit.configure(exporter=exporter, sampler=documented_sampler())
    for path in ("/health", "/pay/3", "/items"):
        run(TraceMiddleware(answer)(request_scope(path=path, raw_path=path.encode()), at_once, at_once))
    assert [span.attributes["url.path"] for span in exporter.spans] == ["/pay/3"]


def test_a_sampler_gets_the_attributes_of_the_request(exporter):
    asked = []

    class Sampler:
        def sample(self, randomness, name, kind, attributes):
            asked.append((name, kind, dict(attributes)))
            return False, ""

    tracekit.configure(exporter=exporter, sampler=Sampler())
    scope = request_scope((b"user-agent", b"curl"), query_string=b"a=1&token=s3cr3t")
    run(TraceMiddleware(answer)(scope, at_once, at_once))
    run(TraceMiddleware(answer)(websocket_scope(), at_once, at_once))
    assert asked[0] == (
        "GET",
        "server",
        {
            "http.request.method": "GET",
            "url.path": "/items/3",
            "url.scheme": "https",
            "url.query": "a=1&token=REDACTED",
            "server.address": "shop.example",
            "server.port": 443,
            "client.address": "192.0.2.1",
            "network.peer.address": "192.0.2.1",
            "network.protocol.version": "1.1",
            "user_agent.original": "curl",
        },
    )
    assert asked[1][:2] == ("WEBSOCKET", "server")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"exclude": "/health"}, TypeError, "exclude must be an iterable of paths and patterns, not str"),
        ({"exclude": re.compile("a")}, TypeError, "exclude must be an iterable of paths and patterns, not Pattern"),
        ({"exclude": None}, TypeError, "exclude must be an iterable of paths and patterns, not NoneType"),
        ({"exclude": [5]}, TypeError, "exclude must hold str and re.Pattern[str], not int"),
        ({"exclude": [re.compile(b"a")]}, TypeError, "exclude must hold str and re.Pattern[str], not Pattern"),
        ({"exclude": ["health"]}, ValueError, "exclude must hold paths that start with a slash: 'health'"),
        ({"routes": {"/": None}}, TypeError, "trust must be str, not NoneType"),
        ({"redact": "ssn"}, TypeError, "redact must be an iterable of names, not str"),
        ({"app": None}, TypeError, "app must be an ASGI application, not NoneType"),
        ({"trust": None}, TypeError, "trust must be str, not NoneType"),
        ({"trust": "yes\n"}, ValueError, r"trust must be one of continue, restart, link, ignore: 'yes\n'"),
    ],
)
def test_invalid_arguments_are_errors(arguments, error, message):
    with pytest.raises(error) as caught:
        TraceMiddleware(**{"app": answer, **arguments})
    assert str(caught.value) == message


# The end of the span


@pytest.mark.anyio
async def test_the_span_is_open_until_the_last_chunk_and_the_bodys_spans_are_its_children(exporter):
    ended = []

    async def app(scope, receive, send):
        span = scope[SPAN_KEY]
        await send(START)
        for _ in range(2):
            with tracekit.span("chunk"):
                await send(MORE)
            ended.append(span.ended)
        await send(LAST)
        ended.append(span.ended)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(later)

    async def later():
        with tracekit.span("background task"):
            await anyio.lowlevel.checkpoint()

    peer = Peer()
    await TraceMiddleware(app)(request_scope(), peer.receive, peer.send)
    assert ended == [False, False, True]
    assert peer.sent == [START, MORE, MORE, LAST]
    assert span_tree(exporter.spans) == "GET\n  chunk\n  chunk\n  background task"


@pytest.mark.parametrize(
    "last",
    [
        {"type": "http.response.pathsend", "path": "/a"},
        {"type": "http.response.zerocopysend", "file": 3},
        {"type": "http.response.body", "more_body": False},
    ],
)
def test_every_message_that_completes_a_response_ends_the_span(exporter, last):
    async def app(scope, receive, send):
        await send(START)
        await send(last)
        assert scope[SPAN_KEY].ended
        await send({"type": "http.response.trailers", "headers": []})

    run(TraceMiddleware(app)(request_scope(), at_once, at_once))
    assert span_tree(exporter.spans) == "GET"


def test_an_app_that_returns_before_its_response_is_complete_is_an_error(exporter):
    async def app(scope, receive, send):
        await send(START)
        await send(MORE)

    run(TraceMiddleware(app)(request_scope(), at_once, at_once))
    assert exporter.spans[0].status == ("error", "the app returned before its response was complete")


def test_an_exception_is_recorded_once_and_raised_unchanged(exporter):
    boom = ValueError("boom")

    async def app(scope, receive, send):
        with tracekit.span("work"):
            raise boom

    with pytest.raises(ValueError, match="boom") as caught:
        run(TraceMiddleware(app)(request_scope(), at_once, at_once))
    assert caught.value is boom
    assert caught.value.__context__ is None
    assert span_tree(exporter.spans) == "GET [error]\n  work [error]"
    assert [len(span.events) for span in exporter.spans] == [1, 0]
    (span,) = [span for span in exporter.spans if span.kind == "server"]
    assert span.status.description == "ValueError: boom"
    assert span.attributes["error.type"] == "ValueError"
    assert span.attributes["http.response.status_code"] == 500  # sent by the server, or by a layer around


def test_an_app_that_returns_without_an_answer_is_a_500_too(exporter):
    async def app(scope, receive, send):
        pass

    run(TraceMiddleware(app)(request_scope(), at_once, at_once))
    (span,) = exporter.spans
    assert span.status == ("error", "the app returned before its response was complete")
    assert span.attributes["http.response.status_code"] == 500


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exception_that_ends_the_process_or_task_is_no_500(exporter, error):
    async def app(scope, receive, send):
        raise error

    with pytest.raises(error):
        run(TraceMiddleware(app)(request_scope(), at_once, at_once))
    assert "http.response.status_code" not in exporter.spans[0].attributes


def test_an_exception_after_the_start_of_the_response_keeps_its_status(exporter):
    async def app(scope, receive, send):
        await send({**START, "status": http.HTTPStatus.CREATED})
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        run(TraceMiddleware(app)(request_scope(), at_once, at_once))
    (span,) = exporter.spans
    assert span.status.code == "error"
    assert span.attributes["http.response.status_code"] == 201
    assert type(span.attributes["http.response.status_code"]) is int


def test_an_unhandled_exception_inside_starlette_is_a_500(exporter):
    async def boom(request):
        raise ValueError("boom")

    app = Starlette(routes=[Route("/boom", boom)])
    app.add_middleware(TraceMiddleware)
    with pytest.raises(ValueError, match="boom"):
        run(app(request_scope(path="/boom", raw_path=b"/boom"), at_once, at_once))
    (span,) = exporter.spans
    assert (span.name, span.attributes["http.response.status_code"]) == ("GET /boom", 500)


def test_the_exception_that_caused_a_500_is_on_the_span(exporter):
    async def app(scope, receive, send):
        await send({**START, "status": 500})
        await send(LAST)
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        run(TraceMiddleware(app)(request_scope(), at_once, at_once))
    (span,) = exporter.spans
    assert [event.attributes["exception.message"] for event in span.events] == ["boom"]
    assert span.attributes["error.type"] == "ValueError"
    assert span.attributes["http.response.status_code"] == 500


def test_an_exception_after_a_complete_response_is_no_error_of_the_request(exporter):
    async def app(scope, receive, send):
        await answer(scope, receive, send)
        with tracekit.span("background task"):
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        run(TraceMiddleware(app)(request_scope(), at_once, at_once))
    assert span_tree(exporter.spans) == "GET\n  background task [error]"


def test_an_exception_that_ends_a_send_is_freed_when_it_was_handled(exporter):
    ended = []

    async def app(scope, receive, send):
        try:
            await send(START)
        except asyncio.CancelledError as error:
            ended.append(weakref.ref(error))
            raise

    async def send(message):
        await asyncio.Event().wait()

    async def serve():
        with contextlib.suppress(asyncio.CancelledError):
            await TraceMiddleware(app)(request_scope(), None, send)

    async def main():
        served = asyncio.ensure_future(serve())
        await asyncio.sleep(0)
        served.cancel()
        await served
        return ended[0]() is None

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(main())
    finally:
        gc.enable()


@pytest.mark.anyio
async def test_a_cancelled_request_is_cancelled_and_no_error(exporter):
    async def app(scope, receive, send):
        await send(START)
        tasks.cancel_scope.cancel()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(TraceMiddleware(app), request_scope(), None, Peer().send)
    (span,) = exporter.spans
    assert span.status.code == "cancelled"
    assert span.events == ()
    assert "error.type" not in span.attributes
    assert span.attributes["http.response.status_code"] == 200


@pytest.mark.anyio
async def test_a_disconnect_received_by_the_app_ends_the_span_as_cancelled(exporter):
    async def app(scope, receive, send):
        await send(START)
        assert (await receive())["type"] == "http.disconnect"
        assert scope[SPAN_KEY].ended
        with tracekit.span("clean up"):
            pass
        raise ConnectionError("as Starlette does for who was reading the body")

    peer = Peer({"type": "http.disconnect"})
    with pytest.raises(ConnectionError):
        await TraceMiddleware(app)(request_scope(), peer.receive, peer.send)
    assert span_tree(exporter.spans) == "GET [cancelled]\n  clean up"
    (span,) = [span for span in exporter.spans if span.kind == "server"]
    assert span.status.description == "the client disconnected"
    assert [event.name for event in span.events] == ["disconnect"]


@pytest.mark.anyio
@pytest.mark.parametrize("message", [START, MORE, LAST], ids=["start", "more", "last"])
async def test_a_failing_send_means_that_the_client_has_gone(exporter, message):
    async def app(scope, receive, send):
        await send(message)

    async def send(message):
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await TraceMiddleware(app)(request_scope(), None, send)
    (span,) = exporter.spans
    assert span.status.code == "cancelled"
    assert [event.name for event in span.events] == ["disconnect"]


@pytest.mark.anyio
async def test_a_disconnect_after_a_complete_response_is_ignored(exporter):
    disconnect = {"type": "http.disconnect"}
    received = []

    async def app(scope, receive, send):
        async with anyio.create_task_group() as tasks:

            async def listen():
                received.append(await receive())

            tasks.start_soon(listen)
            await send(START)
            await send(LAST)

    is_over = anyio.Event()

    async def receive():
        await is_over.wait()
        return disconnect

    async def send(message):
        if message is LAST:  # the server reports the disconnect before send() returns
            is_over.set()
            while not received:
                await anyio.lowlevel.checkpoint()

    await TraceMiddleware(app)(request_scope(), receive, send)
    assert received == [disconnect]
    assert span_tree(exporter.spans) == "GET"
    assert exporter.spans[0].events == ()


# Transparency


@pytest.mark.parametrize(
    "scope", [{"type": "lifespan", LIFESPAN_KEY: True}, {"type": "of tomorrow"}, {"type": None}, {"type": []}, {}]
)
def test_other_scopes_are_passed_on_unchanged(exporter, scope):
    seen = []

    async def app(*arguments):
        seen.extend(arguments)

    before = dict(scope)
    run(TraceMiddleware(app)(scope, at_once, answer))
    assert seen[0] is scope
    assert seen[1:] == [at_once, answer]
    assert scope == before
    assert exporter.spans == []


def test_the_channels_of_an_unrecorded_request_are_not_wrapped():
    seen = []

    async def app(scope, receive, send):
        seen.extend([receive, send, tracekit.current_context().trace_id])

    run(TraceMiddleware(app)(request_scope(CALLER), at_once, answer))
    assert seen == [at_once, answer, TRACE_ID]


def test_no_attributes_are_made_for_an_unsampled_request(exporter):
    seen = []

    async def app(scope, receive, send):
        seen.extend([receive, send, tracekit.current_context().sampled])

    run(TraceMiddleware(app)(request_scope(UNSAMPLED, scheme=Broken()), at_once, answer))
    assert seen == [at_once, answer, False]
    assert exporter.spans == []


def test_layers_around_find_the_span_in_the_scope(exporter):
    found = []

    async def outer(scope, receive, send):
        await TraceMiddleware(answer)(scope, receive, send)
        found.append(scope[SPAN_KEY])

    run(outer(request_scope(), at_once, at_once))
    assert found == exporter.spans


class Sealed(UserDict):
    """A server's own mapping that takes no key of another's."""

    def __setitem__(self, key, value):
        if key == SPAN_KEY:
            raise TypeError("sealed")
        super().__setitem__(key, value)


def test_a_scope_that_takes_no_key_is_served_without_tracing_and_the_span_ends(exporter):
    seen = []

    async def app(scope, receive, send):
        seen.append((scope["path"], tracekit.current_span(), receive, send))

    run(TraceMiddleware(app)(Sealed(request_scope(path="/a")), at_once, at_once))
    assert seen == [("/a", None, at_once, at_once)]
    (span,) = exporter.spans
    assert (span.name, span.status) == ("GET", tracekit.Status("unset"))


def test_a_second_middleware_inside_does_nothing(exporter):
    run(TraceMiddleware(TraceMiddleware(answer))(request_scope(CALLER), at_once, at_once))
    assert span_tree(exporter.spans) == "GET <- remote"


@pytest.mark.parametrize("mapping", [dict, UserDict])
def test_headers_that_can_be_read_only_once_still_reach_the_app(exporter, mapping):
    seen = []

    async def app(scope, receive, send):
        seen.extend(scope["headers"])

    headers = [CALLER, (b"host", b"shop.example")]
    run(TraceMiddleware(app)(mapping(request_scope(headers=iter(headers))), at_once, at_once))
    assert seen == headers
    assert exporter.spans[0].context.trace_id == TRACE_ID
    assert exporter.spans[0].attributes["server.address"] == "shop.example"


def test_a_hook_that_is_interrupted_leaves_no_span_current(exporter):
    def interrupted(span, scope):
        raise KeyboardInterrupt

    serving = TraceMiddleware(answer, on_request=interrupted)(request_scope(), at_once, at_once)
    with pytest.raises(KeyboardInterrupt):
        serving.send(None)
    assert tracekit.current_span() is None
    assert [span.name for span in exporter.spans] == ["GET"]
