"""Hooks write the trace into the environment of subprocesses."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import subprocess
import sys
import textwrap
import threading
import types

import anyio
import pytest
import trio

import tracekit
import tracekit.threads
from tracekit.testing import MemoryExporter

from ..tools.backends import BACKENDS
from ..tools.hooks import (
    run,
)

SHOW = """
import json, os
print(json.dumps({name: value for name, value in os.environ.items() if name in
    {"TRACEPARENT", "TRACESTATE", "BAGGAGE", "KEPT", "B3"}}))
"""


def environment(*args, **kwargs):
    """What of the environment a child sees."""
    if not args:
        kwargs["stdout"] = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-S", "-c", SHOW], *args, **kwargs) as child:
        return json.loads(child.stdout.read())


@pytest.fixture
def here(exporter):
    """Something is current: labels, a span, and a vendor's state."""
    caller = tracekit.extract({"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "vendor=1"})
    with tracekit.use_context(caller), tracekit.use_labels(tenant="acme"), tracekit.span("here") as span:
        yield span


def variables(span):
    traceparent = f"00-{span.context.trace_id}-{span.context.span_id}-01"
    return {"TRACEPARENT": traceparent, "TRACESTATE": "vendor=1", "BAGGAGE": "tenant=acme"}


@pytest.mark.usefixtures("hooks")
def test_a_subprocess_finds_the_trace_in_its_environment(here, monkeypatch):
    monkeypatch.setenv("KEPT", "yes")
    assert environment() == {**variables(here), "KEPT": "yes"}


def test_without_hooks_a_subprocess_finds_nothing(here):
    assert environment() == {}


ESSENTIAL = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH") if name in os.environ}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no preexec_fn")
@pytest.mark.usefixtures("hooks")
def test_what_is_called_before_a_subprocess_may_change_its_environment(here, monkeypatch):
    monkeypatch.setenv("B3", "1")
    monkeypatch.setenv("TRACESTATE", "old=1")
    keep = functools.partial(os.putenv, "KEPT", "yes")
    expected = {**variables(here), "KEPT": "yes", "B3": "1"}
    assert environment(preexec_fn=keep) == expected
    assert environment(-1, None, None, subprocess.PIPE, None, keep) == expected
    assert environment(preexec_fn=keep, env=ESSENTIAL) == variables(here)
    with tracekit.detached(), tracekit.span("root"):
        assert "TRACESTATE" not in environment(preexec_fn=keep)
    assert environment(preexec_fn=functools.partial(os.putenv, "TRACEPARENT", "own"))["TRACEPARENT"] == "own"


@pytest.mark.usefixtures("hooks")
@pytest.mark.parametrize(
    "env",
    [
        pytest.param({**ESSENTIAL, "KEPT": "yes"}, id="text"),
        pytest.param({os.fsencode(k): os.fsencode(v) for k, v in {**ESSENTIAL, "KEPT": "yes"}.items()}, id="bytes"),
        pytest.param(types.MappingProxyType({**ESSENTIAL, "KEPT": "yes"}), id="read-only"),
    ],
)
def test_an_environment_of_the_callers_gets_it_and_is_not_changed(env, here):
    before = dict(env)
    assert environment(env=env) == {**variables(here), "KEPT": "yes"}
    pipe = subprocess.PIPE
    assert environment(-1, None, None, pipe, None, None, True, False, None, env) == {**variables(here), "KEPT": "yes"}
    assert dict(env) == before


@pytest.mark.usefixtures("hooks")
@pytest.mark.skipif(sys.platform == "win32", reason="there all is text")
def test_bytes_that_are_no_text_survive(here):
    program = "import os; os.write(1, os.environb[b'RAW'])"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], env={b"RAW": b"\xff\xfe"}, stdout=subprocess.PIPE, check=True
    )
    assert done.stdout == b"\xff\xfe"


@pytest.mark.usefixtures("hooks")
@pytest.mark.parametrize(
    "named",
    [
        {"TRACEPARENT": f"00-{'1' * 32}-{'2' * 16}-01"},
        {"TRACEPARENT": ""},
        {"TRACEPARENT": f"00-{'1' * 32}-{'2' * 16}-01", "BAGGAGE": "a=b"},
        {b"TRACEPARENT": b"", b"BAGGAGE": b"a=b"},
    ],
)
def test_an_environment_that_names_a_trace_itself_is_left_as_it_is(named, here):
    if sys.platform == "win32" and b"TRACEPARENT" in named:
        pytest.skip("there all is text")
    expected = {os.fsdecode(name): os.fsdecode(value) for name, value in named.items()}
    assert environment(env={**ESSENTIAL, **named}) == expected


