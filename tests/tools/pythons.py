"""Run the suite on every CPython that this machine can have, and print a table: interpreter x form of the code.

    make pythons                                       all of them
    python -m tests.tools.pythons --only 3.14          one
    python -m tests.tools.pythons -- tests/aio -x      with arguments for pytest

Interpreters come from pyenv, where it is installed, and for newer versions from Debian's unstable distribution, which
``debootstrap`` unpacks into a folder (needs root; about 900 MB and 4 minutes, once). There a free-threaded 3.14 is built
from Debian's source (8 minutes, once); it runs the suite without gRPC, which has no wheel for it, and with the GIL off
whatever other packages declare. The plain form runs the tests that depend on it, as in ``make test``. Where threads can
inherit the Context of their start, the tests of threads run once more with that switched on. Folder and environments stay
below ``$XDG_CACHE_HOME/tracekit``. What cannot be had is named. The exit status is 1 if a test failed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO

REPOSITORY = Path(__file__).parent.parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tracekit"
SID = CACHE / "sid"
# A chroot has its own /proc, and what is mounted for it vanishes with the mount namespace.
ENTER = [
    "unshare",
    "--mount",
    "sh",
    "-c",
    'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"',
    str(SID),
]
PACKAGES = ["ca-certificates", "gcc", "g++", "git", "libc6-dev", "make"]
FORMS = ("compiled", "plain", "inherits")  # the last: compiled, and threads inherit the Context of their start
FREE_THREADED = "3.14t"
# Of the extra "test", without wheels for free-threaded builds: the first takes half an hour to build.
WITHOUT_WHEELS = ("grpcio", "psycopg[binary]")
WITHOUT_GRPC = [
    *("-k", "not grpc", "--ignore=tests/interop", "--ignore=tests/exporters/test_otlp_peers.py"),
    *("--ignore=tests/test_api_fuzz.py", "--ignore=tests/test_bare_objects.py"),
    *(f"--ignore=tests/integrations/test_{name}.py" for name in ("bad_input", "bad_programs", "bad_requests", "grpc")),
    *(f"--ignore=tests/ui/test_{name}.py" for name in ("logs", "receiver")),
]
INHERITING_TESTS = ["tests/guarantees", "tests/test_inherited.py", "tests/aio/test_asyncio.py"]


class Python:
    """An interpreter: its command, and the folder of its environment as it sees it."""

    def __init__(self, name: str, command: list[str], root: Path, inside: str) -> None:
        self.name = name
        self.root = root  # this machine's path of the folder
        self.inside = inside  # the interpreter's path of the same folder
        self._command = command

    def run(
        self, *arguments: str, output: IO[str] | None = None, check: bool = True, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the environment's Python in the copy of the tree."""
        program = 'cd "$0" && exec "$@"'
        return subprocess.run(
            [*self._enter(), "sh", "-c", program, f"{self.inside}/tree", f"{self.inside}/venv/bin/python", *arguments],
            env={
                **os.environ,
                "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
                "HOME": "/root",
                "LC_ALL": "C.UTF-8",
                **variables,
            },
            stdout=subprocess.PIPE if output is None else output,
            stderr=subprocess.STDOUT,
            text=True,
            check=check,
        )

    def _enter(self) -> list[str]:
        return ENTER if self.inside != str(self.root) else []

    def prepare(self) -> None:
        """Copy the tree, tracked files and new ones, and install it with the needs of its tests."""
        tree = self.root / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=REPOSITORY,
            capture_output=True,
            check=True,
        )
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (REPOSITORY / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(REPOSITORY / name, tree / name)
        if not (self.root / "venv").exists():
            subprocess.run([*self._enter(), *self._command, "-m", "venv", f"{self.inside}/venv"], check=True)
        if self.name == FREE_THREADED:
            self.run("-m", "pip", "install", "--quiet", *_needs_without_gil())
            self.run("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", ".")
        else:
            self.run("-m", "pip", "install", "--quiet", "--editable", ".[test]")

    def forms(self) -> Sequence[str]:
        """Return the forms of the code that run here."""
        return FORMS if self.name in ("3.14", "3.15") else FORMS[:2]

    def test(self, form: str, arguments: list[str]) -> str:
        """Return the last line of pytest's report; all of it goes to a file beside the tree, while the tests run."""
        variables = {"TRACEKIT_NO_EXTENSIONS": "1" if form == "plain" else ""}
        if self.name == FREE_THREADED:
            arguments = [*WITHOUT_GRPC, *arguments]
            variables |= {"PYTHON_GIL": "0", "TRACEKIT_TESTS_SHARED_SPANS": "20000"}
        if form == "inherits":
            arguments = [*INHERITING_TESTS, *arguments]
            variables["PYTHON_THREAD_INHERIT_CONTEXT"] = "1"
        log = self.root / f"{form}.log"
        with open(log, "w", encoding="utf-8") as file:
            mark = "not one_form and not packaging" if form == "plain" else "not packaging"
            command = ("-m", "pytest", "-q", "-m", mark, *arguments)
            done = self.run(*command, output=file, check=False, **variables)
        found = re.findall(r"^=*\s*(\d+ (?:passed|failed|error).*?) in ", log.read_text(errors="replace"), re.MULTILINE)
        return found[-1] if found else f"exit status {done.returncode}"


def _needs_without_gil() -> list[str]:
    """Return the packages of the extra "test" that install on a free-threaded build."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras, needs = ["test"], set()
    for extra in extras:  # which grows
        for need in project["optional-dependencies"][extra]:
            own = re.fullmatch(rf"{project['name']}\[(.*)\]", need)
            if own is None:
                needs.add(need)
            else:
                extras += [name for name in own[1].split(",") if name not in extras]
    return sorted(need for need in needs if not need.startswith(WITHOUT_WHEELS))


def pythons() -> tuple[list[Python], list[str]]:
    """Return the interpreters that can be had, and a line for each that cannot."""
    found, missing = [], []
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for version in ("3.11", "3.12", "3.13"):
        folders = sorted(pyenv.glob(f"{version}.*"))
        command = str(folders[-1] / "bin" / "python") if folders else shutil.which(f"python{version}")
        if command is None:
            missing.append(f"{version}: neither pyenv nor PATH has it")
            continue
        root = CACHE / version
        root.mkdir(parents=True, exist_ok=True)
        found.append(Python(version, [command], root, str(root)))
    reason = _unpack_sid()
    for version in ("3.14", "3.15"):
        if reason:
            missing.append(f"{version}: {reason}")
            continue
        root = SID / "tracekit" / version
        root.mkdir(parents=True, exist_ok=True)
        if not (SID / "usr" / "bin" / f"python{version}").exists():
            done = _apt("install", f"python{version}-venv", f"python{version}-dev")
            if done.returncode:
                missing.append(f"{version}: {done.stdout.splitlines()[-1]}")
                continue
        found.append(Python(version, [f"python{version}"], root, f"/tracekit/{version}"))
    command, reason = free_threaded()
    if reason:
        missing.append(f"{FREE_THREADED}: {reason}")
    else:
        root = SID / "tracekit" / FREE_THREADED
        root.mkdir(parents=True, exist_ok=True)
        found.append(Python(FREE_THREADED, [command], root, f"/tracekit/{FREE_THREADED}"))
    return found, missing


_NEEDS = ["libbz2-dev", "libffi-dev", "liblzma-dev", "libsqlite3-dev", "libssl-dev", "xz-utils", "zlib1g-dev"]


def free_threaded(*options: str) -> tuple[str, str]:
    """Return CPython without the GIL, built with *options* of its configure, as the chroot sees it, and why not, or "".

    The source is the newest release that Debian's pool has: the mirror may serve older ones than the package index names.
    """
    reason = _unpack_sid()
    if reason:
        return "", reason
    version = FREE_THREADED.rstrip("t")
    prefix = "-".join([f"/tracekit/{FREE_THREADED}", "python", *(option.lstrip("-") for option in options)])
    command = f"{prefix}/bin/python{version}"
    if (SID / command.lstrip("/")).exists():
        return command, ""
    named = re.search(
        rf"Candidate: {re.escape(version)}\.(\d+)", _apt("policy", f"python{version}", tool="apt-cache").stdout
    )
    if named is None:
        return "", "apt names no version"
    folder = SID / "tracekit" / f"src-{prefix.rpartition('/')[2]}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for release in range(int(named[1]), -1, -1):
        name = f"python{version}_{version}.{release}.orig.tar.xz"
        try:
            address = f"{_mirror().rstrip('/')}/pool/main/p/python{version}/{name}"
            with urllib.request.urlopen(address, timeout=300) as answer, open(folder / "p.tar.xz", "wb") as file:
                shutil.copyfileobj(answer, file)
            break
        except OSError as error:
            reason = f"the mirror has no source: {error}"
    else:
        return "", reason
    done = _apt("install", *_NEEDS)
    if done.returncode:
        return "", f"apt-get failed: {done.stdout.splitlines()[-1]}"
    say(f"building {' '.join([name, '--disable-gil', *options])}, once")
    # ThreadSanitizer wants its memory where address randomisation may have put something else.
    steps = (
        f"cd /tracekit/{folder.name} && tar xf p.tar.xz && cd Python-*/",
        f"setarch -R ./configure -q --disable-gil --prefix={prefix} {' '.join(options)}",
        "setarch -R make -s -j2",
        "setarch -R make -s install",
    )
    done = subprocess.run(
        [*ENTER, "sh", "-c", " && ".join(steps)],
        env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/root"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return (command, "") if done.returncode == 0 else ("", f"the build failed: {done.stdout.splitlines()[-1]}")


def _unpack_sid() -> str:
    """Make the folder with Debian's unstable distribution; return why there is none, or ""."""
    if not (SID / "usr" / "bin" / "git").exists():
        if os.geteuid():
            return "debootstrap needs root"
        if shutil.which("debootstrap") is None or shutil.which("unshare") is None:
            return "debootstrap is not installed (apt-get install debootstrap)"
        say(f"unpacking Debian unstable into {SID}, once")
        CACHE.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["debootstrap", "--variant=minbase", "sid", str(SID), _mirror()],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            return f"debootstrap failed: {done.stdout.splitlines()[-1]}"
        for file in ("etc/resolv.conf", "etc/hosts"):
            shutil.copy2("/" + file, SID / file)
        done = _apt("install", *PACKAGES)
        if done.returncode:
            return f"apt-get failed: {done.stdout.splitlines()[-1]}"
        # A proxy's certificates, where the machine has one.
        certificates = Path(os.environ.get("PIP_CERT", "/etc/ssl/certs/ca-certificates.crt"))
        if certificates.exists():
            shutil.copy2(certificates, SID / str(certificates).lstrip("/"))
    return ""


def _mirror() -> str:
    """Return the mirror that apt is set up with."""
    sources = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    text = "\n".join(path.read_text() for path in sources if path.is_file())
    found = re.search(r"^(?:deb(?: \[.*\])? |URIs: *)(\S+/debian/?)(?:\s|$)", text, re.MULTILINE)
    return found[1] if found else "https://deb.debian.org/debian"


def _apt(
    *arguments: str, tool: str = "apt-get --quiet --yes --no-install-recommends"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ENTER, *tool.split(), *arguments],
        env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "DEBIAN_FRONTEND": "noninteractive"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Run, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.pythons", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", metavar="VERSION", help="this interpreter only; may be repeated")
    parser.add_argument("--form", choices=FORMS, action="append", help="this form only; may be repeated")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    arguments = parser.parse_args()
    found, missing = pythons()
    rows, is_bad = [], False
    for python in found:
        if arguments.only and python.name not in arguments.only:
            continue
        say(f"{python.name}: installing")
        python.prepare()
        for form in python.forms():
            if arguments.form and form not in arguments.form:
                continue
            say(f"{python.name}: {form}")
            result = python.test(form, arguments.pytest)
            is_bad = is_bad or "passed" not in result or "failed" in result or "error" in result
            rows.append(f"| {python.name} | {form} | {result} |")
            say(rows[-1])
            say(f"    {python.root / form}.log")
    print("\n".join(["| Python | form | result |", "|---|---|---|", *rows, *missing]))
    return int(is_bad)


if __name__ == "__main__":
    sys.exit(main())
