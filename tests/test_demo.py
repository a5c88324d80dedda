"""The demo, run as people run it: a command with processes of its own, judged by what it prints and what it stores."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import anyio
import anyio.abc
import pytest

import tracekit
from tracekit._render import Leaf
from tracekit._render import tree as branches
from tracekit.cli.main import main
from tracekit.demo import client, comparison, services
from tracekit.demo.catalogue import GOODS, cart, price_cents, seal
from tracekit.demo.run import Findings, wrongs
from tracekit.exporters.sqlite import SQLiteReader

DEADLINE_S = 600  # a guard: on a busy machine the demo alone took more than a minute
REQUESTS = 6
# The command, with SIGINT as a shell in the foreground would give it, wherever the suite itself runs.
COMMAND = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from tracekit.cli.main import main; sys.exit(main())"
INTERRUPTED = "\ninterrupted; the services have been stopped\n"
# From Python 3.15 on, its SDK has the span of a decorated generator function last until the last step, too.
DRAWN_OF_OPENTELEMETRY = (
    [r"  Every span has the same parent as in tracekit's trace\."]
    if sys.version_info >= (3, 15)
    else [
        r".* receipt_line +storefront +\S+ [µm]?s  <- not under receipt",
        r"  20 of 90 spans, receipt_line, are not under receipt: it ended after \S+ [µm]?s\.",
    ]
)

TRACE = """\
client buy
  client POST
    storefront POST /checkout/{number}
      storefront checkout
        storefront reserve
          storefront POST
            warehouse POST /reservations
              warehouse pick
              warehouse pick
              warehouse pick
              warehouse seal_box
        storefront price
          storefront add_up
      storefront receipt
        storefront receipt_line
        storefront receipt_line
        storefront receipt_line
        storefront receipt_line"""


class Demo:
    """A running ``tracekit demo``; killed when it takes longer than any demo may."""

    def __init__(self, db, *options):
        self.db = str(db)
        environment = {**os.environ, "COLUMNS": "100", "PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "demo", "--db", self.db, *options],
            cwd=Path(tracekit.__file__).parents[1],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        self.watchdog = threading.Timer(DEADLINE_S, self.process.kill)
        self.watchdog.start()
        self.output = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.watchdog.cancel()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def read_until(self, pattern):
        """Read up to and with the line that has *pattern*."""
        for line in self.process.stdout:
            self.output += line
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"{pattern!r} never came:\n{self.output}")

    def finish(self):
        """Read what is left, and return the exit status."""
        self.output += self.process.stdout.read()
        return self.process.wait()

    def services(self):
        """Return the command lines of all processes that have this demo's file, but the demo itself."""
        return [line for line in command_lines() if "tracekit.demo." in line and self.db in line]


