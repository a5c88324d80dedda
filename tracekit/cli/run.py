"""``tracekit run``: start a program with tracekit in it.

The program finds a folder with a ``sitecustomize`` on PYTHONPATH (``_site/``), which installs one import hook. On POSIX the
program replaces this process, so that its signals and its exit status are its own. In the program, SIGTERM's default
action is taken after an export of at most 2 s; the program's handlers and ignored signals stay.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from .. import _import_hook, _libraries
from .._environment import Environment
from .._instrument import named, run_program
from .screen import ERROR, complain

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_SITE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "_site")
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126  # as a shell answers
_PYTHON = re.compile(r"(python|pypy)[\d.]*t?(\.exe)?", re.IGNORECASE)
_WITH_VALUE = frozenset("WX")  # options of python that take one; -c and -m end its options


def run(arguments: argparse.Namespace) -> int:
    """Run the command. Where the program replaces this process, return only if it cannot be started."""
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        complain("run needs a program: tracekit run -- python app.py")
        return ERROR
    try:
        for name in filter(None, re.split(r"[\s,]+", f"{arguments.only},{arguments.exclude}")):
            named(name)
    except ValueError as error:
        complain(str(error))
        return ERROR
    flag = isolation(command)
    if flag and not arguments.in_process:
        complain(
            f"python {flag} does not load the sitecustomize by which tracekit gets into a program: leave {flag} out, use"
            " tracekit run --in-process, or call tracekit.configure() and tracekit.instrument() in the program"
        )
        return ERROR
    variables = environment(arguments.only, arguments.exclude, with_children=not arguments.no_children)
    if arguments.in_process:
        return _run_here(command, arguments, variables)
    return _replace_process(command, variables)


def environment(only: str = "", exclude: str = "", *, with_children: bool = True) -> dict[str, str]:
    """Return the environment of the program; say so on stderr if its spans go to the default file."""
    variables = dict(os.environ)
    path = variables.get("PYTHONPATH")
    # An empty folder among others is the current one.
    folders = [folder for folder in path.split(os.pathsep) if folder != _SITE] if path else []
    variables["PYTHONPATH"] = os.pathsep.join([_SITE, *folders])
    variables["TRACEKIT_RUN"] = "all" if with_children else "self"
    for name, value in (("TRACEKIT_RUN_ONLY", only), ("TRACEKIT_RUN_EXCLUDE", exclude)):
        variables.pop(name, None)
        if value:
            variables[name] = value
    settings = Environment(variables)
    if not settings.text("OTEL_TRACES_EXPORTER") and settings.exporter_name() == "none" and not settings.is_disabled():
        path = settings.sqlite_path()
        variables["OTEL_TRACES_EXPORTER"] = "sqlite"
        # Absolute, because the program and its children may change their folder.
        variables["TRACEKIT_SQLITE_PATH"] = os.path.abspath(path)
        complain(f"no exporter is configured: spans go to {path}; see them with: tracekit traces list {path}")
    return variables


def isolation(command: Sequence[str]) -> str:
    """Return the option of *command* with which Python ignores PYTHONPATH or ``sitecustomize``, or ""."""
    program, arguments = command[0], command[1:]
    if not _PYTHON.fullmatch(os.path.basename(program)):
        first = _interpreter(shutil.which(program))
        return isolation(first) if first and _PYTHON.fullmatch(os.path.basename(first[0])) else ""
    words = iter(arguments)
    for word in words:
        if not word.startswith("-") or word in ("-", "--"):
            break
        if word.startswith("--"):
            continue
        for at, letter in enumerate(word[1:], 2):
            if letter in "IES":
                return f"-{letter}"
            if letter in "cm":
                return ""
            if letter in _WITH_VALUE:
                if len(word) == at:
                    next(words, None)
                break
    return ""


def _interpreter(path: str | None) -> list[str]:
    """Return the words of the first line of the script at *path*, without ``env``; none if it is no script."""
    if path is None:
        return []
    try:
        with open(path, "rb") as file:
            line = file.readline(1024)
    except OSError:
        return []
    words = line[2:].decode(errors="replace").split() if line.startswith(b"#!") else []
    if words and os.path.basename(words[0]) == "env":
        words = [word for word in words[1:] if word != "-S"]
    return words


def _replace_process(command: Sequence[str], variables: dict[str, str]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        if os.name == "posix":
            os.execvpe(command[0], list(command), variables)
        return _wait(command, variables)
    except OSError as error:
        complain(f"{command[0]} could not be started: {error.strerror}")
        return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
    except ValueError as error:  # a NUL in an argument
        complain(f"{command[0]!a} could not be started: {error}")
        return ERROR


def _wait(command: Sequence[str], variables: dict[str, str]) -> int:
    """Start the program, where it cannot replace this process, and wait for it, whatever Control-C does here."""
    with subprocess.Popen(command, env=variables) as child:
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:  # the program got it too, and decides
                continue


def _run_here(command: Sequence[str], arguments: argparse.Namespace, variables: dict[str, str]) -> int:
    """Run the Python program *command* in this process: ``python script``, ``python -m module``, or a script's name."""
    words = list(command)
    if _PYTHON.fullmatch(os.path.basename(words[0])):
        words = words[1:]
        while words and re.fullmatch(r"-[IESPsuBbdOqv]+", words[0]):  # settings of an interpreter, which runs already
            words = words[1:]
    if not words or (words[0] == "-m" and len(words) < 2) or (words[0].startswith("-") and words[0] != "-m"):
        complain("--in-process runs python script.py, python -m module, or a Python script")
        return ERROR
    path = None
    if words[0] != "-m":
        path = words[0] if os.path.exists(words[0]) else shutil.which(words[0])
        if path is None:
            complain(f"{words[0]} could not be started: no such script")
            return _NOT_FOUND
        if words[0] == command[0] and not _is_python(path):
            complain(f"{words[0]} is not a Python script: --in-process cannot run it")
            return _NOT_EXECUTABLE
    if arguments.no_children:
        kept = ("OTEL_TRACES_EXPORTER", "TRACEKIT_SQLITE_PATH")
        variables = {**os.environ, **{name: variables[name] for name in kept if name in variables}}
    os.environ.clear()
    os.environ.update(variables)
    _import_hook.start(_libraries.chosen(arguments.only, arguments.exclude), run_program)
    if path is None:
        sys.argv = words[1:]  # runpy sets the first
        sys.path[0] = os.getcwd()
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [path, *words[1:]]
        sys.path[0] = os.path.dirname(os.path.realpath(path))
        runpy.run_path(path, run_name="__main__")
    return 0


def _is_python(path: str) -> bool:
    words = _interpreter(path)
    return path.endswith((".py", ".pyz")) or (bool(words) and bool(_PYTHON.fullmatch(os.path.basename(words[0]))))
