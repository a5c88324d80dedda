"""``instrument()`` for Flask and Django, and the WSGI middleware under real servers."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import subprocess
import sys
import threading
from wsgiref.simple_server import WSGIRequestHandler, make_server

import django
import flask
import httpx
import pytest
from asgiref.wsgi import WsgiToAsgi
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.base import BaseHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path, re_path
from starlette.applications import Starlette
from starlette.testclient import TestClient
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.serving import make_server as make_werkzeug
from werkzeug.test import Client, EnvironBuilder

import tracekit
from tracekit.integrations import asgi, http_server, wsgi
from tracekit.integrations.wsgi import TraceMiddleware
from tracekit.testing import span_tree

from .peer import SPAN_ID, TRACE_ID
from .servers import spans_of, until

HEADERS = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"}
CALLS = (flask.Flask.__call__, WSGIHandler.__call__)


@pytest.fixture(autouse=True)
def undo():
    resolve = BaseHandler.resolve_request
    yield
    wsgi.uninstrument()
    assert (flask.Flask.__call__, WSGIHandler.__call__) == CALLS
    BaseHandler.resolve_request = resolve


def make_flask():
    app = flask.Flask("shop")

    @app.get("/items/<int:id>")
    def item(id):
        with tracekit.span("work"):
            return str(id)

    @app.get("/stream")
    def stream():
        @flask.stream_with_context
        def parts():
            for number in range(2):
                with tracekit.span(f"part {number}"):
                    yield flask.request.path

        return parts()

    @app.get("/boom")
    def boom():
        raise ValueError("boom")

    @app.get("/file")
    def file():
        return flask.send_file(__file__)

    return app


def make_django():
    def item(request, id):
        with tracekit.span("work"):
            return HttpResponse(str(id))

    def stream(request):
        def parts():
            for number in range(2):
                with tracekit.span(f"part {number}"):
                    yield b"/stream"

        return StreamingHttpResponse(parts())

    def boom(request):
        raise ValueError("boom")

    urls = [path("items/<int:id>", item), path("stream", stream), path("boom", boom), re_path(r"^old/(\d+)$", item)]
    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["*"], SECRET_KEY="x", LOGGING_CONFIG=None)
        django.setup()
    settings.ROOT_URLCONF = type("urls", (), {"urlpatterns": urls})
    return WSGIHandler()


MAKERS = {"flask": (make_flask, "/items/<int:id>"), "django": (make_django, "/items/<int:id>")}


@pytest.fixture(params=MAKERS)
def framework(request):
    return request.param


def get(app, path, **headers):
    """Return the status of a request, read to its end and closed."""
    with contextlib.closing(Client(app).get(path, headers=headers)) as response:
        response.get_data()
        return response.status_code


def tree(exporter):
    found = span_tree(exporter.spans)
    exporter.clear()
    return found


@pytest.mark.parametrize("is_one", [False, True])
def test_an_application_is_traced_from_instrument_to_uninstrument(exporter, framework, is_one):
    make, route = MAKERS[framework]
    app, other = make(), make()
    get(app, "/items/3")
    assert tree(exporter) == "work"
    target = app if is_one else None
    wsgi.instrument(target)
    wsgi.instrument(target)
    for _ in range(2):
        assert get(app, "/items/3", **HEADERS) == 200
        assert tree(exporter) == f"GET {route} <- remote\n  work"
    get(other, "/items/3")
    assert tree(exporter) == ("work" if is_one else f"GET {route}\n  work")
    wsgi.uninstrument(target)
    wsgi.uninstrument(target)
    get(app, "/items/3")
    assert tree(exporter) == "work"


def test_parts_of_a_stream_and_errors(exporter, framework):
    app = MAKERS[framework][0]()
    wsgi.instrument(app)
    assert get(app, "/stream") == 200
    assert tree(exporter) == "GET /stream\n  part 0\n  part 1"
    assert get(app, "/boom") == 500
    (span,) = exporter.spans
    assert (span.name, span.status.code) == ("GET /boom", "error")
    exporter.clear()
    assert get(app, "/nowhere") == 404
    assert tree(exporter) == "GET"
    wsgi.uninstrument(app)


def test_the_route_of_django_is_named_under_a_plain_middleware(exporter):
    app = TraceMiddleware(make_django())
    get(app, "/old/3")
    assert tree(exporter) == r"GET /^old/(\d+)$" + "\n  work"


def test_callers_of_djangos_handler_get_its_response(exporter):
    app = TraceMiddleware(make_django())
    response = app(EnvironBuilder("/items/3").get_environ(), lambda status, headers, exc_info=None: None)
    assert (response.status_code, response.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert bytes(response) == b"Content-Type: text/html; charset=utf-8\r\n\r\n3"
    with pytest.raises(AttributeError, match="HttpResponse"):
        response.unknown
    assert copy.copy(response).status_code == 200
    response.close()
    assert response.closed
    assert tree(exporter) == "GET /items/<int:id>\n  work"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/items/3", "GET /items/<int:id>\n  work"),
        ("/old/3", r"GET /^old/(\d+)$" + "\n  work"),
        ("/nowhere", "GET"),
    ],
)
def test_the_route_of_django_is_named_under_asgi(exporter, path, expected):
    make_django()
    app = asgi.TraceMiddleware(ASGIHandler())

    async def main():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
            await client.get(path)

    asyncio.run(main())
    assert tree(exporter) == expected


@pytest.mark.parametrize("is_single", [False, True])
def test_djangos_asgi_application_is_instrumented(exporter, is_single):
    make_django()
    app = ASGIHandler()
    target = app if is_single else None
    sent = []

    async def main():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
            assert (await client.get("/items/3")).status_code == 200

    async def lifespan():
        messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

        async def receive():
            return next(messages)

        async def send(message):
            sent.append(message["type"])

        await app({"type": "lifespan"}, receive, send)

    asgi.instrument(target)
    try:
        asyncio.run(main())
        asyncio.run(lifespan())
    finally:
        asgi.uninstrument(target)
    asyncio.run(main())
    assert tree(exporter) == "GET /items/<int:id>\n  work\nwork"
    # Django has no such protocol: it is answered for, so that spans are exported at the shutdown.
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_flask_and_django_below_one_dispatcher_name_their_routes(exporter):
    app = TraceMiddleware(DispatcherMiddleware(make_flask(), {"/admin": make_django()}))
    get(app, "/items/3")
    assert tree(exporter) == "GET /items/<int:id>\n  work"
    get(app, "/admin/items/3")
    assert tree(exporter) == "GET /admin/items/<int:id>\n  work"


def test_the_route_below_a_dispatcher_has_its_prefix(exporter):
    app = TraceMiddleware(DispatcherMiddleware(make_flask(), {"/shop": make_flask()}))
    get(app, "/shop/items/3")
    assert tree(exporter) == "GET /shop/items/<int:id>\n  work"


def test_the_options_of_one_application_come_before_those_of_all(exporter):
    app, other = make_flask(), make_flask()
    wsgi.instrument(exclude=["/items"])
    wsgi.instrument(app, exclude=["/boom"])
    for one in (app, other):
        get(one, "/items/3")
        get(one, "/boom")
    assert tree(exporter) == "GET /items/<int:id>\n  work\nGET /boom [error]"
    wsgi.uninstrument(app)


@pytest.mark.parametrize("target", [object(), flask.Flask, "app", TraceMiddleware(lambda *_: [])])
def test_another_object_is_rejected(target):
    for call in (wsgi.instrument, wsgi.uninstrument):
        with pytest.raises(TypeError, match="Flask"):
            call(target)


@pytest.mark.parametrize("options", [{"exclude": "x"}, {"no_such": 1}])
def test_invalid_options_are_rejected_and_change_nothing(options):
    with pytest.raises(TypeError):
        wsgi.instrument(**options)
    assert flask.Flask.__call__ is CALLS[0]


# Servers


class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


def wsgiref(app):
    return make_server("127.0.0.1", 0, app, handler_class=Quiet)


def werkzeug(app):
    return make_werkzeug("127.0.0.1", 0, app, threaded=True)


@pytest.mark.parametrize("make", [wsgiref, werkzeug])
def test_a_request_over_a_socket(exporter, make):
    app = make_flask()
    wsgi.instrument(app)
    http_server.instrument()  # which leaves these requests to the other
    server = make(app)
    port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            assert client.get("/items/3", headers=HEADERS).text == "3"
            assert client.get("/stream").text == "/stream/stream"
            assert client.head("/file").status_code == 200
            assert client.get("/file").status_code == 200
        spans_of(exporter, 7)
    finally:
        server.shutdown()
        thread.join(20)
        server.server_close()
        wsgi.uninstrument(app)
        http_server.uninstrument()
    assert tree(exporter) == (
        "GET /items/<int:id> <- remote\n  work\nGET /stream\n  part 0\n  part 1\nHEAD /file\nGET /file"
    )


def test_a_flask_application_inside_one_of_starlette_is_in_its_trace(exporter):
    app, outer = make_flask(), Starlette()
    outer.mount("/shop", WsgiToAsgi(app))
    tracekit.instrument(app, outer)
    assert TestClient(outer).get("/shop/stream", headers=HEADERS).text == "/stream" * 2
    tracekit.uninstrument(app, outer)
    assert tree(exporter) == "GET /shop <- remote\n  GET /stream\n    part 0\n    part 1"


def test_django_may_be_imported_after_instrument():
    """As it is under ``tracekit run``: the module of its handler is imported after the package."""
    script = "\n".join(
        [
            "import tracekit",
            "from tracekit.testing import MemoryExporter",
            "exporter = MemoryExporter(); tracekit.configure(exporter=exporter)",
            "tracekit.instrument('wsgi')",
            "from django.conf import settings",
            "settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=['*'], LOGGING_CONFIG=None)",
            "from django.core.wsgi import get_wsgi_application",
            "from django.http import HttpResponse",
            "from django.urls import path",
            "from werkzeug.test import Client",
            "urlpatterns = [path('items/<int:id>', lambda request, id: HttpResponse(id))]",
            "print(Client(get_wsgi_application()).get('/items/3').text)",
            "print([span.name for span in exporter.spans])",
        ]
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == ["3", "['GET /items/<int:id>']"], done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn needs fork")
@pytest.mark.parametrize("kind", ["sync", "gthread"])
def test_gunicorn_serves_lists_streams_and_files(tmp_path, kind):
    (tmp_path / "shop.py").write_text(
        "import tracekit\n"
        "from tests.integrations.test_wsgi_servers import make_flask\n"
        "from tracekit.integrations import wsgi\n"
        "class Printed:\n"
        "    def export(self, spans):\n"
        "        with open('spans', 'a') as file:\n"
        "            file.writelines(f'{span.name} {span.kind}\\n' for span in spans)\n"
        "    def shutdown(self): pass\n"
        "tracekit.configure(exporter=Printed(), export_interval_s=0.05)\n"
        "app = make_flask()\n"
        "wsgi.instrument(app)\n"
    )
    command = [sys.executable, "-m", "gunicorn", "shop:app", "-b", "unix:socket", "-k", kind, "--no-control-socket"]
    command += ["--timeout", "300"]  # it kills a worker that takes longer, to start too
    server = subprocess.Popen(command, cwd=tmp_path, env=_environment(), stderr=subprocess.PIPE)
    try:
        until(lambda: (tmp_path / "socket").exists() or server.poll() is not None)
        assert server.poll() is None, server.stderr.read()
        transport = httpx.HTTPTransport(uds=str(tmp_path / "socket"), retries=3)
        with httpx.Client(
            transport=transport, base_url="http://shop.example", timeout=60
        ) as client:  # it still imports
            assert client.get("/items/3", headers=HEADERS).text == "3"
            assert client.get("/stream").text == "/stream/stream"
            assert client.get("/file").status_code == 200
        spans = tmp_path / "spans"
        until(lambda: spans.exists() and len(spans.read_text().splitlines()) == 6)
        assert [line for line in spans.read_text().splitlines() if line.endswith("server")] == [
            "GET /items/<int:id> server",
            "GET /stream server",
            "GET /file server",
        ]
    finally:
        server.terminate()
        server.wait(20)
        server.stderr.close()


def _environment():
    import os
    from pathlib import Path

    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
