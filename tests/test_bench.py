"""The benches run, and the comparison prints every row, whichever peers are installed; how fast is not asked here."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import service, service_parts, training
from tracekit import IMPLEMENTATION

ROOT = Path(__file__).parents[1]
needs_grpc = pytest.mark.skipif(importlib.util.find_spec("grpc") is None, reason="gRPC is not installed")

# Stands in the way of a peer's import, as if it had not been installed.
ABSENT = """
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    # As the tests run: the form that is under test here is the one that is measured.
    environment = {**os.environ, "TRACEKIT_NO_EXTENSIONS": "" if IMPLEMENTATION == "compiled" else "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def compare(*arguments: str, absent: frozenset[str] = frozenset()) -> subprocess.CompletedProcess[str]:
    code = f"{ABSENT.format(names=set(absent))}\nfrom bench.compare import main\nsys.exit(main({list(arguments)!r}))"
    return run("-c", code)


def test_every_bench_runs():
    done = run("-m", "pytest", "-q", "--benchmark-disable", "-p", "no:cacheprovider", "bench")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


def test_the_comparison_prints_every_row(tmp_path):
    from bench.compare import _every_key
    from bench.rows import FLOOR_ROWS, FORMAT_ROWS, HANDOFF_ROWS, ROWS

    file = tmp_path / "figures.json"
    done = compare("--smoke", "--json", str(file))
    assert done.returncode == 0, done.stderr
    for row in ROWS:
        assert f"\n| {row.work} " in done.stdout
    for row in FLOOR_ROWS:
        assert f"\n| {row.work} | {row.floor} | " in done.stdout
    for row in HANDOFF_ROWS:
        assert f"\n| {row.work} | " in done.stdout
    for name in FORMAT_ROWS:
        assert f"\n| `{name}` | " in done.stdout
    figures = json.loads(file.read_text())["figures"]
    assert list(figures) == _every_key()
    assert all(value >= 0 for figure in figures.values() for value in figure.values())
    assert IMPLEMENTATION in done.stdout.splitlines()[0]


def test_what_the_benches_call_bad_is_bad():
    from bench.formats import FORMATS, _huge, _spoilt
    from tracekit import FormatError

    for name, (format, valid) in FORMATS.items():
        assert format.read(valid) is not None
        for carrier in (_spoilt(valid), _huge(valid)):
            if name == "baggage":  # of which good members stand
                assert getattr(format.read(carrier), "labels", ()) != format.read(valid).labels
                continue
            with pytest.raises(FormatError):
                format.read(carrier)


def test_what_export_sustains_is_printed():
    done = run("-m", "bench.export", "--seconds=0.2", "--rates=1000")
    assert done.returncode == 0, done.stderr
    for way in ("http/protobuf", "http/protobuf, gzip", "http/json", "spool"):
        assert f"\n| {way} | 1,000 | " in done.stdout


def test_the_bridge_is_printed_beside_the_sdk():
    from bench.bridge import ROWS

    done = run("-m", "bench.bridge", "--smoke")
    assert done.returncode == 0, done.stderr
    for row in ROWS:
        assert f"\n| {row.work} | " in done.stdout
    assert "`install()`" in done.stdout


@pytest.mark.parametrize("name", ["servers", "clients", pytest.param("rpc", marks=needs_grpc)])
def test_what_integrations_add_is_printed_beside_opentelemetry_on_the_sdk_and_on_the_bridge(name):
    module = importlib.import_module(f"bench.{name}")
    done = run("-m", f"bench.{name}", "--smoke")
    assert done.returncode == 0, done.stderr
    head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == list(module.ROWS)
    # Named with the package that is not installed, one of those that no extra of tracekit brings.
    is_without = "OpenTelemetry is left out: opentelemetry-instrumentation-" in done.stderr
    for row in rows:
        measured = {contender for contender, cell in zip(head, row, strict=True) if cell != "-"}
        assert measured >= ({"tracekit"} if is_without else set(module.ROWS[row[0]].contenders))


def test_every_number_of_the_integrations_has_its_row_beside_contrib():
    from bench import clients, rpc, servers

    rows = {**servers.ROWS, **clients.ROWS, **rpc.ROWS}
    assert {name: row.target_us for name, row in rows.items() if row.target_us} == {
        "ASGI request": 6,
        "WSGI request": 6,
        "http.client": 6,
        "httpx": 15,
        "aiohttp client + server": 15,
        "gRPC unary, in memory": 15,
        "SQLAlchemy statement": 8,
    }
    # OpenTelemetry has no package for http.client: urllib3, which is built on it, has a row as well.
    assert {name for name, row in rows.items() if "bridge" not in row.contenders} == {"http.client"}


def test_peers_that_are_not_installed_are_said_to_be():
    done = compare("--smoke", "--only", "child,bytes,import", absent=frozenset({"opentelemetry", "ddtrace"}))
    assert done.returncode == 0, done.stderr
    assert "OpenTelemetry not installed, ddtrace not installed" in done.stdout
    assert done.stdout.count("| not installed |") == 4
    assert done.stdout.count("| not measured |") == 4


def test_a_check_fails_where_a_target_was_not_measured():
    assert compare("--smoke", "--check", "--only", "child", absent=frozenset({"opentelemetry"})).returncode == 1


def test_a_check_passes_where_no_target_is_missed():
    assert compare("--smoke", "--check", "--only", "root").returncode == 0


@pytest.mark.slow
@pytest.mark.one_form
@pytest.mark.parametrize(
    "app",
    [["tasks", "--plain"], ["spans", "--workers", "2"], pytest.param(["full"], marks=needs_grpc)],
    ids=lambda app: app[0],
)
def test_the_bench_of_a_service_counts_every_span_of_every_request(app, tmp_path):
    svg = tmp_path / "service.svg"
    short = [
        "--rounds",
        "1",
        "--seconds",
        "0.2",
        "--requests",
        "1",
        "--sampling",
        "1",
        "--only",
        "tracekit",
        "--svg",
        str(svg),
    ]
    done = run("-m", "bench.service", *short, "--app", *app)
    assert done.returncode == 0, done.stderr
    assert ("asyncio and h11" in done.stdout) == ("--plain" in app)
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    head, _, untraced, traced = [[cell.strip() for cell in line.split("|")[1:-1]] for line in rows]
    assert untraced[0] == "none"
    assert traced[0] == "tracekit"
    assert traced[head.index("spans arrived")] == "100.0%"
    assert int(traced[head.index("requests a second")].replace(",", "")) > 0
    assert float(traced[head.index("p50 / p99 / p99.9")].split()[0]) > 0
    bars = [element for element in ElementTree.parse(svg).iter() if element.tag.endswith("}rect")]
    assert len(bars) == 3 * len([untraced, traced])


@pytest.mark.one_form
def test_the_default_length_of_a_window_is_one_that_wrk_can_keep():
    # argparse converts no default but text, and an int has is_integer() from Python 3.12 on only.
    seconds = service.command_line().parse_args([]).seconds
    assert isinstance(seconds, float)
    assert seconds.is_integer()


def test_the_bench_of_a_service_names_the_peers_that_are_not_installed():
    code = f"{ABSENT.format(names={'ddtrace', 'fastotel'})}\nfrom bench.service_contenders import CONTENDERS, is_installed\n"
    done = run("-c", code + "print([name for name in CONTENDERS if is_installed(name)])")
    assert done.returncode == 0, done.stderr
    assert {"none", "tracekit"} <= set(eval(done.stdout))
    assert not {"ddtrace", "fastotel"} & set(eval(done.stdout))


@pytest.mark.one_form
def test_the_simulated_fleet_is_right_and_the_same_for_the_same_seed():
    small = ("-m", "bench.fleet", "--services", "50", "--traces", "600", "--clients", "200", "--seed", "3")
    first, second = run(*small), run(*small)
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout == second.stdout
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in first.stdout.splitlines() if "|" in line]
    assert [row[-1] for row in rows[2:5]] == ["yes", "yes", "yes"]
    pressed = {(row[0], row[1]): row for row in rows[7:]}
    for asked in ("none", "5 s", "30 s"):
        ours, plain = pressed[asked, "tracekit"], pressed[asked, "without jitter"]
        assert float(plain[2]) == 10.0  # all clients in the same tenth of a second
        assert float(ours[2]) < 4
        assert float(ours[4]) < float(plain[4])


