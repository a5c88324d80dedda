"""Free ports on 127.0.0.1, for servers that a test starts."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Return a port that no other program gets from the system while this process runs.

    A socket that does not listen stays bound to the port, so connections to it are refused. Servers that set
    SO_REUSEADDR, as nearly all do, can still listen there.
    """
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    sock.detach()  # and never closed
    return port
