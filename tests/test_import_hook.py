"""The import hook reports each import once the module's code has run, and changes nothing else about it."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import itertools
import sys
import threading
import types
import zipfile
from importlib.machinery import SourceFileLoader

import pytest

from tracekit._import_hook import ImportHook


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder on the path, whose modules are forgotten after the test."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("hooked"):
            del sys.modules[name]


@pytest.fixture
def hook():
    """A hook that notes (module, whether its code has run)."""
    hook = ImportHook()
    hook.reports = []
    hook.imported = lambda name: hook.reports.append((name, hasattr(sys.modules.get(name), "DONE")))
    hook.install()
    yield hook
    hook.remove()
    assert hook not in sys.meta_path


def test_a_module_is_reported_when_its_code_has_run_and_others_are_not(folder, hook):
    (folder / "hooked_a.py").write_text("import hooked_b\nDONE = 1")
    (folder / "hooked_b.py").write_text("DONE = 1")
    (folder / "hooked_c.py").write_text("import hooked_a")
    hook.modules = {"hooked_a", "hooked_b"}
    importlib.import_module("hooked_c")
    importlib.import_module("hooked_a")
    assert hook.reports == [("hooked_b", True), ("hooked_a", True)]


def test_a_module_has_its_own_loader_even_while_its_code_runs(folder, hook):
    (folder / "hooked.py").write_text("SEEN = type(__loader__), type(__spec__.loader)\nDONE = 1")
    hook.modules = {"hooked"}
    module = importlib.import_module("hooked")
    assert [*module.SEEN] == [SourceFileLoader, SourceFileLoader]
    assert module.__spec__.loader is module.__loader__
    assert module.__loader__.get_source("hooked").startswith("SEEN")


def test_a_spec_that_is_only_looked_for_has_a_loader_of_the_real_type(folder, hook):
    (folder / "hooked.py").write_text("DONE = 1")
    hook.modules = {"hooked"}
    spec = importlib.util.find_spec("hooked")
    assert isinstance(spec.loader, SourceFileLoader)
    assert spec.loader.get_source("hooked") == "DONE = 1"
    assert hook.reports == []


class AskAgain:
    """A finder that asks everything but itself, as wrapt's and gevent's do."""

    is_asking = False

    def find_spec(self, name, path=None, target=None):
        if self.is_asking or name != "hooked":
            return None
        self.is_asking = True
        try:
            return importlib.util.find_spec(name)
        finally:
            self.is_asking = False


def test_a_finder_that_asks_all_finders_again_gets_no_second_report(folder, hook, monkeypatch):
    """Libraries with import hooks like this one's search with ``find_spec()`` for the finders behind them."""
    (folder / "hooked.py").write_text("DONE = 1")
    hook.modules = {"hooked"}
    monkeypatch.setattr(sys, "meta_path", [hook, AskAgain(), *[one for one in sys.meta_path if one is not hook]])
    importlib.import_module("hooked")
    assert hook.reports == [("hooked", True)]


def test_the_loader_of_a_spec_can_be_copied(folder, hook):
    (folder / "hooked.py").write_text("DONE = 1")
    hook.modules = {"hooked"}
    loader = importlib.util.find_spec("hooked").loader
    assert copy.copy(loader).get_source("hooked") == "DONE = 1"


def test_a_reload_is_reported_again(folder, hook):
    (folder / "hooked.py").write_text("DONE = 1")
    hook.modules = {"hooked"}
    importlib.reload(importlib.import_module("hooked"))
    assert hook.reports == [("hooked", True)] * 2


def test_modules_of_namespaces_and_archives_are_reported_and_namespaces_themselves_are_not(folder, hook, monkeypatch):
    (folder / "hooked_space").mkdir()
    (folder / "hooked_space" / "part.py").write_text("DONE = 1")
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        archive.writestr("hooked_zip.py", "DONE = 1")
    monkeypatch.syspath_prepend(folder / "archive.zip")
    hook.modules = {"hooked_space", "hooked_space.part", "hooked_zip"}
    assert importlib.import_module("hooked_space.part").DONE
    assert importlib.import_module("hooked_zip").DONE
    assert hook.reports == [("hooked_space.part", True), ("hooked_zip", True)]
    assert list(sys.modules["hooked_space"].__path__) == [str(folder / "hooked_space")]


