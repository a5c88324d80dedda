"""HTTP connections with one deadline and one size limit for a whole exchange.

The time-outs of urllib3 bound each call to the socket, so a server that sends one octet at a time can hold a request
for ever: in its status line, headers, chunk sizes, trailers, or in endless ``100 Continue`` answers. Here each call to
the socket gets the remaining time, and every octet of the answer counts against one limit.
"""

from __future__ import annotations

import http.client
import io
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator


class _Exchange(threading.local):
    """The exchange of the current thread."""

    deadline = float("inf")
    octets = 0

    def left_s(self) -> float:
        """Return the remaining seconds; raise ``TimeoutError`` at 0, which would make the socket non-blocking."""
        left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        return left_s


_current = _Exchange()


@contextmanager
def exchange(timeout_s: float, max_octets: int) -> Iterator[None]:
    """Inside ``with``, bound the exchange of this thread's connections to *timeout_s* and *max_octets* of answer.

    A larger answer raises ``ValueError``. DNS look-ups are not bounded: the system has no time-out for them.
    """
    _current.deadline, _current.octets = time.monotonic() + timeout_s, max_octets
    try:
        yield
    finally:
        _current.deadline = float("inf")


class _Answer(io.RawIOBase):
    """The octets that a socket receives; ``is_over`` once the peer has closed the connection."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._sock = sock
        self._raw = raw
        self.is_over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_current.left_s())
        count = self._raw.readinto(buffer)
        self.is_over = count == 0
        _current.octets -= count or 0
        if _current.octets < 0:
            raise ValueError("the answer is too large")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self._answer = _Answer(sock, self.fp.detach())
        self.fp = io.BufferedReader(self._answer)

    def begin(self) -> None:
        super().begin()
        if self._answer.is_over:  # to http.client the end of the connection is an end of the headers
            self.close()
            raise http.client.RemoteDisconnected("the connection ended in the middle of the headers")


class _Bounded(HTTPConnection):
    """The connection for both schemes."""

    response_class = _Response
    piece = 65536  # octets that are sent at a time: SSLSocket.sendall() bounds each send() of its loop, not the loop

    def _new_conn(self) -> socket.socket:
        self.timeout = _current.left_s()
        sock = super()._new_conn()
        sock.settimeout(_current.left_s())  # for the TLS handshake
        return sock

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        octets = memoryview(data)
        for start in range(0, len(octets), self.piece):
            self.sock.settimeout(_current.left_s())
            super().send(octets[start : start + self.piece])


class _PlainConnection(_Bounded):
    piece = sys.maxsize  # socket.sendall() bounds its loop, and gives the GIL back for each send()


class _TLSConnection(_Bounded, HTTPSConnection):
    pass


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


POOLS = {"http": _PlainPool, "https": _TLSPool}
