"""``tracekit run``: real programs, whose spans are in the store afterwards and which otherwise run as without it."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
import urllib.request

import pytest

from tracekit._core.otlp import GROUP, IS_QUICK
from tracekit.cli.main import main
from tracekit.cli.run import isolation
from tracekit.exporters.sqlite import SQLiteReader

from .exporters.collector import Collector
from .tools.ports import free_port

pytestmark = [
    pytest.mark.one_form,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="replaces the process, and signals, as POSIX has them"),
]

WORK = "import fakelib\nfakelib.work()\n"


@pytest.fixture
def folder(tmp_path):
    """A folder with a library and a third party's integration, which makes a span "work" of each call."""
    files = {
        "fakelib.py": "def work():\n    return 1\n",
        "fakelib_tracing.py": """
            import os
            import fakelib
            import tracekit
            original = fakelib.work
            def instrument(target=None):
                def work():
                    with tracekit.span("work", attributes={"pid": os.getpid()}):
                        return original()
                fakelib.work = work
            def uninstrument(target=None):
                fakelib.work = original
            """,
        "fakelib_tracing-1.0.dist-info/entry_points.txt": "[tracekit.integrations]\nfakelib = fakelib_tracing\n",
        "program.py": WORK,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    return tmp_path


def variables(folder, **more):
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("TRACEKIT_", "OTEL_"))}
    return {**kept, "PYTHONPATH": str(folder), **more}


def traced(*arguments):
    return [sys.executable, "-m", "tracekit", "run", *arguments]


