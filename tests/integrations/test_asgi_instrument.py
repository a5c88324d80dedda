"""``instrument()`` for Starlette and FastAPI applications, single ones and all."""

from __future__ import annotations

import asyncio
import copy
import subprocess
import sys

import flask
import httpx
import pytest
from fastapi import FastAPI, WebSocket
from fastapi.exceptions import RequestValidationError
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

import tracekit
from tracekit.integrations import _http, asgi
from tracekit.integrations.asgi import TraceMiddleware
from tracekit.testing import span_tree

from .peer import CALLER, LAST, MORE, START, TRACE_ID, Broken, Peer, request_scope, run
from .servers import serve, spans_of

HEADERS = {"traceparent": CALLER[1].decode()}
CALLS = (Starlette.__call__, FastAPI.__call__, RequestValidationError.__init__)


@pytest.fixture(autouse=True)
def undo():
    yield
    asgi.uninstrument()
    assert (Starlette.__call__, FastAPI.__call__, RequestValidationError.__init__) == CALLS


@pytest.fixture
def instrumented():
    """Instrument single applications, and undo that after the test."""
    apps = []

    def one(app, **options):
        asgi.instrument(app, **options)
        apps.append(app)
        return app

    yield one
    for app in apps:
        asgi.uninstrument(app)


def item(request):
    with tracekit.span("work"):
        return PlainTextResponse("x", background=BackgroundTask(later))


def later():
    with tracekit.span("later"):
        pass


def boom(request):
    raise ValueError("boom")


async def room(websocket):
    await websocket.accept()
    await websocket.send_text(tracekit.current_span().name)
    await websocket.close()


def starlette(**options):
    routes = [Route("/items/{id}", item), Route("/boom", boom), WebSocketRoute("/rooms/{name}", room)]
    return Starlette(routes=routes, **options)


def fastapi():
    app = FastAPI()

    @app.get("/items/{id}")
    def one(id: int, size: int = 1):
        with tracekit.span("work"):
            return {"id": id}

    @app.get("/boom")
    def fail():
        raise ValueError("boom")

    @app.websocket("/rooms/{number}")
    async def rooms(websocket: WebSocket, number: int):
        await websocket.accept()
        await websocket.close()

    return app


def client(app):
    return TestClient(app, raise_server_exceptions=False)


def tree(exporter):
    found = span_tree(exporter.spans)
    exporter.clear()
    return found


@pytest.mark.parametrize("make", [starlette, fastapi])
@pytest.mark.parametrize("is_built", [False, True])
@pytest.mark.parametrize("is_one", [False, True])
def test_an_application_is_traced_from_instrument_to_uninstrument(exporter, make, is_built, is_one):
    app, other = make(), make()
    if is_built:
        client(app).get("/items/1")
        exporter.clear()
    target = app if is_one else None
    asgi.instrument(target)
    asgi.instrument(target)
    for _ in range(2):
        assert client(app).get("/items/1", headers=HEADERS).status_code == 200
        assert tree(exporter).startswith("GET /items/{id} <- remote\n  work")
    client(other).get("/items/1", headers=HEADERS)
    assert tree(exporter).startswith("work" if is_one else "GET /items/{id} <- remote\n  work")
    asgi.uninstrument(target)
    asgi.uninstrument(target)
    assert client(app).get("/items/1", headers=HEADERS).status_code == 200
    assert tree(exporter).startswith("work")


@pytest.mark.parametrize("make", [starlette, fastapi])
def test_a_500_is_seen_outside_the_servers_error_middleware(exporter, instrumented, make):
    app = instrumented(make())
    assert client(app).get("/boom").status_code == 500
    (span,) = exporter.spans
    assert span_tree([span]) == "GET /boom [error]"
    assert span.attributes["http.response.status_code"] == 500
    assert span.attributes["error.type"] == "ValueError"
    assert [event.name for event in span.events] == ["exception"]


def test_the_span_surrounds_the_applications_own_middleware(exporter, instrumented):
    class Noting:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            with tracekit.span("middleware"):
                await self.app(scope, receive, send)

    app = instrumented(starlette(middleware=[Middleware(Noting)]))
    client(app).get("/items/1")
    assert tree(exporter) == "GET /items/{id}\n  middleware\n    work\n    later"


