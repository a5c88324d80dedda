import builtins
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import tracekit
from tracekit._core import NO_EXTENSIONS
from tracekit._render import cells
from tracekit.cli.main import main
from tracekit.exporters.sqlite import SQLiteExporter, SQLiteReader, StoredSpan, StoredTrace
from tracekit.testing import CountingIds, FakeClock

from .tools.terminal import in_terminal, without_reader

PYTHONPATH = str(Path(tracekit.__file__).parents[1])
COMMAND = [sys.executable, "-m", "tracekit"]
HOSTILE = "[bold]\x1b[31m\x1b]0;title\x07\r\n\x9b2J\u202e\ud800\x7f"


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TZ", "UTC")
    if hasattr(time, "tzset"):
        time.tzset()


@pytest.fixture
def path(tmp_path):
    """An empty store."""
    path = tmp_path / "traces.db"
    exporter = SQLiteExporter(path)
    exporter.export([])
    exporter.shutdown()
    return path


@pytest.fixture
def shop(path):
    """A store with three traces: 1 with two services, labels and an error, 2 without anything, 3 an orphan's."""

    def service(name):
        tracekit.configure(service=name, exporter=SQLiteExporter(path), resource={"host.name": "h1"})

    with CountingIds(), FakeClock() as clock:
        service("shop")
        with tracekit.use_labels(tenant="acme"):
            root = tracekit.span("GET /checkout", kind="server", attributes={"path": "/checkout", "items": 3})
        with tracekit.use_span(root):
            clock.tick(0.010)
            service("stock")
            with tracekit.span("reserve", attributes={"note": "n" * 200}) as reserve:
                clock.tick(0.020)
                reserve.add_event("shelf read", {"shelf": "A\nB"})
                reserve.add_link(tracekit.SpanContext("a" * 32, "b" * 16), {"why": "batch"})
                reserve.set_status("error", "no stock")
            with tracekit.span("notify") as notify:
                clock.tick(0.010)
                notify.set_status("cancelled")
        root.end()
        clock.tick(1)
        tracekit.span("tick").end()
        clock.tick(1)
        remote = tracekit.SpanContext("e" * 32, "f" * 16, 1, is_remote=True)
        tracekit.span("lonely", parent=remote).end()
    tracekit.shutdown(60)
    return path


def run(*arguments, **options):
    env = {**os.environ, "PYTHONPATH": PYTHONPATH, **options.pop("env", {})}
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, env=env, timeout=60, **options)


# traces list


