"""A server of http.server in a thread, whose paths name the faults that clients meet."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading


class Shop(http.server.BaseHTTPRequestHandler):
    """Answer with the request's headers as JSON, or as the path names."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        _, name, *rest = [*self.path.partition("?")[0].split("/"), ""]
        body = json.dumps(self.headers.items()).encode()
        status, headers = 200, {}
        if "://" in self.path.partition("?")[0]:  # as a proxy gets it
            name = ""
        if name == "status":
            status = int(rest[0])
            if status in (204, 304):
                body = b""
        elif name == "redirect":
            status, headers = 302, {"location": self.path.partition("?")[2]}
        elif name == "hang-up":
            self.close_connection = True
            return
        elif name == "garbage":
            self.wfile.write(b"no http at all\r\n\r\n")
            self.close_connection = True
            return
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if name in {"chunked", "chunked-cut"}:
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"5\r\nabcd\n\r\n5\r\nabcde\r\n" if name == "chunked" else b"5\r\nabcde\r\n5\r\nab")
            if name == "chunked":
                self.wfile.write(b"0\r\n\r\n")
            else:
                self.close_connection = True
            return
        if name == "close":  # the end of the connection is the end of the body
            self.send_header("connection", "close")
            self.close_connection = True
        else:
            self.send_header("content-length", str(len(body) + (100 if name == "short" else 0)))
        if name in {"short", "cut"}:
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def __getattr__(self, name):
        if name.startswith("do_"):  # other methods are answered alike
            return self.do_GET
        raise AttributeError(name)

    def do_CONNECT(self):
        """Open a tunnel to this very server: the rest of the connection is served here."""
        self.send_response(200)
        self.end_headers()
        self.close_connection = False  # http.client asks with HTTP/1.0

    def log_message(self, *_):
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 100

    def handle_error(self, request, client_address):
        pass  # clients of these tests go away


@contextlib.contextmanager
def shop():
    """Serve inside ``with`` and yield the port."""
    server = _Server(("127.0.0.1", 0), Shop)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join(20)
        server.server_close()
        assert not thread.is_alive()
