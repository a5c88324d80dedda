"""``tracekit tasks``: the tasks of another process, through its page or from inside it (PEP 768)."""

from __future__ import annotations

import errno
import http.server
import json
import os
import socket
import subprocess
import sys
import textwrap
import threading

import pytest

from tracekit.cli import tasks
from tracekit.cli.main import main

from .aio.test_tasks import reads_others

PROGRAM = """
    import asyncio, sys
    import tracekit, tracekit.debug

    async def work():
        with tracekit.span("order"):
            await asyncio.Event().wait()

    async def main():
        task = asyncio.create_task(work(), name="stuck")
        await asyncio.sleep(0)
        server = tracekit.debug.serve(port=0)
        print(server.url, flush=True)
        done = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
        if "idle" in sys.argv:
            await done
        while not done.done():
            await asyncio.sleep(0.01)
        task.cancel()
        server.close()

    asyncio.run(main())
    """


@pytest.fixture(scope="module")
def program():
    yield from start()


@pytest.fixture
def idle_program():
    yield from start("idle")


def start(*arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            process.url = process.stdout.readline().strip()
            yield process
        finally:
            process.stdin.close()
        assert process.wait(60) == 0


def run(capsys, *arguments):
    status = main(["tasks", *map(str, arguments)])
    output = capsys.readouterr()
    return status, output.out, output.err


@pytest.mark.parametrize("suffix", ["", "tasks", "tasks?format=html"])
def test_the_tasks_of_a_page(program, capsys, suffix):
    status, out, err = run(capsys, "--url", program.url + suffix)
    assert (status, err) == (0, "")
    assert "─ stuck  waiting" in out
    assert "  waits for Future" in out


@pytest.mark.parametrize("path", ["", "/"])
def test_the_host_and_port_alone_lead_to_the_pages(program, capsys, path):
    status, out, err = run(capsys, "--url", program.url.removesuffix("/debug/") + path)
    assert (status, err) == (0, "")
    assert "─ stuck  waiting" in out


@reads_others
def test_a_filter_a_list_and_json(program, capsys):
    status, out, _ = run(capsys, "--url", program.url.rstrip("/"), "--name", "STUCK", "--list", "--json")
    (found,) = json.loads(out)
    assert (status, found["name"], found["span"]["has_ended"]) == (0, "stuck", False)
    _, out, _ = run(capsys, "--url", program.url, "--name", "stuck", "--list")
    assert out.startswith("stuck  waiting")


ANSWERS = {
    "/other/tasks": b"<html>",
    "/list/tasks": b"[]",
    "/wrong/tasks": b'{"tasks": [{"id": 1}]}',
    "/long/tasks": b'{"tasks": []}' + b" " * 200,
    "/ssh/tasks": b"SSH-2.0-x\r\n",
}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        answer = ANSWERS.get(self.path.partition("?")[0])
        if not self.path.startswith("/ssh/"):
            self.send_response(404 if answer is None else 200)
            self.end_headers()
        self.wfile.write(answer or b"")

    def log_message(self, *arguments):
        pass


@pytest.fixture
def address():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/other", "the answer is not a list of tasks"),
        ("/list", "the answer is not a list of tasks"),
        ("/wrong", "the answer is not a list of tasks"),
        ("/long", "the answer is longer than"),
        ("/ssh", "cannot be reached: does the process serve tracekit.debug there? (SSH-2.0-x"),
        ("x/", "nonnumeric port: '"),
        ("/none", "404"),
    ],
)
def test_an_answer_that_is_none(address, capsys, monkeypatch, path, reason):
    monkeypatch.setattr(tasks, "_MAX_ANSWER", 128)
    status, out, err = run(capsys, "--url", address + path)
    assert (status, out) == (2, "")
    assert reason in err


def test_an_address_where_no_process_listens(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/debug/"
        status, out, err = run(capsys, "--url", url)
    assert (status, out) == (2, "")
    assert f"{url}tasks?format=json cannot be reached: does the process serve tracekit.debug there? (" in err
    assert err.endswith(f"({os.strerror(errno.ECONNREFUSED)})\n")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "127.0.0.1:6070", "ftp://x/"])
def test_only_http_is_fetched(capsys, url):
    status, out, err = run(capsys, "--url", url)
    assert (status, out) == (2, "")
    assert "must start with http:// or https://" in err


def test_one_target_is_needed(capsys):
    status, _, err = run(capsys)
    assert (status, "--pid" in err) == (2, True)


@pytest.mark.skipif(hasattr(sys, "remote_exec"), reason="this Python can attach")
def test_older_pythons_say_what_to_do_instead(capsys):
    status, _, err = run(capsys, "--pid", 1)
    assert status == 2
    assert "attaching needs Python 3.14" in err
    assert "dump_on_signal()" in err


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_a_process_of_another_user_cannot_have_root_give_it_a_file(tmp_path, monkeypatch):
    script, secret = tmp_path / "script.py", tmp_path / "secret"
    script.touch()
    secret.touch()
    given = []

    def chown(path, user, group):
        given.append(os.path.realpath(path))
        if path == str(tmp_path):  # the folder is the other user's from here on
            script.unlink()
            script.symlink_to(secret)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", chown)
    tasks._hand_over(os.getpid(), str(tmp_path), str(script))
    assert given == [str(script), str(tmp_path)]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs and links")
@pytest.mark.parametrize("name", ["answer", "answer.error"])
def test_an_answer_is_read_from_a_file_alone(tmp_path, name):
    answer = tmp_path / name
    os.mkfifo(answer)
    with pytest.raises(RuntimeError, match="is not a file"):
        tasks._await(1, str(tmp_path / "answer"), 1)
    answer.unlink()
    (tmp_path / "secret").write_text("{}")
    answer.symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="ymbolic link"):
        tasks._await(1, str(tmp_path / "answer"), 1)
    answer.unlink()
    answer.write_text("text")
    if name == "answer":
        assert tasks._await(1, str(answer), 1) == b"text"
    else:
        with pytest.raises(RuntimeError, match="failed to list its tasks: text"):
            tasks._await(1, str(tmp_path / "answer"), 1)


attaches = pytest.mark.skipif(not hasattr(sys, "remote_exec"), reason="PEP 768 came with Python 3.14")


@attaches
def test_the_tasks_of_a_process(program, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    status, out, err = run(capsys, "--pid", program.pid, "--timeout", 60)
    assert (status, err) == (0, "")
    assert "─ stuck  waiting" in out
    assert list(tmp_path.iterdir()) == []


@attaches
def test_an_idle_process_answers_when_it_is_woken(idle_program, capsys):
    for _ in range(50):  # until it is idle
        status, _, err = run(capsys, "--pid", idle_program.pid, "--timeout", 0.2)
        if status:
            break
    assert (status, "did not answer in 0.2 s" in err) == (2, True)
    status, out, _ = run(capsys, "--pid", idle_program.pid, "--wake", "--timeout", 60)
    assert status == 0
    assert "─ stuck  waiting" in out


@attaches
def test_a_process_that_is_none(capsys):
    status, out, err = run(capsys, "--pid", 2**30)
    assert (status, out) == (2, "")
    assert "cannot be attached to" in err


@attaches
def test_what_fails_in_the_process_is_shown(program, capsys, monkeypatch):
    monkeypatch.setattr(tasks, "_SCRIPT", tasks._SCRIPT.replace("tracekit.debug._dump", "tracekit.no_such"))
    status, out, err = run(capsys, "--pid", program.pid, "--timeout", 60)
    assert (status, out) == (2, "")
    assert "No module named 'tracekit.no_such'" in err
