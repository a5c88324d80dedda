"""The verdicts on scenarios, and the page that is written from them."""

from __future__ import annotations

import gc
import logging
import re
import threading
import warnings
from pathlib import Path

import anyio
import pytest

from . import __main__ as command
from . import scenario as framework
from .drivers import Tracekit
from .report import BRIDGE, Results, evidence, failures, readme, report
from .scenario import KEPT, Tree, Verdict, judge, run, scenario

REPOSITORY = Path(__file__).parents[2]

REQUEST = """
request
  job
    step
"""


@pytest.mark.parametrize(
    ("actual", "words"),
    [
        pytest.param(REQUEST, [], id="the same"),
        pytest.param("request\njob\n  step", ["lost"], id="a root that should be a child"),
        pytest.param("request\njob <- ?\n  step", ["wrong parent"], id="under a span that never ended"),
        pytest.param("request\n  job\n  step", ["wrong parent"], id="too high"),
        pytest.param("request\n  job", ["missing"], id="never ended"),
        pytest.param("request\n  job\n    step\n    step", ["extra"], id="ended twice"),
        pytest.param("request\n  job [error]\n    step", ["shown as error"], id="another status"),
        pytest.param("request\n  job ~ request\n    step", ["linked"], id="a link that should not be"),
        pytest.param("request\njob [error]\n  step", ["lost", "shown as error"], id="two things at once"),
    ],
)
def test_a_tree_that_differs_is_judged_in_a_word(actual, words):
    assert judge(Tree.parse(REQUEST), Tree.parse(actual)) == words


@pytest.mark.parametrize(
    ("expected", "actual", "words"),
    [
        ("request\njob ~ request", "request\n  job", ["stuck", "not linked"]),
        ("request\njob ~ request", "request\njob", ["not linked"]),
        ("call [cancelled]", "call", ["shown as success"]),
        ("a\n  job\n    x\nb\n  job", "a\n  job\nb\n  job\n    x", ["wrong parent"]),
        ("job <- remote", "job", ["lost"]),
    ],
)
def test_roots_links_statuses_and_equal_names_are_told_apart(expected, actual, words):
    assert judge(Tree.parse(expected), Tree.parse(actual)) == words


def test_siblings_may_stand_in_any_order():
    one, other = Tree.parse("a\n  b\n    d\n  c\nz"), Tree.parse("z\na\n  c\n  b\n    d")
    assert str(one) == str(other)


def verdict(body, expect="request", backend="asyncio"):
    return run(scenario(row=1, title="", expect=expect)(body), backend, Tracekit())


@pytest.mark.parametrize("backend", framework.backends_here())
def test_a_scenario_that_goes_well_is_kept(backend):
    async def well(t):
        with t.span("request"):
            await anyio.lowlevel.checkpoint()

    assert verdict(well, backend=backend).word == KEPT


class Warns:
    def __init__(self):
        self.me = self

    def __del__(self):
        warnings.warn("garbage", ResourceWarning, stacklevel=1)


@pytest.mark.filterwarnings("ignore:garbage:ResourceWarning")
def test_garbage_of_an_earlier_test_is_not_held_against_a_scenario():
    async def well(t):
        t.mark("request")

    gc.collect()
    gc.disable()
    try:
        Warns()
        assert verdict(well).word == KEPT
    finally:
        gc.enable()


async def raises(t):
    t.mark("request")
    raise LookupError


async def logs(t):
    t.mark("request")
    logging.getLogger("tracekit").warning("no")


async def logs_for_debugging(t):
    t.mark("request")
    logging.getLogger("tracekit").debug("a span has ended")


async def warns(t):
    t.mark("request")
    warnings.warn("no", stacklevel=1)


async def raises_in_a_thread(t):
    t.mark("request")
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()


async def raises_in_a_finalizer(t):
    class Bad:
        def __del__(self):
            raise LookupError

    t.mark("request")
    Bad()


async def does_not_hold(t):
    t.mark("request")
    t.check(False, "labels leak")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (raises, "raises"),
        (logs, "logs"),
        (logs_for_debugging, "logs"),
        (warns, "warns"),
        (raises_in_a_thread, "raises"),
        (raises_in_a_finalizer, "raises"),
        (does_not_hold, "labels leak"),
    ],
)
def test_what_happens_beside_the_tree_is_judged_too(body, word):
    assert verdict(body).word == word


@pytest.mark.parametrize("backend", framework.backends_here())
def test_a_scenario_that_hangs_is_given_up(backend, monkeypatch):
    async def hangs(t):
        t.mark("request")
        await anyio.sleep_forever()

    monkeypatch.setattr(framework, "HANGS_AFTER_S", 0.01)
    assert verdict(hangs, backend=backend).word == "hangs"


# ---- the page


