"""Rows 10, 11 and 16: a response that streams, what reaches the layers around an endpoint, and where server spans start."""

from __future__ import annotations

import anyio
import anyio.to_thread
import h11
from anyio.lowlevel import checkpoint

from .scenario import ASYNCIO, cases, scenario

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def request(app, *, path="/", headers=(), disconnect=False):
    """Call an ASGI application as a server does; return the body."""
    sent = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1234),
        "state": {},
        "extensions": {},
    }
    asked = False

    async def receive():
        nonlocal asked
        if disconnect and asked:
            return {"type": "http.disconnect"}
        asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        await checkpoint()
        sent.append(message)

    await app(scope, receive, send)
    return b"".join(message.get("body", b"") for message in sent)


async def respond(send, *chunks):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for chunk in chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


# ---- row 10: a response that streams


@scenario(
    row=10,
    title="the chunks of a streamed response are children of the server span",
    expect="""
    server
      chunk
      chunk
    """,
)
async def streamed(t):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(2):
            t.mark("chunk")
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    await request(t.asgi(app))


@scenario(
    row=10,
    title="the body is a generator that threads step in turn, as a framework streams one",
    expect="""
    server
      receipt
        line
        line
    """,
)
async def streamed_from_threads(t):
    @t.traced("receipt")
    def receipt():
        for _ in range(2):
            with t.span("line"):
                yield b"x"

    async def app(scope, receive, send):
        chunks = receipt()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while chunk := await anyio.to_thread.run_sync(next, chunks, b""):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    await request(t.asgi(app))


@scenario(
    row=10,
    title="the server span ends with the last chunk, not with the endpoint",
    expect="""
    server
      late
    """,
)
async def ends_with_the_body(t):
    ended = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        ended.append(t.node("server").name == "server")
        t.mark("late")
        await send({"type": "http.response.body", "body": b""})

    await request(t.asgi(app))
    t.check(ended == [False], "ends early")


@scenario(
    row=10,
    title="a background task after the response is still part of the trace",
    expect="""
    server
      background
    """,
)
async def background(t):
    async def app(scope, receive, send):
        await respond(send, b"x")
        t.mark("background")

    await request(t.asgi(app))


@scenario(
    row=10,
    title="an endpoint whose task is cancelled is no error",
    expect="""
    after
    server [cancelled]
      work [cancelled]
    """,
)
async def cancelled(t):
    async def app(scope, receive, send):
        with t.span("work"):
            scope_to_cancel.cancel()
            await anyio.sleep(1)

    with anyio.CancelScope() as scope_to_cancel:
        await request(t.asgi(app))
    t.mark("after")


# ---- row 11: upward


@scenario(
    row=11,
    title="what the endpoint notes on the current span is on the server span",
    expect="""
    server
    """,
)
async def endpoint_attribute(t):
    noted = []

    async def app(scope, receive, send):
        noted.append(t.current())
        if t.name == "tracekit":
            scope["tracekit.span"].set_attribute("user", "42")
        await respond(send)

    await request(t.asgi(app))
    if t.name == "tracekit":
        t.check(("user", "42") in t.node("server").attributes, "lost attribute")


@scenario(
    row=11,
    title="a span that a dependency opens in a thread is not current in the endpoint",
    expect="""
    server
      dependency
        endpoint
    """,
    actual="""
    server
      dependency
      endpoint
    """,
    instead="`scope['tracekit.span']`, or `current_span().set_attribute()`",
)
async def dependency_in_thread(t):
    def dependency():
        t.kept.append(t.span("dependency"))
        t.kept[-1].__enter__()

    def clean_up():
        t.kept.pop().__exit__(None, None, None)

    async def app(scope, receive, send):
        await anyio.to_thread.run_sync(dependency)
        t.mark("endpoint")
        await anyio.to_thread.run_sync(clean_up)
        await respond(send)

    await request(t.asgi(app))


@scenario(
    row=11,
    title="labels that the endpoint sets are not in force in the middleware around it, and do not stay for the next request",
    expect="""
    after
    server
    """,
)
async def labels_stay_below(t):
    async def app(scope, receive, send):
        t.kept.append(t.labels(tenant="acme"))
        t.kept[-1].__enter__()
        await respond(send)

    async def one_request():
        await request(t.asgi(app))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one_request)
    with t.span("after"):
        t.check("tenant" not in t.current_labels(), "labels leak")


# ---- row 16: server spans


@scenario(
    row=16,
    title="a request without a header, handled where another span is current",
    expect="""
    ambient
    server
    """,
)
async def never_ambient(t):
    async def app(scope, receive, send):
        await respond(send)

    with t.span("ambient"):
        await request(t.asgi(app))


@scenario(
    row=16,
    title="a request with a header, handled where another span is current",
    expect="""
    ambient
    server <- remote
      work
    """,
)
async def own_headers(t):
    async def app(scope, receive, send):
        t.mark("work")
        await respond(send)

    with t.span("ambient"):
        await request(t.asgi(app), headers=[(b"traceparent", PARENT.encode())])


@scenario(
    row=16,
    title="two `traceparent` headers are none",
    expect="""
    server
    """,
)
async def two_parents(t):
    other = PARENT.replace("4bf92f", "000001")

    async def app(scope, receive, send):
        await respond(send)

    headers = [(b"traceparent", PARENT.encode()), (b"traceparent", other.encode())]
    await request(t.asgi(app), headers=headers)


class Protocol:
    """An asyncio server's connection that pauses reading when it has a request, and resumes it in that request's task.

    As real servers do: ``resume_reading()`` keeps the Context of its caller, and what comes next is read in there.
    """

    def __new__(cls, app):
        import asyncio

        class Connection(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport
                self.peer = h11.Connection(h11.SERVER)

            def data_received(self, data):
                self.peer.receive_data(data)
                if isinstance(self.peer.next_event(), h11.Request):
                    self.transport.pause_reading()
                    self.task = asyncio.get_running_loop().create_task(self.answer())

            async def answer(self):
                await request(self.within(app))

            def within(self, app):
                async def wrapped(scope, receive, send):
                    async def sending(message):
                        await send(message)
                        if message["type"] == "http.response.body" and not message.get("more_body"):
                            while self.peer.their_state is h11.SEND_BODY:
                                self.peer.next_event()
                            answer = h11.Response(status_code=200, headers=[("content-length", "0")])
                            self.transport.write(self.peer.send(answer) + self.peer.send(h11.EndOfMessage()))
                            self.peer.start_next_cycle()
                            self.transport.resume_reading()

                    await app(scope, receive, sending)

                return wrapped

        return Connection()


@scenario(
    row=16,
    title="a second request on a kept-alive connection, after asyncio's `resume_reading` in the first",
    expect="""
    server
      work
    server
      work
    """,
    backends=ASYNCIO,
)
async def keep_alive(t):
    import asyncio

    async def app(scope, receive, send):
        with t.span("work"):
            await respond(send)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Protocol(t.asgi(app)), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    for _ in range(2):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0)
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


test_http = cases(globals())
