"""``tracekit.aio`` itself: anyio's names, anyio loaded when it is needed, and work that is nobody's child."""

from __future__ import annotations

import ast
import asyncio
import inspect
import subprocess
import sys
import textwrap
from functools import partial
from types import ModuleType

import anyio
import pytest
import trio
from anyio.lowlevel import checkpoint

import tracekit
from tracekit import aio
from tracekit.testing import span_tree

pytestmark = pytest.mark.usefixtures("nothing_is_logged")


def run(program):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def here():
    span = tracekit.current_span()
    return None if span is None else span.name


# ---- the names


@pytest.mark.parametrize("name", aio.__all__)
def test_every_name_is_there_and_is_remembered(name):
    if name == "to_interpreter":
        pytest.importorskip("anyio.to_interpreter")  # anyio 4.9
    value = getattr(aio, name)
    assert vars(aio)[name] is value
    assert inspect.ismodule(value) or value.__name__ == name
    assert name in dir(aio)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'tracekit.aio' has no attribute 'sleep'"):
        aio.sleep
    assert not hasattr(aio, "__wrapped__")


def test_a_name_of_a_part_that_is_being_imported_is_not_the_part(monkeypatch):
    """A signal handler has interrupted the import."""
    monkeypatch.delitem(vars(aio), "tasks", raising=False)
    monkeypatch.setitem(sys.modules, "tracekit.aio._tasks", ModuleType("tracekit.aio._tasks"))
    with pytest.raises(AttributeError):
        aio.tasks
    assert "tasks" not in vars(aio)


def test_a_type_checker_does_not_take_every_name_for_one_of_the_module():
    tree = ast.parse(inspect.getsource(aio))
    assert "__getattr__" not in {getattr(node, "name", "") for node in tree.body}
    (hidden,) = (
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "not TYPE_CHECKING"
    )
    assert [node.name for node in hidden.body] == ["__getattr__"]


def test_the_types_of_the_streams_are_exported():
    send, receive = aio.create_memory_object_stream(1)
    with send, receive:
        assert (type(send), type(receive)) == (aio.MemoryObjectSendStream, aio.MemoryObjectReceiveStream)


# What has its signature from anyio, but for what is added.
ANYIOS = {
    "create_task_group": "create_task_group",
    "to_thread.run_sync": "to_thread.run_sync",
    "from_thread.run": "from_thread.run",
    "from_thread.run_sync": "from_thread.run_sync",
    "from_thread.start_blocking_portal": "from_thread.start_blocking_portal",
}


@pytest.mark.parametrize("name", ANYIOS)
def test_what_anyio_takes_is_taken(name):
    ours, theirs = aio, anyio
    for part in name.split("."):
        ours, theirs = getattr(ours, part), getattr(theirs, part)
    assert inspect.signature(theirs).parameters.keys() <= inspect.signature(ours).parameters.keys()


@pytest.mark.parametrize(
    ("method", "added"), [("start_soon", set()), ("create_task", set()), ("start", {"options"}), ("cancel", set())]
)
def test_a_named_groups_methods_take_what_anyios_take(method, added):
    theirs = getattr(anyio.abc.TaskGroup, method, None)
    if theirs is None:
        pytest.skip("needs anyio 4.14")
    expected = inspect.signature(theirs).parameters.keys() - {"return_handle"}
    assert inspect.signature(getattr(aio.TaskGroup, method)).parameters.keys() == expected | added


def test_anyio_is_loaded_with_the_first_name_that_needs_it():
    program = """
        import sys
        import tracekit.aio
        from tracekit import aio
        dir(aio), aio.run_in_context, aio.spawn_detached
        assert not {"anyio", "asyncio", "trio"} & set(sys.modules)
        aio.Queue, aio.run_in_executor
        assert not {"anyio", "trio"} & set(sys.modules)
        aio.to_thread.run_sync
        assert "anyio" in sys.modules
        from tracekit.aio import create_task_group, from_thread
        assert "trio" not in sys.modules
        print(create_task_group.__module__)
        """
    assert run(program) == "tracekit.aio._groups\n"


def test_star_import_brings_every_name():
    pytest.importorskip("anyio.to_interpreter")
    scope = {}
    exec("from tracekit.aio import *", scope)
    assert set(aio.__all__) <= set(scope)


# ---- detached work