def test_a_module_whose_code_raises_is_reported_when_it_is_imported_after_all(folder, hook):
    (folder / "hooked.py").write_text("import sys\nif not hasattr(sys, 'hooked_ok'): raise KeyError('no')\nDONE = 1")
    hook.modules = {"hooked"}
    with pytest.raises(KeyError, match="no"):
        importlib.import_module("hooked")
    assert hook.reports == []
    assert hook.loading == set()
    try:
        sys.hooked_ok = True
        importlib.import_module("hooked")
    finally:
        del sys.hooked_ok
    assert hook.reports == [("hooked", True)]


def test_a_missing_module_is_missing_as_without_the_hook(hook):
    hook.modules = {"hooked_nowhere"}
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'hooked_nowhere'$"):
        importlib.import_module("hooked_nowhere")
    assert hook.reports == []


def test_an_exception_of_another_finder_reaches_the_program(folder, hook, monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "hooked":
                raise ValueError("broken finder")

    (folder / "hooked.py").write_text("DONE = 1")
    hook.modules = {"hooked"}
    broken = Broken()
    monkeypatch.setattr(sys, "meta_path", [hook, broken, *[finder for finder in sys.meta_path if finder is not hook]])
    with pytest.raises(ValueError, match="broken finder"):
        importlib.import_module("hooked")
    sys.meta_path.remove(broken)
    importlib.import_module("hooked")
    assert hook.reports == [("hooked", True)]


def test_an_exception_of_the_report_does_not_reach_the_program(folder, hook):
    def imported(name):
        raise RuntimeError(name)

    (folder / "hooked.py").write_text("DONE = 1")
    hook.modules, hook.imported = {"hooked"}, imported
    assert importlib.import_module("hooked").DONE


@pytest.mark.parametrize("is_first", [True, False])
def test_another_hook_that_asks_all_finders_does_not_make_a_circle(folder, hook, is_first):
    (folder / "hooked.py").write_text("DONE = 1")
    hook.modules = {"hooked"}
    other = AskAgain()
    sys.meta_path.insert(0 if is_first else 1, other)
    try:
        assert importlib.import_module("hooked").DONE
    finally:
        sys.meta_path.remove(other)
    assert ("hooked", True) in hook.reports


@pytest.mark.parametrize(
    ("change", "comparison"), [(ImportHook.install, 1), (ImportHook.remove, 1), (ImportHook.remove, 2)]
)
def test_a_hook_that_is_installed_or_removed_twice_at_once_is_out_after_the_next_removal(change, comparison):
    hook, comparisons = ImportHook(), itertools.count(1)

    class Finder:
        """While it is compared with the hook, the hook is changed once more, as by another thread."""

        __hash__ = None

        def __eq__(self, other):
            if next(comparisons) == comparison:
                change(hook)
            return False

    if change is ImportHook.remove:
        hook.install()
    sys.meta_path.insert(0, finder := Finder())
    try:
        change(hook)
        hook.remove()
        assert hook not in sys.meta_path
    finally:
        sys.meta_path[:] = [one for one in sys.meta_path if one is not finder and one is not hook]


def test_a_module_that_replaces_itself_is_what_the_program_gets(folder, hook):
    (folder / "hooked.py").write_text(
        "import sys, types\nsys.modules[__name__] = types.SimpleNamespace(DONE=1, __name__=__name__)"
    )
    hook.modules = {"hooked"}
    assert isinstance(importlib.import_module("hooked"), types.SimpleNamespace)
    assert hook.reports == [("hooked", True)]


def test_a_lazy_module_is_reported_when_its_code_runs(folder, hook):
    (folder / "hooked.py").write_text("DONE = 1")
    hook.modules = {"hooked"}
    spec = importlib.util.find_spec("hooked")
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules["hooked"] = module
    spec.loader.exec_module(module)
    assert hook.reports == []
    assert module.DONE == 1
    assert [name for name, _ in hook.reports] == ["hooked"]


def test_threads_that_import_at_once_get_one_module_and_one_report(folder, hook):
    (folder / "hooked.py").write_text("DONE = 1")
    hook.modules = {"hooked"}
    barrier, found = threading.Barrier(8), []

    def load():
        barrier.wait(60)
        found.append(importlib.import_module("hooked"))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 8
    assert len(set(map(id, found))) == 1
    assert hook.reports == [("hooked", True)]
