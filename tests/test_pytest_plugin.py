"""The pytest plugin, in runs of pytest inside this one: what leaks is found and named, what does not passes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tracekit._testing.leaks import FINDINGS

from .tools.leaks import BASICS, CLEAN, HEADER, LEAKS

REPOSITORY = Path(__file__).parent.parent

OPTIONS = [
    "-p",
    "tracekit.pytest_plugin",
    "-p",
    "no:cacheprovider",
    "--strict-markers",
    "--strict-config",
    "-W",
    "error",
]
CONFTEST = """
    import json

    import pytest

    def pytest_runtest_logreport(report):
        with open("reports", "a") as file:
            sections = {name: text for name, text in report.sections}
            print(json.dumps([report.nodeid, report.when, report.outcome, report.longreprtext, sections]), file=file)
"""


class Run:
    """One run of pytest on *files*, by name, in *folder*; a name without a suffix is that of a test module."""

    def __init__(self, folder, files, *options, header=BASICS, plugins=()):
        for name, text in {"conftest.py": CONFTEST, **files}.items():
            is_test = "." not in name
            path = folder / (f"test_{name}.py" if is_test else name)
            path.write_text((header if is_test else "") + textwrap.dedent(text), encoding="utf-8")
        # Of the plugins that happen to be installed, only those that the test is about.
        environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        environment.pop("PYTEST_ADDOPTS", None)
        chosen = [option for plugin in plugins for option in ("-p", plugin)]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *OPTIONS, f"--rootdir={folder}", *chosen, *options],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=600,
        )
        self.code, self.output = done.returncode, done.stdout + done.stderr
        reports = folder / "reports"
        lines = reports.read_text(encoding="utf-8").splitlines() if reports.exists() else []
        self.reports = [json.loads(line) for line in lines]

    def of(self, name):
        """The reports on the tests of one module, or on one test."""
        found = [report for report in self.reports if f"test_{name}" in re.split(r"\.py|::|\[", report[0])]
        assert found, self.output
        return found

    def errors(self, name):
        """Return the failure of each test in one module, by test, without the line that xdist adds about its worker."""
        return {
            report[0].partition("::")[2]: re.sub(r"^\[gw\d+\] .*\n", "", report[3])
            for report in self.of(name)
            if report[2] != "passed"
        }

    @property
    def outcomes(self):
        """How each test went, all its phases in one word."""
        words = {}
        for node, when, outcome, *_ in self.reports:
            name = node.rpartition("::")[2].removeprefix("test_")
            if outcome != "passed":
                words[name] = outcome if when == "call" or outcome == "skipped" else f"{when} {outcome}"
            else:
                words.setdefault(name, "passed")
        return words


def findings(report):
    """The lines of a report that say what was wrong."""
    head, _, rest = report.partition("\n")
    lines = rest.partition("\n\n")[0].splitlines()
    found = [line for line in lines if re.match(r"test_\w+\.py:\d+: ", line)]
    assert head == f"tracekit: {', '.join(dict.fromkeys(line.split(': ')[1] for line in found))}"
    return [re.sub(r"(Dummy|Task)-\d+", r"\1-N", line) for line in found]


def where(name, text):
    """The place of each ``#word`` in *text*."""
    lines = (HEADER + textwrap.dedent(text)).splitlines()
    marks = {word: number for number, text in enumerate(lines, 1) for word in re.findall(r"#(\w+)", text)}
    return {word: f"test_{name}.py:{number}" for word, number in marks.items()}


@pytest.fixture(scope="module")
def run_of_all(tmp_path_factory):
    """All of LEAKS and of CLEAN, in one run."""
    files = {f"leak_{name}": text for name, (text, _) in LEAKS.items()}
    files |= {f"clean_{name}": text for name, text in CLEAN.items()}
    return Run(tmp_path_factory.mktemp("all"), files, "--tracekit-strict", header=HEADER, plugins=["anyio"])


threads_inherit_nothing = pytest.mark.skipif(
    getattr(sys.flags, "thread_inherit_context", 0),
    reason="threads inherit the Context of their start and lose no trace",
)


