"""Row 15: what one test leaves open is not there in the next; the leak detector's own tests are elsewhere."""

from __future__ import annotations

import contextvars
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import anyio
from anyio.lowlevel import checkpoint

from .scenario import cases, scenario

REPOSITORY = Path(__file__).parents[2]

TWO_TESTS = """
import pytest

from tests.guarantees.drivers import DRIVERS

pytestmark = pytest.mark.anyio
t = DRIVERS[{name!r}]()
t.begin({backend!r})


@pytest.fixture(scope="module")
def anyio_backend():
    return {backend!r}


@pytest.fixture(scope="module", autouse=True)
async def runner():
    yield


async def test_first():
    t.kept.append(t.span("first"))
    t.kept[-1].__enter__()


async def test_second():
    t.mark("second")
    assert t.node("second").parent is None
"""


def leave_open(t, name):
    t.kept.append(t.span(name))
    t.kept[-1].__enter__()


@scenario(
    row=15,
    title="tests one after the other in Contexts of their own",
    expect="""
    second
    """,
)
async def contexts_of_their_own(t):
    base = contextvars.copy_context()
    base.copy().run(leave_open, t, "first")
    base.copy().run(t.mark, "second")


@scenario(
    row=15,
    title="tests as tasks that a shared runner starts",
    expect="""
    second
    """,
)
async def shared_runner(t):
    async def first():
        leave_open(t, "first")
        await checkpoint()

    async def second():
        t.mark("second")

    for test in (first, second):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(test)


@scenario(
    row=15,
    title="tests in one task of a shared runner, which keeps its Context",
    expect="""
    second
    """,
    actual="""
    second <- ?
    """,
    instead="nothing in pytest: the plugin is on wherever tracekit is installed",
)
async def one_task(t):
    async def first():
        leave_open(t, "first")

    async def second():
        t.mark("second")

    await first()
    await second()


@scenario(
    row=15,
    title="the same in pytest with anyio's plugin; tracekit's is on wherever it is installed",
    expect="",
    backends=("asyncio", "trio"),  # pytest has a loop of its own
)
async def one_task_in_pytest(t):
    out = await anyio.to_thread.run_sync(run_two_tests, t.name, t.backend, ["anyio", *t.pytest_plugins])
    t.check(b"2 passed" in out, "stuck" if b"1 failed, 1 passed" in out else "raises")


def run_two_tests(name, backend, plugins):
    options = [option for plugin in plugins for option in ("-p", plugin)]
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    environ = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": paths}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "test_two.py")
        path.write_text(TWO_TESTS.format(name=name, backend=backend))
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--rootdir={folder}",
            *options,
            path,
        ]
        return subprocess.run(command, cwd=folder, env=environ, stdout=subprocess.PIPE, timeout=30, check=False).stdout


test_isolation = cases(globals())
