"""The processes of ``bench.service``: a server that one contender traces, a collector, a load generator.

``python -m bench.service_child serve CONTENDER URL SHARE PORT APP [--freeze] [--plain]``, ``collect COUNT`` and ``load
HOST PORT PATH SECONDS CONNECTIONS PAUSE_MS``. Each prints its ports or figures as JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

from .service_apps import APPS
from .service_contenders import CONTENDERS, STEP, is_installed

if TYPE_CHECKING:
    from collections.abc import Coroutine


def serve(contender: str, url: str, share: float, port: int, app: str, *flags: str) -> None:
    """Run uvicorn on *port*, which other workers may share, until SIGINT; then print the number of served requests.

    With ``--freeze``, full garbage collections leave out what exists before the first request; with ``--plain``, uvicorn
    uses neither uvloop nor httptools.
    """
    import uvicorn

    tracing = CONTENDERS[contender].start(url, share)
    # With the protocol named, as getaddrinfo() does: asyncio sets TCP_NODELAY only then.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(128)
        listening.setblocking(False)
        own_port = listening.getsockname()[1]
        served, served_app = APPS[app].make(tracing, own_port)
        if "--freeze" in flags:
            gc.collect()
            gc.freeze()
        _print([own_port])
        config = uvicorn.Config(served_app, log_level="warning", access_log=False)
        if "--plain" in flags:
            config.loop, config.http = "asyncio", "h11"
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:  # uvicorn raises the signal again; this process then ends with its exit handlers
            pass
    _print(served())


def _print(figures: object) -> None:
    print(json.dumps(figures), flush=True)


class _Collector(asyncio.Protocol):
    """Reads HTTP requests of a known length, counts the spans in them, and accepts them all."""

    def __init__(self, counts: list[int], place: int) -> None:
        self.counts = counts
        self.place = place
        self.received = bytearray()
        self.size = -1  # of the request that is being received

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        while True:
            if self.size < 0:
                end = self.received.find(b"\r\n\r\n")
                if end < 0:
                    return
                head = bytes(self.received[:end]).lower()
                if b"transfer-encoding: chunked" in head:
                    raise NotImplementedError("the contender sends its request in chunks")
                length = next((line[15:] for line in head.split(b"\r\n") if line.startswith(b"content-length:")), b"0")
                self.size = end + 4 + int(length)
                self.answer = self._answer(head)
            if len(self.received) < self.size:
                return
            self.counts[self.place] += self.received.count(STEP.encode(), 0, self.size)
            del self.received[: self.size]
            self.size = -1
            self.transport.write(self.answer)

    def _answer(self, head: bytes) -> bytes:
        kind, body = b"application/json", b"{}"
        if head.startswith(b"get /info"):  # Datadog's agent
            body = b'{"endpoints": ["/v0.4/traces"], "client_drop_p0s": false}'
        elif b"application/x-protobuf" in head:
            kind, body = b"application/x-protobuf", b""
        return b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (kind, len(body), body)


async def collect(count: int) -> None:
    """Serve *count* collectors until standard input ends, then print how many spans each has received."""
    counts = [0] * count
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(lambda place=place: _Collector(counts, place), "127.0.0.1", 0)  # type: ignore[misc]
        for place in range(count)
    ]
    _print([server.sockets[0].getsockname()[1] for server in servers])
    await loop.run_in_executor(None, sys.stdin.read)
    _print(counts)


class _Client(asyncio.Protocol):
    """Sends the next request, after a pause, when the last one is answered; the answers are short."""

    def __init__(self, request: bytes, deadline: float, pause_s: float, latencies: list[float]) -> None:
        self.request = request
        self.deadline = deadline
        self.pause_s = pause_s
        self.latencies = latencies
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self.loop.create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._send()

    def _send(self) -> None:
        self.begin = time.monotonic()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"HTTP") and not data.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(data.partition(b"\r\n")[0].decode())
        if b"HTTP/1.1 200" not in data:  # a body that comes alone
            return
        now = time.monotonic()
        self.latencies.append(now - self.begin)
        if now >= self.deadline:
            self.transport.close()
            self.done.set_result(None)
        elif self.pause_s:
            self.loop.call_later(random.uniform(0, 2 * self.pause_s), self._send)
        else:
            self._send()


async def load(host: str, port: int, path: str, seconds: float, connections: int, pause_ms: float) -> None:
    """Send requests over *connections*, and print what wrk's script prints."""
    loop = asyncio.get_running_loop()
    request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
    begin = time.monotonic()
    latencies: list[float] = []
    clients = [
        (
            await loop.create_connection(
                lambda: _Client(request, begin + seconds, pause_ms / 1000, latencies), host, port
            )
        )[1]
        for _ in range(connections)
    ]
    await asyncio.gather(*[client.done for client in clients])
    latencies.sort()
    at = [latencies[min(len(latencies) - 1, int(len(latencies) * share))] * 1000 for share in (0.5, 0.99, 0.999)]
    _print({"requests": len(latencies), "seconds": time.monotonic() - begin, "failed": 0, "latency_ms": at})


def _run(work: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ModuleNotFoundError:
        asyncio.run(work)
    else:
        uvloop.run(work)


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "serve":
        contender, url, share, port, app, *flags = arguments
        serve(contender, url, float(share), int(port), app, *flags)
    elif command == "installed":
        _print(is_installed(*arguments))
    elif command == "collect":
        _run(collect(int(arguments[0])))
    else:
        host, port, path, *numbers = arguments
        _run(load(host, int(port), path, float(numbers[0]), int(numbers[1]), float(numbers[2])))