@threads_inherit_nothing
@pytest.mark.parametrize("name", LEAKS)
def test_what_leaks_is_found_and_the_test_fails_when_it_is_over(run_of_all, name):
    text, lines = LEAKS[name]
    reports = run_of_all.of(f"leak_{name}")
    errors = {node: text for node, when, outcome, text, _ in reports if outcome == "failed"}
    assert [when for _, when, outcome, *_ in reports if outcome != "passed"] == ["teardown"] * len(errors)
    assert len(errors) == (2 if "pytest.mark.anyio" in text else 1)
    for node, report in errors.items():
        library, caller = ("trio", "trio") if "trio" in node.partition("[")[2] else ("asyncio", "anyio")
        places = where(f"leak_{name}", text)
        assert findings(report) == [line.format_map({"library": library, "anyio": caller, **places}) for line in lines]


@pytest.mark.parametrize("name", CLEAN)
def test_what_does_not_leak_passes(run_of_all, name):
    assert run_of_all.errors(f"clean_{name}") == {}


def test_a_report_ends_with_the_tree_of_the_tests_spans_and_says_which_threads_go_on(tmp_path):
    run = Run(
        tmp_path,
        {
            "tree": """
            @pytest.mark.tracekit
            def test_tree():
                release = threading.Event()
                threading.Thread(target=release.wait, args=(20,), name="going on").start()
                KEPT.append(release)
                with tracekit.span("outer"):
                    with pytest.raises(ValueError), tracekit.span("inner"):
                        raise ValueError("no")
                    tracekit.span("not sampled", parent=NOT_SAMPLED).end()
                tracekit.span("left\x1b[31m")

            def test_release():
                KEPT[-1].set()
            """
        },
    )
    (text,) = run.errors("tree").values()
    number = (tmp_path / "test_tree.py").read_text(encoding="utf-8").splitlines().index(
        '    tracekit.span("left\x1b[31m")'
    ) + 1
    assert text == (
        "tracekit: open\n"
        f"test_tree.py:{number}: open: 'left\\x1b[31m' was never ended\n"
        "the thread 'going on' is still running\n"
        "\n"
        "the test's spans:\n"
        "not sampled <- remote\n"
        "outer\n"
        "  inner [error]\n"
        "left\\x1b[31m"
    )


def test_ids_that_come_twice_do_not_break_the_tree(tmp_path):
    body = """
        from tracekit.testing import CountingIds

        @pytest.mark.tracekit
        def test_twice():
            with CountingIds():
                with tracekit.span("a"), tracekit.span("b") as b:
                    pass
            for _ in range(50):
                with CountingIds(), tracekit.span("c", parent=b.context), tracekit.span("d"), tracekit.span("e"):
                    pass
            tracekit.span("left")
        """
    (text,) = Run(tmp_path, {"twice": body}).errors("twice").values()
    assert len(text.splitlines()) < 12


def test_a_long_report_is_cut(tmp_path):
    body = """
        @pytest.mark.tracekit
        def test_many():
            for number in range(1000):
                tracekit.span(f"{number}")
        """
    (text,) = Run(tmp_path, {"many": body}).errors("many").values()
    found, tree = text.split("\n\nthe test's spans:\n")
    for lines, last in ((found.splitlines()[1:], "'99' was never ended"), (tree.splitlines(), "99")):
        assert len(lines) == 101
        assert lines[-2].endswith(last)
        assert lines[-1] == "… and 900 more"


def test_without_mark_and_option_nothing_is_said(tmp_path):
    run = Run(tmp_path, {name: text for name, (text, _) in LEAKS.items()}, header=HEADER, plugins=["anyio"])
    assert set(run.outcomes.values()) == {"passed"}
    assert run.code == 0


STRICT = """
    import pytest, tracekit

    class TestMarked:
        pytestmark = pytest.mark.tracekit

        def test_marked(self):
            tracekit.span("job")

    def test_unmarked():
        tracekit.span("job")
    """


@pytest.mark.parametrize(
    ("options", "unmarked"),
    [
        ([], "passed"),
        (["--tracekit-strict"], "teardown failed"),
        (["-o", "tracekit_strict=true"], "teardown failed"),
        (["-o", "tracekit_strict=false"], "passed"),
    ],
)
def test_strict_are_marked_tests_or_all(tmp_path, options, unmarked):
    run = Run(tmp_path, {"strict": STRICT}, *options)
    assert run.outcomes == {"marked": "teardown failed", "unmarked": unmarked}
    assert run.code == 1


