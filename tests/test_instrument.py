"""``instrument()`` and ``uninstrument()``: what is traced, by whom, when, and that it is undone."""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
import textwrap
import threading

import pytest

import tracekit
from tracekit import _libraries
from tracekit._import_hook import HOOK
from tracekit._instrument import failures, instrumented
from tracekit.integrations._patch import Patches

INTEGRATION = """
    calls = []
    def instrument(target=None, **options):
        from {library} import Client
        if target is not None and not isinstance(target, Client):
            raise TypeError("not a client")
        calls.append(("on", target, options))
    def uninstrument(target=None):
        calls.append(("off", target))
"""
INSTRUMENTOR = """
    from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
    class Instrumentor(BaseInstrumentor):
        calls = []
        def instrumentation_dependencies(self):
            return {dependencies}
        def _instrument(self, **options):
            self.calls.append(("on", options))
        def _uninstrument(self, **options):
            self.calls.append(("off", options))
        @staticmethod
        def instrument_client(client, **options):
            Instrumentor.calls.append(("on", client, options))
        @staticmethod
        def uninstrument_client(client):
            Instrumentor.calls.append(("off", client))
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that writes modules and entry points of a distribution into a folder on the path."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(_libraries, "_found", {})
    before = set(sys.modules)

    def install(distribution, group, points, metadata="", **modules):
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        info = tmp_path / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "entry_points.txt").write_text(f"[{group}]\n{points}\n")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n{metadata}\n\n")
        importlib.invalidate_caches()

    yield install
    tracekit.uninstrument()
    assert instrumented() == {}
    assert HOOK not in sys.meta_path
    for name in set(sys.modules) - before:
        if name.startswith("fake"):
            del sys.modules[name]


@pytest.fixture
def native(install):
    """A library ``fakelib`` with an integration of a third party."""
    install(
        "fakelib_tracing",
        "tracekit.integrations",
        "fakelib = fakelib_tracing",
        fakelib="class Client: pass",
        fakelib_tracing=INTEGRATION.format(library="fakelib"),
    )


@pytest.fixture
def otel(install):
    """A library ``fakeotel`` with an instrumentor of OpenTelemetry."""
    install(
        "fakeotel_otel",
        "opentelemetry_instrumentor",
        "fakeotel = fakeotel_otel:Instrumentor",
        fakeotel="class Client: pass",
        fakeotel_otel=INSTRUMENTOR.format(dependencies=[]),
    )
    yield
    bridge = sys.modules.get("tracekit.bridges.opentelemetry")
    if bridge is not None:
        bridge.uninstall()


def calls(name):
    return getattr(sys.modules[name], "calls", None) or sys.modules[name].Instrumentor.calls


def test_a_library_is_instrumented_at_its_first_import_once_with_its_options(native):
    tracekit.instrument("fakelib", redact=["a"])
    assert "fakelib_tracing" not in sys.modules
    importlib.import_module("fakelib")
    tracekit.instrument("fakelib")
    importlib.import_module("fakelib")
    assert calls("fakelib_tracing") == [("on", None, {"redact": ["a"]})]
    assert instrumented() == {"fakelib": "fakelib-tracing"}


def test_a_library_that_is_imported_already_is_instrumented_at_once_and_undone(native):
    importlib.import_module("fakelib")
    tracekit.instrument("fakelib")
    tracekit.uninstrument("fakelib")
    tracekit.uninstrument("fakelib")
    assert calls("fakelib_tracing") == [("on", None, {}), ("off", None)]


def test_a_library_that_was_uninstrumented_before_its_import_is_left_alone(native):
    tracekit.instrument("fakelib")
    tracekit.uninstrument("fakelib")
    importlib.import_module("fakelib")
    assert "fakelib_tracing" not in sys.modules


def test_a_reloaded_library_is_instrumented_anew(native):
    module = importlib.import_module("fakelib")
    tracekit.instrument("fakelib")
    importlib.reload(module)
    assert [call[0] for call in calls("fakelib_tracing")] == ["on", "off", "on"]
    assert instrumented() == {"fakelib": "fakelib-tracing"}


def test_one_object_is_instrumented_alone(native):
    client = type("Own", (importlib.import_module("fakelib").Client,), {})()
    tracekit.instrument(client, redact=["a"])
    tracekit.uninstrument(client)
    assert calls("fakelib_tracing") == [("on", client, {"redact": ["a"]}), ("off", client)]
    assert instrumented() == {}


@pytest.mark.parametrize("target", [1, None, b"httpx", lambda: None, object()])
def test_an_object_that_no_integration_takes_is_a_type_error(target):
    with pytest.raises(TypeError, match="no integration takes a "):
        tracekit.instrument(target)
    with pytest.raises(TypeError, match="no integration takes a "):
        tracekit.uninstrument(target)


def test_an_object_of_a_known_library_that_its_integration_does_not_take_is_its_type_error(native):
    other = type("Other", (), {"__module__": "fakelib.other"})()
    importlib.import_module("fakelib")
    with pytest.raises(TypeError, match="not a client"):
        tracekit.instrument(other)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fakelip", "no integration for 'fakelip': did you mean fakelib"),
        ("httpxx", "did you mean httpx"),
        ("zzzzzz", "known are .*fakelib.*threads"),
        ("", "known are "),
        ("x" * 5000, "known are "),
    ],
)
def test_an_unknown_name_is_a_value_error_with_names_that_are_near(native, name, message):
    for verb in (tracekit.instrument, tracekit.uninstrument):
        with pytest.raises(ValueError, match=message) as caught:
            verb("fakelib", name)
        assert len(str(caught.value)) < 3000
    importlib.import_module("fakelib")
    assert instrumented() == {}  # not even those before it


def test_options_need_a_name():
    with pytest.raises(TypeError, match="options need"):
        tracekit.instrument(redact=["a"])


def test_names_of_modules_and_of_replaced_instrumentors_name_an_integration_too():
    assert _libraries.resolve("fastapi").name == "asgi"
    assert _libraries.resolve("starlette").name == "asgi"
    assert _libraries.resolve("threading").name == "threads"
    assert _libraries.resolve("nothing") is None


@pytest.mark.parametrize(
    "text", ["raise OSError('broken')", "def instrument(): raise OSError('broken')\nuninstrument = list"]
)
def test_a_library_that_cannot_be_instrumented_is_logged_once_and_works(install, caplog, text):
    install("fake_t", "tracekit.integrations", "fakelib = fake_t", fakelib="X = 1", fake_t=text)
    tracekit.instrument("fakelib")
    module = importlib.import_module("fakelib")
    importlib.reload(module)
    assert module.X == 1
    assert [record.getMessage() for record in caplog.records] == ["fakelib is not traced: OSError: broken"]
    assert failures() == {"fakelib": "OSError: broken"}


def test_an_integration_that_imports_other_libraries_has_these_instrumented_after_it(install):
    shared = "import {module}\ndef instrument():\n    import fake_log, fakeother\n    fake_log.order.append('{name}')\n"
    install(
        "fake_t",
        "tracekit.integrations",
        "fakelib = fake_one\nfakeother = fake_two",
        fake_log="order = []",
        fakelib="X = 1",
        fakeother="X = 1",
        fake_one=shared.format(module="fakelib", name="one") + "def uninstrument(): pass",
        fake_two=shared.format(module="fakeother", name="two") + "def uninstrument(): pass",
    )
    tracekit.instrument("fakelib", "fakeother")
    importlib.import_module("fakelib")
    assert sys.modules["fake_log"].order == ["one", "two"]
    assert failures() == {}


def test_an_integration_that_needs_a_half_imported_module_is_tried_again_after_the_next_import(install, caplog):
    install(
        "fake_t",
        "tracekit.integrations",
        "fakelib = fake_t",
        fakeouter="import fakelib\nlate = 1\nimport fakeother",
        fakelib="X = 1",
        fakeother="X = 1",
        fake_t="def instrument():\n    from fakeouter import late\ndef uninstrument(): pass",
    )
    install(
        "fake_u", "tracekit.integrations", "fakeother = fake_u", fake_u="def instrument(): pass\nuninstrument = int"
    )
    tracekit.instrument("fakelib", "fakeother")
    importlib.import_module("fakeouter")
    assert set(instrumented()) == {"fakelib", "fakeother"}
    assert failures() == {}
    assert caplog.records == []


# ---- OpenTelemetry's


def test_an_instrumentor_is_imported_with_its_library_on_the_bridge(otel):
    tracekit.instrument("fakeotel", excluded_urls="a")
    assert "fakeotel_otel" not in sys.modules
    importlib.import_module("fakeotel")
    assert calls("fakeotel_otel") == [("on", {"excluded_urls": "a"})]
    assert instrumented() == {"fakeotel": "fakeotel-otel"}
    from opentelemetry import trace

    assert type(trace.get_tracer_provider()).__module__.startswith("tracekit.")
    tracekit.uninstrument("fakeotel")
    assert calls("fakeotel_otel")[1:] == [("off", {})]


def test_one_object_is_instrumented_by_the_method_of_the_instrumentor(otel):
    client = importlib.import_module("fakeotel").Client()
    tracekit.instrument(client)
    tracekit.uninstrument(client)
    assert calls("fakeotel_otel") == [("on", client, {}), ("off", client)]


def test_an_object_of_which_an_instrumentor_makes_another_is_a_type_error():
    connection = importlib.import_module("sqlite3").connect(":memory:")
    with pytest.raises(TypeError, match=r'tracekit\.instrument\("sqlite3"\) traces the whole library'):
        tracekit.instrument(connection)
    connection.close()


def test_an_object_of_a_library_that_is_traced_through_another_is_a_type_error_with_its_name():
    with (
        importlib.import_module("requests").Session() as session,
        pytest.raises(TypeError, match=r'tracekit\.instrument\("http_client"\)'),
    ):
        tracekit.instrument(session)


def test_an_instrumentor_whose_library_has_another_version_is_left_out(install, caplog):
    install(
        "fakeotel_otel",
        "opentelemetry_instrumentor",
        "fakeotel = fakeotel_otel:Instrumentor",
        fakeotel="X = 1",
        fakeotel_otel=INSTRUMENTOR.format(dependencies=["anyio < 1"]),
    )
    importlib.import_module("fakeotel")
    tracekit.instrument("fakeotel")
    assert "anyio" in failures()["fakeotel"]
    assert instrumented() == {}
    assert [record.name for record in caplog.records if record.levelno >= logging.WARNING] == ["tracekit"]


def test_an_integration_replaces_the_instrumentor_of_its_name(native, install):
    install("fakelib_otel", "opentelemetry_instrumentor", "fakelib = fakelib_otel:Instrumentor")
    importlib.import_module("fakelib")
    tracekit.instrument("fakelib")
    assert instrumented() == {"fakelib": "fakelib-tracing"}
    assert "fakelib_otel" not in sys.modules


def test_an_instrumentor_replaces_an_integration_that_this_version_of_the_library_breaks(otel, install):
    install("fake_t", "tracekit.integrations", "fakeotel = fake_t", fake_t="import fakeotel.nowhere")
    tracekit.instrument("fakeotel")
    importlib.import_module("fakeotel")
    assert instrumented() == {"fakeotel": "fakeotel-otel"}
    tracekit.uninstrument("fakeotel")
    assert [call[0] for call in calls("fakeotel_otel")] == ["on", "off"]


def test_a_library_that_the_program_has_instrumented_is_left_to_it(otel, caplog):
    importlib.import_module("fakeotel_otel").Instrumentor().instrument()
    importlib.import_module("fakeotel")
    tracekit.instrument("fakeotel")
    assert "the program has instrumented it with fakeotel-otel" in failures()["fakeotel"]
    assert len(calls("fakeotel_otel")) == 1
    tracekit.uninstrument("fakeotel")
    assert len(calls("fakeotel_otel")) == 1


# ---- the search


def test_entry_points_are_found_with_what_they_instrument_and_the_first_package_counts(install, tmp_path, monkeypatch):
    install(
        "fake_x",
        "opentelemetry_instrumentor",
        "# a comment\nfake-x = fake_x:X [extra]\nno-class = fake_x",
        "Requires-Dist: wrapt<2\nRequires-Dist: fake-lib>=1; extra == 'instruments'\n"
        'Requires-Dist: other (>2); extra == "instruments-any"',
    )
    second = tmp_path / "second" / "fake_x-2.0.dist-info"
    second.mkdir(parents=True)
    (second / "entry_points.txt").write_text("[opentelemetry_instrumentor]\nfake-x = second:X\n")
    monkeypatch.setattr(
        sys, "path", [*sys.path, str(second.parent), str(tmp_path / "nowhere"), str(tmp_path / "fake_x.py")]
    )
    library = _libraries.libraries()["fake-x"]
    assert (library.load, library.package) == ("fake_x:X", "fake-x")
    assert library.modules == ("fake_x", "fake_lib", "other")
    assert "no-class" not in _libraries.libraries()


@pytest.mark.parametrize(
    ("only", "exclude", "disabled", "expected"),
    [
        ("fakelib,fakeotel", "", "", {"fakelib", "fakeotel"}),
        ("fakelib , fakeotel", "fakelib", "", {"fakeotel"}),
        ("fakelib,fakeotel", "", " fakeotel , nothing", {"fakelib"}),
        ("fakelib", "", "*", set()),
        ("nothing,fakelib", "nothing", "", {"fakelib"}),
        ("threading", "", "", {"threads"}),
    ],
)
def test_libraries_are_chosen_by_names(native, otel, monkeypatch, only, exclude, disabled, expected):
    monkeypatch.setenv("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", disabled)
    assert {library.name for library in _libraries.chosen(only, exclude)} == expected


def test_all_libraries_are_those_that_need_no_name(native, otel):
    chosen = {library.name for library in _libraries.chosen()}
    assert {"fakelib", "fakeotel", "threads"} <= chosen
    assert not {"asyncio", "subprocess"} & chosen


@pytest.mark.slow
def test_everything_that_is_installed_is_instrumented_and_taken_back():
    program = """
        import logging, sys
        import tracekit, tracekit._instrument as ours
        tracekit.configure(environ={})
        tracekit.instrument()
        import httpx, threading
        start = threading.Thread.start
        assert {"threads", "httpx", "logging"} <= set(ours.instrumented()), ours.instrumented()
        assert ours.failures() == {}, ours.failures()
        tracekit.uninstrument()
        assert ours.instrumented() == {}
        assert threading.Thread.start is not start
        assert not any(type(finder).__name__ == "ImportHook" for finder in sys.meta_path)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_table_of_integrations_has_only_modules_that_keep_to_the_protocol():
    for library in _libraries.libraries().values():
        if library.package == "tracekit" and library.name == "threads":
            module = importlib.import_module(library.load)
            assert callable(module.instrument)
            assert callable(module.uninstrument)
            with pytest.raises(TypeError, match="as a whole"):
                module.instrument(object())


