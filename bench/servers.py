"""Print the time that tracing adds to a request of a server, beside OpenTelemetry: ``python -m bench.servers``.

See ``bench/added.py`` for the method. There is no server: the middleware is called as a server calls it, around an
application that answers a few bytes; Starlette's for ASGI. ``bench.service`` measures in a real server. OpenTelemetry's
ASGI middleware leaves out its spans for each receive and send, which the other contenders do not make.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from . import inputs
from .added import CONTRIB, Bench, Row, contrib, main

if TYPE_CHECKING:
    from collections.abc import Callable

MANY = 50  # requests in one run of an event loop


def asgi(contender: str) -> Callable[[], object]:
    app = inputs.application()
    if contender == "tracekit":
        from tracekit.integrations.asgi import TraceMiddleware

        app = TraceMiddleware(app)
    elif contender in CONTRIB:
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

        app = OpenTelemetryMiddleware(app, exclude_spans=["receive", "send"])
    runner = asyncio.Runner()

    async def many() -> None:
        for _ in range(MANY):
            await app(dict(inputs.HTTP_SCOPE), inputs.receive, inputs.send)

    return lambda: runner.run(many())


def wsgi(contender: str) -> Callable[[], object]:
    app: Callable[..., object] = inputs.wsgi_application
    if contender == "tracekit":
        from tracekit.integrations.wsgi import TraceMiddleware

        app = TraceMiddleware(inputs.wsgi_application)
    elif contender in CONTRIB:
        from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware

        app = OpenTelemetryMiddleware(inputs.wsgi_application)
    return lambda: inputs.serve_wsgi(app)


ROWS = {"ASGI request": Row(asgi, 6, units=MANY), "WSGI request": Row(wsgi, 6)}


def tracekit() -> Callable[[], object]:
    import tracekit

    from .contender_tracekit import record

    record()
    return tracekit.flush


BENCH = Bench("bench.servers", ROWS, {"tracekit": tracekit, **contrib(lambda: None)}, ("asgi", "wsgi"))

if __name__ == "__main__":
    sys.exit(main(BENCH))