def test_the_mark_and_the_option_explain_themselves(tmp_path):
    output = Run(tmp_path, {}, "--markers").output
    (line,) = [line for line in output.splitlines() if line.startswith("@pytest.mark.tracekit")]
    assert all(word in line for word in FINDINGS)
    output = Run(tmp_path, {}, "--help").output
    assert "--tracekit-strict" in output
    assert "tracekit_strict (bool)" in output


ONE_OF_EACH = {
    "open": "abandoned",
    "ended-twice": "ended_twice",
    "late-write": "written_late",
    "late-child": "late_child",
    "root": "thread",
}


@threads_inherit_nothing
def test_what_is_allowed_is_not_said(tmp_path):
    assert tuple(ONE_OF_EACH) == FINDINGS
    files = {}
    for name in ONE_OF_EACH.values():
        for word in FINDINGS:
            mark = f"pytestmark = pytest.mark.tracekit(allow={{{word!r}}})\n"
            files[f"{name}_{word.replace('-', '_')}"] = mark + textwrap.dedent(LEAKS[name][0])
    run = Run(tmp_path, files, "--tracekit-strict")
    for found, name in ONE_OF_EACH.items():
        for word in FINDINGS:
            errors = run.errors(f"{name}_{word.replace('-', '_')}")
            assert list(errors) == ([] if word == found else ["test"])


def test_marks_of_module_class_and_test_add_up(tmp_path):
    body = """
        pytestmark = pytest.mark.tracekit(allow=["open"])

        @pytest.mark.tracekit(allow=("ended-twice",))
        class TestAll:
            @pytest.mark.tracekit
            @pytest.mark.tracekit(allow=frozenset({"late-write"}))
            def test_all(self):
                tracekit.span("job")
                span = tracekit.span("job")
                span.end()
                span.end()
                span.add_event("event")
        """
    assert Run(tmp_path, {"all": body}).outcomes == {"all": "passed"}


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("(allow={'opne'})", f"allow of pytest.mark.tracekit must hold {', '.join(FINDINGS)}, not 'opne'"),
        ("(allow=[3])", f"allow of pytest.mark.tracekit must hold {', '.join(FINDINGS)}, not 3"),
        ("(allow=[[]])", f"allow of pytest.mark.tracekit must hold {', '.join(FINDINGS)}, not []"),
        ("(allow='open')", "pytest.mark.tracekit takes allow={...} and nothing else"),
        ("('open')", "pytest.mark.tracekit takes allow={...} and nothing else"),
        ("(alow={'open'})", "pytest.mark.tracekit takes allow={...} and nothing else"),
    ],
)
def test_a_mark_that_means_nothing_is_an_error_of_the_test(tmp_path, mark, message):
    body = f"""
        @pytest.mark.tracekit{mark}
        def test_job():
            pass

        def test_other():
            assert tracekit.current_context() is None
        """
    run = Run(tmp_path, {"job": body})
    assert run.outcomes == {"job": "setup failed", "other": "passed"}
    assert list(run.errors("job").values()) == [message]


@pytest.mark.slow
def test_a_mark_that_means_nothing_is_the_same_error_in_a_worker_of_xdist(tmp_path):
    body = """
        @pytest.mark.tracekit("open")
        def test_job():
            pass

        def test_other():
            pass
        """
    (tmp_path / "alone").mkdir()
    (tmp_path / "shared").mkdir()
    alone = Run(tmp_path / "alone", {"job": body})
    shared = Run(tmp_path / "shared", {"job": body}, "-n", "1", plugins=["xdist"])
    assert "created: 1/1 worker" in shared.output
    assert shared.outcomes == alone.outcomes == {"job": "setup failed", "other": "passed"}
    assert shared.errors("job") == alone.errors("job")