@pytest.mark.skipif(
    getattr(sys.flags, "thread_inherit_context", 0), reason="threads inherit the Context of their start"
)
def test_threads_continue_the_trace_while_they_are_instrumented():
    seen = []
    for verb in (tracekit.instrument, tracekit.uninstrument):
        verb("threads")
        with tracekit.span("outer") as span:
            thread = threading.Thread(target=lambda span=span: seen.append(tracekit.current_span() is span))
            thread.start()
            thread.join(60)
    assert seen == [True, False]


def test_a_library_that_is_undone_while_another_thread_instruments_it_is_not_traced(install):
    """The integration of this test waits in ``instrument()`` until the other thread has undone it."""
    install(
        "fakelib_tracing",
        "tracekit.integrations",
        "fakelib = fakelib_tracing",
        fakelib="class Client: pass",
        fakelib_tracing="""
            import threading
            calls, started, undone = [], threading.Event(), threading.Event()
            def instrument(target=None, **options):
                calls.append(("on", options))
                if len(calls) == 1:
                    started.set()
                    assert undone.wait(60)
            def uninstrument(target=None):
                calls.append(("off",))
        """,
    )
    importlib.import_module("fakelib")
    integration = importlib.import_module("fakelib_tracing")
    thread = threading.Thread(target=tracekit.instrument, args=("fakelib",))
    thread.start()
    assert integration.started.wait(60)
    tracekit.uninstrument("fakelib")  # does not wait for the other thread
    assert integration.calls == [("on", {})]
    integration.undone.set()
    thread.join(60)
    assert integration.calls == [("on", {}), ("off",)]
    assert instrumented() == {}
    tracekit.instrument("fakelib", redact=["a"])
    assert integration.calls[2:] == [("on", {"redact": ["a"]})]


