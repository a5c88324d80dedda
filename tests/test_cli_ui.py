"""The command ``tracekit ui``: a real process, from its first line to Ctrl-C."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from tracekit.cli import main as command
from tracekit.exporters.sqlite import SQLiteReader

from .ui.conftest import span


def start(*arguments, **environ):
    return subprocess.Popen(
        [sys.executable, "-m", "tracekit", "ui", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environ},
    )


def addresses(process):
    """Read the lines that the command begins with, as a dict."""
    found = {}
    for line in process.stdout:
        if not line.strip():
            break
        name, _, rest = line.strip().partition("  ")
        found[name] = rest.strip()
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_receives_until_it_is_interrupted(tmp_path, number):
    process = start("--port", "0", "--http-port", "0", "--grpc-port", "0", XDG_STATE_HOME=str(tmp_path))
    found = addresses(process)
    with urllib.request.urlopen(found["pages"]) as page:
        assert b"<title>tracekit</title>" in page.read()
    body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span()]}]}]}).encode()
    url = found["OTLP/HTTP"].split()[0] + "/v1/traces"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request).close()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert found["store"] == str(tmp_path / "tracekit" / "traces.db")
    with SQLiteReader(found["store"]) as reader:
        assert reader.counts().spans == 1


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="browsers are started in another way")
def test_a_browser_that_ends_before_the_next_step_gets_the_page(tmp_path):
    browser, page = tmp_path / "browser.py", tmp_path / "page"
    browser.write_text(
        "import sys, urllib.request\n"
        "try:\n"
        f"    with urllib.request.urlopen(sys.argv[1], timeout=15) as page, open({str(page)!r}, 'wb') as file:\n"
        "        file.write(page.read())\n"
        "finally:\n"
        "    print('it ends', flush=True)\n"
    )
    arguments = "--port", "0", "--http-port", "0", "--grpc-port", "0", "--open"
    process = start(*arguments, XDG_STATE_HOME=str(tmp_path), BROWSER=f"{sys.executable} {browser} %s")
    for line in process.stdout:
        if line == "it ends\n":
            break
    process.terminate()
    process.communicate(timeout=60)
    assert b"<title>tracekit</title>" in page.read_bytes()


def test_a_port_in_use_is_named(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert command.main(["ui", str(tmp_path / "spans.db"), "--port", port, "--http-port", "0"]) == 2
    assert f"tracekit: port {port}: Address already in use; name a free port with --port" in capsys.readouterr().err


def test_a_file_that_is_only_shown_must_exist(tmp_path, capsys):
    path = tmp_path / "spams.db"
    assert command.main(["ui", str(path), "--port", "0", "--no-receiver"]) == 2
    assert f"tracekit: no such file: {path}: name the file that SQLiteExporter writes" in capsys.readouterr().err
    assert not path.exists()


def test_a_file_of_another_program_is_left_alone(tmp_path, capsys):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, and long enough to be read as one" * 30)
    assert command.main(["ui", str(path), "--port", "0", "--no-receiver"]) == 2
    assert "notes.txt" in capsys.readouterr().err
    assert path.read_text().startswith("not a database")


@pytest.mark.parametrize("argument", ["--port=70000", "--port=x", "--max-mb=0"])
def test_wrong_arguments_are_named(capsys, argument):
    assert command.main(["ui", argument]) == 2
    assert argument.partition("=")[0] in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(tmp_path):
    # In a process of its own: a second import of tracekit.ui here would replace the package that other tests patch.
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError(\"No module named 'uvicorn'\", name='uvicorn')")
    process = start(PYTHONPATH=str(tmp_path))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "the viewer needs uvicorn: pip install 'tracekit-async[ui]'" in errors


def test_without_grpcio_the_other_receiver_works(tmp_path, monkeypatch):
    (tmp_path / "grpc.py").write_text("raise ModuleNotFoundError(\"No module named 'grpc'\", name='grpc')")
    process = start(str(tmp_path / "spans.db"), "--port", "0", "--http-port", "0", PYTHONPATH=str(tmp_path))
    found = addresses(process)
    process.terminate()
    process.communicate(timeout=60)
    assert found["OTLP/gRPC"] == "off: grpcio is not installed (pip install grpcio)"
    assert found["OTLP/HTTP"].startswith("http://127.0.0.1:")