def test_a_test_that_fails_keeps_its_own_failure_and_is_told_the_rest_beside_it(tmp_path):
    body = """
        @pytest.fixture
        def broken_before():
            tracekit.span("job")
            raise ValueError("before")

        @pytest.fixture
        def broken_after():
            yield
            raise ValueError("after")

        def test_fails():
            tracekit.span("job")
            raise ValueError("during")

        @pytest.mark.xfail(raises=ValueError, strict=True)
        def test_is_expected_to_fail():
            tracekit.span("job")
            raise ValueError("expected")

        def test_has_no_setup(broken_before):
            pass

        def test_has_no_teardown(broken_after):
            tracekit.span("job")
        """
    run = Run(tmp_path, {"failing": body}, "--tracekit-strict")
    assert run.outcomes == {
        "fails": "failed",
        "is_expected_to_fail": "skipped",
        "has_no_setup": "setup failed",
        "has_no_teardown": "teardown failed",
    }
    failures = {node.rpartition("::")[2]: text for node, _, outcome, text, _ in run.reports if outcome == "failed"}
    assert [text.splitlines()[-1].rpartition(": ")[2] for text in failures.values()] == ["ValueError"] * 3
    beside = {
        node.rpartition("::")[2]: list(sections) for node, when, *_, sections in run.reports if when == "teardown"
    }
    assert beside == {name: ["Captured spans teardown"] for name in beside}
    assert len(beside) == 4
    # What pytest shows of it: nothing beside what is expected to fail, or failed before it began.
    assert run.output.count("open: 'job' was never ended") == 2


def test_what_a_test_left_open_is_ended_for_it_and_reaches_nobody_later(tmp_path):
    body = """
        from tracekit.testing import MemoryExporter

        exporter = MemoryExporter()

        @pytest.fixture(autouse=True)
        def _looked_at_later():
            yield
            tracekit.configure(service="test", exporter=exporter)

        @pytest.mark.tracekit
        def test_open():
            KEPT.append(tracekit.span("job"))

        @pytest.mark.tracekit(allow={"open"})
        def test_allowed():
            (span,) = KEPT
            assert span.ended
            assert span.status == ("cancelled", "abandoned: the span was not ended")
            KEPT.append(tracekit.span("allowed"))

        def test_later():
            assert not KEPT.pop().ended
            assert [span.name for span in exporter.spans] == ["job", "allowed"]
            tracekit.shutdown(60)
        """
    run = Run(tmp_path, {"open": body})
    assert run.outcomes == {"open": "teardown failed", "allowed": "passed", "later": "passed"}


def test_spans_are_real_in_a_project_that_never_configured_and_the_projects_own_where_it_did(tmp_path):
    body = """
        from tracekit.testing import MemoryExporter

        @pytest.fixture
        def exporter():
            exporter = MemoryExporter()
            tracekit.configure(service="project", exporter=exporter)
            yield exporter
            tracekit.configure()

        @pytest.fixture
        def switched_off():
            tracekit.configure()

        def test_never_configured():
            with tracekit.span("job") as span:
                assert span.is_recording

        def test_configured(exporter):
            with tracekit.span("job") as span:
                pass
            assert exporter.spans == [span]
            assert span.resource["service.name"] == "project"

        def test_configured_with_a_sampler():
            tracekit.configure(exporter=MemoryExporter(), sampler=tracekit.AlwaysOff())
            with tracekit.span("job") as span:
                assert not span.is_recording
            tracekit.configure()

        def test_switched_off(switched_off):
            with tracekit.span("job") as span:
                assert span.is_recording
            assert not exporter_of_before.spans

        exporter_of_before = MemoryExporter()
        tracekit.configure(service="project", exporter=exporter_of_before)
        tracekit.configure()
        """
    assert set(Run(tmp_path, {"real": body}, "--tracekit-strict").outcomes.values()) == {"passed"}


# ---- isolation


