"""``tracekit doctor`` about the installation: which distribution, which implementation, and why."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import tracekit
from tracekit.cli.doctor import _stale_modules, examine

pytestmark = pytest.mark.one_form

PACKAGE = Path(tracekit.__file__).resolve().parent
BUILT = [path for suffix in EXTENSION_SUFFIXES if (path := PACKAGE / f"_speedups{suffix}").exists()]


def doctor(folder, *path, program="from tracekit.cli.main import main; raise SystemExit(main())"):
    """Return the status and the checks of the doctor that runs in *folder*, with it and *path* alone on Python's path."""
    path = os.pathsep.join(map(str, (folder, *path)))
    done = subprocess.run(
        [sys.executable, "-S", "-c", program, "doctor", "--json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "TRACEKIT_NO_EXTENSIONS": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)["checks"]


@pytest.fixture
def checkout(tmp_path):
    """A checkout in which nothing was built."""
    shutil.copytree(
        PACKAGE, tmp_path / "tracekit", ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.pyd", "*.c")
    )
    return tmp_path.resolve()


@pytest.mark.slow
def test_a_checkout_without_a_build_runs_plain_and_the_reason_is_its_folder(checkout):
    _, checks = doctor(checkout)
    text = checks["implementation"]["text"]
    assert text.startswith(f"plain: no extension module in {checkout / 'tracekit'}; install with a C compiler")
    assert checks["distribution"]["text"].endswith(f"imported from {checkout}")


@pytest.mark.slow
def test_extension_modules_for_another_python_are_named(checkout):
    (checkout / "tracekit" / "_speedups.cpython-39-x86_64-linux-gnu.so").touch()
    _, checks = doctor(checkout)
    assert checks["implementation"]["text"] == (
        "plain: built for another Python only (_speedups.cpython-39-x86_64-linux-gnu.so); install again with this one"
    )


@pytest.mark.slow
@pytest.mark.skipif(not BUILT, reason="nothing is built here")
def test_the_extension_of_another_checkout_is_found_out(checkout):
    # As the finder of an editable installation gives it.
    program = f"""
import importlib.util, sys
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "tracekit._speedups":
            return importlib.util.spec_from_file_location(name, {str(BUILT[0])!r})
sys.meta_path.append(Finder)
from tracekit.cli.main import main
raise SystemExit(main())
"""
    status, checks = doctor(checkout, program=program)
    assert status == 1
    assert checks["implementation"] == {
        "ok": False,
        "text": f"compiled, but by {BUILT[0]}, of another installation than {checkout / 'tracekit'}: uninstall one",
    }


@pytest.mark.slow
def test_the_other_projects_distribution_is_found_wherever_it_is(checkout, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "tracekit-2.3.1.dist-info").mkdir()
    (elsewhere / "tracekit-2.3.1.dist-info" / "METADATA").write_text("Name: tracekit\nVersion: 2.3.1\n")
    status, checks = doctor(checkout, elsewhere)
    assert (status, checks["distribution"]["ok"]) == (1, False)
    assert checks["distribution"]["text"] == (
        f"tracekit 2.3.1 in {elsewhere} is installed too, and has the same package:"
        " uninstall both, and install tracekit-async again"
    )


@pytest.mark.slow
def test_an_editable_installation_through_a_symbolic_link_is_in_use(checkout, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    link = elsewhere / "a link"
    link.symlink_to(checkout)
    installed = elsewhere / "tracekit_async-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Name: tracekit-async\nVersion: 1.0\n")
    (installed / "direct_url.json").write_text(json.dumps({"url": link.as_uri(), "dir_info": {"editable": True}}))
    _, checks = doctor(checkout, elsewhere)
    assert checks["distribution"]["text"] == f"tracekit-async 1.0, editable, from {checkout}"


def test_a_module_that_is_older_than_its_sources_or_missing_is_stale(tmp_path):
    core = tmp_path / "tracekit" / "_core"
    core.mkdir(parents=True)
    suffix = EXTENSION_SUFFIXES[0]

    def make(name, time_s):
        path = core.parent / name
        path.touch()
        os.utime(path, (time_s, time_s))

    for stem in ("_core/span", "_core/scopes", "_core/tracer"):
        make(f"{stem}.py", 100)
        make(f"{stem}.pxd", 100)
    make("_core/interpreter.py", 100)
    make("_core/interpreter.pxd", 100)
    make("_core/calls.pxd", 100)
    make("_speedups.pyx", 100)
    make(f"_speedups{suffix}", 200)
    make(f"_core/span{suffix}", 200)
    make(f"_core/scopes{suffix}", 200)
    # Without setup.py it is an installed package, in which times mean nothing.
    assert _stale_modules(core.parent) == []
    make("../setup.py", 100)
    assert _stale_modules(core.parent) == ["tracekit._core.tracer"]
    make("_core/scopes.pxd", 300)
    make("_speedups_ids.pxi", 300)
    assert _stale_modules(core.parent) == ["tracekit._core.scopes", "tracekit._core.tracer", "tracekit._speedups"]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_port_that_takes_connections_and_answers_nothing_is_named(protocol, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "300")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        (finding,) = [finding for finding in examine(endpoint=url) if finding.name == "endpoint"]
    assert not finding.ok
    assert finding.text.endswith("; the collector hangs, or a proxy before it holds requests or answers back")