@pytest.mark.one_form
def test_estimates_that_are_off_are_not_right():
    from bench.fleet_sampling import Estimate, Outcome

    def estimate(count):
        made = Estimate()
        for number in range(400):
            made.add(0.25, count if number % 4 == 0 else None)
        return made

    assert Outcome("right", {"all": estimate(4.0)}, [estimate(4.0)] * 20).is_right
    assert not Outcome("wrong", {"all": estimate(6.0)}, [estimate(4.0)] * 20).is_right
    assert not Outcome("wrong", {"all": estimate(4.0)}, [estimate(6.0)] * 20).is_right


@pytest.mark.one_form
def test_the_costs_of_a_fleet_follow_from_the_measured_sizes():
    done = run("-m", "bench.fleet", "--costs")
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if "|" in line]
    spans = {row[0]: int(row[1].replace(",", "")) for row in rows[2:]}
    assert spans["all"] == 100_000 * 10_000
    assert spans["`Ratio(0.01)`"] == spans["all"] // 100
    assert spans["`Rate(10)`"] == 100_000 * 10 * 8
    assert all(float(row[2].split()[0]) > 0 for row in rows[2:])


def test_the_bench_of_the_gil_measures_a_portion_a_batch_and_a_buffer():
    from tracekit._core.otlp import PORTION

    done = run("-m", "bench.hold", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()]
    assert [row[0] for row in rows[2:]] == [f"{PORTION:,}", "2,048", "16,384"]
    assert all(float(row[1].split()[0]) > 0 for row in rows[2:])