@pytest.mark.usefixtures("hooks")
@pytest.mark.parametrize("take", [lambda: None, os.environ.copy, lambda: {**os.environ, "KEPT": "yes"}])
def test_what_this_process_was_started_with_is_not_a_trace_that_the_caller_names(take, here, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", f"00-{'1' * 32}-{'2' * 16}-01")
    monkeypatch.setenv("BAGGAGE", "old=1")
    found = environment(env=take())
    found.pop("KEPT", None)
    assert found == variables(here)
    assert os.environ["BAGGAGE"] == "old=1"


@pytest.mark.usefixtures("hooks")
def test_where_nothing_is_current_a_subprocess_gets_what_it_would(monkeypatch):
    monkeypatch.setenv("TRACEPARENT", f"00-{'1' * 32}-{'2' * 16}-01")
    assert environment() == {"TRACEPARENT": f"00-{'1' * 32}-{'2' * 16}-01"}
    with tracekit.span("ended"):
        pass
    assert environment(env={**ESSENTIAL, "KEPT": "yes"}) == {"KEPT": "yes"}


@pytest.mark.usefixtures("hooks")
def test_a_subprocess_that_calls_configure_joins_the_trace(here):
    program = """
        import tracekit
        tracekit.configure(service="child")
        print(tracekit.current_context().trace_id, tracekit.current_labels()["tenant"])
        with tracekit.span("there") as span:
            print(span.parent.span_id, span.parent.is_remote, str(span.context.state))
        """
    expected = [here.context.trace_id, "acme", here.context.span_id, "True", "vendor=1"]
    assert run(program).split() == expected
    assert run(program, env=dict(os.environ)).split() == expected
    output = subprocess.check_output([sys.executable, "-c", textwrap.dedent(program)], text=True)
    assert output.split() == expected


async def _asyncio_exec(command):
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    return (await child.communicate())[0]


async def _anyio(command):
    return (await anyio.run_process(command)).stdout


async def _trio(command):
    return (await trio.run_process(command, capture_stdout=True)).stdout


@pytest.mark.anyio
@pytest.mark.usefixtures("hooks")
@pytest.mark.parametrize(
    ("anyio_backend", "spawn"),
    [
        pytest.param(backend, spawn, id=f"{name}-{spawn.__name__}")
        for name, backend in BACKENDS.items()
        for spawn in (_anyio, _trio if backend[0] == "trio" else _asyncio_exec)
    ],
    indirect=["anyio_backend"],
)
async def test_subprocesses_of_an_event_loop_go_through_it_but_for_uvloops(anyio_backend, spawn, exporter):
    with tracekit.span("here") as span:
        found = json.loads(await spawn([sys.executable, "-S", "-c", SHOW]))
    if anyio_backend[1].get("use_uvloop"):
        assert found == {}, "uvloop starts processes by itself: env=tracekit.processes.environ() says it there"
    else:
        assert found == {"TRACEPARENT": f"00-{span.context.trace_id}-{span.context.span_id}-03"}


@pytest.mark.usefixtures("hooks")
def test_other_formats_are_written_too(monkeypatch):
    from tracekit.wire import b3

    tracekit.configure(exporter=MemoryExporter(), formats=[b3.SINGLE])
    with tracekit.span("here") as span:
        assert environment() == {"B3": f"{span.context.trace_id}-{span.context.span_id}-1"}
        assert environment(env={**ESSENTIAL, "B3": "0"}) == {"B3": "0"}


LATE = """
import sys

import tracekit

tracekit.install_hooks()
assert "multiprocessing.pool" not in sys.modules
assert "subprocess" not in sys.modules

import multiprocessing.pool
import subprocess
from concurrent.futures import ThreadPoolExecutor

hooked = (subprocess.Popen.__init__, multiprocessing.pool.ThreadPool.map, ThreadPoolExecutor.submit)
assert all(hasattr(method, "__wrapped__") for method in hooked)
with tracekit.span("parent") as parent, multiprocessing.pool.ThreadPool(1) as pool, ThreadPoolExecutor() as executor:
    assert pool.map(lambda _: tracekit.current_span(), [1]) == [parent]
    assert executor.submit(tracekit.current_span).result() is parent
tracekit.remove_hooks()
assert not hasattr(subprocess.Popen.__init__, "__wrapped__")
assert not any(type(finder).__name__ == "ImportHook" for finder in sys.meta_path)
"""


def test_modules_are_patched_when_the_program_imports_them():
    subprocess.run([sys.executable, "-c", LATE], check=True)


@pytest.mark.parametrize(
    "stand_in",
    [
        None,
        types.SimpleNamespace(),
        types.SimpleNamespace(__name__="pool"),
        types.SimpleNamespace(ThreadPool=None),
        types.SimpleNamespace(ThreadPool=type("ThreadPool", (), {})),
    ],
)
def test_a_module_that_the_program_forbids_or_replaces_is_left_alone(monkeypatch, stand_in):
    monkeypatch.setitem(sys.modules, "multiprocessing.pool", stand_in)
    tracekit.install_hooks()
    assert hasattr(threading.Thread.start, "__wrapped__")
