"""A Flask application, traced by one call. Run: python examples/flask_app.py"""

import flask

import tracekit
from tracekit.integrations import wsgi
from tracekit.testing import MemoryExporter, span_tree

app = flask.Flask("shop")
wsgi.instrument(app, exclude=["/health"])


@app.get("/price/<cart>")
def price(cart):
    with tracekit.span("add up"):
        return "42"


@app.get("/report")
def report():
    def lines():
        for number in range(2):
            with tracekit.span(f"line {number}"):
                yield f"{number}\n"

    return lines()


@app.get("/health")
def health():
    return "ok"


exporter = MemoryExporter()
tracekit.configure(service="shop", exporter=exporter)
client = app.test_client()  # over a network: flask run, gunicorn and so on
for path in ("/price/7", "/report", "/health", "/nowhere"):
    answer = client.get(path)
    print(path, answer.status_code, answer.text.split()[:1])
    answer.close()
print(span_tree(exporter.spans))