def test_detached_work_in_an_asyncio_group_needs_no_anyio():
    program = """
        import asyncio, sys
        import tracekit
        from tracekit import aio
        from tracekit.testing import MemoryExporter, span_tree

        async def tick(number):
            with tracekit.span("tick"):
                await asyncio.sleep(0)
            return number

        async def main():
            with tracekit.span("request"):
                async with asyncio.TaskGroup() as group:
                    task = aio.spawn_detached(group, tick, 5, name="ticker")
                    assert isinstance(task, asyncio.Task) and task.get_name() == "ticker"
            assert await task == 5

        exporter = MemoryExporter()
        tracekit.configure(exporter=exporter)
        asyncio.run(main())
        assert "anyio" not in sys.modules and "trio" not in sys.modules
        print(span_tree(exporter.spans))
        """
    assert run(program) == "request\ntick ~ request\n"


async def tick(*names):
    assert here() is None
    for name in names:
        with tracekit.span(name):
            await checkpoint()


GROUPS = {
    "anyio": anyio.create_task_group,
    "aio": aio.create_task_group,
    "trio": trio.open_nursery,
    "asyncio": asyncio.TaskGroup,
}


@pytest.mark.anyio
@pytest.mark.parametrize("kind", GROUPS)
async def test_detached_work_is_a_root_with_a_link_in_every_kind_of_group(kind, anyio_backend, exporter):
    if {kind, anyio_backend[0]} == {"asyncio", "trio"}:
        pytest.skip("belongs to the other backend")
    with tracekit.span("request"):
        async with GROUPS[kind]() as group:
            aio.spawn_detached(group, tick, "first", "second")
            assert here() == "request"
    assert span_tree(exporter.spans) == "request\nfirst ~ request\nsecond ~ request"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="needs eager tasks")
def test_eager_tasks_are_whose_they_are_too(exporter):
    async def job():
        with tracekit.span("work"):
            await checkpoint()

    async def main():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        with tracekit.span("request"):
            async with asyncio.TaskGroup() as native:
                aio.spawn_detached(native, tick, "tick")
                assert here() == "request"
            async with aio.create_task_group("group") as group:
                group.start_soon(job, name="job")
                assert here() == "group"

    asyncio.run(main())
    assert span_tree(exporter.spans) == "request\n  group\n    job\n      work\ntick ~ request"


@pytest.mark.anyio
async def test_detached_work_in_a_named_group_has_a_root_of_its_own(exporter):
    async def work():
        assert here() == "ticker"
        with tracekit.span("work"):
            await checkpoint()

    async with aio.create_task_group("group") as group:
        with tracekit.span("request"):
            aio.spawn_detached(group, work, name="ticker")
            aio.spawn_detached(group, partial(work), name="ticker")
    expected = "group\n  request\nticker ~ request\n  work"
    assert span_tree(exporter.spans) == expected + "\nticker ~ request\n  work"


@pytest.mark.anyio
async def test_detached_work_that_starts_when_its_spawner_has_ended_keeps_its_link(exporter):
    async with aio.create_task_group() as group:
        with tracekit.span("request", attributes={"a": 1}) as request:
            aio.spawn_detached(group, tick, "tick")
        assert request.ended
    tick_span = exporter.spans[-1]
    assert (tick_span.parent, tick_span.links[0].context) == (None, request.context)


@pytest.mark.anyio
async def test_what_detached_work_starts_is_its_own(exporter):
    async def server():
        async with aio.create_task_group() as inner:
            with tracekit.span("accept"):
                inner.start_soon(child)

    async def child():
        with tracekit.span("handle"):
            await aio.to_thread.run_sync(here)

    with tracekit.span("start-up"):
        async with aio.create_task_group() as group:
            aio.spawn_detached(group, server)
    assert span_tree(exporter.spans) == "start-up\naccept ~ start-up\n  handle"


@pytest.mark.anyio
async def test_where_nothing_is_current_detached_work_is_a_plain_root(exporter):
    async with aio.create_task_group() as group:
        aio.spawn_detached(group, tick, "tick")
    assert span_tree(exporter.spans) == "tick"


@pytest.mark.anyio
async def test_what_cannot_be_spawned_fails_as_ever_and_nothing_stays_detached(exporter):
    with tracekit.span("request"):
        async with aio.create_task_group() as group:
            with pytest.raises(TypeError):
                aio.spawn_detached(group, 5)
            assert here() == "request"
        with pytest.raises(RuntimeError, match="not active"):
            aio.spawn_detached(group, tick)
        with pytest.raises(AttributeError):
            aio.spawn_detached(None, tick)
        assert here() == "request"