def run(folder, *arguments, **more):
    return subprocess.run(
        traced(*arguments),
        cwd=folder,
        env=variables(folder, **more),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def stored(folder, name="work"):
    """The attribute "pid" of each stored span of that name."""
    if not (folder / "traces.db").exists():
        return []
    with SQLiteReader(folder / "traces.db") as reader:
        spans = [span for trace in reader.traces(limit=1000) for span in reader.spans(trace.trace_id)]
    return [span.attributes.get("pid") for span in spans if span.name == name]


def test_a_script_is_traced_and_the_command_says_where_to_look(folder):
    (folder / "program.py").write_text(WORK + "import sys\nprint(sys.argv[1:], fakelib.work())\nsys.exit(3)")
    done = run(folder, "--", sys.executable, "program.py", "a", "--only")
    assert (done.returncode, done.stdout) == (3, "['a', '--only'] 1\n")
    assert done.stderr == (
        "tracekit: no exporter is configured: spans go to traces.db; see them with: tracekit traces list traces.db\n"
    )
    assert len(stored(folder)) == 2


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("options", [(), ("--in-process",)], ids=["", "in-process"])
def test_a_program_runs_though_a_standard_stream_is_closed(folder, closed, options):
    words = ["sh", "-c", f'"$@" {closed}', "sh", *traced(*options, "--", sys.executable, "program.py")]
    done = subprocess.run(words, cwd=folder, env=variables(folder), capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"Traceback" not in done.stderr
    assert len(stored(folder)) == 1


def test_other_commands_write_nothing_to_a_closed_stream(folder):
    for command in ("doctor", "--version", "traces list traces.db"):
        words = ["sh", "-c", f'"$@" {command} >&-', "sh", sys.executable, "-m", "tracekit"]
        done = subprocess.run(words, cwd=folder, env=variables(folder), capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr


def test_a_module_and_the_program_s_own_spans_are_traced(folder):
    (folder / "program.py").write_text("import tracekit\nwith tracekit.span('work'): pass\n" + WORK)
    done = run(folder, sys.executable, "-m", "program")
    assert done.returncode == 0
    assert len(stored(folder)) == 2


@pytest.mark.parametrize("exporter", ["none", "sqlite"])
def test_a_configured_exporter_is_used_without_a_word(folder, exporter):
    done = run(folder, "--", sys.executable, "program.py", OTEL_TRACES_EXPORTER=exporter)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(stored(folder)) == (exporter == "sqlite")


def test_the_program_s_own_configuration_wins(folder):
    (folder / "program.py").write_text(
        "import tracekit\nfrom tracekit.exporters.sqlite import SQLiteExporter\n"
        "tracekit.configure(exporter=SQLiteExporter('own.db'))\n" + WORK
    )
    assert run(folder, "--", sys.executable, "program.py").returncode == 0
    assert stored(folder) == []
    with SQLiteReader(folder / "own.db") as reader:
        assert reader.counts()[0] == 1


def test_a_signal_ends_the_command_as_it_ends_the_program(folder):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    assert run(folder, "--", sys.executable, "-c", code).returncode == -signal.SIGTERM


@pytest.mark.parametrize(("options", "expected"), [((), 3), (("--no-children",), 1)])
def test_children_are_traced_unless_told_otherwise(folder, options, expected):
    (folder / "program.py").write_text(
        WORK + "import os, subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import fakelib; fakelib.work()'])\n"
        "os.chdir('..')\nsubprocess.run(['sh', '-c', sys.executable + ' -c \"import fakelib; fakelib.work()\"'])\n"
        "print({n: v for n, v in os.environ.items() if n.startswith('TRACEKIT_RUN')}, '_site' in os.environ['PYTHONPATH'])"
    )
    done = run(folder, *options, "--", sys.executable, "program.py")
    assert done.stdout == ("{} False\n" if options else "{'TRACEKIT_RUN': 'all'} True\n")
    assert len(stored(folder)) == expected


def test_a_forked_child_exports_its_own_spans(folder):
    (folder / "program.py").write_text(
        WORK + "import os\nif os.fork() == 0:\n    fakelib.work()\n    raise SystemExit\nos.wait()\n"
    )
    assert run(folder, "--", sys.executable, "program.py").returncode == 0
    assert len(set(stored(folder))) == 2


def test_the_program_s_own_sitecustomize_runs_and_the_path_is_as_without(folder):
    (folder / "sitecustomize.py").write_text("print('own')\nimport fakelib\nfakelib.work()")
    (folder / "program.py").write_text("import sitecustomize, sys\nprint(sitecustomize.__file__)\nprint(sys.path)")
    command = [sys.executable, "program.py"]
    plain = subprocess.run(command, cwd=folder, env=variables(folder), capture_output=True, text=True, check=True)
    # The command is a Python program too, before it becomes this one.
    assert run(folder, "--", *command).stdout == f"own\n{plain.stdout}"
    assert len(stored(folder)) == 1


@pytest.mark.parametrize("path", ["", ":", ":{}", "{}:", "{}::{}/more", "relative"])
@pytest.mark.parametrize("options", [(), ("--no-children",)])
def test_every_form_of_pythonpath_means_the_same_as_without(folder, path, options):
    code = "import os, sys; print(sys.path); os.execl(sys.executable, 'python', '-c', 'import sys; print(sys.path)')"
    command, own = [sys.executable, "-c", code], path.format(folder, folder)
    environ = variables(folder, PYTHONPATH=own)
    plain = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=True)
    assert run(folder, *options, "--", *command, PYTHONPATH=own).stdout == plain.stdout


def test_a_second_run_inside_changes_nothing_but_its_options(folder):
    (folder / "program.py").write_text(WORK + "import os\nprint(os.environ['PYTHONPATH'].count('_site'))")
    done = run(folder, "--", *traced("--exclude", "threads", "--", sys.executable, "program.py"))
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert done.stderr.count("tracekit:") == 1
    assert len(stored(folder)) == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [(("--only", "threads"), 0), (("--exclude", "fakelib"), 0), (("--only", "threads,fakelib"), 1)],
)
def test_libraries_are_chosen_by_name(folder, options, expected):
    assert run(folder, *options, "--", sys.executable, "program.py").returncode == 0
    assert len(stored(folder)) == expected


def test_an_interpreter_without_tracekit_runs_the_program_untraced(folder, tmp_path):
    other = sys._base_executable
    done = run(folder, "--", other, "-c", "import fakelib, sys; print(fakelib.work(), 'tracekit' in sys.modules)")
    assert (done.returncode, done.stdout) == (0, "1 False\n")
    assert done.stderr.count("\n") == 1
    assert stored(folder) == []


def test_a_program_that_uses_nothing_traced_does_not_load_tracekit(folder):
    # logging.config, which uvicorn uses, imports socketserver.
    code = "import logging.config, sys; print(sorted(name for name in sys.modules if name.startswith('tracekit')))"
    done = run(folder, "--", sys.executable, "-c", code)
    assert done.stdout == "['tracekit._import_hook', 'tracekit._libraries']\n"


ENCODES = """
import fakelib, tracekit
from tracekit import _configure
from tracekit._core.otlp import GROUP
fakelib.work()
assert tracekit.flush(60)  # the exporter is made with the first spans
for _ in range(GROUP):
    fakelib.work()
print(_configure._pipeline._worker.encoder.count == GROUP, type(_configure._pipeline.exporter).__name__)
"""


@pytest.mark.skipif(not IS_QUICK, reason="only the compiled form encodes spans where they end")
def test_spans_for_otlp_are_encoded_where_they_end(folder):
    (folder / "program.py").write_text(ENCODES)
    with Collector() as collector:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "3600000"}
        done = run(folder, "--", sys.executable, "program.py", **settings)
        assert (done.stdout, done.stderr) == ("True OTLPExporter\n", "")
        assert len(collector.spans) == 1 + GROUP


