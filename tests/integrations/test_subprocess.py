"""Child processes continue the trace that is current where they are started."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

import tracekit
from tracekit.integrations import subprocess as tracing

PRINT = "import os; print(os.environ.get('TRACEPARENT'))"
COMMAND = [sys.executable, "-S", "-c", PRINT]


@pytest.fixture
def traced():
    tracing.instrument()
    yield
    tracing.uninstrument()


def by_run(**options):
    return subprocess.run(COMMAND, stdout=subprocess.PIPE, text=True, check=True, **options).stdout.strip()


def by_check_output(**options):
    return subprocess.check_output(COMMAND, text=True, **options).strip()


def on_asyncio(run, **options):
    async def main():
        child = await asyncio.create_subprocess_exec(*COMMAND, stdout=asyncio.subprocess.PIPE, **options)
        return (await child.communicate())[0].decode().strip()

    return run(main())


def by_asyncio(**options):
    return on_asyncio(asyncio.run, **options)


def by_asyncios_shell(**options):
    async def main():
        command = f'"{sys.executable}" -S -c "{PRINT}"'
        child = await asyncio.create_subprocess_shell(command, stdout=asyncio.subprocess.PIPE, **options)
        return (await child.communicate())[0].decode().strip()

    return asyncio.run(main())


def by_uvloop(**options):
    uvloop = pytest.importorskip("uvloop")
    return on_asyncio(uvloop.run, **options)


WAYS = [by_run, by_check_output, by_asyncio, by_asyncios_shell, by_uvloop]


def header(context):
    return tracekit.inject({}, context)["traceparent"]


@pytest.mark.parametrize("way", WAYS)
def test_a_child_gets_the_trace(traced, way):
    with tracekit.span("outer") as outer:
        assert way() == header(outer)
        assert way(env={}) == header(outer)
        own = {"TRACEPARENT": f"00-{'1' * 32}-{'2' * 16}-01"}
        assert way(env=own) == own["TRACEPARENT"]
    assert own == {"TRACEPARENT": f"00-{'1' * 32}-{'2' * 16}-01"}
    assert way() == "None"


def test_with_install_hooks_it_is_done_once(traced):
    tracekit.install_hooks()
    try:
        with tracekit.span("outer") as outer:
            assert by_run() == header(outer)
            assert by_asyncio() == header(outer)
    finally:
        tracekit.remove_hooks()
    with tracekit.span("outer") as outer:
        assert by_run() == header(outer)


def test_uninstrument_restores_everything():
    names = [(subprocess.Popen, "__init__"), (asyncio, "create_subprocess_exec"), (asyncio, "create_subprocess_shell")]
    before = [getattr(*name) for name in names]
    tracing.instrument()
    tracing.instrument()
    assert all(getattr(*name) is not old for name, old in zip(names, before, strict=True))
    tracing.uninstrument()
    assert [getattr(*name) for name in names] == before
    with tracekit.span("outer"):
        assert by_run() == "None"
    with pytest.raises(TypeError, match="as a whole"):
        tracing.instrument(subprocess)


def test_arguments_that_subprocess_rejects_are_rejected_as_before(traced):
    def rejections():
        found = []
        for call in (lambda: by_run(env=7), subprocess.Popen):
            with pytest.raises((AttributeError, TypeError)) as caught:  # which of them depends on the version
                call()
            found.append((caught.type, str(caught.value)))
        return found

    with tracekit.span("outer"):
        by_tracekit = rejections()
        tracing.uninstrument()
        assert by_tracekit == rejections()


def test_it_is_instrumented_by_name_alone():
    from tracekit import _libraries

    assert "subprocess" not in [library.name for library in _libraries.chosen()]
    tracekit.instrument("subprocess")
    try:
        with tracekit.span("outer") as outer:
            assert by_run() == header(outer)
    finally:
        tracekit.uninstrument("subprocess")
