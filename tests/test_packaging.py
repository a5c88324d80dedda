"""The wheel holds the extension, the sdist builds it again, and a machine without a compiler gets the plain form."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import threading
import time
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest

from tracekit.exporters.sqlite import SQLiteReader, StoreError

from .tools.ports import free_port

pytestmark = pytest.mark.packaging

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
# The program, and the commands for a newcomer.
FIRST = re.search(
    r"^## Five commands$.*?^```python\n(.*?)^```.*?^```console\n(.*?)^```", README, re.DOTALL | re.MULTILINE
)
PROBE = (
    "import tracekit, tracekit.wire.w3c, tracekit.exporters.sqlite; print(tracekit.IMPLEMENTATION, tracekit.__file__)"
)


def run(*command, cwd, **environ):
    # Unoptimized, as compiling takes longer here than the tests that run the result.
    environ = {
        **os.environ, "TRACEKIT_NO_EXTENSIONS": "", "TRACEKIT_TRAINED": "", "PYTHONPATH": "", "CFLAGS": "-O0", **environ
    }  # fmt: skip
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environ, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what is committed or would be, and of the C that Cython made of it: nothing compiled, nothing installed."""
    copy = tmp_path_factory.mktemp("source") / "tracekit"
    skip = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "*.so", "*.pyd")
    shutil.copytree(ROOT, copy, ignore=skip)
    return copy


@pytest.fixture(scope="module")
def built(source):
    """The paths of the sdist, and of the wheel that was built from it, with the object files of ``make test`` if it ran."""
    compiler = [sys.executable, "-S", ROOT / "tests" / "tools" / "made_objects.py", ROOT, Path(sys.prefix, "objects")]
    cc = shlex.join(map(str, [*compiler, *shlex.split(sysconfig.get_config_var("CC") or "cc")]))
    done = run(sys.executable, "-m", "build", "--no-isolation", source, cwd=source, CC=cc)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,) = (source / "dist").glob("*.tar.gz")
    (wheel,) = (source / "dist").glob("*.whl")
    return sdist, wheel


def installed(wheel, folder, **environ):
    """Install *wheel* in a fresh environment, and return what PROBE prints there."""
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    done = run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    done = run(python, "-W", "error", "-c", PROBE, cwd=folder, **environ)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_wheel_holds_the_extension_and_a_fresh_environment_finds_it(built, tmp_path):
    names = zipfile.ZipFile(built[1]).namelist()
    for module in ["tracekit/_speedups", "tracekit/_core/scopes", "tracekit/integrations/_asgi_scope"]:
        assert [name for name in names if name.startswith(f"{module}.") and name.endswith((".so", ".pyd"))], module
    assert "tracekit/py.typed" in names
    implementation, where = installed(built[1], tmp_path / "env")
    assert implementation == "compiled"
    assert str(tmp_path) in where
    assert installed(built[1], tmp_path / "plain", TRACEKIT_NO_EXTENSIONS="1")[0] == "plain"


def test_the_sdist_holds_all_that_a_build_needs(built):
    with tarfile.open(built[0]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {
        "setup.py",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "tracekit/_core/span.py",
    } <= names
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "tracekit").rglob("*.p[yx][xi]")} <= names
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "tracekit").rglob("*.pxd")} <= names


def test_the_wheel_holds_nothing_that_only_a_build_needs(built):
    endings = {Path(name).suffix for name in zipfile.ZipFile(built[1]).namelist()}
    assert endings.isdisjoint({".c", ".pyx", ".pxi", ".pxd"})


def test_every_module_of_the_package_is_in_the_wheel(built):
    names = set(zipfile.ZipFile(built[1]).namelist())
    wanted = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tracekit").rglob("*.py")}
    assert wanted <= names


@pytest.fixture
def translated(source, built, tmp_path):
    """A copy of the source with the C code that Cython made of it, and nothing compiled."""
    return shutil.copytree(source, tmp_path / "source", ignore=shutil.ignore_patterns("build", "dist", "*.so"))


def test_without_a_compiler_the_plain_form_is_installed(translated, tmp_path):
    done = run(sys.executable, "-m", "build", "--no-isolation", "--wheel", translated, cwd=translated, CC="false")
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (translated / "dist").glob("*.whl")
    assert installed(wheel, tmp_path / "env")[0] == "plain"


