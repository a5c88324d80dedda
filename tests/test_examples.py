"""Every example runs, and prints what it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

PRINTED = {
    "tasks.py": """
        checkout
          reserve
            look_up
          reserve
            look_up
          receipt
            line
            line
          send
          send
          audit
        """,
    "flask_app.py": """
        /price/7 200 ['42']
        /report 200 ['0']
        /health 200 ['ok']
        /nowhere 404 ['<!doctype']
        GET /price/<cart>
          add up
        GET /report
          line 0
          line 1
        GET
        """,
    "service.py": """
        acme: 42
        buy
          GET
            GET /price/{cart}
              add up
        """,
    "aiohttp_app.py": """
        acme: 42
        buy
          GET
            GET /old/{cart}
          GET
            GET /price/{cart}
              add up
        """,
    "grpc_service.py": """
        42 2
        buy
          shop.Prices/Price
            shop.Prices/Price
              SELECT
          shop.Prices/Items
            shop.Prices/Items
              look up
              look up
        """,
    "nursery.py": """
        order [cancelled]
          pick
            seal
        """,
}


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_prints_what_it_promises(name):
    command = [sys.executable, "-W", "error", str(EXAMPLES / name)]
    quiet = {**os.environ, "GRPC_VERBOSITY": "NONE"}  # gRPC's core may log that a server has stopped
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=quiet)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == textwrap.dedent(PRINTED[name]).strip()


PAGE = (EXAMPLES.parent / "docs" / "propagation.md").read_text(encoding="utf-8")


def test_the_page_on_propagation_shows_the_tree_that_its_code_makes(tmp_path):
    first, *_, last = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    show = """
from tracekit.testing import recording, span_tree

with recording() as exporter:
    exec(compile(LAST, "propagation.md", "exec"), globals())
    print(span_tree(sorted(exporter.spans, key=lambda span: span.start_ns)))
"""
    program = f"{first}\nLAST = {last!r}\n{show}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    (shown,) = re.findall(r"```\n(checkout\n.*?)```", PAGE, re.DOTALL)
    assert done.stdout == shown