def test_routes_that_are_added_later_are_named(exporter, instrumented):
    app = instrumented(starlette())
    app.add_route("/late/{id}", item)
    client(app).get("/late/1")
    assert tree(exporter) == "GET /late/{id}\n  work\n  later"


@pytest.mark.parametrize("make", [starlette, fastapi])
def test_a_websocket_is_traced(exporter, instrumented, make):
    with client(instrumented(make())).websocket_connect("/rooms/1", headers=HEADERS) as websocket:
        if make is starlette:
            assert websocket.receive_text() == "WEBSOCKET"
        websocket.receive()
    assert tree(exporter).startswith("WEBSOCKET /rooms/{")


def test_a_mounted_application_has_no_second_span(exporter):
    asgi.instrument()
    app = Starlette(routes=[Mount("/api", fastapi())])
    for _ in range(2):
        client(app).get("/api/items/1")
        assert tree(exporter) == "GET /api/items/{id}\n  work"


def test_the_options_of_one_application_come_before_those_of_all(exporter, instrumented):
    asgi.instrument(exclude=["/items"])
    app, other = instrumented(starlette(), exclude=["/boom"]), starlette()
    for one in (app, other):
        client(one).get("/items/1")
        client(one).get("/boom")
    assert tree(exporter) == "GET /items/{id}\n  work\n  later\nGET /boom [error]"
    asgi.uninstrument(app)
    client(app).get("/items/1")
    assert tree(exporter) == ""


@pytest.mark.parametrize("is_one", [False, True])
def test_a_copy_of_an_application_is_served_itself(exporter, is_one):
    app, flask_app = starlette(), flask.Flask("shop")
    flask_app.add_url_rule("/", "home", lambda: "first")
    for one in (app, flask_app):
        tracekit.instrument(*[one] if is_one else ["asgi", "wsgi"])
    assert client(app).get("/items/1").text == "x"
    assert flask_app.test_client().get("/").text == "first"
    exporter.clear()

    copied, copied_flask = copy.copy(app), copy.copy(flask_app)
    copied.router = Starlette(routes=[Route("/items/{id}", lambda _: PlainTextResponse("copy"))]).router
    copied.middleware_stack = None
    copied_flask.view_functions = {"home": lambda: "copy"}
    assert client(copied).get("/items/1").text == "copy"
    assert copied_flask.test_client().get("/").text == "copy"
    assert [span.name for span in exporter.spans] == ([] if is_one else ["GET /items/{id}", "GET /"])
    exporter.clear()
    for one in (copied, copied_flask):
        tracekit.uninstrument(one)  # which has not been instrumented

    assert client(app).get("/items/1").text == "x"
    assert flask_app.test_client().get("/").text == "first"
    assert [span.name for span in exporter.spans if span.kind == "server"] == ["GET /items/{id}", "GET /"]
    for one in (app, flask_app):
        tracekit.uninstrument(*[one] if is_one else ["asgi", "wsgi"])


def test_options_given_after_uninstrument_hold(exporter):
    app = starlette()
    asgi.instrument(exclude=["/items"])
    client(app).get("/items/1")
    asgi.instrument()
    client(app).get("/items/1")
    assert tree(exporter) == ""
    asgi.uninstrument()
    asgi.instrument()
    client(app).get("/items/1")
    assert tree(exporter) == "GET /items/{id}\n  work\n  later"


def test_an_application_with_its_own_middleware_keeps_its_options(exporter):
    asgi.instrument()
    app = starlette(middleware=[Middleware(TraceMiddleware, exclude=["/items"])])
    client(app).get("/items/1")
    assert tree(exporter) == ""
    client(app).get("/boom")
    assert tree(exporter) == "GET /boom [error]"


@pytest.mark.parametrize("kind", [Starlette, FastAPI])
def test_a_subclass_with_its_own_call_is_traced_inside_it(exporter, kind):
    class Shop(kind):
        async def __call__(self, scope, receive, send):
            scope["path"] = scope["path"].removeprefix("/shop")
            await super().__call__(scope, receive, send)

    asgi.instrument()
    app = Shop()
    app.router.routes.extend((starlette() if kind is Starlette else fastapi()).router.routes)
    client(app).get("/shop/items/1")
    assert tree(exporter).startswith("GET /items/{id}\n  work")


