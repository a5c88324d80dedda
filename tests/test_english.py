"""The English of comments and docstrings: a construction that slows readers down stays out.

The noun clause "what is / was / has / it ...", "nobody", "somebody", "by itself", "of its own" and "is said" replace a
noun or a verb of the field.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

import tracekit

PACKAGE = Path(tracekit.__file__).parent

_VERBS = """is are was were has have had can cannot could may might must shall should will would does do did comes came
goes went stands ends holds runs travels follows"""
_SUBJECTS = "it they he she we you one a an the no this that these those its their"
CONSTRUCTION = re.compile(
    rf"""\bwhat(?:ever)?\s+(?:{"|".join(f"{_VERBS} {_SUBJECTS}".split())})\b
    |\b(?:nobody|somebody|by\s+(?:itself|themselves)|of\s+(?:its|their)\s+own)\b
    |\b(?:is|are|was|were)\s+said\b""",
    re.IGNORECASE | re.VERBOSE,
)
_CYTHON_PROSE = re.compile(r'"{3}(?P<docstring>.*?)"{3}|(?<!["\'])#(?P<comment>[^\n]*)', re.DOTALL)


def prose(path):
    """Yield the number of the first line and the text of each docstring and each block of comments."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        for match in _CYTHON_PROSE.finditer(text):
            yield text.count("\n", 0, match.start()) + 1, match["docstring"] or match["comment"] or ""
        return
    for node in ast.walk(ast.parse(text)):
        # Strings that are statements: docstrings, and those of attributes.
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value
    block, first, last = [], 0, -1
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        line = token.start[0]
        if line != last + 1:
            if block:
                yield first, "\n".join(block)
            block, first = [], line
        block.append(token.string.lstrip("# "))
        last = line
    if block:
        yield first, "\n".join(block)


def found(path):
    """Yield line and text of each occurrence in the prose of *path*."""
    for first, text in prose(path):
        for match in CONSTRUCTION.finditer(text):
            yield first + text.count("\n", 0, match.start()), " ".join(match.group().split())


def sources(folder):
    kinds = {".py", ".pyx", ".pxi", ".pxd"}
    paths = (PACKAGE / folder).rglob("*") if folder else PACKAGE.glob("*")
    return sorted(path for path in paths if path.suffix in kinds)


FOLDERS = ["", *sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda name: name or "tracekit")
def test_the_construction_stays_out(folder):
    lines = [
        f"tracekit/{path.relative_to(PACKAGE)}:{line}: {text}" for path in sources(folder) for line, text in found(path)
    ]
    assert lines == [], "name the thing, or the one who does it:\n" + "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("Take what\n    is left.", ["what is"]),
        ("Nobody reads it, and it ends by itself.", ["Nobody", "by itself"]),
        ("An error is said once, in a line of its own.", ["is said", "of its own"]),
        ("What a peer sends, whatever it sends.", ["What a", "whatever it"]),
        ("It says what happened to somehow related items; the item itself, its owner.", []),
    ],
)
@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("probe.py", 'def f():\n    """{}"""\n'),
        ("probe.pyx", 'cdef int f():\n    """{}"""\n'),
    ],
)
def test_the_construction_is_found_in_docstrings(tmp_path, text, matches, name, source):
    path = tmp_path / name
    path.write_text(source.format(text))
    assert [match for _, match in found(path)] == matches


@pytest.mark.parametrize("name", ["probe.py", "probe.pyx", "probe.pxd"])
def test_the_construction_is_found_in_comments_but_not_in_code(tmp_path, name):
    path = tmp_path / name
    path.write_text('x = "what is"  # y\n# What is left,\n# is left.\nnobody = 1\n')
    assert list(found(path)) == [(2, "What is")]


def test_a_clause_that_spans_comment_lines_is_found(tmp_path):
    path = tmp_path / "probe.py"
    path.write_text("# Take what\n# is left.\n")
    assert list(found(path)) == [(1, "what is")]