def command_lines():
    """Return those of all processes; from ``ps`` only where it has to be, which is not everywhere."""
    if not Path("/proc/self/cmdline").exists():
        listing = subprocess.run(["ps", "-A", "-ww", "-o", "args="], check=True, capture_output=True, text=True)
        return listing.stdout.splitlines()
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found.append(os.fsdecode(file.read_bytes().replace(b"\0", b" ")))
    return found


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A demo that has run, and everything that it stored: a list of spans per trace."""
    db = tmp_path_factory.mktemp("demo") / "traces.db"
    with Demo(db, "--requests", str(REQUESTS)) as demo:
        demo.status = demo.finish()
    with SQLiteReader(db) as reader:
        demo.counts = reader.counts()
        demo.traces = [reader.spans(trace.trace_id) for trace in reader.traces(limit=1000)]
    return demo


def shape(spans):
    found = branches(Leaf(span.span_id, span.parent_id, span.start_ns, span) for span in spans)
    return "\n".join(f"{'  ' * branch.depth}{branch.span.service} {branch.span.name}" for branch in found)


def by_name(spans):
    return {(span.service, span.name): span for span in spans}


def test_the_demo_ends_with_status_0_and_leaves_no_process(played):
    assert (played.status, played.services()) == (0, []), played.output


def test_each_request_is_one_trace_through_all_three_processes(played):
    assert [shape(spans) for spans in played.traces] == [TRACE] * REQUESTS
    assert played.counts == (REQUESTS, REQUESTS * len(TRACE.splitlines()), 0)


def test_the_labels_that_the_storefront_sets_are_on_every_span_of_the_warehouse(played):
    seen = set()
    for spans in played.traces:
        number = by_name(spans)["client", "buy"].attributes["cart.number"]
        labels = {"tenant": cart(number).tenant, "cart": str(number)}
        assert [span.labels for span in spans if span.service == "warehouse"] == [labels] * 5
        seen.add(number)
    assert seen == set(range(REQUESTS))


def test_the_spans_of_the_threads_were_made_in_threads(played):
    for spans in played.traces:
        found = by_name(spans)
        assert found["warehouse", "seal_box"].attributes["thread.name"] != "MainThread"
        assert found["storefront", "add_up"].attributes["thread.name"] == "AnyIO worker thread"


def test_the_receipt_streams_after_the_endpoint_has_returned_and_before_the_request_is_over(played):
    for spans in played.traces:
        found = by_name(spans)
        receipt, request = found["storefront", "receipt"], found["storefront", "POST /checkout/{number}"]
        assert receipt.start_ns >= found["storefront", "checkout"].end_ns
        assert receipt.end_ns <= request.end_ns


def test_no_span_fails(played):
    assert {span.status for spans in played.traces for span in spans} == {"unset"}


@pytest.mark.parametrize(
    "line",
    [
        r"  warehouse   hypercorn on trio   http://127\.0\.0\.1:\d+ +process \d+",
        r"  storefront  uvicorn on asyncio  http://127\.0\.0\.1:\d+ +process \d+",
        rf"  client      httpx on asyncio    {REQUESTS} of {REQUESTS} right in \d+\.\d\d s +process \d+",
        r"trace [0-9a-f]{32}",
        r".*  http\.response\.status_code=200  .*",
        r".*labels tenant=\w+  cart=\d",
        rf"  traces +{REQUESTS}  one for each request, through all three",
        r"  spans +108  12 client, 66 storefront, 30 warehouse",
        r"  spans without their parent +0",
        r"  spans dropped or failed +0",
        r"  warehouse spans with labels +30  of 30; the storefront set them",
        r"  the same program with OpenTelemetry … 0 s",
        r"  The same program, traced by OpenTelemetry, its SDK and its instrumentation of ASGI and httpx:",
        *DRAWN_OF_OPENTELEMETRY,
        r"    a browser   \S+.* ui \S+traces\.db",
        r"    all traces  \S+.* traces list \S+traces\.db",
        r"    one trace   \S+.* traces show \S+traces\.db",
        r"    your own    \S+.* demo --serve",
    ],
)
def test_the_demo_prints(played, line):
    assert re.search(rf"^{line}$", played.output, re.MULTILINE), played.output


def test_the_demo_fits_into_its_terminal_and_writes_no_control_characters_where_there_is_none(played):
    head = played.output.partition("Where to look next")[0]
    assert max(map(len, head.splitlines())) <= 100
    assert not re.search(r"[\r\x1b]", played.output)


def test_the_printed_trace_is_one_of_those_that_were_sent_alone(played):
    number = re.search(r"cart\.number=(\d+)", played.output)[1]
    assert int(number) >= REQUESTS - client.WARM


def test_a_second_run_adds_to_the_file_and_counts_only_its_own(played):
    with Demo(played.db, "--requests", "1") as again:
        assert again.finish() == 0, again.output
    assert re.search(r"^  traces +1  ", again.output, re.MULTILINE)
    with SQLiteReader(played.db) as reader:
        assert reader.counts().traces == REQUESTS + 1


def test_a_file_that_cannot_be_written_is_said_before_anything_starts(tmp_path):
    with Demo(tmp_path / "absent" / "traces.db") as demo:
        assert demo.finish() == 2
    assert demo.output == f"tracekit: no such directory: {demo.db}: make it first: mkdir -p {tmp_path / 'absent'}\n"


@pytest.mark.parametrize("name", ["httpx", "hypercorn", "starlette", "trio", "uvicorn"])
def test_a_module_that_is_not_installed_is_named(monkeypatch, capsys, name):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "tracekit.demo.run", raising=False)
    monkeypatch.delitem(sys.modules, "tracekit.demo.client", raising=False)
    assert main(["demo"]) == 2
    assert capsys.readouterr() == ("", f"tracekit: the demo needs {name}: pip install 'tracekit-async[demo]'\n")


SPANS = [
    comparison.PeerSpan("1", "a", None, "buy", "client", 0, 9),
    comparison.PeerSpan("1", "b", "a", "POST /checkout/7", "storefront", 1, 8),
    comparison.PeerSpan("1", "c", "b", "receipt", "storefront", 2, 3),
    comparison.PeerSpan("1", "d", "b", "receipt_line", "storefront", 4, 5),
]


def test_a_span_under_another_parent_is_marked_and_counted():
    wanted = [span._replace(parent_id="c") if span.name == "receipt_line" else span for span in SPANS]
    text = "\n".join(comparison.lines(SPANS, wanted))
    assert text.count("<- not under receipt") == 1
    assert text.endswith("1 of 4 spans, receipt_line, are not under receipt: it ended after 1 ns.")
    text = "\n".join(comparison.lines(SPANS, SPANS))
    assert "<-" not in text
    assert text.endswith("Every span has the same parent as in tracekit's trace.")


def test_without_opentelemetry_the_demo_names_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(comparison, "PEER", ("nothing.of_the_kind",))
    first, second = comparison.compare(tmp_path, [], [].append)
    assert first.endswith("pip install 'tracekit-async[demo]'")
    assert second == "(there is no nothing.of_the_kind)"


def test_a_comparison_that_fails_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(comparison, "_REQUESTS", "many")
    (line,) = comparison.compare(tmp_path, [], [].append)
    assert line.startswith("OpenTelemetry's run of the same program failed: ValueError")


def play(monkeypatch, program):
    """Have *program* run in the place of the peer; its argument is the file for the spans."""
    popen = comparison.subprocess.Popen
    monkeypatch.setattr(
        comparison.subprocess,
        "Popen",
        lambda command, **options: popen([command[0], "-c", program, command[-2]], **options),
    )


def test_a_peer_without_spans_is_one_line(monkeypatch, tmp_path):
    play(monkeypatch, "import sys; open(sys.argv[1], 'w').close()")
    (line,) = comparison.compare(tmp_path, [], [].append)
    assert line == "OpenTelemetry's run of the same program failed: it made no spans"


def test_while_the_peer_runs_the_seconds_are_counted_and_its_time_is_limited(monkeypatch, tmp_path):
    play(monkeypatch, "import signal; signal.pause()")
    monkeypatch.setattr(comparison, "_TIMEOUT_S", 3)
    monkeypatch.setattr(comparison, "_PERIOD_S", 1)
    seconds = []
    (line,) = comparison.compare(tmp_path, [], seconds.append)
    assert line == "OpenTelemetry's run of the same program failed: it took longer than 3 s"
    assert seconds == [0, 1, 2]


def test_with_serve_a_trace_that_somebody_else_began_is_shown(tmp_path):
    with Demo(tmp_path / "traces.db", "--serve", "--requests", "1") as demo:
        url = demo.read_until(r"curl -X POST (http://\S+)$")[1]
        page = demo.read_until(r"in a browser: (http://127\.0\.0\.1:\d+)$")[1]
        live = [demo.read_until(rf"live pages of the {name}: (\S+)$")[1] for name in ("storefront", "warehouse")]
        demo.read_until("Ctrl-C stops")
        trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
        headers = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(url, method="POST", headers=headers)) as response:
            assert len(response.read().splitlines()) == 4
        demo.read_until(f"trace {trace_id}")
        demo.read_until(r"└─ receipt_line")
        with opener.open(f"{page}/api/traces?q={trace_id}") as response:
            assert b'"services":[["storefront",11],["warehouse",5]]' in response.read()
        for url, path in zip(live, ("/checkout/{number}", "/reservations"), strict=True):
            with opener.open(f"{url}requests?format=json") as response:
                assert f"server POST {path}" in [family["family"] for family in json.load(response)["families"]]
        demo.process.send_signal(signal.SIGINT)
        assert demo.finish() == 130, demo.output
        assert demo.services() == []
    assert demo.output.endswith(INTERRUPTED)


@pytest.mark.parametrize("moment", ["tracekit demo", "warehouse", "storefront"])
def test_ctrl_c_ends_the_services_too(tmp_path, moment):
    with Demo(tmp_path / "traces.db", "--serve", "--requests", "2") as demo:
        demo.read_until(moment)
        demo.process.send_signal(signal.SIGINT)
        assert demo.finish() == 130, demo.output
        assert demo.services() == []
    assert "Traceback" not in demo.output, demo.output
    assert demo.output.endswith(INTERRUPTED)


@pytest.mark.parametrize(
    ("name", "moment", "requests"),
    [
        ("storefront", "1 of 1 right", "1"),
        ("warehouse", "storefront  uvicorn", "400"),  # while requests are under way
    ],
)
def test_a_service_that_dies_is_named_and_ends_the_demo_with_status_1(tmp_path, name, moment, requests):
    with Demo(tmp_path / "traces.db", "--serve", "--requests", requests) as demo:
        demo.read_until(moment)
        pid = int(re.search(rf"{name} .* process (\d+)", demo.output)[1])
        os.kill(pid, signal.SIGKILL)
        assert demo.finish() == 1, demo.output
        assert demo.services() == []
    assert re.search(rf"^FAILED  {name} \(process {pid}\) exited early, by SIGKILL", demo.output, re.MULTILINE)
    assert "Traceback" not in demo.output, demo.output


def test_services_end_and_write_all_they_have_when_the_command_is_killed(tmp_path):
    with Demo(tmp_path / "traces.db", "--serve", "--requests", "1") as demo:
        demo.read_until(r"1 of 1 right")
        assert len(demo.services()) == 2
        demo.process.kill()
        deadline = time.monotonic() + DEADLINE_S
        while demo.services():
            assert time.monotonic() < deadline
        with SQLiteReader(demo.db) as reader:
            (spans,) = [reader.spans(trace.trace_id) for trace in reader.traces()]
    assert len([span for span in spans if span.service != "client"]) == 16


def test_a_service_that_does_not_start_is_named_with_what_it_said():
    async def start():
        async with services.running("absent"):
            pass

    with pytest.raises(BaseExceptionGroup) as caught:
        anyio.run(start)
    (error,) = caught.value.exceptions
    assert isinstance(error, services.ServiceError)
    assert re.fullmatch(
        r"absent \(process \d+\) exited early, with exit status 1; its last output:"
        r"\n    .*: No module named tracekit\.demo\.absent",
        str(error),
    )


def receipt(number):
    """Return the lines that the storefront should write."""
    order = cart(number)
    lines = [{"item": name, "count": n, "price_cents": GOODS[name].price_cents * n} for name, n in order.items.items()]
    end = {"picked": sorted(order.items), "seal": seal(order.tenant, order.items)}
    return [json.dumps(line) for line in [*lines, {"tenant": order.tenant, "total_cents": price_cents(order), **end}]]


RIGHT = receipt(0)


@pytest.mark.parametrize(
    ("status", "lines", "problem"),
    [
        ("200 OK", RIGHT, None),
        ("200 OK", RIGHT[:-1], "wrong receipt"),
        ("200 OK", [*RIGHT[:-1], RIGHT[-1].replace("alpine", "meadow")], "wrong receipt"),
        ("200 OK", ["not JSON"], "wrong receipt"),
        ("200 OK", [], "wrong receipt"),
        ("500 Oops", RIGHT, "HTTPStatusError Server error '500 Oops' for url"),
        ("garbage", RIGHT, "RemoteProtocolError "),
    ],
)
def test_the_client_tells_a_right_answer_from_a_wrong_one(exporter, status, lines, problem):
    async def serve(stream):
        async with stream:
            await stream.receive()
            body = "\n".join(lines)
            await stream.send(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())

    async def ask():
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, serve)
                problems = await client.check_out(f"http://127.0.0.1:{port}", 1, on_answer=lambda: answers.append(1))
                tasks.cancel_scope.cancel()
        return problems

    answers = []
    problems = anyio.run(ask)
    assert len(answers) == 1
    assert [found.startswith(f"cart 0: {problem}") for found in problems] == [True] * (problem is not None)
    assert {span.name for span in exporter.spans} == {"buy", "POST"}


@pytest.mark.parametrize(
    ("change", "lost", "said"),
    [
        ({}, 0, []),
        ({"traces": 3, "whole": 3}, 0, ["there are 3 traces, not one for each of 2 requests"]),
        ({"whole": 1}, 0, ["1 traces do not go through all three services"]),
        ({"orphans": 4}, 0, ["4 spans have lost their parent"]),
        ({"labelled": 9}, 0, ["1 spans of the warehouse have lost their labels"]),
        ({}, 5, ["5 spans were dropped, or failed to be written"]),
    ],
)
def test_what_is_wrong_is_said(change, lost, said):
    by_service = {"client": 4, "storefront": 22, "warehouse": 10}
    findings = Findings(2, 2, 36, 0, by_service, 10, None)._replace(**change)
    assert list(wrongs(findings, requests=2, lost=lost)) == said
