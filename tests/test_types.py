"""Type checkers accept the examples and the code of the documents: mypy in strict mode, and pyright.

Pyright comes from the npm registry, with ``make types``; without it that test is left out.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.one_form, pytest.mark.slow]

ROOT = Path(__file__).parent.parent
PYRIGHT = os.environ.get("TRACEKIT_TEST_PYRIGHT", "")
# Programs of readers have no annotations; the blocks of a page define a name more than once; grpc and others have no types.
MYPY = ["--strict", "--allow-untyped-defs", "--allow-untyped-calls", "--allow-incomplete-defs", "--check-untyped-defs"]
MYPY += [
    "--allow-untyped-decorators",
    "--allow-untyped-globals",
    "--ignore-missing-imports",
    "--disable-error-code=no-redef",
]
# opentracing's module has no types: what pyright infers for it is not what it does.
UNTYPED = {"migrating": {"reportAttributeAccessIssue"}}


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """The examples, and each page's blocks as one file, in a folder."""
    folder = tmp_path_factory.mktemp("programs") / "programs"
    shutil.copytree(ROOT / "examples", folder, ignore=shutil.ignore_patterns("*.yaml", "__pycache__"))
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        if blocks:
            (folder / f"page_{page.stem}.py").write_text("\n".join(blocks), encoding="utf-8")
    return folder


def test_mypy_accepts_the_examples_and_the_documents(programs, tmp_path):
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed: make lint installs it")
    command = [
        sys.executable,
        "-m",
        "mypy",
        *MYPY,
        "--cache-dir",
        str(tmp_path),
        *map(str, sorted(programs.glob("*.py"))),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    # Two frameworks have one name in the page on integrations.
    found = [line for line in done.stdout.splitlines() if ": error:" in line and '"Flask"' not in line]
    assert found == [], done.stdout
    assert "source files" in done.stdout


@pytest.mark.skipif(not PYRIGHT, reason="make types runs pyright")
def test_pyright_accepts_the_examples_and_the_documents(programs):
    paths = [path for path in sys.path if path.endswith("site-packages")]
    settings = {"include": ["programs"], "extraPaths": [str(ROOT), *paths], "pythonVersion": "3.11"}
    (programs.parent / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    command = ["node", PYRIGHT, "--outputjson", "-p", str(programs.parent), "--pythonpath", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    result = json.loads(done.stdout)
    assert result["summary"]["filesAnalyzed"] > 20
    found = [
        f"{Path(fault['file']).name}:{fault['range']['start']['line'] + 1}: {fault['message']}"
        for fault in result["generalDiagnostics"]
        if fault.get("rule") not in UNTYPED.get(Path(fault["file"]).stem.removeprefix("page_"), set())
    ]
    assert found == []