def test_a_scope_that_cannot_be_traced_is_served_once(exporter):
    asgi.instrument()
    app = fastapi()

    async def server(scope, receive, send):
        await app({**scope, "scheme": Broken()}, receive, send)

    assert client(server).get("/items/1").status_code == 200
    assert tree(exporter) == "work"


def test_the_lifespan_runs_once_and_flushes(exporter):
    asgi.instrument()
    app = fastapi()
    with client(app) as running:
        running.get("/items/1")
    assert tree(exporter) == "GET /items/{id}\n  work"


def test_an_error_of_a_middleware_in_the_lifespan_reaches_the_server(exporter):
    class Broken:
        def __init__(self, app):
            pass

        async def __call__(self, scope, receive, send):
            raise ZeroDivisionError

    asgi.instrument()
    with pytest.raises(ZeroDivisionError), client(starlette(middleware=[Middleware(Broken)])):
        pass


@pytest.mark.parametrize("target", [object(), Starlette, PlainTextResponse("x"), Peer().send])
def test_another_object_is_rejected(target):
    with pytest.raises(TypeError, match="Starlette"):
        asgi.instrument(target)
    with pytest.raises(TypeError, match="Starlette"):
        asgi.uninstrument(target)


@pytest.mark.parametrize("target", [None, Starlette()])
@pytest.mark.parametrize("options", [{"exclude": "x"}, {"no_such": 1}])
def test_invalid_options_are_rejected_and_change_nothing(target, options):
    with pytest.raises(TypeError):
        asgi.instrument(target, **options)
    assert Starlette.__call__ is CALLS[0]


def test_uvicorn_sees_a_coroutine_function(exporter):
    asgi.instrument()
    with serve(starlette()) as port:
        assert httpx.get(f"http://127.0.0.1:{port}/items/1", headers=HEADERS, timeout=60).status_code == 200
        spans = spans_of(exporter, 3)
    assert span_tree(spans) == "GET /items/{id} <- remote\n  work\n  later"
    assert {span.context.trace_id for span in spans} == {TRACE_ID}


# Validation errors


def test_an_invalid_request_is_an_event_without_values(exporter, instrumented):
    app = instrumented(fastapi())
    assert client(app).get("/items/s3cr3t?size=s3cr3t").status_code == 422
    (span,) = exporter.spans
    assert span.attributes["http.response.status_code"] == 422
    assert span.status.code == "unset"
    (event,) = span.events
    assert event.name == "validation_error"
    assert event.attributes == {"errors": 2, "places": ("path.id: int_parsing", "query.size: int_parsing")}


def test_an_invalid_websocket_is_an_event(exporter, instrumented):
    app = instrumented(fastapi())
    with pytest.raises(WebSocketDisconnect), client(app).websocket_connect("/rooms/x"):
        pass
    assert [event.name for event in exporter.spans[0].events] == ["validation_error"]


def test_errors_of_any_shape_are_raised_unchanged(monkeypatch, exporter, caplog, instrumented):
    monkeypatch.setattr(_http, "NOTICES", _http.Notices())
    app = instrumented(FastAPI())
    errors = [object(), *[{"loc": ("x" * 10_000,), "type": "y"}] * 100]

    @app.get("/{kind}")
    def fail(kind: str):
        raise RequestValidationError(errors[1:] if kind == "long" else errors)

    @app.exception_handler(RequestValidationError)
    def handle(request, error):
        return PlainTextResponse(str(len(error.errors())), 400)

    assert client(app).get("/long").text == "100"
    (event,) = exporter.spans[0].events
    assert [len(place) for place in event.attributes["places"]] == [128] * 8
    for _ in range(2):
        assert client(app).get("/odd").text == "101"
    assert len(caplog.records) == 1


def test_a_validation_error_outside_a_request_is_not_recorded(exporter, instrumented):
    instrumented(fastapi())
    RequestValidationError([])
    assert tree(exporter) == ""


# FastAPI's and Starlette's own telemetry


