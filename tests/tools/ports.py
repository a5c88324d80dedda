"""Ports of loopback on which nobody listens, until a test or its processes do."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Return a port that the system gives to nobody else, nor to a client's end of a connection, while this process runs.

    A socket without a listener stays bound to it. Servers that set SO_REUSEADDR, as nearly all do, can listen there.
    """
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    sock.detach()  # and never closed
    return port
