"""HTTP connections of the standard library, with one deadline and one size limit for a whole exchange.

Its time-outs bound each call to the socket, so a server that sends one octet at a time can hold a request for ever: in
its status line, headers, chunk sizes, trailers, or in endless ``100 Continue`` answers. Here each call to the socket
gets the remaining time, and every octet of the answer counts against one limit.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import selectors
import socket
import sys
import time
from functools import partial
from typing import Any


class Unreachable(OSError):
    """No connection was made; its cause says why."""


class _Answer(io.RawIOBase):
    """The octets that a socket receives; ``is_over`` once the peer has closed the connection."""

    def __init__(self, connection: Connection, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._connection = connection
        self._sock = sock
        self._raw = raw
        self.is_over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._connection.left_s())
        count = self._raw.readinto(buffer)
        self.is_over = count == 0
        self._connection.octets -= count or 0
        if self._connection.octets < 0:
            raise ValueError("the answer is too large")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, connection: Connection, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self._answer = _Answer(connection, sock, self.fp.detach())
        self.fp = io.BufferedReader(self._answer)

    def begin(self) -> None:
        super().begin()
        while 101 < self.status < 200:  # such as 103, Early Hints: http.client skips 100 alone
            self.headers = self.msg = None  # type: ignore[assignment]
            super().begin()
        if self._answer.is_over:  # to http.client the end of the connection is an end of the headers
            self.close()
            raise http.client.RemoteDisconnected("the connection ended in the middle of the headers")


def _addresses(host: str, port: int) -> list[Any]:
    """Return what ``getaddrinfo()`` does, which imports the tables of Unicode for text: not for an IP address, as asyncio."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError):
            socket.inet_pton(family, host)
            return [(family, socket.SOCK_STREAM, 0, "", (host, port))]
    return socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)


class Connection(http.client.HTTPConnection):
    """A connection that stays open between exchanges. ``limit()`` is called before each."""

    deadline = float("inf")
    octets = 0  # that the answer may still have
    # socket.sendall() bounds its loop, and gives the GIL back for each send().
    piece = sys.maxsize

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.response_class: Any = partial(_Response, self)
        # A dot at the end makes a name whole for DNS, and is no part of it in a certificate.
        self._dns_host, self.host = self.host, self.host.rstrip(".")
        self._create_connection = self._open  # which would give each address of a host the whole time

    def limit(self, timeout_s: float, octets: int) -> None:
        """Bound the next exchange to *timeout_s* and *octets* of answer: a larger one raises ``ValueError``.

        DNS look-ups are not bounded: the system has no time-out for them.
        """
        self.deadline, self.octets = time.monotonic() + timeout_s, octets
        if self.sock is not None and self._is_dropped():
            self.close()  # the next request opens it again

    def left_s(self) -> float:
        """Return the remaining seconds; raise ``TimeoutError`` at 0, which would make the socket non-blocking."""
        left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        return left_s

    def _is_dropped(self) -> bool:
        """Return whether the peer has closed the connection, or has sent octets between two exchanges."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.sock, selectors.EVENT_READ)
            return bool(selector.select(0))

    def connect(self) -> None:
        self.timeout = self.left_s()
        try:
            super().connect()
        except OSError as error:
            if error.errno is None and not isinstance(error, TimeoutError):  # from a proxy
                raise
            raise Unreachable from error
        self.sock.settimeout(self.left_s())  # for the TLS handshake

    def _open(self, address: tuple[str, int], *_: object) -> socket.socket:
        """Connect to the first address of the host that answers, in a share of the remaining time each."""
        found = _addresses(self._dns_host, address[1])
        for at, (family, kind, protocol, _name, target) in enumerate(found):
            sock = None
            try:
                sock = socket.socket(family, kind, protocol)  # raises where the system has no IPv6
                sock.settimeout(self.left_s() / (len(found) - at))
                sock.connect(target)
                return sock
            except OSError:
                if sock is not None:
                    sock.close()
                if at == len(found) - 1:
                    raise
        raise socket.gaierror("no address")

    def _tunnel(self) -> None:
        host: str = self._tunnel_host  # type: ignore[has-type]
        # Before Python 3.12 http.client forgets the brackets; the handshake needs the name without them.
        self._tunnel_host = f"[{host}]" if ":" in host else host
        try:
            super()._tunnel()  # type: ignore[misc]
        finally:
            self._tunnel_host = host

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        octets = memoryview(data)
        for start in range(0, len(octets), self.piece):
            self.sock.settimeout(self.left_s())
            super().send(octets[start : start + self.piece])


class TLSConnection(http.client.HTTPSConnection, Connection):
    """The same over TLS."""

    piece = 65536  # octets that are sent at a time: SSLSocket.sendall() bounds each send() of its loop, not the loop
