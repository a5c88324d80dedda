"""Typical mistakes, and the messages, which say what to write."""

import re
import subprocess
import sys
import sysconfig

import httpx
import pytest

import tracekit
from tracekit import IMPLEMENTATION
from tracekit.exporters.console import ConsoleExporter
from tracekit.exporters.otlp import OTLPExporter
from tracekit.integrations.httpx import AsyncTraceTransport
from tracekit.wire import b3, w3c

MISTAKES = {
    "a service by position": (
        lambda: tracekit.configure("shop"),
        "configure() takes keyword arguments only: configure(service='shop', exporter=...)",
    ),
    "a misspelled argument": (
        lambda: tracekit.configure(servce="shop"),
        "configure() has no argument 'servce'; did you mean service?",
    ),
    "an argument of another tracer": (
        lambda: tracekit.configure(propagators=["b3"]),
        "configure() has no argument 'propagators'; did you mean formats?",
    ),
    "an endpoint in place of an exporter": (
        lambda: tracekit.configure(endpoint="http://localhost:4318"),
        "configure() has no argument 'endpoint'; did you mean exporter=OTLPExporter(endpoint)?",
    ),
    "an argument that there is not": (
        lambda: tracekit.configure(color=True),
        "configure() has no argument 'color'; there are service, resource, exporter, sampler, id_generator, formats, "
        "limits, buffer_size, batch_size, export_interval_s, environ, strict",
    ),
    "a library that there is not": (
        lambda: tracekit.instrument("fastapy"),
        "no integration for 'fastapy': did you mean fastapi? (tracekit doctor names the packages for others)",
    ),
    "an endpoint without its scheme": (
        lambda: OTLPExporter("localhost:4318"),
        "endpoint must be a URL such as http://localhost:4318: 'localhost:4318'",
    ),
    "an exporter that there is not": (
        lambda: tracekit.configure(exporter="jaeger"),
        "exporter must be 'otlp', 'sqlite', 'console' or an exporter, not 'jaeger'",
    ),
    "a URL as an exporter": (
        lambda: tracekit.configure(exporter="http://user:secret@localhost:4318"),
        "exporter must be 'otlp', 'sqlite', 'console' or an exporter, not a URL: write OTLPExporter(url)",
    ),
    "an exporter's class": (
        lambda: tracekit.configure(exporter=ConsoleExporter),
        "exporter must be an instance, not the class ConsoleExporter",
    ),
    "one format by name": (
        lambda: tracekit.configure(formats="b3"),
        "formats must be a sequence of formats, such as ['b3'], not str",
    ),
    "a format that there is not": (
        lambda: tracekit.configure(formats=["zipkin"]),
        "formats must hold formats, or names such as … not 'zipkin'",
    ),
    "a module as a format": (
        lambda: tracekit.configure(formats=[w3c]),
        "formats must hold formats such as w3c.TRACECONTEXT, not module",
    ),
    "a share as a sampler": (
        lambda: tracekit.configure(sampler=0.1),
        "sampler must be a sampler such as tracekit.Ratio(0.1) …",
    ),
    "a sampler's class": (
        lambda: tracekit.configure(sampler=tracekit.Ratio),
        "sampler must be a sampler such as tracekit.Ratio(0.1) … not the class Ratio",
    ),
    "a percentage": (lambda: tracekit.Ratio(10), "probability must be 0 to 1: 10"),
    "a resource that is a name": (lambda: tracekit.configure(resource="shop"), "resource must be a mapping, not str"),
    "a timeout as text": (lambda: tracekit.flush("5"), "timeout_s must be a number, not str"),
    "a class in place of an object": (
        lambda: tracekit.instrument(httpx.Client),
        "no integration takes a class: pass an object, not httpx.Client",
    ),
    "a module in place of its name": (
        lambda: tracekit.instrument(httpx),
        'no integration takes a module: write its name, tracekit.instrument("httpx")',
    ),
    "an asynchronous transport in a synchronous client": (
        lambda: httpx.Client(transport=AsyncTraceTransport()).get("http://127.0.0.1:1"),
        "AsyncTraceTransport is for httpx.AsyncClient; give httpx.Client a TraceTransport",
    ),
    "a name of OpenTelemetry's": (
        lambda: tracekit.get_tracer("shop"),
        "module 'tracekit' has no attribute 'get_tracer'; write tracekit.span(name) …",
    ),
    "another name of OpenTelemetry's": (
        lambda: tracekit.start_as_current_span("x"),
        "module 'tracekit' has no attribute 'start_as_current_span'; write with tracekit.span(name): ...",
    ),
    "an exporter that is a module further": (
        lambda: tracekit.SQLiteExporter("traces.db"),
        "module 'tracekit' has no attribute 'SQLiteExporter'; write from tracekit.exporters.sqlite import SQLiteExporter",
    ),
    "a name that there is not": (lambda: tracekit.unknown, "module 'tracekit' has no attribute 'unknown'"),
    # On the program's path, in strict mode: elsewhere they are logged once for each line.
    "attributes by position": (
        lambda: tracekit.span("x", {"a": 1}),
        "span() takes one argument by position: span(name, attributes={...})",
    ),
    "a label by position": (
        lambda: tracekit.use_labels("tenant", "acme"),
        "use_labels() takes labels by name, or one mapping: use_labels(tenant='acme')",
    ),
    "a kind in upper case": (
        lambda: tracekit.span("x", kind="SERVER"),
        "kind must be one of internal, server, client, producer, consumer: 'SERVER'",
    ),
    "a status of OpenTelemetry's": (
        lambda: tracekit.span("x").set_status("ERROR"),
        "code must be one of unset, ok, error, cancelled: 'ERROR'",
    ),
    "a header in place of headers": (
        lambda: tracekit.extract("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        "carrier must be a mapping or an iterable of pairs, not str",
    ),
    "a name in place of a span": (lambda: tracekit.use_span("x"), "span must be a Span, not str"),
    "traced on a value": (lambda: tracekit.traced("x")(3), "traced takes a function or a name, not int"),
    "a label that is no text": (lambda: tracekit.use_labels(n=3), "a label's value must be str, not int: label 'n'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_what_to_write(name):
    make, message = MISTAKES[name]
    with pytest.raises((AttributeError, TypeError, ValueError)) as caught:
        make()
    # " …" stands for any text.
    pattern = ".*".join(map(re.escape, message.split(" …")))
    assert re.fullmatch(pattern, str(caught.value))


def test_without_a_library_of_an_exporter_the_error_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "tracekit.exporters._otlp.grpc", raising=False)
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        OTLPExporter("http://localhost:4317", protocol="grpc")
    message = "OTLP with protocol='grpc' needs grpc: pip install 'tracekit-async[otlp-grpc]'"
    assert str(caught.value) == message


def test_an_exporter_by_name_takes_its_settings_from_the_environment(tmp_path):
    path = tmp_path / "named.db"
    tracekit.configure(service="shop", exporter="sqlite", environ={"TRACEKIT_SQLITE_PATH": str(path)})
    tracekit.span("x").end()
    tracekit.shutdown()
    assert path.exists()


def test_formats_by_name_are_the_constants():
    tracekit.configure(formats=["b3", w3c.TRACECONTEXT, "b3multi"], environ={})
    assert [*tracekit.inject({}, tracekit.SpanContext("a" * 32, "b" * 16))] == [
        *b3.SINGLE.fields,
        "traceparent",
        *[field for field in b3.MULTI.fields if "parent" not in field and "flags" not in field],
    ]


@pytest.mark.slow
def test_type_checkers_see_no_names_but_those_that_are_there(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import tracekit\nimport tracekit.aio as aio\n\ntracekit.get_tracer('x')\naio.nothing\n"
        "tracekit.configure(servce='x')\ntracekit.span('x', attribute={})\n"
        "def receive(stream: aio.MemoryObjectReceiveStream[int]) -> aio.MemoryObjectSendStream[int] | None: ...\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-incremental", str(program)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if "No module named mypy" in done.stderr:
        pytest.skip("mypy is not installed: make lint installs it")
    assert 'Module has no attribute "get_tracer"' in done.stdout
    assert 'Module has no attribute "nothing"' in done.stdout
    assert 'Unexpected keyword argument "servce" for "configure"; did you mean "service"?' in done.stdout
    assert 'Unexpected keyword argument "attribute" for "span"; did you mean "attributes"?' in done.stdout
    assert "Found 4 errors" in done.stdout


def test_the_traceback_of_a_misspelled_name_has_the_right_one():
    program = "import tracekit\ntracekit.conigure()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    # CPython 3.15 says: Did you mean '.configure' instead of '.conigure'?
    assert re.search(r"module 'tracekit' has no attribute 'conigure'. Did you mean:? '.?configure'", done.stderr)
    program = "import tracekit\ntracekit.span('x').set_atribute('a', 1)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert re.search(r"has no attribute 'set_atribute'. Did you mean:? '.?set_attribute'", done.stderr)


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_async_with_is_as_good_as_with(spans, anyio_backend):
    async with tracekit.span("checkout"):
        tracekit.span("reserve").end()
    assert spans.tree() == "checkout\n  reserve"


def test_the_span_fixture_finds_spans_by_name(spans):
    with tracekit.span("checkout"):
        tracekit.span("reserve").end()
        tracekit.span("reserve").end()
    assert spans.names() == ["reserve", "reserve", "checkout"]
    assert spans.find("checkout").name == "checkout"
    assert len(spans.find_all("reserve")) == 2
    assert spans.roots() == [spans.find("checkout")]
    assert [span.name for span in spans.children("checkout")] == ["reserve", "reserve"]
    assert spans.tree() == "checkout\n  reserve\n  reserve"
    with pytest.raises(LookupError, match="2 spans are called 'reserve'; there are 'reserve', 'checkout'"):
        spans.find("reserve")
    with pytest.raises(LookupError, match="no spans are called 'pay'; there are 'reserve', 'checkout'"):
        spans.find("pay")


explains = pytest.mark.skipif(
    IMPLEMENTATION != "compiled" or bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="CPython's own message, which names the keyword from 3.13 on",
)


@explains
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"atributes": {}}, "span() has no argument 'atributes'; did you mean attributes?"),
        ({"kind": "client", "parnt": None}, "span() has no argument 'parnt'; did you mean parent?"),
        (
            {"color": 1},
            "span() has no argument 'color'; there are kind, attributes, links, parent, start_ns, expected",
        ),
    ],
)
def test_a_misspelled_keyword_of_span_is_named(arguments, message):
    with pytest.raises(TypeError) as caught:
        tracekit.span("x", **arguments)
    assert str(caught.value) == message


@explains
def test_an_interrupt_is_not_lost_while_the_message_is_made(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("difflib.get_close_matches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tracekit.span("x", atributes={})


def test_another_type_error_in_a_call_of_span_stays_as_it_was():
    with pytest.raises(TypeError, match=r"required positional argument|takes|exactly"):
        tracekit.span(kind="client")
