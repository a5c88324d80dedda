"""The generated C of the compiled modules: every private field is read from its place in the object, none by its name.

A field that a ``.pxd`` declares without ``public`` or ``readonly`` has no name at run time. Through a variable without a
type, Cython compiles the access to a look-up by name all the same: an ``AttributeError`` on the path that gets there.
A class without ``@cclass`` stays a class of Python in a compiled module, too: it may have fields of the same names.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import tracekit

PACKAGE = Path(tracekit.__file__).parent
GENERATED = sorted(PACKAGE.rglob("*.c"))

_CLASS = re.compile(r"^cdef class \w+.*:\n(?P<body>(?:(?:[ \t]+.*)?\n)*)", re.MULTILINE)
_FIELD = re.compile(
    r"^\s+cdef (?!public |readonly |class )(?P<type>[\w.]+\**(?:\[\w+\])?) (?P<names>[\w, ]+)$", re.MULTILINE
)
_LOOK_UP = re.compile(
    r"PyObject_(?:Get|Set|Del)AttrStr(?:NoError)?\((?P<object>.*?)__pyx_n_[su]_(?P<name>\w+?)(?:_\d+)?\b[^\n]*?"
    r"__PYX_ERR\((?P<file>\d+), (?P<line>\d+),"
)
_FILES = re.compile(r"__pyx_f\[\] = \{(?P<names>.*?)\};", re.DOTALL)


def private_fields(root):
    """Return the names of the fields that the ``.pxd`` files under *root* declare for C alone."""
    return {
        name.strip()
        for path in root.rglob("*.pxd")
        for body in _CLASS.finditer(path.read_text(encoding="utf-8"))
        for field in _FIELD.finditer(body["body"])
        for name in field["names"].split(",")
    } - {"__weakref__", "__dict__"}


# Fields of objects of aiohttp and gRPC that have the same names.
OF_OTHERS = {
    "_aiohttp_server.py": {"request._state", "match._route", "found._resource", "response._status"},
    "_grpc_handlers.py": {"context._state"},
}


def is_in_a_plain_class(lines):
    """Tell whether the last of *lines* is in a class that stays one of Python's, whose fields all have names."""
    at = max((at for at, line in enumerate(lines) if line.startswith("class ")), default=0)
    return at > 0 and "@cclass" not in lines[max(at - 4, 0) : at]


def look_ups(generated, fields, root):
    """Return where a generated file looks up one of *fields* by name: the source file, its line and the text of that."""
    text = generated.read_text(encoding="utf-8")
    files = re.findall(r'"([^"]+)"', _FILES.search(text)["names"])
    names = {field.strip("_"): field for field in fields}  # C names of strings have no outer underscores
    found = Counter(
        (int(match["file"]), int(match["line"]), names[match["name"].strip("_")])
        for match in _LOOK_UP.finditer(text)
        if match["name"].strip("_") in names
    )
    wrong = []
    for (file, number, field), count in sorted(found.items()):
        source = root / files[file]
        lines = source.read_text(encoding="utf-8").splitlines()
        line = lines[number - 1]
        if f"self.{field}" in line and is_in_a_plain_class(lines[:number]):
            continue
        if source.name in OF_OTHERS and OF_OTHERS[source.name] & set(re.findall(r"\w+\.\w+", line)):
            continue
        # A public name beside it, as in "self._state or self.state", may be looked up.
        others = [
            name for name in re.findall(r"\.(\w+)", line) if name.strip("_") == field.strip("_") and name != field
        ]
        if re.search(rf"\.{field}\b", line) and count > len(others):
            wrong.append(f"{source.name}:{number}: {line.strip()}")
    return wrong


def test_the_fields_of_the_compiled_classes_are_known():
    fields = private_fields(PACKAGE)
    assert {"_prev", "_base", "_owner", "_has_ended", "_scope", "_high", "_spans", "max_value"} <= fields
    assert not fields & {"started", "is_open", "capacity", "dropped_links", "threshold"}, "those have names"


@pytest.mark.skipif(not GENERATED, reason="no generated C beside the sources: the extension was not built in place")
@pytest.mark.parametrize("generated", GENERATED, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_private_field_is_looked_up_by_name(generated):
    found = look_ups(generated, private_fields(PACKAGE), PACKAGE.parent)
    assert found == [], "declare the variable's type in the .pxd: @cython.locals(x=Scope)"


@pytest.mark.slow
def test_a_look_up_by_name_is_found(tmp_path):
    (tmp_path / "probe.pxd").write_text("cdef class Probe:\n    cdef object _inner\n    cdef readonly int shown\n")
    (tmp_path / "probe.py").write_text(
        "class Probe:\n    pass\n\n\n"
        "def typed(self: Probe):\n    return self._inner\n\n\n"
        "def untyped(x):\n    return x._inner, x.shown\n\n\n"
        "def assigned(x):\n    x._inner = 1\n\n\n"
        "def beside(x, self: Probe):\n    return x.inner, self._inner\n\n\n"
        "def both(x):\n    return x.inner, x._inner\n\n\n"
        "class Plain:\n    def __init__(self):\n        self._inner = 1\n"
    )
    command = [sys.executable, "-m", "cython", "-3", "probe.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    fields = private_fields(tmp_path)
    assert fields == {"_inner"}
    found = look_ups(tmp_path / "probe.c", fields, tmp_path)
    assert found == [
        "probe.py:10: return x._inner, x.shown",
        "probe.py:14: x._inner = 1",
        "probe.py:22: return x.inner, x._inner",
    ]
