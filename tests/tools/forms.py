"""The compiled and the plain form of the core in one process, for tests that compare them."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import tracekit

__all__ = ["FORMS", "Form"]

_MODULES = (
    "_core.codecs",
    "_core.context",
    "_core.scopes",
    "_core.buffer",
    "_core.tracer",
    "_core.span",
    "_core.body",
    "_core.changes",
    "_core.restore",
    "_core.otlp",
    "wire.w3c",
    "wire.b3",
    "wire.grpc_bin",
    "_carriers",
)


# Values that are not compiled: both forms use the same, so that one's labels are the other's.
_SHARED = (
    "errors",
    "guard",
    "log",
    "misuse",
    "records",
    "stack",
    "attributes",
    "outcome",
    "labels",
    "tracestate",
    "stdlib",
)


class Form:
    """The names of the core's modules, of one form, in one place."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.modules = {name: importlib.import_module(f"{package}.{name}") for name in _MODULES}

    def names(self) -> dict[str, Any]:
        """Return all names of the modules."""
        return {name: value for module in reversed(self.modules.values()) for name, value in vars(module).items()}

    def __getattr__(self, name: str) -> Any:
        for module in self.modules.values():
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(name)


def _plain_package() -> str:
    """Import the package's sources a second time, uncompiled, under another name; return that."""
    name = "plain_tracekit"
    if name not in sys.modules:
        path = Path(tracekit.__file__)
        spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=[str(path.parent)])
        sys.modules[name] = package = importlib.util.module_from_spec(spec)
        for shared in _SHARED:
            sys.modules[f"{name}._core.{shared}"] = importlib.import_module(f"tracekit._core.{shared}")
        before = os.environ.get("TRACEKIT_NO_EXTENSIONS")
        os.environ["TRACEKIT_NO_EXTENSIONS"] = "1"
        try:
            spec.loader.exec_module(package)
            tracekit._claim(tracekit.__all__)  # shared classes say again that they are the first package's
        finally:
            if before is None:
                del os.environ["TRACEKIT_NO_EXTENSIONS"]
            else:
                os.environ["TRACEKIT_NO_EXTENSIONS"] = before
    return name


# Where the package itself runs plain, there is nothing to compare: the compiled pass does that.
FORMS = {"plain": Form("tracekit")}
if tracekit.IMPLEMENTATION == "compiled":
    FORMS = {"plain": Form(_plain_package()), "compiled": Form("tracekit")}