def test_list_is_a_table_with_the_newest_trace_first(shop, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["traces", "list", str(shop)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [re.split(r"  +", line) for line in out.splitlines()] == [
        ["trace", "started", "took", "spans", "status", "root", "services"],
        [("e" * 32), "2023-11-14 22:13:22", "0 ns", "1", "unset", "lonely", "stock"],
        [f"{2:032x}", "2023-11-14 22:13:21", "0 ns", "1", "unset", "tick", "stock"],
        [f"{1:032x}", "2023-11-14 22:13:20", "40.0 ms", "3", "error", "GET /checkout", "shop, stock"],
        [f"show one: tracekit traces show {shop} TRACE"],
    ]


@pytest.mark.parametrize(
    ("options", "roots"),
    [
        (["--limit", "2"], ["lonely", "tick"]),
        (["--service", "shop"], ["GET /checkout"]),
        (["--name", "serv"], ["GET /checkout"]),
        (["--status", "cancelled"], ["GET /checkout"]),
        (["--status", "ok"], []),
        (["--service", "\udcff"], []),
    ],
)
def test_list_as_json_is_the_stored_traces_and_nothing_else(shop, capsys, options, roots):
    assert main(["traces", "list", str(shop), "--json", *options]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    listing = json.loads(out)
    assert listing["path"] == str(shop)
    assert [trace["name"] for trace in listing["traces"]] == roots
    assert all(tuple(trace) == StoredTrace._fields for trace in listing["traces"])


@pytest.mark.parametrize("width", [80, 100, 160])
def test_no_line_is_wider_than_the_terminal(path, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    parent = None
    tracekit.configure(service="a service with a long name " * 3, exporter=SQLiteExporter(path))
    for number in range(30):
        parent = tracekit.span(f"日本語 and more {'x' * number}", parent=parent, attributes={"k": "v" * number})
        parent.set_status("error", "e" * 200)
        parent.end()
    tracekit.shutdown(60)
    for command in ("show", "list"):
        assert main(["traces", command, str(path)]) == 0
        lines = capsys.readouterr().out.splitlines()
        widest = max(cells(line) for line in lines if str(path) not in line)
        assert (80 if command == "list" else width - 3) <= widest <= width


# traces show


def test_show_is_a_tree_with_bars_on_one_time_axis(shop, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "72")
    assert main(["traces", "show", str(shop), f"{1:032x}"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert (
        out
        == f"""\
trace {1:032x}
2023-11-14 22:13:20  40.0 ms  3 spans  2 services  1 error  1 cancelled
                      0                               40.0 ms
GET /checkout  shop   ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━  40.0 ms
│  labels tenant=acme
│  path=/checkout  items=3
├─ reserve     stock           ╺━━━━━━━━━━━━━━━━━━━            20.0 ms ✗
│     error: no stock
│     labels tenant=acme
│     note=nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn…
└─ notify      stock                               ━━━━━━━━━━  10.0 ms ⊘
      cancelled
      labels tenant=acme
--all shows complete attributes, events and links
"""
    )


def test_levels_that_are_only_numbered_are_explained(path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    legend = "+1, +2 … are levels below the last one that is drawn"
    parent = None
    tracekit.configure(service="shop", exporter=SQLiteExporter(path))
    for depth in range(8):
        parent = tracekit.span(f"depth {depth}", parent=parent)
        parent.end()
        tracekit.flush(60)
        assert main(["traces", "show", str(path)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert (legend in lines) == any("└+" in line for line in lines) == (depth > 6)
    tracekit.shutdown(60)


def test_show_all_leaves_nothing_out(shop, capsys):
    assert main(["traces", "show", str(shop), f"{1:032x}", "--all"]) == 0
    lines = [line.strip("│├└─ ") for line in capsys.readouterr().out.splitlines()]
    for line in (
        "server span 0000000000000001 at +0 ns",
        "items 3",
        "internal span 0000000000000002 at +10.0 ms",
        "note " + "n" * 200,
        "+30.0 ms shelf read",
        "A",
        "B",
        f"link to {'a' * 32}/{'b' * 16}",
        "why batch",
        "resource of shop",
        "resource of stock",
        "host.name h1",
    ):
        assert line in lines
    assert lines.count("host.name h1") == 2


def test_show_without_an_id_is_the_newest_and_an_absent_parent_is_said(shop, capsys):
    assert main(["traces", "show", str(shop)]) == 0
    out = capsys.readouterr().out
    assert "1 without their parent" in out
    assert f"its parent, another process's {'f' * 16}, is not in this file" in out


def test_show_as_json_is_the_stored_spans_and_nothing_else(shop, capsys):
    assert main(["traces", "show", str(shop), f"{1:032x}", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    trace = json.loads(out)
    with SQLiteReader(shop) as reader:
        spans = reader.spans(f"{1:032x}")
    assert trace == {"trace_id": f"{1:032x}", "spans": [span._asdict() for span in spans]}
    assert tuple(trace["spans"][0]) == StoredSpan._fields


@pytest.mark.parametrize(
    "arguments",
    [["list"], ["show"], ["show", "--all"], ["list", "--json"], ["show", "--json"]],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_nothing_that_a_program_has_stored_can_steer_the_terminal(path, arguments, encoding):
    tracekit.configure(service=HOSTILE, exporter=SQLiteExporter(path), resource={HOSTILE: HOSTILE})
    with (
        tracekit.use_labels(key=HOSTILE),
        tracekit.span(HOSTILE, attributes={HOSTILE: HOSTILE, "l": [HOSTILE]}) as span,
    ):
        span.add_event(HOSTILE, {HOSTILE: HOSTILE})
        span.add_link(span, {HOSTILE: HOSTILE})
        span.set_status("error", HOSTILE)
    tracekit.shutdown(60)
    command, *options = arguments
    done = run("traces", command, path, *options, env={"PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode(encoding)
    assert all(line.isprintable() for line in text.split("\n") if "\x7f" not in line or "--json" not in options)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x80-\x9f\u202e\ud800]", text)
    assert "[bold]" in text


# What goes wrong


@pytest.mark.parametrize("command", ["list", "show"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file: {path}: name the file that SQLiteExporter writes"),
        (b"no database\n" * 1000, "not a SQLite database: {path}: name another path, or move that file away"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line_and_status_2(tmp_path, capsys, command, content, message):
    path = tmp_path / "x.db"
    if content is not None:
        path.write_bytes(content)
    assert main(["traces", command, str(path), "--json"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"tracekit: {message.format(path=path)}\n")


@pytest.mark.parametrize(
    ("trace_id", "message"),
    [
        ("abc", "no trace begins with 'abc': {path}: tracekit traces list shows their ids"),
        (HOSTILE, "no trace begins with "),
        ("0", f"several traces begin with '0': {{path}}: give more digits of one of {1:032x}, {2:032x}"),
    ],
)
def test_an_id_that_fits_no_trace_or_several_is_one_line_and_status_2(shop, capsys, trace_id, message):
    assert main(["traces", "show", str(shop), trace_id]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"tracekit: {message.format(path=shop)}")
    assert err.removesuffix("\n").isprintable()


def test_an_empty_store_says_so(path, capsys):
    assert main(["traces", "list", str(path)]) == 0
    assert capsys.readouterr() == (f"no traces yet: {path}\n", "")
    assert main(["traces", "list", str(path), "--service", "x"]) == 0
    assert capsys.readouterr() == (f"no trace matches: {path}\n", "")
    assert main(["traces", "list", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(path), "traces": []}
    assert main(["traces", "show", str(path)]) == 2
    assert capsys.readouterr() == ("", f"tracekit: no traces yet: {path}: run a program that writes to it\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["traces"],
        ["traces", "export"],
        ["traces", "list", "x", "--limit", "0"],
        ["demo", "--requests", "x"],
        ["bogus"],
    ],
)
def test_wrong_arguments_are_status_2_with_the_usage(capsys, arguments):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: tracekit")


def test_without_arguments_the_first_commands_are_printed_and_each_exists(capsys):
    assert main([]) == 0
    out, err = capsys.readouterr()
    commands = [line.split() for line in out.splitlines() if line.startswith("  tracekit ")]
    assert (len(commands), err) == (6, "")
    for _, *words in commands:
        assert main([*words[: 1 + (words[0] == "traces")], "--help"]) == 0


@pytest.mark.parametrize("command", [["run"], ["traces"], ["traces", "export"], ["doctor"]])
def test_help_begins_with_the_purpose_of_the_command(capsys, command):
    assert main([*command, "--help"]) == 0
    _, purpose, *_ = capsys.readouterr().out.split("\n\n")
    assert purpose[0].isupper()
    assert purpose.endswith(".")


def test_only_the_arguments_that_are_required_are_named_as_missing(capsys):
    for command in ("export", "delete"):
        assert main(["traces", command]) == 2
        assert capsys.readouterr().err.endswith("required: PATH\n")


def test_list_show_and_stats_without_a_path_read_the_default_store(shop, monkeypatch, capsys):
    monkeypatch.chdir(shop.parent)  # its name is traces.db
    monkeypatch.delenv("TRACEKIT_SQLITE_PATH", raising=False)
    for command in ("list", "show", "stats"):
        assert main(["traces", command, "traces.db", "--json"]) == 0
        named = capsys.readouterr()
        assert main(["traces", command, "--json"]) == 0
        assert capsys.readouterr() == named


def test_the_default_store_is_the_one_that_the_environment_names(shop, monkeypatch, capsys, tmp_path):
    shop.rename(tmp_path / "other.db")
    monkeypatch.setenv("TRACEKIT_SQLITE_PATH", str(tmp_path / "other.db"))
    assert main(["traces", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(tmp_path / "other.db")


def test_a_trace_id_alone_is_looked_up_in_the_default_store(shop, monkeypatch, capsys):
    monkeypatch.chdir(shop.parent)
    monkeypatch.delenv("TRACEKIT_SQLITE_PATH", raising=False)
    first = f"{1:032x}"
    assert main(["traces", "show", first, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trace_id"] == first
    assert main(["traces", "show", "no-id.db"]) == 2
    assert "no such file" in capsys.readouterr().err


def test_help_and_version_are_status_0(capsys):
    assert main(["--help"]) == 0
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.endswith(f"tracekit {tracekit.__version__}\n")


def test_a_reader_that_goes_away_is_no_error(shop):
    assert without_reader("traces", "show", shop, "--all") == (141, b"")


# Color


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize(("env", "is_colored"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_a_terminal_gets_color_unless_it_declines_and_its_whole_width(shop, env, is_colored):
    status, text = in_terminal("traces", "show", shop, "1".zfill(32), width=80, **env)
    assert status == 0
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert ("\x1b[31m" in text) is is_colored
    assert plain.splitlines()[3].endswith("40.0 ms")
    assert cells(plain.splitlines()[3]) == 78
    assert "\x1b" not in plain


@pytest.mark.parametrize("command", [["traces", "list"], ["traces", "show"]])
def test_without_rich_it_is_plain_with_one_line_that_says_what_to_install(shop, capsys, monkeypatch, command):
    main([*command, str(shop)])
    expected = capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert main([*command, str(shop)]) == 0
    assert capsys.readouterr() == (expected, "tracekit: plain text; for color: pip install 'tracekit-async[cli]'\n")
    assert main([*command, str(shop), "--json"]) == 0
    assert capsys.readouterr().err == ""


# demo


def test_demo_runs_with_the_options_given(monkeypatch):
    calls = []
    module = SimpleNamespace(run=lambda **options: calls.append(options) or 7)
    monkeypatch.setitem(sys.modules, "tracekit.demo.run", module)
    assert main(["demo"]) == 7
    assert main(["demo", "--serve", "--db", "x.db", "--requests", "3"]) == 7
    assert all(callable(call.pop("show")) and callable(call.pop("view")) for call in calls)
    assert calls == [
        {"db": None, "requests": 50, "serve": False},
        {"db": "x.db", "requests": 3, "serve": True},
    ]


def test_demo_without_its_dependencies_says_what_to_install(monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *arguments):
        if name.endswith("demo.run"):
            raise ModuleNotFoundError("No module named 'starlette'", name="starlette")
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["demo"]) == 2
    assert capsys.readouterr() == ("", "tracekit: the demo needs starlette: pip install 'tracekit-async[demo]'\n")


# doctor


def test_doctor_as_json_has_a_verdict_for_each_thing_it_looked_at(capsys):
    assert main(["doctor", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    report = json.loads(out)
    assert report.keys() == {"ok", "checks", "libraries"}
    assert {"name": "threads", "traced_by": "tracekit", "change": ""} in report["libraries"]
    assert report["ok"] is True
    checks = report["checks"]
    assert all(check.keys() == {"ok", "text"} and check["ok"] is True for check in checks.values())
    assert checks["tracekit"]["text"] == tracekit.__version__
    assert checks["python"]["text"].startswith(f"{platform.python_implementation()} {platform.python_version()}, ")
    assert checks["implementation"]["text"].split(":")[0] == tracekit.IMPLEMENTATION
    assert ("TRACEKIT_NO_EXTENSIONS" in checks["implementation"]["text"]) is NO_EXTENSIONS
    inherits = getattr(sys.flags, "thread_inherit_context", 0)
    starts = ("start in an empty", "inherit the")[inherits]
    assert checks["threads"]["text"].startswith(f"{starts} Context")
    assert checks["formats"]["text"] == "tracecontext, baggage"
    assert checks["anyio"]["text"][0].isdigit()


def test_doctor_says_why_the_implementation_is_plain():
    done = run("doctor", "--json", env={"TRACEKIT_NO_EXTENSIONS": "1"})
    text = json.loads(done.stdout)["checks"]["implementation"]["text"]
    assert text == "plain: forced by TRACEKIT_NO_EXTENSIONS=1"


def test_doctor_tells_what_is_not_installed(capsys, monkeypatch):
    from importlib import metadata

    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checks"]["uvloop"]["text"] == "not installed"


def test_doctor_prints_columns(capsys):
    assert main(["doctor"]) == 0
    checks, _, libraries = capsys.readouterr().out.partition("\nlibraries that ")
    columns = [re.match(r"\S (\S+  +)\S", line) for line in checks.splitlines()]
    assert len({column.end() for column in columns}) == 1
    columns = [re.match(r"  (\S+  +)(by|not traced)", line) for line in libraries.splitlines()[1:-1]]
    assert len({column.start(2) for column in columns}) == 1


def test_doctor_stores_a_span_and_leaves_nothing(shop, tmp_path, capsys):
    with SQLiteReader(shop) as reader:
        before = reader.counts()
    assert main(["doctor", "--db", str(shop)]) == 0
    out = capsys.readouterr().out
    assert f" {shop}: a span can be stored and read\n" in out
    assert out.endswith("\nall is well\n")
    with SQLiteReader(shop) as reader:
        assert reader.counts() == before
    new = tmp_path / "new.db"
    files = set(tmp_path.iterdir())
    assert main(["doctor", "--db", str(new), "--json"]) == 0
    assert (
        json.loads(capsys.readouterr().out)["checks"]["db"]["text"]
        == f"{new}: not there yet; a span can be stored beside it"
    )
    assert set(tmp_path.iterdir()) == files


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("no/x.db", r"cannot be made \(.*\): .*no/x\.db: create its directory, writable for this user"),
        ("", "is a directory: .*: name a file in it"),
        ("broken.db", "not a SQLite database: .*: name another path, or move that file away"),
    ],
)
def test_doctor_says_what_is_wrong_with_a_store_and_ends_with_status_1(tmp_path, capsys, place, message):
    (tmp_path / "broken.db").write_bytes(b"no database\n" * 1000)
    assert main(["doctor", "--db", str(tmp_path / place), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert [name for name, check in report["checks"].items() if not check["ok"]] == ["db"]
    assert re.fullmatch(message, report["checks"]["db"]["text"])
    assert main(["doctor", "--db", str(tmp_path / place)]) == 1
    assert capsys.readouterr().out.endswith("\nsomething is broken: see above\n")


@pytest.mark.parametrize(
    ("spoil", "name", "text"),
    [
        (
            lambda patch: patch.setattr("time.time", lambda: 86400.0),
            "clock",
            "the wall clock is wrong: 1970-01-02",
        ),
        (
            lambda patch: patch.setattr(
                "tracekit.cli.doctor.span", lambda *_, **__: SimpleNamespace(context=tracekit.SpanContext())
            ),
            "ids",
            "ids repeat, or are zero",
        ),
    ],
)
def test_doctor_finds_what_is_broken(monkeypatch, capsys, spoil, name, text):
    with monkeypatch.context() as patch:
        spoil(patch)
        assert main(["doctor", "--json"]) == 1
    check = json.loads(capsys.readouterr().out)["checks"][name]
    assert check["ok"] is False
    assert check["text"].startswith(text)


def test_the_command_line_needs_no_third_party_module():
    code = "import sys, tracekit.cli.main; print(sorted(n for n in sys.modules if n.split('.')[0] in {'rich','anyio','trio','httpx'}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONPATH": PYTHONPATH}, timeout=60
    )
    assert (done.stdout.strip(), done.stderr) == (b"[]", b"")