# What a user's environment would do to the training: no spans, spans to a collector, requests to a proxy, no tree.
HOSTILE = {
    "OTEL_SDK_DISABLED": "true",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
    "TRACEKIT_DEBUG": "127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "no_proxy": "",
    "GCOV_PREFIX": "/nowhere",
    "PYTHONSAFEPATH": "1",
}


@needs_grpc
@pytest.mark.one_form  # it sets the variables that choose the form aside
def test_every_part_of_the_training_runs_whatever_the_environment_says(monkeypatch):
    # In full: the parts must be as frequent beside each other as a build sees them, and end as a program ends.
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    done = run("-E", "-m", "bench.training")
    assert done.returncode == 0, done.stderr
    assert "left out" not in done.stderr


@pytest.mark.one_form
def test_a_part_of_the_training_starts_without_the_variables_that_would_decide_what_is_trained(monkeypatch):
    started = []
    monkeypatch.setattr(training.subprocess, "run", lambda _command, *, env, **_others: started.append(env))
    for name, value in {**HOSTILE, "PYTHONPATH": "kept"}.items():
        monkeypatch.setenv(name, value)
    assert training.main([]) == 0
    assert len(started) == len(training.PARTS)
    assert not HOSTILE.keys() & started[0].keys()
    assert started[0]["PYTHONPATH"] == "kept"


@pytest.mark.one_form
def test_a_part_of_the_training_that_fails_or_hangs_is_named_and_fails_the_build(monkeypatch, capfd):
    monkeypatch.setattr(training, "PARTS", {"unknown": None})
    assert training.main([]) == 1
    assert "unknown: Command" in capfd.readouterr().err
    monkeypatch.setattr(training, "PARTS", {"spans": None})
    monkeypatch.setattr(training, "TIMEOUT_S", 0)
    assert training.main([]) == 1
    assert "timed out" in capfd.readouterr().err


@pytest.mark.one_form
def test_an_error_that_a_service_answers_is_not_counted_as_a_request():
    class Failing(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(500)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments): ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Failing) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            with pytest.raises(RuntimeError, match="the server answered"):
                service_parts.load(server.server_port, service_parts.CONNECTIONS)
        finally:
            server.shutdown()
