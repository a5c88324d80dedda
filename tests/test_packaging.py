"""The wheel holds the extension, the sdist builds it again, and a machine without a compiler gets the plain form."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.packaging

ROOT = Path(__file__).parent.parent
PROBE = (
    "import tracekit, tracekit.wire.w3c, tracekit.exporters.sqlite; print(tracekit.IMPLEMENTATION, tracekit.__file__)"
)


def run(*command, cwd, **environ):
    # Unoptimised: what is built is looked at more than it is run.
    environ = {**os.environ, "TRACEKIT_NO_EXTENSIONS": "", "PYTHONPATH": "", "CFLAGS": "-O0", **environ}
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environ, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what is committed or would be: nothing built, nothing installed."""
    copy = tmp_path_factory.mktemp("source") / "tracekit"
    skip = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "*.so", "*.pyd", "*.c")
    shutil.copytree(ROOT, copy, ignore=skip)
    return copy


@pytest.fixture(scope="module")
def built(source):
    """The paths of the sdist, and of the wheel that was built from it."""
    done = run(sys.executable, "-m", "build", "--no-isolation", source, cwd=source)
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
    assert [name for name in names if name.startswith("tracekit/_speedups.") and name.endswith((".so", ".pyd"))]
    assert "tracekit/py.typed" in names
    assert built[1].stat().st_size < 2_000_000, "a wheel without debug symbols has 1.8 MB"
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
        "tracekit/_speedups.pyx",
        "tracekit/_core/span.py",
    } <= names


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


def test_a_distribution_of_the_same_package_name_is_named(tmp_path):
    from tracekit._distribution import find_clash

    package = tmp_path / "tracekit"
    package.mkdir()
    (tmp_path / "tracekit_async-1.0.dist-info").mkdir()
    assert find_clash(str(package)) == ""
    assert find_clash(str(tmp_path / "gone" / "tracekit")) == ""
    (tmp_path / "tracekit-2.3.1.dist-info").mkdir()
    assert find_clash(str(package)) == "tracekit 2.3.1"


def test_a_clash_is_one_line_at_import(tmp_path):
    (tmp_path / "tracekit").symlink_to(ROOT / "tracekit")
    (tmp_path / "tracekit-2.3.1.dist-info").mkdir()
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import tracekit"],
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