ISOLATION = {
    "sync": """
        @pytest.fixture
        def labels():
            with tracekit.use_labels(of="fixture"):
                yield

        @pytest.fixture(scope="module", autouse=True)
        def _of_the_module():
            with tracekit.use_labels(of="module"):
                yield

        def test_first(labels):
            assert tracekit.current_labels() == {"of": "fixture"}
            KEPT.append(tracekit.span("left open").__enter__())
            tracekit.use_labels(left="open").__enter__()

        def test_second():
            assert (tracekit.current_context(), tracekit.current_span()) == (None, None)

        def test_third(labels):
            assert tracekit.current_labels() == {"of": "fixture"}
            assert tracekit.current_span() is None
        """,
    "unittest": """
        import unittest

        class Test(unittest.TestCase):
            def setUp(self):
                assert tracekit.current_context() is None
                KEPT.append(tracekit.span("left open").__enter__())

            def test_first(self):
                assert tracekit.current_span() is KEPT[-1]

            def test_second(self):
                assert tracekit.current_span() is KEPT[-1]
        """,
    "anyio": """
        pytestmark = pytest.mark.anyio

        # Asks for the same runner, and with it the same task, for all tests of a backend.
        @pytest.fixture(scope="module", autouse=True, params=BACKENDS)
        def anyio_backend(request):
            return request.param

        @pytest.fixture(scope="module", autouse=True)
        async def _shared(anyio_backend):
            yield

        @pytest.fixture
        async def labels():
            with tracekit.use_labels(of="fixture"):
                yield

        async def test_first(labels):
            assert tracekit.current_labels() == {"of": "fixture"}
            KEPT.append(threading.current_thread())
            KEPT.append(tracekit.span("left open").__enter__())
            tracekit.use_labels(left="open").__enter__()

        async def test_second():
            assert tracekit.current_context() is None
            tracekit.use_labels(left="open").__enter__()
            with pytest.raises(ZeroDivisionError):
                1 / 0

        async def test_third(labels):
            assert tracekit.current_labels() == {"of": "fixture"}
            assert tracekit.current_span() is None
            tracekit.use_labels(left="open").__enter__()
            pytest.skip("leaves by an exception")

        async def test_fourth():
            assert tracekit.current_context() is None

        class TestOfAClass:
            async def test_fifth(self):
                assert tracekit.current_context() is None
                tracekit.use_labels(left="open").__enter__()

            async def test_sixth(self):
                assert tracekit.current_context() is None
        """.replace(
        "BACKENDS", "['asyncio', ('asyncio', {'use_uvloop': True}), 'trio'][:: 2 if os.name == 'nt' else 1]"
    ),
    "the_runner_is_started_by_a_test_with_a_scope": """
        pytestmark = pytest.mark.anyio

        @pytest.fixture(scope="module", params=["asyncio", "trio"])
        def anyio_backend(request):
            return request.param

        @pytest.fixture(scope="module")
        async def shared(anyio_backend):
            yield

        @pytest.fixture
        def job():
            with tracekit.span("job") as span:
                yield span

        @pytest.fixture
        def late(job, request):
            return request.getfixturevalue("shared")

        async def test_first(late):
            pass

        async def test_second(shared):
            assert tracekit.current_context() is None
        """,
    "hypothesis": """
        from hypothesis import HealthCheck, given, settings, strategies

        pytestmark = pytest.mark.anyio

        @pytest.fixture(scope="module", params=["asyncio", "trio"])
        def anyio_backend(request):
            return request.param

        @pytest.fixture(scope="module", autouse=True)
        async def _shared(anyio_backend):
            yield

        @given(strategies.integers())
        @settings(max_examples=5, deadline=None, database=None)
        async def test_first(number):
            assert tracekit.current_context() is None
            tracekit.use_labels(left="open").__enter__()

        async def test_second():
            assert tracekit.current_context() is None
        """,
}
PYTEST_ASYNCIO = """
    import pytest_asyncio

    pytestmark = pytest.mark.asyncio(loop_scope="module")

    @pytest_asyncio.fixture(loop_scope="module")
    async def labels():
        with tracekit.use_labels(of="fixture"):
            yield

    async def test_first(labels):
        KEPT.append(asyncio.get_running_loop())
        assert tracekit.current_labels() == {"of": "fixture"}
        tracekit.span("left open").__enter__()

    async def test_second():
        assert KEPT == [asyncio.get_running_loop()]
        assert tracekit.current_context() is None
        tracekit.use_labels(left="open").__enter__()

    async def test_third(labels):
        assert tracekit.current_labels() == {"of": "fixture"}
        assert tracekit.current_span() is None
    """