def test_a_library_that_is_undone_and_wanted_anew_meanwhile_gets_the_new_options(native):
    importlib.import_module("fakelib")
    integration = importlib.import_module("fakelib_tracing")
    original = integration.instrument

    def instrument(target=None, **options):
        original(target, **options)
        if options == {"redact": ["a"]}:
            thread = threading.Thread(target=change)
            thread.start()
            thread.join(60)
            assert not thread.is_alive()

    def change():
        tracekit.uninstrument("fakelib")
        tracekit.instrument("fakelib", redact=["b"])

    integration.instrument = instrument
    tracekit.instrument("fakelib", redact=["a"])
    assert [call[0] for call in calls("fakelib_tracing")] == ["on", "off", "on"]
    assert calls("fakelib_tracing")[-1] == ("on", None, {"redact": ["b"]})
    assert instrumented() == {"fakelib": "fakelib-tracing"}


def test_threads_that_instrument_and_undo_at_once_leave_the_last_state(native):
    importlib.import_module("fakelib")
    start = threading.Barrier(4)

    def work(turn_on_first):
        start.wait(60)
        for _ in range(200):
            for change in (tracekit.instrument, tracekit.uninstrument)[:: 1 if turn_on_first else -1]:
                change("fakelib")

    threads = [threading.Thread(target=work, args=(number % 2 == 0,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    tracekit.instrument("fakelib")
    tracekit.uninstrument("fakelib")
    states = [call[0] for call in calls("fakelib_tracing")]
    assert states == ["on", "off"] * (len(states) // 2)
    assert instrumented() == {}


def test_what_another_thread_has_put_back_already_is_left_alone():
    class Emptied(list):
        def __len__(self):  # the other thread takes the last one before the next step
            return 1

    patches = Patches()
    patches._replaced = Emptied()
    patches.restore()