@pytest.mark.slow
def test_fastapis_own_spans_do_not_double_ours(exporter):
    script = """
import tracekit
from tracekit.bridges.opentelemetry import install
from tracekit.testing import MemoryExporter, span_tree
exporter = MemoryExporter()
tracekit.configure(exporter=exporter)
from opentelemetry import trace
trace.set_tracer_provider(install())
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tracekit.integrations import _http, asgi
app = FastAPI()
@app.get("/items/{id}")
def item(id: int): return id
def tree():
    TestClient(app).get("/items/1")
    found = span_tree(exporter.spans)
    exporter.clear()
    return found
before = tree()
asgi.instrument()
print(tree())
asgi.uninstrument()
print(tree() == before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == ["GET /items/{id}", "True"], done.stderr


@pytest.mark.slow
def test_starlettes_own_spans_do_not_double_ours():
    script = """
import tracekit
from tracekit.testing import MemoryExporter, span_tree
exporter = MemoryExporter()
tracekit.configure(exporter=exporter)
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from tracekit.integrations import asgi
asgi.instrument()
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
early = trace.get_tracer_provider()
from starlette.middleware.opentelemetry import OpenTelemetryMiddleware
from tracekit.bridges.opentelemetry import install
install()
def made(instruments=False, **options):
    app = Starlette(routes=[Route("/items/{id}", lambda request: PlainTextResponse(""))])
    if instruments:
        asgi.instrument(app)
    app.add_middleware(OpenTelemetryMiddleware, **options)
    return app
def tree(app):
    TestClient(app).get("/items/1")
    found = span_tree(exporter.spans)
    exporter.clear()
    return found
print(tree(made()))
print(tree(made(tracer_provider=early)))
others = InMemorySpanExporter()
sdk = TracerProvider()
sdk.add_span_processor(SimpleSpanProcessor(others))
print(tree(made(tracer_provider=sdk)), [span.name for span in others.get_finished_spans()])
asgi.uninstrument()
print(tree(made()))
print(tree(made(instruments=True)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    ours = "GET /items/{id}"
    assert done.stdout.splitlines() == [ours, ours, f"{ours} ['{ours}']", ours, ours], done.stderr


@pytest.mark.slow
@pytest.mark.one_form  # the order of imports, in processes
@pytest.mark.parametrize("order", ["instrument before FastAPI is imported", "after"])
def test_fastapi_may_be_imported_after_instrument(order):
    lines = ["from tracekit.integrations import asgi; asgi.instrument()", "from fastapi import FastAPI"]
    if order == "after":
        lines.reverse()
    script = "\n".join(
        [
            "import tracekit",
            "from tracekit.testing import MemoryExporter, span_tree",
            "exporter = MemoryExporter(); tracekit.configure(exporter=exporter)",
            *lines,
            "from fastapi.testclient import TestClient",
            "app = FastAPI()",
            "app.get('/items/{id}')(lambda id: id)",
            "for _ in range(3): TestClient(app).get('/items/1')",
            "print(span_tree(exporter.spans), len(exporter.spans))",
        ]
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == ["GET /items/{id}", "GET /items/{id}", "GET /items/{id} 3"], done.stderr


class Step:
    """A point at which the request waits."""

    def __await__(self):
        yield


async def slow_app(scope, receive, send):
    await receive()
    await send(START)
    for _ in range(3):
        await send(MORE)
    await send(LAST)
    await Step()


@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit, ConnectionResetError, ValueError])
def test_a_request_that_is_cancelled_at_any_await_ends_as_without_tracing(exporter, error):
    def outcomes():
        app = Starlette()
        app.middleware_stack = slow_app
        for steps in range(1, 8):
            sent = []

            async def wait(message=None, sent=sent):
                await Step()
                sent.append(message)
                return {"type": "http.request", "body": b"", "more_body": False}

            request = app(request_scope(CALLER), wait, wait)
            for _ in range(steps):
                request.send(None)
            try:
                request.throw(error("stop"))
            except BaseException as end:
                yield type(end), str(end), len(sent)
            assert tracekit.current_span() is None

    bare = list(outcomes())
    assert exporter.spans == []
    asgi.instrument()
    assert list(outcomes()) == bare
    assert len(exporter.spans) == len(bare)
    assert tracekit.statistics().open == 0


def test_a_hostile_scope_reaches_the_application(exporter):
    asgi.instrument()

    class Odd(Starlette):
        pass

    app = Odd()
    seen = []

    async def stack(scope, receive, send):
        seen.append(scope)

    app.middleware_stack = stack
    for scope in (request_scope(), {"type": "http"}, {"type": 3}):
        run(app(scope, None, None))
    assert len(seen) == 3