@pytest.mark.parametrize("name", ISOLATION)
def test_every_test_starts_with_nothing_current_but_what_its_own_fixtures_made(tmp_path, name):
    run = Run(tmp_path, {name: "import os\n" + textwrap.dedent(ISOLATION[name])}, header=HEADER, plugins=["anyio"])
    assert set(run.outcomes.values()) <= {"passed", "skipped"}, run.output
    assert run.code == 0, run.output


def test_the_same_under_pytest_asyncio_with_a_loop_of_the_module(tmp_path):
    pytest.importorskip("pytest_asyncio")
    options = ["-o", "asyncio_default_fixture_loop_scope=function"]
    run = Run(tmp_path, {"all": PYTEST_ASYNCIO}, *options, header=HEADER, plugins=["asyncio"])
    assert run.outcomes == dict.fromkeys(["first", "second", "third"], "passed"), run.output


@threads_inherit_nothing
def test_pytest_asyncios_tests_are_looked_at_too(tmp_path):
    pytest.importorskip("pytest_asyncio")
    body = """
        pytestmark = [pytest.mark.asyncio, pytest.mark.tracekit]

        async def test_thread():
            with tracekit.span("job"):
                run(threading.Thread(target=work))

        async def test_clean():
            with tracekit.span("job"):
                await asyncio.to_thread(work)
        """
    options = ["-o", "asyncio_default_fixture_loop_scope=function"]
    run = Run(tmp_path, {"all": body}, *options, header=HEADER, plugins=["asyncio"])
    assert run.outcomes == {"thread": "teardown failed", "clean": "passed"}, run.output


def test_without_the_plugin_the_next_test_would_see_it(tmp_path):
    run = Run(tmp_path, {"sync": ISOLATION["sync"]}, "-p", "no:tracekit.pytest_plugin")
    assert run.outcomes == {"first": "passed", "second": "failed", "third": "failed"}


def test_what_was_current_before_the_tests_is_current_after_them(tmp_path):
    conftest = (
        textwrap.dedent(CONFTEST)
        + """
import tracekit
tracekit.use_labels(of="session").__enter__()
def pytest_sessionfinish():
    assert tracekit.current_labels() == {"of": "session"}
"""
    )
    body = """
        def test_first():
            assert tracekit.current_context() is None
            tracekit.use_labels(left="open").__enter__()

        def test_second():
            assert tracekit.current_context() is None
        """
    for option in ([], ["--tracekit-strict"]):
        run = Run(tmp_path, {"conftest.py": conftest, "first": body}, *option)
        assert run.code == 0, run.output


# ---- the fixture


def test_fixture_spans_holds_what_has_ended_in_the_test_and_the_projects_exporter_gets_nothing(tmp_path):
    body = """
        from tracekit.testing import MemoryExporter, span_tree

        exporter = MemoryExporter()

        @pytest.fixture
        def configured():
            tracekit.configure(service="project", exporter=exporter, sampler=tracekit.AlwaysOff())

        def test_not_configured(spans):
            with tracekit.span("outer"), tracekit.span("inner"):
                pass
            assert span_tree(spans) == "outer\\n  inner"
            assert [span.name for span in spans.spans] == ["inner", "outer"]
            assert len(spans) == 2

        def test_another(spans):
            assert list(spans) == []

        def test_configured(configured, spans):
            with tracekit.span("job") as span:
                pass
            assert spans.spans == [span]
            assert span.resource["service.name"] == "project"

        def test_project():
            assert not exporter.is_shut_down
            assert exporter.spans == []
            with tracekit.span("job") as span:
                assert not span.is_recording
            tracekit.configure()

        @pytest.mark.tracekit
        def test_strict(spans):
            with tracekit.span("job"):
                pass
            assert span_tree(spans) == "job"
        """
    run = Run(tmp_path, {"spans": body})
    assert set(run.outcomes.values()) == {"passed"}, run.output


# ---- the plugin among others


