"""The model: contexts, scopes, spans, and the values that they hold.

Codecs have two forms, C in ``_speedups.pyx`` and Python in ``*_plain.py``. All else is written once: files with a
``.pxd`` beside them are compiled by Cython where there is a compiler, and run as they are where there is none, or
where ``TRACEKIT_NO_EXTENSIONS=1`` is set or CPython 3.13 runs without the GIL. ``IS_COMPILED`` tells which.
"""

from __future__ import annotations

import os
import sys

from .free_threading import HAS_GIL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec

__all__ = ["IS_COMPILED", "NO_EXTENSIONS"]

NO_EXTENSIONS = os.environ.get("TRACEKIT_NO_EXTENSIONS", "") not in {"", "0"}


_PREFIX = __name__.rpartition(".")[0] + "."


class _Sources:
    """An import hook that finds the source or bytecode of a module of tracekit beside which an extension module stands."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG004
        if path is None or not name.startswith(_PREFIX):
            return None
        # The parts of importlib.machinery, which takes longer to import. Compiled code does not reach this line.
        from _frozen_importlib_external import (
            BYTECODE_SUFFIXES,
            SOURCE_SUFFIXES,
            FileFinder,
            SourceFileLoader,
            SourcelessFileLoader,
        )

        kinds = (SourceFileLoader, SOURCE_SUFFIXES), (SourcelessFileLoader, BYTECODE_SUFFIXES)
        spec = FileFinder(path[0], *kinds).find_spec(name)
        if spec is not None and spec.loader is None:  # a folder of data alone: the package is in an archive
            return None
        return spec


def _is_compiled() -> bool:
    # For the free-threaded CPython 3.13 the extension modules have no locks.
    if not NO_EXTENSIONS and (HAS_GIL or sys.version_info >= (3, 14)):
        try:
            __import__(_PREFIX + "_speedups")
        except ModuleNotFoundError:  # not built; a broken build raises ImportError, loudly
            pass
        except ImportError as error:
            if "interpreter" not in str(error):
                raise
            # A sub-interpreter, which extension modules do not load into.
        else:
            return True
    sys.meta_path.insert(0, _Sources)
    return False


IS_COMPILED = _is_compiled()
