"""The ASGI middleware around an application that does next to nothing, without a server."""

from __future__ import annotations

import asyncio

import pytest

import tracekit
from tracekit.integrations.asgi import TraceMiddleware

from . import inputs

REQUESTS = 100


async def _hello(_scope, _receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize("mode", ["bare", "unconfigured", "unsampled", "recorded"])
@pytest.mark.parametrize("app", ["trivial", "starlette"])
def bench_100_requests(benchmark, configure, app, mode):
    """Time 100 requests, one after the other, in one task."""
    application = _hello if app == "trivial" else inputs.application()
    if mode != "bare":
        application = TraceMiddleware(application)
    if mode in {"recorded", "unsampled"}:
        configure(sampler=tracekit.AlwaysOn() if mode == "recorded" else tracekit.AlwaysOff())
    scope = inputs.HTTP_SCOPE
    if mode == "unsampled":  # the caller decides; ask for a new trace
        scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"traceparent"]}

    async def serve():
        for _ in range(REQUESTS):
            await application(dict(scope), inputs.receive, inputs.send)

    with asyncio.Runner() as runner:
        benchmark(lambda: runner.run(serve()))


@pytest.mark.parametrize("kind", ["lifespan", "http"])
def bench_middleware_passes_through(benchmark, kind):
    """Time one scope that is left alone, or served with nothing configured."""

    async def nothing(scope, receive, send):
        pass

    app = TraceMiddleware(nothing)
    scope = {**inputs.HTTP_SCOPE, "type": kind}

    def call():
        try:
            app(dict(scope), inputs.receive, inputs.send).send(None)
        except StopIteration:
            pass

    benchmark(call)
