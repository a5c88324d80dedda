"""Live pages: a process shows its requests, spans, tasks and long-lived objects in a browser, without a collector.

``app()`` and ``wsgi_app()`` are mounted in an application, ``serve()`` listens in a thread.
"""

from ._access import Access, Visitor
from ._apps import app, wsgi_app
from ._dump import dump_on_signal
from ._server import Server, serve

__all__ = ["Access", "Server", "Visitor", "app", "dump_on_signal", "serve", "wsgi_app"]
