"""The version, its changes, the workflows and the page on stability agree."""

import re
import tomllib
from pathlib import Path

import pytest

import tracekit

pytestmark = pytest.mark.one_form

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SUPPORTED = [row.rpartition(" ")[2] for row in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", row)]


def test_the_newest_changes_are_those_of_the_version():
    text = (ROOT / "CHANGES.md").read_text(encoding="utf-8")
    released = re.findall(r"^## (\S+)(?: \((\d{4}-\d\d-\d\d)\))?$", text, re.MULTILINE)
    assert released[0] in {(tracekit.__version__, released[0][1]), ("Unreleased", "")}
    versions = [version for version, _ in released if version != "Unreleased"]
    assert versions[0] == tracekit.__version__
    assert all(date for version, date in released if version != "Unreleased")


def test_the_citation_has_the_version_and_the_date():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    heading = f"## {tracekit.__version__} ({re.search('date-released: (.*)', citation)[1]})\n"
    assert f"version: {tracekit.__version__}\n" in citation
    assert heading in (ROOT / "CHANGES.md").read_text(encoding="utf-8")


def test_the_supported_versions_are_those_that_are_tested_built_and_classified():
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    tested = re.findall(r"\d\.\d+", re.search(r"python: (\[.*\])", workflow)[1])
    assert tested == SUPPORTED
    wheels = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["cibuildwheel"]["build"]
    built = [f"3.{minor}" for minor in re.findall(r"cp3(\d+)-", wheels)]
    assert built == SUPPORTED
    assert PROJECT["requires-python"] == f">={SUPPORTED[0]}"
    page = (ROOT / "docs" / "stability.md").read_text(encoding="utf-8")
    assert f"{SUPPORTED[0]} to {SUPPORTED[-1]} now" in page


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_the_targets_that_a_workflow_makes_exist(name):
    workflow = (ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    made = {target for line in re.findall(r"run: make (.*)", workflow) for target in line.split()}
    assert made <= targets
    assert made or name == "release.yml"


def test_the_check_of_the_release_workflow_reads_the_version():
    (line,) = re.findall(
        r"sed -n 's/\^(__version__ = \")", (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    )
    assert line in (ROOT / "tracekit" / "_version.py").read_text(encoding="utf-8")


def test_the_headers_of_issue_templates_are_plain_scalars_of_yaml():
    templates = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md"))
    assert len(templates) == 3
    for path in templates:
        header = path.read_text(encoding="utf-8").split("---\n")[1]
        rows = [line.partition(": ") for line in header.splitlines()]
        assert [key for key, *_ in rows] == ["name", "about", "labels"]
        assert [value for *_, value in rows if re.search(r": | #|^[\[{\"'&*!|>%@`]", value)] == []