def test_a_spool_of_an_earlier_process_is_sent_though_there_are_no_spans(folder):
    (folder / "quiet.py").write_text("import fakelib\n")
    with Collector() as collector:
        spool = {"TRACEKIT_SPOOL": str(folder / "spool.db"), "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        away = {**spool, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
        assert run(folder, "--", sys.executable, "program.py", **away).returncode == 0
        assert not collector.spans
        done = run(folder, "--", sys.executable, "quiet.py", **spool)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert [span.name for span in collector.spans] == ["work"]


def test_a_broken_installation_costs_the_traces_and_not_the_program(folder):
    (folder / "tracekit").mkdir()
    (folder / "tracekit" / "__init__.py").write_text("raise OSError('broken')")
    command = [sys.executable, "-c", "import fakelib; print(fakelib.work())"]
    environ = variables(folder)
    site = os.path.join(os.path.dirname(sys.modules["tracekit"].__file__), "_site")
    environ |= {"PYTHONPATH": os.pathsep.join([site, str(folder)]), "TRACEKIT_RUN": "all"}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert done.stderr.startswith("tracekit: not traced: ")
    assert done.stderr.count("\n") == 1


# ---- commands that cannot be run


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        (["python", "-I", "a.py"], "-I"),
        (["/usr/bin/python3.11", "-uE", "a.py"], "-E"),
        (["python3", "-S"], "-S"),
        (["python3", "-W", "error", "-Ic", "pass"], "-I"),
        (["python3", "-Werror", "-X", "dev", "-I"], "-I"),
        (["python", "-c", "-I"], ""),
        (["python", "-m", "app", "-I"], ""),
        (["python", "-mIS"], ""),
        (["python", "a.py", "-I"], ""),
        (["python", "-WI", "a.py"], ""),
        (["python", "--", "-I"], ""),
        (["python"], ""),
        (["nothing-of-this-name", "-I"], ""),
    ],
)
def test_options_that_isolate_python_are_found(command, flag):
    assert isolation(command) == flag