def test_a_run_without_marks_loads_no_more_than_tracekit_itself_and_starts_nothing(tmp_path):
    conftest = """
        import json, sys, threading
        def pytest_sessionfinish():
            with open("loaded", "w") as file:
                json.dump([sorted(sys.modules), [thread.name for thread in threading.enumerate()]], file)
        """
    Run(tmp_path, {"conftest.py": conftest, "nothing": "def test_nothing(): pass"}, header="")
    loaded, threads = json.loads((tmp_path / "loaded").read_text(encoding="utf-8"))
    program = "import pdb, sys, tracekit; print(*sorted(sys.modules))"  # pytest's debugger imports pdb
    alone = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    ours = {name for name in loaded if name.startswith("tracekit")}
    assert ours - set(alone) == {"tracekit.pytest_plugin"}
    assert threads == ["MainThread"]
    assert {"anyio", "asyncio", "trio"}.isdisjoint(set(loaded) - set(alone))  # Python 3.14's pdb imports asyncio


def test_a_run_inside_a_test_is_watched_by_itself(tmp_path):
    inner = """
        import tracekit
        def test_inner(): tracekit.span("inner")
        """
    exiting = """
        import pytest, tracekit
        def test_exit():
            tracekit.use_labels(left="open").__enter__()
            pytest.exit("in the middle")
        """
    body = """
        def test_outer(spans):
            job = tracekit.span("job")
            for file, code in (("inner.py", 1), ("exiting.py", 2)):
                options = ["-p", "no:cacheprovider", "-p", "tracekit.pytest_plugin", "--tracekit-strict", "-q"]
                assert pytest.main([*options, file]) == code
                assert tracekit.current_context() is None
            tracekit.span("outer")
            job.end()
            assert [span.name for span in spans] == ["inner", "job"]
        """
    files = {"inner.py": inner, "exiting.py": exiting, "outer": body}
    run = Run(tmp_path, files, "--tracekit-strict", "test_outer.py")
    (text,) = run.errors("outer").values()
    assert findings(text)[0].endswith("open: 'outer' was never ended")
    assert len(findings(text)) == 1


def test_a_test_that_is_run_again_starts_over(tmp_path):
    conftest = (
        textwrap.dedent(CONFTEST)
        + """
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):
    for _ in range(2):
        item._initrequest()
        for report in runtestprotocol(item, nextitem=nextitem, log=False):
            item.ihook.pytest_runtest_logreport(report=report)
    return True
"""
    )
    body = """
        def test_again():
            assert tracekit.current_context() is None
            if not KEPT:
                KEPT.append(tracekit.span("job").__enter__())
        """
    run = Run(tmp_path, {"conftest.py": conftest, "again": body}, "--tracekit-strict")
    assert [(when, outcome) for _, when, outcome, *_ in run.reports] == [
        ("setup", "passed"),
        ("call", "passed"),
        ("teardown", "failed"),
        ("setup", "passed"),
        ("call", "passed"),
        ("teardown", "passed"),
    ]


def test_an_error_of_the_plugins_own_is_told_after_the_test_and_not_to_the_program(tmp_path):
    body = """
        import tracekit._testing.leaks

        def fail(*arguments):
            raise KeyError("a bug")

        @pytest.mark.tracekit
        @pytest.mark.parametrize("call", ["start", "end", "late"])
        def test_bug(monkeypatch, call):
            if call == "start":
                monkeypatch.setattr(tracekit._testing.leaks, "started_at", fail)
            span = tracekit.span("job")
            if call == "end":
                monkeypatch.setattr(tracekit._testing.leaks, "calling_frame", fail)
            span.end()
            if call == "late":
                monkeypatch.setattr(tracekit._testing.leaks, "calling_frame", fail)
                span.end()

        def test_after():
            assert tracekit.current_context() is None
        """
    run = Run(tmp_path, {"bug": body})
    assert set(run.errors("bug")) == {"test_bug[start]", "test_bug[end]", "test_bug[late]"}
    assert all("KeyError: 'a bug'" in text for text in run.errors("bug").values())
    assert {when for _, when, outcome, *_ in run.reports if outcome == "failed"} == {"teardown"}


# ---- the page


@threads_inherit_nothing
def test_the_code_and_the_report_in_the_page_about_tests_are_true(tmp_path):
    page = (REPOSITORY / "docs" / "testing.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE))
    shown = re.findall(r"^```text\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    run = Run(tmp_path, {"shop": code}, header="")
    assert list(run.outcomes.values()) == ["passed", "teardown failed", "passed"], run.output
    assert [f"{text}\n" for text in run.errors("shop").values()] == shown