def test_a_release_build_without_its_extension_fails(translated):
    release = {"CC": "false", "CIBUILDWHEEL": "1"}
    done = run(sys.executable, "-m", "build", "--no-isolation", "--wheel", translated, cwd=translated, **release)
    assert done.returncode != 0


# Of the size that compiles in a second.
SMALL = '''
cdef extern from *:
    """
    #ifndef TRACEKIT_TRAINED
        #define TRACEKIT_TRAINED 0
    #endif
    """
    bint TRACEKIT_TRAINED

_IS_TRAINED = TRACEKIT_TRAINED
'''


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("gcc") is None, reason="trained builds need gcc, on Linux")
def test_a_trained_build_trains_or_says_why_not_and_the_next_build_is_untrained(tmp_path):
    project = tmp_path / "with spaces"
    for folder in ("tracekit", "bench"):
        (project / folder).mkdir(parents=True)
        (project / folder / "__init__.py").touch()
    shutil.copy(ROOT / "setup.py", project)
    (project / "tracekit" / "_speedups.pyx").write_text(SMALL)

    def build(trained, **environ):
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        return run(*command, cwd=project, **{"CFLAGS": "", "CC": "gcc", "TRACEKIT_TRAINED": trained, **environ})

    def is_trained():
        return run(
            sys.executable, "-c", "from tracekit._speedups import _IS_TRAINED as it; print(it)", cwd=project
        ).stdout

    assert "source distribution" in build("1").stderr
    training = project / "bench" / "training.py"
    training.write_text("raise SystemExit(3)")
    assert "-O" in build("1", CFLAGS="-O2").stderr
    assert "needs gcc" in build("1", CC="false").stderr
    assert "the training failed" in build("1").stderr
    training.write_text("")
    assert "counted nothing" in build("1").stderr
    assert build("").returncode == 0
    assert is_trained() == "False\n"
    training.write_text("import tracekit._speedups")
    done = build("1")
    assert done.returncode == 0, done.stderr
    assert is_trained() == "True\n"
    assert build("").returncode == 0
    assert is_trained() == "False\n"


def test_a_distribution_of_the_same_package_name_is_named(tmp_path):
    from tracekit._distribution import find_clash

    package = tmp_path / "tracekit"
    package.mkdir()
    (tmp_path / "tracekit_async-1.0.dist-info").mkdir()
    assert find_clash(str(package)) == ""
    assert find_clash(str(tmp_path / "gone" / "tracekit")) == ""
    (tmp_path / "tracekit-2.3.1.dist-info").mkdir()
    assert find_clash(str(package)) == "tracekit 2.3.1"


def test_a_clash_is_one_line_when_tracing_is_configured(tmp_path):
    (tmp_path / "tracekit").symlink_to(ROOT / "tracekit")
    (tmp_path / "tracekit-2.3.1.dist-info").mkdir()
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import tracekit; tracekit.configure(); tracekit.configure()"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        0,
        "tracekit 2.3.1 is installed in the same folder as tracekit-async: uninstall both, and install one again\n",
    )


def test_both_orders_of_two_distributions_in_one_environment_are_found_by_the_doctor(built, tmp_path):
    other = tmp_path / "tracekit-2.3.1-py3-none-any.whl"
    with zipfile.ZipFile(other, "w") as wheel:
        wheel.writestr("tracekit/__init__.py", "def waveform(): ...\n")
        for name, text in {
            "METADATA": "Metadata-Version: 2.1\nName: tracekit\nVersion: 2.3.1\n",
            "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "RECORD": "",
        }.items():
            wheel.writestr(f"tracekit-2.3.1.dist-info/{name}", text)
    for order in ([other, built[1]], [built[1], other]):
        folder = tmp_path / order[0].stem
        venv.create(folder, with_pip=False)
        programs = folder / ("Scripts" if os.name == "nt" else "bin")
        for wheel in order:
            install = ["-m", "pip", "--python", programs / "python", "install", "--no-deps", "--no-index", wheel]
            done = run(sys.executable, *install, cwd=folder)
            assert done.returncode == 0, done.stderr
        if order[-1] is built[1]:
            done = run(programs / "python", "-c", "import tracekit; tracekit.configure()", cwd=folder)
            assert (done.returncode, done.stderr.count("\n")) == (0, 1)
            assert done.stderr.startswith("tracekit 2.3.1 is installed in the same folder as tracekit-async: ")
        # Where theirs came last, it is what a program imports; the command finds the doctor all the same.
        done = run(programs / "tracekit", "doctor", cwd=folder)
        assert done.returncode == 1
        assert "✗ distribution    tracekit 2.3.1 is installed too, and has the same package: " in done.stdout