def test_an_isolated_script_is_refused_with_the_way_out(folder, monkeypatch):
    script = folder / "isolated"
    script.write_text(f"#!{sys.executable} -I\nprint('ran')\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    done = run(folder, "--", str(script))
    assert (done.returncode, done.stdout) == (2, "")
    assert "does not load the sitecustomize" in done.stderr  # so does -S, which reads PYTHONPATH
    assert "leave -I out, use tracekit run --in-process, or call" in done.stderr
    assert run(folder, "--in-process", "--", str(script)).stdout == "ran\n"


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ([], 2, "run needs a program"),
        (["--"], 2, "run needs a program"),
        (["--only", "fakelip", "--", "true"], 2, "no integration for 'fakelip'"),
        (["--exclude", "threds", "--", "true"], 2, "did you mean threads"),
        (["--", "nothing-of-this-name"], 127, "nothing-of-this-name could not be started: No such file"),
        (["--", "/"], 126, "/ could not be started: Permission denied"),
        (["--", "a\0b"], 2, "could not be started"),
        (["--in-process", "--", "python"], 2, "--in-process runs python script.py"),
        (["--in-process", "--", "python", "nowhere.py"], 127, "nowhere.py could not be started"),
        (["--in-process", "--", "sh"], 126, "sh is not a Python script"),
    ],
)
def test_a_command_that_cannot_be_run_says_why(capsys, monkeypatch, arguments, status, text):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert main(["run", *arguments]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert text in err


@pytest.mark.parametrize(
    "command", [["python", "-I", "program.py", "a"], ["python", "-m", "program", "a"], ["program.py", "a"]]
)
def test_a_program_can_run_in_this_process(folder, command):
    (folder / "program.py").write_text(
        WORK + "import sys\nprint(__name__, sys.argv[1:], sys.path[0])\nassert fakelib.work()\nsys.exit(4)"
    )
    done = run(folder, "--in-process", "--", *command)
    assert (done.returncode, done.stdout) == (4, f"__main__ ['a'] {folder}\n"), done.stderr
    assert len(stored(folder)) == 2


# ---- servers, and programs that start processes

APP = """
import json, os
import fakelib

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    fakelib.work()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})

def wsgi(environ, start_response):
    fakelib.work()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""


def ask(port, deadline):
    """The body of the answer, once there is a server."""
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
                return int(answer.read())
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@pytest.mark.parametrize(
    "server",
    [
        # Its supervisor kills a worker that does not answer within 5 s, unless told otherwise.
        [
            "-m",
            "uvicorn",
            "app:app",
            "--workers",
            "2",
            "--timeout-worker-healthcheck",
            "60",
            "--log-level",
            "error",
            "--port",
        ],
        [
            "-m",
            "gunicorn",
            "app:wsgi",
            "--preload",
            "--workers",
            "2",
            "--no-control-socket",
            "--timeout",
            "300",
            "--bind",
        ],
    ],
    ids=["uvicorn --workers 2", "gunicorn --preload"],
)
def test_the_workers_of_a_server_are_traced(folder, server):
    (folder / "app.py").write_text(APP)
    port, deadline = free_port(), time.monotonic() + 300
    address = f"127.0.0.1:{port}" if "--bind" in server else str(port)
    process = subprocess.Popen(
        traced("--", sys.executable, *server, address),
        cwd=folder,
        env=variables(folder),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        served = [ask(port, deadline) for _ in range(8)]
        while len(stored(folder)) < len(served) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert sorted(stored(folder)) == sorted(served), errors
    assert process.returncode == 0


def test_a_server_that_reloads_its_program_is_traced_before_and_after(folder):
    (folder / "app.py").write_text(APP)
    port, deadline = free_port(), time.monotonic() + 300
    options = ["app:app", "--reload", "--reload-dir", str(folder), "--reload-delay", "0.05", "--log-level", "error"]
    process = subprocess.Popen(
        traced("--", sys.executable, "-m", "uvicorn", *options, "--port", str(port)),
        cwd=folder,
        env=variables(folder),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        served = [ask(port, deadline)]
        stamp = time.time() + 10
        os.utime(folder / "app.py", (stamp, stamp))
        while served[-1] == served[0] and time.monotonic() < deadline:
            served.append(ask(port, deadline))
        while len(stored(folder)) < len(served) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert len(set(served)) == 2, errors
    assert sorted(stored(folder)) == sorted(served), errors


def test_the_worker_of_celery_and_its_caller_are_traced(folder):
    for name in ("queue", "control"):
        (folder / name).mkdir()
    (folder / "jobs.py").write_text(
        "import celery, os, fakelib\n"
        "app = celery.Celery('jobs', broker='filesystem://')\n"
        "app.conf.broker_transport_options = dict(\n"
        "    data_folder_in='queue', data_folder_out='queue', control_folder='control')\n"
        "app.conf.worker_hijack_root_logger = False\n"
        "@app.task\ndef job():\n    fakelib.work()\n"
        "if __name__ == '__main__':\n    app.send_task('jobs.job')\n"
    )
    assert run(folder, "--", sys.executable, "jobs.py").returncode == 0
    worker = [sys.executable, "-m", "celery", "-A", "jobs", "worker", "-c", "1", "-l", "error"]
    worker += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    process = subprocess.Popen(
        traced("--", *worker),
        cwd=folder,
        env=variables(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    try:
        while not stored(folder) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert len(stored(folder)) == 1, errors
    with SQLiteReader(folder / "traces.db") as reader:
        traces = [reader.spans(trace.trace_id) for trace in reader.traces(limit=1000)]
    (names,) = [sorted(span.kind for span in trace) for trace in traces if any(span.name == "work" for span in trace)]
    assert names == ["consumer", "internal", "producer"]


def test_the_workers_of_pytest_xdist_are_traced(folder):
    (folder / "test_fake.py").write_text(
        "import fakelib, pytest\n@pytest.mark.parametrize('n', range(4))\ndef test_it(n):\n    fakelib.work()\n"
    )
    options = ["-q", "-p", "xdist", "-n", "2", "--dist", "each", "-p", "no:cacheprovider"]
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = run(folder, "--", sys.executable, "-m", "pytest", *options, "test_fake.py", **alone)
    assert done.returncode == 0, done.stdout + done.stderr
    pids = stored(folder)
    assert len(pids) == 8
    assert len(set(pids)) == 2


def test_doctor_lists_libraries_and_who_traces_them(folder):
    command = [sys.executable, "-m", "tracekit", "doctor", "--json"]
    environ = variables(folder, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="httpx")
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False)
    rows = {row["name"]: row for row in json.loads(done.stdout)["libraries"]}
    assert rows["fakelib"] == {"name": "fakelib", "traced_by": "fakelib-tracing", "change": ""}
    assert rows["httpx"]["change"] == "take it out of OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
    assert rows["httpx"]["traced_by"] == ""