def results(**verdicts):
    """What a page is made of, where the guaranteed scenario and the other have these verdicts, by tracer."""

    async def body(t):
        """Is not run."""

    async def other(t):
        """Nor is this."""

    async def third(t):
        """Nor this."""

    kept = scenario(row=2, title="a task | its group", expect="request")(body)
    given_up = scenario(row=2, title="a bare task", expect="request", instead="`wrap(fn)`")(other)
    newer = scenario(row=9, title="of a newer Python", expect="", backends=())(third)
    made = Results([kept, given_up, newer], ["tracekit", "OpenTelemetry", BRIDGE], ["asyncio"])
    for tracer, words in verdicts.items():
        for one, word in zip((kept, given_up), words, strict=True):
            made.verdicts[tracer, "asyncio", one.key] = Verdict(word, "job" if word != KEPT else "request")
    return made


def test_the_page_counts_kept_scenarios_and_names_the_call_for_the_others():
    made = results(tracekit=(KEPT, "lost"), OpenTelemetry=("lost", "lost"))
    page = report(made, ["CPython 3"])
    assert failures(made) == []
    assert "2 scenarios, 1 of them kept by tracekit on every backend, and 1 only if it is called." in page
    assert "| Spawning tasks | 1/2 | 0/0 | 0/2 | 0/0 |" in readme(page)
    assert "| all | 1/2 | 0/0 | 0/2 | 0/0 |" in readme(page)
    assert "The 1 that are missing for tracekit cannot be kept unless it is called" in readme(page)
    assert "| a bare task | 2 | lost | `wrap(fn)` |" in page
    link = "[`body`](../tests/guarantees/test_scenario.py)"
    assert (
        f"| a task \\| its group | kept | not here | 3.12+ | not here | not installed | lost | not installed | {link} |"
        in page
    )
    assert "newer" not in page


def test_the_page_shows_the_trees_that_tracekit_does_not_keep_and_the_evidence_those_of_all_tracers():
    made = results(tracekit=(KEPT, "lost"), OpenTelemetry=("lost", "lost"))
    ours = "### a bare task\n\n```\nrequest\n```\n\ntracekit: lost\n\n```\njob\n```\n"
    peers = "### a task \\| its group\n\n```\nrequest\n```\n\nOpenTelemetry: lost\n\n```\njob\n```"
    page, trees = report(made, []), evidence(made, [])
    assert ours in page
    assert "OpenTelemetry: lost" not in page
    assert ours in trees
    assert peers in trees


def test_a_page_on_which_tracekit_keeps_all_has_no_trees():
    page = report(results(tracekit=(KEPT, KEPT), OpenTelemetry=("lost", "lost")), [])
    assert "```" not in page


@pytest.mark.parametrize("options", [["--programs", "0"], ["--programs", "0", "--quick"]])
def test_a_run_of_everything_writes_the_page_and_the_evidence_and_a_shorter_one_writes_nothing(
    tmp_path, monkeypatch, capsys, options
):
    made = results(tracekit=(KEPT, "lost"), OpenTelemetry=("lost", "lost"))
    page, trees = tmp_path / "docs" / "page.md", tmp_path / "cache" / "guarantees" / "trees.md"
    monkeypatch.setattr(command, "_run_all", lambda *_: made)
    monkeypatch.setattr(command, "PAGE", page)
    monkeypatch.setattr(command, "EVIDENCE", trees)
    monkeypatch.setattr("sys.argv", ["guarantees", *options])
    assert command.main() == 0
    printed = capsys.readouterr().out
    if "--quick" in options:
        assert list(tmp_path.iterdir()) == []
        assert "test_scenario.body (row 2): a task | its group" in printed
    else:
        assert page.read_text(encoding="utf-8").startswith("<!-- Written by")
        assert "OpenTelemetry: lost" in trees.read_text(encoding="utf-8")
        assert printed == ""


def test_unexpected_results_of_tracekit_are_failures():
    made = results(tracekit=("lost", "lost"), OpenTelemetry=(KEPT, KEPT))
    assert [line.rpartition(" with ")[2] for line in failures(made)] == ["tracekit on asyncio: lost"]
    assert "1 of tracekit's are failures." in readme(report(made, []))


def test_a_scenario_that_only_the_sdk_keeps_is_a_failure_of_the_bridge():
    made = results(tracekit=(KEPT, "lost"), OpenTelemetry=(KEPT, "lost"), **{BRIDGE: ("lost", "stuck")})
    assert failures(made) == [
        f"FAILED test_scenario.body with {BRIDGE} on asyncio: lost, and the SDK keeps it",
    ]


def test_each_line_of_the_published_page_links_to_a_function_that_is_there():
    page = REPOSITORY / "docs" / "GUARANTEES.md"
    links = re.findall(r"\| \[`(\w+)`\]\(([\w./]+)\) \|$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(links) > 200
    for name, link in links:
        assert f"async def {name}(t" in (page.parent / link).read_text(encoding="utf-8")


def test_the_page_on_propagation_and_the_readme_show_the_pages_own_table():
    table = readme((REPOSITORY / "docs" / "GUARANTEES.md").read_text(encoding="utf-8"))
    assert table.count("\n") > 10
    assert table in (REPOSITORY / "docs" / "propagation.md").read_text(encoding="utf-8")
    section = (
        (REPOSITORY / "README.md").read_text(encoding="utf-8").partition("## The guarantee")[2].partition("\n## ")[0]
    )
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    assert len(rows) == 4
    assert set(rows) <= set(table.splitlines())