def test_the_five_commands_of_the_readme_show_a_request_in_the_viewer(built, tmp_path):
    program, script = FIRST.groups()
    commands = re.findall(r"^\$ (.*)$", script, re.MULTILINE)
    assert len(commands) == 5
    (tmp_path / "shop.py").write_text(program, encoding="utf-8")
    (tmp_path / "dist").mkdir()
    shutil.copy(built[1], tmp_path / "dist")
    venv.create(tmp_path / "env", with_pip=True)
    environ = {
        "PATH": os.pathsep.join([str(tmp_path / "env" / "bin"), os.environ["PATH"]]),
        "HOME": str(tmp_path),
        "BROWSER": f"{shlex.quote(str(tmp_path / 'browser'))} %s",
        **{name: os.environ[name] for name in os.environ if name.startswith(("PIP_", "SSL_", "REQUESTS_", "HTTP"))},
    }
    (tmp_path / "browser").write_text(f'#!/bin/sh\necho "$1" > {shlex.quote(str(tmp_path / "opened"))}\n')
    (tmp_path / "browser").chmod(0o700)

    def type_in(command):
        return subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300, check=False
        )

    done = type_in(commands[0])
    if done.returncode and type_in("pip download --no-deps --dest index fastapi").returncode:
        pytest.skip(f"the package index cannot be reached: {done.stderr[-500:]}")
    assert done.returncode == 0, done.stderr
    # As written, but for the ports: those of the machine may be in use.
    environ["PORT"] = str(free_port())
    with running(f"exec env {commands[1].removesuffix(' &')} --port $PORT", tmp_path, environ) as output:
        wait_for("Application startup complete", output)
        done = type_in(commands[2].replace("8000", "$PORT"))
        assert json.loads(done.stdout) == {"item": "lantern", "price": 42}
        wait_for_span(tmp_path / "traces.db")
        shown = type_in(commands[3])
        assert (shown.returncode, shown.stdout.count("GET /price/{item}")) == (0, 1), shown.stderr
        with running(f"exec {commands[4]} --port 0", tmp_path, environ) as lines:
            page = wait_for("pages +(http://\\S+)", lines)[1]
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"{page}/api/traces", timeout=60) as answer:
                assert b"GET /price/{item}" in answer.read()
            wait_for("Press Ctrl-C to stop", lines)
            wait_until(lambda: (tmp_path / "opened").exists() and (tmp_path / "opened").read_text() == f"{page}\n")


@contextlib.contextmanager
def running(command, cwd, environ):
    """Run *command* in a shell, give its output, and end it with SIGTERM."""
    environ = {**environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        ["bash", "-c", command],
        cwd=cwd,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        watchdog = threading.Timer(120, process.kill)
        watchdog.start()
        try:
            yield process.stdout
        finally:
            watchdog.cancel()
            process.terminate()
            for _ in process.stdout:
                pass


def wait_for(pattern, lines):
    """Read *lines* up to the one with *pattern*, and return its match."""
    read = []
    for line in lines:
        read.append(line)
        if found := re.search(pattern, line):
            return found
    raise AssertionError(f"{pattern!r} never came:\n{''.join(read)}")


def wait_for_span(path):
    """Wait until the file *path*, which another process writes within a second, holds a span."""

    def has_span():
        with contextlib.suppress(StoreError), SQLiteReader(path) as reader:
            return reader.counts().spans

    wait_until(has_span)


def wait_until(is_so):
    """Wait for another process until *is_so* returns something true."""
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)
