"""An integration that is loaded when its library is first used: the first call is traced as all others are."""

from __future__ import annotations

import asyncio
import sys
import threading
from types import ModuleType

import pytest

from tracekit.integrations._first_use import FirstUse

PLACES = ["fake_used:Library.call", "fake_used:Library.wait"]


class Library:
    def call(self, value):
        return ["call", value]

    async def wait(self, value):
        return ["wait", value]


@pytest.fixture
def library(monkeypatch):
    kind = type("Library", (), {name: vars(Library)[name] for name in ("call", "wait")})
    module = ModuleType("fake_used")
    module.Library = kind
    monkeypatch.setitem(sys.modules, "fake_used", module)
    return kind


def tracing(kind, used):
    """Return a function that patches *kind* as an integration does, and notes that in *used*."""

    def use():
        used.append("used")
        call, wait = kind.call, kind.wait

        async def waits(self, value):
            return ["traced", *await wait(self, value)]

        kind.call = lambda self, value: ["traced", *call(self, value)]
        kind.wait = waits

    return use


def test_the_first_call_loads_the_integration_which_traces_it(library):
    used = []
    FirstUse(PLACES, "textwrap", tracing(library, used))
    assert used == []
    assert [library().call(at) for at in range(2)] == [["traced", "call", 0], ["traced", "call", 1]]
    assert used == ["used"]


def test_a_coroutine_function_stays_one(library):
    used = []
    FirstUse(PLACES, "textwrap", tracing(library, used))
    assert asyncio.iscoroutinefunction(library.wait)
    assert not asyncio.iscoroutinefunction(library.call)
    with pytest.raises(TypeError):  # as of the method itself, before anything is awaited
        library().wait()
    assert used == []
    assert [asyncio.run(library().wait(at)) for at in range(2)] == [["traced", "wait", 0], ["traced", "wait", 1]]
    assert used == ["used"]


def test_a_call_of_a_subclass_passes_its_method_once(library):
    class Own(library):
        def call(self, value):
            return ["own", *super().call(value)]

    FirstUse(PLACES, "textwrap", tracing(library, []))
    assert Own().call(0) == ["own", "traced", "call", 0]


def test_a_package_that_has_wrapped_the_method_is_passed_once(library):
    used = []
    FirstUse(PLACES, "textwrap", tracing(library, used))
    ours = library.call
    library.call = lambda self, value: ["other", *ours(self, value)]
    assert library().call(0) == ["other", "call", 0]
    assert library().call(1) == ["traced", "other", "call", 1]
    assert used == ["used"]


def test_other_threads_wait_for_the_first_call(library):
    entered, release, found = threading.Event(), threading.Event(), []
    trace = tracing(library, [])

    def use():
        entered.set()
        assert release.wait(20)
        trace()

    FirstUse(PLACES, "textwrap", use)
    replaced = library.call  # as another thread may have read it
    threads = [
        threading.Thread(target=lambda: found.append(library().call(0))),
        threading.Thread(target=lambda: found.append(replaced(library(), 1))),
    ]
    threads[0].start()
    assert entered.wait(20)
    threads[1].start()
    threads[1].join(0.05)
    assert found == []
    release.set()
    for thread in threads:
        thread.join()
    assert sorted(found) == [["traced", "call", 0], ["traced", "call", 1]]


def test_a_use_inside_of_the_loading_is_not_traced(library):
    found = []
    trace = tracing(library, [])

    def use():
        found.append(library().call(0))
        trace()

    FirstUse(PLACES, "textwrap", use)
    assert library().call(1) == ["traced", "call", 1]
    assert found == [["call", 0]]


def test_the_methods_are_put_back(library):
    before = library.call, library.wait
    used = []
    first = FirstUse(PLACES, "textwrap", tracing(library, used))
    kept = library.call
    first.undo()
    assert (library.call, library.wait) == before
    assert kept(library(), 0) == ["call", 0]
    assert used == []


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("fake_used:Library.missing", AttributeError),
        ("fake_used:Missing.call", AttributeError),
        ("fake_missing:Library.call", ImportError),
    ],
)
def test_a_library_without_the_method_is_left_alone(library, place, error):
    before = library.call
    with pytest.raises(error):
        FirstUse([PLACES[0], place], "textwrap", tracing(library, []))
    assert library.call is before


def test_an_integration_that_cannot_be_imported_is_for_the_caller_to_report(library, tmp_path, monkeypatch):
    (tmp_path / "fake_broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    used = []
    FirstUse(PLACES, "fake_broken", tracing(library, used))
    assert library().call(0) == ["traced", "call", 0]
    assert used == ["used"]
